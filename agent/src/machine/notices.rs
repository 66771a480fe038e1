//! EC2's notices: what the machine makes of them.
//!
//! A notice is EC2's word and not the group's: it can be called off, and no hook extends it. The machine
//! therefore keeps listening while it drains because of one.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::event::{Action, NoAnswer};
use super::state::{Machine, State};
use crate::duty::Duty;
use crate::notice::{Notices, Scheduled, SpotNotices};

/// AWS's own advice for the interruption notice, which comes two minutes ahead at best.
const SPOT_INTERVAL: Duration = Duration::from_secs(5);

/// Scheduled events are announced days ahead.
const SCHEDULE_INTERVAL: Duration = Duration::from_secs(60);

/// What a box that EC2 takes at a known time keeps for its last calls.
const LAST_MOMENTS: Duration = Duration::from_secs(15);

impl Machine {
    /// Every notice that is out.
    pub(crate) fn notices(&self) -> &Notices {
        &self.notices
    }

    /// The notice that an update should not begin under, if one is out.
    pub(super) fn notice_in_the_way(&self) -> Option<String> {
        self.notices.in_the_way(self.heard_at?)
    }

    pub(super) fn spot_heard(
        &mut self,
        heard: Result<SpotNotices, NoAnswer>,
        clock: Timestamp,
        now: Instant,
    ) {
        match heard {
            Ok(heard) => {
                self.duties.done(Duty::Spot);
                let news = self.notices.hear_spot(heard, clock);
                self.announce(news);
            }
            Err(NoAnswer) => self.duties.failed(Duty::Spot, now),
        }
        self.heed(clock, now);
        if self.listens() {
            self.duties.at(Duty::Spot, now + SPOT_INTERVAL);
        }
    }

    pub(super) fn schedule_heard(
        &mut self,
        heard: Result<Vec<Scheduled>, NoAnswer>,
        clock: Timestamp,
        now: Instant,
    ) {
        match heard {
            Ok(heard) => {
                self.duties.done(Duty::Schedule);
                let news = self.notices.hear_schedule(heard);
                self.announce(news);
            }
            Err(NoAnswer) => self.duties.failed(Duty::Schedule, now),
        }
        self.heed(clock, now);
        if self.listens() {
            self.duties.at(Duty::Schedule, now + SCHEDULE_INTERVAL);
        }
    }

    /// Whether notices still matter: not to a box that the group is ending.
    pub(super) fn listens(&self) -> bool {
        match self.state {
            State::Identifying | State::Abandoned => false,
            _ => self.noticed || !self.is_leaving(),
        }
    }

    fn announce(&mut self, news: Vec<String>) {
        self.outbox.extend(news.into_iter().map(Action::Announce));
    }

    fn heed(&mut self, clock: Timestamp, now: Instant) {
        self.heard_at = Some(clock);
        if !self.listens() {
            return;
        }
        match self.notices.call_to_drain(self.terms.notices, clock) {
            Some((why, end)) if !self.is_leaving() => {
                let left = end.map(|end| {
                    let left = Duration::try_from(end.duration_since(clock)).unwrap_or_default();
                    left.saturating_sub(LAST_MOMENTS)
                });
                let limit = self.terms.drain.deadline;
                let deadline = now + left.map_or(limit, |left| left.min(limit));
                self.interrupted(why, deadline, now);
            }
            // A hibernated Spot instance woke up again, or the event was called off.
            None if self.is_leaving() => self.reprieved(now),
            _ => {}
        }
    }
}
