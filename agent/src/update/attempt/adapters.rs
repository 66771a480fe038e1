//! The adapters of an attempt, as traits that tests can replace.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use jiff::Timestamp;
use semver::Version;

use crate::update::channel::Channel;
use crate::update::permission::PermissionAnswer;
use crate::update::plan::Windows;
use crate::update::slots::Slots;
use crate::update::state::Store;
use crate::update::status::UpdaterStatusFile;

/// Everything an attempt acts on.
#[expect(
    missing_debug_implementations,
    reason = "most fields are trait objects"
)]
pub struct Adapters {
    /// What the instance follows, and when.
    pub policy: UpdatePolicy,
    /// The signed channel.
    pub channel: Box<dyn Channel>,
    /// The slots.
    pub slots: Slots,
    /// The updater's state.
    pub store: Store,
    /// The updater's status file.
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

/// The update settings of this instance, from `update.json`.
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

/// The two units that an attempt drives; their names are in the implementation.
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
    /// Not running; its last run succeeded, or there was none.
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

/// The state of a unit.
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
    /// Starts a unit and waits for the job to end: for the daemon, until it is ready. Starting either stops the other
    /// (`Conflicts=`). Resets an earlier failure first (`reset-failed`).
    async fn start(&mut self, unit: Unit) -> Result<()>;

    /// Stops a unit, waits for the job to end, and resets its failure; stopping a unit that does not run is no error.
    async fn stop(&mut self, unit: Unit) -> Result<()>;

    /// The state of a unit.
    async fn state(&mut self, unit: Unit) -> Result<UnitState>;
}

/// Why a release failed a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TestFailure {
    /// It could not be started, or was stopped by another process.
    Environment(String),
    /// It failed by itself.
    Release(String),
}

/// The self-test of a release: `update probe`, run by its own binary.
#[async_trait]
pub trait Probe: Send {
    /// Runs it in the updater's own sandbox, against a copy of the channel's metadata, and returns the version that
    /// it reports.
    async fn probe(&mut self, binary: &Path) -> Result<Version, TestFailure>;

    /// Runs every verb that the units call, in a directory tree where nothing can be started or changed. The error
    /// has the first verb that failed.
    async fn exercise(&mut self, binary: &Path) -> Result<(), (String, TestFailure)>;
}

/// The instance's health, from the running daemon.
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
    /// Whether the instance is being terminated.
    pub terminating: bool,
    /// The services that pass, by name.
    pub passing: Vec<String>,
    /// Its answer to a request for permission; `None` if there is none.
    pub permission: Option<PermissionAnswer>,
}

/// The daemon.
pub trait Daemon: Send {
    /// Its last status; `None` if there is none that can be read.
    fn health(&self) -> Option<Health>;
}

/// The wall clock; pauses use tokio's clock.
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
