//! Schedules the duties that each state still needs, and turns a due duty into an action.
//!
//! Level-triggered: called after every event, so a lost answer is only a delay. States change only through the
//! methods of [`super::transitions`].

use std::time::{Duration, Instant};

use super::event::Action;
use super::state::{IDLE_PHASE_INTERVAL, Lifecycle, PHASE_INTERVAL, Place, State};
use crate::duty::Duty;
use crate::hooks::{Answer, OurHooks, Phase};
use crate::identity::TargetState;
use crate::settings::OnFailure;

impl Lifecycle {
    /// Schedules what the state still needs.
    pub(super) fn pursue(&mut self, now: Instant) {
        match self.state {
            State::Identifying => self.ensure(Duty::Identify, now),
            State::Judging { .. } | State::Serving | State::Ailing(_) => {
                self.watch(now);
                self.find_group_and_hooks(now);
                self.await_in_service(now);
                self.answer_hook_late(now);
            }
            State::Admitting | State::Refusing => {
                self.watch(now);
                self.arrive(now);
            }
            State::Resting => {
                self.ensure(Duty::TargetState, now);
                self.find_group_and_hooks(now);
                self.answer_warm_pool_hook(now);
            }
            State::Abandoned => self.ensure(Duty::TargetState, now),
            State::Draining { .. } => {
                self.pursue_drain(now);
                self.find_group_and_hooks(now);
                if matches!(&self.place, Place::In(member) if !member.phase.is_terminating()) {
                    self.ask_again(self.membership_pause(), now);
                }
            }
            State::Departing {
                record_removed: false,
            } => self.ensure(Duty::Record, now),
            State::Departing {
                record_removed: true,
            } => self.depart(now),
            State::Released => {}
        }
        if self.draining_for_notice {
            self.ensure(Duty::TargetState, now);
        }
        if self.follows_notices() {
            self.ensure(Duty::Spot, now);
            self.ensure(Duty::Schedule, now);
        }
        self.keep_traffic(now);
        self.schedule_heartbeat(now);
    }

    /// A warm pool's launch hook waits for the instance to be prepared, not to serve. It waits a second time when the
    /// group moves the instance into service.
    fn answer_warm_pool_hook(&mut self, now: Instant) {
        let warming = matches!(&self.place, Place::In(member) if member.phase.is_warming());
        if warming && !self.launch_hook_answered && self.launch_hook().is_some() {
            self.ensure(Duty::Answer, now);
        }
    }

    /// Pause before the membership of an instance that drains is read again. One that drains because of a notice may
    /// never be terminated by the group.
    fn membership_pause(&self) -> Duration {
        if self.draining_for_notice {
            IDLE_PHASE_INTERVAL
        } else {
            PHASE_INTERVAL
        }
    }

    fn watch(&mut self, now: Instant) {
        if !self.without_settings {
            self.ensure(Duty::Check, now);
        }
        self.ensure(Duty::TargetState, now);
    }

    fn find_group_and_hooks(&mut self, now: Instant) {
        match self.place {
            Place::Unknown => self.ensure(Duty::Membership, now),
            Place::In(_) if self.hooks.is_none() => self.ensure(Duty::Hooks, now),
            Place::In(_) | Place::Nowhere => {}
        }
    }

