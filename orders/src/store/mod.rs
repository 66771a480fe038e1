//! Where orders live: one trait, one contract, several stores.
//!
//! A store knows orders and nothing of HTTP. The contract every store keeps, and is tested for by
//! the one suite in `contract.rs`: when `create` has answered `Ok`, the order survives a crash of
//! this process and, for files, of the machine; an id is never overwritten; what `get` gives back
//! is what was created.

#[cfg(test)]
mod contract;
mod file;
mod s3;

use std::sync::Arc;

use async_trait::async_trait;

use crate::order::{Order, OrderId};
use crate::settings::{Settings, StoreAddress};

pub use file::FileStore;
pub use s3::S3Store;

/// Why an order was not created.
#[derive(Debug)]
pub enum CreateError {
    /// Another order, with other content, has this id already.
    Exists,
    /// The store did not take it, or did not say so in time.
    Unavailable(anyhow::Error),
}

/// A place that keeps orders.
#[async_trait]
pub trait Store: Send + Sync {
    /// Keeps `order` durably, or says why not. Never overwrites; the very same order
    /// again is no error, so that a retry after a lost answer is safe.
    async fn create(&self, order: &Order) -> Result<(), CreateError>;

    /// The order with this id, if there is one.
    async fn get(&self, id: OrderId) -> anyhow::Result<Option<Order>>;

    /// Whether the store would take an order now, at the least cost that tells.
    async fn probe(&self) -> anyhow::Result<()>;
}

/// Opens the store the settings name. Touches neither disk nor network: a store that does not work
/// is found by its probe, and said on `/gtg`, not by a service that will not start.
#[must_use]
pub fn open(settings: &Settings) -> Arc<dyn Store> {
    match &settings.store {
        StoreAddress::File(folder) => Arc::new(FileStore::new(folder.clone())),
        StoreAddress::S3 { bucket, prefix } => Arc::new(S3Store::new(
            bucket.clone(),
            prefix.clone(),
            settings.aws.clone(),
        )),
    }
}
