//! The actions of an attempt: one method each, answered by one event.

use std::path::{Path, PathBuf};
use std::time::Duration;

use contract::layout::BINARY;
use jiff::Timestamp;
use semver::Version;
use support::text;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::adapters::{ActiveState, Unit};
use super::{Attempt, Health, TestFailure};
use crate::blame::{self, FailureKind, Failures};
use crate::build::Build;
use crate::channel::Cause;
use crate::channel::{Catalogue, Offer};
use crate::permission::PermissionAnswer;
use crate::phases::{Action, Checked, Event, Failure, Phase, Withdrawals};
use crate::plan::{self, View};
use crate::slots::{Leads, Link};

/// How long the daemon may take to answer: it polls every 5 s and calls the group at most once a minute.
pub(super) const PERMISSION_TIMEOUT: Duration = Duration::from_secs(60);

/// Poll interval for the daemon's answer.
const PERMISSION_POLL: Duration = Duration::from_secs(1);

/// Longest self-test: it reads the settings and the channel, which has deadlines of its own.
pub(super) const PROBE: Duration = Duration::from_secs(120);

/// Longest exercise of one verb: it reads the settings, and a channel that does not exist.
pub(super) const VERBS: Duration = Duration::from_secs(120);

/// Longest start of a unit: above every `TimeoutStartSec=` of the units, which ends it first.
pub(super) const START: Duration = Duration::from_secs(180);

/// The build of an offer.
pub(super) fn build(offer: &Offer) -> Build {
    Build {
        version: offer.release.version.clone(),
        digest: offer.digest.clone(),
    }
}

impl Attempt {
    /// Carries out one action and returns its result.
    pub(super) async fn act(&mut self, action: Action) -> Event {
        let done = match action {
            Action::Check => return self.check().await,
            Action::AskPermission(_) => return self.ask_permission().await,
            Action::Fetch(offer) => self.fetch(&offer).await,
            Action::Stage(build) => self.stage(&build),
            Action::Probe(build) => self.probe(&build).await,
            Action::Arm(build) => self.arm(&build).await,
            Action::Watch { build, asks } => return self.watch(&build, asks).await,
            Action::Compare(worse) => self.compare(&worse).await,
            Action::Commit(build) => self.commit(&build),
            Action::Restart(build) => self.restart(&build).await,
            // Handled by the caller.
            Action::Revert | Action::Report(_) => Ok(()),
        };
        let at = self.adapters.clock.now();
        match done {
            Ok(()) => Event::Done { at },
            Err(fault) => Event::Failed(fault.failure(at)),
        }
    }

    async fn check(&mut self) -> Event {
        let now = self.adapters.clock.now();
        self.state.checked_at = Some(now);
        match self.adapters.channel.refresh(now).await {
            Ok(catalogue) => self.decide(&catalogue, now).await,
            Err(refusal) => Event::Failed(Failure {
                kind: FailureKind::Environment,
                code: refusal.cause.code().to_owned(),
                reason: refusal.detail,
                at: now,
            }),
        }
    }

    async fn decide(&mut self, catalogue: &Catalogue, now: Timestamp) -> Event {
        self.state.verified_at = Some(now);
        self.state.metadata = Some(catalogue.versions);
        self.state.metadata_expires = Some(catalogue.expires);
        let first_boot = self.awaits_verdict().await;
        let policy = &self.adapters.policy;
        let overrides = self.adapters.store.overrides(&policy.instance_id);
        let view = View {
            instance_id: &policy.instance_id,
            arch: std::env::consts::ARCH,
            channel: &policy.channel,
            offers: &catalogue.offers,
            current: &self.stable,
            hold: overrides.hold.as_ref(),
            pin: overrides.pin.as_ref(),
            skipped: &self.state.skipped,
            floor: self.state.floor(),
            windows: &policy.windows,
            failures: &self.state.failures,
            requested_at: overrides.now,
            first_boot,
            withheld: self.state.withheld.as_ref(),
        };
        let decision = plan::decide(&view, now);
        let floor = plan::floor(&view);
        let crashes = decision
            .offer()
            .and_then(|offer| blame::of(&self.state.failures, &build(offer)))
            .map_or(0, Failures::crashes);
        let withdrawals = withdrawals(catalogue);
        self.decision = Some(decision.clone());
        Event::Checked(Box::new(Checked {
            decision,
            floor,
            crashes,
            withheld: self.state.withheld.clone(),
            withdrawals,
            stable: self.stable.clone(),
            boot: self.adapters.boot.clone(),
            at: now,
        }))
    }

    /// Whether the daemon runs and has not reached its first verdict. One that does not run never will.
    async fn awaits_verdict(&mut self) -> bool {
        if self.adapters.daemon.health().is_some_and(|it| it.judged) {
            return false;
        }
        match self.adapters.units.state(Unit::Stable).await {
            Ok(it) => matches!(it.active, ActiveState::Active | ActiveState::Activating),
            Err(error) => {
                warn!("cannot read the state of the stable unit: {error:#}");
                true
            }
        }
    }

