//! The calls on attributes of one instance: attributes, metadata options, monitoring.

use std::collections::BTreeMap;

use super::State;
use super::cpu::Credits;
use super::instance_lifecycle::wanted;
use super::instance_types;
use super::instance_views::{write_devices, write_groups, write_metadata};
use super::instances::{OnShutdown, Phase};
use super::run;
use super::tags;
use crate::wire::{ApiError, Params, Xml};

/// DescribeInstanceAttribute.
pub(crate) fn describe_attribute(state: &State, params: &Params) -> Result<Xml, ApiError> {
    let instance = state.instance(params.required("InstanceId")?)?;
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

/// ModifyInstanceAttribute, in either of EC2's two forms.
pub(crate) fn modify_attribute(state: &mut State, params: &Params) -> Result<Xml, ApiError> {
    let instance = state.instance(params.required("InstanceId")?)?;
    let mut changed = instance.clone();
    let stopped = |attribute: &str| {
        if instance.phase == Phase::Stopped {
            return Ok(());
        }
        Err(ApiError::new(
            "IncorrectInstanceState",
            format!(
                "The instance '{}' is not in the 'stopped' state: its {attribute} cannot be modified.",
                instance.id
            ),
        ))
    };
    let mut known = false;
    let mut given = |name: &str, field: &str| {
        let value = params
            .string(&format!("{field}.Value"))
            .or_else(|| params.string(field))
            .or_else(|| {
                (params.text("Attribute") == Some(name))
                    .then(|| params.string("Value"))
                    .flatten()
            });
        known |= value.is_some();
        value
    };
    if let Some(text) = given("userData", "UserData") {
        stopped("userData")?;
        changed.user_data = run::user_data(Some(&text))?;
    }
    if let Some(text) = given(
        "instanceInitiatedShutdownBehavior",
        "InstanceInitiatedShutdownBehavior",
    ) {
        changed.on_shutdown = OnShutdown::read(&text)?;
    }
    if let Some(text) = given("disableApiTermination", "DisableApiTermination") {
        changed.protected = flag("DisableApiTermination", &text)?;
    }
    if let Some(text) = given("disableApiStop", "DisableApiStop") {
        changed.stop_protected = flag("DisableApiStop", &text)?;
    }
    if let Some(text) = given("enaSupport", "EnaSupport") {
        stopped("enaSupport")?;
        changed.ena = flag("EnaSupport", &text)?;
    }
    if let Some(text) = given("sriovNetSupport", "SriovNetSupport") {
        stopped("sriovNetSupport")?;
        changed.sriov = Some(text);
    }
    if let Some(text) = given("ebsOptimized", "EbsOptimized") {
        stopped("ebsOptimized")?;
        changed.ebs_optimized = flag("EbsOptimized", &text)?;
    }
    if let Some(text) = given("instanceType", "InstanceType") {
        stopped("instanceType")?;
        let kind = instance_types::find(&text)?;
        // EC2 accepts any type here and refuses some when the instance is started; here they are refused at once.
        run::check_fit(
            kind,
            &changed.architecture,
            changed.ena,
            changed.boot_mode.as_deref(),
        )?;
        kind.name.clone_into(&mut changed.kind);
        // Credits are kept when the new type has none.
        changed.credits = changed.credits.or(Credits::of_type(kind));
    }
    if given("sourceDestCheck", "SourceDestCheck").is_some_and(|text| text != "true") {
        return Err(ApiError::new(
            "UnsupportedOperation",
            "nothing is routed here: sourceDestCheck stays true",
        ));
    }
    let mut kept = Vec::new();
    for mapping in params.structs("BlockDeviceMapping") {
        let device = mapping.required("DeviceName")?;
        let attached = state.volumes_of(&instance.id);
        let volume = attached
            .filter(|(_, at)| at.device == device)
            .map(|(volume, _)| volume.id.clone())
            .next()
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
            kept.push((volume, goes));
        }
    }
    known |= !kept.is_empty();
    let groups = params.strings("GroupId");
    for id in &groups {
        state.group(id)?;
    }
    if !groups.is_empty() {
        changed.groups = groups;
    } else if !known {
        return Err(ApiError::new(
            "InvalidParameterCombination",
            "No attributes specified, or one that cannot be modified here",
        ));
    }
    changed.check_spot()?;
    state.instances.insert(changed.id.clone(), changed);
    for (volume, goes) in kept {
        state.volumes.goes_with_its_instance(&volume, goes);
    }
    Ok(tags::done())
}

fn flag(name: &str, text: &str) -> Result<bool, ApiError> {
    let params: Params = BTreeMap::from([(name.to_owned(), text.to_owned())]).into();
    Ok(params.boolean(name)?.unwrap_or(false))
}

/// ModifyInstanceMetadataOptions.
pub(crate) fn modify_metadata(state: &mut State, params: &Params) -> Result<Xml, ApiError> {
    let mut instance = state.instance(params.required("InstanceId")?)?.clone();
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
