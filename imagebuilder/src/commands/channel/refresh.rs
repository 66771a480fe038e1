//! `imagebuilder channel refresh`.

use clap::Args;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use tough::schema::RoleType;

use crate::channel::session::{Access, ChannelSession};
use crate::channel::verify::Verified;
use crate::context::Context;
use run::document::Document;
use run::exit::Exit;
use run::ledger::ChannelVersions;

/// Arguments of `channel refresh`.
#[derive(Debug, Args)]
pub(crate) struct Refresh {
    /// Also sign the targets again, unchanged, with the targets keys: before they expire.
    #[arg(long)]
    targets: bool,
}

/// What `channel refresh` did.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// When the first role expires.
    next_expiry: Timestamp,
    /// That role.
    role: String,
    /// Always true: a refresh signs anew.
    changed: bool,
    /// Versions of the metadata.
    versions: ChannelVersions,
}

impl Document for Answer {
    const NAME: &'static str = "channel-refresh";
}

impl Refresh {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let session = ChannelSession::open(context, &config, Access::Write).await?;
        let output = &context.output;
        let step = output.step("refresh", format!("sign {} again", session.place()));
        let is = session.refresh(self.targets).await?;
        let (role, next) = next_expiry(&is);
        step.done(format!("good until {next}, when {role} expires"));
        for warning in super::show::current_view(&session, &is, &config).warnings() {
            output.warn(warning.to_string());
        }
        if output.wants_json() {
            output.json(&Answer {
                next_expiry: next,
                role: role.to_string(),
                changed: true,
                versions: is.versions().into(),
            })?;
        } else {
            output.data(next.to_string())?;
        }
        Ok(Exit::Done)
    }
}

/// Which role expires first.
fn next_expiry(verified: &Verified) -> (RoleType, Timestamp) {
    let [first, rest @ ..] = verified.expiries();
    rest.into_iter().fold(
        first,
        |next, other| if other.1 < next.1 { other } else { next },
    )
}
