//! The adapters of an attempt, as traits that tests can replace.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use jiff::Timestamp;
use semver::Version;

use crate::channel::Channel;
use crate::permission::PermissionAnswer;
use crate::plan::Windows;
use crate::slots::Slots;
use crate::state::Store;
use crate::status::UpdaterStatusFile;

/// Everything an attempt acts on.
pub(crate) struct Adapters {
    /// What the instance follows, and when.
    pub(crate) policy: UpdatePolicy,
    /// The signed channel.
    pub(crate) channel: Box<dyn Channel>,
    /// The slots.
    pub(crate) slots: Slots,
    /// The updater's state.
    pub(crate) store: Store,
    /// The updater's status file.
    pub(crate) status_file: UpdaterStatusFile,
    /// systemd.
    pub(crate) units: Box<dyn Units>,
    /// The releases' self-test.
    pub(crate) probe: Box<dyn Probe>,
    /// The daemon.
    pub(crate) daemon: Box<dyn Daemon>,
    /// The wall clock.
    pub(crate) clock: Box<dyn Clock>,
    /// The kernel's boot id.
    pub(crate) boot: String,
}

/// The update settings of this instance, from `update.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UpdatePolicy {
    /// This instance: `i-…`, or `machine-…` where there is no metadata service.
    pub(crate) instance_id: String,
    /// The channel's name.
    pub(crate) channel: String,
    /// When the daemon may be restarted.
    pub(crate) windows: Windows,
    /// How long a trial runs before it is confirmed.
    pub(crate) soak: Duration,
}

/// The two units that an attempt drives; their names are in the implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// `imagebuilder-agent.service`, from the link `stable`.
    Stable,
    /// `imagebuilder-agent-trial.service`, from the link `trial`.
    Trial,
}

/// systemd's `ActiveState=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ActiveState {
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
pub(crate) struct UnitState {
    /// `ActiveState=`.
    pub(crate) active: ActiveState,
    /// `MainPID=`; `None` when there is none.
    pub(crate) pid: Option<u32>,
    /// `Result=` of its last run: `success`, `exit-code`, `signal`, `watchdog`, `timeout`, …
    pub(crate) result: String,
    /// `ExecMainStatus=`: the exit code or the signal of its last main process.
    pub(crate) status: Option<i32>,
}

/// systemd.
#[async_trait]
pub(crate) trait Units: Send {
    /// Starts a unit and waits for the job to end: for the daemon, until it is ready. Starting either stops the other
    /// (`Conflicts=`). Resets an earlier failure first (`reset-failed`).
    async fn start(&mut self, unit: Unit) -> Result<()>;

    /// Has a unit started, without waiting for the job: it may last until the unit's last restart has failed, and what systemd
    /// starts then (`OnFailure=`) must not be this process still. Resets an earlier failure first.
    async fn begin(&mut self, unit: Unit) -> Result<()>;

    /// Stops a unit, waits for the job to end, and resets its failure; stopping a unit that does not run is no error.
    async fn stop(&mut self, unit: Unit) -> Result<()>;

    /// The state of a unit.
    async fn state(&mut self, unit: Unit) -> Result<UnitState>;
}

/// Why a release failed a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TestFailure {
    /// It could not be started, or was stopped by another process.
    Environment(String),
    /// It failed by itself.
    Release(String),
}

/// The self-test of a release: `update probe`, run by its own binary.
#[async_trait]
pub(crate) trait Probe: Send {
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
pub(crate) trait Clock: Send {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The system's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct System;

impl Clock for System {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
