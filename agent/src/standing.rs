//! The daemon's standing as a small file, for `status` and for whoever is logged in to the box.
//!
//! The daemon is its only writer. The file lives in the unit's runtime directory, which outlives a
//! restart of the daemon and goes with the boot: a daemon takes up from it where the one before it left.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use contract::registry::{Service, Verdict};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::bounded::{self, LONGEST_STANDING};
use crate::files::replace;
use crate::machine::{self, Past, Stage};

/// The file's name in the runtime directory.
pub(crate) const FILE: &str = "status.json";

/// Everything `status` shows.
///
/// Unknown fields are ignored and all have defaults: whoever reads it (the updater, the daemon's own next
/// start) may be older or newer than the daemon that wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Standing {
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
    /// until the box is identified.
    pub(crate) before: Option<String>,
    /// The verdict; `None` before there is one.
    pub(crate) verdict: Option<Verdict>,
    /// Why; empty while all is well.
    pub(crate) reason: String,
    /// Since when the verdict holds, RFC 3339 in UTC; empty before there is one.
    pub(crate) since: String,
    /// What the daemon waits for.
    pub(crate) waiting_for: String,
    /// The target groups that this agent has registered the box in, and has yet to take it out of.
    pub(crate) registered: Vec<String>,
    /// What EC2 has announced of this instance, one line each.
    pub(crate) notices: Vec<String>,
    /// The services as last seen.
    pub(crate) services: BTreeMap<String, Service>,
    /// Whether the registry's record says all of this.
    pub(crate) recorded: bool,
    /// How often this agent restarted each service since the box booted; services it never restarted
    /// are not in it.
    pub(crate) restarts: BTreeMap<String, u32>,
    /// The answer to the updater's wish to restart the daemon; `None` while it has none.
    pub(crate) leave: Option<Leave>,
}

/// The daemon's answer to the updater, which asks with `asks_leave_since` in its own standing.
///
/// It answers the wish of that moment only if it is not older than it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Leave {
    /// Whether now is a good time.
    pub(crate) granted: bool,
    /// Why not; empty when granted.
    #[serde(default)]
    pub(crate) reason: String,
    /// When this was answered.
    pub(crate) at: Timestamp,
}

impl Standing {
    /// What the daemon before this one left in the runtime directory. Whatever cannot be read is
    /// nothing: the box is then judged anew.
    pub(crate) fn left(run_dir: &Path) -> Option<Self> {
        let path = run_dir.join(FILE);
        let read = bounded::read(&path, LONGEST_STANDING)
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

    /// The life this standing tells of; `None` where there is nothing to go on from.
    pub(crate) fn past(&self) -> Option<Past> {
        let verdict = self.verdict?;
        // EC2 may have called its notice off meanwhile; if not, it says so again within seconds.
        if verdict == Verdict::Draining && self.reason != machine::ENDED_BY_GROUP {
            return None;
        }
        let state = self.before.as_ref().unwrap_or(&self.state);
        Some(Past {
            stage: Stage::parse(state, verdict)?,
            standing: machine::Standing {
                verdict,
                reason: self.reason.clone(),
            },
            group: self.group.clone(),
            recorded: self.recorded && self.agent == crate::version::version(),
            round: self.services.clone(),
        })
    }
}

/// The file, written whenever the standing changes.
#[derive(Debug)]
pub(crate) struct Board {
    path: PathBuf,
    shown: Option<Standing>,
}

impl Board {
    /// A board in the runtime directory.
    pub(crate) fn new(run_dir: &Path) -> Self {
        Self {
            path: run_dir.join(FILE),
            shown: None,
        }
    }

    /// Shows a standing, if it is news. A box whose runtime directory is full still serves, so a
    /// failure is only logged.
    pub(crate) fn show(&mut self, standing: Standing) {
        if self.shown.as_ref() == Some(&standing) {
            return;
        }
        let written = serde_json::to_string_pretty(&standing)
            .context("cannot write the standing as JSON")
            .and_then(|json| replace(&self.path, &format!("{json}\n"), 0o644));
        if let Err(error) = written {
            tracing::warn!("{error:#}");
        }
        self.shown = Some(standing);
    }
}
