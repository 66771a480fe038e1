//! The parameters of a load.

use std::time::Duration;

use super::arrivals::Arrivals;

/// When a load ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// After this time.
    Elapsed(Duration),
    /// At a signal.
    Stopped,
}

/// The parameters of a load.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) url: String,
    /// Orders per second.
    pub(super) rate: f64,
    pub(super) arrivals: Arrivals,
    pub(super) until: Until,
    /// For each attempt.
    pub(super) timeout: Duration,
    pub(super) flower: String,
    /// Attempts after the first; if there may be any, orders have idempotency keys.
    pub(super) retries: u32,
    /// Limit on connections; if `warm`, all are opened in advance.
    pub(super) connections: usize,
    pub(super) warm: bool,
}
