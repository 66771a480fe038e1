//! `imagebuilder channel show`.

use clap::Args;

use crate::channel::session::{Access, ChannelSession};
use crate::channel::show::{View, view};
use crate::channel::verify::Verified;
use crate::config::Config;
use crate::context::Context;
use run::exit::Exit;

/// Arguments of `channel show`.
#[derive(Debug, Args)]
pub(crate) struct Show {}

impl Show {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let session = ChannelSession::open(context, &config, Access::Read).await?;
        let verified = session.verified().await?;
        let view = current_view(&session, &verified, &config);
        let output = &context.output;
        if output.wants_json() {
            output.json(&view)?;
        } else {
            for line in view.text(session.now) {
                output.data(line)?;
            }
        }
        for warning in view.warnings() {
            output.warn(warning.to_string());
        }
        Ok(Exit::Done)
    }
}

/// The view of a repository as of now.
pub(in crate::commands) fn current_view(
    session: &ChannelSession,
    verified: &Verified,
    config: &Config,
) -> View {
    let expires = &session.channel.expires;
    let lives = [
        expires.root_days,
        expires.targets_days,
        expires.snapshot_days,
        expires.timestamp_days,
    ];
    let url = session
        .channel
        .url(&session.folder, config.bake.region.as_deref());
    view(verified, session.place(), url, lives, session.now)
}
