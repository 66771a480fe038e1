//! The calls on activities and tags.

use super::super::activities::Activity;
use super::super::groups::{Group, GroupTag, PROCESSES};
use super::call::{Call, find, flag, page};
use super::shapes;
use crate::wire::{ApiError, Params, Xml};

pub(super) fn activities(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let params = call.params;
    let ids = params.strings("ActivityIds");
    let named = params.string("AutoScalingGroupName");
    if let Some(name) = &named {
        find(call.state, name)?;
    }
    let filters = params.structs("Filters");
    let mut found: Vec<(&Group, &Activity)> = call
        .state
        .groups
        .values()
        .filter(|group| {
            named
                .as_ref()
                .is_none_or(|name| group.name == name.as_str() || *name == group.arn)
        })
        .flat_map(|group| group.activity_log.newest_first().map(move |a| (group, a)))
        .filter(|(_, activity)| ids.is_empty() || ids.contains(&activity.id))
        .filter(|(_, activity)| filters.iter().all(|filter| passes(filter, activity)))
        .collect();
    // Newest first; sorting keeps the order of equals within a group.
    found.sort_by_key(|(_, activity)| std::cmp::Reverse(activity.started));
    let (found, next) = page(params, found, 100, 100)?;
    let mut xml = Xml::new();
    xml.list("Activities", "member", found, |x, (group, activity)| {
        shapes::activity(x, group, activity);
    })
    .maybe("NextToken", next);
    Ok(xml)
}

fn passes(filter: &Params, activity: &Activity) -> bool {
    let values = filter.list("Values");
    match filter.text("Name") {
        Some("Status") => values.contains(&activity.status.code()),
        _ => true,
    }
}

/// Reads the tags of a request; each names its group unless `group` does.
pub(super) fn read_tags(
    params: &Params,
    group: Option<&str>,
) -> Result<Vec<(String, String, GroupTag)>, ApiError> {
    params
        .structs("Tags")
        .into_iter()
        .map(|tag| {
            let key = tag
                .string("Key")
                .filter(|key| !key.is_empty())
                .ok_or_else(|| ApiError::validation("A tag needs a Key."))?;
            if let Some(kind) = tag
                .text("ResourceType")
                .filter(|kind| *kind != "auto-scaling-group")
            {
                return Err(ApiError::validation(format!(
                    "'{kind}' is not a valid tag resource type; it must be 'auto-scaling-group'."
                )));
            }
            let owner = group
                .map(str::to_owned)
                .or_else(|| tag.string("ResourceId"))
                .ok_or_else(|| ApiError::validation("A tag needs a ResourceId."))?;
            let value = tag.string("Value").unwrap_or_default();
            let propagate = flag(&tag, "PropagateAtLaunch")?.unwrap_or(false);
            Ok((owner, key, GroupTag { value, propagate }))
        })
        .collect()
}

pub(super) fn put_tags(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let tags = read_tags(call.params, None)?;
    for (owner, _, _) in &tags {
        find(call.state, owner)?;
    }
    for (owner, key, tag) in tags {
        find(call.state, &owner)?.tags.insert(key, tag);
    }
    Ok(Xml::new())
}

pub(super) fn delete_tags(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let tags = read_tags(call.params, None)?;
    for (owner, _, _) in &tags {
        find(call.state, owner)?;
    }
    for (owner, key, _) in tags {
        find(call.state, &owner)?.tags.remove(&key);
    }
    Ok(Xml::new())
}

pub(super) fn tags(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let filters = call.params.structs("Filters");
    let found: Vec<(&str, &str, &GroupTag)> = call
        .state
        .groups
        .values()
        .flat_map(|group| {
            group
                .tags
                .iter()
                .map(move |(key, tag)| (group.name.as_str(), key.as_str(), tag))
        })
        .filter(|(group, key, tag)| {
            filters.iter().all(|filter| {
                let values = filter.list("Values");
                let propagate = if tag.propagate { "true" } else { "false" };
                match filter.text("Name") {
                    Some("auto-scaling-group") => values.contains(group),
                    Some("key") => values.contains(key),
                    Some("value") => values.contains(&tag.value.as_str()),
                    Some("propagate-at-launch") => values.contains(&propagate),
                    _ => true,
                }
            })
        })
        .collect();
    let (found, next) = page(call.params, found, 50, 100)?;
    let mut xml = Xml::new();
    xml.list("Tags", "member", found, |x, (group, key, tag)| {
        shapes::tag(x, group, key, tag);
    })
    .maybe("NextToken", next);
    Ok(xml)
}

pub(super) fn process_types() -> Xml {
    let mut xml = Xml::new();
    xml.list("Processes", "member", PROCESSES, |x, name| {
        x.text("ProcessName", name);
    });
    xml
}
