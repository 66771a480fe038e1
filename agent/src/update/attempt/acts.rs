//! What the machine asks for, done: one method an action, each answered by one event.

use std::time::Duration;

use jiff::Timestamp;
use semver::Version;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::world::{Active, Unit};
use super::{Attempt, Health};
use crate::update::board::Build;
use crate::update::channel::{Catalogue, Offer};
use crate::update::machine::{Action, Blame, Checked, Event, Failure};
use crate::update::plan::{self, View};
use crate::update::refusal::Cause;

/// How long the daemon may take to give its leave: it looks every 5 s and asks the group at most once a
/// minute.
pub(super) const LEAVE: Duration = Duration::from_secs(60);

/// Between two looks for the daemon's answer.
const ANSWERS: Duration = Duration::from_secs(1);

/// The longest self-test: it reads the settings and the channel, which has deadlines of its own.
pub(super) const PROBE: Duration = Duration::from_secs(120);

/// The longest start of a unit: above every `TimeoutStartSec=` of ours, which ends it in order.
pub(super) const START: Duration = Duration::from_secs(180);

/// The build that an offer is of.
pub(super) fn build(offer: &Offer) -> Build {
    Build {
        version: offer.release.version.clone(),
        digest: offer.digest.clone(),
    }
}

impl Attempt {
    /// Does one action and says what came of it.
    pub(super) async fn act(&mut self, action: Action) -> Event {
        let done = match action {
            Action::Check => return self.check().await,
            Action::AskLeave(_) => return self.ask_leave().await,
            Action::Fetch(offer) => self.fetch(&offer).await,
            Action::Stage(build) => self.stage(&build),
            Action::Probe(build) => self.probe(&build).await,
            Action::Arm(build) => self.arm(&build).await,
            Action::Watch(build) => self.watch(&build).await,
            Action::Commit(build) => self.commit(&build),
            Action::Restart(build) => self.restart(&build).await,
            // The driver's own.
            Action::Revert | Action::Report(_) => Ok(()),
        };
        let at = self.world.clock.now();
        match done {
            Ok(()) => Event::Done { at },
            Err(fault) => Event::Failed(Failure {
                blame: fault.blame,
                code: fault.code,
                reason: fault.reason,
                at,
            }),
        }
    }

