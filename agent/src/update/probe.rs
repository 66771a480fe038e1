//! The self-test of a release: `update probe`, and whoever runs it.
//!
//! The running version starts the new one's binary from its slot, in the updater's own sandbox, before the
//! trial and once more after it. Before the trial it also runs every other verb that the units call, in a tree of
//! their own. What cannot read this instance's settings, verify the channel or write the
//! slots must not become stable: it could never be replaced by itself. Nothing is changed by a test: it
//! works on a copy of what the updater keeps.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};
use async_trait::async_trait;
use contract::layout::{self, BINARY};
use jiff::Timestamp;
use semver::Version;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use super::attempt::{Probe, TestFailure};
use super::blame::{self, FailureKind};
use super::channel::Channel;
use super::slots::Layout;
use super::subscription::FILE as SUBJECT;
use crate::restart::REQUESTS;

/// The most that a self-test may print: it is unproven, and one line is wanted.
const MOST: u64 = 64 * 1024;

/// Every verb but `run` that the units call, as they call it; `run` is what the trial itself is.
pub(crate) const VERBS: [&str; 4] = [
    "configure",
    "restart-requested",
    "update run",
    "update repair",
];

/// Exit codes of a verb that did what it should: done; and for `update run` that nothing came of it, since the tree
/// that it is run in has no channel.
const WELL: [i32; 2] = [0, 4];

/// Runs a release's own `update probe`, and its other verbs in a tree of their own.
#[derive(Clone, Debug, Default)]
pub struct SelfTest {
    arguments: Vec<OsString>,
    sources: Vec<OsString>,
    scratch: PathBuf,
    unit: Option<String>,
}

impl SelfTest {
    /// With arguments beyond `update probe`: where an instance, or a test, has its things elsewhere.
    #[must_use]
    pub fn with(arguments: Vec<OsString>) -> Self {
        Self {
            arguments,
            ..Self::default()
        }
    }

    /// With what the other verbs need: a directory of their own, which is made and removed, the arguments that name
    /// the host's settings, and a service's unit of those.
    #[must_use]
    pub fn exercising(self, scratch: &Path, sources: Vec<OsString>, unit: Option<String>) -> Self {
        Self {
            sources,
            scratch: scratch.to_owned(),
            unit,
            ..self
        }
    }
}

#[async_trait]
impl Probe for SelfTest {
    async fn probe(&mut self, binary: &Path) -> Result<Version, TestFailure> {
        let mut command = Command::new(binary);
        command.args(["update", "probe"]).args(&self.arguments);
        let said = ended(binary, command, &[0]).await?;
        reported(&said).map_err(|error| TestFailure::Release(format!("{error:#}")))
    }

    async fn exercise(&mut self, binary: &Path) -> Result<(), (String, TestFailure)> {
        let scratch = Scratch::new(&self.scratch);
        let tree = Tree::make(&self.scratch, binary, self.unit.as_deref()).map_err(|error| {
            let why = format!("cannot make a tree to run it in: {error:#}");
            (VERBS[0].to_owned(), TestFailure::Environment(why))
        })?;
        for verb in VERBS {
            let mut command = Command::new(binary);
            command.args(verb.split(' ')).args(tree.arguments(verb));
            command.args(&self.sources).env("PATH", tree.path());
            let well: &[i32] = if verb == "update run" { &WELL } else { &[0] };
            let ended = ended(binary, command, well).await;
            ended.map_err(|failure| (verb.to_owned(), failure))?;
        }
        drop(scratch);
        Ok(())
    }
}

