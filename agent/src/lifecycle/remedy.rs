//! What is done about an unfit instance: its services are restarted once; if that does not help, the group is asked
//! to replace it, unless the rest of the fleet is unfit as well.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::event::{Action, NoAnswer};
use super::state::{Lifecycle, Replacement, State};
use crate::duty::Duty;
use crate::fleet::Peers;

/// First pause between two restarts; it doubles with every restart that did not last.
const FIRST_PAUSE: Duration = Duration::from_secs(60);

/// The longest pause between two restarts.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// After this long without a restart, the next failure counts as a new one.
const LASTING: Duration = Duration::from_secs(3600);

/// Pause before an instance that was held back checks its fleet again, half of it jitter: instances of an unfit fleet
/// must not act at the same time.
const RECHECK: Duration = Duration::from_secs(120);

/// The restarts of this instance's services.
#[derive(Debug, Default)]
pub(super) struct Remedy {
    /// When the restart is due; `None` when it was requested, or none is wanted.
    due: Option<Instant>,
    last: Option<Instant>,
    pause: Duration,
    /// Why no replacement is requested, as last announced.
    held: Option<String>,
}

impl Remedy {
    /// When a restart is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Why no replacement is requested although it is due.
    pub(super) fn held(&self) -> Option<&str> {
        self.held.as_deref()
    }

    fn begin(&mut self, now: Instant) {
        let lasting = |last: Instant| now.saturating_duration_since(last) >= LASTING;
        self.pause = match self.last {
            Some(last) if !lasting(last) => (self.pause * 2).min(LONGEST_PAUSE),
            _ => FIRST_PAUSE,
        };
        self.last = Some(now);
        self.due = None;
    }
}

impl Lifecycle {
    /// The instance became unfit.
    pub(super) fn begin_remedy(&mut self, now: Instant) {
        if !self.terms.serving.restart || self.without_settings {
            return;
        }
        let free = self.remedy.last.map(|last| last + self.remedy.pause);
        self.remedy.due = Some(free.map_or(now, |free| free.max(now)));
    }

    /// The instance is fit again, or no longer serves.
    pub(super) fn end_remedy(&mut self) {
        for duty in [Duty::Restart, Duty::Peers, Duty::Report] {
            self.duties.drop(duty);
        }
        self.remedy.due = None;
        self.remedy.held = None;
    }

    /// Takes over which services' liveness checks failed. In a fit instance they are restarted after as many such rounds
    /// as make an instance unfit.
    pub(super) fn liveness_seen(&mut self, dead: BTreeSet<String>, now: Instant) {
        self.dead_rounds = match dead.is_empty() {
            true => 0,
            false => self.dead_rounds.saturating_add(1),
        };
        self.dead = dead;
        if self.state != State::Serving {
            return;
        }
        if self.dead.is_empty() {
            self.remedy.due = None;
        } else if self.dead_rounds >= self.terms.serving.failures && self.remedy.due.is_none() {
            self.begin_remedy(now);
            self.dead_rounds = 0;
        }
    }

    /// Schedules a restart that is due. The services are those whose liveness checks fail now; until one does, the
    /// restart stays due.
    pub(super) fn restart_when_due(&mut self, now: Instant) {
        let state = matches!(self.state, State::Serving | State::Ailing(_));
        let due = self.remedy.due.is_some_and(|due| now >= due);
        if state && due && !self.dead.is_empty() {
            self.remedy.begin(now);
            if self.out_of_service().is_none() {
                self.duties.at(Duty::Restart, now);
            }
        }
    }

    pub(super) fn begin_restart(&self) -> Option<Action> {
        let names: Vec<String> = self.dead.iter().cloned().collect();
        (!names.is_empty()).then_some(Action::Restart(names))
    }

    /// The health of the other instances decides whether a replacement is requested.
    pub(super) fn peers_seen(&mut self, peers: Result<Peers, NoAnswer>, now: Instant) {
        self.duties.done(Duty::Peers);
        if self.state != State::Ailing(Replacement::Weighing) {
            return;
        }
        let held = match peers {
            Ok(peers) => peers.holds_back(self.terms.serving.fleet_guard_percent),
            // Their health is unknown: keeping one unfit instance is cheaper than losing them all.
            Err(NoAnswer) => Some("the health of the other instances could not be read".to_owned()),
        };
        match held {
            None => {
                self.remedy.held = None;
                self.duties.at(Duty::Report, now);
            }
            Some(why) => {
                if self.remedy.held.as_ref() != Some(&why) {
                    self.outbox.push(Action::Announce(format!(
                        "this instance is unfit and does not ask to be replaced: {why}"
                    )));
                }
                self.remedy.held = Some(why);
                let pause = RECHECK.mul_f64(0.5 + self.duties.jitter() / 2.0);
                self.state = State::Ailing(Replacement::At(now + pause));
            }
        }
    }
}
