//! The daemon's status as a small file, for `status` and for whoever is logged in to the instance.
//!
//! The daemon is its only writer. The file lives in the unit's runtime directory, which outlives a
//! restart of the daemon and goes with the boot: a daemon takes up from it where the one before it left.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use contract::registry::{Service, Verdict};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::bounded::{self, LONGEST_STATUS};
use crate::files::replace;
use crate::lifecycle::{ENDED_BY_GROUP, Judgement, LifeStage, PreviousDaemon};

/// The file's name in the runtime directory.
pub(crate) const FILE: &str = "status.json";

/// Everything `status` shows.
///
/// Unknown fields are ignored and all have defaults: whoever reads it (the updater, the daemon's own next
/// start) may be older or newer than the daemon that wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DaemonStatus {
    /// The agent's version.
    pub(crate) agent: String,
    /// The daemon's process id: with its version, what tells a trial from the stable agent.
    pub(crate) pid: u32,
    /// When this process started.
    pub(crate) started_at: Option<Timestamp>,
    /// The instance; empty until identified.
    pub(crate) instance_id: String,
    /// Its AMI; empty until identified.
    pub(crate) image_id: String,
    /// The image's name; empty until settings are known.
    pub(crate) image: String,
    /// The group; `None` outside of groups.
    pub(crate) group: Option<String>,
    /// The machine's state, as drawn in `docs/agent.md`.
    pub(crate) state: String,
    /// While identifying after a restart: the state of the daemon before this one, whose verdict holds
    /// until the instance is identified.
    pub(crate) before: Option<String>,
    /// The verdict; `None` before there is one.
    pub(crate) verdict: Option<Verdict>,
    /// Why; empty while all is well.
    pub(crate) reason: String,
    /// Since when the verdict holds, RFC 3339 in UTC; empty before there is one.
    pub(crate) since: String,
    /// What the daemon waits for.
    pub(crate) waiting_for: String,
    /// The target groups that this agent has registered the instance in, and has yet to take it out of.
    pub(crate) registered: Vec<String>,
    /// What EC2 has announced of this instance, one line each.
    pub(crate) notices: Vec<String>,
    /// The services as last seen.
    pub(crate) services: BTreeMap<String, Service>,
    /// Whether the registry's record says all of this.
    pub(crate) recorded: bool,
    /// How often this agent restarted each service since the instance booted; services it never restarted
    /// are not in it.
    pub(crate) restarts: BTreeMap<String, u32>,
    /// The answer to the updater's wish to restart the daemon; `None` while it has none.
    #[serde(rename = "leave")]
    pub(crate) permission: Option<PermissionAnswer>,
}

/// The daemon's answer to the updater, which asks with `asks_leave_since` in its own status.
///
/// It answers the wish of that moment only if it is not older than it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PermissionAnswer {
    /// Whether now is a good time.
    pub(crate) granted: bool,
    /// Why not; empty when granted.
    #[serde(default)]
    pub(crate) reason: String,
    /// When this was answered.
    pub(crate) at: Timestamp,
}

impl DaemonStatus {
    /// What the daemon before this one left in the runtime directory. Whatever cannot be read is
    /// nothing: the instance is then judged anew.
    pub(crate) fn read_previous(run_dir: &Path) -> Option<Self> {
        let path = run_dir.join(FILE);
        let read = bounded::read(&path, LONGEST_STATUS)
            .map_err(anyhow::Error::from)
            .and_then(|text| Ok(text.map(|text| serde_json::from_str(&text)).transpose()?));
        match read {
            Ok(left) => left,
            Err(error) => {
                tracing::warn!("starting afresh: cannot read {}: {error:#}", path.display());
                None
            }
        }
    }

    /// The life this status tells of; `None` where there is nothing to go on from.
    pub(crate) fn previous_daemon(&self) -> Option<PreviousDaemon> {
        let verdict = self.verdict?;
        // EC2 may have called its notice off meanwhile; if not, it says so again within seconds.
        if verdict == Verdict::Draining && self.reason != ENDED_BY_GROUP {
            return None;
        }
        let state = self.before.as_ref().unwrap_or(&self.state);
        Some(PreviousDaemon {
            stage: LifeStage::parse(state, verdict)?,
            judgement: Judgement {
                verdict,
                reason: self.reason.clone(),
            },
            group: self.group.clone(),
            recorded: self.recorded && self.agent == crate::version::version(),
            round: self.services.clone(),
        })
    }
}

/// The file, written whenever the status changes.
#[derive(Debug)]
pub(crate) struct DaemonStatusFile {
    path: PathBuf,
    written: Option<DaemonStatus>,
}

impl DaemonStatusFile {
    /// A board in the runtime directory.
    pub(crate) fn new(run_dir: &Path) -> Self {
        Self {
            path: run_dir.join(FILE),
            written: None,
        }
    }

    /// Shows a status, if it is news. An instance whose runtime directory is full still serves, so a
    /// failure is only logged.
    pub(crate) fn write_if_changed(&mut self, status: DaemonStatus) {
        if self.written.as_ref() == Some(&status) {
            return;
        }
        let outcome = serde_json::to_string_pretty(&status)
            .context("cannot write the status as JSON")
            .and_then(|json| replace(&self.path, &format!("{json}\n"), 0o644));
        if let Err(error) = outcome {
            tracing::warn!("{error:#}");
        }
        self.written = Some(status);
    }
}
