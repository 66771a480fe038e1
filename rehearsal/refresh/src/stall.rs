//! How the time without progress is measured.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// Measures the time without progress; its state does not change while nothing else does.
///
/// The rule: the clock runs while no further instance counts as updated, also while an instance warms up, because
/// instances of a broken image can come into service, die and be replaced endlessly. The first warm-up time after each
/// progress is free: a replacement cannot be ready earlier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StallClock {
    /// Runs while nothing warms up.
    idle: Stopwatch,
    /// Runs while something does.
    warming: Stopwatch,
}

/// How the stall clock of a refresh without progress runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// It stands: the refresh is paused, or has just removed an old member.
    #[default]
    Paused,
    /// It runs, and no instance is warming up.
    Idle,
    /// It runs, and at least one instance is warming up.
    Warming,
}

impl StallClock {
    /// Runs or stops the clock according to `pace`.
    pub fn run(&mut self, pace: Pace, now: Timestamp) {
        self.idle.run(pace == Pace::Idle, now);
        self.warming.run(pace == Pace::Warming, now);
    }

    /// Records progress: the next warm-up is free again, and the clock is reset if `forget`.
    pub fn progress(&mut self, warmup: u32, forget: bool, now: Timestamp) {
        let stood = self.reading(warmup, now);
        *self = Self::default();
        if !forget {
            self.idle.banked = stood;
        }
    }

    /// Time without progress, less one warm-up of `warmup` seconds.
    pub fn reading(&self, warmup: u32, now: Timestamp) -> SignedDuration {
        let free = SignedDuration::from_secs(warmup.into());
        let beyond = self.warming.reading(now) - free;
        self.idle.reading(now) + beyond.max(SignedDuration::ZERO)
    }
}

/// A stopwatch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Stopwatch {
    /// Running since.
    since: Option<Timestamp>,
    /// The time measured before.
    banked: SignedDuration,
}

impl Stopwatch {
    fn run(&mut self, on: bool, now: Timestamp) {
        match (on, self.since) {
            (true, None) => self.since = Some(now),
            (false, Some(since)) => {
                self.banked += now.duration_since(since);
                self.since = None;
            }
            _ => {}
        }
    }

    fn reading(&self, now: Timestamp) -> SignedDuration {
        self.since
            .map_or(self.banked, |since| self.banked + now.duration_since(since))
    }
}
