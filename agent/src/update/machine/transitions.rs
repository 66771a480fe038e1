//! Every way from one phase to another: one method each, named as on the edges of
//! `docs/agent-update-states.dot`. Nothing here but transitions; a test compares the two.

use jiff::Timestamp;

use super::{Action, Blame, Failure, Job, Look, NO_LEAVE, Note, Outcome, Phase, STRIKES, Step};
use crate::update::board::Build;
use crate::update::plan::Decision;

impl Step {
    pub(super) fn woken(&mut self) {
        self.check();
    }

    pub(super) fn resumed(&mut self) {
        self.check();
    }

    /// Cut short while the release's code ran, for the first time: it may have been an accident.
    pub(super) fn interrupted(&mut self, job: Job) {
        self.notes.push(Note::Strike(job.build));
        self.actions.push(Action::Revert);
        self.check();
    }

    /// Cut short again: it is taken for the release's doing.
    pub(super) fn struck_out(&mut self, job: Job, look: &Look) {
        self.actions.push(Action::Revert);
        let reason = format!("cut short {STRIKES} times");
        self.skip(job.build, "interrupted".to_owned(), reason, look.at);
    }

    pub(super) fn chosen(&mut self, job: Job, fetch: Action) {
        self.phase = Phase::Fetching(job);
        self.actions.push(fetch);
    }

    pub(super) fn settled(&mut self, decision: Decision) {
        if !matches!(decision, Decision::WaitBackoff { .. }) {
            self.notes.push(Note::Well);
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
        self.actions.push(Action::AskLeave(job.build.clone()));
        self.phase = Phase::Asking(job);
    }

    pub(super) fn no_leave(&mut self, reason: String) {
        self.end(Outcome::Postponed {
            code: NO_LEAVE.to_owned(),
            reason,
        });
    }

    pub(super) fn given_leave(&mut self, job: Job) {
        self.actions.push(Action::Arm(job.build.clone()));
        self.phase = Phase::Armed(job);
    }

    pub(super) fn started(&mut self, job: Job) {
        self.actions.push(Action::Watch(job.build.clone()));
        self.phase = Phase::Trial(job);
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

    /// Power went behind the commit point: on from there.
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

    /// An attempt before the trial, that failed while stable went on undisturbed.
    pub(super) fn gave_up(&mut self, job: Job, failure: Failure) {
        self.fail(job, failure);
    }

    /// An attempt that failed with the trial in stable's place.
    pub(super) fn reverted(&mut self, job: Job, failure: Failure) {
        self.actions.push(Action::Revert);
        self.fail(job, failure);
    }

    /// The new stable did not start at once. It has its own restarts, and `update repair` behind them, which
    /// goes one step down; waiting for it here would keep the box from the release that mends it.
    pub(super) fn left_to_systemd(&mut self, failure: Failure) {
        self.postpone(failure);
    }

    /// `stable` was moved back since, by `update repair` or by hand.
    pub(super) fn undone(&mut self, job: Job, look: &Look) {
        self.actions.push(Action::Revert);
        let reason = "did not run as stable, and was replaced".to_owned();
        self.skip(job.build, "repaired".to_owned(), reason, look.at);
    }
}

/// What several transitions have in common.
impl Step {
    fn check(&mut self) {
        self.phase = Phase::Checking;
        self.actions.push(Action::Check);
    }

    fn fail(&mut self, job: Job, failure: Failure) {
        match failure.blame {
            Blame::Release => self.skip(job.build, failure.code, failure.reason, failure.at),
            Blame::World => {
                let (build, reason) = (job.build, failure.reason.clone());
                self.notes.push(Note::Setback {
                    build,
                    reason,
                    at: failure.at,
                });
                self.postpone(failure);
            }
        }
    }

    fn skip(&mut self, build: Build, code: String, reason: String, at: Timestamp) {
        self.notes.push(Note::Skip {
            build: build.clone(),
            reason: reason.clone(),
            at,
        });
        self.end(Outcome::Skipped {
            build,
            code,
            reason,
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
