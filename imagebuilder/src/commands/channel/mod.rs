//! `imagebuilder channel`: the signed channel that instances take new agents from; one file per subcommand.

pub(crate) mod init;
pub(crate) mod promote;
pub(crate) mod publish;
pub(crate) mod refresh;
mod rollout;
pub(crate) mod rotate_root;
mod show;
pub(crate) mod withdraw;

use clap::{Args, Subcommand};

pub(super) use self::show::current_view;
use crate::context::Context;
use run::exit::Exit;

/// Arguments of `channel`.
#[derive(Debug, Args)]
pub(crate) struct Channel {
    #[command(subcommand)]
    verb: Verb,
}

/// The subcommands of `channel`.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Create an empty channel and its root of trust.
    Init(init::Init),
    /// Publish a build of the agent, or add it to another channel.
    Publish(publish::Publish),
    /// Add a published release to a channel, or change its waves there.
    Promote(promote::Promote),
    /// Withdraw a release; instances on it go back to another one, or stay.
    Withdraw(withdraw::Withdraw),
    /// Sign snapshot and timestamp again with the online key; for cron.
    Refresh(refresh::Refresh),
    /// Change keys and thresholds to those of the configuration, or renew the root of trust.
    RotateRoot(rotate_root::RotateRoot),
    /// Show releases, waves, keys and expiries, all of it verified.
    Show(show::Show),
}

impl Channel {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self.verb {
            Verb::Init(args) => args.run(context).await,
            Verb::Publish(args) => args.run(context).await,
            Verb::Promote(args) => args.run(context).await,
            Verb::Withdraw(args) => args.run(context).await,
            Verb::Refresh(args) => args.run(context).await,
            Verb::RotateRoot(args) => args.run(context).await,
            Verb::Show(args) => args.run(context).await,
        }
    }
}
