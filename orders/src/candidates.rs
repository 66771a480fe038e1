//! Candidates: names that are kept, for the clients of the candidate service. Off unless set.
//!
//! Owns what a place of candidates can do; the HTTP contract is in `api/candidates.rs`.

mod dynamodb;

use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;

use crate::aws::Aws;
use crate::settings::{CandidatesAddress, Settings};
use crate::store::Store;

pub use dynamodb::DynamoDbCandidates;

/// A place that keeps candidates.
#[async_trait]
pub trait Candidates: Send + Sync {
    /// Keeps the name; one that is there already stays there once.
    async fn put(&self, name: &str) -> anyhow::Result<()>;

    /// Whether the name is kept.
    async fn has(&self, name: &str) -> anyhow::Result<bool>;

    /// All names, in no promised order.
    async fn all(&self) -> anyhow::Result<Vec<String>>;
}

/// The place that the settings name, if they name one; `store` is where orders are kept.
///
/// # Errors
/// When the settings name a place that cannot be, wherever the service runs.
pub fn open(
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
