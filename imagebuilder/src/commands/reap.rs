//! `imagebuilder reap`.

use std::time::Duration;

use clap::Args;

use crate::bake::reap::{Mode, Reaped, reap};
use crate::context::Context;
use run::exit::Exit;

/// Arguments of `reap`.
///
/// Never removes what is published, pointed at, or in use. Runs of this folder are dead when their process has ended;
/// runs of other hosts, when they are older than --older-than.
#[derive(Debug, Args)]
pub(crate) struct Reap {
    /// Only list what would be removed.
    #[arg(long)]
    dry_run: bool,
    /// Age in hours at which a run of another host counts as dead.
    #[arg(long, value_name = "HOURS", default_value_t = 24)]
    older_than: u64,
}

impl Reap {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let cloud = context.cloud(&config).await?;
        let mode = if self.dry_run {
            Mode::List
        } else {
            Mode::Remove
        };
        let limit = Duration::from_secs(self.older_than * 3600);
        let Context { output, .. } = context;
        let image = &config.image.name;
        let reaped = reap(&cloud, image, &context.runs(), output, mode, limit).await?;
        let unlisted = reaped.unlisted.join(", ");
        if context.output.wants_json() {
            context.output.json(&reaped)?;
        } else {
            for thing in &reaped.removed {
                context.output.data(thing)?;
            }
            if reaped == Reaped::default() {
                context
                    .output
                    .info("nothing to do: no dead run left anything");
            }
        }
        let mut wrong = Vec::new();
        let mut hints = Vec::new();
        if !reaped.left.is_empty() {
            wrong.push(format!("not removed: {}", reaped.left.join(", ")));
            hints.push("run `imagebuilder reap` again later");
        }
        if !unlisted.is_empty() {
            wrong.push(format!(
                "resources of other runs that could not be listed: {unlisted}"
            ));
            hints.push("allow the calls to the caller that `imagebuilder doctor` names");
        }
        if wrong.is_empty() {
            return Ok(Exit::Done);
        }
        Err(Exit::BakeLeft
            .error(wrong.join("; "))
            .hint(hints.join("\n"))
            .into())
    }
}
