//! Notices of orders, sent when a topic is configured: an order is confirmed to whoever subscribed.
//!
//! Owns the relay. That a notice is due is kept by the store together with the order (the outbox), so
//! none is lost with a box, and no order waits for one. The box that took an order sends its notice
//! at once; what was not settled then (this box was killed, the topic did not answer) is swept up by
//! any box later. So a notice goes out at least once, and seldom twice: subscribers tell by `order_id`.
//!
//! A notice names neither customer nor address: a topic hands it on to strangers.

mod sns;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::chain::one_line;
use crate::order::{Order, OrderId};
use crate::store::Store;

pub use sns::SnsTopic;

/// Notices that wait in memory. More are left to the sweep: they are in the store anyway.
const QUEUE: usize = 1024;
/// Notices under way at once.
const AT_ONCE: usize = 8;
/// How many are swept up before the store is asked again.
const BATCH: usize = 100;
/// About the time between two sweeps. Varied, so that boxes do not sweep the same at the same time.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// Younger ones are still being sent by the box that took the order.
const SWEEP_OLDER_THAN: Duration = Duration::from_secs(60);
/// How long one who failed to send waits before the next. With all of them waiting, a dead topic is
/// asked a few times a second at most.
const PAUSE: Duration = Duration::from_secs(5);

/// What is told of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// The order's id.
    pub id: OrderId,
    /// When it was taken.
    pub received_at: jiff::Timestamp,
    /// What was ordered.
    pub flower: String,
}

impl From<&Order> for Notice {
    fn from(order: &Order) -> Self {
        Self {
            id: order.id,
            received_at: order.received_at,
            flower: order.flower.clone(),
        }
    }
}

/// Where notices are sent.
#[async_trait]
pub trait Topic: Send + Sync {
    /// Sends one; `Ok` once the topic has taken it.
    async fn send(&self, notice: &Notice) -> anyhow::Result<()>;
}

/// The request path's end of the relay. Cheap to clone; never waits.
#[derive(Debug, Clone)]
pub struct Outbox {
    fresh: mpsc::Sender<Notice>,
    left_over: Arc<AtomicUsize>,
}

impl Outbox {
    /// The order was kept with its notice, which can be sent now.
    pub fn announce(&self, order: &Order) {
        // When there is no room, the sweep finds it in the store.
        let _ = self.fresh.try_send(order.into());
    }

    /// Notices not sent yet, as far as this box knows; of those left over in the store, no more than
    /// the last sweep saw at once.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let queued = self.fresh.max_capacity() - self.fresh.capacity();
        queued + self.left_over.load(Ordering::Relaxed)
    }
}

/// Sends what is announced, and what the store says is due.
pub struct Relay {
    fresh: mpsc::Receiver<Notice>,
    courier: Courier,
}

/// Carries single notices from the store to the topic.
struct Courier {
    store: Arc<dyn Store>,
    topic: Arc<dyn Topic>,
    left_over: Arc<AtomicUsize>,
    failing: AtomicBool,
}

impl Relay {
    /// A relay from `store` to `topic`, and the outbox to announce new orders in.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, topic: Arc<dyn Topic>) -> (Outbox, Self) {
        let (sender, fresh) = mpsc::channel(QUEUE);
        let left_over = Arc::<AtomicUsize>::default();
        let outbox = Outbox {
            fresh: sender,
            left_over: Arc::clone(&left_over),
        };
        let courier = Courier {
            store,
            topic,
            left_over,
            failing: AtomicBool::new(false),
        };
        (outbox, Self { fresh, courier })
    }

    /// Sends notices until `stop`, then what is under way and still announced. May be dropped at any
    /// time: what was not sent stays due in the store.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { mut fresh, courier } = self;
        let courier = &courier;
        let sending = stream::poll_fn(|context| fresh.poll_recv(context))
            .take_until(stop)
            .for_each_concurrent(AT_ONCE, |notice| async move {
                if !courier.deliver(&notice).await {
                    tokio::time::sleep(PAUSE).await;
                }
            });
        tokio::select! {
            () = sending => {}
            () = courier.sweep_for_ever() => {}
        }
        fresh.close();
        stream::poll_fn(|context| fresh.poll_recv(context))
            .for_each_concurrent(AT_ONCE, |notice| async move {
                courier.deliver(&notice).await;
            })
            .await;
    }
}

impl Courier {
    async fn sweep_for_ever(&self) {
        loop {
            tokio::time::sleep(SWEEP_EVERY.mul_f64(0.5 + fastrand::f64())).await;
            if let Err(error) = self.sweep().await {
                tracing::warn!(error = one_line(&error), "notices not swept up");
            }
        }
    }

    /// Sends what was left over, until nothing is or something fails.
    async fn sweep(&self) -> anyhow::Result<()> {
        loop {
            let now = jiff::Timestamp::now();
            let before = OrderId::floor(now - SWEEP_OLDER_THAN);
            // Ids of a clock that was wrong say nothing of how long they wait: not for as long as it was ahead.
            let ahead = OrderId::floor(now + SWEEP_OLDER_THAN);
            let mut due = self.store.notices(BATCH).await.context("ask for notices")?;
            // Oldest first.
            due.retain(|id| *id < before || *id > ahead);
            self.left_over.store(due.len(), Ordering::Relaxed);
            let failed = AtomicBool::new(false);
            stream::iter(&due)
                .for_each_concurrent(AT_ONCE, |id| {
                    let failed = &failed;
                    async move {
                        // Once one has failed, the others of this sweep would only wait for the same.
                        if !failed.load(Ordering::Relaxed) && !self.deliver_left_over(*id).await {
                            failed.store(true, Ordering::Relaxed);
                        }
                    }
                })
                .await;
            if failed.into_inner() {
                return Ok(());
            }
            self.left_over.store(0, Ordering::Relaxed);
            if due.len() < BATCH {
                return Ok(());
            }
        }
    }

    async fn deliver_left_over(&self, id: OrderId) -> bool {
        match self.store.get(id).await {
            Ok(Some(order)) => self.deliver(&Notice::from(&order)).await,
            // The store gives out notices of orders that are there; should one be gone since, there is
            // nothing to tell any more.
            Ok(None) => self.settle(id).await.is_ok(),
            Err(error) => {
                tracing::warn!(order = %id, error = one_line(&error), "order of a notice not read");
                false
            }
        }
    }

    /// Sends a notice and settles it; whether both worked.
    async fn deliver(&self, notice: &Notice) -> bool {
        let delivered = async {
            self.topic.send(notice).await.context("send a notice")?;
            self.settle(notice.id).await
        };
        match delivered.await {
            Ok(()) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("notices are sent again");
                }
                true
            }
            Err(error) => {
                // Said once, not for every order.
                if !self.failing.swap(true, Ordering::Relaxed) {
                    let error = one_line(&error);
                    tracing::warn!(order = %notice.id, error, "notices wait in the store");
                }
                false
            }
        }
    }

    async fn settle(&self, id: OrderId) -> anyhow::Result<()> {
        let settled = self.store.settle_notice(id).await;
        settled.with_context(|| format!("settle the notice of order {id}"))
    }
}

#[cfg(test)]
mod tests;
