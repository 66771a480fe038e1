//! Every transition: one method each, named as on the edges of `docs/agent-update-states.dot`. Only transitions are
//! in this file; a test compares the two.

use jiff::Timestamp;

use super::{
    Action, CRASHES, Failure, FailureKind, Job, NOT_PERMITTED, Note, Observation, Outcome, Phase,
    Step, WITHHELD,
};
use crate::blame;
use crate::build::Build;
use crate::permission::{self, WITHHELD_LONG, Withheld};
use crate::plan::Decision;
use crate::regression::Regression;

impl Step {
    pub(super) fn run_started(&mut self, seen: &Observation) {
        self.notes.push(Note::Runs {
            build: seen.stable.clone(),
            at: seen.at,
        });
        self.check();
    }

    pub(super) fn resumed(&mut self) {
        self.check();
    }

    /// Interrupted while the release's code ran: it may have been an accident. Each time the pause before the next
    /// try is longer.
    pub(super) fn interrupted(&mut self, job: Job, at: Timestamp) {
        self.notes.push(Note::Failed {
            build: job.build,
            kind: FailureKind::Interrupted,
            reason: "interrupted".to_owned(),
            at,
        });
        self.actions.push(Action::Revert);
        self.check();
    }

    pub(super) fn chosen(&mut self, job: Job, fetch: Action) {
        self.phase = Phase::Fetching(job);
        self.actions.push(fetch);
    }

    pub(super) fn settled(
        &mut self,
        decision: Decision,
        withheld: Option<Withheld>,
        at: Timestamp,
    ) {
        if !matches!(decision, Decision::WaitBackoff { .. }) {
            self.notes.push(Note::Well);
        }
        match &decision {
            // It is not asked before its first verdict; a daemon that never reaches one withholds its permission as
            // well.
            Decision::WaitVerdict { .. } => {
                let reason = "the agent has not reached a verdict on this host".to_owned();
                let withheld = Withheld::again(withheld, reason, at);
                self.notes.push(Note::Withheld(withheld));
            }
            // It is asked again later for the same release.
            Decision::WaitWindow { .. } | Decision::WaitBackoff { .. } => {}
            _ => self.notes.push(Note::NotWithheld),
        }
        self.end(Outcome::Settled(Box::new(decision)));
    }

    pub(super) fn not_checked(&mut self, failure: Failure) {
        self.postpone(failure);
    }

    pub(super) fn fetched(&mut self, job: Job) {
        self.actions.push(Action::Stage(job.build.clone()));
        self.phase = Phase::Staging(job);
    }

    pub(super) fn staged(&mut self, job: Job) {
        self.actions.push(Action::Probe(job.build.clone()));
        self.phase = Phase::Preflight(job);
    }

    pub(super) fn passed_preflight(&mut self, job: Job) {
        self.actions.push(Action::AskPermission(job.build.clone()));
        self.phase = Phase::Asking(job);
    }

    pub(super) fn not_permitted(&mut self, job: &Job, withheld: Withheld, at: Timestamp) {
        let long = job.urgent || withheld.lasted() >= WITHHELD_LONG;
        let (code, reason) = if long {
            let left = permission::longest_withheld(job.urgent) - withheld.lasted();
            let end = at.checked_add(left).unwrap_or(Timestamp::MAX);
            (
                WITHHELD,
                format!(
                    "permission to restart the agent withheld since {}, to be overruled about {end}: {}",
                    withheld.since, withheld.reason
                ),
            )
        } else {
            (NOT_PERMITTED, withheld.reason.clone())
        };
        self.notes.push(Note::Withheld(withheld));
        self.end(Outcome::Postponed {
            code: code.to_owned(),
            reason,
        });
    }

    pub(super) fn permitted(&mut self, job: Job) {
        self.notes.push(Note::NotWithheld);
        self.arm(job);
    }

    /// The daemon withheld its permission for as long as it may.
    pub(super) fn overruled(&mut self, mut job: Job, reason: &str) {
        job.overruled = true;
        job.why = format!("{}, without the agent's permission ({reason})", job.why);
        self.notes.push(Note::NotWithheld);
        self.arm(job);
    }

    pub(super) fn started(&mut self, job: Job) {
        self.actions.push(Action::Watch {
            build: job.build.clone(),
            // Whatever kept the stable release from permitting it keeps the trial from it as well.
            asks: !job.overruled,
        });
        self.phase = Phase::Trial(job);
    }

