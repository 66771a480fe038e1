//! The self-test of a release, `update probe`, and how an attempt runs it.
//!
//! The running version starts the new one's binary from its slot, in the updater's own sandbox, before the trial and
//! once more after it. Before the trial it also runs every other verb that the units call, in a directory tree of
//! their own. A release that cannot read this instance's settings, verify the channel or write the slots must not
//! become stable: it could never be replaced by itself. A test changes nothing: it works on a copy of the updater's
//! files.

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

/// Longest output of a self-test: it is untrusted, and one line is expected.
const MOST: u64 = 64 * 1024;

/// Every verb that the units call, except `run`, which the trial tests.
pub(crate) const VERBS: [&str; 4] = [
    "configure",
    "restart-requested",
    "update run",
    "update repair",
];

/// Exit codes of a verb that succeeded: 0; and for `update run` also 4, nothing changed, since its tree has no
/// channel.
const WELL: [i32; 2] = [0, 4];

/// What a release's other verbs are run with.
#[derive(Clone, Debug, Default)]
pub struct VerbInputs {
    /// The flags that name the host's settings.
    pub flags: Vec<OsString>,
    /// The file below the daemon's runtime directory that requests a restart of a service in them; `None`: no restart
    /// is requested.
    pub restart_request: Option<PathBuf>,
}

/// Runs a release's own `update probe`, and its other verbs in a directory tree of their own.
#[derive(Clone, Debug, Default)]
pub(crate) struct SelfTest {
    arguments: Vec<OsString>,
    verbs: VerbInputs,
    scratch: PathBuf,
}

impl SelfTest {
    /// With further arguments to `update probe`, for other directories.
    #[must_use]
    pub(crate) fn with(arguments: Vec<OsString>) -> Self {
        Self {
            arguments,
            ..Self::default()
        }
    }

    /// With what the other verbs need, and a scratch directory, which is created and removed.
    #[must_use]
    pub(crate) fn exercising(self, scratch: &Path, verbs: VerbInputs) -> Self {
        Self {
            verbs,
            scratch: scratch.to_owned(),
            ..self
        }
    }
}

#[async_trait]
impl Probe for SelfTest {
    async fn probe(&mut self, binary: &Path) -> Result<Version, TestFailure> {
        let mut command = Command::new(binary);
        command.args(["update", "probe"]).args(&self.arguments);
        let output = ended(binary, command, &[0]).await?;
        reported(&output).map_err(|error| TestFailure::Release(format!("{error:#}")))
    }

    async fn exercise(&mut self, binary: &Path) -> Result<(), (String, TestFailure)> {
        let scratch = Scratch::new(&self.scratch);
        let request = self.verbs.restart_request.as_deref();
        let tree = Tree::make(&self.scratch, binary, request).map_err(|error| {
            let why = format!("cannot make a tree to run it in: {error:#}");
            (VERBS[0].to_owned(), TestFailure::Environment(why))
        })?;
        for verb in VERBS {
            let mut command = Command::new(binary);
            command.args(verb.split(' ')).args(tree.arguments(verb));
            command.args(&self.verbs.flags).env("PATH", tree.path());
            let accepted: &[i32] = if verb == "update run" { &WELL } else { &[0] };
            let ended = ended(binary, command, accepted).await;
            ended.map_err(|failure| (verb.to_owned(), failure))?;
        }
        drop(scratch);
        Ok(())
    }
}

/// Runs a program of a release to its end and returns what it printed.
async fn ended(
    binary: &Path,
    mut command: Command,
    accepted: &[i32],
) -> Result<String, TestFailure> {
    let release = |why: String| Err(TestFailure::Release(why));
    let environment = |why: String| TestFailure::Environment(why);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Its log goes to ours.
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
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let read = stdout.take(MOST + 1).read_to_end(&mut output).await;
        read.map_err(|error| environment(format!("cannot read what it prints: {error}")))?;
    }
    if u64::try_from(output.len()).is_ok_and(|length| length > MOST) {
        return release(format!("it prints more than {MOST} bytes"));
    }
    let status = child
        .wait()
        .await
        .map_err(|error| environment(format!("cannot wait for it: {error}")))?;
    if status.code().is_some_and(|code| accepted.contains(&code)) {
        return Ok(String::from_utf8_lossy(&output).into_owned());
    }
    let why = format!("it ended with {status}");
    match blame::of_exit(status) {
        FailureKind::Crashed => release(why),
        _ => Err(environment(why)),
    }
}

/// A directory tree in which a release's verbs run without effect: the release is its factory slot, its channel does
/// not exist, and its `systemctl` does nothing.
struct Tree(PathBuf);

impl Tree {
    fn make(at: &Path, binary: &Path, restart_request: Option<&Path>) -> Result<Self> {
        let tree = Self(at.to_owned());
        let root = tree.0.join("root");
        let below = |path: &str| root.join(path.trim_start_matches('/'));
        let (factory, slots) = (below(layout::FACTORY), below(layout::SLOTS));
        let (daemon, bin) = (tree.0.join("daemon"), tree.0.join("bin"));
        for dir in [
            &factory,
            &slots.join("versions"),
            &slots.join("staging"),
            &daemon,
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
        // Without one the stable release fails in the same way.
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
        if let Some(request) = restart_request.map(|request| daemon.join(request)) {
            if let Some(dir) = request.parent() {
                fs::create_dir_all(dir)
                    .with_context(|| format!("cannot make {}", dir.display()))?;
            }
            write(request, "")?;
        }
        Ok(tree)
    }

    /// The flags that make a verb use the tree. Every release must accept them.
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

/// A directory for one test, removed at its end; a leftover is removed first.
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
fn reported(output: &str) -> Result<Version> {
    let last = output.lines().next_back().unwrap_or_default();
    let version = last
        .strip_prefix(BINARY)
        .and_then(|rest| rest.strip_prefix(' '))
        .and_then(|version| Version::parse(version).ok());
    let shown = support::text::line(last, 80);
    version.with_context(|| format!("its last line is {shown:?}, not `{BINARY} VERSION`"))
}

/// The last line of a successful self-test.
#[must_use]
pub(crate) fn passed() -> String {
    format!("{BINARY} {}", crate::version::version())
}

/// The self-test: verifies the channel with this binary's own code and checks that the slots can be written.
///
/// `channel` works on a copy, made by [`copy`], of the updater's metadata. The caller has read the settings before.
///
/// # Errors
/// This binary could not update this instance again, or the channel cannot be read now; the caller finds out which.
pub(crate) async fn test(channel: &mut dyn Channel, layout: &Layout, now: Timestamp) -> Result<()> {
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

/// Whether a file can be created and removed in a directory.
fn writable(dir: &Path) -> Result<()> {
    let path = dir.join(format!(".probe-{}", std::process::id()));
    let made = fs::write(&path, "probe\n");
    let removed = match fs::remove_file(&path) {
        Err(error) if made.is_err() && error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    };
    made.and(removed)
        .with_context(|| format!("cannot write in {}", dir.display()))
}

/// Copies a directory of plain files and directories for a test. It may not exist.
///
/// # Errors
/// The disk failed.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    let failed = || format!("cannot copy {} to {}", from.display(), to.display());
    fs::create_dir_all(to).with_context(failed)?;
    let entries = match fs::read_dir(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(failed)?,
    };
    for entry in entries {
        let entry = entry.with_context(failed)?;
        let kind = entry.file_type().with_context(failed)?;
        let beside = to.join(entry.file_name());
        if kind.is_dir() {
            copy(&entry.path(), &beside)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &beside).with_context(failed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
