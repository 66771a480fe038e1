//! Launch templates and their versions.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Answer, Owned};
use crate::ids::ImageId;

/// A launch-template version as a group has it saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SavedVersion {
    /// A number: the only form a refresh can return to.
    Number(u64),
    /// `$Latest`.
    Latest,
    /// `$Default`.
    Default,
}

impl SavedVersion {
    /// Reads AWS's text; `None` when it is neither a number nor an alias.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "$Latest" => Some(Self::Latest),
            "$Default" => Some(Self::Default),
            number => number.parse().ok().map(Self::Number),
        }
    }
}

impl fmt::Display for SavedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Latest => f.write_str("$Latest"),
            Self::Default => f.write_str("$Default"),
        }
    }
}

/// One version of a launch template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateVersion {
    /// Its number.
    pub number: u64,
    /// What it launches.
    pub image: TemplateImage,
    /// Its instance type, if it has one.
    pub instance_type: Option<String>,
    /// Its description; those of versions that rolls make begin with `OURS`.
    pub description: String,
    /// A fingerprint of all its data except the image: two versions with the same shape differ in
    /// nothing but the image.
    pub shape: String,
}

/// The image field of a launch-template version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateImage {
    /// A literal AMI id.
    Literal(ImageId),
    /// `resolve:ssm:…`, resolved by EC2 at every launch.
    Alias(String),
    /// Nothing at all.
    Missing,
}

impl TemplateImage {
    /// The literal id, if it is one.
    pub fn literal(&self) -> Option<&ImageId> {
        match self {
            Self::Literal(image) => Some(image),
            Self::Alias(_) | Self::Missing => None,
        }
    }
}

impl fmt::Display for TemplateImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(image) => image.fmt(f),
            Self::Alias(alias) => f.write_str(alias),
            Self::Missing => f.write_str("no image"),
        }
    }
}

/// A launch-template version by its number. EC2 never reuses a number, so it always means the same version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TemplateRef {
    /// `lt-…`.
    pub id: String,
    /// The number.
    pub version: u64,
}

impl fmt::Display for TemplateRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "version {} of launch template {}", self.version, self.id)
    }
}

/// A launch template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// Every version that still exists, oldest first.
    pub versions: Vec<TemplateVersion>,
    /// The number of `$Latest`.
    pub latest: u64,
    /// The number of `$Default`.
    pub default: u64,
}

/// A version to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewVersion {
    /// `lt-…`.
    pub template_id: String,
    /// The version it is made from.
    pub source: u64,
    /// Its image, the only difference.
    pub image: ImageId,
    /// Its description.
    pub description: String,
    /// The client token: a repeated call makes no second version.
    pub token: String,
}

/// Launch templates.
#[async_trait]
pub trait LaunchTemplates: Send + Sync {
    /// A template with all its versions; `None` when there is none.
    async fn template(&self, id: &str) -> Answer<Option<Template>>;
    /// Makes a version.
    async fn make_version(&self, version: &NewVersion) -> Answer<Owned<TemplateRef>>;
    /// Deletes a version; not an error when it is deleted already.
    async fn delete_version(&self, version: &Owned<TemplateRef>) -> Answer<()>;
}
