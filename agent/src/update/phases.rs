//! The phases of an attempt, pure: Phase × Event → (Phase, Notes, Actions). Drawn in
//! `docs/agent-update-states.dot` with the method names on its edges.
//!
//! It must not read a clock, a file or a socket: [`super::attempt`] brings what was seen as an [`Event`].
//! After every step the new phase and all notes are persisted in *one* write, and only then are the
//! actions carried out, in order; so that the power may go at any moment, and the next run begins with
//! [`Event::Started`] in the phase that was reached.

mod transitions;

#[cfg(test)]
mod tests;

use jiff::Timestamp;
use semver::Version;
use serde::{Deserialize, Serialize};

use super::blame::{CRASHES, FailureKind};
use super::build::Build;
use super::channel::Offer;
use super::permission::{Withheld, longest_withheld};
use super::plan::Decision;
use super::regression::Regression;

/// The code of an outcome for which nobody is to blame: the daemon did not want to be restarted now.
pub const NOT_PERMITTED: &str = "no-leave";

/// The code of the same once it lasts: the host cannot be updated, and somebody should look at it.
pub const WITHHELD: &str = "withheld";

/// Where an attempt is. What runs the new code only ever begins in [`Phase::Preflight`], and `stable` only
/// moves in [`Phase::Confirmed`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", content = "job", rename_all = "kebab-case")]
pub enum Phase {
    /// Nothing under way.
    #[default]
    Idle,
    /// Reading the channel and deciding.
    Checking,
    /// Streaming the release into `staging/`.
    Fetching(Job),
    /// Making a slot of it.
    Staging(Job),
    /// Its self-test runs, in the updater's own sandbox.
    Preflight(Job),
    /// Waiting for the daemon's leave to be restarted.
    Asking(Job),
    /// Pointing `trial` to it and starting the trial unit, which stops the stable one.
    Armed(Job),
    /// It is the instance's daemon, watched until it has soaked.
    Trial(Job),
    /// The host was worse with it; the stable release runs again, and the host is looked at once more.
    Comparing(Job),
    /// Soaked; its self-test runs once more: it must be able to update again.
    Proving(Job),
    /// Proven; `stable` is being moved, by one rename: the commit point.
    Confirmed(Job),
    /// `stable` has moved; the stable unit is being started in the trial's place.
    Committed(Job),
}

/// One attempt at one release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// What is to become stable.
    pub build: Build,
    /// What was stable when the attempt began.
    pub from: Build,
    /// Why, for people: `newer`, `pinned`, …
    pub why: String,
    /// The kernel's boot id when the attempt began.
    pub boot: String,
    /// When it began.
    pub began: Timestamp,
    /// Attempts before this one in which the release's own bytes ended by themselves.
    #[serde(default)]
    pub crashes: u32,
    /// Whether a withdrawal or the floor demands it.
    #[serde(default)]
    pub urgent: bool,
    /// Since when the daemon has withheld its permission, at the attempt's beginning.
    #[serde(default)]
    pub withheld: Option<Withheld>,
    /// Whether it goes on without that permission.
    #[serde(default)]
    pub overruled: bool,
    /// How the host was worse on trial.
    #[serde(default)]
    pub worse: Option<Regression>,
}

/// What the driver saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A run begins: always the first event, whatever the phase.
    Started(Observation),
    /// The channel was read, verified and decided upon.
    Checked(Box<Checked>),
    /// The last action went well.
    Done {
        /// When.
        at: Timestamp,
    },
    /// The last action failed.
    Failed(Failure),
    /// The daemon gave leave to be restarted, or does not run.
    Permitted,
    /// It refused, or did not answer in time.
    NotPermitted {
        /// Its reason.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// The host is worse on trial than before it.
    Worsened(Regression),
}

