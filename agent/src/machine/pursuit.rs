//! What each state still needs, put on the timetable, and a due duty turned into an action.
//!
//! Level-triggered: asked after every event, so that a lost answer is only a delay. It leaves a state only
//! by the methods of [`super::transitions`].

use std::time::{Duration, Instant};

use super::event::Action;
use super::state::{IDLE_PHASE_INTERVAL, Machine, PHASE_INTERVAL, Place, State};
use crate::duty::Duty;
use crate::identity::Target;
use crate::lifecycle::{Answer, OurHooks, Phase};
use crate::settings::OnFailure;

impl Machine {
    /// Puts on the timetable whatever the state still needs.
    pub(super) fn pursue(&mut self, now: Instant) {
        match self.state {
            State::Identifying => self.ensure(Duty::Identify, now),
            State::Judging { .. } | State::Serving | State::Ailing(_) => {
                self.watch(now);
                self.learn(now);
                self.see_it_in_service(now);
                self.catch_up_with_the_hook(now);
            }
            State::Admitting | State::Refusing => {
                self.watch(now);
                self.arrive(now);
            }
            State::Resting => {
                self.ensure(Duty::Target, now);
                self.learn(now);
                self.answer_the_warm_pool(now);
            }
            State::Abandoned => self.ensure(Duty::Target, now),
            State::Draining { .. } => {
                self.learn(now);
                if matches!(&self.place, Place::In(member) if !member.phase.is_departing()) {
                    self.ask_again(self.patience(), now);
                }
            }
            State::Departing { erased: false } => self.ensure(Duty::Record, now),
            State::Departing { erased: true } => self.depart(now),
            State::Gone => {}
        }
        if self.noticed {
            self.ensure(Duty::Target, now);
        }
        if self.listens() {
            self.ensure(Duty::Spot, now);
            self.ensure(Duty::Schedule, now);
        }
        self.keep_traffic(now);
        self.keep_beating(now);
    }

    /// A warm pool's launch hook waits for the box to be prepared, not for it to serve. It waits a second
    /// time when the group calls the box up.
    fn answer_the_warm_pool(&mut self, now: Instant) {
        let warming = matches!(&self.place, Place::In(member) if member.phase.is_warming());
        if warming && !self.answered && self.launch_hook().is_some() {
            self.ensure(Duty::Answer, now);
        }
    }

    /// Before the group is asked again where it has a leaving box. One that leaves because of a notice
    /// may wait in vain for the group.
    fn patience(&self) -> Duration {
        if self.noticed {
            IDLE_PHASE_INTERVAL
        } else {
            PHASE_INTERVAL
        }
    }

    fn watch(&mut self, now: Instant) {
        if !self.blind {
            self.ensure(Duty::Check, now);
        }
        self.ensure(Duty::Target, now);
    }

    fn learn(&mut self, now: Instant) {
        match self.place {
            Place::Unknown => self.ensure(Duty::Membership, now),
            Place::In(_) if self.hooks.is_none() => self.ensure(Duty::Hooks, now),
            Place::In(_) | Place::Nowhere => {}
        }
    }

    /// After the launch hook's answer the group takes a moment to have the box in service.
    fn see_it_in_service(&mut self, now: Instant) {
        let under_way = match &self.place {
            Place::In(member) => {
                member.phase.is_arriving() || member.phase == Phase::PendingProceed
            }
            _ => false,
        };
        let past_the_gate = !matches!(self.state, State::Judging { .. });
        if under_way && past_the_gate && !self.duties.has(Duty::Membership) {
            self.duties.at(Duty::Membership, now + IDLE_PHASE_INTERVAL);
        }
    }

    /// A box that joins a group late, or whose group was slow to tell, still answers the hook.
    fn catch_up_with_the_hook(&mut self, now: Instant) {
        let Place::In(member) = &self.place else {
            return;
        };
        if self.answered || !member.phase.is_arriving() || self.launch_hook().is_none() {
            return;
        }
        match self.state {
            State::Serving => self.readmitted(now),
            State::Ailing(_) => {
                let reason = self
                    .standing
                    .as_ref()
                    .map_or_else(String::new, |s| s.reason.clone());
                self.turned_away(reason, now);
            }
            _ => {}
        }
    }

    /// Towards an answered launch hook. What counts is the group's own word on where we are.
    fn arrive(&mut self, now: Instant) {
        let phase = match &self.place {
            Place::Unknown => return self.ensure(Duty::Membership, now),
            Place::Nowhere => {
                return match &self.target {
                    None => {}
                    Some(Some(Target::InService)) => self.ask_again(PHASE_INTERVAL, now),
                    Some(_) => self.arrived(now),
                };
            }
            Place::In(member) => &member.phase,
        };
        match phase {
            Phase::Pending | Phase::PendingWait => match &self.hooks {
                None => self.ensure(Duty::Hooks, now),
                Some(OurHooks { launch: None, .. }) => self.arrived(now),
                Some(_) => self.ensure(Duty::Answer, now),
            },
            // The group is slower than the metadata service.
            Phase::WarmPending | Phase::WarmPendingWait if self.state == State::Admitting => {
                self.ask_again(PHASE_INTERVAL, now);
            }
            Phase::WarmPending | Phase::WarmPendingWait => match &self.hooks {
                None => self.ensure(Duty::Hooks, now),
                Some(OurHooks { launch: None, .. }) => self.arrived(now),
                Some(_) => self.ensure(Duty::Answer, now),
            },
            Phase::PendingProceed | Phase::InService => self.arrived(now),
            Phase::Other(name) if name.contains("Standby") || name.starts_with("Detach") => {
                self.arrived(now);
            }
            Phase::Terminating | Phase::TerminatingWait | Phase::Leaving | Phase::Other(_) => {
                self.ask_again(IDLE_PHASE_INTERVAL, now);
            }
        }
    }

