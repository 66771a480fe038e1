//! Candidates: names that are kept, for the clients of the candidate service. Off unless set.
//!
//! Owns what a place of candidates can do; the HTTP contract is in `api/candidates.rs`.

mod dynamodb;

use async_trait::async_trait;

pub use dynamodb::DynamoDbCandidates;

/// A place that keeps candidates.
#[async_trait]
pub trait Candidates: Send + Sync {
    /// Keeps the name; one that is there already stays there once.
    async fn put(&self, name: &str) -> anyhow::Result<()>;

    /// Whether the name is kept.
    async fn has(&self, name: &str) -> anyhow::Result<bool>;

    /// The first [`PAGE`] names at most, or those that come after a page's `next`; in no promised order.
    async fn page(&self, after: Option<&str>) -> anyhow::Result<Names>;
}

/// Names of a page, at most. Names have up to 2 KiB: what a reader of the list holds in memory is a page, however
/// many there are and however slowly they are read.
pub const PAGE: usize = 64;

/// A page of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The names.
    pub names: Vec<String>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<String>,
}

impl Names {
    /// The page that begins `names`, which has one more than fits when there is another page.
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