/// Runs a program of a release to its end and returns what it printed.
async fn ended(binary: &Path, mut command: Command, well: &[i32]) -> Result<String, TestFailure> {
    let release = |why: String| Err(TestFailure::Release(why));
    let environment = |why: String| TestFailure::Environment(why);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Its log is part of ours.
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            let why = format!("cannot run {}: {error}", binary.display());
            match blame::of_spawn(&error) {
                FailureKind::Crashed => TestFailure::Release(why),
                _ => environment(why),
            }
        })?;
    let mut said = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let read = stdout.take(MOST + 1).read_to_end(&mut said).await;
        read.map_err(|error| environment(format!("cannot read what it prints: {error}")))?;
    }
    if u64::try_from(said.len()).is_ok_and(|length| length > MOST) {
        return release(format!("it prints more than {MOST} bytes"));
    }
    let status = child
        .wait()
        .await
        .map_err(|error| environment(format!("cannot wait for it: {error}")))?;
    if status.code().is_some_and(|code| well.contains(&code)) {
        return Ok(String::from_utf8_lossy(&said).into_owned());
    }
    let why = format!("it ended with {status}");
    match blame::of_exit(status) {
        FailureKind::Crashed => release(why),
        _ => Err(environment(why)),
    }
}

/// A tree in which a release's verbs can do all that they do, and nothing comes of it: the release is its factory
/// slot, its channel is not there, and its `systemctl` does nothing.
struct Tree(PathBuf);

impl Tree {
    fn make(at: &Path, binary: &Path, unit: Option<&str>) -> Result<Self> {
        let tree = Self(at.to_owned());
        let root = tree.0.join("root");
        let below = |path: &str| root.join(path.trim_start_matches('/'));
        let (factory, slots) = (below(layout::FACTORY), below(layout::SLOTS));
        let (daemon, bin) = (tree.0.join("daemon"), tree.0.join("bin"));
        for dir in [
            &factory,
            &slots.join("versions"),
            &slots.join("staging"),
            &daemon.join(REQUESTS),
            &tree.0.join("restarted"),
            &tree.0.join("configured"),
            &bin,
        ] {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let link = |to: &Path, at: PathBuf| {
            symlink(to, &at).with_context(|| format!("cannot link {}", at.display()))
        };
        link(binary, factory.join(BINARY))?;
        link(&factory, slots.join("stable"))?;
        // Where there is none the stable release fails alike.
        let nothing = ["/usr/bin/true", "/bin/true"].map(Path::new);
        if let Some(program) = nothing.iter().find(|path| path.exists()) {
            link(program, bin.join("systemctl"))?;
        }
        let terms = format!(
            "{{\"instance_id\": \"i-0\", \"channel\": \"none\", \"url\": \"file://{}\", \"soak_seconds\": 1}}\n",
            tree.0.join("no-channel").display()
        );
        let write = |path: PathBuf, text: &str| {
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        write(tree.0.join("configured").join(SUBJECT), &terms)?;
        if let Some(unit) = unit {
            write(daemon.join(REQUESTS).join(unit), "")?;
        }
        Ok(tree)
    }

    /// What leads a verb into the tree. No release may be without these flags: the versions of a channel know each
    /// other.
    fn arguments(&self, verb: &str) -> Vec<OsString> {
        let at = |name: &str| self.0.join(name).into_os_string();
        match verb {
            "configure" => vec![
                "--run-dir".into(),
                at("environment"),
                "--patience".into(),
                "0".into(),
            ],
            "restart-requested" => vec![
                "--run-dir".into(),
                at("daemon"),
                "--state".into(),
                at("restarted"),
                "--systemctl".into(),
                at("bin/systemctl"),
            ],
            _ => vec![
                "--root".into(),
                at("root"),
                "--run-dir".into(),
                at("configured"),
                "--daemon-dir".into(),
                at("daemon"),
            ],
        }
    }

    fn path(&self) -> OsString {
        let mut path = self.0.join("bin").into_os_string();
        if let Some(rest) = std::env::var_os("PATH") {
            path.push(":");
            path.push(rest);
        }
        path
    }
}

/// A directory for one test, gone with it; a leftover of one that was killed goes first.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(at: &Path) -> Self {
        let it = Self(at.to_owned());
        it.clear();
        it
    }

    fn clear(&self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The version in the last line: `imagebuilder-agent 1.2.0`.
fn reported(said: &str) -> Result<Version> {
    let last = said.lines().next_back().unwrap_or_default();
    let version = last
        .strip_prefix(BINARY)
        .and_then(|rest| rest.strip_prefix(' '))
        .and_then(|version| Version::parse(version).ok());
    let shown = crate::text::line(last, 80);
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
/// This binary could not update this instance again, or the channel cannot be read now: whose fault it is, is
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
