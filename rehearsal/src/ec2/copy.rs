//! CopyImage: a copy of an image, with snapshots of its own.

use std::collections::BTreeSet;

use super::State;
use super::disks::{Snapshot, SnapshotState, Source};
use super::encryption;
use super::image_lifecycle::add;
use super::images::{Image, ImageState};
use super::tags::{self, Tags};
use super::tokens;
use crate::account::{ACCOUNT, REGION};
use crate::ids::{Id as _, ImageId, SnapshotId};
use crate::request::RequestContext;
use crate::wire::{ApiError, Params, Xml};

/// CopyImage within the region, encrypted or not.
pub(crate) fn copy(
    state: &mut State,
    ctx: &RequestContext,
    params: &Params,
) -> Result<Xml, ApiError> {
    let token = params
        .text("ClientToken")
        .map(|token| format!("CopyImage {token}"));
    let asked = tokens::request_parameters(params);
    if let Some(token) = &token
        && let Some(used) = state.tokens.get(token)
    {
        let mut xml = Xml::new();
        xml.maybe("imageId", used.repeat(&asked)?.first());
        return Ok(xml);
    }
    check_places(params)?;
    let name = params.required("Name")?;
    state.check_name(name)?;
    tags::check_kinds(params, &["image", "snapshot"])?;
    let encryption = encryption::Requested::read(params)?;
    let source = available_source(state, params)?;
    let image_tags = image_tags(state, &source, params)?;
    let snapshot_tags = tags::specified(params, "snapshot")?;
    let id = ImageId::fresh();
    let mut mappings = source.mappings.clone();
    for mapping in &mut mappings {
        let Some(from) = &mapping.snapshot else {
            continue;
        };
        let original = state.snapshot(from)?;
        let copy = copy_of(original, &encryption, &id, &source.id, ctx)?;
        mapping.snapshot = Some(copy.id.clone());
        mapping.encrypted = Some(copy.key.is_some());
        state.tag(&copy.id, snapshot_tags.clone());
        state.snapshots.insert(copy.id.clone(), copy);
    }
    let image = Image {
        id,
        name: name.to_owned(),
        description: params.string("Description").unwrap_or_default(),
        owner: ACCOUNT.to_owned(),
        created: ctx.now,
        state: ImageState::Pending,
        mappings,
        shared: BTreeSet::new(),
        source_instance: None,
        source_image: Some(source.id.clone()),
        deprecated: None,
        launched: None,
        ..source
    };
    if let Some(token) = token {
        let used = tokens::UsedToken::new(asked, &[&image.id]);
        state.tokens.insert(token, used);
    }
    Ok(add(state, image, image_tags))
}

/// Refuses other regions, Outposts and Local Zones.
fn check_places(params: &Params) -> Result<(), ApiError> {
    let region = params.required("SourceRegion")?;
    if region != REGION {
        return Err(ApiError::new(
            "UnsupportedOperation",
            format!("images are copied within {REGION} only: there is no region '{region}' here"),
        ));
    }
    for name in [
        "DestinationOutpostArn",
        "DestinationAvailabilityZone",
        "DestinationAvailabilityZoneId",
    ] {
        if params.has(name) {
            return Err(ApiError::new(
                "UnsupportedOperation",
                format!("there are no Outposts or Local Zones here: {name} cannot be honoured"),
            ));
        }
    }
    Ok(())
}

/// The image to copy, which must be available.
fn available_source(state: &State, params: &Params) -> Result<Image, ApiError> {
    let source = state.image(&ImageId::required(params, "SourceImageId")?)?;
    if source.state != ImageState::Available {
        return Err(ApiError::new(
            "InvalidAMIID.Unavailable",
            format!("The image ID '{}' is not available", source.id),
        ));
    }
    Ok(source.clone())
}

/// Tags of the copy: those of the request, and with `CopyImageTags` those of the source that the user set.
fn image_tags(state: &State, source: &Image, params: &Params) -> Result<Tags, ApiError> {
    let mut tags = tags::specified(params, "image")?;
    if params.boolean("CopyImageTags")? == Some(true) {
        let own = state
            .tags
            .get(source.id.as_str())
            .cloned()
            .unwrap_or_default();
        let own = own.into_iter().filter(|(key, _)| !key.starts_with("aws:"));
        for (key, value) in own {
            tags.entry(key).or_insert(value);
        }
    }
    Ok(tags)
}

/// A pending copy of one of the image's snapshots.
///
/// # Errors
/// `InvalidParameterValue` when an encrypted snapshot is to become an unencrypted one.
fn copy_of(
    original: &Snapshot,
    encryption: &encryption::Requested,
    image_id: &ImageId,
    source_id: &ImageId,
    ctx: &RequestContext,
) -> Result<Snapshot, ApiError> {
    let from = &original.id;
    if original.key.is_some() && encryption.encrypted == Some(false) {
        return Err(ApiError::new(
            "InvalidParameterValue",
            format!("an unencrypted copy of the encrypted snapshot {from} cannot be made"),
        ));
    }
    Ok(Snapshot {
        id: SnapshotId::fresh(),
        source: Source::Snapshot(from.clone()),
        size: original.size,
        state: SnapshotState::Pending,
        started: ctx.now,
        completed: None,
        description: format!(
            "Copied for DestinationAmi {image_id} from SourceAmi {source_id} for SourceSnapshot {from}. Task created on {}.",
            ctx.now.as_millisecond(),
        ),
        owner: ACCOUNT.to_owned(),
        key: encryption.over(original.key.as_ref()),
        shared: BTreeSet::new(),
    })
}
