//! What every store implements, and what its callers pass in and get back.

use std::sync::Arc;

use async_trait::async_trait;

use super::position::{FollowError, Followed, Position};
use crate::accounts::Accounts;
use crate::candidates::Candidates;
use crate::order::{Order, OrderId};

/// An order about to be kept, and what is kept with it in the same breath: all or nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The order.
    pub order: Order,
    /// The client's word that a second request with this key is the first one again.
    pub claim: Option<Claim>,
    /// Whether a notice of the order is to be sent.
    pub notice: bool,
}

impl From<Order> for Entry {
    /// An order with nothing beside it.
    fn from(order: Order) -> Self {
        Self {
            order,
            claim: None,
            notice: false,
        }
    }
}

/// An `Idempotency-Key` and what was asked under it, both as SHA-256: a store need not know what
/// clients write, and both have one length.
/// <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Of the key, and of the account when the order has one.
    pub key: [u8; 32],
    /// Of the order's fields.
    pub fingerprint: [u8; 32],
}

/// How an order came to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// By this call.
    Now,
    /// By an earlier call with the same claim, under this id.
    Before(OrderId),
}

/// Why an order was not created.
#[derive(Debug)]
pub enum CreateError {
    /// Another order, with other content, has this id already.
    Exists,
    /// The claim's key was used for other fields.
    KeyReused,
    /// The store did not take it; it is certain that nothing was kept.
    NotKept(anyhow::Error),
    /// No answer, or one that says nothing of what was done: the order may be kept all the same.
    Unavailable(anyhow::Error),
}

/// The mark, as an error's context, of failures before anything could reach the place. What does not
/// have it may have been kept: that is the rule for every store, as an answer can always be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NothingKept;

impl std::fmt::Display for NothingKept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nothing was kept")
    }
}

impl From<anyhow::Error> for CreateError {
    fn from(error: anyhow::Error) -> Self {
        if error.is::<NothingKept>() {
            Self::NotKept(error)
        } else {
            Self::Unavailable(error)
        }
    }
}

/// A place that keeps orders.
#[async_trait]
pub trait Store: Send + Sync {
    /// Keeps the entry durably, or says why not. Never overwrites; the very same order
    /// again is no error, so that a retry after a lost answer is safe.
    async fn create(&self, entry: &Entry) -> Result<Kept, CreateError>;

    /// The order with this id, if there is one.
    async fn get(&self, id: OrderId) -> anyhow::Result<Option<Order>>;

    /// Orders with ids above `after`, in the order of their ids, at most `limit`.
    async fn list(&self, after: OrderId, limit: usize) -> anyhow::Result<Vec<Order>>;

    /// Where a follower begins that reads everything there is now in another way, or has no use for it: from there
    /// it is shown every order that is kept from now on, and maybe some that were before.
    async fn end(&self) -> anyhow::Result<Position>;

    /// Orders from `from` on, in the store's own sequence, at most `limit`, which is at least 1. Without an end there
    /// may be more, however few they are.
    async fn follow(&self, from: &Position, limit: usize) -> Result<Followed, FollowError>;

    /// Whether the store would take an order now, at the least cost that tells.
    async fn probe(&self) -> anyhow::Result<()>;

    /// Orders whose notices are not settled yet, oldest first, at most `limit`.
    async fn notices(&self, limit: usize) -> anyhow::Result<Vec<OrderId>>;

    /// The notice of this order was sent and need not be given out again.
    async fn settle_notice(&self, id: OrderId) -> anyhow::Result<()>;

    /// Leaves nothing for the next start to mend. Called once, when the service has stopped.
    async fn close(&self) {}

    /// The accounts, where the store keeps any.
    fn accounts(&self) -> Option<Arc<dyn Accounts>> {
        None
    }

    /// The candidates, where the store keeps any.
    fn candidates(&self) -> Option<Arc<dyn Candidates>> {
        None
    }
}
