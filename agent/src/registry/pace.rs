//! When a box may write its registry record, so that ten thousand of them stay under one account's
//! quota without knowing of each other.
//!
//! AWS allows an account and region three `PutParameter` calls a second unless it pays for ten (told by
//! AWS support in github-aws-runners/terraform-aws-github-runner#2944; the quota page names none). That
//! is one call an hour from each of ten thousand boxes, with nothing left for anybody else: what a box
//! spends must be rare, and must not come at the same moment as everybody else's.
//!
//! Pure: it is told the time and the dice.

use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// How much a change matters to whoever reads the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Urgency {
    /// Nothing changed; the record is only shown to be kept.
    Refresh,
    /// The words changed.
    Detail,
    /// Something that passes by itself.
    Passing,
    /// The verdict or a version changed.
    News,
    /// The first verdict on this box: its launch is waited for.
    First,
}

/// The windows within which an attempt falls evenly, the next one after each failure: a fleet whose calls
/// come too many thins out to its share within minutes, a box alone is heard within seconds.
const WINDOWS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_secs(5),
    Duration::from_secs(60),
    Duration::from_secs(300),
    SHARE,
];

/// A box's fair share is a write in this long: half of the quota for ten thousand boxes, the other half
/// for everybody else.
const SHARE: Duration = Duration::from_secs(2 * 3600);

/// Writes of news that may come sooner than a box's share: falling ill, and being well again.
const BURST: u32 = 2;

/// A passing state (at the gate, draining) is worth a call only if it lasts.
const PASSING: Duration = Duration::from_secs(20);

/// The record is written anew once a day, so that one that is much older is known to be of a box that
/// went without a word.
const REFRESH: Duration = Duration::from_secs(20 * 3600);

/// One box's pace.
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
    /// A change comes up: when to write it, unless it is due sooner already. `dice` is even in 0..1.
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

    /// The write is under way; what changes from here on is another's.
    pub(crate) fn begun(&mut self, now: Instant) {
        self.writing = self.pending.take().max(Some(Urgency::Refresh));
        if self.writing == Some(Urgency::News) && self.failures == 0 {
            self.take_share(now);
            self.spent = self.spent.saturating_add(1);
        }
    }

    /// It was written: when to write it anew.
    pub(crate) fn written(&mut self, now: Instant, dice: f64) -> Instant {
        (self.writing, self.failures, self.kept) = (None, 0, true);
        now + REFRESH.mul_f64(1.0 + dice / 5.0)
    }

    /// It was not: when to try again.
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

    /// The daemon before this one wrote the record as it stands: when to write it anew.
    pub(crate) fn resume(&mut self, kept: bool, now: Instant, dice: f64) -> Option<Instant> {
        self.began = true;
        if kept {
            return Some(self.written(now, dice));
        }
        self.change(Urgency::News, now, dice)
    }

    /// Whether the registry has the last word.
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
        // A share on average at the slowest, and never at once again: between half of it and one and a
        // half.
        let least = if window == SHARE {
            SHARE / 2
        } else {
            Duration::ZERO
        };
        least + window.mul_f64(dice)
    }

    /// Every share gives one write back.
    fn take_share(&mut self, now: Instant) {
        let since = *self.share_since.get_or_insert(now);
        let shares = now.duration_since(since).as_secs() / SHARE.as_secs();
        let shares = u32::try_from(shares).unwrap_or(u32::MAX);
        self.spent = self.spent.saturating_sub(shares);
        self.share_since = Some(since + SHARE * shares);
    }
}
