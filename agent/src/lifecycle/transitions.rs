//! Every transition: one method each, named as on the edges of `docs/agent-states.dot`. Only transitions are in this
//! file; a test compares the two.

use std::time::Instant;

use contract::registry::Verdict;

use super::previous::{LifeStage, PreviousDaemon};
use super::progress::Progress;
use super::state::{ENDED_BY_GROUP, Lifecycle, Place, State};
use super::terms::Terms;
use super::window::Window;
use crate::duty::Duty;

impl Lifecycle {
    pub(super) fn identified(&mut self, terms: Terms, now: Instant) {
        self.state = State::Judging {
            deadline: now + terms.gate.deadline,
        };
        self.agree_to(terms);
        self.declare(Verdict::Judging, String::new(), now);
    }

    pub(super) fn resumed(&mut self, previous: PreviousDaemon, terms: Terms, now: Instant) {
        self.agree_to(terms);
        // A serving instance has passed its launch hook: the answer is not sent twice.
        self.launch_hook_answered = previous.group.is_some()
            && matches!(previous.stage, LifeStage::Serving | LifeStage::Ailing);
        self.group = previous.group;
        // One that was unfit at its launch hook, or abandoned there, never was fit.
        self.ever_fit = match previous.stage {
            LifeStage::Admitting | LifeStage::Serving | LifeStage::Ailing => true,
            LifeStage::Refusing | LifeStage::Abandoned => false,
            LifeStage::Draining | LifeStage::Departing => {
                previous.judgement.verdict == Verdict::Draining
            }
        };
        self.state = match previous.stage {
            LifeStage::Admitting => State::Admitting,
            LifeStage::Serving => State::Serving,
            LifeStage::Refusing => State::Refusing,
            LifeStage::Ailing => State::Ailing(self.replacement(now)),
            // An abandoned instance keeps its verdict while it drains.
            LifeStage::Abandoned | LifeStage::Draining | LifeStage::Departing
                if previous.judgement.verdict == Verdict::Unfit =>
            {
                State::Abandoned
            }
            LifeStage::Abandoned | LifeStage::Draining | LifeStage::Departing => State::Serving,
        };
        self.judgement = Some(previous.judgement);
        self.round = previous.round;
        let dice = self.duties.jitter();
        let due = self.pace.resume(previous.recorded, now, dice);
        self.record_by(due);
    }

    pub(super) fn settings_refused(&mut self, reason: String, now: Instant) {
        self.without_settings = true;
        self.state = State::Refusing;
        self.declare(Verdict::Unfit, format!("settings refused: {reason}"), now);
    }

    pub(super) fn gate_passed(&mut self, now: Instant) {
        // Checks that failed during the start no longer count.
        self.window = Window::default();
        self.state = State::Admitting;
        self.declare(Verdict::Fit, String::new(), now);
    }

    pub(super) fn gate_failed(&mut self, reason: String, now: Instant) {
        self.state = State::Refusing;
        self.declare(Verdict::Unfit, reason, now);
    }

    pub(super) fn admitted(&mut self, _now: Instant) {
        self.duties.drop(Duty::Answer);
        self.state = State::Serving;
    }

    pub(super) fn refused_after_gate(&mut self, reason: String, now: Instant) {
        self.end_remedy();
        self.state = State::Refusing;
        self.declare(Verdict::Unfit, reason, now);
    }

    pub(super) fn admitted_unfit(&mut self, now: Instant) {
        self.duties.drop(Duty::Answer);
        self.state = State::Ailing(self.replacement(now));
        self.begin_remedy(now);
    }

    pub(super) fn abandoned(&mut self) {
        self.duties.drop(Duty::Check);
        self.state = State::Abandoned;
    }

    pub(super) fn became_unfit(&mut self, reason: String, now: Instant) {
        self.state = State::Ailing(self.replacement(now));
        self.begin_remedy(now);
        self.declare(Verdict::Unfit, reason, now);
    }