    async fn check(&mut self) -> Event {
        let now = self.world.clock.now();
        self.state.checked_at = Some(now);
        match self.world.channel.refresh(now).await {
            Ok(catalogue) => self.decide(&catalogue, now).await,
            Err(refusal) => Event::Failed(Failure {
                blame: Blame::World,
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
        let course = &self.world.course;
        let orders = self.world.store.orders(&course.instance_id);
        let view = View {
            instance_id: &course.instance_id,
            arch: std::env::consts::ARCH,
            channel: &course.channel,
            offers: &catalogue.offers,
            current: &self.stable,
            hold: orders.hold.as_ref(),
            pin: orders.pin.as_ref(),
            skipped: &self.state.skipped,
            floor: self.state.floor(),
            windows: &course.windows,
            setback: orders.past(self.state.setback.as_ref()),
            first_boot,
        };
        let decision = plan::decide(&view, now);
        let floor = plan::floor(&view);
        let strikes = decision
            .offer()
            .and_then(|offer| self.state.strikes.get(&offer.digest))
            .copied()
            .unwrap_or_default();
        self.decision = Some(decision.clone());
        Event::Checked(Box::new(Checked {
            decision,
            floor,
            strikes,
            stable: self.stable.clone(),
            boot: self.world.boot.clone(),
            at: now,
        }))
    }

    /// Whether the daemon runs and has yet to reach its first verdict. One that does not run never will.
    async fn awaits_verdict(&mut self) -> bool {
        if self.world.daemon.health().is_some_and(|it| it.judged) {
            return false;
        }
        match self.world.units.look(Unit::Stable).await {
            Ok(it) => matches!(it.active, Active::Active | Active::Activating),
            Err(error) => {
                warn!("cannot see the stable unit: {error:#}");
                true
            }
        }
    }

    async fn fetch(&mut self, offer: &Offer) -> Result<(), Fault> {
        let build = build(offer);
        if self.world.slots.verify(&build).is_ok() {
            info!("{} is in its slot already", build.version);
            return Ok(());
        }
        let slots = &self.world.slots;
        if let Err(error) = slots.room_for(offer.length) {
            self.drop_part(&build);
            return Err(Fault::world("no-room", format!("{error:#}")));
        }
        let part = slots.part(&build.digest);
        let fetched = self.world.channel.fetch(offer, &part).await;
        fetched.map_err(|refusal| {
            if refusal.cause == Cause::Disk {
                self.drop_part(&build);
            }
            Fault::world(refusal.cause.code(), refusal.detail)
        })
    }

    fn stage(&mut self, build: &Build) -> Result<(), Fault> {
        let staged = self.world.slots.admit(build);
        staged.map_err(|error| {
            self.drop_part(build);
            Fault::world("disk", format!("{error:#}"))
        })
    }

    async fn probe(&mut self, build: &Build) -> Result<(), Fault> {
        let slots = &self.world.slots;
        // Nothing runs whose bytes are not the signed ones: also not for a test.
        slots
            .verify(build)
            .map_err(|error| Fault::world("slot", format!("{error:#}")))?;
        let binary = slots.binary(build);
        let said = timeout(PROBE, self.world.probe.probe(&binary)).await;
        let why = match said {
            Ok(Ok(version)) if version == build.version => return Ok(()),
            Ok(Ok(version)) => return Err(Fault::other_version(build, &version)),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("no end within {} s", PROBE.as_secs()),
        };
        // A release is not to blame for a channel that nobody can read now.
        let now = self.world.clock.now();
        if let Err(refusal) = self.world.channel.refresh(now).await {
            return Err(Fault::world(refusal.cause.code(), refusal.detail));
        }
        Err(Fault::release(
            "probe",
            format!("its self-test failed: {why}"),
        ))
    }

    async fn ask_leave(&mut self) -> Event {
        let since = self.world.clock.now();
        self.wish(Some(since));
        let answer = self.await_leave(since).await;
        // Never latched: the next run asks again.
        self.wish(None);
        answer
    }

    pub(super) fn wish(&mut self, since: Option<Timestamp>) {
        self.world
            .board
            .change(|standing| standing.asks_leave_since = since);
    }

    async fn await_leave(&mut self, since: Timestamp) -> Event {
        let deadline = Instant::now() + LEAVE;
        loop {
            match self.world.units.look(Unit::Stable).await {
                Ok(it) if matches!(it.active, Active::Inactive | Active::Failed) => {
                    info!("the stable agent does not run: its leave is not needed");
                    return Event::Leave;
                }
                Ok(_) => {}
                Err(error) => warn!("cannot see the stable unit: {error:#}"),
            }
            let said = self.world.daemon.health().and_then(|it| it.leave);
            match said.filter(|(_, _, at)| *at >= since) {
                Some((true, _, _)) => return Event::Leave,
                Some((false, reason, _)) => return Event::NoLeave { reason },
                None if Instant::now() >= deadline => {
                    let reason = format!("the agent did not answer within {} s", LEAVE.as_secs());
                    return Event::NoLeave { reason };
                }
                None => sleep(ANSWERS).await,
            }
        }
    }

    async fn arm(&mut self, build: &Build) -> Result<(), Fault> {
        self.before = self.baseline().await;
        self.world
            .slots
            .arm(build)
            .map_err(|error| Fault::world("slot", format!("{error:#}")))?;
        let why = match timeout(START, self.world.units.start(Unit::Trial)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("not started within {} s", START.as_secs()),
        };
        match self.world.units.look(Unit::Trial).await {
            Ok(it) if it.active == Active::Failed => Err(Fault::release(
                "trial-start",
                format!("it did not start: {}", it.result),
            )),
            _ => Err(Fault::world("systemd", why)),
        }
    }

    /// How the box is before the trial; nothing when no daemon is there to say.
    async fn baseline(&mut self) -> Option<Health> {
        match self.world.units.look(Unit::Stable).await {
            Ok(it) if it.active == Active::Active => self.world.daemon.health(),
            _ => None,
        }
    }

    fn commit(&mut self, build: &Build) -> Result<(), Fault> {
        self.world
            .slots
            .promote(build)
            .map_err(|error| Fault::world("commit", format!("{error:#}")))?;
        self.stable = build.clone();
        Ok(())
    }

    async fn restart(&mut self, build: &Build) -> Result<(), Fault> {
        let fault = |reason| Err(Fault::world("restart", reason));
        match timeout(START, self.world.units.start(Unit::Stable)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return fault(format!("{error:#}")),
            Err(_) => return fault(format!("not started within {} s", START.as_secs())),
        }
        match self.world.units.look(Unit::Stable).await {
            Ok(it) if it.active == Active::Active => {}
            Ok(it) => return fault(format!("{} as stable is {:?}", build.version, it.active)),
            Err(error) => return fault(format!("{error:#}")),
        }
        if let Err(error) = self.world.slots.disarm() {
            warn!("{error:#}");
        }
        Ok(())
    }
}

/// Why an action failed, and through whom.
pub(super) struct Fault {
    blame: Blame,
    code: String,
    reason: String,
}

impl Fault {
    pub(super) fn release(code: &str, reason: String) -> Self {
        Self {
            blame: Blame::Release,
            code: code.to_owned(),
            reason,
        }
    }

    pub(super) fn world(code: &str, reason: String) -> Self {
        Self {
            blame: Blame::World,
            code: code.to_owned(),
            reason,
        }
    }

    fn other_version(build: &Build, said: &Version) -> Self {
        Self::release(
            "version",
            format!("it says that it is {said}, not {}", build.version),
        )
    }
}
