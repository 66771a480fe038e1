//! `imagebuilder channel`: the signed channel that boxes take new agents from; one file a verb.

mod init;
mod promote;
mod publish;
mod refresh;
mod rotate_root;
mod show;
mod withdraw;

use clap::{Args, Subcommand};
use jiff::Timestamp;

pub(super) use self::show::look;
use crate::context::Context;
use crate::exit::{Exit, Failure};

/// Arguments of `channel`.
#[derive(Debug, Args)]
pub(crate) struct Channel {
    #[command(subcommand)]
    verb: Verb,
}

/// What can be done with a channel.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Make an empty channel, and its root of trust.
    Init(init::Init),
    /// Publish a build of the agent, or put it into one more channel.
    Publish(publish::Publish),
    /// Put a published release into a channel, or change its waves there.
    Promote(promote::Promote),
    /// Take a release back; boxes on it go back to another one, or stay.
    Withdraw(withdraw::Withdraw),
    /// Sign snapshot and timestamp anew with the online key; for cron.
    Refresh(refresh::Refresh),
    /// Change keys and thresholds to what the configuration says, or renew the root of trust.
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

/// When a rollout begins: as asked, else now; to the second, as everything in the channel.
fn start(asked: Option<Timestamp>, now: Timestamp) -> Timestamp {
    let start = asked.unwrap_or(now);
    Timestamp::from_second(start.as_second()).unwrap_or(start)
}

/// A shape by name or spelled out.
fn shape(
    text: &str,
    channel: &crate::config::Channel,
) -> Result<crate::channel::waves::Shape, Failure> {
    crate::channel::waves::Shape::named(text, &channel.waves)
        .map_err(|why| Exit::Usage.error(format!("--waves: {why}")))
}

/// What a new rollout gets when nobody said.
const DEFAULT_WAVES: &str = "default";
