//! What a load is asked to do.

use std::time::Duration;

use super::arrivals::Arrivals;

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// After this long.
    Elapsed(Duration),
    /// When told by a signal.
    Stopped,
}

/// What is to be driven at what.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) url: String,
    /// Orders a second.
    pub(super) rate: f64,
    pub(super) arrivals: Arrivals,
    pub(super) until: Until,
    /// For each try.
    pub(super) timeout: Duration,
    pub(super) flower: String,
    /// Tries beyond the first; when there may be any, orders have idempotency keys.
    pub(super) retries: u32,
    /// At most; as many are made beforehand when it was asked for by name.
    pub(super) connections: usize,
    pub(super) warm: bool,
}