    fn arrived(&mut self, now: Instant) {
        match self.state {
            State::Admitting => self.admitted(now),
            State::Refusing => self.condemned(now),
            _ => {}
        }
    }

    /// Towards an answered termination hook.
    fn depart(&mut self, now: Instant) {
        let fresh = self.hooks_are_fresh(now);
        match &self.place {
            Place::Unknown => self.ensure(Duty::Membership, now),
            Place::Nowhere => self.released(),
            Place::In(member) => match (&member.phase, &self.hooks) {
                (Phase::Leaving, _) => self.released(),
                (Phase::TerminatingWait, None) => self.ensure(Duty::Hooks, now),
                (
                    Phase::TerminatingWait,
                    Some(OurHooks {
                        terminate: None, ..
                    }),
                ) if fresh => self.released(),
                // Some hook holds this box, and none of those that were there is it.
                (
                    Phase::TerminatingWait,
                    Some(OurHooks {
                        terminate: None, ..
                    }),
                ) => {
                    self.hooks = None;
                    self.ensure(Duty::Hooks, now);
                }
                (Phase::TerminatingWait, Some(_)) => self.ensure(Duty::Answer, now),
                // Load balancers are still letting go, or the group has yet to catch up with IMDS.
                _ => self.ask_again(self.patience(), now),
            },
        }
    }

    fn keep_beating(&mut self, now: Instant) {
        let Place::In(member) = &self.place else {
            return;
        };
        let wanted = match self.state {
            State::Judging { .. } | State::Admitting | State::Refusing => self
                .launch_hook()
                .filter(|_| member.phase.is_arriving() || member.phase.is_warming()),
            State::Resting => self
                .launch_hook()
                .filter(|_| member.phase.is_warming() && !self.answered),
            // No hook holds off EC2.
            State::Draining { .. } | State::Departing { .. } if self.noticed => None,
            State::Draining { .. } | State::Departing { .. } => self
                .terminate_hook()
                .filter(|_| member.phase.is_departing()),
            _ => None,
        };
        match wanted.map(|hook| hook.timeout / 3) {
            None => self.duties.drop(Duty::Beat),
            // Spread between 70 % and all of a third, so that a scale-out does not beat in step.
            Some(third) if !self.duties.has(Duty::Beat) => {
                let spread = 0.7 + 0.3 * self.duties.jitter();
                self.duties.at(Duty::Beat, now + third.mul_f64(spread));
            }
            Some(_) => {}
        }
    }

    /// Whether the drain came to nothing, where settings then want the termination abandoned.
    fn gives_up(&self) -> bool {
        self.overdue && self.terms.drain.on_failure == OnFailure::Abandon
    }

    /// A duty is due: turns it into an action, if the state still wants it.
    pub(super) fn begin(&mut self, duty: Duty, now: Instant) {
        let leaving = self.is_leaving();
        let group = self.group().map(str::to_owned);
        let hook = if leaving {
            self.terminate_hook()
        } else {
            self.launch_hook()
        };
        let hook = group.clone().zip(hook.map(|hook| hook.name.clone()));
        let action = match (duty, group, hook) {
            (Duty::Identify, ..) => Some(Action::Identify),
            (Duty::Check, ..) => Some(Action::Check {
                interval: self.interval(),
            }),
            (Duty::Target, ..) => Some(Action::AskTarget),
            (Duty::Spot, ..) => Some(Action::AskSpot),
            (Duty::Schedule, ..) => Some(Action::AskSchedule),
            (Duty::Membership, ..) => Some(Action::AskMembership),
            (Duty::Hooks, Some(group), _) => Some(Action::AskHooks(group)),
            (Duty::Answer, _, Some((group, hook))) => {
                let answer = if self.state == State::Refusing || self.gives_up() {
                    Answer::Abandon
                } else {
                    Answer::Continue
                };
                Some(Action::Complete {
                    group,
                    hook,
                    answer,
                })
            }
            (Duty::Beat, _, Some((group, hook))) => Some(Action::Heartbeat { group, hook }),
            (Duty::Record, ..) if matches!(self.state, State::Departing { .. }) => {
                Some(Action::Erase)
            }
            (Duty::Record, ..) => {
                self.pace.begun(now);
                Some(Action::Record)
            }
            (Duty::Attached | Duty::Join | Duty::Part | Duty::Traffic, ..) => {
                self.begin_traffic(duty)
            }
            (Duty::Restart, ..) => self.begin_restart(),
            (Duty::Peers, Some(group), _) => Some(Action::AskPeers(group)),
            (Duty::Report, ..) => Some(Action::ReportUnhealthy),
            // The group is not known any more: `pursue` will ask again.
            (Duty::Hooks | Duty::Answer | Duty::Beat | Duty::Peers, ..) => None,
        };
        match action {
            Some(action) => self.outbox.push(action),
            None => self.duties.done(duty),
        }
    }
}
