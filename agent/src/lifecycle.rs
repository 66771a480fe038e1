//! The instance's lifecycle, a state machine: State × Event × now → (State, actions). Pure and synchronous.
//!
//! It must not read a clock, a file or a socket: [`crate::run`] reports what it observed as an [`Event`] and carries
//! out the [`Action`]s. The states and the methods that lead from one to the next are drawn in
//! `docs/agent-states.dot`; the methods are in [`transitions`].
//!
//! The rule for the group's hooks: *they are read again when the target lifecycle state changes, and when the group
//! refuses an answer*, since anyone may create, rename or delete one at any time.
//!
//! Within a state it is level-triggered: after every event [`Lifecycle::pursue`] schedules what the state still
//! needs, so a lost answer is only a delay.

mod describe;
mod draining;
mod event;
mod notices;
mod previous;
mod progress;
mod readiness;
mod remedy;
mod scheduling;
mod shutdown;
mod state;
mod terms;
mod traffic;
mod transitions;
mod window;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use contract::registry::Verdict;
use support::text;

pub(crate) use event::{Action, Event, Judgement, NoAnswer};
pub(crate) use previous::{LifeStage, PreviousDaemon};
pub(crate) use readiness::Readiness;
pub(crate) use shutdown::FinalRecord;
pub(crate) use state::{ENDED_BY_GROUP, Lifecycle, Replacement, State};
pub(crate) use terms::Terms;

use self::describe::trouble;
use self::state::{IDLE_PHASE_INTERVAL, PHASE_INTERVAL, Place};
use self::window::Window;
use crate::duty::Duty;
use crate::health::{Checked, Round};
use crate::hooks::{Answer, Hook, Hooks, Membership, OurHooks, Phase, Receipt};
use crate::identity::TargetState;
use crate::registry::pace::Urgency;

/// Interval between reads of the target lifecycle state: a local call, and until it is seen a terminated instance
/// counts as serving.
const TARGET_INTERVAL: Duration = Duration::from_secs(2);

/// Hooks that were read more recently than this are not read again when the group refuses an answer: until a hook is
/// active, answers are refused every two seconds.
const HOOKS_INTERVAL: Duration = Duration::from_secs(10);

/// Attempts to remove the record before the instance is released without it: a stale record is untidy, a delayed
/// termination is expensive.
const REMOVE_ATTEMPTS: u32 = 3;

impl Lifecycle {
    /// The only entry point: takes an event and returns the actions that follow.
    pub(crate) fn step(&mut self, event: Event, now: Instant) -> Vec<Action> {
        self.apply(event, now);
        self.check_deadlines(now);
        // A transition may lead to another at once; no chain is longer than this.
        for _ in 0..3 {
            let before = self.state.clone();
            self.pursue(now);
            if self.state == before {
                break;
            }
        }
        for duty in self.duties.take_due(now) {
            self.begin(duty, now);
        }
        std::mem::take(&mut self.outbox)
    }

    /// Continues from the previous daemon once the instance is identified, instead of judging it again.
    pub(crate) fn resume_from(&mut self, previous: PreviousDaemon) {
        self.previous = Some(previous);
    }

