//! The updater's status as a small file for anybody to read: `status`, the daemon's metrics, and the
//! daemon's answer to a wish to restart it. Written by rename, by the updater only.

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

/// Everything the updater tells.
///
/// Unknown fields are ignored and all have defaults: the daemon that reads it may be older or newer than
/// the updater that wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdaterStatus {
    /// The phase, as drawn in `docs/agent.md`.
    pub phase: String,
    /// What it waits for or why it stays, in one line.
    pub reason: String,
    /// The code of the last refusal or failure, kebab; empty while all is well.
    pub code: String,
    /// The channel's name.
    pub channel: String,
    /// What `stable` points to.
    pub stable: Option<Build>,
    /// What is on trial.
    pub trial: Option<Build>,
    /// What came with the image.
    pub factory: Option<Build>,
    /// The newest release this instance would take now or later.
    pub wanted: Option<Build>,
    /// When its wave lets this instance have it.
    pub wanted_at: Option<Timestamp>,
    /// This instance's place in the wave, 0 to 2047.
    pub position: Option<u16>,
    /// An operator's hold.
    pub hold: Option<Hold>,
    /// The version an operator pinned.
    pub pin: Option<Version>,
    /// The oldest version allowed.
    pub floor: Option<Version>,
    /// Releases that are not tried again on this host until somebody forgives them.
    pub skipped: Vec<Skipped>,
    /// What is held against releases that are tried again, by cause.
    pub failures: Vec<Failures>,
    /// Since when the daemon has withheld its permission to be restarted, and why.
    pub withheld: Option<Withheld>,
    /// Versions of root, timestamp, snapshot, targets last verified.
    pub metadata: Option<[u64; 4]>,
    /// When the timestamp role expires.
    pub metadata_expires: Option<Timestamp>,
    /// The last check, whatever came of it.
    pub checked_at: Option<Timestamp>,
    /// The last check that verified.
    pub verified_at: Option<Timestamp>,
    /// The last promotion.
    pub updated_at: Option<Timestamp>,
    /// Set while the updater wants to restart the daemon and waits for its permission: the daemon answers
    /// with `leave` in its own status.
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

/// A release that is not tried again on this host until somebody forgives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// What failed.
    pub build: Build,
    /// Why, in one line.
    pub reason: String,
    /// When.
    pub at: Timestamp,
    /// How many attempts it was condemned for; `None` in what an earlier release wrote, which condemned for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
}

/// The file, written at every change of the status.
#[derive(Debug)]
pub struct UpdaterStatusFile {
    path: PathBuf,
    current: UpdaterStatus,
}

impl UpdaterStatusFile {
    /// A board in the runtime directory, going on from what it showed last.
    #[must_use]
    pub fn new(run_dir: &Path) -> Self {
        let path = run_dir.join(FILE);
        let current = std::fs::read(&path)
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .unwrap_or_default();
        Self { path, current }
    }

    /// Shows a change, readable for everybody. An update does not stop because nobody can be told, so a
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

    /// What is current.
    #[must_use]
    pub fn current(&self) -> &UpdaterStatus {
        &self.current
    }
}
