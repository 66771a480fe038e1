//! Launch templates and their numbered versions.
//!
//! A version keeps what was asked in the request's own flat form, since that is what a launch needs
//! of it: [`Data::over`] lays a launch request over it, field by field.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::tags;
use crate::wire::{ApiError, Params};

/// A launch template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Template {
    /// `lt-…`
    pub(crate) id: String,
    /// Unique.
    pub(crate) name: String,
    /// When it came.
    pub(crate) created: Timestamp,
    /// Which version `$Default` is.
    pub(crate) default: u64,
    /// The highest number ever given; numbers are not used again.
    pub(crate) last: u64,
    /// Versions by number.
    pub(crate) versions: BTreeMap<u64, Version>,
}

/// One version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    /// For people.
    pub(crate) description: Option<String>,
    /// When it came.
    pub(crate) created: Timestamp,
    /// What it launches.
    pub(crate) data: Data,
}

/// Launch template data, flat as in the request (`BlockDeviceMapping.1.Ebs.VolumeSize`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Data(pub(crate) BTreeMap<String, String>);

impl Data {
    pub(super) fn read(params: &Params) -> Result<Self, ApiError> {
        let data = params.structure("LaunchTemplateData");
        // Said at creation, as AWS does, not only at the launch.
        for specification in data.structs("TagSpecification") {
            tags::read(&specification)?;
        }
        if let Some(kind) = data.text("InstanceType") {
            super::instance_types::find(kind)?;
        }
        Ok(Self(
            data.iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        ))
    }

    /// This data with every top-level field that `newer` has replaced by `newer`'s, whole: lists are
    /// not merged item by item, as AWS does not.
    #[must_use]
    pub(crate) fn over(&self, newer: &Self) -> Self {
        let field = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
        let replaced: BTreeSet<String> = newer.0.keys().map(|name| field(name)).collect();
        let mut all = newer.0.clone();
        all.extend(
            self.0
                .iter()
                .filter(|(name, _)| !replaced.contains(&field(name)))
                .map(|(name, value)| (name.clone(), value.clone())),
        );
        Self(all)
    }

    /// One plain field.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl Template {
    /// The number that `version` (a number, `$Latest`, `$Default`) stands for now.
    ///
    /// # Errors
    /// `InvalidLaunchTemplateId.VersionNotFound`.
    pub(crate) fn resolve(&self, version: &str) -> Result<(u64, &Version), ApiError> {
        let number = match version {
            "$Latest" => self.versions.keys().next_back().copied(),
            "$Default" | "" => Some(self.default),
            number => match number.parse() {
                Ok(number) => Some(number),
                Err(_) => {
                    return Err(ApiError::new(
                        "InvalidLaunchTemplateId.VersionNotFound",
                        format!(
                            "Could not find the specified version {version} for the launch template with ID {}.",
                            self.id
                        ),
                    ));
                }
            },
        };
        number.and_then(|number| Some((number, self.versions.get(&number)?))).ok_or_else(|| {
            ApiError::new(
                "InvalidLaunchTemplateId.VersionNotFound",
                format!("Could not find the specified version {version} for the launch template with ID {}.", self.id),
            )
        })
    }
}
