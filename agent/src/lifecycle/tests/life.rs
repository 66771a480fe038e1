//! A life of one instance: the lifecycle, its group and its clock, all simulated.

use crate::balancer::TargetHealth;
use crate::fleet::Peers;
use crate::health::DrainAnswer;
use crate::hooks::Hooks;
use crate::lifecycle::*;
use crate::notice::NoticeTerms;
use crate::notice::{Scheduled, Spot, SpotNotices};
use crate::settings::{Drain, Gate, HookNames, OnFailure, Serving};
use jiff::Timestamp;

pub(super) fn service(healthy: bool, detail: &str) -> contract::registry::Service {
    contract::registry::Service {
        version: String::new(),
        healthy,
        detail: if healthy {
            String::new()
        } else {
            detail.to_owned()
        },
    }
}

pub(super) fn terms() -> Terms {
    let second = Duration::from_secs(1);
    Terms {
        gate: Gate {
            passes: 3,
            interval: second * 2,
            deadline: second * 60,
        },
        serving: Serving {
            passes: 3,
            failures: 3,
            window: 20,
            window_failure_percent: 40,
            interval: second * 5,
            replace_after: Some(second * 60),
            restart: false,
            fleet_guard_percent: 20,
        },
        drain: Drain {
            settle: second * 5,
            deadline: second * 60,
            poll: None,
            on_failure: OnFailure::Continue,
        },
        notices: NoticeTerms::default(),
        target_groups: Vec::new(),
        hooks: HookNames::default(),
    }
}

/// An instance, its group and its clock.
pub(super) struct Life {
    pub(super) lifecycle: Lifecycle,
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) terms: Result<Terms, String>,
    pub(super) imds: bool,
    pub(super) api: bool,
    pub(super) parameters: bool,
    pub(super) healthy: bool,
    /// Every Nth check fails; 0: none.
    pub(super) flaps: u64,
    pub(super) checks: u64,
    /// How often the hooks were asked for.
    pub(super) asked_hooks: u32,
    pub(super) target_state: Option<TargetState>,
    pub(super) place: Option<Phase>,
    pub(super) hooks: Hooks,
    pub(super) spot: SpotNotices,
    pub(super) schedule: Vec<Scheduled>,
    /// How far the wall clock is ahead of the monotonic one, because of suspends.
    pub(super) slept: u64,
    pub(super) registry: Option<Verdict>,
    pub(super) peers: Peers,
    /// The health in the target groups, and whether the instance is registered.
    pub(super) balancers: &'static str,
    pub(super) registered: bool,
    /// The target groups that the group keeps itself.
    pub(super) attached: Vec<String>,
    /// Their health as last read.
    pub(super) weighed: Option<Peers>,
    pub(super) log: Vec<String>,
    /// Answers on their way, by when they arrive.
    pub(super) under_way: Vec<(Instant, Event)>,
    /// The longest time of an answer, in milliseconds, and the random numbers for it.
    pub(super) slowness: u64,
    pub(super) turns: u32,
    pub(super) dice: Dice,
    /// The heartbeats that were taken, by when.
    pub(super) beats: Vec<u64>,
    /// How many were sent, and which of them fail.
    pub(super) heartbeats: u32,
    pub(super) beats_fail: fn(u32) -> bool,
    /// What the services answer when they are asked whether they are busy, and when they were asked.
    pub(super) answers: fn(u64) -> DrainAnswer,
    pub(super) questions: Vec<u64>,
    pub(super) writes: Vec<u64>,
}

pub(super) fn hook(name: &str, seconds: u64) -> Vec<Hook> {
    vec![Hook {
        name: name.to_owned(),
        timeout: Duration::from_secs(seconds),
    }]
}

impl Life {
    pub(super) fn alone() -> Self {
        let start = Instant::now();
        Self {
            lifecycle: Lifecycle::new(),
            start,
            now: start,
            terms: Ok(terms()),
            imds: true,
            api: true,
            parameters: true,
            healthy: true,
            flaps: 0,
            checks: 0,
            asked_hooks: 0,
            target_state: None,
            place: None,
            hooks: Hooks::default(),
            spot: SpotNotices::default(),
            schedule: Vec::new(),
            slept: 0,
            registry: None,
            peers: Peers {
                total: 9,
                asked: 9,
                ..Peers::default()
            },
            weighed: None,
            balancers: "healthy",
            registered: false,
            attached: Vec::new(),
            log: Vec::new(),
            under_way: Vec::new(),
            slowness: 0,
            turns: 0,
            dice: Dice(1),
            beats: Vec::new(),
            heartbeats: 0,
            beats_fail: |_| false,
            answers: |_| DrainAnswer::Done,
            questions: Vec::new(),
            writes: Vec::new(),
        }
    }

