//! Restarts of failing services: the daemon's request, and the subcommand that carries it out.
//!
//! The daemon is unprivileged and cannot restart anything. It writes a file named after the unit in its own runtime
//! directory; `imagebuilder-agent-restart.path` starts the subcommand, which runs as root. It trusts only the file's
//! name, and only if the image's own settings list that unit as a service: neither user data nor an attacker who
//! controls the daemon can have another unit restarted, or the same one again and again.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use crate::files::replace;
use crate::settings::Sources;

/// Directory of the requests, below the daemon's runtime directory.
const REQUESTS: &str = "restart";

/// Least time between two restarts of one unit. The daemon has its own pause; this limit does not depend on the
/// daemon.
const SPACING: Duration = Duration::from_secs(60);

/// Most restarts of one unit within [`WINDOW`].
const MOST: usize = 6;

/// The time that [`MOST`] applies to.
const WINDOW: Duration = Duration::from_secs(3600);

/// An older request is ignored.
const OUT_OF_DATE: Duration = Duration::from_secs(120);

/// The file that requests a restart of `unit`, below the daemon's runtime directory.
pub(crate) fn request_file(unit: &str) -> PathBuf {
    Path::new(REQUESTS).join(unit)
}

/// Requests a restart of `unit` below the daemon's runtime directory.
pub(crate) fn request(run_dir: &Path, unit: &str) -> Result<()> {
    if !is_service(unit) {
        bail!("cannot request a restart of {unit:?}: not the name of a service unit");
    }
    let requests = run_dir.join(REQUESTS);
    fs::create_dir_all(&requests).with_context(|| format!("cannot make {}", requests.display()))?;
    replace(&run_dir.join(request_file(unit)), "", 0o644)
}

/// Whether the name is a service unit's, and cannot be mistaken for a path or an option.
pub(crate) fn is_service(unit: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.@:".contains(c);
    unit.len() <= 255
        && unit.ends_with(".service")
        && unit.chars().all(fits)
        && unit.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// Carries out the requested restarts: `restart-requested`.
///
/// `state` is the directory where root records what it did. Every request is handled once, whether it succeeds or
/// not.
pub(crate) fn carry_out(
    sources: &Sources,
    run_dir: &Path,
    state: &Path,
    systemctl: &Path,
) -> Result<()> {
    let allowed = sources.image_units()?;
    let now = SystemTime::now();
    let mut trouble = Vec::new();
    for (unit, asked) in requests(&run_dir.join(REQUESTS))? {
        let path = state.join(&unit);
        match consider(&unit, asked, &allowed, &RestartHistory::read(&path), now) {
            Decision::DoneBefore => {}
            Decision::Refused(why) => {
                tracing::warn!("not restarting {unit}: {why}");
                // Only a known unit has a history: other names could be endless.
                if allowed.contains(&unit) {
                    RestartHistory::read(&path)
                        .with_request(asked, None)
                        .write(&path)?;
                }
            }
            Decision::Restart => {
                // Recorded before the restart: a crash in between must not repeat it.
                RestartHistory::read(&path)
                    .with_request(asked, Some(now))
                    .write(&path)?;
                tracing::info!("restarting {unit}: the agent found it failing");
                if let Err(error) = restart(systemctl, &unit) {
                    trouble.push(format!("{error:#}"));
                }
            }
        }
    }
    if !trouble.is_empty() {
        bail!("{}", trouble.join("; "));
    }
    Ok(())
}

/// The file names that could be units, and when each was last requested.
fn requests(dir: &Path) -> Result<Vec<(String, SystemTime)>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {}", dir.display())),
    };
    let mut found = Vec::new();
    // More than any image has services, so that a full directory costs no more.
    for entry in entries.take(256).flatten() {
        // Only name and time of the file are used: it is never opened and no link is followed.
        let asked = entry.metadata().and_then(|about| about.modified());
        let name = entry.file_name().into_string();
        if let (Ok(unit), Ok(asked)) = (name, asked)
            && is_service(&unit)
        {
            found.push((unit, asked));
        }
    }
    found.sort();
    Ok(found)
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Restart,
    DoneBefore,
    Refused(String),
}

fn consider(
    unit: &str,
    asked: SystemTime,
    allowed: &BTreeSet<String>,
    history: &RestartHistory,
    now: SystemTime,
) -> Decision {
    let refused = |why: String| Decision::Refused(why);
    if !allowed.contains(unit) {
        return refused("the image's settings list no such service".to_owned());
    }
    if history.asked >= Some(nanos(asked)) {
        return Decision::DoneBefore;
    }
    // After a clock was set back, a time may be in the future: that must not refuse requests forever.
    let since = |then: SystemTime| now.duration_since(then).ok();
    if since(asked).is_some_and(|age| age > OUT_OF_DATE) {
        return refused("the request is out of date".to_owned());
    }
    let recent = |limit: Duration| {
        let within = |at: &&u64| {
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(**at);
            since(at).is_some_and(|age| age < limit)
        };
        history.restarts.iter().filter(within).count()
    };
    if recent(SPACING) > 0 {
        return refused(format!(
            "it was restarted less than {} s ago",
            SPACING.as_secs()
        ));
    }
    if recent(WINDOW) >= MOST {
        return refused(format!(
            "it was restarted {MOST} times within {} minutes",
            WINDOW.as_secs() / 60
        ));
    }
    Decision::Restart
}

/// The restarts of one unit since boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
struct RestartHistory {
    /// The last request that was handled, by its time in nanoseconds.
    asked: Option<u64>,
    /// The last restarts, in seconds since the epoch.
    restarts: Vec<u64>,
}

impl RestartHistory {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn with_request(mut self, asked: SystemTime, restarted: Option<SystemTime>) -> Self {
        self.asked = Some(nanos(asked));
        self.restarts
            .extend(restarted.map(|at| nanos(at) / 1_000_000_000));
        let surplus = self.restarts.len().saturating_sub(MOST);
        self.restarts.drain(..surplus);
        self
    }

    fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string(self).context("cannot write the past as JSON")?;
        replace(path, &json, 0o600)
    }
}

fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

fn restart(systemctl: &Path, unit: &str) -> Result<()> {
    // Resets systemd's start limit, which would refuse the restart.
    for verb in [&["reset-failed"][..], &["restart", "--no-block"]] {
        let done = Command::new(systemctl)
            .args(verb)
            .args(["--", unit])
            .output()
            .with_context(|| format!("cannot run {}", systemctl.display()))?;
        if !done.status.success() && verb[0] == "restart" {
            let stderr = String::from_utf8_lossy(&done.stderr);
            bail!("cannot restart {unit}: {}", stderr.trim());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
