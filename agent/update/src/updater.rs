//! The updater of one instance: the parts of an attempt, set up on the instance's own files.
//!
//! [`super::attempt`] does the work.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use jiff::Timestamp;

use super::attempt::{
    self, Adapters, Daemon, Ended, Probe as _, System, TestFailure, UpdatePolicy,
};
use super::channel::{Catalogue, Channel, Offer, Place, TufChannel};
use super::channel::{Cause, Refusal};
use super::operator::OperatorOverride;
use super::phases::Outcome;
use super::plan::Windows;
use super::probe::{self, Scratch, SelfTest, VerbInputs};
use super::slots::{Layout, Slots};
use super::state::Store;
use super::status::{UpdaterStatus, UpdaterStatusFile};
use super::subscription::{Subject, Subscription, machine_name};
use super::systemd::{Systemctl, boot_id};

/// Directory of the channel's metadata, in the updater's state directory.
const METADATA: &str = "tuf";

/// Directory of a self-test's copy of it, in the updater's runtime directory.
const SCRATCH: &str = "probe";

/// Directory of the tree that a release's other verbs run in, in the updater's runtime directory.
const VERBS: &str = "verbs";

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunResult {
    /// Updated, nothing to do, or waiting as intended: no operator needs to act.
    Done,
    /// Nothing changed, because the channel, the disk or systemd failed; the next run tries again.
    Postponed,
    /// A release failed on this instance, which runs its stable agent.
    Failed,
}

/// The updater of one instance.
#[derive(Clone, Debug)]
pub struct Updater {
    root: PathBuf,
    layout: Layout,
}

