//! The calls that describe images, and those on their attributes.

use jiff::Timestamp;

use super::State;
use super::disk_calls::{self, Sharing};
use super::images::{Image, ImageState, Mapping, not_found};
use super::select::{CallSpec, Describe, maybe, one};
use super::tags;
use crate::account::{ACCOUNT, REGION};
use crate::ids::{Id as _, ImageId};
use crate::request::RequestContext;
use crate::wire::{ApiError, Params, Xml, iso};

pub(super) const TAKES: CallSpec = CallSpec {
    ids: "ImageId",
    ids_alone: Some("imagesSet"),
    page: (1, 1000),
    filters: &[
        "architecture",
        "block-device-mapping.delete-on-termination",
        "block-device-mapping.device-name",
        "block-device-mapping.encrypted",
        "block-device-mapping.snapshot-id",
        "block-device-mapping.volume-size",
        "block-device-mapping.volume-type",
        "boot-mode",
        "creation-date",
        "description",
        "ena-support",
        "hypervisor",
        "image-id",
        "image-type",
        "is-public",
        "manifest-location",
        "name",
        "owner-id",
        "root-device-name",
        "root-device-type",
        "source-image-id",
        "source-image-region",
        "source-instance-id",
        "sriov-net-support",
        "state",
        "state-reason-code",
        "state-reason-message",
        "virtualization-type",
    ],
    absent: &[
        "free-tier-eligible",
        "image-allowed",
        "kernel-id",
        "owner-alias",
        "platform",
        "product-code",
        "product-code.type",
        "public-ssm-parameter-name",
        "ramdisk-id",
    ],
    tags: true,
};

/// DescribeImages. Another account's deprecated image is shown only by its id, or with `IncludeDeprecated`; no image is disabled here.
pub(crate) fn describe(
    state: &State,
    ctx: &RequestContext,
    params: &Params,
) -> Result<Xml, ApiError> {
    let owners = params.list("Owner");
    let users = params.list("ExecutableBy");
    params.boolean("IncludeDisabled")?;
    let every =
        params.boolean("IncludeDeprecated")?.unwrap_or(false) || !params.list("ImageId").is_empty();
    let shown = |image: &Image| {
        let owned = owners.is_empty()
            || owners
                .iter()
                .any(|owner| disk_calls::is_owner(owner, &image.owner));
        let executable = users.is_empty()
            || users.iter().any(|user| match *user {
                "self" => image.owner == ACCOUNT || image.shared.contains(ACCOUNT),
                user => image.shared.contains(user),
            });
        let hidden = !every && image.owner != ACCOUNT && image.is_deprecated(ctx.now);
        owned && executable && !hidden
    };
    ImageId::list(params, "ImageId")?;
    let chosen = Describe::new(params, &state.tags, &TAKES).choose_where(
        &state.images,
        shown,
        not_found,
        field,
    )?;
    let mut xml = Xml::new();
    chosen.write(&mut xml, "imagesSet", |x, image| {
        write(x, image);
        tags::write(x, state.tags.get(image.id.as_str()));
    });
    Ok(xml)
}

fn field(image: &Image, name: &str) -> Option<Vec<String>> {
    let of_each = |value: fn(&Mapping) -> Option<String>| {
        Some(image.mappings.iter().filter_map(value).collect())
    };
    let failure = match &image.state {
        ImageState::Failed(why) => Some(why),
        ImageState::Pending | ImageState::Available => None,
    };
    match name {
        "image-id" => one(&image.id),
        "name" => one(&image.name),
        "description" => one(&image.description),
        "owner-id" => one(&image.owner),
        "state" => one(image.state.name()),
        "architecture" => one(&image.architecture),
        "root-device-type" => one("ebs"),
        "root-device-name" => one(&image.root_device),
        "virtualization-type" => one("hvm"),
        "hypervisor" => one("xen"),
        "image-type" => one("machine"),
        "is-public" => one(image.shared.contains("all")),
        "boot-mode" => maybe(image.boot_mode.as_ref()),
        "ena-support" => one(image.ena),
        "creation-date" => one(iso(image.created)),
        "manifest-location" => one(location(image)),
        "source-instance-id" => maybe(image.source_instance.as_ref()),
        "source-image-id" => maybe(image.source_image.as_ref()),
        "source-image-region" => maybe(image.source_image.as_ref().map(|_| REGION)),
        "sriov-net-support" => maybe(image.sriov.as_ref()),
        "block-device-mapping.device-name" => of_each(|mapping| Some(mapping.device.clone())),
        "block-device-mapping.snapshot-id" => {
            of_each(|mapping| mapping.snapshot.as_ref().map(ToString::to_string))
        }
        "block-device-mapping.volume-size" => {
            of_each(|mapping| mapping.size.map(|size| size.to_string()))
        }
        "block-device-mapping.volume-type" => of_each(|mapping| mapping.kind.clone()),
        "block-device-mapping.encrypted" => {
            of_each(|mapping| Some(mapping.encrypted.unwrap_or(false).to_string()))
        }
        "block-device-mapping.delete-on-termination" => {
            of_each(|mapping| Some(mapping.delete_on_termination.unwrap_or(true).to_string()))
        }
        "state-reason-code" => maybe(failure.map(|_| "Server.InternalError")),
        "state-reason-message" => maybe(failure),
        _ => None,
    }
}

