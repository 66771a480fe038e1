//! `imagebuilder init`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use crate::context::Context;
use crate::recipes;
use crate::template;
use run::advice::DEFAULT_FILE;
use run::exit::Exit;
use support::shell::quoted_path;

/// What is written.
const CONFIG: &str = include_str!("init.toml");

/// Arguments of `init`.
///
/// Without a recipe, writes a commented configuration. With one, also its scripts, units and notes, beside the configuration.
/// Never overwrites anything.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Recipe to copy beside the configuration; --list names them.
    #[arg(long, value_name = "NAME")]
    recipe: Option<String>,
    /// List the recipes instead of writing anything.
    #[arg(long, conflicts_with_all = ["recipe", "templates"])]
    list: bool,
    /// Also write the built-in templates and provisioning scripts into FOLDER, for editing.
    #[arg(long, value_name = "FOLDER")]
    templates: Option<PathBuf>,
}

impl Init {
    #[expect(clippy::unused_async, reason = "verbs share one signature")]
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        if self.list {
            for recipe in recipes::all() {
                let (name, title) = (recipe.name, recipe.title);
                context.output.data(format!("{name:<8}{title}"))?;
            }
            return Ok(Exit::Done);
        }
        let config = context.config_path();
        match &self.recipe {
            None => {
                write_new(config, CONFIG)?;
                context.output.data(config.display().to_string())?;
            }
            Some(name) => {
                for path in recipes::find(name)?.copy(&context.root(), config)? {
                    context.output.data(path.display().to_string())?;
                }
            }
        }
        if let Some(folder) = &self.templates {
            for (name, text) in template::built_in() {
                write_new(&folder.join(&name), &text)?;
            }
            context.output.data(folder.display().to_string())?;
            context.output.info(format!(
                "to use them: in [image], template = \"{0}\" and provision = \"{0}/provision\"",
                folder.display()
            ));
        }
        context.output.info(match &self.recipe {
            None => "next: edit it, then run `imagebuilder doctor`".to_owned(),
            Some(_) => next(context),
        });
        Ok(Exit::Done)
    }
}

/// What to run after a recipe was copied.
fn next(context: &Context) -> String {
    let config = context.config_path();
    let option = match config == Path::new(DEFAULT_FILE) {
        true => String::new(),
        false => format!(" -c {}", quoted_path(config)),
    };
    format!(
        "next: put the agent at {}, follow {}, then run\n  imagebuilder{option} render\n  imagebuilder{option} doctor\n  imagebuilder{option} bake",
        context.root().join("payload/imagebuilder-agent").display(),
        context.root().join("README.md").display()
    )
}

fn write_new(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    let file = std::fs::File::create_new(path);
    if let Err(error) = &file
        && error.kind() == std::io::ErrorKind::AlreadyExists
    {
        return Err(Exit::Usage
            .error(format!("{} exists already", path.display()))
            .hint("it was not changed; `--config FILE` writes another")
            .into());
    }
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_initial_configuration_is_valid_with_all_keys_too() {
        Config::parse(CONFIG, "init").unwrap();
        let all: String = CONFIG
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if !key.starts_with(' ') => format!("{key}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let config = Config::parse(&all, "init").unwrap();
        assert_eq!(config.image.variables.len(), 1);
        assert_eq!(config.image.payload.len(), 1);
        assert_eq!(config.bake.source_cidrs.len(), 1);
        assert!(config.settings().is_ok());
    }
}