    async fn fetch(&mut self, offer: &Offer) -> Result<(), Fault> {
        let build = build(offer);
        if self.adapters.slots.verify(&build).is_ok() {
            info!("{} is in its slot already", build.version);
            return Ok(());
        }
        let slots = &self.adapters.slots;
        if let Err(error) = slots.room_for(offer.length) {
            self.drop_part(&build);
            return Err(Fault::environment("no-room", format!("{error:#}")));
        }
        let part = slots.part(&build.digest);
        let fetched = self.adapters.channel.fetch(offer, &part).await;
        fetched.map_err(|refusal| {
            if refusal.cause == Cause::Disk {
                self.drop_part(&build);
            }
            Fault::environment(refusal.cause.code(), refusal.detail)
        })
    }

    fn stage(&mut self, build: &Build) -> Result<(), Fault> {
        let staged = self.adapters.slots.admit(build);
        staged.map_err(|error| {
            self.drop_part(build);
            Fault::environment("disk", format!("{error:#}"))
        })
    }

    async fn probe(&mut self, build: &Build) -> Result<(), Fault> {
        let slots = &self.adapters.slots;
        // Unsigned bytes are never run, not even for a test.
        slots
            .verify(build)
            .map_err(|error| Fault::environment("slot", format!("{error:#}")))?;
        let binary = slots.binary(build);
        match self.self_test(&binary).await {
            Ok(version) if version == build.version => {}
            Ok(version) => return Err(Fault::other_version(build, &version)),
            Err(TestFailure::Environment(why)) => {
                return Err(Fault::environment(
                    "probe",
                    format!("its self-test was interrupted: {why}"),
                ));
            }
            Err(TestFailure::Release(why)) => return Err(self.failed_test(why).await),
        }
        if matches!(self.state.phase, Phase::Preflight(_)) {
            self.exercise(&binary).await?;
        }
        Ok(())
    }

    async fn self_test(&mut self, binary: &Path) -> Result<Version, TestFailure> {
        let tested = timeout(PROBE, self.adapters.probe.probe(binary)).await;
        tested.unwrap_or_else(|_| {
            let why = format!("it did not end within {} s", PROBE.as_secs());
            Err(TestFailure::Release(why))
        })
    }

    /// Who is to blame for a failed self-test. Not the release if the channel cannot be read now, or if the stable
    /// release fails its own self-test as well.
    async fn failed_test(&mut self, why: String) -> Fault {
        let now = self.adapters.clock.now();
        if let Err(refusal) = self.adapters.channel.refresh(now).await {
            return Fault::environment(refusal.cause.code(), refusal.detail);
        }
        let stable = self.stable_binary();
        match self.self_test(&stable).await {
            Ok(_) => Fault::crashed("probe", format!("its self-test failed: {why}")),
            Err(TestFailure::Release(also) | TestFailure::Environment(also)) => Fault::environment(
                "probe",
                format!("its self-test failed ({why}), and so did the stable release's: {also}"),
            ),
        }
    }

