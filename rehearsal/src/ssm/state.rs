//! Parameters with their versions, and how they are written and read back.

use std::collections::BTreeMap;

use anyhow::Context as _;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::errors::not_found;
use super::names;
use crate::ids::ParameterName;
use crate::table::{self, Changes, Series, Table, place};
use crate::wire::ApiError;

/// The state of Parameter Store.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Parameters by name.
    pub(super) parameters: Table<ParameterName, Parameter>,
    /// Writes of images that are being validated, oldest first.
    pub(super) awaited: Vec<Awaited>,
}

impl State {
    /// What changed since `before`.
    pub(crate) fn changes(&self, before: &Self, changes: &mut Changes) {
        for (name, was, now) in before.parameters.changes(&self.parameters) {
            let earlier = |parameter: Option<&Parameter>| {
                parameter.map_or_else(Series::default, |parameter| parameter.earlier.clone())
            };
            changes.put("ssm.parameters", name.to_string(), now);
            changes.series("ssm.versions", name, &earlier(was), &earlier(now));
        }
        changes.single("ssm.awaited", &before.awaited, &self.awaited);
    }

    /// Reads a row back; returns whether it is one of Parameter Store's.
    ///
    /// # Errors
    /// When it was written by another release.
    pub(crate) fn restore(&mut self, table: &str, key: &str, value: &[u8]) -> anyhow::Result<bool> {
        match table {
            "ssm.parameters" => {
                drop(
                    self.parameters
                        .insert(ParameterName::new(key), table::read(value)?),
                );
            }
            "ssm.versions" => {
                let (name, place) = place(key)?;
                let parameter = self.parameters.get_mut(name);
                let parameter = parameter.context("a version without its parameter")?;
                parameter.earlier.put(place, table::read(value)?);
            }
            "ssm.awaited" => self.awaited = table::read(value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// A parameter with its versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Parameter {
    pub(super) kind: Kind,
    /// The current version.
    pub(super) current: Version,
    /// Earlier versions, oldest first.
    #[serde(skip)]
    pub(super) earlier: Series<Version>,
    pub(super) tags: BTreeMap<String, String>,
}

/// The version that one PutParameter wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Version {
    pub(super) number: u64,
    pub(super) value: String,
    pub(super) modified: Timestamp,
    pub(super) description: Option<String>,
    pub(super) key_id: Option<String>,
    pub(super) tier: Tier,
    pub(super) data_type: DataType,
}

/// A write that waits for its image to be validated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Awaited {
    pub(super) name: ParameterName,
    pub(super) version: Version,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) due: Timestamp,
}

/// A parameter's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    String,
    StringList,
    SecureString,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::String => "String",
            Self::StringList => "StringList",
            Self::SecureString => "SecureString",
        }
    }
}

/// How large a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Tier {
    Standard,
    Advanced,
}

impl Tier {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "Standard",
            Self::Advanced => "Advanced",
        }
    }
}

/// The meaning of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum DataType {
    Text,
    Image,
}

impl DataType {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Image => "aws:ec2:image",
        }
    }
}

impl State {
    /// The parameter of that name; ARNs and an extra leading slash are accepted as well.
    pub(super) fn find(&self, name: &str) -> Result<(&str, &Parameter), ApiError> {
        self.parameters
            .get_key_value(names::bare(name))
            .map(|(name, parameter)| (name.as_str(), parameter))
            .ok_or_else(not_found)
    }
}
