//! AMIs and their snapshots.

use async_trait::async_trait;

use super::{Answer, Owned, Tags};
use crate::ids::{AccountId, ImageId, InstanceId, SnapshotId, VolumeId};

/// A search for images, by EC2's owners and filters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// Account ids, `self` or `amazon`; any owner when empty.
    pub owners: Vec<String>,
    /// Filter names and values, as EC2 spells them.
    pub filters: Vec<(String, Vec<String>)>,
    /// Whether deprecated and disabled images of other accounts are found too, as `IncludeDeprecated` and `IncludeDisabled`.
    pub withdrawn: bool,
}

impl Search {
    /// This account's images that carry a tag.
    pub fn own_tagged(key: &str, value: &str) -> Self {
        Self {
            owners: vec!["self".into()],
            filters: vec![(format!("tag:{key}"), vec![value.into()])],
            ..Self::default()
        }
    }

    /// This account's images that carry the tag of any run.
    pub fn of_any_run() -> Self {
        Self {
            owners: vec!["self".into()],
            filters: vec![("tag-key".into(), vec![contract::tags::RUN.into()])],
            ..Self::default()
        }
    }

    /// This account's images that CreateImage made from one of these instances.
    pub fn made_from(instances: &[InstanceId]) -> Self {
        Self {
            owners: vec!["self".into()],
            filters: vec![(
                "source-instance-id".into(),
                instances.iter().map(ToString::to_string).collect(),
            )],
            ..Self::default()
        }
    }

    /// Narrows the search.
    #[must_use]
    pub fn and(mut self, filter: &str, value: impl Into<String>) -> Self {
        self.filters.push((filter.into(), vec![value.into()]));
        self
    }
}

/// The state of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageState {
    /// Being made.
    Pending,
    /// Can be launched.
    Available,
    /// Any other state, as EC2 names it: failed, error, deregistered…
    Other(String),
}

/// An EBS volume of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its device name, such as `/dev/xvda`.
    pub device: String,
    /// Its size in GiB: at least its snapshot's.
    pub size_gib: u32,
    /// Its volume type, such as `gp3`.
    pub kind: String,
}

/// An AMI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its id.
    pub id: ImageId,
    /// Its name.
    pub name: String,
    /// When it was made, in EC2's own text form: RFC 3339, so text order is time order.
    pub created: String,
    /// Its state.
    pub state: ImageState,
    /// Its architecture.
    pub architecture: String,
    /// Its owner's account.
    pub owner: String,
    /// The instance it was made from; EC2 shows it for its own CreateImage only.
    pub source_instance: Option<InstanceId>,
    /// Its EBS volumes.
    pub disks: Vec<Disk>,
    /// The device that it boots from, such as `/dev/xvda`.
    pub root_device: String,
    /// Whether that is an EBS volume.
    pub root_on_ebs: bool,
    /// `uefi`, `uefi-preferred` or `legacy-bios`; none when it has the default of the instance's type.
    pub boot_mode: Option<String>,
    /// Whether its instances require IMDSv2 by default (`imdsSupport` is `v2.0`).
    pub requires_tokens: bool,
    /// From when on it is deprecated, in EC2's own text form.
    pub deprecated: Option<String>,
    /// The snapshots behind it.
    pub snapshots: Vec<SnapshotId>,
    /// Its tags.
    pub tags: Tags,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its id.
    pub id: SnapshotId,
    /// EC2's description; that of CreateImage's begins with `Created by CreateImage(i-…)`.
    pub description: String,
    /// The volume it was taken of; a copy has none (EC2 shows `vol-ffffffff`).
    pub volume: Option<VolumeId>,
    /// Its tags.
    pub tags: Tags,
}

/// AMIs and snapshots.
#[async_trait]
pub trait Images: Send + Sync {
    /// All images a search finds, in no order.
    async fn search(&self, search: &Search) -> Answer<Vec<Image>>;
    /// One image; `None` when there is none.
    async fn image(&self, id: &ImageId) -> Answer<Option<Image>>;
    /// Adds tags to images and snapshots.
    async fn tag(&self, ids: &[Owned<String>], tags: &Tags) -> Answer<()>;
    /// Allows accounts to launch an image and read its snapshots.
    async fn share(&self, image: &Image, accounts: &[AccountId]) -> Answer<()>;
    /// Has the instances of an image require IMDSv2 by default. It cannot be undone.
    async fn require_tokens(&self, id: &Owned<ImageId>) -> Answer<()>;
    /// The accounts that may launch an image.
    async fn shared_with(&self, id: &ImageId) -> Answer<Vec<AccountId>>;
    /// Removes an image; its snapshots stay.
    async fn deregister(&self, id: &Owned<ImageId>) -> Answer<()>;
    /// This account's snapshots that carry a tag; with no value, whatever its value.
    async fn snapshots_tagged(&self, key: &str, value: Option<&str>) -> Answer<Vec<Snapshot>>;
    /// This account's snapshots of one of these volumes, tagged or not.
    async fn snapshots_of(&self, volumes: &[VolumeId]) -> Answer<Vec<Snapshot>>;
    /// Removes a snapshot.
    async fn delete_snapshot(&self, id: &Owned<SnapshotId>) -> Answer<()>;
}
