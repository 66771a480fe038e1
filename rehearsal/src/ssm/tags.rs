//! Tags on parameters.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::call::Call;
use super::errors::invalid;
use super::names;
use super::state::Parameter;
use crate::wire::ApiError;

/// AWS's limit for one parameter.
const MOST: usize = 50;

/// A tag of a request.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Tag {
    key: String,
    value: String,
}

/// The tags `there` with `tags` added, checked against the limit.
pub(super) fn checked(
    tags: Vec<Tag>,
    there: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, ApiError> {
    let mut all = there.clone();
    for tag in tags {
        if tag.key.is_empty() || tag.key.len() > 128 || tag.value.len() > 256 {
            return Err(invalid(format!(
                "The tag '{}' is too long or has no key.",
                tag.key
            )));
        }
        if tag.key.to_ascii_lowercase().starts_with("aws:") {
            return Err(invalid("Tag keys cannot start with 'aws:'."));
        }
        all.insert(tag.key, tag.value);
    }
    if all.len() > MOST {
        return Err(ApiError::new(
            "TooManyTagsError",
            format!("A parameter can have at most {MOST} tags."),
        ));
    }
    Ok(all)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Resource {
    resource_type: String,
    resource_id: String,
}

fn find<'a>(call: &'a mut Call<'_>) -> Result<&'a mut Parameter, ApiError> {
    let resource: Resource = call.read()?;
    if resource.resource_type != "Parameter" {
        return Err(ApiError::new(
            "InvalidResourceType",
            format!(
                "{} is not a resource type of the rehearsal cloud.",
                resource.resource_type
            ),
        ));
    }
    let id = resource.resource_id;
    call.state
        .parameters
        .get_mut(names::bare(&id))
        .ok_or_else(|| {
            ApiError::new(
                "InvalidResourceId",
                format!("The resource ID \"{id}\" is not valid. Verify the ID and try again."),
            )
        })
}

pub(super) fn add(call: &mut Call<'_>) -> Result<Value, ApiError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Add {
        tags: Vec<Tag>,
    }
    let Add { tags } = call.read()?;
    let parameter = find(call)?;
    parameter.tags = checked(tags, &parameter.tags)?;
    Ok(json!({}))
}

pub(super) fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let tags: Vec<Value> = find(call)?
        .tags
        .iter()
        .map(|(key, value)| json!({ "Key": key, "Value": value }))
        .collect();
    Ok(json!({ "TagList": tags }))
}

pub(super) fn remove(call: &mut Call<'_>) -> Result<Value, ApiError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Remove {
        tag_keys: Vec<String>,
    }
    let Remove { tag_keys } = call.read()?;
    find(call)?.tags.retain(|key, _| !tag_keys.contains(key));
    Ok(json!({}))
}
