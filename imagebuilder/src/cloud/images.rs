//! AMIs and their snapshots.

use async_trait::async_trait;

use super::{Answer, Tags};
use crate::ids::{AccountId, ImageId, SnapshotId};

/// Which images are meant: EC2's own owners and filters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Search {
    /// Account ids, `self` or `amazon`; nobody's in particular when empty.
    pub(crate) owners: Vec<String>,
    /// Filter names and values, as EC2 spells them.
    pub(crate) filters: Vec<(String, Vec<String>)>,
}

impl Search {
    /// Our own images that carry a tag.
    pub(crate) fn own_tagged(key: &str, value: &str) -> Self {
        Self {
            owners: vec!["self".into()],
            filters: vec![(format!("tag:{key}"), vec![value.into()])],
        }
    }

    /// Narrows the search.
    #[must_use]
    pub(crate) fn and(mut self, filter: &str, value: impl Into<String>) -> Self {
        self.filters.push((filter.into(), vec![value.into()]));
        self
    }
}

/// What state an image is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ImageState {
    /// Being made.
    Pending,
    /// Can be launched.
    Available,
    /// Anything else, in EC2's words: failed, error, deregistered…
    Other(String),
}

/// An AMI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// Its id.
    pub(crate) id: ImageId,
    /// Its name.
    pub(crate) name: String,
    /// When it was made, in EC2's own text form: RFC 3339, so text order is time order.
    pub(crate) created: String,
    /// Its state.
    pub(crate) state: ImageState,
    /// Its architecture.
    pub(crate) architecture: String,
    /// Its owner's account.
    pub(crate) owner: String,
    /// The snapshots behind it.
    pub(crate) snapshots: Vec<SnapshotId>,
    /// Its tags.
    pub(crate) tags: Tags,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Its id.
    pub(crate) id: SnapshotId,
    /// EC2's description; CreateImage writes the image's id into it.
    pub(crate) description: String,
    /// Its tags.
    pub(crate) tags: Tags,
}

/// AMIs and snapshots.
#[async_trait]
pub(crate) trait Images: Send + Sync {
    /// All images a search finds, in no order.
    async fn search(&self, search: &Search) -> Answer<Vec<Image>>;
    /// One image; `None` when there is none.
    async fn image(&self, id: &ImageId) -> Answer<Option<Image>>;
    /// Adds tags to images and snapshots.
    async fn tag(&self, ids: &[String], tags: &Tags) -> Answer<()>;
    /// Lets accounts launch an image and read its snapshots.
    async fn share(&self, image: &Image, accounts: &[AccountId]) -> Answer<()>;
    /// The accounts that may launch an image.
    async fn shared_with(&self, id: &ImageId) -> Answer<Vec<AccountId>>;
    /// Removes an image; its snapshots stay.
    async fn deregister(&self, id: &ImageId) -> Answer<()>;
    /// Our own snapshots that carry a tag; with no value, whatever its value.
    async fn snapshots_tagged(&self, key: &str, value: Option<&str>) -> Answer<Vec<Snapshot>>;
    /// Our own snapshots that CreateImage made for an image, tagged or not.
    async fn snapshots_for(&self, image: &ImageId) -> Answer<Vec<Snapshot>>;
    /// Removes a snapshot.
    async fn delete_snapshot(&self, id: &SnapshotId) -> Answer<()>;
}
