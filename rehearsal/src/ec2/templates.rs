//! Launch templates and their numbered versions.
//!
//! A version keeps its data in the request's flat form, which a launch needs: [`Data::over`] overrides it by a launch
//! request, field by field.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::tags;
use crate::ids::TemplateId;
use crate::wire::{ApiError, Params};

/// A launch template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Template {
    /// Its id.
    pub(crate) id: TemplateId,
    /// Unique.
    pub(crate) name: String,
    /// When it was created.
    pub(crate) created: Timestamp,
    /// The version number of `$Default`.
    pub(crate) default: u64,
    /// The highest number ever assigned; numbers are not reused.
    pub(crate) last: u64,
    /// Versions by number.
    pub(crate) versions: BTreeMap<u64, Version>,
}

/// One version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    /// Free text.
    pub(crate) description: Option<String>,
    /// When it was created.
    pub(crate) created: Timestamp,
    /// Its launch template data.
    pub(crate) data: Data,
}

/// Launch template data, flat as in the request (`BlockDeviceMapping.1.Ebs.VolumeSize`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Data(pub(crate) BTreeMap<String, String>);

impl Data {
    pub(super) fn read(params: &Params) -> Result<Self, ApiError> {
        let data = params.structure("LaunchTemplateData");
        // Checked at creation, as on AWS, not only at the launch.
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

    /// This data with the top-level fields of `newer` in place of its own. As on AWS, lists are replaced as a whole and
    /// not merged item by item.
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
    /// The current number of `version` (a number, `$Latest`, `$Default`).
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
