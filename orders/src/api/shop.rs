//! What the handlers share: the service's parts, and the limits that are the same for several of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::bodies::Bodies;
use crate::accounts::Desk;
use crate::aws::InstanceId;
use crate::candidates::Candidates;
use crate::clock::Clock;
use crate::metrics::OrderCount;
use crate::metrics::prometheus::Meter;
use crate::notices::Outbox;
use crate::readiness::Readiness;
use crate::settings::Settings;
use crate::store::Store;

/// How long the store may take. Afterwards the customer is told to try again.
pub(super) const STORE_TIMEOUT: Duration = Duration::from_secs(15);
/// Orders under way at once; more are sent away before memory grows.
pub(super) const ORDERS_AT_ONCE: usize = 512;

/// What the handlers share.
#[derive(Clone)]
pub struct Shop {
    /// Where orders are kept.
    pub store: Arc<dyn Store>,
    /// Whether the store works.
    pub readiness: Readiness,
    /// The host's clock.
    pub clock: Clock,
    /// The settings the service runs under.
    pub settings: Arc<Settings>,
    /// The counter behind the metric.
    pub count: OrderCount,
    /// What Prometheus is told.
    pub meter: Arc<Meter>,
    /// This box's id.
    pub instance: InstanceId,
    /// Places for orders under way, whose bodies are there.
    pub places: Arc<Semaphore>,
    /// Bodies that are being read.
    pub bodies: Bodies,
    /// Where customers say who they are; `None` when accounts are off.
    pub desk: Option<Arc<Desk>>,
    /// Where candidates are kept; `None` when the module is off.
    pub candidates: Option<Arc<dyn Candidates>>,
    /// Where new orders are announced; `None` when no notices are sent.
    pub outbox: Option<Outbox>,
}

impl Shop {
    /// As many places as may be taken at once.
    #[must_use]
    pub fn places() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(ORDERS_AT_ONCE))
    }
}

/// Gives up `work` after `limit`.
pub(super) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {} s", limit.as_secs())))
}
