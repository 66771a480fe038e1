//! The time in the cloud.
//!
//! Every rule that waits (boots, drains, warm-ups, hooks) uses this clock and not the host's, so that tests can set it.

#[cfg(test)]
use std::sync::Mutex;
#[cfg(test)]
use std::time::Duration;

use jiff::Timestamp;

/// The cloud's time.
pub(crate) trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The host's clock.
#[derive(Debug, Default)]
pub(crate) struct RealClock;

impl Clock for RealClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock that tests advance.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct SetClock(Mutex<Timestamp>);

#[cfg(test)]
impl SetClock {
    /// A clock at `start`.
    pub(crate) fn new(start: Timestamp) -> Self {
        Self(Mutex::new(start))
    }

    /// Advances the clock.
    pub(crate) fn advance(&self, by: Duration) {
        let mut now = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *now = now.saturating_add(by).unwrap_or(Timestamp::MAX);
    }
}

#[cfg(test)]
impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        *self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
