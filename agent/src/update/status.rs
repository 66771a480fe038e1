//! The updater's status file, read by `status`, the daemon's metrics, and the daemon when it answers a request for
//! permission. Written by rename, by the updater only.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use semver::Version;
use serde::{Deserialize, Serialize};

use super::blame::Failures;
use super::build::Build;
use super::permission::Withheld;
use crate::files::replace;

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
pub struct UpdaterStatusFile {
    path: PathBuf,
    current: UpdaterStatus,
}

impl UpdaterStatusFile {
    /// The file in the runtime directory, continuing from its last contents.
    #[must_use]
    pub fn new(run_dir: &Path) -> Self {
        let path = run_dir.join(FILE);
        let current = std::fs::read(&path)
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .unwrap_or_default();
        Self { path, current }
    }

    /// Writes a change, readable by all users. An update does not stop because its status cannot be written, so a
    /// failure is only logged.
    pub fn change(&mut self, change: impl FnOnce(&mut UpdaterStatus)) {
        let mut status = self.current.clone();
        change(&mut status);
        if status == self.current {
            return;
        }
        let json = serde_json::to_string_pretty(&status).unwrap_or_default();
        if let Err(error) = replace(&self.path, &format!("{json}\n"), 0o644) {
            tracing::warn!("{error:#}");
        }
        self.current = status;
    }

    /// The current status.
    #[must_use]
    pub fn current(&self) -> &UpdaterStatus {
        &self.current
    }
}