    /// Runs every verb that the units call, in a directory tree of its own. The release is blamed only for verbs that
    /// the stable release passes.
    async fn exercise(&mut self, binary: &Path) -> Result<(), Fault> {
        let failed = timeout(VERBS, self.adapters.probe.exercise(binary)).await;
        let (verb, failure) = match failed {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(failed)) => failed,
            Err(_) => {
                let why = format!("it did not end within {} s", VERBS.as_secs());
                ("its verbs".to_owned(), TestFailure::Release(why))
            }
        };
        let why = match failure {
            TestFailure::Environment(why) => {
                return Err(Fault::environment(
                    "verb",
                    format!("{verb} could not be run: {why}"),
                ));
            }
            TestFailure::Release(why) => why,
        };
        let stable = self.stable_binary();
        match timeout(VERBS, self.adapters.probe.exercise(&stable)).await {
            Ok(Ok(())) => Err(Fault::crashed("verb", format!("{verb} failed: {why}"))),
            Ok(Err((also, TestFailure::Release(_)))) if also == verb => {
                warn!("{verb} failed ({why}), as that of the stable release does on this host");
                Ok(())
            }
            // The two releases fail at different verbs.
            Ok(Err((also, TestFailure::Release(stable)))) => Err(Fault::crashed(
                "verb",
                format!("{verb} failed: {why} (of the stable release, {also}: {stable})"),
            )),
            Ok(Err((_, TestFailure::Environment(also)))) => Err(Fault::environment(
                "verb",
                format!("{verb} failed ({why}), and the stable release's could not be run: {also}"),
            )),
            Err(_) => Err(Fault::environment(
                "verb",
                format!("{verb} failed ({why}), and the stable release's did not end"),
            )),
        }
    }

    /// The executable of the stable release.
    fn stable_binary(&self) -> PathBuf {
        let slots = &self.adapters.slots;
        match slots.leads(Link::Stable) {
            Leads::Slot(build) => slots.binary(&build),
            _ => slots.layout().factory.join(BINARY),
        }
    }

    pub(super) async fn ask_permission(&mut self) -> Event {
        let since = self.adapters.clock.now();
        self.request_permission(Some(since));
        let answer = self.await_permission(since).await;
        // Requested again by the next run.
        self.request_permission(None);
        answer
    }

    pub(super) fn request_permission(&mut self, since: Option<Timestamp>) {
        self.adapters
            .status_file
            .change(|status| status.permission_requested_since = since);
    }

    async fn await_permission(&mut self, since: Timestamp) -> Event {
        let deadline = Instant::now() + PERMISSION_TIMEOUT;
        loop {
            match self.adapters.units.state(Unit::Stable).await {
                Ok(it) if matches!(it.active, ActiveState::Inactive | ActiveState::Failed) => {
                    info!("the stable agent does not run: its permission is not needed");
                    return Event::Permitted;
                }
                Ok(_) => {}
                Err(error) => warn!("cannot read the state of the stable unit: {error:#}"),
            }
            let answer = self.adapters.daemon.health().and_then(|it| it.permission);
            match answer.filter(|answer| answer.at >= since) {
                Some(answer) if answer.granted => return Event::Permitted,
                Some(PermissionAnswer { reason, .. }) => {
                    let at = self.adapters.clock.now();
                    return Event::NotPermitted { reason, at };
                }
                None if Instant::now() >= deadline => {
                    let reason = format!(
                        "the agent did not answer within {} s",
                        PERMISSION_TIMEOUT.as_secs()
                    );
                    let at = self.adapters.clock.now();
                    return Event::NotPermitted { reason, at };
                }
                None => sleep(PERMISSION_POLL).await,
            }
        }
    }

    async fn arm(&mut self, build: &Build) -> Result<(), Fault> {
        self.before = self.baseline().await;
        self.adapters
            .slots
            .arm(build)
            .map_err(|error| Fault::environment("slot", format!("{error:#}")))?;
        let why = match timeout(START, self.adapters.units.start(Unit::Trial)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("not started within {} s", START.as_secs()),
        };
        match self.adapters.units.state(Unit::Trial).await {
            Ok(it) if it.active == ActiveState::Failed => Err(Fault::of(
                blame::of_unit(&it.result, it.status),
                "trial-start",
                format!("it did not start: {}", it.result),
            )),
            _ => Err(Fault::environment("systemd", why)),
        }
    }

    /// The instance's health before the trial; `None` if no daemon runs.
    async fn baseline(&mut self) -> Option<Health> {
        match self.adapters.units.state(Unit::Stable).await {
            Ok(it) if it.active == ActiveState::Active => self.adapters.daemon.health(),
            _ => None,
        }
    }

    fn commit(&mut self, build: &Build) -> Result<(), Fault> {
        self.adapters
            .slots
            .promote(build)
            .map_err(|error| Fault::environment("commit", format!("{error:#}")))?;
        self.stable = build.clone();
        Ok(())
    }

    async fn restart(&mut self, build: &Build) -> Result<(), Fault> {
        let fault = |reason| Err(Fault::environment("restart", reason));
        match timeout(START, self.adapters.units.start(Unit::Stable)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return fault(format!("{error:#}")),
            Err(_) => return fault(format!("not started within {} s", START.as_secs())),
        }
        match self.adapters.units.state(Unit::Stable).await {
            Ok(it) if it.active == ActiveState::Active => {}
            Ok(it) => return fault(format!("{} as stable is {:?}", build.version, it.active)),
            Err(error) => return fault(format!("{error:#}")),
        }
        if let Err(error) = self.adapters.slots.disarm() {
            warn!("{error:#}");
        }
        Ok(())
    }
}

/// Which releases for this architecture verified metadata withdrew, and which it did not.
fn withdrawals(catalogue: &Catalogue) -> Withdrawals {
    let ours = |offer: &&Offer| offer.release.arch == std::env::consts::ARCH;
    let (withdrawn, valid): (Vec<&Offer>, Vec<&Offer>) = catalogue
        .offers
        .iter()
        .filter(ours)
        .partition(|offer| offer.release.withdrawn.is_some());
    Withdrawals {
        withdrawn: withdrawn.into_iter().map(build).collect(),
        valid: valid.into_iter().map(build).collect(),
    }
}

/// Why an action failed, and who is to blame.
pub(super) struct Fault {
    kind: FailureKind,
    code: String,
    reason: String,
}

impl Fault {
    pub(super) fn of(kind: FailureKind, code: &str, reason: String) -> Self {
        Self {
            kind,
            code: code.to_owned(),
            reason,
        }
    }

    /// Caused by the release's own bytes.
    pub(super) fn crashed(code: &str, reason: String) -> Self {
        Self::of(FailureKind::Crashed, code, reason)
    }

    pub(super) fn environment(code: &str, reason: String) -> Self {
        Self::of(FailureKind::Environment, code, reason)
    }

    fn other_version(build: &Build, reported: &Version) -> Self {
        Self::crashed(
            "version",
            format!("it reports version {reported}, not {}", build.version),
        )
    }

    pub(super) fn failure(self, at: Timestamp) -> Failure {
        Failure {
            kind: self.kind,
            code: self.code,
            reason: text::line(&self.reason, text::REASON),
            at,
        }
    }
}
