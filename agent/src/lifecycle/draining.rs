//! The drain: how long it takes, what is asked meanwhile, and what shortens it.
//!
//! A drain ends when its least time is over, the load balancers have deregistered the instance, and the services,
//! where they are asked, have answered a question asked after both that they are done. It ends without them at its
//! deadline, which EC2's notices and the longest time of the termination hook bring forward, and when the group no
//! longer waits.

use std::time::{Duration, Instant};

use super::event::Action;
use super::progress::{Outcome, Progress, View, decide};
use super::state::{Lifecycle, Place, State};
use crate::duty::Duty;
use crate::health::DrainAnswer;
use crate::hooks::{Membership, Phase};

/// Time that an instance keeps for its last calls when it is stopped at a known time.
pub(super) const LAST_MOMENTS: Duration = Duration::from_secs(15);

impl Lifecycle {
    fn drain_view(&self) -> Option<View> {
        let State::Draining { until, deadline } = self.state else {
            return None;
        };
        Some(View {
            until,
            deadline,
            deregistered: self.traffic.is_out(),
            done: self.drain.as_ref().is_none_or(Progress::is_done),
            released: self.drain.as_ref().is_some_and(|drain| drain.released),
        })
    }

    /// When the drain ends if nothing happens before.
    pub(super) fn drain_ends(&self) -> Option<Instant> {
        let view = self.drain_view()?;
        Some(match view.deregistered && view.done {
            true => view.until,
            false => view.deadline,
        })
    }

    /// Ends the drain if it is over.
    pub(super) fn end_drain(&mut self, now: Instant) {
        let Some(view) = self.drain_view() else {
            return;
        };
        let left = match (view.deregistered, self.drain.as_ref()) {
            (true, Some(drain)) => drain.describe(),
            _ => "the load balancers have not deregistered the instance".to_owned(),
        };
        match decide(view, now) {
            Outcome::Goes => return,
            Outcome::Finished => {}
            Outcome::Overdue => {
                self.overdue = true;
                self.warn(format!("the drain ends at its deadline: {left}"));
            }
            Outcome::Released => self.warn(format!(
                "the drain ends, since the group no longer waits for this instance: {left}"
            )),
        }
        self.drained();
    }

    /// Schedules the questions, and keeps the deadline within what the group grants.
    pub(super) fn pursue_drain(&mut self, now: Instant) {
        self.keep_within_hook(now);
        self.note_missing_hook();
        let State::Draining { until, .. } = self.state else {
            return;
        };
        let free = now >= until && self.traffic.is_out();
        let Some(drain) = self.drain.as_mut().filter(|drain| drain.asks) else {
            return;
        };
        if free && drain.free_since.is_none() {
            drain.free_since = Some(now);
            self.duties.at(Duty::DrainCheck, now);
        } else if drain.asked.is_none() {
            self.duties.at(Duty::DrainCheck, now);
        }
    }

    /// A question is being asked.
    pub(super) fn begin_drain_check(&mut self, now: Instant) -> Option<Action> {
        if !matches!(self.state, State::Draining { .. }) {
            return None;
        }
        let drain = self.drain.as_mut()?;
        drain.asked = Some(now);
        Some(Action::CheckDrain)
    }

    pub(super) fn drain_checked(&mut self, answer: DrainAnswer, now: Instant) {
        self.duties.done(Duty::DrainCheck);
        let State::Draining { until, .. } = self.state else {
            return;
        };
        let Some(drain) = &mut self.drain else {
            return;
        };
        let news = match &answer {
            DrainAnswer::Unclear { kind, detail } if drain.warned.insert(*kind) => Some(format!(
                "cannot find out whether the services are busy, so they count as busy: {detail}"
            )),
            _ => None,
        };
        drain.answered(answer);
        self.outbox.extend(news.map(Action::Warn));
        if let Some(interval) = self.terms.drain.poll {
            let next = now + interval;
            let next = if now < until { next.min(until) } else { next };
            self.duties.at(Duty::DrainCheck, next);
        }
    }

    /// Continues the drain of the previous daemon, which took so long.
    pub(super) fn resume_drain(&mut self, took: Duration, now: Instant) {
        if let Some(drain) = &mut self.drain {
            drain.began = now.checked_sub(took).unwrap_or(now);
        }
        self.end_drain_by(now + self.terms.drain.deadline.saturating_sub(took));
    }

    /// The membership of an instance that drains: the hook may have run out, or another program have answered it.
    pub(super) fn drain_membership_seen(&mut self) {
        let over = match &self.place {
            Place::In(member) => member.phase == Phase::TerminatingProceed,
            Place::Nowhere => true,
            Place::Unknown => false,
        };
        if let Some(drain) = &mut self.drain
            && !self.draining_for_notice
        {
            drain.released = over;
        }
    }

    /// Brings the deadline forward.
    pub(super) fn end_drain_by(&mut self, end: Instant) -> bool {
        match &mut self.state {
            State::Draining { until, deadline } if end < *deadline => {
                *deadline = end;
                *until = end.min(*until);
                true
            }
            _ => false,
        }
    }

    /// Heartbeats extend a hook only so far: the drain must end before.
    fn keep_within_hook(&mut self, now: Instant) {
        let (Some(hook), Some(drain)) = (self.terminate_hook(), self.drain.as_ref()) else {
            return;
        };
        let terminating =
            matches!(&self.place, Place::In(Membership { phase, .. }) if phase.is_terminating());
        if self.draining_for_notice || !terminating {
            return;
        }
        let (name, longest) = (hook.name.clone(), hook.longest());
        let end = (drain.began + longest.saturating_sub(LAST_MOMENTS)).max(now);
        if self.end_drain_by(end) {
            self.warn(format!(
                "hook {name} holds this instance for at most {} s: the drain ends before",
                longest.as_secs()
            ));
        }
    }

    /// Without a termination hook nothing holds an instance whose services are busy.
    fn note_missing_hook(&mut self) {
        let terminating = matches!(
            &self.place,
            Place::In(Membership {
                phase: Phase::Terminating | Phase::TerminatingWait,
                ..
            })
        );
        let none = self
            .hooks
            .as_ref()
            .is_some_and(|hooks| hooks.terminate.is_none());
        if !terminating || !none || self.draining_for_notice {
            return;
        }
        if let Some(drain) = self.drain.as_mut().filter(|drain| drain.asks)
            && !std::mem::replace(&mut drain.warned_of_no_hook, true)
        {
            self.warn(
                "the group has no termination hook for the agent: it terminates this instance although its services \
                 may be busy"
                    .to_owned(),
            );
        }
    }

    /// What a drain waits for, in one line.
    pub(super) fn drain_waits_for(&self) -> String {
        match self.drain.as_ref() {
            _ if !self.traffic.is_out() => {
                "draining; waiting for the load balancers to deregister this instance".into()
            }
            Some(drain) if drain.asks => format!("draining; {}", drain.describe()),
            _ => "draining; waiting for the last requests to finish".into(),
        }
    }

    fn warn(&mut self, text: String) {
        self.outbox.push(Action::Warn(text));
    }
}
