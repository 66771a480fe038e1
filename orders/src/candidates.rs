//! Candidates: names that are kept, for the clients of the candidate service. Off unless set.
//!
//! Owns what a place of candidates can do; the HTTP contract is in `api/candidates.rs`.

use async_trait::async_trait;

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
