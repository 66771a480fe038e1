//! `imagebuilder-agent run-image-tests`: runs the image's tests once, one after the other, as soon as the services pass.
//!
//! It is started by `imagebuilder-tests.service`, as root, so that each test can have the user that it names, and on the gate's instance
//! alone. It judges nothing: the daemon reads the results.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use contract::image_tests::{self, ImageTest};
use support::text;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::files::replace;
use crate::health::exec::{LAST_WORDS, PATH, ProcessGroup, describe};
use crate::image_tests::{Results, read_list};
use crate::output;
use crate::status_file::DaemonStatus;

/// Pause between two reads of the daemon's status.
const PAUSE: Duration = Duration::from_secs(1);

/// How much of the end of a test's output is kept in memory.
const KEPT: usize = 16 * 1024;

/// How many lines of it are printed when the test fails.
const PRINTED: usize = 20;

/// The text of all results, in characters: with the names it fits the registry record.
const ALL_RESULTS: usize = 1200;

/// Runs the tests of `list` once the services of the daemon in `daemon_dir` pass, and writes `results` after each.
pub(crate) async fn run(list: &Path, daemon_dir: &Path, results: &Path) -> Result<()> {
    let list = read_list(list)?;
    let most = (ALL_RESULTS / list.tests.len().max(1)).min(text::REASON - text::NAME);
    while !services_pass(daemon_dir) {
        tokio::time::sleep(PAUSE).await;
    }
    let mut found = Results::default();
    for test in &list.tests {
        tracing::info!("running test {}", test.name);
        let failure = match one(test).await {
            Ok(ended) => {
                ended.print(&test.name);
                ended.failure(most)
            }
            Err(error) => Some(text::line(&format!("failed: {error:#}"), most)),
        };
        let result = failure.as_deref().unwrap_or("passed");
        output::line(&format!("imagebuilder-agent: test {}: {result}", test.name));
        found.tests.insert(test.name.clone(), failure);
        write(results, &found)?;
    }
    found.done = true;
    write(results, &found)
}

fn write(path: &Path, results: &Results) -> Result<()> {
    let text = serde_json::to_string(results).context("cannot write the results as JSON")?;
    replace(path, &text, 0o644)
}

/// Whether every service but the tests passed in the daemon's last round.
fn services_pass(daemon_dir: &Path) -> bool {
    let Some(status) = DaemonStatus::read_previous(daemon_dir) else {
        return false;
    };
    let mut services = status
        .services
        .iter()
        .filter(|(name, _)| !image_tests::is_test(name))
        .peekable();
    services.peek().is_some() && services.all(|(_, service)| service.healthy)
}

/// How a test ended.
#[derive(Debug)]
struct Ended {
    /// `None`: it was killed at its limit.
    status: Option<ExitStatus>,
    limit: u64,
    /// The last lines of its output, the oldest first.
    lines: Vec<String>,
}

impl Ended {
    /// Prints the end of a failed test's output.
    fn print(&self, name: &str) {
        if self.status.is_some_and(|status| status.success()) {
            return;
        }
        let skipped = self.lines.len().saturating_sub(PRINTED);
        for line in &self.lines[skipped..] {
            output::line(&format!("imagebuilder-agent: test {name} | {line}"));
        }
    }

    /// Why the test failed, with as many of the last lines as fit `most` characters; `None`: it passed.
    fn failure(&self, most: usize) -> Option<String> {
        let how = match self.status {
            Some(status) if status.success() => return None,
            Some(status) => describe(status),
            None => format!("did not end within {} s", self.limit),
        };
        let mut failure = format!("failed: {how}");
        let mut left = most.saturating_sub(failure.chars().count() + 2);
        let mut shown = Vec::new();
        for line in self.lines.iter().rev() {
            let length = line.chars().count() + 3;
            if !shown.is_empty() && length > left {
                break;
            }
            shown.push(text::line(line, left));
            left = left.saturating_sub(length);
        }
        if !shown.is_empty() {
            shown.reverse();
            failure = format!("{failure}: {}", shown.join(" | "));
        }
        Some(text::line(&failure, most))
    }
}

/// Runs a test to its end or its limit, then kills what it left.
async fn one(test: &ImageTest) -> Result<Ended> {
    let Some((program, arguments)) = test.command.split_first() else {
        bail!("an empty command");
    };
    let mut command = Command::new(program);
    if let Some((uid, gid)) = account(&test.user).await? {
        command.uid(uid).gid(gid);
    }
    let mut child = command
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {program} as {}", test.user))?;
    let group = ProcessGroup::of(&child);
    let output = Arc::new(Mutex::new(Vec::new()));
    let mut reading = JoinSet::new();
    reading.spawn(keep_end(child.stdout.take(), output.clone()));
    reading.spawn(keep_end(child.stderr.take(), output.clone()));
    let limit = Duration::from_secs(test.timeout_seconds);
    let status = match timeout(limit, child.wait()).await {
        Ok(status) => Some(status.with_context(|| format!("cannot wait for {program}"))?),
        Err(_) => None,
    };
    drop(group);
    // What is still open then was left open by a process that left the group; the unit's end kills that.
    let _ = timeout(LAST_WORDS, async {
        while reading.join_next().await.is_some() {}
    })
    .await;
    let output = output.lock().unwrap_or_else(PoisonError::into_inner);
    let lines = String::from_utf8_lossy(&output)
        .lines()
        .map(|line| text::line(line, text::REASON))
        .filter(|line| !line.is_empty())
        .collect();
    Ok(Ended {
        status,
        limit: test.timeout_seconds,
        lines,
    })
}

/// Reads an output to its end and keeps the last [`KEPT`] bytes of all of them, in the order in which they came.
async fn keep_end(output: Option<impl AsyncRead + Unpin>, kept: Arc<Mutex<Vec<u8>>>) {
    let Some(mut output) = output else { return };
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = output.read(&mut buffer).await {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&buffer[..length]);
        let excess = kept.len().saturating_sub(KEPT);
        kept.drain(..excess);
    }
}

/// The numbers of a user and its primary group; `None` for the user that this process has.
async fn account(user: &str) -> Result<Option<(u32, u32)>> {
    let found = Command::new("getent")
        .args(["passwd", "--", user])
        .env_clear()
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run getent")?;
    let entry = String::from_utf8_lossy(&found.stdout).into_owned();
    let fields: Vec<&str> = entry.trim_end().split(':').collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse().ok());
    let (Some(uid), Some(gid)) = (number(2), number(3)) else {
        bail!("this image has no user {user}: add [image.users.{user}]");
    };
    Ok((rustix::process::getuid().as_raw() != uid).then_some((uid, gid)))
}

#[cfg(test)]
mod tests;
