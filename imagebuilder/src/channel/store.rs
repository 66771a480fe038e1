//! The storage of a repository's files, with only the operations that the order of writes needs.
//!
//! Only `timestamp.json` is ever changed in place, and only by a publisher who has read its current content: so a
//! reader finds a consistent repository at every moment, and of two publishers the second one gets an error.

use async_trait::async_trait;
use bytes::Bytes;

/// What distinguishes one content of a file from another: the service's ETag, or a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tag(pub(crate) String);

/// A file that was read.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// Its content.
    pub(crate) bytes: Bytes,
    /// Which content it is.
    pub(crate) tag: Tag,
}

/// How a write that must not overwrite ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Written {
    /// The file was written.
    Done,
    /// The file exists already: nothing was changed.
    Occupied,
}

/// How long readers and caches may keep a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Its name includes its digest: for ever.
    Forever,
    /// Revalidated every time.
    Never,
}

impl Keep {
    /// The `Cache-Control` header, RFC 9111 section 5.2.2 and RFC 8246.
    pub(crate) fn header(self) -> &'static str {
        match self {
            Self::Forever => "public, max-age=31536000, immutable",
            Self::Never => "no-cache",
        }
    }
}

/// A repository's files by their path below its root, such as `metadata/1.root.json`.
#[async_trait]
pub(crate) trait Store: Send + Sync {
    /// A file, `None` when there is none. One longer than `most` bytes is an error.
    async fn read(&self, path: &str, most: u64) -> anyhow::Result<Option<Found>>;

    /// Writes a file that must not exist yet, durably and atomically.
    async fn create(&self, path: &str, bytes: Bytes, keep: Keep) -> anyhow::Result<Written>;

    /// Replaces the content that `was` identifies, durably and atomically.
    async fn replace(
        &self,
        path: &str,
        bytes: Bytes,
        keep: Keep,
        was: &Tag,
    ) -> anyhow::Result<Written>;
}

/// Creates a file, or finds it with the same content: an interrupted run wrote it.
///
/// # Errors
/// When it cannot be written or read.
pub(crate) async fn settle(
    store: &dyn Store,
    path: &str,
    bytes: &Bytes,
) -> anyhow::Result<Written> {
    if store.create(path, bytes.clone(), Keep::Forever).await? == Written::Done {
        return Ok(Written::Done);
    }
    let there = store.read(path, bytes.len() as u64).await;
    // A longer file is not ours.
    Ok(match there {
        Ok(Some(found)) if found.bytes == bytes => Written::Done,
        Ok(_) => Written::Occupied,
        Err(error) if error.is::<TooLong>() => Written::Occupied,
        Err(error) => return Err(error),
    })
}

/// A file that is longer than it may be.
#[derive(Debug)]
pub(crate) struct TooLong {
    /// Which.
    pub(crate) path: String,
    /// Bytes it may have.
    pub(crate) most: u64,
}

impl std::fmt::Display for TooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is longer than {} bytes", self.path, self.most)
    }
}

impl std::error::Error for TooLong {}