impl Updater {
    /// The updater of the instance whose files are below `root`: `/` on an instance.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            layout: Layout::below(root),
        }
    }

    /// `update run`: one attempt, from checking the channel to the commit, or nothing if `subject` follows no channel.
    ///
    /// # Errors
    /// The updater's own state or the links cannot be read or written. The instance is then on its stable agent, or
    /// systemd puts it there.
    pub async fn run(
        &self,
        subject: Subject,
        daemon: Box<dyn Daemon>,
        verbs: VerbInputs,
    ) -> Result<RunResult> {
        let Some(terms) = subject.subscription else {
            tracing::info!("this instance follows no channel");
            return Ok(RunResult::Done);
        };
        let channel = self.channel(&terms, &self.layout);
        let policy = UpdatePolicy {
            instance_id: subject.instance_id,
            channel: terms.channel,
            windows: terms.windows,
            soak: terms.soak,
        };
        let mut adapters = self.adapters(policy, channel, daemon)?;
        adapters.probe = Box::new(self.self_test().exercising(&self.verbs(), verbs));
        let ended = attempt::run(adapters).await?;
        Ok(match &ended {
            it if it.is_well() => RunResult::Done,
            Ended::With(Outcome::Failed { .. }) => RunResult::Failed,
            _ => RunResult::Postponed,
        })
    }

    /// `update repair`: goes back to a stable release that can run, and returns its name. Depends on nothing that may
    /// be invalid itself, such as the settings; `configured` is the directory that `configure` writes.
    ///
    /// # Errors
    /// Another updater is running, or the links cannot be changed.
    pub async fn repair(&self, configured: &Path, daemon: Box<dyn Daemon>) -> Result<String> {
        let store = Store::new(&self.layout.state);
        let instance_id = match Subject::read(configured) {
            Some(subject) => subject.instance_id,
            // Without it the state cannot be recognised as another instance's.
            None => match store.owner() {
                Some(owner) => owner,
                None => machine_name()?,
            },
        };
        let policy = UpdatePolicy {
            instance_id,
            channel: String::new(),
            windows: Windows::default(),
            soak: Duration::ZERO,
        };
        let closed = Box::new(Closed(Refusal {
            cause: Cause::NoRoot,
            detail: "a repair reads no channel".to_owned(),
        }));
        let repaired = attempt::repair(self.adapters(policy, closed, daemon)?).await?;
        Ok(repaired.to_string())
    }

    /// `update probe`: whether this binary could update this instance again. Returns the line that reports success.
    ///
    /// # Errors
    /// It could not, or the channel cannot be read now.
    pub async fn probe(&self, subject: Subject) -> Result<String> {
        let terms = subject
            .subscription
            .context("the settings have no channel")?;
        let at = self.layout.run.join(SCRATCH);
        let _scratch = Scratch::new(&at);
        probe::copy(&self.layout.state.join(METADATA), &at.join(METADATA))?;
        let copied = Layout {
            state: at,
            ..self.layout.clone()
        };
        let mut channel = self.channel(&terms, &copied);
        probe::test(channel.as_mut(), &self.layout, Timestamp::now()).await?;
        Ok(probe::passed())
    }

    /// Runs every verb of a release that the units call, as an attempt does before the release's trial.
    ///
    /// # Errors
    /// The first verb that failed, and why.
    pub async fn exercise(&self, binary: &Path, verbs: VerbInputs) -> Result<()> {
        let mut test = self.self_test().exercising(&self.verbs(), verbs);
        test.exercise(binary).await.map_err(|(verb, failure)| {
            let (TestFailure::Environment(why) | TestFailure::Release(why)) = failure;
            anyhow::anyhow!("{verb}: {why}")
        })
    }

    /// The operator's overrides on this instance. Each line that confirms one goes to `print`; `configured` is the
    /// directory that `configure` writes.
    ///
    /// # Errors
    /// The instance has no name.
    pub fn overrides(&self, configured: &Path, print: fn(&str)) -> Result<OperatorOverride> {
        OperatorOverride::open(&self.layout, configured, print)
    }

    /// The updater's last status; empty if it never ran.
    #[must_use]
    pub fn status(&self) -> UpdaterStatus {
        UpdaterStatus::read(&self.layout.run)
    }

    fn verbs(&self) -> PathBuf {
        self.layout.run.join(VERBS)
    }

    fn adapters(
        &self,
        policy: UpdatePolicy,
        channel: Box<dyn Channel>,
        daemon: Box<dyn Daemon>,
    ) -> Result<Adapters> {
        Ok(Adapters {
            policy,
            channel,
            daemon,
            store: Store::new(&self.layout.state).also_called(machine_name().ok()),
            status_file: UpdaterStatusFile::new(&self.layout.run),
            units: Box::new(Systemctl::default()),
            probe: Box::new(self.self_test()),
            clock: Box::new(System),
            boot: boot_id()?,
            slots: Slots::new(self.layout.clone()),
        })
    }

    fn self_test(&self) -> SelfTest {
        // A self-test inherits the environment, which may set further directories.
        SelfTest::with(if self.root == Path::new("/") {
            Vec::new()
        } else {
            vec!["--root".into(), self.root.clone().into()]
        })
    }

    /// The channel. One that cannot be opened refuses every check, so that the run still does everything else.
    fn channel(&self, terms: &Subscription, layout: &Layout) -> Box<dyn Channel> {
        let mut place = Place::new(&terms.url, &layout.channel, &layout.state.join(METADATA));
        place.ca_file.clone_from(&terms.ca_file);
        place.plain_http = terms.plain_http;
        let opened = match terms.proxy.effective() {
            Ok(proxy) => {
                if !proxy.is_none() {
                    tracing::info!("proxies of the channel: {proxy}");
                }
                place.proxy = proxy;
                TufChannel::open(&place)
            }
            Err(error) => Err(Refusal {
                cause: Cause::Misconfigured,
                detail: format!("{error:#}"),
            }),
        };
        match opened {
            Ok(channel) => Box::new(channel),
            Err(refusal) => Box::new(Closed(refusal)),
        }
    }
}

/// A channel that could not be opened.
struct Closed(Refusal);

#[async_trait]
impl Channel for Closed {
    async fn refresh(&mut self, _now: Timestamp) -> Result<Catalogue, Refusal> {
        Err(self.0.clone())
    }

    async fn fetch(&mut self, _offer: &Offer, _part: &Path) -> Result<(), Refusal> {
        Err(self.0.clone())
    }
}
