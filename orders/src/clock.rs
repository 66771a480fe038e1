//! The host's clock, by which orders are taken, listed and followed. Tests can set it.
//!
//! Rule: read the clock for each use and never remember it, so that a wrong clock is wrong only while it is
//! wrong. Deleting by age cannot be undone, so it waits until the clock has not been set for a while
//! ([`Sweeps`]).

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

/// A clock that moves this much more or less than the elapsed time was set; slewing never moves it this far.
const MIN_JUMP: Duration = Duration::from_secs(60);
/// How long the clock must not have been set before anything is deleted by age. Time services correct a wrong
/// clock within minutes.
const TRUSTED_AFTER: Duration = Duration::from_secs(15 * 60);
/// The same after a start. Tests of stores cannot wait for it.
const TRUSTED_AFTER_START: Duration = if cfg!(test) {
    Duration::ZERO
} else {
    TRUSTED_AFTER
};

/// Decides when to delete what is too old: at intervals, and only if the clock was not set recently. After a
/// start that is unknown, so it waits as well.
#[derive(Debug)]
pub struct Sweeps {
    interval: Duration,
    last: Option<(Instant, Timestamp)>,
    after_start: Duration,
    trusted_from: Option<Instant>,
}

impl Sweeps {
    /// At most one sweep per `interval`.
    #[must_use]
    pub const fn every(interval: Duration) -> Self {
        Self {
            interval,
            last: None,
            after_start: TRUSTED_AFTER_START,
            trusted_from: None,
        }
    }

    /// The time to compute ages from, if a sweep is due. `at` and `now` must be read at the same moment.
    pub fn due(&mut self, at: Instant, now: Timestamp) -> Option<Timestamp> {
        let passed = self
            .last
            .map(|(last, _)| at.saturating_duration_since(last));
        if passed.is_some_and(|passed| passed < self.interval) {
            return None;
        }
        let set_by = self.last.zip(passed).map(|((_, last), passed)| {
            let passed = SignedDuration::try_from(passed).unwrap_or(SignedDuration::MAX);
            now.duration_since(last).saturating_sub(passed)
        });
        self.last = Some((at, now));
        let was_set = set_by.filter(|by| by.unsigned_abs() > MIN_JUMP);
        if let Some(by) = was_set {
            tracing::warn!(
                seconds = by.as_secs(),
                "the clock was set; deleting by age is suspended"
            );
        }
        let trusted_from = match self.trusted_from {
            None => at + self.after_start,
            Some(_) if was_set.is_some() => at + TRUSTED_AFTER,
            Some(known) => known,
        };
        self.trusted_from = Some(trusted_from);
        (at >= trusted_from).then_some(now)
    }
}

/// The host's clock. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// Milliseconds by which it is ahead of the real clock.
    #[cfg(test)]
    ahead: std::sync::Arc<std::sync::atomic::AtomicI64>,
}

impl Clock {
    /// The current time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        #[cfg(test)]
        let now = {
            let ahead = self.ahead.load(std::sync::atomic::Ordering::SeqCst);
            now + jiff::SignedDuration::from_millis(ahead)
        };
        now
    }

    /// Sets it `ahead` of the real clock; a negative value sets it behind.
    #[cfg(test)]
    pub(crate) fn set_ahead(&self, ahead: jiff::SignedDuration) {
        let millis = i64::try_from(ahead.as_millis()).unwrap();
        self.ahead
            .store(millis, std::sync::atomic::Ordering::SeqCst);
    }

    /// A clock that is `ahead` of the real one; a negative value is behind.
    #[cfg(test)]
    pub(crate) fn ahead_by(ahead: jiff::SignedDuration) -> Self {
        let clock = Self::default();
        clock.set_ahead(ahead);
        clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_deleted_by_a_clock_that_was_set_lately() {
        let day = SignedDuration::from_hours(24);
        let minute = Duration::from_secs(60);
        let mut sweeps = Sweeps {
            after_start: TRUSTED_AFTER,
            ..Sweeps::every(minute)
        };
        let (begin, real) = (Instant::now(), Timestamp::now());
        // Minutes since the start, how far the clock is ahead, whether a sweep is due.
        for (minutes, ahead, expected) in [
            (0, SignedDuration::ZERO, false),
            (14, SignedDuration::ZERO, false),
            (15, SignedDuration::ZERO, true),
            // The interval has not elapsed.
            (15, SignedDuration::ZERO, false),
            (16, SignedDuration::from_secs(50), true),
            // Slewed again.
            (17, SignedDuration::from_secs(100), true),
            (18, day * 400, false),
            (19, day * 400, false),
            (20, SignedDuration::ZERO, false),
            (34, SignedDuration::ZERO, false),
            (35, SignedDuration::ZERO, true),
            (36, -day, false),
            (37, SignedDuration::ZERO, false),
            (52, SignedDuration::ZERO, true),
        ] {
            let passed = minute * minutes;
            let now = real + SignedDuration::try_from(passed).unwrap() + ahead;
            let due = sweeps.due(begin + passed, now);
            assert_eq!(due, expected.then_some(now), "after {minutes} min, {ahead}");
        }
    }
}
