//! The command line: the subcommands, and which file in `commands/` runs each of them.
//!
//! Help texts are the doc comments. No work is done here.

use clap::{Parser, Subcommand};

use crate::commands;
use crate::context::{Context, Global};
use run::exit::Exit;

/// Bake golden images and roll Auto Scaling groups onto them.
///
/// stdout carries data only (a bare id, or JSON with --json); progress goes to stderr. Credentials, region and
/// endpoints come from the AWS SDK's standard places.
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
            Self::Init(args) => args.run(context).await,
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

fn exit_codes() -> String {
    let mut text = String::from("Exit codes:\n");
    for (exit, meaning) in Exit::ALL {
        text.push_str(&format!("  {:>2}  {meaning}\n", exit.code()));
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
