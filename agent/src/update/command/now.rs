//! `update now`: starts the updater as its timer does, and prints its phases until it ends.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use super::overrides::read_status;
use crate::exit::Exit;
use crate::output;
use crate::update::status::UpdaterStatus;
use crate::update::subscription::Subject;

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

/// Starts the updater and polls its status in `run` until it ends.
pub(super) async fn now(run: &Path) -> Result<Exit> {
    let before = read_status(run);
    // The job ends with the run; a run that is active already is joined.
    let mut job = Command::new("systemctl")
        .args(["start", UNIT])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context(
            "cannot run systemctl\nhint: without systemd, run imagebuilder-agent update run",
        )?;
    let mut printed = line(&before);
    let status = loop {
        let ended = tokio::time::timeout(INTERVAL, job.wait()).await;
        let line = line(&read_status(run));
        if line.is_some() && line != printed {
            tracing::info!("{}", line.as_deref().unwrap_or_default());
        }
        printed = line;
        if let Ok(ended) = ended {
            break ended.context("cannot wait for systemctl")?;
        }
    };
    let after = read_status(run);
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

/// The current phase, in one line; `None` while idle.
fn line(status: &UpdaterStatus) -> Option<String> {
    let what = match status.phase.as_str() {
        "" | "idle" => return None,
        "checking" => return Some("reading the channel".to_owned()),
        "fetching" => "fetching",
        "staging" => "putting into a slot",
        "preflight" => "testing itself:",
        "asking" => "waiting for the agent's permission to be replaced by",
        "armed" => "starting the trial of",
        "trial" => "on trial:",
        "comparing" => "worse on trial, reverted; comparing without",
        "proving" => "soaked; testing itself once more:",
        "confirmed" | "committed" => "making stable",
        other => other,
    };
    let version = status
        .wanted
        .as_ref()
        .map(|build| build.version.to_string());
    Some(
        format!("{what} {}", version.unwrap_or_default())
            .trim_end()
            .to_owned(),
    )
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
    use super::*;
    use crate::update::build::Build;
    use crate::update::channel::Digest;
    use crate::update::phases::Phase;

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
    fn every_phase_has_a_description() {
        let job = crate::update::phases::Job {
            build: build(3).unwrap(),
            from: build(2).unwrap(),
            why: String::new(),
            boot: String::new(),
            began: jiff::Timestamp::UNIX_EPOCH,
            crashes: 0,
            urgent: false,
            withheld: None,
            overruled: false,
            worse: None,
        };
        let phases = [
            Phase::Fetching,
            Phase::Staging,
            Phase::Preflight,
            Phase::Asking,
            Phase::Armed,
            Phase::Trial,
            Phase::Comparing,
            Phase::Proving,
            Phase::Confirmed,
            Phase::Committed,
        ];
        for phase in phases.map(|phase| phase(job.clone())) {
            let message = line(&at(phase.name(), 2)).unwrap();
            assert!(message.ends_with(" 1.3.0"), "{message}");
            assert!(
                !message.starts_with(phase.name()) || phase.name() == "fetching",
                "{message}"
            );
        }
        assert_eq!(line(&at(Phase::Idle.name(), 2)), None);
        assert_eq!(
            line(&at(Phase::Checking.name(), 2)).unwrap(),
            "reading the channel"
        );
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