    pub(super) fn recovered(&mut self, now: Instant) {
        self.window = Window::default();
        self.end_remedy();
        self.state = State::Serving;
        self.declare(Verdict::Fit, String::new(), now);
    }

    pub(super) fn readmitted(&mut self, _now: Instant) {
        self.state = State::Admitting;
    }

    pub(super) fn prepared(&mut self, how: String, now: Instant) {
        self.duties.drop(Duty::Check);
        self.state = State::Resting;
        self.declare(Verdict::Resting, how, now);
    }

    pub(super) fn taken_out_of_service(&mut self, how: String, now: Instant) {
        for duty in [Duty::Answer, Duty::Check] {
            self.duties.drop(duty);
        }
        self.end_remedy();
        self.state = State::Resting;
        self.declare(Verdict::Resting, how, now);
    }

    pub(super) fn returned_to_service(&mut self, now: Instant) {
        // The launch hook waits a second time, and hooks may have changed meanwhile.
        self.launch_hook_answered = false;
        self.hooks = None;
        self.restart_gate(now);
    }

    pub(super) fn notice_withdrawn(&mut self, now: Instant) {
        (self.draining_for_notice, self.overdue) = (false, false);
        self.duties.drop(Duty::DrainCheck);
        self.restart_gate(now);
    }

    fn restart_gate(&mut self, now: Instant) {
        self.duties.drop(Duty::Answer);
        self.end_remedy();
        self.forget_record();
        (self.passes, self.failures) = (0, 0);
        self.window = Window::default();
        self.place = Place::Unknown;
        self.state = State::Judging {
            deadline: now + self.terms.gate.deadline,
        };
        self.declare(Verdict::Judging, String::new(), now);
    }

    pub(super) fn terminated_by_group(&mut self, now: Instant) {
        for duty in [Duty::Spot, Duty::Schedule] {
            self.duties.drop(duty);
        }
        self.withdraw(
            ENDED_BY_GROUP.to_owned(),
            now + self.terms.drain.deadline,
            now,
        );
    }

    pub(super) fn notice_received(&mut self, why: String, deadline: Instant, now: Instant) {
        self.draining_for_notice = true;
        self.withdraw(why, deadline, now);
    }

    fn withdraw(&mut self, why: String, deadline: Instant, now: Instant) {
        for duty in [
            Duty::Check,
            Duty::TargetState,
            // It may be scheduled at the slow interval of an instance in service; a draining one reads it at once.
            Duty::Membership,
            Duty::Answer,
            Duty::Heartbeat,
            Duty::DrainCheck,
        ] {
            self.duties.drop(duty);
        }
        self.end_remedy();
        if !matches!(&self.place, Place::In(member) if member.phase.is_terminating()) {
            self.place = Place::Unknown;
        }
        let never_served = self.state == State::Abandoned;
        let asks = self.ever_fit && !never_served && self.terms.drain.poll.is_some();
        self.drain = Some(Progress::new(now, asks));
        self.state = State::Draining {
            until: deadline.min(now + self.terms.drain.settle),
            deadline,
        };
        // An abandoned instance has nothing to drain, and its verdict keeps the reason.
        if !never_served {
            self.declare(Verdict::Draining, why, now);
        }
    }

    pub(super) fn drained(&mut self) {
        self.duties.drop(Duty::DrainCheck);
        if !self.draining_for_notice {
            for duty in [Duty::Spot, Duty::Schedule] {
                self.duties.drop(duty);
            }
        }
        self.place = Place::Unknown;
        self.forget_record();
        self.state = State::Departing {
            record_removed: false,
        };
    }

    pub(super) fn released(&mut self) {
        self.duties.drop(Duty::Answer);
        self.duties.drop(Duty::Heartbeat);
        self.state = State::Released;
    }

    fn agree_to(&mut self, terms: Terms) {
        self.traffic.wanted.clone_from(&terms.target_groups);
        self.terms = terms;
    }
}
