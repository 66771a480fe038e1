//! An instance as a model: what lasts, what the power takes along, and an updater that may be cut short between
//! any two of its effects.

use std::collections::{BTreeMap, BTreeSet};

use contract::release::Withdrawal;
use jiff::SignedDuration;

use super::*;
use crate::blame::{self, Failures};
use crate::plan::{self, View, Windows};
use crate::status::{Hold, Skipped};

/// What a release does on this instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nature {
    Good,
    /// Its first self-test fails.
    FailsPreflight,
    /// Ends as soon as it is started.
    Crashes,
    /// Ends, or hangs and is killed, during the soak.
    CrashesLater,
    /// Takes the whole instance down with it during the soak.
    Reboots,
    /// Runs well, and the services do not on it.
    Sickens,
    /// Runs well, but cannot verify the channel once it was the daemon.
    CannotUpdate,
    /// Runs well on trial and not as stable: `update repair` steps down from it.
    FailsAsStable,
}

/// What chance decides, from a string of bytes; behind its end nothing happens any more.
#[derive(Debug)]
pub(super) struct Dice {
    bytes: std::vec::IntoIter<u8>,
}

impl Dice {
    /// True once in `sides` times.
    fn hits(&mut self, sides: u8) -> bool {
        self.bytes.next().is_some_and(|byte| byte % sides == 1)
    }

    fn below(&mut self, sides: u8) -> u8 {
        self.bytes.next().map_or(0, |byte| byte % sides)
    }

    fn is_empty(&self) -> bool {
        self.bytes.len() == 0
    }
}

/// The run was cut short: killed, or the power went.
struct Cut;

#[derive(Debug)]
pub(super) struct Life {
    dice: Dice,
    now: Timestamp,
    // On disk.
    pub(super) phase: Phase,
    pub(super) skipped: Vec<Skipped>,
    pub(super) failures: Vec<Failures>,
    withheld: Option<Withheld>,
    pub(super) floor: Option<Version>,
    pub(super) stable: Build,
    pub(super) trial: Option<Build>,
    hold: Option<Hold>,
    pin: Option<Version>,
    // Until the power goes.
    boot: u32,
    pub(super) daemon: Build,
    result: TrialResult,
    // The simulated environment.
    pub(super) offers: Vec<Offer>,
    natures: BTreeMap<Digest, Nature>,
    // What must be kept to, gathered on the way.
    proved: BTreeSet<Digest>,
    skipped_digests: BTreeSet<Digest>,
    verified: BTreeSet<Digest>,
    commits: u32,
    outage: bool,
    pub(super) log: Vec<String>,
}

pub(super) fn factory() -> Build {
    build(0)
}

