//! The updater's status file, read by `status`, the daemon's metrics, and the daemon when it answers a request for
//! permission. Written by rename, by the updater only.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use semver::Version;
use serde::{Deserialize, Serialize};
use support::files;

pub use super::blame::{Count, FailureKind, Failures};
pub use super::build::Build;
pub use super::permission::Withheld;
pub use super::plan::POSITIONS;

/// The file's name in the updater's runtime directory.
pub const FILE: &str = "status.json";

/// Everything that the updater reports.
///
/// Unknown fields are ignored and all have defaults: the daemon that reads it may be older or newer than the updater
/// that wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdaterStatus {
    /// The phase, as drawn in `docs/agent.md`.
    pub phase: String,
    /// What it waits for, or why nothing changes, in one line.
    pub reason: String,
    /// The code of the last refusal or failure, in kebab case; empty while all is well.
    pub code: String,
    /// The channel's name.
    pub channel: String,
    /// The build that `stable` points to.
    pub stable: Option<Build>,
    /// The build on trial.
    pub trial: Option<Build>,
    /// The image's own build.
    pub factory: Option<Build>,
    /// The newest release that this instance would take now or later.
    pub wanted: Option<Build>,
    /// When its wave reaches this instance.
    pub wanted_at: Option<Timestamp>,
    /// This instance's position in the wave, 0 to 2047.
    pub position: Option<u16>,
    /// An operator's hold.
    pub hold: Option<Hold>,
    /// The version an operator pinned.
    pub pin: Option<Version>,
    /// The oldest version allowed.
    pub floor: Option<Version>,
    /// Releases that are not tried again on this host until an operator forgives them.
    pub skipped: Vec<Skipped>,
    /// Failures of releases that are tried again, by cause.
    pub failures: Vec<Failures>,
    /// Since when the daemon has withheld its permission, and why.
    pub withheld: Option<Withheld>,
    /// Versions of root, timestamp, snapshot, targets last verified.
    pub metadata: Option<[u64; 4]>,
    /// When the timestamp role expires.
    pub metadata_expires: Option<Timestamp>,
    /// The last check, with any result.
    pub checked_at: Option<Timestamp>,
    /// The last check that verified.
    pub verified_at: Option<Timestamp>,
    /// The last promotion.
    pub updated_at: Option<Timestamp>,
    /// Set while the updater waits for permission to restart the daemon, which answers with `leave` in its own
    /// status.
    #[serde(rename = "asks_leave_since")]
    pub permission_requested_since: Option<Timestamp>,
}

impl UpdaterStatus {
    /// Reads the file in the updater's runtime directory; empty if the updater never ran or the file cannot be read.
    #[must_use]
    pub(crate) fn read(run_dir: &Path) -> Self {
        let json = std::fs::read(run_dir.join(FILE)).unwrap_or_default();
        serde_json::from_slice(&json).unwrap_or_default()
    }

    /// What the updater is doing, in one line; `None` while it is idle.
    #[must_use]
    pub fn progress(&self) -> Option<String> {
        let what = match self.phase.as_str() {
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
        let version = self.wanted.as_ref().map(|build| build.version.to_string());
        let line = format!("{what} {}", version.unwrap_or_default());
        Some(line.trim_end().to_owned())
    }
}

/// An operator's hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Its end; `None`: until released.
    #[serde(default)]
    pub until: Option<Timestamp>,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// A release that is not tried again on this host until an operator forgives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// What failed.
    pub build: Build,
    /// Why, in one line.
    pub reason: String,
    /// When.
    pub at: Timestamp,
    /// How many attempts it was skipped for; `None` in files of earlier releases, which skipped after one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
}

/// The status file, written at every change.
#[derive(Debug)]
pub(crate) struct UpdaterStatusFile {
    path: PathBuf,
    current: UpdaterStatus,
}

impl UpdaterStatusFile {
    /// The file in the runtime directory, continuing from its last contents.
    #[must_use]
    pub(crate) fn new(run_dir: &Path) -> Self {
        Self {
            path: run_dir.join(FILE),
            current: UpdaterStatus::read(run_dir),
        }
    }

    /// Writes a change, readable by all users. An update does not stop because its status cannot be written, so a
    /// failure is only logged.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut UpdaterStatus)) {
        let mut status = self.current.clone();
        change(&mut status);
        if status == self.current {
            return;
        }
        let json = serde_json::to_string_pretty(&status).unwrap_or_default();
        if let Err(error) = files::replace(&self.path, format!("{json}\n").as_bytes(), 0o644) {
            tracing::warn!("cannot write {}: {error}", self.path.display());
        }
        self.current = status;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Digest;
    use crate::phases::{Job, Phase};

    fn build(minor: u64) -> Build {
        Build {
            version: Version::new(1, minor, 0),
            digest: Digest::parse(&format!("{minor:064x}")).unwrap(),
        }
    }

    fn at(phase: &str) -> UpdaterStatus {
        UpdaterStatus {
            phase: phase.to_owned(),
            wanted: Some(build(3)),
            ..UpdaterStatus::default()
        }
    }

    #[test]
    fn every_phase_has_a_description() {
        let job = Job {
            build: build(3),
            from: build(2),
            why: String::new(),
            boot: String::new(),
            began: Timestamp::UNIX_EPOCH,
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
            let message = at(phase.name()).progress().unwrap();
            assert!(message.ends_with(" 1.3.0"), "{}: {message}", phase.name());
            assert!(
                !message.starts_with(phase.name()) || phase.name() == "fetching",
                "{}: {message}",
                phase.name()
            );
        }
        assert_eq!(at(Phase::Idle.name()).progress(), None);
        assert_eq!(
            at(Phase::Checking.name()).progress().unwrap(),
            "reading the channel"
        );
    }
}