    /// After the launch hook's answer the group needs a moment to put the instance into service.
    fn await_in_service(&mut self, now: Instant) {
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

    /// An instance that joins a group late, or whose group was slow to answer, still answers the hook.
    fn answer_hook_late(&mut self, now: Instant) {
        let Place::In(member) = &self.place else {
            return;
        };
        if self.launch_hook_answered || !member.phase.is_arriving() || self.launch_hook().is_none()
        {
            return;
        }
        match self.state {
            State::Serving => self.readmitted(now),
            State::Ailing(_) => {
                let reason = self
                    .judgement
                    .as_ref()
                    .map_or_else(String::new, |s| s.reason.clone());
                self.refused_after_gate(reason, now);
            }
            _ => {}
        }
    }

    /// Steps towards an answered launch hook. The group's own lifecycle state decides.
    fn arrive(&mut self, now: Instant) {
        let phase = match &self.place {
            Place::Unknown => return self.ensure(Duty::Membership, now),
            Place::Nowhere => {
                return match &self.target_state {
                    None => {}
                    Some(Some(TargetState::InService)) => self.ask_again(PHASE_INTERVAL, now),
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
            // The group lags behind the metadata service.
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
            Phase::Terminating
            | Phase::TerminatingWait
            | Phase::TerminatingProceed
            | Phase::Other(_) => {
                self.ask_again(IDLE_PHASE_INTERVAL, now);
            }
        }
    }

    fn arrived(&mut self, now: Instant) {
        match self.state {
            State::Admitting => self.admitted(now),
            State::Refusing => self.admitted_unfit(now),
            _ => {}
        }
    }

    /// Steps towards an answered termination hook.
    fn depart(&mut self, now: Instant) {
        let fresh = self.hooks_are_fresh(now);
        match &self.place {
            Place::Unknown => self.ensure(Duty::Membership, now),
            Place::Nowhere => self.released(),
            Place::In(member) => match (&member.phase, &self.hooks) {
                (Phase::TerminatingProceed, _) => self.released(),
                (Phase::TerminatingWait, None) => self.ensure(Duty::Hooks, now),
                (
                    Phase::TerminatingWait,
                    Some(OurHooks {
                        terminate: None, ..
                    }),
                ) if fresh => self.released(),
                // Some hook holds this instance, but none of those that were read.
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
                // Load balancers are still deregistering the instance, or the group lags behind the metadata service.
                _ => self.ask_again(self.membership_pause(), now),
            },
        }
    }

    fn schedule_heartbeat(&mut self, now: Instant) {
        let Place::In(member) = &self.place else {
            return;
        };
        let wanted = match self.state {
            State::Judging { .. } | State::Admitting | State::Refusing => self
                .launch_hook()
                .filter(|_| member.phase.is_arriving() || member.phase.is_warming()),
            State::Resting => self
                .launch_hook()
                .filter(|_| member.phase.is_warming() && !self.launch_hook_answered),
            // No hook delays EC2.
            State::Draining { .. } | State::Departing { .. } if self.draining_for_notice => None,
            State::Draining { .. } | State::Departing { .. } => self
                .terminate_hook()
                .filter(|_| member.phase.is_terminating()),
            _ => None,
        };
        // After a failure much of the time is over already, and a second one must not end the hook.
        let share = if self.heartbeat_owed { 9 } else { 3 };
        match wanted.map(|hook| hook.timeout / share) {
            None => self.duties.drop(Duty::Heartbeat),
            // Spread between 70 % and all of it, so that the instances of a scale-out do not send heartbeats at the same
            // time.
            Some(pause) if !self.duties.has(Duty::Heartbeat) => {
                let spread = 0.7 + 0.3 * self.duties.jitter();
                self.duties.at(Duty::Heartbeat, now + pause.mul_f64(spread));
            }
            Some(_) => {}
        }
    }

    /// Whether the drain failed and the settings ask to abandon the termination then.
    fn gives_up(&self) -> bool {
        self.overdue && self.terms.drain.on_failure == OnFailure::Abandon
    }

    /// Turns a due duty into an action, if the state still needs it.
    pub(super) fn begin(&mut self, duty: Duty, now: Instant) {
        let leaving = self.is_on_way_out();
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
            (Duty::TargetState, ..) => Some(Action::AskTargetState),
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
            (Duty::Heartbeat, _, Some((group, hook))) => Some(Action::Heartbeat { group, hook }),
            (Duty::Record, ..) if matches!(self.state, State::Departing { .. }) => {
                Some(Action::RemoveRecord)
            }
            (Duty::Record, ..) => {
                self.pace.begun(now);
                Some(Action::WriteRecord)
            }
            (Duty::Attached | Duty::Register | Duty::Deregister | Duty::Traffic, ..) => {
                self.begin_traffic(duty)
            }
            (Duty::Restart, ..) => self.begin_restart(),
            (Duty::DrainCheck, ..) => self.begin_drain_check(now),
            (Duty::Peers, Some(group), _) => Some(Action::AskPeers(group)),
            (Duty::Report, ..) => Some(Action::ReportUnhealthy),
            // The group is no longer known: `pursue` schedules another read.
            (Duty::Hooks | Duty::Answer | Duty::Heartbeat | Duty::Peers, ..) => None,
        };
        match action {
            Some(action) => self.outbox.push(action),
            None => self.duties.done(duty),
        }
    }
}