fn location(image: &Image) -> String {
    format!("{}/{}", image.owner, image.name)
}

fn write(x: &mut Xml, image: &Image) {
    x.text("imageId", &image.id)
        .text("imageLocation", location(image))
        .text("imageState", image.state.name())
        .text("imageOwnerId", &image.owner)
        .text("creationDate", iso(image.created))
        .text("isPublic", image.shared.contains("all"))
        .text("architecture", &image.architecture)
        .text("imageType", "machine")
        .text("name", &image.name)
        .text("description", &image.description)
        .text("rootDeviceType", "ebs")
        .text("rootDeviceName", &image.root_device);
    write_mappings(x, &image.mappings);
    x.text("virtualizationType", "hvm")
        .text("hypervisor", "xen")
        .text("enaSupport", image.ena)
        .maybe("sriovNetSupport", image.sriov.as_ref())
        .maybe("bootMode", image.boot_mode.as_ref())
        .maybe("imdsSupport", image.imds.as_ref())
        .maybe("sourceInstanceId", image.source_instance.as_ref())
        .maybe("sourceImageId", image.source_image.as_ref())
        .maybe(
            "sourceImageRegion",
            image.source_image.as_ref().map(|_| REGION),
        )
        .maybe("deprecationTime", image.deprecated.map(iso))
        .maybe("lastLaunchedTime", image.launched.map(iso))
        .text("platformDetails", "Linux/UNIX")
        .text("usageOperation", "RunInstances");
    if let ImageState::Failed(why) = &image.state {
        x.node("stateReason", |x| {
            x.text("code", "Server.InternalError").text("message", why);
        });
    }
}

fn write_mappings(x: &mut Xml, mappings: &[Mapping]) {
    x.list("blockDeviceMapping", "item", mappings, |x, mapping| {
        x.text("deviceName", &mapping.device);
        if let Some(name) = &mapping.virtual_name {
            x.text("virtualName", name);
            return;
        }
        x.node("ebs", |x| {
            x.maybe("snapshotId", mapping.snapshot.as_ref())
                .maybe("volumeSize", mapping.size)
                .text(
                    "deleteOnTermination",
                    mapping.delete_on_termination.unwrap_or(true),
                )
                .text("volumeType", mapping.kind.as_deref().unwrap_or("gp2"))
                .maybe("iops", mapping.iops)
                .maybe("throughput", mapping.throughput)
                .text("encrypted", mapping.encrypted.unwrap_or(false));
        });
    });
}

/// DescribeImageAttribute.
pub(crate) fn describe_attribute(state: &State, params: &Params) -> Result<Xml, ApiError> {
    let image = state.image(&ImageId::required(params, "ImageId")?)?;
    image.check_own()?;
    let attribute = params.required("Attribute")?;
    let mut xml = Xml::new();
    xml.text("imageId", &image.id);
    let value = |xml: &mut Xml, name: &str, value: Option<String>| {
        xml.node(name, |x| {
            x.maybe("value", value);
        });
    };
    match attribute {
        "description" => value(&mut xml, "description", Some(image.description.clone())),
        "launchPermission" => disk_calls::write_shared(&mut xml, "launchPermission", &image.shared),
        "blockDeviceMapping" => write_mappings(&mut xml, &image.mappings),
        "bootMode" => value(&mut xml, "bootMode", image.boot_mode.clone()),
        "imdsSupport" => value(&mut xml, "imdsSupport", image.imds.clone()),
        "sriovNetSupport" => value(&mut xml, "sriovNetSupport", image.sriov.clone()),
        "lastLaunchedTime" => value(&mut xml, "lastLaunchedTime", image.launched.map(iso)),
        "kernel" | "ramdisk" | "tpmSupport" | "uefiData" => value(&mut xml, attribute, None),
        "productCodes" => {
            xml.node("productCodes", |_| {});
        }
        _ => {
            return Err(ApiError::invalid_value(
                "attribute",
                attribute,
                "Unknown attribute.",
            ));
        }
    }
    Ok(xml)
}

