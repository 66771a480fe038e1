//! `imagebuilder channel withdraw`.

use clap::Args;
use jiff::Timestamp;
use schemars::JsonSchema;
use semver::Version;
use serde::Serialize;

use super::rollout::start;
use crate::channel::releases;
use crate::channel::session::{Access, ChannelSession, Outcome};
use crate::context::Context;
use run::document::Document;
use run::exit::Exit;

/// Arguments of `channel withdraw`.
#[derive(Debug, Args)]
pub(crate) struct Withdraw {
    /// Version of the release, for every architecture and in every channel.
    version: Version,
    /// Reason, shown in the instances' logs.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Older release that instances on it go back to [default: they stay until a newer release].
    #[arg(long, value_name = "VERSION")]
    rollback_to: Option<Version>,
}

/// What `channel withdraw` did.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// The release.
    version: String,
    /// The release that instances go back to; null when they stay.
    rollback_to: Option<String>,
    #[serde(flatten)]
    outcome: Outcome,
}

impl Document for Answer {
    const NAME: &'static str = "channel-withdraw";
}

impl Withdraw {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let session = ChannelSession::open(context, &config, Access::Write).await?;
        let now: Timestamp = start(None, session.now);
        let back = self.rollback_to.as_ref();
        let output = &context.output;
        let step = output.step("withdraw", format!("withdraw {}", self.version));
        let outcome = session
            .change(
                |targets| releases::withdraw(targets, &self.version, &self.reason, back, now),
                async || Ok(()),
            )
            .await?;
        step.done(match (outcome.changed, back) {
            (false, _) => "nothing to do: it is withdrawn".to_owned(),
            (true, Some(back)) => format!("instances on it go back to {back}"),
            (true, None) => "instances on it stay until a newer release comes".to_owned(),
        });
        if output.wants_json() {
            output.json(&Answer {
                version: self.version.to_string(),
                rollback_to: back.map(ToString::to_string),
                outcome,
            })?;
        } else {
            output.data(self.version.to_string())?;
        }
        Ok(Exit::Done)
    }
}
