//! `imagebuilder channel promote`.

use clap::Args;
use jiff::Timestamp;
use schemars::JsonSchema;
use semver::Version;
use serde::Serialize;

use super::rollout::{DEFAULT_WAVES, shape, start};
use crate::channel::releases;
use crate::channel::session::{Access, ChannelSession, Outcome};
use crate::context::Context;
use cloud::ids::ChannelName;
use run::document::Document;
use run::exit::Exit;

/// Arguments of `channel promote`.
#[derive(Debug, Args)]
pub(crate) struct Promote {
    /// Version of the release, for every architecture it was published for.
    version: Version,
    /// Channel to add it to; if it is there already, its waves are replaced.
    #[arg(long, value_name = "CHANNEL")]
    to: ChannelName,
    /// Waves: `default`, `fast`, `all-at-once`, a profile of [channel.waves], or a list such as 1%@0h,5%@1h,100%@6h.
    #[arg(long)]
    waves: Option<String>,
    /// Start of the first wave, such as 2026-11-24T08:00:00Z [default: now].
    #[arg(long, value_name = "TIME")]
    start: Option<Timestamp>,
}

/// What `channel promote` did.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// The release.
    version: String,
    /// The channel that it was added to.
    #[schemars(with = "String")]
    channel: ChannelName,
    #[serde(flatten)]
    outcome: Outcome,
}

impl Document for Answer {
    const NAME: &'static str = "channel-promote";
}

impl Promote {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let session = ChannelSession::open(context, &config, Access::Write).await?;
        let waves = self
            .waves
            .map(|text| shape(&text, &session.channel))
            .transpose()?;
        let default = shape(DEFAULT_WAVES, &session.channel)?;
        let start = start(self.start, session.now);
        let output = &context.output;
        let step = output.step(
            "promote",
            format!("promote {} to {}", self.version, self.to),
        );
        let outcome = session
            .change(
                |targets| {
                    releases::promote(
                        targets,
                        &self.version,
                        &self.to,
                        start,
                        waves.as_ref(),
                        &default,
                    )
                },
                async || Ok(()),
            )
            .await?;
        step.done(if outcome.changed {
            format!("{}, from {start}", waves.as_ref().unwrap_or(&default))
        } else {
            "nothing to do: it exists".to_owned()
        });
        if output.wants_json() {
            output.json(&Answer {
                version: self.version.to_string(),
                channel: self.to,
                outcome,
            })?;
        } else {
            output.data(self.version.to_string())?;
        }
        Ok(Exit::Done)
    }
}
