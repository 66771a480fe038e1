//! A store that never responds, for tests of the code above the store. Test code only.

use async_trait::async_trait;

use super::{CreateError, Entry, FollowError, Followed, Kept, Position, Store};
use crate::order::{Order, OrderId};

/// Every call blocks forever.
pub(crate) struct Stuck;

#[async_trait]
impl Store for Stuck {
    async fn create(&self, _: &Entry) -> Result<Kept, CreateError> {
        std::future::pending().await
    }

    async fn get(&self, _: OrderId) -> anyhow::Result<Option<Order>> {
        std::future::pending().await
    }

    async fn list(&self, _: OrderId, _: usize) -> anyhow::Result<Vec<Order>> {
        std::future::pending().await
    }

    async fn end(&self) -> anyhow::Result<Position> {
        std::future::pending().await
    }

    async fn follow(&self, _: &Position, _: usize) -> Result<Followed, FollowError> {
        std::future::pending().await
    }

    async fn probe(&self) -> anyhow::Result<()> {
        std::future::pending().await
    }

    async fn notices(&self, _: usize) -> anyhow::Result<Vec<OrderId>> {
        std::future::pending().await
    }

    async fn settle_notice(&self, _: OrderId) -> anyhow::Result<()> {
        std::future::pending().await
    }
}