    /// When the next step is due if nothing happens before.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let own = match self.state {
            State::Judging { deadline } if !self.has_passed() => Some(deadline),
            State::Draining { .. } => self.drain_ends(),
            State::Ailing(Replacement::At(when)) => Some(when),
            _ => None,
        };
        let restart = self.remedy.due().filter(|_| !self.dead.is_empty());
        [own, restart, self.duties.next()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The current verdict and its reason; `None` before the first.
    pub(crate) fn judgement(&self) -> Option<&Judgement> {
        self.judgement.as_ref()
    }

    /// The result of the last round of checks.
    pub(crate) fn round(&self) -> &Round {
        &self.round
    }

    /// The group, once known.
    pub(crate) fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }

    fn apply(&mut self, event: Event, now: Instant) {
        match event {
            Event::Tick => {}
            Event::Identified(Ok((instance, terms))) => self.identity_seen(&instance, terms, now),
            Event::Identified(Err(NoAnswer)) => self.duties.failed(Duty::Identify, now),
            Event::Checked(checked) => self.checked(checked, now),
            Event::TargetStateSeen(Ok(target)) => self.target_state_seen(target, now),
            Event::TargetStateSeen(Err(NoAnswer)) => self.duties.failed(Duty::TargetState, now),
            Event::SpotSeen(seen, clock) => self.spot_seen(seen, clock, now),
            Event::ScheduleSeen(seen, clock) => self.schedule_seen(seen, clock, now),
            Event::ClockJumped => self.clock_jumped(now),
            Event::MembershipSeen(Ok(membership)) => self.membership_seen(membership, now),
            Event::MembershipSeen(Err(NoAnswer)) => self.duties.failed(Duty::Membership, now),
            Event::HooksSeen(Ok(hooks)) => self.hooks_seen(&hooks, now),
            Event::HooksSeen(Err(NoAnswer)) => self.duties.failed(Duty::Hooks, now),
            Event::Answered {
                hook,
                answer,
                outcome: Ok(receipt),
            } => self.hook_answered(&hook, answer, receipt, now),
            Event::Answered {
                outcome: Err(NoAnswer),
                ..
            } => self.hook_call_failed(Duty::Answer, now),
            Event::HeartbeatSent(Ok(receipt)) => self.heartbeat_sent(receipt, now),
            Event::HeartbeatSent(Err(NoAnswer)) => self.hook_call_failed(Duty::Heartbeat, now),
            Event::RecordWritten(written) => self.record_written(written, now),
            Event::RecordRemoved(Ok(())) => self.record_removed(),
            Event::RecordRemoved(Err(NoAnswer)) => self.duties.failed(Duty::Record, now),
            Event::AttachedSeen(attached) => self.attached_seen(attached, now),
            Event::Registered(outcome) => self.register_done(outcome, now),
            Event::Deregistered(outcome) => self.deregister_done(outcome, now),
            Event::TargetHealthSeen(seen) => self.traffic_seen(seen, now),
            Event::Restarted(Ok(())) => self.duties.done(Duty::Restart),
            Event::Restarted(Err(NoAnswer)) => self.duties.failed(Duty::Restart, now),
            Event::DrainChecked(answer) => self.drain_checked(answer, now),
            Event::PeersSeen(peers) => self.peers_seen(peers, now),
            Event::Reported(Ok(())) => self.reported_unhealthy(now),
            Event::Reported(Err(NoAnswer)) => self.duties.failed(Duty::Report, now),
        }
    }

    fn identity_seen(&mut self, instance: &str, terms: Result<Terms, String>, now: Instant) {
        self.duties.done(Duty::Identify);
        self.duties.reseed(instance);
        match (terms, self.previous.take()) {
            (Ok(terms), Some(previous)) => self.resume(previous, terms, now),
            (Ok(terms), None) => self.identified(terms, now),
            (Err(reason), _) => self.settings_refused(reason, now),
        }
    }

    /// Continues where the previous daemon stopped.
    fn resume(&mut self, previous: PreviousDaemon, terms: Terms, now: Instant) {
        let (stage, drained_for) = (previous.stage, previous.drained_for);
        self.resumed(previous, terms, now);
        if matches!(stage, LifeStage::Draining | LifeStage::Departing) {
            self.terminated_by_group(now);
            self.resume_drain(drained_for, now);
        }
        if stage == LifeStage::Departing {
            self.drained();
        }
    }

    fn checked(&mut self, checked: Checked, now: Instant) {
        self.duties.done(Duty::Check);
        if self.is_on_way_out() {
            return;
        }
        let Checked {
            round,
            dead,
            hopeless,
        } = checked;
        self.liveness_seen(dead, now);
        let changed = self.round != round;
        let version = |round: &Round, name: &String| round.get(name).map(|s| s.version.clone());
        let news = round
            .keys()
            .any(|name| version(&round, name) != version(&self.round, name));
        let passed = !round.is_empty()
            && round.values().all(|service| service.healthy)
            && self.traffic.trouble().is_none();
        self.round = round;
        if passed {
            self.passes = self.passes.saturating_add(1);
            self.failures = 0;
        } else {
            self.passes = 0;
            self.failures = self.failures.saturating_add(1);
        }
        self.duties.at(Duty::Check, now + self.interval());
        let rate = self.window.take_in(passed, &self.terms.serving);
        let sick = self.failures >= self.terms.serving.failures || rate.is_some();
        match self.state {
            State::Judging { .. } if hopeless => self.gate_failed(self.problems(), now),
            State::Judging { .. } => self.check_gate(now),
            State::Admitting if sick => self.refused_after_gate(self.unfit_reason(rate), now),
            State::Serving if sick => self.became_unfit(self.unfit_reason(rate), now),
            State::Ailing(_) if self.passes >= self.terms.serving.passes => {
                match self.out_of_service() {
                    Some(why) => self.taken_out_of_service(why, now),
                    None => self.recovered(now),
                }
            }
            _ => {}
        }
        if changed {
            self.record_round(news, now);
        }
    }

    /// What is wrong, and the failure rate if not every check fails.
    fn unfit_reason(&self, rate: Option<String>) -> String {
        match rate {
            Some(rate) if self.failures < self.terms.serving.failures => {
                format!("{rate}: {}", self.problems())
            }
            _ => self.problems(),
        }
    }

    /// Leaves the gate once it is passed and the target lifecycle state is known.
    fn check_gate(&mut self, now: Instant) {
        if !matches!(self.state, State::Judging { .. }) || !self.has_passed() {
            return;
        }
        match (&self.target_state, self.out_of_service()) {
            // Unknown target state: in a warm pool `fit` would be wrong.
            (None, _) => {}
            (Some(_), Some(why)) => self.prepared(why, now),
            (Some(_), None) => self.gate_passed(now),
        }
    }

    fn has_passed(&self) -> bool {
        self.passes >= self.terms.gate.passes
    }

    /// Where the group keeps this instance out of service, for messages; `None` if it does not.
    fn out_of_service(&self) -> Option<String> {
        let Some(Some(TargetState::OutOfService(name))) = &self.target_state else {
            return None;
        };
        Some(match name.as_str() {
            "Standby" => "on standby".to_owned(),
            "Detached" => "detached from its group".to_owned(),
            pool => format!("in the warm pool ({pool})"),
        })
    }

    fn target_state_seen(&mut self, target: Option<TargetState>, now: Instant) {
        self.duties.done(Duty::TargetState);
        if self.is_on_way_out() && !self.draining_for_notice {
            return;
        }
        self.duties.at(Duty::TargetState, now + TARGET_INTERVAL);
        if target == Some(TargetState::Terminated) {
            self.target_state = Some(target);
            return self.group_terminates(now);
        }
        let was_aside = self.out_of_service().is_some();
        if self
            .target_state
            .as_ref()
            .is_some_and(|known| *known != target)
        {
            self.hooks = None;
            self.ask_again(Duration::ZERO, now);
        }
        self.target_state = Some(target);
        let wanted = self.target_state == Some(Some(TargetState::InService));
        match (&self.state, self.out_of_service()) {
            (State::Judging { .. }, _) => self.check_gate(now),
            (State::Admitting | State::Serving, Some(why)) => self.taken_out_of_service(why, now),
            (State::Resting, Some(why)) => self.declare(Verdict::Resting, why, now),
            (State::Resting, None) if wanted => self.returned_to_service(now),
            (State::Ailing(_), None) if wanted && was_aside => self.returned_to_service(now),
            _ => {}
        }
    }

    fn group_terminates(&mut self, now: Instant) {
        // A termination hook may have been created since the launch.
        self.hooks = None;
        if self.is_on_way_out() {
            // It was draining already; now it cannot return to service, and the hook waits for an answer.
            self.draining_for_notice = false;
            for duty in [Duty::Spot, Duty::Schedule, Duty::TargetState] {
                self.duties.drop(duty);
            }
            self.ask_again(Duration::ZERO, now);
        } else {
            self.terminated_by_group(now);
        }
    }

    /// What was known about the group, and every count of consecutive checks, is out of date.
    fn clock_jumped(&mut self, now: Instant) {
        (self.passes, self.failures, self.dead_rounds) = (0, 0, 0);
        self.window = Window::default();
        if self.is_on_way_out() && !self.draining_for_notice {
            return;
        }
        self.hooks = None;
        self.ask_again(Duration::ZERO, now);
        for duty in [Duty::TargetState, Duty::Spot, Duty::Schedule] {
            if self.duties.has(duty) {
                self.duties.at(duty, now);
            }
        }
    }

    fn membership_seen(&mut self, membership: Option<Membership>, now: Instant) {
        self.duties.done(Duty::Membership);
        let group = membership.as_ref().map(|member| member.group.clone());
        if self.group != group {
            self.hooks = None;
            self.group = group;
        }
        self.place = membership.map_or(Place::Nowhere, Place::In);
        let departing = matches!(&self.place, Place::In(member) if member.phase.is_terminating());
        let awaits_it = self.draining_for_notice || !self.is_on_way_out();
        if departing && awaits_it && self.state != State::Identifying {
            self.group_terminates(now);
        }
        self.drain_membership_seen();
        if let State::Ailing(asking @ (Replacement::Asking | Replacement::Weighing)) = self.state {
            match self.place {
                Place::In(Membership {
                    phase: Phase::InService,
                    ..
                }) => {
                    if asking == Replacement::Asking {
                        self.state = State::Ailing(Replacement::Weighing);
                        self.duties.at(Duty::Peers, now);
                    }
                }
                _ => self.state = State::Ailing(self.replacement(now)),
            }
        }
    }

    fn hooks_seen(&mut self, hooks: &Hooks, now: Instant) {
        self.duties.done(Duty::Hooks);
        self.hooks = Some(OurHooks::pick(hooks, &self.terms.hooks));
        self.hooks_read = Some(now);
    }

    fn hook_answered(&mut self, hook: &str, answer: Answer, receipt: Receipt, now: Instant) {
        self.duties.done(Duty::Answer);
        let launch = self.launch_hook().is_some_and(|ours| ours.name == hook);
        let terminate = self.terminate_hook().is_some_and(|ours| ours.name == hook);
        self.launch_hook_answered |= launch && receipt == Receipt::Accepted;
        match (receipt, answer, &self.state) {
            (Receipt::Accepted, Answer::Continue, State::Admitting) if launch => self.admitted(now),
            (Receipt::Accepted, Answer::Abandon, State::Refusing) if launch => self.abandoned(),
            // It became unfit while CONTINUE was being sent: too late to abandon.
            (Receipt::Accepted, Answer::Continue, State::Refusing) if launch => {
                self.admitted_unfit(now)
            }
            (Receipt::Accepted, Answer::Continue, State::Resting) if launch => {
                self.ask_again(IDLE_PHASE_INTERVAL, now);
            }
            (Receipt::Accepted, _, State::Departing { .. }) if terminate => self.released(),
            (Receipt::Accepted, ..) => {}
            // Normal when the hook is not active yet, timed out, did not exist at launch, and after a reboot. Only
            // the lifecycle state shows which, see `arrive` and `depart`.
            (Receipt::NotActive, ..) => {
                self.distrust_hooks(now);
                self.ask_again(PHASE_INTERVAL, now);
            }
        }
    }

    /// An answer or a heartbeat for a hook had no answer.
    fn hook_call_failed(&mut self, duty: Duty, now: Instant) {
        self.heartbeat_owed |= duty == Duty::Heartbeat;
        self.duties.failed(duty, now);
        self.distrust_hooks(now);
    }

    fn heartbeat_sent(&mut self, receipt: Receipt, now: Instant) {
        self.duties.done(Duty::Heartbeat);
        self.heartbeat_owed = false;
        if receipt == Receipt::NotActive {
            self.distrust_hooks(now);
            self.ask_again(PHASE_INTERVAL, now);
        }
    }

    fn record_written(&mut self, written: Result<(), NoAnswer>, now: Instant) {
        match written {
            Ok(()) => {
                self.duties.done(Duty::Record);
                if !self.is_on_way_out() {
                    let dice = self.duties.jitter();
                    let anew = self.pace.written(now, dice);
                    self.duties.at(Duty::Record, anew);
                }
            }
            Err(NoAnswer) => {
                let dice = self.duties.jitter();
                let again = self.pace.refused(now, dice);
                self.duties.failed_until(Duty::Record, again);
            }
        }
    }

    fn record_removed(&mut self) {
        self.duties.done(Duty::Record);
        if let State::Departing { record_removed } = &mut self.state {
            *record_removed = true;
        }
    }

    fn reported_unhealthy(&mut self, now: Instant) {
        self.duties.done(Duty::Report);
        if matches!(self.state, State::Ailing(_)) {
            // Within the grace period the group ignores the report, so it is repeated later.
            self.state = State::Ailing(self.replacement(now));
        }
    }

    fn check_deadlines(&mut self, now: Instant) {
        self.restart_when_due(now);
        match self.state {
            State::Judging { deadline } if now >= deadline && !self.has_passed() => {
                let trouble = trouble(&self.round);
                let last = if trouble.is_empty() {
                    "too few passes in a row"
                } else {
                    &trouble
                };
                let limit = self.terms.gate.deadline.as_secs();
                self.gate_failed(format!("not fit within {limit} s: {last}"), now);
            }
            State::Draining { .. } => self.end_drain(now),
            State::Ailing(Replacement::At(when)) if now >= when => {
                self.state = State::Ailing(Replacement::Asking);
                self.ask_again(Duration::ZERO, now);
            }
            State::Departing {
                record_removed: false,
            } if self.duties.failures(Duty::Record) >= REMOVE_ATTEMPTS => {
                self.duties.drop(Duty::Record);
                self.state = State::Departing {
                    record_removed: true,
                };
            }
            _ => {}
        }
    }

    fn declare(&mut self, verdict: Verdict, reason: String, now: Instant) {
        let reason = text::line(&reason, text::REASON);
        let judgement = Judgement { verdict, reason };
        if self.judgement.as_ref() == Some(&judgement) {
            return;
        }
        self.ever_fit |= verdict == Verdict::Fit;
        self.judgement = Some(judgement.clone());
        self.outbox.push(Action::Declare(judgement));
        let dice = self.duties.jitter();
        let due = match verdict {
            Verdict::Judging | Verdict::Draining => self.pace.passing(now, dice),
            _ => self.pace.verdict(now, dice),
        };
        self.record_by(due);
    }

    /// The round differs from the record; the verdict is the same.
    fn record_round(&mut self, news: bool, now: Instant) {
        let dice = self.duties.jitter();
        let in_service = !matches!(self.state, State::Judging { .. });
        let due = match news && in_service {
            true => self.pace.change(Urgency::News, now, dice),
            false => self.pace.change(Urgency::Detail, now, dice),
        };
        self.record_by(due);
    }

    fn record_by(&mut self, due: Option<Instant>) {
        if let Some(due) = due {
            self.duties.at(Duty::Record, due);
        }
    }

    fn forget_record(&mut self) {
        self.duties.drop(Duty::Record);
        self.pace.forget();
    }

    /// Whether the registry record is up to date.
    pub(crate) fn is_recorded(&self) -> bool {
        self.pace.is_kept()
    }

    fn ensure(&mut self, duty: Duty, now: Instant) {
        if !self.duties.has(duty) {
            self.duties.at(duty, now);
        }
    }

    /// The known membership is out of date; reads it again after a pause.
    fn ask_again(&mut self, pause: Duration, now: Instant) {
        self.place = Place::Unknown;
        self.duties.at(Duty::Membership, now + pause);
    }

    /// The group refused an answer: its hooks may have been renamed, deleted or created. They are read again, unless
    /// they just were.
    fn distrust_hooks(&mut self, now: Instant) {
        if !self.hooks_are_fresh(now) {
            self.hooks = None;
        }
    }

    fn hooks_are_fresh(&self, now: Instant) -> bool {
        self.hooks_read
            .is_some_and(|read| now.duration_since(read) < HOOKS_INTERVAL)
    }

    fn replacement(&self, now: Instant) -> Replacement {
        match self.terms.serving.replace_after {
            Some(after) => Replacement::At(now + after),
            None => Replacement::Never,
        }
    }

    fn interval(&self) -> Duration {
        match self.state {
            State::Judging { .. } => self.terms.gate.interval,
            _ => self.terms.serving.interval,
        }
    }

    fn launch_hook(&self) -> Option<&Hook> {
        self.hooks.as_ref()?.launch.as_ref()
    }

    fn terminate_hook(&self) -> Option<&Hook> {
        self.hooks.as_ref()?.terminate.as_ref()
    }

    fn is_on_way_out(&self) -> bool {
        matches!(
            self.state,
            State::Draining { .. } | State::Departing { .. } | State::Released
        )
    }
}
