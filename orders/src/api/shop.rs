//! What the handlers share: the service's parts, and limits that apply to several of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::bodies::Bodies;
use crate::accounts::AccountService;
use crate::aws::InstanceId;
use crate::candidates::Candidates;
use crate::clock::Clock;
use crate::metrics::OrderCount;
use crate::metrics::prometheus::Meter;
use crate::notices::Outbox;
use crate::readiness::Readiness;
use crate::settings::Settings;
use crate::store::Store;

/// Time limit for the store. After it the client is asked to retry.
pub(super) const STORE_TIMEOUT: Duration = Duration::from_secs(15);
/// Orders processed at once; more are refused before memory grows.
pub(super) const ORDERS_AT_ONCE: usize = 512;

/// The state that all handlers share.
#[derive(Clone)]
pub struct Shop {
    /// Where orders are stored.
    pub store: Arc<dyn Store>,
    /// Whether the store works.
    pub readiness: Readiness,
    /// The host's clock.
    pub clock: Clock,
    /// The service's settings.
    pub settings: Arc<Settings>,
    /// The counter behind the metric `OrderCount`.
    pub count: OrderCount,
    /// The metrics for Prometheus.
    pub meter: Arc<Meter>,
    /// The instance's id.
    pub instance: InstanceId,
    /// Permits for orders in progress whose body was read completely.
    pub order_permits: Arc<Semaphore>,
    /// Bodies that are being read.
    pub bodies: Bodies,
    /// Customers' accounts; `None` if accounts are off.
    pub accounts: Option<Arc<AccountService>>,
    /// Where candidates are stored; `None` if the module is off.
    pub candidates: Option<Arc<dyn Candidates>>,
    /// Where notices of new orders are queued; `None` if none are sent.
    pub outbox: Option<Outbox>,
}

impl Shop {
    /// The permits for orders in progress.
    #[must_use]
    pub fn order_permits() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(ORDERS_AT_ONCE))
    }
}

/// Runs `work` for at most `limit`.
pub(super) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {} s", limit.as_secs())))
}