/// What came of reading the channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The decision, by [`decide`](super::plan::decide).
    pub decision: Decision,
    /// The floor that holds now, by [`floor`](super::plan::floor).
    pub floor: Option<Version>,
    /// Attempts so far in which the bytes that it takes ended by themselves.
    pub crashes: u32,
    /// Since when the daemon has withheld its permission to be restarted.
    pub withheld: Option<Withheld>,
    /// What verified metadata withdrew and what it did not, for the way back.
    pub withdrawals: Withdrawals,
    /// What `stable` points to.
    pub stable: Build,
    /// The kernel's boot id.
    pub boot: String,
    /// Now.
    pub at: Timestamp,
}

/// What the channel's verified metadata says of the releases for this host's architecture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Withdrawals {
    /// Those that were withdrawn.
    pub withdrawn: Vec<Build>,
    /// Those that were not.
    pub valid: Vec<Build>,
}

/// What a run finds at its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The kernel's boot id.
    pub boot: String,
    /// What `stable` points to.
    pub stable: Build,
    /// What became of the trial unit in this boot.
    pub trial: TrialResult,
    /// Now.
    pub at: Timestamp,
}

/// What became of the trial unit in this boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrialResult {
    /// It was not started, or was stopped in order.
    NotRun,
    /// It runs, or is being started or stopped.
    Running,
    /// It ran into its deadline (`RuntimeMaxSec=`) before anybody confirmed it.
    Deadline,
    /// It failed: exit, signal, watchdog, start timeout.
    Failed {
        /// Whose doing that was.
        kind: FailureKind,
        /// One line for people.
        reason: String,
    },
}

/// An action that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What made it fail, and so whose doing it was.
    pub kind: FailureKind,
    /// One word for programs, kebab: a [`super::refusal::Cause::code`], or `preflight`, `trial-exit`, ….
    pub code: String,
    /// One line for people.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// What a step comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where the attempt is now.
    pub phase: Phase,
    /// What is to be remembered, in one write together with the phase, before any action.
    pub notes: Vec<Note>,
    /// What is to be done then. The last one is [`Action::Report`] or is answered by an event.
    pub actions: Vec<Action>,
}

/// What is to be remembered, in one write together with the phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Never try this digest here again, until somebody forgives it.
    SkipRelease {
        /// What failed.
        build: Build,
        /// Why, in one line.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// An attempt came to nothing: count it, as [`Failures`](super::blame::Failures).
    Failed {
        /// What was attempted.
        build: Build,
        /// What made it fail.
        kind: FailureKind,
        /// Why it came to nothing, in one line.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// The daemon withholds its permission to be restarted.
    Withheld(Withheld),
    /// It gave it, was overruled, or is not asked any more.
    NotWithheld,
    /// What was withdrawn, and what was not.
    Withdrawals(Withdrawals),
    /// Nothing is left to be attempted: forget what the environment made fail.
    Well,
    /// This build is stable, and was not repaired since the last run: it runs.
    Runs {
        /// What is stable.
        build: Build,
        /// When that was seen.
        at: Timestamp,
    },
    /// The floor that holds; never lower than the one before.
    Floor(Version),
    /// This build was promoted: forget its failures, but for its crashes, since it has yet to run as stable.
    Promoted {
        /// What is stable now.
        build: Build,
        /// When.
        at: Timestamp,
    },
}

/// What the driver is to do, in order, each answered by one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Refresh the channel and decide: answered with [`Event::Checked`], or [`Event::Failed`].
    Check,
    /// Stream the offer into `staging/`.
    Fetch(Offer),
    /// Make a slot of the part.
    Stage(Build),
    /// Run `update probe` of the slot.
    Probe(Build),
    /// Ask the daemon for permission: answered with [`Event::Permitted`] or [`Event::NotPermitted`].
    AskPermission(Build),
    /// Re-hash the slot, point `trial` to it, start the trial unit.
    Arm(Build),
    /// Watch the trial until it has soaked: answered with [`Event::Done`], [`Event::Failed`] or
    /// [`Event::Worsened`].
    Watch {
        /// What is on trial.
        build: Build,
        /// Whether it must give its permission to be replaced at the end.
        asks: bool,
    },
    /// Observation whether the host is as it was on trial, now that the stable release runs again: answered with
    /// [`Event::Done`] when it is, with [`Event::Failed`] when that ended with the trial.
    Compare(Regression),
    /// Move `stable` to the slot: one rename.
    Commit(Build),
    /// Start the stable unit, which stops the trial, and see it run; then collect unused slots.
    Restart(Build),
    /// Back to stable: stop the trial unit if it runs and forget how it failed (`systemctl reset-failed`), see
    /// the stable unit run, drop the link `trial`, collect unused slots. Not answered: the next action follows.
    Revert,
    /// Say how the run ended. Not answered.
    Report(Outcome),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was nothing to do now.
    Settled(Box<Decision>),
    /// The instance runs a new stable.
    Updated {
        /// What.
        to: Build,
        /// From what.
        from: Build,
    },
    /// Nothing changed, for a reason that will pass.
    Postponed {
        /// One word for programs.
        code: String,
        /// One line for people.
        reason: String,
    },
    /// The release failed here, through its own doing.
    Failed {
        /// What failed.
        build: Build,
        /// One word for programs.
        code: String,
        /// One line for people.
        reason: String,
        /// Whether it is not tried again until somebody forgives it; else it is, after a pause.
        skipped: bool,
    },
}

