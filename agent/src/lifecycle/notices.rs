//! EC2's notices and what follows from them.
//!
//! A notice comes from EC2 and not from the group: it can be cancelled, and no hook extends it. So notices are still
//! read while the instance drains because of one.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::draining::LAST_MOMENTS;
use super::event::{Action, NoAnswer};
use super::state::{Lifecycle, State};
use crate::duty::Duty;
use crate::notice::{Notices, Scheduled, SpotNotices};

/// The interval that AWS recommends: an interruption notice comes at most two minutes ahead.
const SPOT_INTERVAL: Duration = Duration::from_secs(5);

/// Scheduled events are announced days ahead.
const SCHEDULE_INTERVAL: Duration = Duration::from_secs(60);

impl Lifecycle {
    /// All current notices.
    pub(crate) fn notices(&self) -> &Notices {
        &self.notices
    }

    /// The notice that blocks an update, if there is one.
    pub(super) fn notice_blocking_update(&self) -> Option<String> {
        self.notices.blocking_update(self.notices_read_at?)
    }

    pub(super) fn spot_seen(
        &mut self,
        seen: Result<SpotNotices, NoAnswer>,
        clock: Timestamp,
        now: Instant,
    ) {
        match seen {
            Ok(seen) => {
                self.duties.done(Duty::Spot);
                let news = self.notices.update_spot(seen, clock);
                self.announce(news);
            }
            Err(NoAnswer) => self.duties.failed(Duty::Spot, now),
        }
        self.act_on_notices(clock, now);
        if self.follows_notices() {
            self.duties.at(Duty::Spot, now + SPOT_INTERVAL);
        }
    }

    pub(super) fn schedule_seen(
        &mut self,
        seen: Result<Vec<Scheduled>, NoAnswer>,
        clock: Timestamp,
        now: Instant,
    ) {
        match seen {
            Ok(seen) => {
                self.duties.done(Duty::Schedule);
                let news = self.notices.update_schedule(seen);
                self.announce(news);
            }
            Err(NoAnswer) => self.duties.failed(Duty::Schedule, now),
        }
        self.act_on_notices(clock, now);
        if self.follows_notices() {
            self.duties.at(Duty::Schedule, now + SCHEDULE_INTERVAL);
        }
    }

    /// Whether notices still matter. Those that come after the drain do not to an instance that the group terminates.
    pub(super) fn follows_notices(&self) -> bool {
        match self.state {
            State::Identifying | State::Abandoned => false,
            State::Draining { .. } => true,
            _ => self.draining_for_notice || !self.is_on_way_out(),
        }
    }

    fn announce(&mut self, news: Vec<String>) {
        self.outbox.extend(news.into_iter().map(Action::Announce));
    }

    fn act_on_notices(&mut self, clock: Timestamp, now: Instant) {
        self.notices_read_at = Some(clock);
        if !self.follows_notices() {
            return;
        }
        let stops_at = self.notices.stops_at(clock);
        match self.notices.drain_reason(self.terms.notices, clock) {
            Some((why, end)) if !self.is_on_way_out() => {
                let limit = now + self.terms.drain.deadline;
                let end = end.or(stops_at);
                let deadline = end.map_or(limit, |end| limit.min(now + time_left(end, clock)));
                self.notice_received(why, deadline, now);
            }
            // A hibernated Spot instance resumed, or the event was cancelled.
            None if self.draining_for_notice => self.notice_withdrawn(now),
            _ => {
                if let Some(end) = stops_at
                    && self.end_drain_by(now + time_left(end, clock))
                {
                    let text = format!("EC2 stops this instance at {end}: the drain ends before");
                    self.outbox.push(Action::Warn(text));
                }
            }
        }
    }
}

/// How long a drain may take until EC2 stops the instance.
fn time_left(end: Timestamp, clock: Timestamp) -> Duration {
    let left = Duration::try_from(end.duration_since(clock)).unwrap_or_default();
    left.saturating_sub(LAST_MOMENTS)
}
