//! The trait that every store implements, with its parameters and results.

use std::sync::Arc;

use async_trait::async_trait;

use super::position::{FollowError, Followed, Position};
use crate::accounts::Accounts;
use crate::candidates::Candidates;
use crate::order::{Order, OrderId};

/// An order to be stored, with what must be stored together with it: all or nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The order.
    pub order: Order,
    /// The idempotency key, if the client sent one.
    pub claim: Option<Claim>,
    /// Whether to send a notice of the order.
    pub notice: bool,
}

impl From<Order> for Entry {
    /// An order without a claim or a notice.
    fn from(order: Order) -> Self {
        Self {
            order,
            claim: None,
            notice: false,
        }
    }
}

/// An `Idempotency-Key` and the request made with it, both as SHA-256: stores need not know what clients
/// write, and the length is fixed.
/// <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Hash of the key, and of the account if the order has one.
    pub key: [u8; 32],
    /// Hash of the order's fields.
    pub fingerprint: [u8; 32],
}

/// Which call stored an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// This call.
    Now,
    /// An earlier call with the same claim, under this id.
    Before(OrderId),
}

/// Why an order was not created.
#[derive(Debug)]
pub enum CreateError {
    /// A different order has this id.
    Exists,
    /// The claim's key was used for other fields.
    KeyReused,
    /// The store failed, and certainly stored nothing.
    NotKept(anyhow::Error),
    /// The outcome is unknown: the order may have been stored.
    Unavailable(anyhow::Error),
}

impl From<anyhow::Error> for CreateError {
    /// A failure of unknown consequence: a response can always be lost, so the order may have been stored.
    fn from(error: anyhow::Error) -> Self {
        Self::Unavailable(error)
    }
}

/// A store of orders.
#[async_trait]
pub trait Store: Send + Sync {
    /// Stores the entry durably. Never overwrites. Storing the very same order again succeeds, so that a
    /// retry after a lost response is safe.
    async fn create(&self, entry: &Entry) -> Result<Kept, CreateError>;

    /// Returns the order with this id.
    async fn get(&self, id: OrderId) -> anyhow::Result<Option<Order>>;

    /// Returns orders with ids above `after`, sorted by id, at most `limit`.
    async fn list(&self, after: OrderId, limit: usize) -> anyhow::Result<Vec<Order>>;

    /// Returns the current end of the sequence. Following from there returns every order stored from now on,
    /// and maybe some earlier ones.
    async fn end(&self) -> anyhow::Result<Position>;

    /// Returns orders from `from` on in the store's sequence, at most `limit`, which is at least 1. There may
    /// be more unless the result has an end, however few it contains.
    async fn follow(&self, from: &Position, limit: usize) -> Result<Followed, FollowError>;

    /// Checks whether the store would accept an order now, as cheaply as possible.
    async fn probe(&self) -> anyhow::Result<()>;

    /// Returns orders whose notices are not settled, oldest first, at most `limit`.
    async fn notices(&self, limit: usize) -> anyhow::Result<Vec<OrderId>>;

    /// Records that the notice of this order was sent.
    async fn settle_notice(&self, id: OrderId) -> anyhow::Result<()>;

    /// Closes the store cleanly. Called once, after the service has stopped.
    async fn close(&self) {}

    /// The accounts, if the store supports them.
    fn accounts(&self) -> Option<Arc<dyn Accounts>> {
        None
    }

    /// The candidates, if the store supports them.
    fn candidates(&self) -> Option<Arc<dyn Candidates>> {
        None
    }
}
