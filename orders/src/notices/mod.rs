//! Notices of orders, published to an SNS topic if one is configured.
//!
//! Owns the relay. The store records together with an order that its notice is due (the outbox), so no notice
//! is lost with an instance, and no order waits for one. The instance that took an order sends its notice at
//! once; what was not settled then (the instance was killed, the topic did not respond) is found by a later
//! sweep of any instance. So a notice is sent at least once, rarely twice; subscribers recognise duplicates
//! by `order_id`.
//!
//! A notice contains neither name nor address: anyone may subscribe to a topic.

mod sns;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::order::{Order, OrderId};
use crate::store::Store;
use support::one_line;

pub use sns::SnsTopic;

/// Notices waiting in memory. Further ones are left to the sweep: the store has them.
const QUEUE: usize = 1024;
/// Notices being sent at once.
const AT_ONCE: usize = 8;
/// Notices read from the store at once by a sweep.
const BATCH: usize = 100;
/// Average time between two sweeps. Randomised, so that instances do not sweep at the same time.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// Younger notices are still being sent by the instance that took the order.
const SWEEP_OLDER_THAN: Duration = Duration::from_secs(60);
/// Delay of a sender after a failure. With all senders waiting, a failed topic gets a few requests a second
/// at most.
const PAUSE: Duration = Duration::from_secs(5);

/// The content of a notice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// The order's id.
    pub id: OrderId,
    /// When the order was received.
    pub received_at: jiff::Timestamp,
    /// The flower that was ordered.
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
    /// Sends a notice; `Ok` once the topic has accepted it.
    async fn send(&self, notice: &Notice) -> anyhow::Result<()>;
}

/// The request handlers' end of the relay. Cheap to clone; never waits.
#[derive(Debug, Clone)]
pub struct Outbox {
    fresh: mpsc::Sender<Notice>,
    backlog: Arc<AtomicUsize>,
}

impl Outbox {
    /// Queues the notice of an order that was just stored.
    pub fn enqueue(&self, order: &Order) {
        // If the queue is full, the sweep finds it in the store.
        let _ = self.fresh.try_send(order.into());
    }

    /// Unsent notices known to this instance: queued ones, and those the last sweep found in the store (at
    /// most one batch).
    #[must_use]
    pub fn waiting(&self) -> usize {
        let queued = self.fresh.max_capacity() - self.fresh.capacity();
        queued + self.backlog.load(Ordering::Relaxed)
    }
}

/// Sends queued notices, and those that the store reports as due.
pub struct Relay {
    fresh: mpsc::Receiver<Notice>,
    delivery: Delivery,
}

/// Sends single notices from the store to the topic.
struct Delivery {
    store: Arc<dyn Store>,
    topic: Arc<dyn Topic>,
    backlog: Arc<AtomicUsize>,
    failing: AtomicBool,
}

impl Relay {
    /// A relay from `store` to `topic`, and the outbox that feeds it.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, topic: Arc<dyn Topic>) -> (Outbox, Self) {
        let (sender, fresh) = mpsc::channel(QUEUE);
        let backlog = Arc::<AtomicUsize>::default();
        let outbox = Outbox {
            fresh: sender,
            backlog: Arc::clone(&backlog),
        };
        let delivery = Delivery {
            store,
            topic,
            backlog,
            failing: AtomicBool::new(false),
        };
        (outbox, Self { fresh, delivery })
    }

    /// Sends notices until `stop`, then those in progress and still queued. May be dropped at any time: what
    /// was not sent stays due in the store.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self {
            mut fresh,
            delivery,
        } = self;
        let delivery = &delivery;
        let sending = stream::poll_fn(|context| fresh.poll_recv(context))
            .take_until(stop)
            .for_each_concurrent(AT_ONCE, |notice| async move {
                if !delivery.deliver(&notice).await {
                    tokio::time::sleep(PAUSE).await;
                }
            });
        tokio::select! {
            () = sending => {}
            () = delivery.sweep_forever() => {}
        }
        fresh.close();
        stream::poll_fn(|context| fresh.poll_recv(context))
            .for_each_concurrent(AT_ONCE, |notice| async move {
                delivery.deliver(&notice).await;
            })
            .await;
    }
}

impl Delivery {
    async fn sweep_forever(&self) {
        loop {
            tokio::time::sleep(SWEEP_EVERY.mul_f64(0.5 + fastrand::f64())).await;
            if let Err(error) = self.sweep().await {
                tracing::warn!(error = one_line(&error), "could not sweep notices");
            }
        }
    }

    /// Sends notices of the backlog until none is left or one fails.
    async fn sweep(&self) -> anyhow::Result<()> {
        loop {
            let now = jiff::Timestamp::now();
            let before = OrderId::floor(now - SWEEP_OLDER_THAN);
            // An id from a clock that was wrong does not show the notice's age. Without this check the notice
            // would wait for as long as the clock was ahead.
            let ahead = OrderId::floor(now + SWEEP_OLDER_THAN);
            let mut due = self.store.notices(BATCH).await.context("list notices")?;
            // Oldest first.
            due.retain(|id| *id < before || *id > ahead);
            self.backlog.store(due.len(), Ordering::Relaxed);
            let failed = AtomicBool::new(false);
            stream::iter(&due)
                .for_each_concurrent(AT_ONCE, |id| {
                    let failed = &failed;
                    async move {
                        // After one failure the others of this sweep would probably fail as well.
                        if !failed.load(Ordering::Relaxed) && !self.deliver_from_backlog(*id).await
                        {
                            failed.store(true, Ordering::Relaxed);
                        }
                    }
                })
                .await;
            if failed.into_inner() {
                return Ok(());
            }
            self.backlog.store(0, Ordering::Relaxed);
            if due.len() < BATCH {
                return Ok(());
            }
        }
    }

    async fn deliver_from_backlog(&self, id: OrderId) -> bool {
        match self.store.get(id).await {
            Ok(Some(order)) => self.deliver(&Notice::from(&order)).await,
            // The store lists notices of existing orders only; if the order was deleted since, there is
            // nothing to send.
            Ok(None) => self.settle(id).await.is_ok(),
            Err(error) => {
                tracing::warn!(order = %id, error = one_line(&error), "could not read the order of a notice");
                false
            }
        }
    }

    /// Sends a notice and settles it; whether both succeeded.
    async fn deliver(&self, notice: &Notice) -> bool {
        let delivered = async {
            self.topic.send(notice).await.context("send a notice")?;
            self.settle(notice.id).await
        };
        match delivered.await {
            Ok(()) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("sending notices works again");
                }
                true
            }
            Err(error) => {
                // Logged once, not for every order.
                if !self.failing.swap(true, Ordering::Relaxed) {
                    let error = one_line(&error);
                    tracing::warn!(order = %notice.id, error, "notices cannot be sent; they wait in the store");
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
