//! `update now`: starts the updater as its timer does, and prints its phases until it ends.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use agent_update::Updater;
use agent_update::status::UpdaterStatus;
use agent_update::subscription::Subject;
use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::exit::Exit;
use crate::output;

/// The updater's unit.
const UNIT: &str = "imagebuilder-agent-update.service";

/// Poll interval of the status file: short enough to see every phase of interest.
const INTERVAL: Duration = Duration::from_millis(250);

/// Fails if the instance follows no channel.
pub(super) fn followed(run_dir: &Path) -> Result<()> {
    if Subject::read(run_dir).is_some_and(|subject| subject.subscription.is_none()) {
        bail!("this instance follows no channel\nhint: set [update] in the agent's settings");
    }
    Ok(())
}

/// Starts the updater and polls its status until it ends.
pub(super) async fn now(updater: &Updater) -> Result<Exit> {
    let before = updater.status();
    // The job ends with the run; a run that is active already is joined.
    let mut job = Command::new("systemctl")
        .args(["start", UNIT])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context(
            "cannot run systemctl\nhint: without systemd, run imagebuilder-agent update run",
        )?;
    let mut printed = before.progress();
    let status = loop {
        let ended = tokio::time::timeout(INTERVAL, job.wait()).await;
        let line = updater.status().progress();
        if line.is_some() && line != printed {
            tracing::info!("{}", line.as_deref().unwrap_or_default());
        }
        printed = line;
        if let Ok(ended) = ended {
            break ended.context("cannot wait for systemctl")?;
        }
    };
    let after = updater.status();
    if after != before && !after.code.is_empty() {
        bail!("{}: {}", after.code, after.reason);
    }
    if !status.success() {
        bail!("the updater failed: {status}\nhint: journalctl --unit {UNIT}");
    }
    if after == before {
        bail!("the updater reported no change\nhint: journalctl --unit {UNIT}");
    }
    output::line(&outcome(&before, &after));
    Ok(Exit::Done)
}

fn outcome(before: &UpdaterStatus, after: &UpdaterStatus) -> String {
    match (&before.stable, &after.stable) {
        (Some(from), Some(to)) if from != to => {
            format!("updated from {} to {}", from.version, to.version)
        }
        (None, Some(to)) if after.updated_at != before.updated_at => {
            format!("updated to {}", to.version)
        }
        (_, Some(stable)) if !after.reason.is_empty() => {
            format!("stays at {}: {}", stable.version, after.reason)
        }
        (_, Some(stable)) => format!("stays at {}", stable.version),
        (_, None) => after.reason.clone(),
    }
}

#[cfg(test)]
mod tests {
    use agent_update::channel::Digest;
    use agent_update::status::Build;

    use super::*;

    fn build(minor: u64) -> Option<Build> {
        let digest = Digest::parse(&format!("{minor:064x}")).unwrap();
        let version = semver::Version::new(1, minor, 0);
        Some(Build { version, digest })
    }

    fn at(phase: &str, stable: u64) -> UpdaterStatus {
        UpdaterStatus {
            phase: phase.to_owned(),
            stable: build(stable),
            wanted: build(3),
            ..UpdaterStatus::default()
        }
    }

    #[test]
    fn the_last_line_has_the_outcome() {
        let mut after = at("idle", 2);
        assert_eq!(
            outcome(&at("idle", 2), &at("idle", 3)),
            "updated from 1.2.0 to 1.3.0"
        );
        assert_eq!(outcome(&at("idle", 2), &after), "stays at 1.2.0");
        after.reason = "held until released; would take 1.3.0".to_owned();
        assert_eq!(
            outcome(&UpdaterStatus::default(), &after),
            "stays at 1.2.0: held until released; would take 1.3.0"
        );
    }
}
