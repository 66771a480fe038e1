//! The daemon's status file, read by `status`, the updater and users of the instance.
//!
//! Only the daemon writes it. It is in the unit's runtime directory, which is kept over a restart of the daemon and
//! removed at shutdown: a daemon continues from the file of the previous one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_update::{Daemon, Health, PermissionAnswer};
use anyhow::Context as _;
use contract::registry::{Service, Verdict};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::bounded::{self, LONGEST_STATUS};
use crate::files::replace;
use crate::lifecycle::{ENDED_BY_GROUP, Judgement, LifeStage, PreviousDaemon};

/// [`ENDED_BY_GROUP`] as earlier releases wrote it; their files are continued from as well.
const ENDED_BY_GROUP_BEFORE: &str = "the group is ending this box";

/// The file's name in the runtime directory.
pub(crate) const FILE: &str = "status.json";

/// Everything that `status` prints about the daemon.
///
/// Unknown fields are ignored and all have defaults: a reader (the updater, the next daemon) may be older or newer
/// than the daemon that wrote the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DaemonStatus {
    /// The agent's version.
    pub(crate) agent: String,
    /// The daemon's process id: with the version, it distinguishes a trial from the stable agent.
    pub(crate) pid: u32,
    /// When this process started.
    pub(crate) started_at: Option<Timestamp>,
    /// The instance; empty until identified.
    pub(crate) instance_id: String,
    /// Its AMI; empty until identified.
    pub(crate) image_id: String,
    /// The image's name; empty until settings are known.
    pub(crate) image: String,
    /// The host name, if the machine id is the identity: no metadata service, no group, no record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) host: Option<String>,
    /// The group; `None` outside of groups.
    pub(crate) group: Option<String>,
    /// The lifecycle's state, as drawn in `docs/agent.md`.
    pub(crate) state: String,
    /// While identifying after a restart: the state of the previous daemon, whose verdict holds until the instance is
    /// identified.
    pub(crate) before: Option<String>,
    /// The verdict; `None` before there is one.
    pub(crate) verdict: Option<Verdict>,
    /// Why; empty while all is well.
    pub(crate) reason: String,
    /// Since when the verdict holds, RFC 3339 in UTC; empty before there is one.
    pub(crate) since: String,
    /// What the daemon waits for.
    pub(crate) waiting_for: String,
    /// The target groups in which the agent has registered this instance.
    pub(crate) registered: Vec<String>,
    /// EC2's notices, one line each.
    pub(crate) notices: Vec<String>,
    /// The services as of the last round.
    pub(crate) services: BTreeMap<String, Service>,
    /// Whether the registry record is up to date.
    pub(crate) recorded: bool,
    /// How often the agent restarted each service since boot; services it never restarted are not in it.
    pub(crate) restarts: BTreeMap<String, u32>,
    /// The answer to the updater's request to restart the daemon; `None` if there is none.
    #[serde(rename = "leave")]
    pub(crate) permission: Option<PermissionAnswer>,
}

impl DaemonStatus {
    /// Reads what the previous daemon wrote. A file that cannot be read counts as none: the instance is judged again.
    pub(crate) fn read_previous(run_dir: &Path) -> Option<Self> {
        let path = run_dir.join(FILE);
        let read = bounded::read(&path, LONGEST_STATUS)
            .map_err(anyhow::Error::from)
            .and_then(|text| Ok(text.map(|text| serde_json::from_str(&text)).transpose()?));
        match read {
            Ok(left) => left,
            Err(error) => {
                tracing::warn!(
                    "judging this instance again: cannot read {}: {error:#}",
                    path.display()
                );
                None
            }
        }
    }

    /// The state to continue from; `None` if there is none. `clock` is the time of day.
    pub(crate) fn previous_daemon(&self, clock: Timestamp) -> Option<PreviousDaemon> {
        let verdict = self.verdict?;
        // EC2 may have cancelled its notice meanwhile; if not, it is read again within seconds.
        if verdict == Verdict::Draining
            && ![ENDED_BY_GROUP, ENDED_BY_GROUP_BEFORE].contains(&self.reason.as_str())
        {
            return None;
        }
        let state = self.before.as_ref().unwrap_or(&self.state);
        Some(PreviousDaemon {
            stage: LifeStage::parse(state, verdict)?,
            judgement: Judgement {
                verdict,
                reason: self.reason.clone(),
            },
            drained_for: self.drained_for(clock),
            group: self.group.clone(),
            recorded: self.recorded && self.agent == agent_update::version(),
            round: self.services.clone(),
        })
    }

    /// How long the instance has been draining. A clock that was set back counts as no time.
    fn drained_for(&self, clock: Timestamp) -> Duration {
        let since = self.since.parse::<Timestamp>().ok();
        let since = since.filter(|_| self.verdict == Some(Verdict::Draining));
        since
            .and_then(|since| Duration::try_from(clock.duration_since(since)).ok())
            .unwrap_or_default()
    }
}

/// The status file as the updater reads it.
#[derive(Clone, Debug)]
pub(crate) struct StatusReader {
    run_dir: PathBuf,
}

impl StatusReader {
    /// The status file in the daemon's runtime directory.
    pub(crate) fn new(run_dir: &Path) -> Self {
        Self {
            run_dir: run_dir.to_owned(),
        }
    }
}

impl Daemon for StatusReader {
    fn health(&self) -> Option<Health> {
        let status = DaemonStatus::read_previous(&self.run_dir)?;
        let terminating = status.verdict == Some(Verdict::Draining);
        Some(Health {
            judged: terminating || matches!(status.verdict, Some(Verdict::Fit | Verdict::Unfit)),
            fit: status.verdict == Some(Verdict::Fit),
            terminating,
            passing: status
                .services
                .into_iter()
                .filter_map(|(name, service)| service.healthy.then_some(name))
                .collect(),
            version: status.agent,
            pid: status.pid,
            permission: status.permission,
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
    /// The status file in the runtime directory.
    pub(crate) fn new(run_dir: &Path) -> Self {
        Self {
            path: run_dir.join(FILE),
            written: None,
        }
    }

    /// Writes a status if it differs from the last one. An instance whose runtime directory is full still serves, so
    /// a failure is only logged.
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
