//! Where orders live: one trait, one contract, several stores.
//!
//! A store knows orders and nothing of HTTP. The contract every store keeps, and is tested for by
//! the one suite in `contract.rs`: when `create` has answered `Ok`, the order survives a crash of
//! this process and, for files, of the machine; an id is never overwritten; one idempotency key
//! makes one order, whichever boxes are asked and however often; what `get` gives back is what was
//! created; a notice that was asked for is given out until it is settled; who follows its orders misses
//! none (`position.rs`).

#[cfg(test)]
pub(crate) mod contract;
mod dynamodb;
#[cfg(test)]
mod faults;
mod file;
mod interface;
#[cfg(test)]
pub(crate) mod memory;
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
pub(crate) use interface::NothingKept;
pub use interface::{Claim, CreateError, Entry, Kept, Store};
pub use position::{FollowError, Followed, Position};
pub use s3::S3Store;
pub use sql::SqlStore;

/// Opens the store the settings name. Touches neither disk nor network: a store that does not work
/// is found by its probe, and said on `/gtg`, not by a service that will not start. A store in AWS goes
/// through `aws`, with its connections and credentials.
///
/// # Errors
/// When the settings name a store that cannot be, wherever it runs.
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

/// The place that the settings name, if they name one; `store` is where orders are kept.
///
/// # Errors
/// When the settings name a place that cannot be, wherever the service runs.
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
                "{} keeps no candidates; hint: write candidates = \"dynamodb://Candidates\"",
                settings.store
            )
        }),
        CandidatesAddress::DynamoDb { table } => Ok(Some(Arc::new(DynamoDbCandidates::new(
            table.clone(),
            aws.clone(),
        )))),
    }
}