/// ModifyImageAttribute: the description, the launch permissions, and whether it requires IMDSv2.
pub(crate) fn modify_attribute(state: &mut State, params: &Params) -> Result<Xml, ApiError> {
    let id = ImageId::required(params, "ImageId")?;
    state.image(&id)?.check_own()?;
    let sharing = Sharing::read(params, "LaunchPermission")?;
    let attribute = params.text("Attribute");
    let given = |name: &str, field: &str| {
        params.string(field).or_else(|| {
            (attribute == Some(name))
                .then(|| params.string("Value"))
                .flatten()
        })
    };
    let description = given("description", "Description.Value");
    let imds = given("imdsSupport", "ImdsSupport.Value");
    if let Some(attribute) = attribute
        && !["description", "imdsSupport", "launchPermission"].contains(&attribute)
    {
        return Err(ApiError::invalid_value(
            "attribute",
            attribute,
            "It cannot be modified.",
        ));
    }
    if let Some(imds) = &imds
        && imds != "v2.0"
    {
        return Err(ApiError::invalid_value(
            "imdsSupport",
            imds,
            "expecting v2.0",
        ));
    }
    if let Some(image) = state.images.get_mut(&id) {
        sharing.apply(&mut image.shared);
        if let Some(description) = description {
            image.description = description;
        }
        image.imds = imds.or(image.imds.take());
    }
    Ok(tags::done())
}

/// ResetImageAttribute: launch permissions only, as on EC2.
pub(crate) fn reset_attribute(state: &mut State, params: &Params) -> Result<Xml, ApiError> {
    let id = ImageId::required(params, "ImageId")?;
    state.image(&id)?.check_own()?;
    let attribute = params.required("Attribute")?;
    if attribute != "launchPermission" {
        return Err(ApiError::invalid_value(
            "attribute",
            attribute,
            "Only launchPermission can be reset.",
        ));
    }
    if let Some(image) = state.images.get_mut(&id) {
        image.shared.clear();
    }
    Ok(tags::done())
}

/// EnableImageDeprecation, and DisableImageDeprecation where `on` is false.
pub(crate) fn deprecate(state: &mut State, params: &Params, on: bool) -> Result<Xml, ApiError> {
    let id = ImageId::required(params, "ImageId")?;
    state.image(&id)?.check_own()?;
    let at = if on {
        let text = params.required("DeprecateAt")?;
        let at = text.parse::<Timestamp>();
        Some(at.map_err(|_| ApiError::invalid_value("DeprecateAt", text, "it is not a time"))?)
    } else {
        None
    };
    if let Some(image) = state.images.get_mut(&id) {
        image.deprecated = at;
    }
    Ok(tags::done())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deprecated_image_of_others_is_shown_on_request_only() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let ctx = RequestContext { now };
        let mut state = State::default();
        state.register_base_image(12, None, "uefi", now);
        let id = state.images.values().next().unwrap().id.clone();
        for (at, form, shown) in [
            (None, String::new(), true),
            (Some("2026-01-03T00:00:00Z"), String::new(), true),
            (Some("2026-01-01T00:00:00Z"), String::new(), false),
            (
                Some("2026-01-01T00:00:00Z"),
                "IncludeDeprecated=false".to_owned(),
                false,
            ),
            (
                Some("2026-01-01T00:00:00Z"),
                "IncludeDeprecated=true".to_owned(),
                true,
            ),
            (
                Some("2026-01-01T00:00:00Z"),
                format!("ImageId.1={id}"),
                true,
            ),
        ] {
            let at = at.map(|at| at.parse().unwrap());
            state.images.get_mut(&id).unwrap().deprecated = at;
            let params = Params::parse(form.as_bytes());
            let xml = describe(&state, &ctx, &params).unwrap();
            let found = format!("{xml:?}").contains(id.as_str());
            assert_eq!(found, shown, "{at:?} {form}");
        }
    }
}