impl Life {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self {
            dice: Dice {
                bytes: bytes.into_iter(),
            },
            now: "2026-06-01T00:00:00Z".parse().unwrap(),
            phase: Phase::Idle,
            skipped: Vec::new(),
            failures: Vec::new(),
            withheld: None,
            floor: None,
            stable: factory(),
            trial: None,
            hold: None,
            pin: None,
            boot: 0,
            daemon: factory(),
            result: TrialResult::NotRun,
            offers: Vec::new(),
            natures: BTreeMap::new(),
            proved: BTreeSet::new(),
            skipped_digests: BTreeSet::new(),
            verified: BTreeSet::new(),
            commits: 0,
            outage: false,
            log: Vec::new(),
        }
    }

    pub(super) fn publish(&mut self, minor: u64, nature: Nature) {
        let offer = offer(minor);
        self.natures.insert(offer.digest.clone(), nature);
        self.offers.push(offer);
    }

    /// Chaos until the dice are used up, then calm until nothing more comes of it.
    pub(super) fn live(&mut self) {
        while !self.dice.is_empty() {
            self.happen();
            self.run();
        }
        (self.hold, self.pin) = (None, None);
        for _ in 0..200 {
            self.now += SignedDuration::from_hours(5);
            self.run();
        }
        // The last run may have met a release that takes the host down with it; the next one ends its attempt.
        for _ in 0..3 {
            if self.phase.job().is_some() {
                self.run();
            }
        }
    }

    /// What happens between two runs.
    fn happen(&mut self) {
        let minutes = i64::from(self.dice.below(60)) * 10;
        self.now += SignedDuration::from_mins(minutes);
        match self.dice.below(16) {
            0 | 1 => {
                let minor = u64::try_from(self.offers.len()).unwrap() + 1;
                let nature = match self.dice.below(12) {
                    0 => Nature::FailsPreflight,
                    1 => Nature::Crashes,
                    2 => Nature::CrashesLater,
                    3 => Nature::Reboots,
                    4 => Nature::CannotUpdate,
                    5 => Nature::FailsAsStable,
                    6 => Nature::Sickens,
                    _ => Nature::Good,
                };
                self.publish(minor, nature);
                let floored = self.dice.hits(5);
                let floor = u64::from(self.dice.below(6)).min(minor);
                if let (true, Some(last)) = (floored, self.offers.last_mut()) {
                    last.release.floor = Some(Version::new(1, floor, 0));
                }
            }
            2 => {
                let index = usize::from(self.dice.below(8));
                let to = u64::from(self.dice.below(8));
                if let Some(offer) = self.offers.get_mut(index) {
                    offer.release.withdrawn = Some(Withdrawal {
                        at: self.now,
                        reason: "bad".to_owned(),
                        rollback_to: Some(Version::new(1, to, 0))
                            .filter(|to| *to != offer.release.version),
                    });
                }
            }
            3 => self.reboot(),
            4 => {
                self.hold = Some(Hold {
                    until: None,
                    reason: String::new(),
                })
            }
            5 => (self.hold, self.pin) = (None, None),
            6 => self.pin = Some(Version::new(1, u64::from(self.dice.below(8)), 0)),
            // The clock steps back.
            7 => self.now -= SignedDuration::from_hours(20),
            // The state is lost, and rebuilt from the links: the phase is lost.
            8 => self.phase = Phase::Idle,
            _ => {}
        }
    }

    fn reboot(&mut self) {
        self.log.push("-- power".to_owned());
        self.boot += 1;
        self.daemon = self.stable.clone();
        self.result = TrialResult::NotRun;
    }

    /// Between any two effects the updater may be killed, or the power may go.
    fn may_be_cut(&mut self) -> Result<(), Cut> {
        match self.dice.below(40) {
            1 => self.reboot(),
            2 => {
                self.log.push("-- killed".to_owned());
                // Its trial goes on, until its deadline at the latest, or comes to its own end.
                if self.result == TrialResult::Running {
                    let nature = self.nature(&self.daemon.clone());
                    if matches!(nature, Nature::Crashes | Nature::CrashesLater) {
                        self.end_trial(died());
                    } else if self.dice.hits(2) {
                        self.end_trial(TrialResult::Deadline);
                    }
                }
            }
            _ => return Ok(()),
        }
        Err(Cut)
    }

    fn end_trial(&mut self, result: TrialResult) {
        self.result = result;
        self.daemon = self.stable.clone();
    }

    pub(super) fn nature(&self, build: &Build) -> Nature {
        self.natures
            .get(&build.digest)
            .copied()
            .unwrap_or(Nature::Good)
    }

    /// One run of the updater.
    pub(super) fn run(&mut self) {
        let mut event = Event::Started(Observation {
            boot: self.boot.to_string(),
            stable: self.stable.clone(),
            trial: self.result.clone(),
            at: self.now,
        });
        loop {
            let step = step(self.phase.clone(), event);
            if self.may_be_cut().is_err() {
                return;
            }
            self.log
                .push(format!("{} -> {}", self.phase.name(), step.phase.name()));
            self.phase = step.phase;
            for note in step.notes {
                self.note(note);
            }
            self.check_laws();
            let mut answer = None;
            for action in step.actions {
                if self.may_be_cut().is_err() {
                    return;
                }
                match self.act(action) {
                    Ok(Some(event)) => answer = Some(event),
                    Ok(None) => {}
                    Err(Cut) => return,
                }
                self.check_laws();
                if self.may_be_cut().is_err() {
                    return;
                }
            }
            match answer {
                Some(next) => event = next,
                None => return,
            }
        }
    }

    fn note(&mut self, note: Note) {
        self.log.push(format!("   {note:?}"));
        match note {
            Note::SkipRelease { build, reason, at } => {
                // Only what ends by itself is ever given up.
                assert_ne!(self.nature(&build), Nature::Good, "{:#?}", self.log);
                self.skipped_digests.insert(build.digest.clone());
                self.skipped.push(Skipped {
                    build,
                    reason,
                    at,
                    attempts: Some(3),
                });
            }
            Note::Failed {
                build,
                kind,
                reason,
                at,
            } => {
                // A release is blamed only for what it caused.
                let bad = matches!(kind, FailureKind::Unhealthy | FailureKind::Crashed);
                assert!(
                    !bad || self.nature(&build) != Nature::Good,
                    "{:#?}",
                    self.log
                );
                blame::count(&mut self.failures, &build, kind, &reason, at);
            }
            Note::Withheld(withheld) => self.withheld = Some(withheld),
            Note::NotWithheld => self.withheld = None,
            Note::Withdrawals(_) => {}
            Note::Well => {
                for failures in &mut self.failures {
                    failures.causes.remove(&FailureKind::Environment);
                }
            }
            Note::Floor(floor) => {
                // I6
                assert!(
                    self.floor.as_ref().is_none_or(|known| *known <= floor),
                    "{:#?}",
                    self.log
                );
                self.floor = Some(floor);
            }
            Note::Promoted { build, .. } => {
                assert_eq!(self.stable, build, "{:#?}", self.log);
                for failures in &mut self.failures {
                    if failures.build == build {
                        failures
                            .causes
                            .retain(|kind, _| *kind == FailureKind::Crashed);
                    }
                }
            }
            Note::Runs { build, .. } => {
                // The repair comes at once here.
                self.failures.retain(|it| it.build != build);
            }
        }
    }

    fn act(&mut self, action: Action) -> Result<Option<Event>, Cut> {
        self.log
            .push(format!("   {action:?}").chars().take(60).collect());
        let at = self.now;
        let failed = |kind| {
            let (code, reason) = ("word".to_owned(), "why".to_owned());
            Ok(Some(Event::Failed(Failure {
                kind,
                code,
                reason,
                at,
            })))
        };
        let done = Ok(Some(Event::Done { at }));
        let world_fails = self.dice.hits(12);
        match action {
            Action::Check if world_fails => failed(FailureKind::Environment),
            Action::Check => Ok(Some(self.check())),
            Action::Fetch(offer) => {
                // I5, and I2: it is in what was just verified.
                assert!(
                    !self.skipped_digests.contains(&offer.digest),
                    "{:#?}",
                    self.log
                );
                assert!(self.offers.contains(&offer), "{:#?}", self.log);
                if world_fails {
                    return failed(FailureKind::Environment);
                }
                self.verified.insert(offer.digest);
                done
            }
            Action::Stage(_) if world_fails => failed(FailureKind::Environment),
            Action::Stage(_) => done,
            Action::Probe(build) => {
                assert!(self.verified.contains(&build.digest), "{:#?}", self.log);
                let proving = matches!(self.phase, Phase::Proving(_));
                match self.nature(&build) {
                    Nature::FailsPreflight => failed(FailureKind::Crashed),
                    Nature::CannotUpdate if proving => failed(FailureKind::Crashed),
                    _ if world_fails => failed(FailureKind::Environment),
                    _ => {
                        if proving {
                            self.proved.insert(build.digest);
                        }
                        done
                    }
                }
            }
            Action::AskPermission(_) if self.dice.hits(4) => Ok(Some(Event::NotPermitted {
                reason: "draining".to_owned(),
                at,
            })),
            Action::AskPermission(_) => Ok(Some(Event::Permitted)),
            Action::Arm(build) => {
                assert!(
                    !self.skipped_digests.contains(&build.digest),
                    "{:#?}",
                    self.log
                );
                if world_fails {
                    return failed(FailureKind::Environment);
                }
                self.trial = Some(build.clone());
                self.daemon = build.clone();
                self.result = TrialResult::Running;
                if self.nature(&build) == Nature::Crashes {
                    self.end_trial(died());
                    return failed(FailureKind::Crashed);
                }
                done
            }
            Action::Watch { build, .. } => {
                self.now += SignedDuration::from_mins(2);
                match self.nature(&build) {
                    Nature::CrashesLater => {
                        self.end_trial(died());
                        failed(FailureKind::Crashed)
                    }
                    Nature::Reboots => {
                        self.reboot();
                        Err(Cut)
                    }
                    Nature::Sickens => Ok(Some(Event::Worsened(Regression::Unfit))),
                    // An outage: whatever runs, the services are sick.
                    _ if self.dice.hits(8) => {
                        self.outage = true;
                        Ok(Some(Event::Worsened(Regression::Unfit)))
                    }
                    _ if world_fails => failed(FailureKind::Environment),
                    _ => done,
                }
            }
            Action::Compare(_) => {
                assert_eq!(self.daemon, self.stable, "{:#?}", self.log);
                if std::mem::take(&mut self.outage) {
                    done
                } else {
                    failed(FailureKind::Unhealthy)
                }
            }
            Action::Commit(build) => {
                // I7: only what proved that it can update again, in I3: one place.
                assert!(self.proved.contains(&build.digest), "{:#?}", self.log);
                assert_eq!(self.phase.job().map(|job| &job.build), Some(&build));
                let low = self
                    .floor
                    .as_ref()
                    .is_some_and(|floor| build.version < *floor);
                assert!(
                    !low || build.version > self.stable.version,
                    "{:#?}",
                    self.log
                );
                if world_fails && self.dice.hits(2) {
                    return failed(FailureKind::Environment);
                }
                self.stable = build;
                self.commits += 1;
                // The rename was done, its fsync failed.
                if world_fails {
                    failed(FailureKind::Environment)
                } else {
                    done
                }
            }
            Action::Restart(build) => {
                self.result = TrialResult::NotRun;
                self.daemon = self.stable.clone();
                if self.nature(&build) == Nature::FailsAsStable {
                    self.repair();
                    return failed(FailureKind::Environment);
                }
                if world_fails {
                    failed(FailureKind::Environment)
                } else {
                    done
                }
            }
            Action::Revert => {
                self.result = TrialResult::NotRun;
                self.daemon = self.stable.clone();
                self.trial = None;
                if self.nature(&self.stable.clone()) == Nature::FailsAsStable {
                    self.repair();
                }
                Ok(None)
            }
            Action::Report(_) => Ok(None),
        }
    }

    /// The factory's last resort: one step down, as systemd has it done.
    fn repair(&mut self) {
        self.log.push("-- repair".to_owned());
        let (build, reason) = (self.stable.clone(), "did not run as stable".to_owned());
        blame::count(
            &mut self.failures,
            &build,
            FailureKind::Crashed,
            &reason,
            self.now,
        );
        if blame::of(&self.failures, &build).is_some_and(|it| it.crashes() >= CRASHES) {
            let at = self.now;
            self.note(Note::SkipRelease { build, reason, at });
        }
        self.stable = factory();
        self.daemon = factory();
    }

    fn view<'a>(&'a self, windows: &'a Windows) -> View<'a> {
        View {
            instance_id: "i-1",
            arch: "x86_64",
            channel: "stable",
            offers: &self.offers,
            current: &self.stable,
            hold: self.hold.as_ref(),
            pin: self.pin.as_ref(),
            skipped: &self.skipped,
            floor: self.floor.as_ref(),
            windows,
            failures: &self.failures,
            requested_at: None,
            first_boot: false,
            withheld: self.withheld.as_ref(),
        }
    }

    /// What the instance would do now.
    pub(super) fn decision(&self) -> Decision {
        plan::decide(&self.view(&Windows::default()), self.now)
    }

    fn check(&self) -> Event {
        let decision = self.decision();
        let crashes = decision.offer().and_then(|offer| {
            let build = Build {
                version: offer.release.version.clone(),
                digest: offer.digest.clone(),
            };
            blame::of(&self.failures, &build).map(Failures::crashes)
        });
        Event::Checked(std::boxed::Box::new(Checked {
            crashes: crashes.unwrap_or(0),
            withheld: self.withheld.clone(),
            withdrawals: Withdrawals::default(),
            floor: plan::floor(&self.view(&Windows::default())),
            decision,
            stable: self.stable.clone(),
            boot: self.boot.to_string(),
            at: self.now,
        }))
    }

    /// What holds at every moment.
    fn check_laws(&self) {
        let reported = || format!("{:#?}", self.log);
        // I1: what came with the image, or proved itself on this instance.
        let confirmed = self.stable == factory() || self.proved.contains(&self.stable.digest);
        assert!(confirmed, "{}", reported());
        // I2: what runs was verified.
        let verified = self.daemon == factory() || self.verified.contains(&self.daemon.digest);
        assert!(verified, "{}", reported());
        // I4: there is a daemon: the stable one, or a trial that systemd itself ends by going back to it.
        let on_trial =
            self.result == TrialResult::Running && self.trial.as_ref() == Some(&self.daemon);
        assert!(self.daemon == self.stable || on_trial, "{}", reported());
        // I7
        assert_ne!(
            self.nature(&self.stable),
            Nature::CannotUpdate,
            "{}",
            reported()
        );
    }
}
