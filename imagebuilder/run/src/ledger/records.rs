//! What a journal records of a roll and of a bake besides the resources: what a later command needs to resume, roll back or undo.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use cloud::TemplateRef;
use cloud::ids::{Digest, GroupName, ImageId};

/// A launch-template version and the image it carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// `lt-…`.
    pub template_id: String,
    /// The version's number.
    pub version: u64,
    /// The literal image in it.
    pub image: ImageId,
}

impl Target {
    /// The template version without its image.
    pub fn reference(&self) -> TemplateRef {
        TemplateRef {
            id: self.template_id.clone(),
            version: self.version,
        }
    }
}

/// The direction of a roll.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// To a new release: with checkpoints, alarms and tests, and rolled back when it fails.
    Forward,
    /// A rollback: without pauses, and never itself rolled back. The image has served before, so it needs no consent.
    Back,
}

/// A roll: for the `roll watch` or `roll rollback` that finds its run dead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollRecord {
    /// The group that is rolled.
    pub group: GroupName,
    /// Whether the refresh is a roll to a new release or a rollback.
    pub direction: Direction,
    /// The version the group was saved on before the first change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Target>,
    /// The version it replaces the members with; none until that version exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// When StartInstanceRefresh was about to be called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intended: Option<jiff::Timestamp>,
    /// The refresh, once its id was received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<String>,
    /// Why we stopped it, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

/// A bake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BakeRecord {
    /// The digest over all inputs.
    pub digest: Digest,
    /// Each input's own digest by its label, which shows what changed between two bakes.
    pub inputs: BTreeMap<String, Digest>,
    /// The source image; absent in records of earlier releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<ImageId>,
    /// The parameter that named it, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_parameter: Option<String>,
    /// The channel's metadata in the image; none without a channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<ChannelVersions>,
    /// The pointer `candidate` before this run set it, for the undo; none if the run has not set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate_before: Option<Former>,
}

/// A pointer before a run set it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Former {
    /// It did not exist, or contained no image id.
    None,
    /// It pointed at this image.
    Image(ImageId),
}

impl From<Option<ImageId>> for Former {
    fn from(image: Option<ImageId>) -> Self {
        image.map_or(Self::None, Self::Image)
    }
}

impl Former {
    /// The image, if it pointed at one.
    pub fn image(&self) -> Option<&ImageId> {
        match self {
            Self::None => None,
            Self::Image(image) => Some(image),
        }
    }
}

/// The versions of a channel's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChannelVersions {
    /// Of the root of trust.
    pub root: u64,
    /// Of the timestamp.
    pub timestamp: u64,
    /// Of the snapshot.
    pub snapshot: u64,
    /// Of the list of releases.
    pub targets: u64,
}

impl From<[u64; 4]> for ChannelVersions {
    /// In the order of the fields.
    fn from([root, timestamp, snapshot, targets]: [u64; 4]) -> Self {
        Self {
            root,
            timestamp,
            snapshot,
            targets,
        }
    }
}

impl fmt::Display for ChannelVersions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            root,
            timestamp,
            snapshot,
            targets,
        } = self;
        write!(
            f,
            "root {root}, timestamp {timestamp}, snapshot {snapshot}, targets {targets}"
        )
    }
}