impl Phase {
    /// As drawn in `docs/agent-update-states.dot`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Checking => "checking",
            Self::Fetching(_) => "fetching",
            Self::Staging(_) => "staging",
            Self::Preflight(_) => "preflight",
            Self::Asking(_) => "asking",
            Self::Armed(_) => "armed",
            Self::Trial(_) => "trial",
            Self::Comparing(_) => "comparing",
            Self::Proving(_) => "proving",
            Self::Confirmed(_) => "confirmed",
            Self::Committed(_) => "committed",
        }
    }

    /// The attempt under way.
    #[must_use]
    pub fn job(&self) -> Option<&Job> {
        match self {
            Self::Idle | Self::Checking => None,
            Self::Fetching(job)
            | Self::Staging(job)
            | Self::Preflight(job)
            | Self::Asking(job)
            | Self::Armed(job)
            | Self::Trial(job)
            | Self::Comparing(job)
            | Self::Proving(job)
            | Self::Confirmed(job)
            | Self::Committed(job) => Some(job),
        }
    }
}

/// One step. Total: an event that has no place in a phase changes nothing and asks for nothing.
#[must_use]
pub fn step(phase: Phase, event: Event) -> Step {
    let mut step = Step {
        phase: Phase::Idle,
        notes: Vec::new(),
        actions: Vec::new(),
    };
    match (phase, event) {
        (phase, Event::Started(seen)) => step.wake(phase, &seen),
        (Phase::Checking, Event::Checked(checked)) => step.decided(*checked),
        (Phase::Checking, Event::Failed(failure)) => step.not_checked(failure),
        (Phase::Fetching(job), Event::Done { .. }) => step.fetched(job),
        (Phase::Staging(job), Event::Done { .. }) => step.staged(job),
        (Phase::Preflight(job), Event::Done { .. }) => step.passed_preflight(job),
        (Phase::Asking(job), Event::Permitted) => step.permitted(job),
        (Phase::Asking(job), Event::NotPermitted { reason, at }) => {
            step.permission_refused(job, reason, at)
        }
        (Phase::Armed(job), Event::Done { .. }) => step.started(job),
        (Phase::Trial(job), Event::Done { .. }) => step.soaked(job),
        (Phase::Trial(job), Event::Worsened(worse)) => step.suspected(job, worse),
        (Phase::Comparing(job), Event::Done { at }) => step.cleared(job, at),
        (Phase::Comparing(job), Event::Failed(failure)) => step.blamed(job, failure),
        (Phase::Proving(job), Event::Done { .. }) => step.proved(job),
        (Phase::Confirmed(job), Event::Done { at }) => step.committed(job, at),
        (Phase::Committed(job), Event::Done { .. }) => step.restarted(job),
        (
            Phase::Fetching(job) | Phase::Staging(job) | Phase::Preflight(job) | Phase::Asking(job),
            Event::Failed(failure),
        ) => step.gave_up(job, failure),
        (
            Phase::Armed(job) | Phase::Trial(job) | Phase::Proving(job) | Phase::Confirmed(job),
            Event::Failed(failure),
        ) => step.reverted(job, failure),
        (Phase::Committed(_), Event::Failed(failure)) => step.left_to_systemd(failure),
        (phase, _) => step.phase = phase,
    }
    step
}