    pub(super) fn in_group(phase: Phase) -> Self {
        Self {
            target_state: Some(TargetState::InService),
            place: Some(phase),
            hooks: Hooks {
                launching: hook("in", 300),
                terminating: hook("out", 300),
            },
            ..Self::alone()
        }
    }

    pub(super) fn at(&self) -> u64 {
        (self.now - self.start).as_secs()
    }

    /// The time of day.
    pub(super) fn clock(&self) -> Timestamp {
        let seconds = i64::try_from(self.at() + self.slept).unwrap();
        Timestamp::from_second(seconds).unwrap()
    }

    /// An interruption so many seconds after the start, by the time of day.
    pub(super) fn interrupt(&mut self, action: &str, at: i64) {
        self.spot.interruption = Some(Spot {
            action: action.to_owned(),
            at: Timestamp::from_second(at).ok(),
        });
    }

    pub(super) fn note(&mut self, text: &str) {
        let line = format!("{} {text}", self.at());
        self.log.push(line);
    }

    /// Runs the simulation until `seconds` after the start.
    pub(super) fn until(&mut self, seconds: u64) -> &mut Self {
        let end = self.start + Duration::from_secs(seconds);
        self.under_way.push((self.now, Event::Tick));
        for _ in 0..100_000 {
            let due = self.lifecycle.next_due().unwrap_or(end).max(self.now);
            let first = (0..self.under_way.len()).min_by_key(|at| self.under_way[*at].0);
            let event = match first {
                Some(first) if self.under_way[first].0 <= due => {
                    if self.under_way[first].0 >= end {
                        break;
                    }
                    let (when, event) = self.under_way.remove(first);
                    self.now = when;
                    event
                }
                _ if due >= end => break,
                _ => {
                    self.now = due;
                    Event::Tick
                }
            };
            for action in self.lifecycle.step(event, self.now) {
                if let Some(answer) = self.play(action) {
                    let pause = Duration::from_millis(self.dice.below(self.slowness + 1));
                    self.under_way.push((self.now + pause, answer));
                }
            }
            self.turns += 1;
        }
        assert!(
            self.turns < 100_000,
            "the machine spins in {}",
            self.lifecycle.state_name()
        );
        self.now = end;
        self
    }

