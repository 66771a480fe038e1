//! The parameters of a load.

use std::time::Duration;

use crate::arrivals::Arrivals;

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
pub(crate) struct Plan {
    pub(crate) url: String,
    /// Orders per second.
    pub(crate) rate: f64,
    pub(crate) arrivals: Arrivals,
    pub(crate) until: Until,
    /// For each attempt.
    pub(crate) timeout: Duration,
    pub(crate) flower: String,
    /// Attempts after the first; if there may be any, orders have idempotency keys.
    pub(crate) retries: u32,
    /// Limit on connections; if `warm`, all are opened in advance.
    pub(crate) connections: usize,
    pub(crate) warm: bool,
}
