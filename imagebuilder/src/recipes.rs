//! Recipes: folders of `recipes/` that `init --recipe` copies beside a configuration, for its user to own and change.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use run::exit::{Exit, Failure};

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/recipes.rs"));
}

/// The file of a recipe that becomes the configuration.
const CONFIG: &str = "imagebuilder.toml";
/// The file whose first line is `# NAME: TITLE`.
const README: &str = "README.md";

/// A recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recipe {
    /// Its name: that of its folder.
    pub(crate) name: &'static str,
    /// What it bakes, on one line.
    pub(crate) title: &'static str,
}

/// All recipes, in name order.
pub(crate) fn all() -> Vec<Recipe> {
    let readmes = embedded::FILES.iter().filter_map(|(path, text)| {
        let name = path.strip_suffix(README)?.strip_suffix('/')?;
        Some((name, *text)).filter(|_| !name.contains('/'))
    });
    let titled = readmes.filter_map(|(name, text)| {
        let heading = text.lines().next()?.strip_prefix("# ")?;
        let title = heading.strip_prefix(name)?.strip_prefix(": ")?;
        Some(Recipe { name, title })
    });
    titled.collect()
}

/// The recipe of that name.
pub(crate) fn find(name: &str) -> Result<Recipe, Failure> {
    let all = all();
    if let Some(recipe) = all.iter().find(|recipe| recipe.name == name) {
        return Ok(*recipe);
    }
    let failure = Exit::Usage.error(format!("unknown recipe `{}`", name.escape_debug()));
    let names: Vec<&str> = all.iter().map(|recipe| recipe.name).collect();
    Err(match support::nearest(name, names.iter().copied()) {
        Some(known) => failure.hint(format!("did you mean `{known}`?")),
        None => failure.hint(format!("choose one of {}", names.join(", "))),
    })
}

impl Recipe {
    /// Its files: path below its folder, and text.
    pub(crate) fn files(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        embedded::FILES.iter().filter_map(move |(path, text)| {
            let path = path.strip_prefix(self.name)?.strip_prefix('/')?;
            Some((path, *text))
        })
    }

    /// Copies its files into `folder`, and the configuration to `config`; returns the written paths.
    ///
    /// # Errors
    /// When a file exists already: all such files are listed, and nothing is written.
    pub(crate) fn copy(self, folder: &Path, config: &Path) -> anyhow::Result<Vec<PathBuf>> {
        let files: Vec<(PathBuf, &str)> = self
            .files()
            .map(|(path, text)| match path {
                CONFIG => (config.to_owned(), text),
                _ => (folder.join(path), text),
            })
            .collect();
        let taken: Vec<String> = files
            .iter()
            // A broken link is in the way, too.
            .filter(|(path, _)| path.symlink_metadata().is_ok())
            .map(|(path, _)| format!("{} exists already", path.display()))
            .collect();
        if !taken.is_empty() {
            return Err(Exit::Usage
                .error(taken.join("\n"))
                .hint("nothing was written; `--config FOLDER/imagebuilder.toml` copies the recipe into another folder")
                .into());
        }
        for (path, text) in &files {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)
                    .with_context(|| format!("create {}", parent.display()))?;
            }
            File::create_new(path)
                .and_then(|mut file| file.write_all(text.as_bytes()))
                .with_context(|| format!("write {}", path.display()))?;
        }
        Ok(files.into_iter().map(|(path, _)| path).collect())
    }
}
