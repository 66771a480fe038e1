//! The calls on tags.

use super::State;
use super::select::{CallSpec, Filters, Page, one};
use super::spot;
use super::tags::{self, Tags, done, kind, read};
use crate::ids::{
    Id as _, ImageId, InstanceId, InterfaceId, SecurityGroupId, SnapshotId, SubnetId, TemplateId,
    VolumeId,
};
use crate::wire::{ApiError, Params, Xml};

/// AWS's limit.
const MOST_TAGS: usize = 50;

/// CreateTags.
pub(crate) fn create(state: &mut State, params: &Params) -> Result<Xml, ApiError> {
    let ids = resources(state, params)?;
    let tags = read(params)?;
    if tags.is_empty() {
        return Err(ApiError::missing("Tag"));
    }
    for id in &ids {
        let mut all = state.tags.get(id).cloned().unwrap_or_default();
        all.extend(tags.clone());
        if all.keys().filter(|key| !key.starts_with("aws:")).count() > MOST_TAGS {
            return Err(ApiError::new(
                "TagLimitExceeded",
                format!("{id} would have more than {MOST_TAGS} tags"),
            ));
        }
    }
    for id in ids {
        state.tags.update(id, |all| all.extend(tags.clone()));
    }
    Ok(done())
}

/// DeleteTags: a tag with a value only if the value matches; without any tags, all of them.
pub(crate) fn delete(state: &mut State, params: &Params) -> Result<Xml, ApiError> {
    let ids = resources(state, params)?;
    let which = params.structs("Tag");
    for id in ids {
        let Some(tags) = state.tags.get_mut(&id) else {
            continue;
        };
        if which.is_empty() {
            tags.retain(|key, _| key.starts_with("aws:"));
        }
        for tag in &which {
            let key = tag.required("Key")?;
            if tag
                .text("Value")
                .is_none_or(|value| tags.get(key).is_some_and(|has| has == value))
            {
                tags.remove(key);
            }
        }
    }
    Ok(done())
}

pub(super) const TAKES: CallSpec = CallSpec {
    filters: &["key", "resource-id", "resource-type", "value"],
    tags: true,
    ..CallSpec::USUAL
};

/// DescribeTags.
pub(crate) fn describe(state: &State, params: &Params) -> Result<Xml, ApiError> {
    let filters = Filters::read(params, &TAKES)?;
    let mut found = Vec::new();
    for (id, tags) in &state.tags {
        for (key, value) in tags {
            let own = Tags::from([(key.clone(), value.clone())]);
            let passes = filters.pass(Some(&own), |name| match name {
                "key" => one(key),
                "value" => one(value),
                "resource-id" => one(id),
                "resource-type" => one(kind(id).unwrap_or_default()),
                _ => None,
            })?;
            if passes {
                found.push((format!("{id}/{key}"), (id, key, value)));
            }
        }
    }
    let mut xml = Xml::new();
    Page::read(params, &TAKES)?
        .cut(found)
        .write(&mut xml, "tagSet", |x, (id, key, value)| {
            x.text("key", key)
                .text("resourceId", id)
                .text("resourceType", kind(id).unwrap_or_default())
                .text("value", value);
        });
    Ok(xml)
}

fn resources(state: &State, params: &Params) -> Result<Vec<String>, ApiError> {
    let ids = params.strings("ResourceId");
    if ids.is_empty() {
        return Err(ApiError::missing("ResourceIdSet"));
    }
    for id in &ids {
        state.check_exists(id)?;
    }
    Ok(ids)
}

impl State {
    /// Whether there is such a resource.
    ///
    /// # Errors
    /// The `NotFound` of its kind, or `InvalidID` for an id of no kind.
    pub(crate) fn check_exists(&self, id: &str) -> Result<(), ApiError> {
        match tags::kind(id) {
            Some("image") => self.image(&ImageId::parse(id)?).map(drop),
            Some("instance") => self.instance(&InstanceId::parse(id)?).map(drop),
            Some("snapshot") => self.snapshot(&SnapshotId::parse(id)?).map(drop),
            Some("volume") => self.volume(&VolumeId::parse(id)?).map(drop),
            Some("security-group") => self.group(&SecurityGroupId::parse(id)?).map(drop),
            Some("launch-template") => self.template_by_id(&TemplateId::parse(id)?).map(drop),
            Some("key-pair") if self.keys.values().any(|key| key.id == id) => Ok(()),
            Some("network-interface") => self.interface(&InterfaceId::parse(id)?).map(drop),
            Some(spot::KIND) => self.check_spot_request(id),
            Some("subnet") => self.network.subnet(&SubnetId::parse(id)?).map(drop),
            Some("vpc") if self.network.vpc == id => Ok(()),
            Some(kind) => Err(ApiError::new(
                "InvalidID",
                format!("The {kind} '{id}' does not exist"),
            )),
            None => Err(ApiError::new(
                "InvalidID",
                format!("The ID '{id}' is not valid"),
            )),
        }
    }
}
