//! `[image.source]`: which AMI an image is built from.

use std::fmt;

use serde::Deserialize;

use super::Owner;
use cloud::ids::ImageId;

/// `[image.source]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Keys")]
pub(crate) struct Source {
    /// How it is named.
    pub(crate) by: By,
    /// Whether a deprecated image is taken.
    pub(crate) deprecated: bool,
}

/// How the source image is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The newest image of these owners with a matching name.
    Name {
        /// Whose images may be taken. Required: any account may give its image a name.
        owners: Vec<Owner>,
        /// A glob over image names.
        name: String,
    },
    /// By its id.
    Id(ImageId),
    /// By a parameter of Systems Manager whose value is its id.
    Parameter(ParameterName),
}

/// The keys as they are written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    owners: Option<Vec<Owner>>,
    name: Option<String>,
    id: Option<ImageId>,
    ssm_parameter: Option<ParameterName>,
    #[serde(default)]
    deprecated: bool,
}

impl TryFrom<Keys> for Source {
    type Error = String;

    fn try_from(keys: Keys) -> Result<Self, String> {
        const ONE: &str =
            "exactly one of `owners` with `name`, `id` or `ssm_parameter` names the source image";
        let deprecated = keys.deprecated;
        let by = match (keys.owners, keys.name, keys.id, keys.ssm_parameter) {
            (None, None, Some(id), None) => By::Id(id),
            (None, None, None, Some(parameter)) => By::Parameter(parameter),
            (Some(owners), Some(name), None, None) => named(owners, name)?,
            (None, Some(_), None, None) => {
                return Err(
                    "[image.source] name needs owners: any account may give an image that name"
                        .to_owned(),
                );
            }
            (Some(_), None, None, None) => {
                return Err(
                    "[image.source] owners needs name, a pattern such as `debian-13-amd64-*`"
                        .to_owned(),
                );
            }
            (None, None, None, None) => return Err(format!("[image.source] is empty: {ONE}")),
            (owners, name, id, parameter) => {
                let given = [
                    ("owners", owners.is_some()),
                    ("name", name.is_some()),
                    ("id", id.is_some()),
                    ("ssm_parameter", parameter.is_some()),
                ];
                let given: Vec<&str> = given
                    .into_iter()
                    .filter_map(|(key, is)| is.then_some(key))
                    .collect();
                return Err(format!("[image.source] has {}: {ONE}", given.join(", ")));
            }
        };
        Ok(Self { by, deprecated })
    }
}

fn named(owners: Vec<Owner>, name: String) -> Result<By, String> {
    let empty: Vec<&str> = [
        (
            owners.is_empty(),
            "[image.source] owners is empty: any account may give an image that name",
        ),
        (
            name.is_empty(),
            "[image.source] name is empty: it is a pattern such as `debian-13-amd64-*`",
        ),
    ]
    .into_iter()
    .filter_map(|(wrong, what)| wrong.then_some(what))
    .collect();
    if empty.is_empty() {
        Ok(By::Name { owners, name })
    } else {
        Err(empty.join("\n"))
    }
}

impl Source {
    /// The parameter that names it, where one does.
    pub(crate) fn parameter(&self) -> Option<&str> {
        match &self.by {
            By::Parameter(name) => Some(name.as_str()),
            By::Name { .. } | By::Id(_) => None,
        }
    }
}

/// A parameter's name or ARN, with `:version` or `:label` where one is meant.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct ParameterName(String);

impl ParameterName {
    /// The name as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ParameterName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "_.-/:".contains(c);
        let qualified = text.starts_with('/') || text.starts_with("arn:") || !text.contains('/');
        if (1..=2048).contains(&text.len()) && text.chars().all(fits) && qualified {
            return Ok(Self(text));
        }
        Err(format!(
            "ssm_parameter `{}` is not the name of a parameter, such as /aws/service/debian/release/13/latest/amd64",
            text.escape_debug()
        ))
    }
}

impl fmt::Display for ParameterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
