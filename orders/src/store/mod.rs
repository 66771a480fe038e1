//! Stores of orders: one trait, one contract, several implementations.
//!
//! A store knows orders, not HTTP. Every store keeps this contract, which the suite in `contract.rs` tests:
//! when `create` has returned `Ok`, the order survives a crash of this process and, for files, of the
//! machine; an id is never overwritten; one idempotency key makes one order, whichever instances are called
//! and however often; `get` returns what was created; a notice is listed until it is settled; a follower of
//! the orders misses none (`position.rs`).

#[cfg(test)]
pub(crate) mod contract;
mod dynamodb;
mod file;
mod interface;
#[cfg(test)]
pub(crate) mod memory;
#[cfg(test)]
mod network_faults;
mod numbered;
mod position;
mod s3;
mod sql;
#[cfg(test)]
pub(crate) mod stuck;
mod timed;

use std::sync::Arc;

use anyhow::Context;

use crate::aws::Aws;
use crate::candidates::{Candidates, DynamoDbCandidates};
use crate::settings::{CandidatesAddress, Settings, StoreAddress};

pub use dynamodb::DynamoDbStore;
pub use file::FileStore;
pub use interface::{Claim, CreateError, Entry, Kept, Store};
pub use position::{FollowError, Followed, Position};
pub use s3::S3Store;
pub use sql::SqlStore;

/// Opens the store that the settings name. Touches neither disk nor network: a failing store is detected by
/// its probe and reported on `/gtg`, instead of keeping the service from starting. A store in AWS shares
/// `aws`'s connections and credentials.
///
/// # Errors
/// If the settings cannot be valid anywhere.
pub fn open(settings: &Settings, aws: &Aws) -> anyhow::Result<Arc<dyn Store>> {
    Ok(match &settings.store {
        StoreAddress::File(folder) => Arc::new(FileStore::new(folder.clone())?),
        StoreAddress::S3 { bucket, prefix } => {
            Arc::new(S3Store::new(bucket.clone(), prefix, aws.clone()))
        }
        StoreAddress::Sql(address) => Arc::new(SqlStore::new(address, &settings.sql)?),
        StoreAddress::DynamoDb { table } => {
            Arc::new(DynamoDbStore::new(table.clone(), aws.clone()))
        }
    })
}

/// Opens the candidates' storage that the settings name, if any; `store` is the store of orders.
///
/// # Errors
/// If the settings cannot be valid anywhere.
pub fn open_candidates(
    settings: &Settings,
    store: &dyn Store,
    aws: &Aws,
) -> anyhow::Result<Option<Arc<dyn Candidates>>> {
    let Some(address) = &settings.candidates else {
        return Ok(None);
    };
    match address {
        CandidatesAddress::Embedded => store.candidates().map(Some).with_context(|| {
            format!(
                "{} does not support candidates\nhint: write candidates = \"dynamodb://Candidates\"",
                settings.store
            )
        }),
        CandidatesAddress::DynamoDb { table } => Ok(Some(Arc::new(DynamoDbCandidates::new(
            table.clone(),
            aws.clone(),
        )))),
    }
}
