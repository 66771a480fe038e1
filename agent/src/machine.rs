//! The agent's mind: State × Event × now → (State, actions). Pure and synchronous.
//!
//! It must not read a clock, a file or a socket: [`crate::run`] brings what was seen as an
//! [`Event`] and carries out the [`Action`]s. The states and the methods that lead from one to the
//! next are drawn in `docs/agent-states.dot`; the methods live in [`transitions`].
//!
//! The rule for the group's hooks: *they are read again when the state that the group wants changes, and when the group
//! refuses an answer*, since anybody may create, rename or delete one at any time.
//!
//! Within a state the machine is level-triggered: after every event [`Machine::pursue`] asks what
//! the state still needs and puts it on the timetable, so that a lost answer is only a delay.

mod event;
mod notices;
mod parting;
mod past;
mod pursuit;
mod readiness;
mod remedy;
mod state;
mod terms;
mod traffic;
mod transitions;
mod window;
mod words;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use contract::registry::Verdict;

pub(crate) use event::{Action, Event, NoAnswer, Standing};
pub(crate) use parting::LastWord;
pub(crate) use past::{Past, Stage};
pub(crate) use readiness::Readiness;
pub(crate) use state::{ENDED_BY_GROUP, Machine, Replacement, State};
pub(crate) use terms::Terms;

use self::state::{IDLE_PHASE_INTERVAL, PHASE_INTERVAL, Place};
use self::window::Window;
use self::words::trouble;
use crate::duty::Duty;
use crate::health::Round;
use crate::identity::Target;
use crate::lifecycle::{Answer, Hook, Membership, OurHooks, Phase, Receipt};
use crate::registry::pace::Urgency;
use crate::text;

/// How often the group's wish for this instance is asked for: a local call, and every second of
/// delay is a second of a terminated box still being counted on.
const TARGET_INTERVAL: Duration = Duration::from_secs(2);

/// Hooks that were read so lately are believed, whatever the group made of an answer: until a hook is active, answers
/// are refused every two seconds.
const HOOKS_INTERVAL: Duration = Duration::from_secs(10);

/// Attempts at removing the record before the box lets go without it: a record left over is untidy,
/// a termination held up is expensive.
const ERASE_ATTEMPTS: u32 = 3;

impl Machine {
    /// The one entrance: takes what happened and says what to do.
    pub(crate) fn step(&mut self, event: Event, now: Instant) -> Vec<Action> {
        self.take_in(event, now);
        self.let_time_pass(now);
        // A transition may ask for something at once; no chain of them is longer than this.
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

    /// Goes on from a past once the box is identified, instead of judging it anew.
    pub(crate) fn remember(&mut self, past: Past) {
        self.past = Some(past);
    }

    /// When the machine next wants to be stepped although nothing happened.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let own = match self.state {
            State::Judging { deadline } if !self.has_passed() => Some(deadline),
            State::Draining { until, .. } if self.has_drained() => Some(until),
            State::Draining { deadline, .. } => Some(deadline),
            State::Ailing(Replacement::At(when)) => Some(when),
            _ => None,
        };
        let restart = self.remedy.due();
        [own, restart, self.duties.next()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The current verdict; `None` before there is one.
    pub(crate) fn standing(&self) -> Option<&Standing> {
        self.standing.as_ref()
    }

    /// What the last round found.
    pub(crate) fn round(&self) -> &Round {
        &self.round
    }

    /// The group, once known.
    pub(crate) fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }

    fn take_in(&mut self, event: Event, now: Instant) {
        match event {
            Event::Tick => {}
            Event::Identified(Ok((instance, terms))) => {
                self.duties.done(Duty::Identify);
                self.duties.reseed(&instance);
                match (terms, self.past.take()) {
                    (Ok(terms), Some(past)) => self.go_on(past, terms, now),
                    (Ok(terms), None) => self.identified(terms, now),
                    (Err(reason), _) => self.settings_refused(reason, now),
                }
            }
            Event::Identified(Err(NoAnswer)) => self.duties.failed(Duty::Identify, now),
            Event::Checked(round) => self.checked(round, now),
            Event::TargetSeen(Ok(target)) => self.target_seen(target, now),
            Event::TargetSeen(Err(NoAnswer)) => self.duties.failed(Duty::Target, now),
            Event::SpotHeard(heard, clock) => self.spot_heard(heard, clock, now),
            Event::ScheduleHeard(heard, clock) => self.schedule_heard(heard, clock, now),
            Event::Woken => self.woken(now),
            Event::MembershipSeen(Ok(membership)) => self.membership_seen(membership, now),
            Event::MembershipSeen(Err(NoAnswer)) => self.duties.failed(Duty::Membership, now),
            Event::HooksSeen(Ok(hooks)) => {
                self.duties.done(Duty::Hooks);
                self.hooks = Some(OurHooks::pick(&hooks, &self.terms.hooks));
                self.hooks_read = Some(now);
            }
            Event::HooksSeen(Err(NoAnswer)) => self.duties.failed(Duty::Hooks, now),
            Event::Answered {
                hook,
                answer,
                outcome: Ok(receipt),
            } => {
                self.hook_answered(&hook, answer, receipt, now);
            }
            Event::Answered {
                outcome: Err(NoAnswer),
                ..
            } => {
                self.duties.failed(Duty::Answer, now);
                self.doubt_hooks(now);
            }
            Event::Beaten(Ok(receipt)) => {
                self.duties.done(Duty::Beat);
                if receipt == Receipt::NotActive {
                    self.doubt_hooks(now);
                    self.ask_again(PHASE_INTERVAL, now);
                }
            }
            Event::Beaten(Err(NoAnswer)) => {
                self.duties.failed(Duty::Beat, now);
                self.doubt_hooks(now);
            }
            Event::Recorded(Ok(())) => {
                self.duties.done(Duty::Record);
                if !self.is_leaving() {
                    let dice = self.duties.jitter();
                    let anew = self.pace.written(now, dice);
                    self.duties.at(Duty::Record, anew);
                }
            }
            Event::Recorded(Err(NoAnswer)) => {
                let dice = self.duties.jitter();
                let again = self.pace.refused(now, dice);
                self.duties.failed_until(Duty::Record, again);
            }
            Event::Erased(Ok(())) => {
                self.duties.done(Duty::Record);
                if let State::Departing { erased } = &mut self.state {
                    *erased = true;
                }
            }
            Event::Erased(Err(NoAnswer)) => {
                self.duties.failed(Duty::Record, now);
            }
            Event::AttachedSeen(attached) => self.attached_seen(attached, now),
            Event::Registered(outcome) => self.joined(outcome, now),
            Event::Deregistered(outcome) => self.parted(outcome, now),
            Event::TargetHealthSeen(seen) => self.traffic_seen(seen, now),
            Event::Restarted(Ok(())) => self.duties.done(Duty::Restart),
            Event::Restarted(Err(NoAnswer)) => self.duties.failed(Duty::Restart, now),
            Event::PeersSeen(peers) => self.peers_seen(peers, now),
            Event::Reported(Ok(())) => {
                self.duties.done(Duty::Report);
                if matches!(self.state, State::Ailing(_)) {
                    // Within the grace period the group ignores it, so it is said again later.
                    self.state = State::Ailing(self.replacement(now));
                }
            }
            Event::Reported(Err(NoAnswer)) => self.duties.failed(Duty::Report, now),
        }
    }

    /// Takes up a life where the daemon before this one left it.
    fn go_on(&mut self, past: Past, terms: Terms, now: Instant) {
        let stage = past.stage;
        self.resumed(past, terms, now);
        if matches!(stage, Stage::Draining | Stage::Departing) {
            self.told_to_leave(now);
        }
        if stage == Stage::Departing {
            self.settled();
        }
    }

