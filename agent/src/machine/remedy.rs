//! What is done about a sick box: its services are restarted, once; if that does not help, the group is
//! asked for another box, unless the rest of the fleet is no better off.

use std::time::{Duration, Instant};

use super::event::{Action, NoAnswer};
use super::state::{Machine, Replacement, State};
use crate::duty::Duty;
use crate::fleet::Peers;

/// Between two restarts at first; it doubles with every restart that did not last.
const FIRST_PAUSE: Duration = Duration::from_secs(60);

/// The longest pause between two restarts.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// A restart that held so long has healed the box: the next illness is another one.
const HEALED: Duration = Duration::from_secs(3600);

/// Before a box that was held back looks at its fleet again, half of it jitter: a sick fleet must not
/// come to its senses in step.
const RECHECK: Duration = Duration::from_secs(120);

/// The restarts of this box's services.
#[derive(Debug, Default)]
pub(super) struct Remedy {
    /// When the restart of this illness is due; `None` when it was asked for, or none is wanted.
    due: Option<Instant>,
    last: Option<Instant>,
    pause: Duration,
    /// Why no replacement is asked for, as last told.
    held: Option<String>,
}

impl Remedy {
    /// When a restart is due, for the timetable.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Why no replacement is asked for although it is time.
    pub(super) fn held(&self) -> Option<&str> {
        self.held.as_deref()
    }

    fn begin(&mut self, now: Instant) {
        let lasting = |last: Instant| now.saturating_duration_since(last) >= HEALED;
        self.pause = match self.last {
            Some(last) if !lasting(last) => (self.pause * 2).min(LONGEST_PAUSE),
            _ => FIRST_PAUSE,
        };
        self.last = Some(now);
        self.due = None;
    }
}

impl Machine {
    /// An illness has begun.
    pub(super) fn seek_remedy(&mut self, now: Instant) {
        if !self.terms.serving.restart || self.blind {
            return;
        }
        let free = self.remedy.last.map(|last| last + self.remedy.pause);
        self.remedy.due = Some(free.map_or(now, |free| free.max(now)));
    }

    /// The illness is over, or nobody's business any more.
    pub(super) fn end_remedy(&mut self) {
        for duty in [Duty::Restart, Duty::Peers, Duty::Report] {
            self.duties.drop(duty);
        }
        self.remedy.due = None;
        self.remedy.held = None;
    }

    /// A restart whose time has come. The services are the ones that are sick now.
    pub(super) fn restart_when_due(&mut self, now: Instant) {
        if matches!(self.state, State::Ailing(_)) && self.remedy.due.is_some_and(|due| now >= due) {
            self.remedy.begin(now);
            if self.aside().is_none() {
                self.duties.at(Duty::Restart, now);
            }
        }
    }

    pub(super) fn begin_restart(&self) -> Option<Action> {
        let sick = self.round.iter().filter(|(_, service)| !service.healthy);
        let names: Vec<String> = sick.map(|(name, _)| name.clone()).collect();
        (!names.is_empty()).then_some(Action::Restart(names))
    }

    /// What the other boxes look like decides whether the group is asked for a replacement.
    pub(super) fn peers_seen(&mut self, peers: Result<Peers, NoAnswer>, now: Instant) {
        self.duties.done(Duty::Peers);
        if self.state != State::Ailing(Replacement::Weighing) {
            return;
        }
        let held = match peers {
            Ok(peers) => peers.holds_back(self.terms.serving.fleet_guard_percent),
            // Without a look at them there is no telling: a box too many is cheaper than none left.
            Err(NoAnswer) => Some("the other boxes could not be looked at".to_owned()),
        };
        match held {
            None => {
                self.remedy.held = None;
                self.duties.at(Duty::Report, now);
            }
            Some(why) => {
                if self.remedy.held.as_ref() != Some(&why) {
                    self.outbox.push(Action::Announce(format!(
                        "this box is unfit and does not ask to be replaced: {why}"
                    )));
                }
                self.remedy.held = Some(why);
                let pause = RECHECK.mul_f64(0.5 + self.duties.jitter() / 2.0);
                self.state = State::Ailing(Replacement::At(now + pause));
            }
        }
    }
}
