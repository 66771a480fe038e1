//! Every way from one state to another: one method each, named as on the edges of
//! `docs/agent-states.dot`. Nothing here but transitions; a test compares the two.

use std::time::Instant;

use contract::registry::Verdict;

use super::past::{Past, Stage};
use super::state::{ENDED_BY_GROUP, Machine, Place, State};
use super::terms::Terms;
use super::window::Window;
use crate::duty::Duty;

impl Machine {
    pub(super) fn identified(&mut self, terms: Terms, now: Instant) {
        self.state = State::Judging {
            deadline: now + terms.gate.deadline,
        };
        self.agree_to(terms);
        self.declare(Verdict::Judging, String::new(), now);
    }

    pub(super) fn resumed(&mut self, past: Past, terms: Terms, now: Instant) {
        self.agree_to(terms);
        // Being past the launch hook is what its answer was for: it is not given twice.
        self.answered =
            past.group.is_some() && matches!(past.stage, Stage::Serving | Stage::Ailing);
        self.group = past.group;
        self.state = match past.stage {
            Stage::Admitting => State::Admitting,
            Stage::Serving => State::Serving,
            Stage::Refusing => State::Refusing,
            Stage::Ailing => State::Ailing(self.replacement(now)),
            // Of a leaving box this keeps the last word, should that be why it was abandoned.
            Stage::Abandoned | Stage::Draining | Stage::Departing
                if past.standing.verdict == Verdict::Unfit =>
            {
                State::Abandoned
            }
            Stage::Abandoned | Stage::Draining | Stage::Departing => State::Serving,
        };
        self.standing = Some(past.standing);
        self.round = past.round;
        let dice = self.duties.jitter();
        let due = self.pace.resume(past.recorded, now, dice);
        self.record_by(due);
    }

    pub(super) fn settings_refused(&mut self, reason: String, now: Instant) {
        self.blind = true;
        self.state = State::Refusing;
        self.declare(Verdict::Unfit, format!("settings refused: {reason}"), now);
    }

    pub(super) fn gate_passed(&mut self, now: Instant) {
        // What failed while it came up is over.
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

    pub(super) fn turned_away(&mut self, reason: String, now: Instant) {
        self.end_remedy();
        self.state = State::Refusing;
        self.declare(Verdict::Unfit, reason, now);
    }

    pub(super) fn condemned(&mut self, now: Instant) {
        self.duties.drop(Duty::Answer);
        self.state = State::Ailing(self.replacement(now));
        self.seek_remedy(now);
    }

    pub(super) fn abandoned(&mut self) {
        self.duties.drop(Duty::Check);
        self.state = State::Abandoned;
    }

    pub(super) fn fell_ill(&mut self, reason: String, now: Instant) {
        self.state = State::Ailing(self.replacement(now));
        self.seek_remedy(now);
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

    pub(super) fn set_aside(&mut self, how: String, now: Instant) {
        for duty in [Duty::Answer, Duty::Check] {
            self.duties.drop(duty);
        }
        self.end_remedy();
        self.state = State::Resting;
        self.declare(Verdict::Resting, how, now);
    }

    pub(super) fn called_up(&mut self, now: Instant) {
        // The launch hook waits a second time, and hooks may have been changed meanwhile.
        self.answered = false;
        self.hooks = None;
        self.back_to_the_gate(now);
    }

    pub(super) fn reprieved(&mut self, now: Instant) {
        (self.noticed, self.overdue) = (false, false);
        self.back_to_the_gate(now);
    }

    fn back_to_the_gate(&mut self, now: Instant) {
        self.duties.drop(Duty::Answer);
        self.end_remedy();
        self.forget_the_record();
        (self.passes, self.failures) = (0, 0);
        self.window = Window::default();
        self.place = Place::Unknown;
        self.state = State::Judging {
            deadline: now + self.terms.gate.deadline,
        };
        self.declare(Verdict::Judging, String::new(), now);
    }

    pub(super) fn told_to_leave(&mut self, now: Instant) {
        for duty in [Duty::Spot, Duty::Schedule] {
            self.duties.drop(duty);
        }
        self.withdraw(
            ENDED_BY_GROUP.to_owned(),
            now + self.terms.drain.deadline,
            now,
        );
    }

    pub(super) fn interrupted(&mut self, why: String, deadline: Instant, now: Instant) {
        self.noticed = true;
        self.withdraw(why, deadline, now);
    }

    fn withdraw(&mut self, why: String, deadline: Instant, now: Instant) {
        for duty in [
            Duty::Check,
            Duty::Target,
            // Perhaps on the slow round of a box in service; a leaving one asks at once.
            Duty::Membership,
            Duty::Answer,
            Duty::Beat,
        ] {
            self.duties.drop(duty);
        }
        self.end_remedy();
        if !matches!(&self.place, Place::In(member) if member.phase.is_departing()) {
            self.place = Place::Unknown;
        }
        let never_served = self.state == State::Abandoned;
        self.state = State::Draining {
            until: deadline.min(now + self.terms.drain.settle),
            deadline,
        };
        // An abandoned box has nothing to drain, and why it was abandoned stays its last word.
        if !never_served {
            self.declare(Verdict::Draining, why, now);
        }
    }

    pub(super) fn settled(&mut self) {
        self.place = Place::Unknown;
        self.forget_the_record();
        self.state = State::Departing { erased: false };
    }

    pub(super) fn released(&mut self) {
        self.duties.drop(Duty::Answer);
        self.duties.drop(Duty::Beat);
        self.state = State::Gone;
    }

    fn agree_to(&mut self, terms: Terms) {
        self.traffic.wanted.clone_from(&terms.target_groups);
        self.terms = terms;
    }
}
