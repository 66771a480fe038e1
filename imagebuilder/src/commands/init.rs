//! `imagebuilder init`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use crate::context::Context;
use crate::template;
use run::exit::Exit;

/// What is written.
const CONFIG: &str = include_str!("init.toml");

/// Arguments of `init`.
///
/// Never overwrites anything.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Also write the built-in templates and provisioning scripts into FOLDER, for editing.
    #[arg(long, value_name = "FOLDER")]
    templates: Option<PathBuf>,
}

impl Init {
    #[expect(clippy::unused_async, reason = "verbs share one signature")]
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        write_new(context.config_path(), CONFIG)?;
        context
            .output
            .data(context.config_path().display().to_string())?;
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
        context
            .output
            .info("next: edit it, then run `imagebuilder doctor`");
        Ok(Exit::Done)
    }
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