/// What chooses among several transitions.
impl Step {
    /// A run begins in the phase that the last one reached.
    fn wake(&mut self, phase: Phase, seen: &Observation) {
        match phase {
            // Memory was lost, or somebody started the trial by hand.
            Phase::Idle | Phase::Checking if seen.trial == TrialResult::Running => {
                self.actions.push(Action::Revert);
                self.run_started(seen);
            }
            Phase::Idle | Phase::Checking => self.run_started(seen),
            // None of the release's own code ran: being cut short is no fault of its.
            Phase::Fetching(_) | Phase::Staging(_) | Phase::Asking(_) => self.resumed(),
            // The one commit point tells on which side of it the power went.
            Phase::Confirmed(job) if seen.stable == job.build => self.committed(job, seen.at),
            Phase::Committed(job) if seen.stable == job.build => self.recommitted(job),
            Phase::Committed(job) => self.undone(job, seen),
            Phase::Preflight(job) | Phase::Comparing(job) => self.interrupted(job, seen.at),
            Phase::Armed(job) | Phase::Trial(job) | Phase::Proving(job) | Phase::Confirmed(job) => {
                match &seen.trial {
                    // In another boot nobody can tell what the trial came to.
                    TrialResult::Failed { kind, reason } if seen.boot == job.boot => {
                        let failure = Failure {
                            kind: *kind,
                            code: "trial".to_owned(),
                            reason: reason.clone(),
                            at: seen.at,
                        };
                        self.reverted(job, failure);
                    }
                    // A deadline went by because nobody was there to confirm.
                    _ => self.interrupted(job, seen.at),
                }
            }
        }
    }

    /// The daemon did not give its permission. It may withhold that for a while, and not for ever.
    fn permission_refused(&mut self, job: Job, reason: String, at: Timestamp) {
        let withheld = Withheld::again(job.withheld.clone(), reason, at);
        if withheld.lasted() >= longest_withheld(job.urgent) {
            self.overruled(job, &withheld.reason);
        } else {
            self.not_permitted(&job, withheld, at);
        }
    }

    /// The channel was read.
    fn decided(&mut self, checked: Checked) {
        self.notes.extend(checked.floor.map(Note::Floor));
        self.notes.push(Note::Withdrawals(checked.withdrawals));
        match checked.decision {
            Decision::Update { ref offer, .. } | Decision::Rollback { ref offer, .. } => {
                let build = Build {
                    version: offer.release.version.clone(),
                    digest: offer.digest.clone(),
                };
                let job = Job {
                    build,
                    from: checked.stable,
                    why: checked.decision.to_string(),
                    boot: checked.boot,
                    began: checked.at,
                    crashes: checked.crashes,
                    urgent: checked.decision.is_urgent(),
                    withheld: checked.withheld,
                    overruled: false,
                    worse: None,
                };
                let offer = offer.clone();
                self.chosen(job, Action::Fetch(offer));
            }
            decision => self.settled(decision, checked.withheld, checked.at),
        }
    }
}
