//! The self-test of a release: `update probe`, and whoever runs it.
//!
//! The running version starts the new one's binary from its slot, in the updater's own sandbox, before the
//! trial and once more after it. What cannot read this box's settings, verify the channel or write the
//! slots must not become stable: it could never be replaced by itself. Nothing is changed by a test: it
//! works on a copy of what the updater keeps.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use contract::layout::BINARY;
use jiff::Timestamp;
use semver::Version;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use super::attempt::Probe;
use super::channel::Channel;
use super::slots::Layout;

/// The most that a self-test may print: it is unproven, and one line is wanted.
const MOST: u64 = 64 * 1024;

/// Runs a release's own `update probe`.
#[derive(Clone, Debug, Default)]
pub struct SelfTest {
    arguments: Vec<OsString>,
}

impl SelfTest {
    /// With arguments beyond `update probe`: where a box, or a test, has its things elsewhere.
    #[must_use]
    pub fn with(arguments: Vec<OsString>) -> Self {
        Self { arguments }
    }
}

#[async_trait]
impl Probe for SelfTest {
    async fn probe(&mut self, binary: &Path) -> Result<Version> {
        let mut child = Command::new(binary)
            .args(["update", "probe"])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Its log is part of ours.
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {}", binary.display()))?;
        let mut said = Vec::new();
        let mut stdout = child
            .stdout
            .take()
            .context("the self-test has no stdout")?
            .take(MOST + 1);
        stdout
            .read_to_end(&mut said)
            .await
            .context("cannot read what the self-test says")?;
        if u64::try_from(said.len()).is_ok_and(|length| length > MOST) {
            bail!("it says more than {MOST} bytes");
        }
        let status = child
            .wait()
            .await
            .context("cannot wait for the self-test")?;
        if !status.success() {
            bail!("it ended with {status}");
        }
        reported(&String::from_utf8_lossy(&said))
    }
}

/// The version in the last line: `imagebuilder-agent 1.2.0`.
fn reported(said: &str) -> Result<Version> {
    let last = said.lines().next_back().unwrap_or_default();
    let version = last
        .strip_prefix(BINARY)
        .and_then(|rest| rest.strip_prefix(' '))
        .and_then(|version| Version::parse(version).ok());
    let shown: String = last.chars().take(80).collect();
    version.with_context(|| format!("its last line is {shown:?}, not `{BINARY} VERSION`"))
}

/// The line that a self-test that went well ends with.
#[must_use]
pub fn passed(version: &str) -> String {
    format!("{BINARY} {version}")
}

/// The test: with its own code, this binary verifies the channel and would find room for a release.
///
/// `channel` works on a copy, made by [`copy`], of the metadata that the updater keeps. The settings were
/// read before: to know the channel is to have read them.
///
/// # Errors
/// This binary could not update this box again, or the channel cannot be read now: whose fault it is, is
/// the caller's to find out.
pub async fn test(channel: &mut dyn Channel, layout: &Layout, now: Timestamp) -> Result<()> {
    let catalogue = channel.refresh(now).await.context("the channel")?;
    writable(&layout.slots.join("staging")).context("the slots")?;
    writable(&layout.slots).context("the links")?;
    writable(&layout.state).context("the updater's state")?;
    tracing::info!(
        "verified the channel: {} releases, fresh until {}",
        catalogue.offers.len(),
        catalogue.expires
    );
    Ok(())
}

/// Whether a file can be made in a directory and go again.
fn writable(dir: &Path) -> Result<()> {
    let path = dir.join(format!(".probe-{}", std::process::id()));
    let made = fs::write(&path, "probe\n");
    let gone = match fs::remove_file(&path) {
        Err(error) if made.is_err() && error.kind() == io::ErrorKind::NotFound => Ok(()),
        gone => gone,
    };
    made.and(gone)
        .with_context(|| format!("cannot write in {}", dir.display()))
}

/// A copy of a directory of plain files and directories, for a test to work on. There may be none.
///
/// # Errors
/// The disk's.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let told = || format!("cannot copy {} to {}", from.display(), to.display());
    fs::create_dir_all(to).with_context(told)?;
    let entries = match fs::read_dir(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(told)?,
    };
    for entry in entries {
        let entry = entry.with_context(told)?;
        let kind = entry.file_type().with_context(told)?;
        let beside = to.join(entry.file_name());
        if kind.is_dir() {
            copy(&entry.path(), &beside)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &beside).with_context(told)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
