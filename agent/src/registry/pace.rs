//! When an instance may write its registry record, so that ten thousand of them stay within one account's quota
//! without coordination.
//!
//! AWS allows an account and region three `PutParameter` calls a second unless it pays for ten (according to AWS
//! support in github-aws-runners/terraform-aws-github-runner#2944; the quota page has no number). That is one call an
//! hour from each of ten thousand instances, with nothing left for other callers: writes must be rare, and must not
//! come at the same moment.
//!
//! Pure: the caller passes the time and the random numbers.

use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// How soon a change should be in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Urgency {
    /// Nothing changed; the record is refreshed.
    Refresh,
    /// A detail changed.
    Detail,
    /// A state that passes by itself.
    Passing,
    /// The verdict or a version changed.
    News,
    /// The first verdict on this instance: its launch waits for it.
    First,
}

/// Windows within which an attempt is spread evenly, the next one after each failure: a fleet whose calls are
/// throttled slows down to its share within minutes, a single instance writes within seconds.
const WINDOWS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_secs(5),
    Duration::from_secs(60),
    Duration::from_secs(300),
    SHARE,
];

/// An instance's share is one write per this time: half of the quota for ten thousand instances, the other half for
/// other callers.
const SHARE: Duration = Duration::from_secs(2 * 3600);

/// Writes of news that may come sooner than the share: becoming unfit, and fit again.
const BURST: u32 = 2;

/// A passing state (judging, draining) is written only if it lasts.
const PASSING: Duration = Duration::from_secs(20);

/// The record is rewritten once a day, so that a much older one is known to be of an instance that stopped without
/// removing it.
const REFRESH: Duration = Duration::from_secs(20 * 3600);

/// When one instance writes.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// What is yet to be written.
    pending: Option<Urgency>,
    /// The write under way carries this.
    writing: Option<Urgency>,
    /// A verdict was written, or is about to be.
    began: bool,
    failures: usize,
    /// News written since `share_since`, on top of the share.
    spent: u32,
    share_since: Option<Instant>,
    kept: bool,
}

impl Pace {
    /// A change happened: returns when to write it, unless it is due sooner already. `dice` is random in 0..1.
    pub(crate) fn change(&mut self, urgency: Urgency, now: Instant, dice: f64) -> Option<Instant> {
        if self.pending >= Some(urgency) {
            return None;
        }
        self.pending = Some(urgency);
        Some(now + self.pause(urgency, now, dice))
    }

    /// As [`Self::change`], for a state that passes by itself.
    pub(crate) fn passing(&mut self, now: Instant, dice: f64) -> Option<Instant> {
        let due = self.change(Urgency::Passing, now, dice);
        due.map(|_| now + PASSING.mul_f64(1.0 + dice))
    }

    /// A verdict comes up.
    pub(crate) fn verdict(&mut self, now: Instant, dice: f64) -> Option<Instant> {
        let urgency = if self.began {
            Urgency::News
        } else {
            Urgency::First
        };
        self.began = true;
        self.change(urgency, now, dice)
    }

    /// A write starts; later changes need another one.
    pub(crate) fn begun(&mut self, now: Instant) {
        self.writing = self.pending.take().max(Some(Urgency::Refresh));
        if self.writing == Some(Urgency::News) && self.failures == 0 {
            self.take_share(now);
            self.spent = self.spent.saturating_add(1);
        }
    }

    /// The write succeeded: returns when to refresh it.
    pub(crate) fn written(&mut self, now: Instant, dice: f64) -> Instant {
        (self.writing, self.failures, self.kept) = (None, 0, true);
        now + REFRESH.mul_f64(1.0 + dice / 5.0)
    }

    /// The write failed: returns when to retry.
    pub(crate) fn refused(&mut self, now: Instant, dice: f64) -> Instant {
        self.failures = self.failures.saturating_add(1);
        let urgency = self
            .writing
            .take()
            .max(self.pending)
            .unwrap_or(Urgency::Detail);
        self.pending = Some(urgency);
        now + self.pause(urgency, now, dice)
    }

    /// Nothing is to be written any more.
    pub(crate) fn forget(&mut self) {
        (self.pending, self.writing, self.failures) = (None, None, 0);
    }

    /// The previous daemon wrote the record, or did not: returns when to write it.
    pub(crate) fn resume(&mut self, kept: bool, now: Instant, dice: f64) -> Option<Instant> {
        self.began = true;
        if kept {
            return Some(self.written(now, dice));
        }
        self.change(Urgency::News, now, dice)
    }

    /// Whether the registry is up to date.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept && self.pending.is_none() && self.writing.is_none()
    }

    fn pause(&mut self, urgency: Urgency, now: Instant, dice: f64) -> Duration {
        let first = match urgency {
            Urgency::First => 0,
            Urgency::News => 2,
            Urgency::Passing | Urgency::Detail | Urgency::Refresh => 4,
        };
        self.take_share(now);
        let poor = urgency == Urgency::News && self.spent >= BURST;
        let window = match WINDOWS.get(first + self.failures) {
            Some(window) if !poor => *window,
            _ => SHARE,
        };
        // At the slowest one share on average, and never at once: between half of it and one and a half.
        let least = if window == SHARE {
            SHARE / 2
        } else {
            Duration::ZERO
        };
        least + window.mul_f64(dice)
    }

    /// Every share of time allows one more write.
    fn take_share(&mut self, now: Instant) {
        let since = *self.share_since.get_or_insert(now);
        let shares = now.duration_since(since).as_secs() / SHARE.as_secs();
        let shares = u32::try_from(shares).unwrap_or(u32::MAX);
        self.spent = self.spent.saturating_sub(shares);
        self.share_since = Some(since + SHARE * shares);
    }
}
