//! The calls on attributes of one instance: attributes, metadata options, monitoring.

use std::collections::BTreeMap;

use super::State;
use super::cpu::Credits;
use super::instance_lifecycle::wanted;
use super::instance_types;
use super::instance_views::{write_devices, write_groups, write_metadata};
use super::instances::{Instance, OnShutdown, Phase};
use super::run;
use super::tags;
use crate::ids::{Id as _, InstanceId, SecurityGroupId, VolumeId};
use crate::wire::{ApiError, Params, Xml};

/// DescribeInstanceAttribute.
pub(crate) fn describe_attribute(state: &State, params: &Params) -> Result<Xml, ApiError> {
    let instance = state.instance(&InstanceId::required(params, "InstanceId")?)?;
    let attribute = params.required("Attribute")?;
    let value = match attribute {
        "userData" => instance.user_data.clone(),
        "instanceInitiatedShutdownBehavior" => Some(instance.on_shutdown.name().to_owned()),
        "disableApiTermination" => Some(instance.protected.to_string()),
        "disableApiStop" => Some(instance.stop_protected.to_string()),
        "instanceType" => Some(instance.kind.clone()),
        "rootDeviceName" => Some(instance.root_device.clone()),
        "ebsOptimized" => Some(instance.ebs_optimized.to_string()),
        "enaSupport" => Some(instance.ena.to_string()),
        "sriovNetSupport" => instance.sriov.clone(),
        "sourceDestCheck" => Some(true.to_string()),
        "kernel" | "ramdisk" | "groupSet" | "blockDeviceMapping" | "productCodes" => None,
        _ => {
            return Err(ApiError::invalid_value(
                "attribute",
                attribute,
                "Unknown attribute.",
            ));
        }
    };
    let mut xml = Xml::new();
    xml.text("instanceId", &instance.id);
    match attribute {
        "groupSet" => write_groups(&mut xml, state, instance),
        "blockDeviceMapping" => write_devices(&mut xml, state, instance),
        "productCodes" => {
            xml.node(attribute, |_| {});
        }
        _ => {
            xml.node(attribute, |x| {
                x.maybe("value", value);
            });
        }
    }
    Ok(xml)
}

/// Attributes with a value that ModifyInstanceAttribute takes, each with its field in the second of EC2's two forms, in
/// the order in which they are checked.
const VALUES: [(&str, &str); 9] = [
    ("userData", "UserData"),
    (
        "instanceInitiatedShutdownBehavior",
        "InstanceInitiatedShutdownBehavior",
    ),
    ("disableApiTermination", "DisableApiTermination"),
    ("disableApiStop", "DisableApiStop"),
    ("enaSupport", "EnaSupport"),
    ("sriovNetSupport", "SriovNetSupport"),
    ("ebsOptimized", "EbsOptimized"),
    ("instanceType", "InstanceType"),
    ("sourceDestCheck", "SourceDestCheck"),
];

/// Attributes that can be changed only while the instance is stopped.
const WHILE_STOPPED: [&str; 5] = [
    "userData",
    "enaSupport",
    "sriovNetSupport",
    "ebsOptimized",
    "instanceType",
];

/// ModifyInstanceAttribute, in either of EC2's two forms.
pub(crate) fn modify_attribute(state: &mut State, params: &Params) -> Result<Xml, ApiError> {
    let mut instance = state
        .instance(&InstanceId::required(params, "InstanceId")?)?
        .clone();
    let mut known = false;
    for (attribute, field) in VALUES {
        if let Some(text) = given(params, attribute, field) {
            set_value(&mut instance, attribute, field, &text)?;
            known = true;
        }
    }
    let kept = deletion_flags(state, &instance.id, params)?;
    known |= !kept.is_empty();
    let groups = SecurityGroupId::list(params, "GroupId")?;
    for id in &groups {
        state.group(id)?;
    }
    if !groups.is_empty() {
        instance.groups = groups;
    } else if !known {
        return Err(ApiError::new(
            "InvalidParameterCombination",
            "No attributes specified, or one that cannot be modified here",
        ));
    }
    instance.check_spot()?;
    state.instances.insert(instance.id.clone(), instance);
    for (volume, goes) in kept {
        state.volumes.goes_with_its_instance(&volume, goes);
    }
    Ok(tags::done())
}

/// The value given for an attribute: as `Field.Value` or `Field`, or as `Value` beside `Attribute`.
fn given(params: &Params, attribute: &str, field: &str) -> Option<String> {
    params
        .string(&format!("{field}.Value"))
        .or_else(|| params.string(field))
        .or_else(|| {
            (params.text("Attribute") == Some(attribute))
                .then(|| params.string("Value"))
                .flatten()
        })
}