    /// The host is worse on trial. The comparison without it shows whether the release is to blame.
    pub(super) fn suspected(&mut self, mut job: Job, worse: Regression) {
        self.actions.push(Action::Revert);
        self.actions.push(Action::Compare(worse.clone()));
        job.worse = Some(worse);
        self.phase = Phase::Comparing(job);
    }

    /// The host is as bad on the stable release: the release is not the cause.
    pub(super) fn cleared(&mut self, job: Job, at: Timestamp) {
        let worse = job.worse.clone().unwrap_or(Regression::NoStatus);
        let (kind, reason) = blame::compared(&worse, true);
        let code = worse.code().to_owned();
        self.fail(
            job,
            Failure {
                kind,
                code,
                reason,
                at,
            },
        );
    }

    /// The host recovered without the trial.
    pub(super) fn blamed(&mut self, job: Job, failure: Failure) {
        self.fail(job, failure);
    }

    pub(super) fn soaked(&mut self, job: Job) {
        self.actions.push(Action::Probe(job.build.clone()));
        self.phase = Phase::Proving(job);
    }

    pub(super) fn proved(&mut self, job: Job) {
        self.actions.push(Action::Commit(job.build.clone()));
        self.phase = Phase::Confirmed(job);
    }

    pub(super) fn committed(&mut self, job: Job, at: Timestamp) {
        let build = job.build.clone();
        self.notes.push(Note::Promoted { build, at });
        self.recommitted(job);
    }

    /// The power failed after the commit point: continue from there.
    pub(super) fn recommitted(&mut self, job: Job) {
        self.actions.push(Action::Restart(job.build.clone()));
        self.phase = Phase::Committed(job);
    }

    pub(super) fn restarted(&mut self, job: Job) {
        self.end(Outcome::Updated {
            to: job.build,
            from: job.from,
        });
    }

    /// An attempt that failed before the trial, while the stable release kept running.
    pub(super) fn gave_up(&mut self, job: Job, failure: Failure) {
        self.fail(job, failure);
    }

    /// An attempt that failed while the trial had replaced the stable release.
    pub(super) fn reverted(&mut self, job: Job, failure: Failure) {
        self.actions.push(Action::Revert);
        self.fail(job, failure);
    }

    /// The new stable release did not start at once. Its unit restarts it, and then `update repair` goes one step
    /// back; waiting for that here would keep the instance from a release that fixes it.
    pub(super) fn left_to_systemd(&mut self, failure: Failure) {
        self.postpone(failure);
    }

    /// `stable` was moved back meanwhile, by hand or by `update repair`, which counts the failure.
    pub(super) fn undone(&mut self, job: Job, seen: &Observation) {
        self.actions.push(Action::Revert);
        self.fail(
            job,
            Failure {
                kind: FailureKind::Unhealthy,
                code: "repaired".to_owned(),
                reason: "did not run as stable, and was replaced".to_owned(),
                at: seen.at,
            },
        );
    }
}

/// What several transitions have in common.
impl Step {
    fn check(&mut self) {
        self.phase = Phase::Checking;
        self.actions.push(Action::Check);
    }

    fn arm(&mut self, job: Job) {
        self.actions.push(Action::Arm(job.build.clone()));
        self.phase = Phase::Armed(job);
    }

    /// An attempt failed: counted by its cause. Only a release that crashes repeatedly is skipped.
    fn fail(&mut self, job: Job, failure: Failure) {
        let Failure {
            kind,
            code,
            reason,
            at,
        } = failure;
        let crashed = kind == FailureKind::Crashed;
        let skipped = crashed && job.crashes + 1 >= CRASHES;
        let build: Build = job.build;
        self.notes.push(Note::Failed {
            build: build.clone(),
            kind,
            reason: reason.clone(),
            at,
        });
        if skipped {
            self.notes.push(Note::SkipRelease {
                build: build.clone(),
                reason: format!("{reason}, as in {} attempts before", job.crashes),
                at,
            });
        }
        self.end(match kind {
            FailureKind::Environment | FailureKind::Interrupted => {
                Outcome::Postponed { code, reason }
            }
            FailureKind::Unhealthy | FailureKind::Crashed => Outcome::Failed {
                build,
                code,
                reason,
                skipped,
            },
        });
    }

    fn postpone(&mut self, failure: Failure) {
        self.end(Outcome::Postponed {
            code: failure.code,
            reason: failure.reason,
        });
    }

    fn end(&mut self, outcome: Outcome) {
        self.phase = Phase::Idle;
        self.actions.push(Action::Report(outcome));
    }
}
