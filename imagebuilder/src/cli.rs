//! The command line: the subcommands, and which file in `commands/` runs each of them.
//!
//! Help texts are the doc comments. No work is done here.

use std::ffi::OsString;

use clap::{Parser, Subcommand};

use crate::commands;
use crate::context::{Context, Global};
use run::exit::Exit;

/// Bake golden images and roll Auto Scaling groups onto them.
///
/// stdout carries data only (a bare id, or JSON with --json); progress goes to stderr. Credentials, region and
/// endpoint come from the AWS SDK's standard places, unless --profile, --region or --endpoint-url names them.
#[derive(Debug, Parser)]
#[command(name = "imagebuilder", version, after_long_help = exit_codes())]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a commented imagebuilder.toml.
    Init(commands::init::Init),
    /// Show the effective configuration.
    Config(commands::config::ConfigVerbs),
    /// Check everything a bake and a roll need, one line per check, with its fix.
    Doctor(commands::doctor::Doctor),
    /// Print the Packer template and the files that a bake would use.
    Render(commands::render::Render),
    /// Bake, gate and publish an image; print its id.
    Bake(commands::bake::Bake),
    /// Roll the fleet onto an image.
    Roll(commands::roll::Roll),
    /// Show the fleet, its refresh and the pointers.
    Status(commands::status::Status),
    /// List the images that were baked.
    Images(commands::images::Images),
    /// Remove the resources of dead runs.
    Reap(commands::reap::Reap),
    /// Author the signed channel that distributes agent releases.
    Channel(commands::channel::Channel),
}

impl Command {
    /// Runs the subcommand.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self {
            Self::Init(args) => {
                context.only_one_file()?;
                args.run(context).await
            }
            Self::Config(args) => args.run(context),
            Self::Doctor(args) => args.run(context).await,
            Self::Render(args) => args.run(context).await,
            Self::Bake(args) => args.run(context).await,
            Self::Roll(args) => args.run(context).await,
            Self::Status(args) => args.run(context).await,
            Self::Images(args) => args.run(context).await,
            Self::Reap(args) => args.run(context).await,
            Self::Channel(args) => args.run(context).await,
        }
    }
}

/// The arguments with `-c` and `--set` in front of the subcommand: of an option that is given on both sides of it, clap would keep the
/// values of one side and drop the others without a word.
pub(crate) fn in_front(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments = arguments.into_iter().peekable();
    let mut front: Vec<OsString> = arguments.next().into_iter().collect();
    let mut rest = Vec::new();
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        if text == "--" {
            rest.push(argument);
            rest.extend(arguments);
            break;
        }
        let is_whole = text.starts_with("--config=")
            || text.starts_with("--set=")
            || (text.starts_with("-c") && text.len() > 2);
        let takes_next = matches!(&*text, "-c" | "--config" | "--set")
            && arguments
                .peek()
                .is_some_and(|next| !next.to_string_lossy().starts_with('-'));
        if is_whole {
            front.push(argument);
        } else if takes_next {
            front.push(argument);
            front.extend(arguments.next());
        } else {
            rest.push(argument);
        }
    }
    front.append(&mut rest);
    front
}

fn exit_codes() -> String {
    let mut text = String::from("Exit codes:\n");
    for (exit, meaning) in Exit::ALL {
        text.push_str(&format!("  {:>2}  {meaning}\n", exit.code()));
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn layers_on_both_sides_of_a_verb_are_all_kept() {
        let line = "ib -c a --set x.y=1 bake --config=b -cc --force --set x.z=2";
        let arguments = in_front(line.split(' ').map(OsString::from));
        let cli = Cli::parse_from(arguments);
        assert_eq!(
            cli.global.config,
            ["a", "b", "c"].map(std::path::PathBuf::from)
        );
        let set: Vec<&str> = cli.global.set.iter().map(|set| set.as_str()).collect();
        assert_eq!(set, ["x.y=1", "x.z=2"]);
        for (line, want) in [
            ("ib bake -c", "ib bake -c"),
            ("ib bake -c --json", "ib bake -c --json"),
            ("ib bake -- -c x", "ib bake -- -c x"),
            ("ib", "ib"),
        ] {
            let moved = in_front(line.split(' ').map(OsString::from));
            assert_eq!(moved.join(" ".as_ref()), *want, "{line}");
        }
    }
}
