//! Candidates: names stored for the clients of the candidate service. Off unless configured.
//!
//! Owns the storage trait; the HTTP contract is in `api/candidates.rs`.

mod dynamodb;

use async_trait::async_trait;

pub use dynamodb::DynamoDbCandidates;

/// Storage for candidates.
#[async_trait]
pub trait Candidates: Send + Sync {
    /// Stores the name; storing it again has no effect.
    async fn put(&self, name: &str) -> anyhow::Result<()>;

    /// Whether the name is stored.
    async fn has(&self, name: &str) -> anyhow::Result<bool>;

    /// The first [`PAGE`] names at most, or those after a page's `next`; in no particular order.
    async fn page(&self, after: Option<&str>) -> anyhow::Result<Names>;
}

/// Most names on a page. A name has up to 2 KiB: a reader of the list holds one page in memory, however many
/// names there are and however slowly they are read.
pub const PAGE: usize = 64;

/// A page of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The names.
    pub names: Vec<String>,
    /// Where the next page begins; `None` on the last page.
    pub next: Option<String>,
}

impl Names {
    /// The page at the start of `names`, which has one more than fits if there is another page.
    #[must_use]
    pub fn cut(mut names: Vec<String>) -> Self {
        let more = names.len() > PAGE;
        names.truncate(PAGE);
        let next = names.last().filter(|_| more).cloned();
        Self { names, next }
    }
}

#[cfg(test)]
pub(crate) async fn all(candidates: &dyn Candidates) -> Vec<String> {
    let mut all = Vec::new();
    let mut next = None;
    loop {
        let page = candidates.page(next.as_deref()).await.unwrap();
        assert!(page.names.len() <= PAGE);
        all.extend(page.names);
        match page.next {
            Some(name) => next = Some(name),
            None => return all,
        }
    }
}
