//! `imagebuilder config`.

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;

use crate::config::Config;
use crate::config::layers::show::Setting;
use crate::context::Context;
use run::document::Document;
use run::exit::Exit;

/// Arguments of `config`.
#[derive(Debug, Args)]
pub(crate) struct ConfigVerbs {
    #[command(subcommand)]
    verb: Verb,
}

/// The verbs of `config`.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Print the effective configuration as TOML, with the origin of each value.
    Show(Show),
}

/// Arguments of `config show`.
///
/// The configuration is what the files say in their order, then IMAGEBUILDER_… variables, then --set and --region, each over those before it.
/// A comment behind each value says where it was set: file and line, variable, option, or default. Works offline. What is refused is
/// printed as well, before the error.
#[derive(Debug, Args)]
struct Show {
    /// Print values in [services.….environment] too, which are masked otherwise: they may be secrets.
    #[arg(long)]
    reveal: bool,
}

/// The effective configuration.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Shown {
    /// The files, later ones over earlier ones.
    files: Vec<String>,
    /// The folder that relative paths start from, whichever layer names them.
    root: String,
    /// All values, those that were set first.
    settings: Vec<Setting>,
}

impl Document for Shown {
    const NAME: &'static str = "config-show";
}

impl ConfigVerbs {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let Verb::Show(show) = self.verb;
        let layers = context.layers()?;
        let effective = layers.effective::<Config>(show.reveal)?;
        let files = context.config_files();
        let root = context.root().display().to_string();
        if context.output.wants_json() {
            context.output.json(&Shown {
                files,
                root,
                settings: effective.settings(),
            })?;
        } else {
            let files = files.join(", ");
            context.output.data(format!(
                "# {}; paths start from {}\n\n{}",
                files.escape_debug(),
                root.escape_debug(),
                effective.toml().trim_end()
            ))?;
        }
        Config::of(&layers)?;
        Ok(Exit::Done)
    }
}
