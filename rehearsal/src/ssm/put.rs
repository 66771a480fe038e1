//! Writing and deleting parameters.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::Call;
use super::errors::{constraint, invalid, left_out, not_found};
use super::names;
use super::state::{Awaited, DataType, Kind, Parameter, State, Tier, Version};
use super::tags::{Tag, checked};
use crate::ids::ParameterName;
use crate::table::Series;
use crate::wire::ApiError;

/// How long the validation of an `aws:ec2:image` takes; on AWS it takes seconds as well.
pub(super) const VALIDATION: SignedDuration = SignedDuration::from_secs(1);

/// Bytes in a value of the standard tier.
const STANDARD: usize = 4096;
/// Bytes in a value of the advanced tier.
const ADVANCED: usize = 8192;
/// How many versions AWS keeps; then the oldest is removed.
const HISTORY: usize = 100;
/// How many names one call may have.
pub(super) const MOST_NAMES: usize = 10;
/// The key that encrypts a SecureString when none is named.
const USUAL_KEY: &str = "alias/aws/ssm";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Put {
    name: String,
    value: String,
    description: Option<String>,
    r#type: Option<String>,
    key_id: Option<String>,
    #[serde(default)]
    overwrite: bool,
    allowed_pattern: Option<String>,
    #[serde(default)]
    tags: Vec<Tag>,
    tier: Option<String>,
    policies: Option<String>,
    data_type: Option<String>,
}

