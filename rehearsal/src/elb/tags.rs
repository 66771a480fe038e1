//! Tags on target groups, load balancers and listeners.

use std::collections::BTreeMap;

use super::call::{Call, need};
use super::state::State;
use crate::wire::{ApiError, Params, Xml};

/// AWS's limit for one resource.
const MOST: usize = 50;
/// How many resources one DescribeTags may name.
const MOST_RESOURCES: usize = 20;

/// Reads `Tags.member.N.Key` and `.Value`.
pub(super) fn read(params: &Params) -> Result<BTreeMap<String, String>, ApiError> {
    let mut tags = BTreeMap::new();
    for tag in params.structs("Tags") {
        let key = need(&tag, "Key")?.to_owned();
        if key.to_ascii_lowercase().starts_with("aws:") {
            return Err(ApiError::validation(format!(
                "Tag key '{key}' cannot start with 'aws:'"
            )));
        }
        if tags
            .insert(key.clone(), tag.string("Value").unwrap_or_default())
            .is_some()
        {
            return Err(ApiError::new(
                "DuplicateTagKeys",
                format!("Tag key '{key}' is specified more than once"),
            ));
        }
    }
    if tags.len() > MOST {
        return Err(too_many());
    }
    Ok(tags)
}

fn too_many() -> ApiError {
    ApiError::new("TooManyTags", "The maximum number of tags has been reached")
}

/// The resources that a request names, which must all exist.
fn named(state: &State, params: &Params) -> Result<Vec<String>, ApiError> {
    let arns = params.strings("ResourceArns");
    if arns.is_empty() {
        return Err(ApiError::validation(
            "A value for ResourceArns must be specified",
        ));
    }
    for arn in &arns {
        let (code, what, there) = if arn.contains(":targetgroup/") {
            (
                "TargetGroupNotFound",
                "Target groups",
                state.groups.contains_key(arn.as_str()),
            )
        } else if arn.contains(":listener/") {
            (
                "ListenerNotFound",
                "Listeners",
                state.listeners.contains_key(arn.as_str()),
            )
        } else if arn.contains(":loadbalancer/") {
            (
                "LoadBalancerNotFound",
                "Load balancers",
                state.balancers.contains_key(arn.as_str()),
            )
        } else {
            return Err(ApiError::validation(format!("'{arn}' is not a valid ARN")));
        };
        if !there {
            return Err(ApiError::new(code, format!("{what} '[{arn}]' not found")));
        }
    }
    Ok(arns)
}

pub(super) fn add(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let arns = named(call.state, call.params)?;
    let tags = read(call.params)?;
    let all = &mut call.state.tags;
    let count = |there: &BTreeMap<String, String>| {
        there.len() + tags.keys().filter(|key| !there.contains_key(*key)).count()
    };
    if arns
        .iter()
        .filter_map(|arn| all.get(arn))
        .any(|there| count(there) > MOST)
    {
        return Err(too_many());
    }
    for arn in arns {
        all.update(arn, |all| all.extend(tags.clone()));
    }
    Ok(Xml::new())
}

pub(super) fn remove(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let arns = named(call.state, call.params)?;
    let keys = call.params.list("TagKeys");
    for arn in arns {
        let tags = &mut call.state.tags;
        tags.update(arn, |tags| {
            tags.retain(|key, _| !keys.contains(&key.as_str()));
        });
    }
    Ok(Xml::new())
}

pub(super) fn describe(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let arns = named(call.state, call.params)?;
    if arns.len() > MOST_RESOURCES {
        return Err(ApiError::validation(format!(
            "Only '{MOST_RESOURCES}' resources can be described at once"
        )));
    }
    let state = &*call.state;
    let mut xml = Xml::new();
    xml.list("TagDescriptions", "member", arns, |x, arn| {
        x.text("ResourceArn", &arn);
        let tags = state.tags.get(&arn).into_iter().flatten();
        x.list("Tags", "member", tags, |x, (key, value)| {
            x.text("Key", key).text("Value", value);
        });
    });
    Ok(xml)
}
