//! The host's clock, as orders are taken, listed and followed by it: the one place where tests can set it.
//!
//! Rule: a clock is read for each use and never remembered, so that a wrong one is wrong only for as long as it is.

use jiff::Timestamp;

/// The host's clock. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// Milliseconds by which it is ahead of the real one.
    #[cfg(test)]
    ahead: std::sync::Arc<std::sync::atomic::AtomicI64>,
}

impl Clock {
    /// The time now.
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

    /// Sets it `ahead` of the real one, or behind.
    #[cfg(test)]
    pub(crate) fn set_ahead(&self, ahead: jiff::SignedDuration) {
        let millis = i64::try_from(ahead.as_millis()).unwrap();
        self.ahead
            .store(millis, std::sync::atomic::Ordering::SeqCst);
    }

    /// A clock that is `ahead` of the real one, or behind.
    #[cfg(test)]
    pub(crate) fn ahead_by(ahead: jiff::SignedDuration) -> Self {
        let clock = Self::default();
        clock.set_ahead(ahead);
        clock
    }
}