pub(super) fn put(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let put: Put = call.read()?;
    let name = names::parse(&put.name)?;
    if put
        .allowed_pattern
        .is_some_and(|pattern| !pattern.is_empty())
    {
        return Err(left_out("AllowedPattern"));
    }
    if put.policies.is_some_and(|policies| !policies.is_empty()) {
        return Err(left_out("Policies"));
    }
    if put.overwrite && !put.tags.is_empty() {
        return Err(invalid(
            "Invalid request: tags and overwrite can't be used together. To create a parameter with tags, please remove \
             overwrite flag. To update tags for an existing parameter, please use AddTagsToResource or \
             RemoveTagsFromResource.",
        ));
    }
    let tags = checked(put.tags, &BTreeMap::new())?;
    let there = call.state.parameters.get(&name);
    if there.is_some() && !put.overwrite {
        return Err(ApiError::new(
            "ParameterAlreadyExists",
            "The parameter already exists. To overwrite this value, set the overwrite option in the request to true.",
        ));
    }
    let kind = kind(put.r#type.as_deref(), there)?;
    check_value(&put.value)?;
    let data_type = data_type(put.data_type.as_deref(), kind, &put.value)?;
    let tier = tier(put.tier.as_deref(), there, put.value.len())?;
    let key_id = match (kind, put.key_id) {
        (Kind::SecureString, key) => Some(key.unwrap_or_else(|| USUAL_KEY.to_owned())),
        (_, None) => None,
        (_, Some(_)) => {
            return Err(invalid(
                "KeyId is only for parameters of type SecureString.",
            ));
        }
    };
    // Writes that are being validated have their version numbers already.
    let awaited = call.state.awaited.iter().filter(|a| a.name == name);
    let before = there.map_or(0, |parameter| parameter.current.number);
    let number = awaited.map(|a| a.version.number).fold(before, u64::max) + 1;
    let version = Version {
        number,
        value: put.value,
        modified: call.now,
        description: put.description,
        key_id,
        tier,
        data_type,
    };
    match data_type {
        DataType::Text => call.state.write(&name, kind, version, tags),
        DataType::Image => call.state.awaited.push(Awaited {
            name,
            version,
            tags,
            due: call.now + VALIDATION,
        }),
    }
    Ok(json!({ "Version": number, "Tier": tier.as_str() }))
}

fn kind(asked: Option<&str>, there: Option<&Parameter>) -> Result<Kind, ApiError> {
    let asked = match asked {
        None => None,
        Some("String") => Some(Kind::String),
        Some("StringList") => Some(Kind::StringList),
        Some("SecureString") => Some(Kind::SecureString),
        Some(kind) => {
            return Err(constraint(
                kind,
                "type",
                "satisfy enum value set: [SecureString, StringList, String]",
            ));
        }
    };
    match (asked, there.map(|parameter| parameter.kind)) {
        (None, None) => Err(invalid(
            "A parameter type is required when you create a parameter.",
        )),
        (Some(asked), Some(there)) if asked != there => Err(ApiError::new(
            "HierarchyTypeMismatchException",
            format!(
                "The parameter is of type {}; a parameter's type cannot be changed.",
                there.as_str()
            ),
        )),
        (Some(kind), _) | (None, Some(kind)) => Ok(kind),
    }
}

fn check_value(value: &str) -> Result<(), ApiError> {
    if value.is_empty() {
        return Err(constraint(
            "",
            "value",
            "have length greater than or equal to 1",
        ));
    }
    let nests = value
        .split_once("{{")
        .is_some_and(|(_, rest)| rest.contains("}}"));
    if nests {
        return Err(invalid(
            "Parameter value can't nest another parameter. Do not use \"{{}}\" in the value.",
        ));
    }
    Ok(())
}

fn data_type(asked: Option<&str>, kind: Kind, value: &str) -> Result<DataType, ApiError> {
    match asked.unwrap_or("text") {
        "text" => Ok(DataType::Text),
        "aws:ec2:image" => {
            if kind != Kind::String {
                return Err(invalid(
                    "The data type aws:ec2:image is only for parameters of type String.",
                ));
            }
            if !is_image_id(value) {
                return Err(invalid(format!(
                    "The parameter value '{value}' is not a valid value for the data type aws:ec2:image."
                )));
            }
            Ok(DataType::Image)
        }
        "aws:ssm:integration" => Err(left_out("The data type aws:ssm:integration")),
        other => Err(invalid(format!(
            "The following data type is not supported: {other} (Data type names are all lowercase.)"
        ))),
    }
}

/// `ami-` and 8 or 17 hex digits.
fn is_image_id(value: &str) -> bool {
    value.strip_prefix("ami-").is_some_and(|digits| {
        [8, 17].contains(&digits.len())
            && digits
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

fn tier(asked: Option<&str>, there: Option<&Parameter>, size: usize) -> Result<Tier, ApiError> {
    let was = there.map_or(Tier::Standard, |parameter| parameter.current.tier);
    let tier = match asked {
        None => was,
        Some("Standard") if was == Tier::Advanced => {
            return Err(invalid(
                "This parameter uses the advanced-parameter tier. You can't downgrade a parameter from the \
                 advanced-parameter tier to the standard-parameter tier.",
            ));
        }
        Some("Standard") => Tier::Standard,
        Some("Advanced") => Tier::Advanced,
        Some("Intelligent-Tiering") if size > STANDARD => Tier::Advanced,
        Some("Intelligent-Tiering") => was,
        Some(tier) => {
            return Err(constraint(
                tier,
                "tier",
                "satisfy enum value set: [Advanced, Intelligent-Tiering, Standard]",
            ));
        }
    };
    match tier {
        Tier::Standard if size > STANDARD => Err(invalid(format!(
            "Standard tier parameters support a maximum parameter value of {STANDARD} characters. To create a larger \
             parameter value, upgrade the parameter to use the advanced-parameter tier."
        ))),
        Tier::Advanced if size > ADVANCED => Err(invalid(format!(
            "Advanced tier parameters support a maximum parameter value of {ADVANCED} characters."
        ))),
        tier => Ok(tier),
    }
}

impl State {
    /// Makes `version` the current one, with a new number, because an earlier write may have been dropped.
    pub(super) fn write(
        &mut self,
        name: &ParameterName,
        kind: Kind,
        version: Version,
        tags: BTreeMap<String, String>,
    ) {
        match self.parameters.get_mut(name) {
            Some(parameter) => {
                let number = parameter.current.number + 1;
                let description = version
                    .description
                    .or_else(|| parameter.current.description.clone());
                let version = Version {
                    number,
                    description,
                    ..version
                };
                parameter
                    .earlier
                    .push(std::mem::replace(&mut parameter.current, version));
                if parameter.earlier.len() >= HISTORY {
                    parameter.earlier.forget_first(1);
                }
            }
            None => {
                let parameter = Parameter {
                    kind,
                    current: Version {
                        number: 1,
                        ..version
                    },
                    earlier: Series::default(),
                    tags,
                };
                self.parameters.insert(name.clone(), parameter);
            }
        }
    }

    /// Removes a parameter and its writes that are being validated.
    fn forget(&mut self, name: &str) -> bool {
        let name = names::bare(name);
        self.awaited.retain(|awaited| awaited.name != name);
        self.parameters.remove(name).is_some()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Delete {
    name: String,
}

pub(super) fn delete(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let Delete { name } = call.read()?;
    if call.state.forget(&name) {
        Ok(json!({}))
    } else {
        Err(not_found())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DeleteSeveral {
    names: Vec<String>,
}

pub(super) fn delete_several(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let DeleteSeveral { names } = call.read()?;
    check_names(&names)?;
    let (deleted, invalid): (Vec<_>, Vec<_>) =
        names.into_iter().partition(|name| call.state.forget(name));
    Ok(json!({ "DeletedParameters": deleted, "InvalidParameters": invalid }))
}

/// One to ten names.
pub(super) fn check_names(names: &[String]) -> Result<(), ApiError> {
    let shown = || format!("[{}]", names.join(", "));
    if names.is_empty() {
        return Err(constraint(
            shown(),
            "names",
            "have length greater than or equal to 1",
        ));
    }
    if names.len() > MOST_NAMES {
        let bound = format!("have length less than or equal to {MOST_NAMES}");
        return Err(constraint(shown(), "names", &bound));
    }
    Ok(())
}