/// Sets one attribute of [`VALUES`].
///
/// # Errors
/// `IncorrectInstanceState` when the instance must be stopped for it, and those of an invalid value.
fn set_value(
    instance: &mut Instance,
    attribute: &str,
    field: &str,
    text: &str,
) -> Result<(), ApiError> {
    if WHILE_STOPPED.contains(&attribute) && instance.phase != Phase::Stopped {
        return Err(ApiError::new(
            "IncorrectInstanceState",
            format!(
                "The instance '{}' is not in the 'stopped' state: its {attribute} cannot be modified.",
                instance.id
            ),
        ));
    }
    match attribute {
        "userData" => instance.user_data = run::user_data(Some(text))?,
        "instanceInitiatedShutdownBehavior" => instance.on_shutdown = OnShutdown::read(text)?,
        "disableApiTermination" => instance.protected = flag(field, text)?,
        "disableApiStop" => instance.stop_protected = flag(field, text)?,
        "enaSupport" => instance.ena = flag(field, text)?,
        "sriovNetSupport" => instance.sriov = Some(text.to_owned()),
        "ebsOptimized" => instance.ebs_optimized = flag(field, text)?,
        "instanceType" => set_type(instance, text)?,
        "sourceDestCheck" if text != "true" => {
            return Err(ApiError::new(
                "UnsupportedOperation",
                "nothing is routed here: sourceDestCheck stays true",
            ));
        }
        _ => {}
    }
    Ok(())
}

/// Changes the instance's type to one that fits it.
fn set_type(instance: &mut Instance, name: &str) -> Result<(), ApiError> {
    let kind = instance_types::find(name)?;
    // EC2 accepts any type here and refuses some when the instance is started; here they are refused at once.
    run::check_fit(
        kind,
        &instance.architecture,
        instance.ena,
        instance.boot_mode.as_deref(),
    )?;
    kind.name.clone_into(&mut instance.kind);
    // Credits are kept when the new type has none.
    instance.credits = instance.credits.or(Credits::of_type(kind));
    Ok(())
}

/// The volumes whose `DeleteOnTermination` is set by BlockDeviceMapping, each with its new value.
///
/// # Errors
/// `InvalidInstanceAttributeValue` for a device that is not mapped, `UnsupportedOperation` for any other field.
fn deletion_flags(
    state: &State,
    instance_id: &InstanceId,
    params: &Params,
) -> Result<Vec<(VolumeId, bool)>, ApiError> {
    let mut flags = Vec::new();
    for mapping in params.structs("BlockDeviceMapping") {
        let device = mapping.required("DeviceName")?;
        let volume = state
            .volumes_of(instance_id)
            .find(|(_, at)| at.device == device)
            .map(|(volume, _)| volume.id.clone())
            .ok_or_else(|| {
                ApiError::new(
                    "InvalidInstanceAttributeValue",
                    format!("No device is currently mapped at {device}"),
                )
            })?;
        for (name, _) in mapping.iter() {
            if !["DeviceName", "Ebs.DeleteOnTermination"].contains(&name) {
                return Err(ApiError::new(
                    "UnsupportedOperation",
                    format!("BlockDeviceMapping.{name} cannot be modified here"),
                ));
            }
        }
        if let Some(goes) = mapping.boolean("Ebs.DeleteOnTermination")? {
            flags.push((volume, goes));
        }
    }
    Ok(flags)
}

fn flag(name: &str, text: &str) -> Result<bool, ApiError> {
    let params: Params = BTreeMap::from([(name.to_owned(), text.to_owned())]).into();
    Ok(params.boolean(name)?.unwrap_or(false))
}

/// ModifyInstanceMetadataOptions.
pub(crate) fn modify_metadata(state: &mut State, params: &Params) -> Result<Xml, ApiError> {
    let mut instance = state
        .instance(&InstanceId::required(params, "InstanceId")?)?
        .clone();
    instance.metadata = instance.metadata.changed(params)?;
    let mut xml = Xml::new();
    xml.text("instanceId", &instance.id);
    write_metadata(&mut xml, "instanceMetadataOptions", &instance);
    state.instances.insert(instance.id.clone(), instance);
    Ok(xml)
}

/// MonitorInstances, and UnmonitorInstances where `on` is false.
pub(crate) fn monitor(state: &mut State, params: &Params, on: bool) -> Result<Xml, ApiError> {
    let ids = wanted(state, params)?;
    for id in &ids {
        if let Some(instance) = state.instances.get_mut(id) {
            instance.monitored = on;
        }
    }
    let mut xml = Xml::new();
    xml.list("instancesSet", "item", ids, |x, id| {
        x.text("instanceId", id).node("monitoring", |x| {
            x.text("state", if on { "enabled" } else { "disabled" });
        });
    });
    Ok(xml)
}
