//! The phases of an attempt, a pure state machine: Phase × Event → (Phase, Notes, Actions). Drawn in
//! `docs/agent-update-states.dot` with the method names on its edges.
//!
//! It must not read a clock, a file or a socket: [`super::attempt`] reports what it observed as an [`Event`]. After
//! every step the new phase and all notes are persisted in *one* write, before the actions are carried out in order,
//! so the power may fail at any moment: the next run begins with [`Event::Started`] in the phase that was reached.

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

/// Code of an outcome that is nobody's fault: the daemon does not permit a restart now.
pub(crate) const NOT_PERMITTED: &str = "no-leave";

/// Code of the same once it lasts: the host cannot be updated, and an operator should check why.
pub(crate) const WITHHELD: &str = "withheld";

/// The phase of an attempt. The new code first runs in [`Phase::Preflight`], and `stable` only moves in
/// [`Phase::Confirmed`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", content = "job", rename_all = "kebab-case")]
pub(crate) enum Phase {
    /// No attempt.
    #[default]
    Idle,
    /// Reading the channel and deciding.
    Checking,
    /// Streaming the release into `staging/`.
    Fetching(Job),
    /// Making a slot of the fetched part.
    Staging(Job),
    /// Its self-test runs, in the updater's own sandbox.
    Preflight(Job),
    /// Waiting for the daemon's permission to restart it.
    Asking(Job),
    /// Pointing `trial` to it and starting the trial unit, which stops the stable one.
    Armed(Job),
    /// It runs as the instance's daemon, watched until it has soaked.
    Trial(Job),
    /// The host was worse with it; the stable release runs again, and the host is checked without the trial.
    Comparing(Job),
    /// Soaked; its self-test runs once more: it must be able to update again.
    Proving(Job),
    /// Tested again; `stable` is being moved, by one rename: the commit point.
    Confirmed(Job),
    /// `stable` has moved; the stable unit is being started in the trial's place.
    Committed(Job),
}

/// One attempt at one release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Job {
    /// The build to become stable.
    pub(crate) build: Build,
    /// The stable build when the attempt began.
    pub(crate) from: Build,
    /// Why, for messages: `newer`, `pinned`, …
    pub(crate) why: String,
    /// The kernel's boot id when the attempt began.
    pub(crate) boot: String,
    /// When it began.
    pub(crate) began: Timestamp,
    /// Earlier attempts in which the release itself crashed.
    #[serde(default)]
    pub(crate) crashes: u32,
    /// Whether a withdrawal or the floor demands it.
    #[serde(default)]
    pub(crate) urgent: bool,
    /// The withheld permission when the attempt began.
    #[serde(default)]
    pub(crate) withheld: Option<Withheld>,
    /// Whether it continues without that permission.
    #[serde(default)]
    pub(crate) overruled: bool,
    /// How the host was worse on trial.
    #[serde(default)]
    pub(crate) worse: Option<Regression>,
}

/// What was observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A run starts: always the first event, in whatever phase.
    Started(Observation),
    /// The channel was read, verified and decided upon.
    Checked(Box<Checked>),
    /// The last action succeeded.
    Done {
        /// When.
        at: Timestamp,
    },
    /// The last action failed.
    Failed(Failure),
    /// The daemon permits a restart, or does not run.
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

/// The result of reading the channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    /// The decision, by [`decide`](super::plan::decide).
    pub(crate) decision: Decision,
    /// The floor that holds now, by [`floor`](super::plan::floor).
    pub(crate) floor: Option<Version>,
    /// Earlier attempts in which the chosen release crashed.
    pub(crate) crashes: u32,
    /// The withheld permission, if it is withheld.
    pub(crate) withheld: Option<Withheld>,
    /// Which releases verified metadata withdrew and which it did not.
    pub(crate) withdrawals: Withdrawals,
    /// What `stable` points to.
    pub(crate) stable: Build,
    /// The kernel's boot id.
    pub(crate) boot: String,
    /// Now.
    pub(crate) at: Timestamp,
}

/// The withdrawals in the channel's verified metadata, for this host's architecture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Withdrawals {
    /// The withdrawn releases.
    pub(crate) withdrawn: Vec<Build>,
    /// The others.
    pub(crate) valid: Vec<Build>,
}

/// What a run observes when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Observation {
    /// The kernel's boot id.
    pub(crate) boot: String,
    /// What `stable` points to.
    pub(crate) stable: Build,
    /// How the trial unit ended in this boot.
    pub(crate) trial: TrialResult,
    /// Now.
    pub(crate) at: Timestamp,
}

/// How the trial unit ended in this boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TrialResult {
    /// It was not started, or was stopped normally.
    NotRun,
    /// It runs, or is being started or stopped.
    Running,
    /// It reached its deadline (`RuntimeMaxSec=`) before it was confirmed.
    Deadline,
    /// It failed: exit, signal, watchdog, start timeout.
    Failed {
        /// Who is to blame.
        kind: FailureKind,
        /// The reason, in one line.
        reason: String,
    },
}

/// An action that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Who is to blame.
    pub(crate) kind: FailureKind,
    /// The code, in kebab case: a [`super::channel::Cause::code`], or `preflight`, `trial-exit`, ….
    pub(crate) code: String,
    /// The reason, in one line.
    pub(crate) reason: String,
    /// When.
    pub(crate) at: Timestamp,
}