    pub(super) fn play(&mut self, action: Action) -> Option<Event> {
        fn when<T>(up: bool, answer: T) -> Result<T, NoAnswer> {
            if up { Ok(answer) } else { Err(NoAnswer) }
        }
        Some(match action {
            Action::Identify => {
                Event::Identified(when(self.imds, ("i-1".to_owned(), self.terms.clone())))
            }
            Action::Check { .. } => {
                self.checks += 1;
                let flaps = self.flaps > 0 && self.checks.is_multiple_of(self.flaps);
                let orders = service(self.healthy && !flaps, "orders answered 503");
                Event::Checked(Round::from([("orders".to_owned(), orders)]).into())
            }
            Action::AskTargetState => {
                Event::TargetStateSeen(when(self.imds, self.target_state.clone()))
            }
            Action::AskSpot => Event::SpotSeen(when(self.imds, self.spot.clone()), self.clock()),
            Action::AskSchedule => {
                Event::ScheduleSeen(when(self.imds, self.schedule.clone()), self.clock())
            }
            Action::Announce(text) => {
                self.note(&format!("announced: {text}"));
                return None;
            }
            Action::AskMembership => {
                let place = self.place.clone();
                let member = place.map(|phase| Membership {
                    group: "fleet".into(),
                    phase,
                });
                Event::MembershipSeen(when(self.api, member))
            }
            Action::AskHooks(_) if self.api => {
                self.asked_hooks += 1;
                Event::HooksSeen(Ok(self.hooks.clone()))
            }
            Action::AskHooks(_) => Event::HooksSeen(when(self.api, self.hooks.clone())),
            Action::Complete { hook, answer, .. } => {
                let outcome = when(self.api, self.complete(&hook, answer));
                if let Ok(receipt) = outcome {
                    self.note(&format!("{} on {hook}: {receipt:?}", answer.as_str()));
                }
                Event::Answered {
                    hook,
                    answer,
                    outcome,
                }
            }
            Action::Heartbeat { hook, .. } => {
                let active = self.active().is_some_and(|active| active == hook);
                let receipt = if active {
                    Receipt::Accepted
                } else {
                    Receipt::NotActive
                };
                self.heartbeats += 1;
                let up = self.api && !(self.beats_fail)(self.heartbeats);
                if up && active {
                    self.beats.push(self.at());
                }
                Event::HeartbeatSent(when(up, receipt))
            }
            Action::CheckDrain => {
                self.questions.push(self.at());
                Event::DrainChecked((self.answers)(self.at()))
            }
            Action::Warn(text) => {
                self.note(&format!("warned: {text}"));
                return None;
            }
            Action::WriteRecord => {
                let up = self.api && self.parameters;
                if up {
                    self.writes.push(self.at());
                    self.registry = self
                        .lifecycle
                        .judgement()
                        .map(|judgement| judgement.verdict);
                }
                Event::RecordWritten(when(up, ()))
            }
            Action::RemoveRecord => {
                let up = self.api && self.parameters;
                if up {
                    self.registry = None;
                    self.note("record_removed");
                }
                Event::RecordRemoved(when(up, ()))
            }
            Action::Restart(names) => {
                self.note(&format!("restart of {}", names.join(", ")));
                Event::Restarted(Ok(()))
            }
            Action::AskAttached(_) => Event::AttachedSeen(when(self.api, self.attached.clone())),
            Action::Register(names) => {
                if self.api {
                    self.registered = true;
                    self.note(&format!("registered with {}", names.join(", ")));
                }
                Event::Registered(when(self.api, ()))
            }
            Action::Deregister(names) => {
                if self.api {
                    self.registered = false;
                    self.note(&format!("deregistered from {}", names.join(", ")));
                }
                Event::Deregistered(when(self.api, ()))
            }
            Action::AskTargetHealth(names) => {
                let (state, reason) = match (self.registered, self.balancers) {
                    (_, "draining") => ("draining", "Target.DeregistrationInProgress"),
                    (false, _) => ("unused", "Target.NotRegistered"),
                    (true, state) => (state, ""),
                };
                let transcript = names.into_iter().map(|name| TargetHealth {
                    target_group: name,
                    state: state.to_owned(),
                    reason: reason.to_owned(),
                });
                Event::TargetHealthSeen(when(self.api, transcript.collect()))
            }
            Action::AskPeers(_) => {
                self.weighed = self.api.then_some(self.peers);
                Event::PeersSeen(when(self.api, self.peers))
            }
            Action::ReportUnhealthy => {
                let held = self.weighed.map(|peers| peers.holds_back(20));
                assert_eq!(held, Some(None), "never unseen, and never in a sick fleet");
                self.note("reported unhealthy");
                Event::Reported(when(self.api, ()))
            }
            Action::Declare(judgement) => {
                let line = format!("{:?} {}", judgement.verdict, judgement.reason);
                self.note(line.trim_end());
                return None;
            }
        })
    }

    pub(super) fn active(&self) -> Option<String> {
        let hooks = match self.place {
            Some(Phase::PendingWait | Phase::WarmPendingWait) => &self.hooks.launching,
            Some(Phase::TerminatingWait) => &self.hooks.terminating,
            _ => return None,
        };
        Some(hooks.first()?.name.clone())
    }

    pub(super) fn complete(&mut self, hook: &str, answer: Answer) -> Receipt {
        if !self.api || self.active().as_deref() != Some(hook) {
            return Receipt::NotActive;
        }
        let launching = self.place != Some(Phase::TerminatingWait);
        let warm = self.place == Some(Phase::WarmPendingWait);
        self.place = Some(match (launching, answer) {
            (true, Answer::Continue) if warm => Phase::Other("Warmed:Running".to_owned()),
            (true, Answer::Continue) => Phase::InService,
            (true, Answer::Abandon) => Phase::TerminatingWait,
            _ => Phase::TerminatingProceed,
        });
        Receipt::Accepted
    }

    pub(super) fn transcript(&self) -> Vec<&str> {
        self.log.iter().map(String::as_str).collect()
    }
}

/// A small generator, so that a failing life can be lived again by its seed.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
