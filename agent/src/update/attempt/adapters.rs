//! What an attempt needs of the instance, as traits narrow enough for tests to stand in for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use contract::registry::Verdict;
use jiff::Timestamp;
use semver::Version;

use crate::status_file::{DaemonStatus, PermissionAnswer};
use crate::update::channel::Channel;
use crate::update::plan::Windows;
use crate::update::slots::Slots;
use crate::update::state::Store;
use crate::update::status::UpdaterStatusFile;

/// Everything an attempt acts on.
#[expect(
    missing_debug_implementations,
    reason = "most of it is somebody else's"
)]
pub struct Adapters {
    /// What this instance follows.
    pub policy: UpdatePolicy,
    /// The signed channel.
    pub channel: Box<dyn Channel>,
    /// The slots.
    pub slots: Slots,
    /// What is remembered.
    pub store: Store,
    /// What everybody may read.
    pub status_file: UpdaterStatusFile,
    /// systemd.
    pub units: Box<dyn Units>,
    /// The releases' self-test.
    pub probe: Box<dyn Probe>,
    /// The daemon.
    pub daemon: Box<dyn Daemon>,
    /// The wall clock.
    pub clock: Box<dyn Clock>,
    /// The kernel's boot id.
    pub boot: String,
}

/// What this instance follows: of `update.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdatePolicy {
    /// This instance: `i-…`, or `machine-…` where there is no metadata service.
    pub instance_id: String,
    /// The channel's name.
    pub channel: String,
    /// When the daemon may be restarted.
    pub windows: Windows,
    /// How long a trial runs before it is confirmed.
    pub soak: Duration,
}

/// The two units an attempt drives; which names they have is the implementation's to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// `imagebuilder-agent.service`, from the link `stable`.
    Stable,
    /// `imagebuilder-agent-trial.service`, from the link `trial`.
    Trial,
}

/// systemd's `ActiveState=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Active {
    /// Not running; its last run ended in order, or there was none.
    Inactive,
    /// Being started, or reloading.
    Activating,
    /// Running and ready.
    Active,
    /// Being stopped.
    Deactivating,
    /// Not running; its last run failed.
    Failed,
}

/// What systemd says of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitState {
    /// `ActiveState=`.
    pub active: Active,
    /// `MainPID=`; `None` when there is none.
    pub pid: Option<u32>,
    /// `Result=` of its last run: `success`, `exit-code`, `signal`, `watchdog`, `timeout`, …
    pub result: String,
    /// `ExecMainStatus=`: the exit code or the signal of its last main process.
    pub status: Option<i32>,
}

/// systemd.
#[async_trait]
pub trait Units: Send {
    /// Starts a unit and waits for the job's end: for the daemon, until it said that it is ready. Starting
    /// either stops the other (`Conflicts=`). Forgets an earlier failure first (`reset-failed`).
    async fn start(&mut self, unit: Unit) -> Result<()>;

    /// Stops a unit and waits for the job's end, and forgets how it failed; one that does not run is well.
    async fn stop(&mut self, unit: Unit) -> Result<()>;

    /// What it says of a unit.
    async fn state(&mut self, unit: Unit) -> Result<UnitState>;
}

/// Why a release did not pass a test of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TestFailure {
    /// It could not be started, or was ended from outside.
    Environment(String),
    /// It ended by itself, and not well.
    Release(String),
}

/// The self-test of a release: `update probe`, of its own binary.
#[async_trait]
pub trait Probe: Send {
    /// Runs it within the updater's own sandbox, against a copy of the channel's metadata, and returns
    /// the version it reports of itself.
    async fn probe(&mut self, binary: &Path) -> Result<Version, TestFailure>;

    /// Runs every verb that the units call, in a tree of its own where nothing can be started or changed. The error
    /// names the first that failed.
    async fn exercise(&mut self, binary: &Path) -> Result<(), (String, TestFailure)>;
}

/// What the daemon in charge says of the instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The daemon's version.
    pub version: String,
    /// The daemon's process id.
    pub pid: u32,
    /// Whether it reached a first verdict since the instance booted.
    pub judged: bool,
    /// Whether the instance is fit.
    pub fit: bool,
    /// Whether the instance was told to leave.
    pub terminating: bool,
    /// The services that pass, by name.
    pub passing: Vec<String>,
    /// Its answer to a wish to be restarted: granted or not, why not, and when it was given.
    pub permission: Option<(bool, String, Timestamp)>,
}

/// The daemon, through its status.
pub trait Daemon: Send {
    /// What it last said; `None` when there is no standing, or not one that can be read.
    fn health(&self) -> Option<Health>;
}

/// The daemon's `status.json`.
#[derive(Clone, Debug)]
pub struct StatusReader {
    dir: PathBuf,
}

impl StatusReader {
    /// In the daemon's runtime directory.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }
}

impl Daemon for StatusReader {
    fn health(&self) -> Option<Health> {
        let status = DaemonStatus::read_previous(&self.dir)?;
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
            permission: status.permission.map(
                |PermissionAnswer {
                     granted,
                     reason,
                     at,
                 }| (granted, reason, at),
            ),
        })
    }
}

/// The wall clock; waiting is on tokio's.
pub trait Clock: Send {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The system's clock.
#[derive(Clone, Copy, Debug)]
pub struct System;

impl Clock for System {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