/// The result of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The new phase.
    pub(crate) phase: Phase,
    /// Changes of the state, persisted in one write together with the phase, before any action.
    pub(crate) notes: Vec<Note>,
    /// The actions that follow. The last one is [`Action::Report`] or is answered by an event.
    pub(crate) actions: Vec<Action>,
}

/// A change of the state, persisted in one write together with the phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// Do not try this digest again on this host, until an operator forgives it.
    SkipRelease {
        /// What failed.
        build: Build,
        /// Why, in one line.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// An attempt failed: count it, as [`Failures`](super::blame::Failures).
    Failed {
        /// What was attempted.
        build: Build,
        /// What made it fail.
        kind: FailureKind,
        /// Why it failed, in one line.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// The daemon withholds its permission to be restarted.
    Withheld(Withheld),
    /// It permits it, was overruled, or is no longer asked.
    NotWithheld,
    /// The withdrawals of verified metadata.
    Withdrawals(Withdrawals),
    /// Nothing remains to be attempted: forget the failures caused by the environment.
    Well,
    /// This build is stable and has run since the last run of the updater.
    Runs {
        /// What is stable.
        build: Build,
        /// When that was observed.
        at: Timestamp,
    },
    /// The current floor; never lower than the one before.
    Floor(Version),
    /// This build was promoted: forget its failures except for its crashes, since it has yet to run as stable.
    Promoted {
        /// What is stable now.
        build: Build,
        /// When.
        at: Timestamp,
    },
}

/// What the caller does next, in order, each answered by one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
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
    /// Verify the slot's digest, point `trial` to it, start the trial unit.
    Arm(Build),
    /// Watch the trial until it has soaked: answered with [`Event::Done`], [`Event::Failed`] or
    /// [`Event::Worsened`].
    Watch {
        /// What is on trial.
        build: Build,
        /// Whether it must give its permission to be replaced at the end.
        asks: bool,
    },
    /// Check whether the host is as it was on trial, now that the stable release runs again: answered with
    /// [`Event::Done`] if it is, with [`Event::Failed`] if it recovered.
    Compare(Regression),
    /// Move `stable` to the slot: one rename.
    Commit(Build),
    /// Start the stable unit, which stops the trial, and check that it runs; then remove unused slots.
    Restart(Build),
    /// Go back to stable: stop the trial unit if it runs and reset its failure (`systemctl reset-failed`), start the
    /// stable unit, remove the link `trial` and unused slots. Not answered: the next action follows.
    Revert,
    /// Report how the run ended. Not answered.
    Report(Outcome),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// There was nothing to do now.
    Settled(Box<Decision>),
    /// The instance runs a new stable release.
    Updated {
        /// What.
        to: Build,
        /// From what.
        from: Build,
    },
    /// Nothing changed, for a temporary reason.
    Postponed {
        /// The code.
        code: String,
        /// The reason, in one line.
        reason: String,
    },
    /// The release failed on this host, by its own fault.
    Failed {
        /// What failed.
        build: Build,
        /// The code.
        code: String,
        /// The reason, in one line.
        reason: String,
        /// Whether it is not tried again until an operator forgives it; otherwise it is, after a pause.
        skipped: bool,
    },
}

impl Phase {
    /// The name, as drawn in `docs/agent-update-states.dot`.
    #[must_use]
    pub(crate) fn name(&self) -> &'static str {
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
    pub(crate) fn job(&self) -> Option<&Job> {
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

/// One step. Total: an event that does not belong to a phase changes nothing.
#[must_use]
pub(crate) fn step(phase: Phase, event: Event) -> Step {
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

/// Methods that choose among several transitions.
impl Step {
    /// A run starts in the phase that the last one reached.
    fn wake(&mut self, phase: Phase, seen: &Observation) {
        match phase {
            // The state was lost, or the trial was started by hand.
            Phase::Idle | Phase::Checking if seen.trial == TrialResult::Running => {
                self.actions.push(Action::Revert);
                self.run_started(seen);
            }
            Phase::Idle | Phase::Checking => self.run_started(seen),
            // None of the release's own code ran: it is not to blame for an interruption.
            Phase::Fetching(_) | Phase::Staging(_) | Phase::Asking(_) => self.resumed(),
            // The link `stable` shows on which side of the commit point the power failed.
            Phase::Confirmed(job) if seen.stable == job.build => self.committed(job, seen.at),
            Phase::Committed(job) if seen.stable == job.build => self.recommitted(job),
            Phase::Committed(job) => self.undone(job, seen),
            Phase::Preflight(job) | Phase::Comparing(job) => self.interrupted(job, seen.at),
            Phase::Armed(job) | Phase::Trial(job) | Phase::Proving(job) | Phase::Confirmed(job) => {
                match &seen.trial {
                    // The result of a trial in another boot is not known.
                    TrialResult::Failed { kind, reason } if seen.boot == job.boot => {
                        let failure = Failure {
                            kind: *kind,
                            code: "trial".to_owned(),
                            reason: reason.clone(),
                            at: seen.at,
                        };
                        self.reverted(job, failure);
                    }
                    // The trial reached its deadline because no updater was there to confirm it.
                    _ => self.interrupted(job, seen.at),
                }
            }
        }
    }

    /// The daemon did not permit a restart, which it may do only for a limited time.
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