    fn checked(&mut self, round: Round, now: Instant) {
        self.duties.done(Duty::Check);
        if self.is_leaving() {
            return;
        }
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
            State::Judging { .. } => self.leave_the_gate(now),
            State::Admitting if sick => self.turned_away(self.illness(rate), now),
            State::Serving if sick => self.fell_ill(self.illness(rate), now),
            State::Ailing(_) if self.passes >= self.terms.serving.passes => match self.aside() {
                Some(why) => self.set_aside(why, now),
                None => self.recovered(now),
            },
            _ => {}
        }
        if changed {
            self.record_round(news, now);
        }
    }

    /// What is wrong, and how often where it is not every time.
    fn illness(&self, rate: Option<String>) -> String {
        match rate {
            Some(rate) if self.failures < self.terms.serving.failures => {
                format!("{rate}: {}", self.complaint())
            }
            _ => self.complaint(),
        }
    }

    /// Through the gate, once it is passed and known where it leads.
    fn leave_the_gate(&mut self, now: Instant) {
        if !matches!(self.state, State::Judging { .. }) || !self.has_passed() {
            return;
        }
        match (&self.target, self.aside()) {
            // Fit would be wrong in a warm pool. The metadata service was there a moment ago.
            (None, _) => {}
            (Some(_), Some(why)) => self.prepared(why, now),
            (Some(_), None) => self.gate_passed(now),
        }
    }

    fn has_passed(&self) -> bool {
        self.passes >= self.terms.gate.passes
    }

    /// Whether nothing remains to be done before the box may go.
    fn has_drained(&self) -> bool {
        self.traffic.is_out()
    }

    /// How the group keeps this box out of service, in words; `None` when it does not.
    fn aside(&self) -> Option<String> {
        let Some(Some(Target::Aside(name))) = &self.target else {
            return None;
        };
        Some(match name.as_str() {
            "Standby" => "on standby".to_owned(),
            "Detached" => "detached from its group".to_owned(),
            pool => format!("in the warm pool ({pool})"),
        })
    }

    fn target_seen(&mut self, target: Option<Target>, now: Instant) {
        self.duties.done(Duty::Target);
        if self.is_leaving() && !self.noticed {
            return;
        }
        self.duties.at(Duty::Target, now + TARGET_INTERVAL);
        if target == Some(Target::Terminated) {
            self.target = Some(target);
            return self.the_group_ends_it(now);
        }
        let was_aside = self.aside().is_some();
        if self.target.as_ref().is_some_and(|known| *known != target) {
            self.hooks = None;
            self.ask_again(Duration::ZERO, now);
        }
        self.target = Some(target);
        let wanted = self.target == Some(Some(Target::InService));
        match (&self.state, self.aside()) {
            (State::Judging { .. }, _) => self.leave_the_gate(now),
            (State::Admitting | State::Serving, Some(why)) => self.set_aside(why, now),
            (State::Resting, Some(why)) => self.declare(Verdict::Resting, why, now),
            (State::Resting, None) if wanted => self.called_up(now),
            (State::Ailing(_), None) if wanted && was_aside => self.called_up(now),
            _ => {}
        }
    }

    fn the_group_ends_it(&mut self, now: Instant) {
        // A termination hook may have come since the launch.
        self.hooks = None;
        if self.is_leaving() {
            // It was leaving already; from here on there is no way back, and the hook wants its answer.
            self.noticed = false;
            for duty in [Duty::Spot, Duty::Schedule, Duty::Target] {
                self.duties.drop(duty);
            }
            self.ask_again(Duration::ZERO, now);
        } else {
            self.told_to_leave(now);
        }
    }

    /// Whatever was known of the group, and every count in a row, is of another time.
    fn woken(&mut self, now: Instant) {
        (self.passes, self.failures) = (0, 0);
        self.window = Window::default();
        if self.is_leaving() && !self.noticed {
            return;
        }
        self.hooks = None;
        self.ask_again(Duration::ZERO, now);
        for duty in [Duty::Target, Duty::Spot, Duty::Schedule] {
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
        let departing = matches!(&self.place, Place::In(member) if member.phase.is_departing());
        let awaits_it = self.noticed || !self.is_leaving();
        if departing && awaits_it && self.state != State::Identifying {
            self.the_group_ends_it(now);
        }
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

    fn hook_answered(&mut self, hook: &str, answer: Answer, receipt: Receipt, now: Instant) {
        self.duties.done(Duty::Answer);
        let launch = self.launch_hook().is_some_and(|ours| ours.name == hook);
        let terminate = self.terminate_hook().is_some_and(|ours| ours.name == hook);
        self.answered |= launch && receipt == Receipt::Accepted;
        match (receipt, answer, &self.state) {
            (Receipt::Accepted, Answer::Continue, State::Admitting) if launch => self.admitted(now),
            (Receipt::Accepted, Answer::Abandon, State::Refusing) if launch => self.abandoned(),
            // It fell ill while CONTINUE was on its way: too late to abandon.
            (Receipt::Accepted, Answer::Continue, State::Refusing) if launch => self.condemned(now),
            (Receipt::Accepted, Answer::Continue, State::Resting) if launch => {
                self.ask_again(IDLE_PHASE_INTERVAL, now);
            }
            (Receipt::Accepted, _, State::Departing { .. }) if terminate => self.released(),
            (Receipt::Accepted, ..) => {}
            // Normal when the hook is not active yet, timed out or did not exist at launch, and
            // after a reboot. Only the real state tells which, see `arrive` and `depart`.
            (Receipt::NotActive, ..) => {
                self.doubt_hooks(now);
                self.ask_again(PHASE_INTERVAL, now);
            }
        }
    }

    fn let_time_pass(&mut self, now: Instant) {
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
            State::Draining { until, .. } if now >= until && self.has_drained() => self.settled(),
            State::Draining { deadline, .. } if now >= deadline => {
                self.overdue = !self.has_drained();
                self.settled();
            }
            State::Ailing(Replacement::At(when)) if now >= when => {
                self.state = State::Ailing(Replacement::Asking);
                self.ask_again(Duration::ZERO, now);
            }
            State::Departing { erased: false }
                if self.duties.failures(Duty::Record) >= ERASE_ATTEMPTS =>
            {
                self.duties.drop(Duty::Record);
                self.state = State::Departing { erased: true };
            }
            _ => {}
        }
    }

    fn declare(&mut self, verdict: Verdict, reason: String, now: Instant) {
        let reason = text::line(&reason, text::REASON);
        let standing = Standing { verdict, reason };
        if self.standing.as_ref() == Some(&standing) {
            return;
        }
        self.standing = Some(standing.clone());
        self.outbox.push(Action::Declare(standing));
        let dice = self.duties.jitter();
        let due = match verdict {
            Verdict::Judging | Verdict::Draining => self.pace.passing(now, dice),
            _ => self.pace.verdict(now, dice),
        };
        self.record_by(due);
    }

    /// The round says other words than the record; the verdict is the same.
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

    fn forget_the_record(&mut self) {
        self.duties.drop(Duty::Record);
        self.pace.forget();
    }

    /// Whether the record says all there is to say.
    pub(crate) fn is_recorded(&self) -> bool {
        self.pace.is_kept()
    }

    fn ensure(&mut self, duty: Duty, now: Instant) {
        if !self.duties.has(duty) {
            self.duties.at(duty, now);
        }
    }

    /// What the group said of our place no longer holds; asks again after a pause.
    fn ask_again(&mut self, pause: Duration, now: Instant) {
        self.place = Place::Unknown;
        self.duties.at(Duty::Membership, now + pause);
    }

    /// The group refused an answer: its hooks may have been renamed, deleted or created. They are read again, unless
    /// that was just done.
    fn doubt_hooks(&mut self, now: Instant) {
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

    fn is_leaving(&self) -> bool {
        matches!(
            self.state,
            State::Draining { .. } | State::Departing { .. } | State::Gone
        )
    }
}
