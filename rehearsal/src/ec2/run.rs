//! RunInstances: from the request, launch template and image to instances and their volumes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use super::State;
use super::cpu::{self, Credits};
use super::disks::{Attachment, Volume};
use super::encryption;
use super::images::{Image, ImageState, Mapping, too_small};
use super::instance_types::{self, InstanceType};
use super::instance_views;
use super::instances::{Instance, MetadataOptions, OnShutdown, Phase};
use super::interfaces;
use super::spot::{self, SpotRequest};
use super::tags::{self, Tags};
use super::templates::Data;
use super::tokens::{UsedToken, request_parameters};
use crate::ids::{
    Id as _, ImageId, InstanceId, SecurityGroupId, SnapshotId, SubnetId, TemplateId, VolumeId,
};
use crate::request::RequestContext;
use crate::wire::{ApiError, Params, Xml, ids};

/// The default instance type.
pub(crate) const DEFAULT_TYPE: &str = "t3.micro";

/// EC2's limit on user data, decoded, in bytes.
const USER_DATA_LIMIT: usize = 16 * 1024;
/// The most instances of one call. Each is a virtual machine: a larger number is most likely a typo.
const MOST_AT_ONCE: i64 = 50;
/// The default size of an empty volume, GiB.
const EMPTY_SIZE: u32 = 8;

/// RunInstances.
pub(crate) fn run(
    state: &mut State,
    ctx: &RequestContext,
    params: &Params,
) -> Result<Xml, ApiError> {
    let asked = request_parameters(params);
    let token = params.text("ClientToken").filter(|token| !token.is_empty());
    if let Some(token) = token
        && let Some(used) = state.tokens.get(token)
    {
        return Ok(answer(state, used.repeat(&asked)?));
    }
    let least = params
        .integer("MinCount")?
        .ok_or_else(|| ApiError::missing("MinCount"))?;
    let most = params
        .integer("MaxCount")?
        .ok_or_else(|| ApiError::missing("MaxCount"))?;
    if least < 1 || most < least {
        return Err(ApiError::invalid_value(
            "minCount",
            &least.to_string(),
            "expecting 1 <= MinCount <= MaxCount",
        ));
    }
    if most > MOST_AT_ONCE {
        return Err(ApiError::new(
            "InstanceLimitExceeded",
            format!(
                "You have requested more instances ({most}) than your current instance limit of {MOST_AT_ONCE} allows."
            ),
        ));
    }
    let own = Data(
        asked
            .iter()
            .filter(|(name, _)| {
                !matches!(
                    name.split('.').next(),
                    Some("LaunchTemplate" | "Action" | "Version" | "DryRun")
                )
            })
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    );
    let template = params.structure("LaunchTemplate");
    let (data, marks) = if template.is_empty() {
        (own, Tags::new())
    } else {
        let found = state.template_named(&template)?;
        let (number, version) = found.resolve(template.text("Version").unwrap_or("$Default"))?;
        (
            merged(&version.data, &own),
            template_tags(&found.id, number),
        )
    };
    let count = usize::try_from(most).unwrap_or(1);
    let instances = launch(state, ctx.now, &data, &marks, count)?;
    if let Some(token) = token {
        state
            .tokens
            .insert(token.to_owned(), UsedToken::new(asked, &instances));
    }
    Ok(answer(state, &instances))
}

fn answer(state: &State, instances: &[impl AsRef<str>]) -> Xml {
    let mut xml = Xml::new();
    let all: Vec<&Instance> = instances
        .iter()
        .filter_map(|id| state.instances.get(id.as_ref()))
        .collect();
    instance_views::write_reservation(&mut xml, state, &all);
    xml
}

/// The tags that EC2 itself adds to instances launched from a template.
pub(crate) fn template_tags(id: &TemplateId, number: u64) -> Tags {
    [
        ("aws:ec2launchtemplate:id".to_owned(), id.to_string()),
        (
            "aws:ec2launchtemplate:version".to_owned(),
            number.to_string(),
        ),
    ]
    .into()
}

/// `template`, overridden by `own`; the tag specifications of both are merged, the request's keys taking precedence.
pub(crate) fn merged(template: &Data, own: &Data) -> Data {
    let mut all = template.over(own);
    let inherited = template.0.iter().filter_map(|(name, value)| {
        Some((
            format!(
                "TemplateTagSpecification.{}",
                name.strip_prefix("TagSpecification.")?
            ),
            value.clone(),
        ))
    });
    all.0.extend(inherited);
    all
}

fn tags_for(params: &Params, kind: &str) -> Result<Tags, ApiError> {
    let mut all = Tags::new();
    for specification in params.structs("TemplateTagSpecification") {
        if specification.text("ResourceType") == Some(kind) {
            all.extend(tags::read(&specification)?);
        }
    }
    all.extend(tags::specified(params, kind)?);
    Ok(all)
}

/// Launches `count` instances from `data` and tags them with `marks`; returns their ids.
///
/// # Errors
/// EC2's errors; nothing is launched then.
pub(crate) fn launch(
    state: &mut State,
    now: Timestamp,
    data: &Data,
    marks: &Tags,
    count: usize,
) -> Result<Vec<InstanceId>, ApiError> {
    let params = Params::from(data.0.clone());
    check_known(&params)?;
    let image = state
        .image(&ImageId::parse(
            params
                .text("ImageId")
                .ok_or_else(|| ApiError::missing("ImageId"))?,
        )?)?
        .clone();
    if image.state != ImageState::Available {
        return Err(ApiError::new(
            "InvalidAMIID.Unavailable",
            format!("The image ID '{}' is not available", image.id),
        ));
    }
    let kind = instance_types::find(params.text("InstanceType").unwrap_or(DEFAULT_TYPE))?;
    check_fit(
        kind,
        &image.architecture,
        image.ena,
        image.boot_mode.as_deref(),
    )?;
    if image.architecture != "x86_64" && !state.puppets {
        return Err(ApiError::new(
            "Unsupported",
            "only x86_64 instances run here, unless the cloud's guests are puppets",
        ));
    }
    cpu::check_options(kind, &params)?;
    let spot = SpotRequest::read(&params)?;
    let mut tagged = vec!["instance", "volume", "network-interface"];
    tagged.extend(spot.as_ref().map(|_| spot::KIND));
    tags::check_kinds(&params, &tagged)?;
    let spot_tags = tags_for(&params, spot::KIND)?;
    let mut instance_tags = tags_for(&params, "instance")?;
    instance_tags.extend(marks.clone());
    let volume_tags = tags_for(&params, "volume")?;
    let interface_tags = tags_for(&params, "network-interface")?;
    let devices = devices(state, &image, &Mapping::read_all(&params)?)?;
    let mut model = model(state, now, &params, &image, kind, spot)?;
    model.reservation = ids::resource("r");
    let mut made = Vec::new();
    // All addresses first: an error must not leave a partial launch.
    let mut network = state.network.clone();
    let mut addresses = Vec::new();
    for _ in 0..count {
        addresses.push(network.allocate(&model.subnet, |address| state.is_taken(address))?);
    }
    state.network = network;
    for (index, address) in addresses.into_iter().enumerate() {
        let instance = Instance {
            id: InstanceId::fresh(),
            index,
            address,
            spot: model.spot.as_ref().map(SpotRequest::numbered),
            ..model.clone()
        };
        for device in &devices {
            let volume = volume(device, &instance, now);
            state.tag(&volume.id, volume_tags.clone());
            state.volumes.insert(volume);
        }
        if let Some(request) = &instance.spot {
            state.tag(&request.id, spot_tags.clone());
        }
        state.tag(&instance.id, instance_tags.clone());
        state.tag(instance.interface_id(), interface_tags.clone());
        made.push(instance.id.clone());
        state.instances.insert(instance.id.clone(), instance);
    }
    if let Some(image) = state.images.get_mut(&image.id) {
        image.launched = Some(now);
    }
    Ok(made)
}

/// Supported parameters of a launch; unsupported fields of them are refused where they are read.
const HONOURED: [&str; 24] = [
    "BlockDeviceMapping",
    "ClientToken",
    "CpuOptions",
    "CreditSpecification",
    "DisableApiStop",
    "DisableApiTermination",
    "EbsOptimized",
    "IamInstanceProfile",
    "ImageId",
    "InstanceInitiatedShutdownBehavior",
    "InstanceMarketOptions",
    "InstanceType",
    "KeyName",
    "MaxCount",
    "MetadataOptions",
    "MinCount",
    "Monitoring",
    "NetworkInterface",
    "SecurityGroup",
    "SecurityGroupId",
    "SubnetId",
    "TagSpecification",
    "TemplateTagSpecification",
    "UserData",
];
/// Further parameters, accepted with the value that every instance has anyway.
const USUAL: [(&str, &str); 11] = [
    ("Placement.Tenancy", "default"),
    ("EnclaveOptions.Enabled", "false"),
    ("HibernationOptions.Configured", "false"),
    ("MaintenanceOptions.AutoRecovery", "default"),
    (
        "CapacityReservationSpecification.CapacityReservationPreference",
        "open",
    ),
    // There are no reservations to use; Packer 1.16 sends this.
    (
        "CapacityReservationSpecification.CapacityReservationPreference",
        "none",
    ),
    ("PrivateDnsNameOptions.HostnameType", "ip-name"),
    (
        "PrivateDnsNameOptions.EnableResourceNameDnsARecord",
        "false",
    ),
    (
        "PrivateDnsNameOptions.EnableResourceNameDnsAAAARecord",
        "false",
    ),
    ("EnablePrimaryIpv6", "false"),
    ("Ipv6AddressCount", "0"),
];

/// Refuses parameters that would otherwise be ignored.
fn check_known(params: &Params) -> Result<(), ApiError> {
    for (name, value) in params.iter() {
        let field = name.split('.').next().unwrap_or_default();
        let is_known = HONOURED.contains(&field)
            || name == "Placement.AvailabilityZone"
            || USUAL.contains(&(name, value));
        if !is_known {
            return Err(ApiError::new(
                "UnsupportedOperation",
                format!("{name} ({value}) of a launch cannot be honoured here"),
            ));
        }
    }
    Ok(())
}

/// Whether a type runs an image of that architecture, ENA support and boot mode.
///
/// # Errors
/// EC2's errors, when it does not.
pub(super) fn check_fit(
    kind: InstanceType,
    architecture: &str,
    ena: bool,
    boot_mode: Option<&str>,
) -> Result<(), ApiError> {
    if kind.architecture != architecture {
        return Err(ApiError::new(
            "InvalidParameterValue",
            format!(
                "The architecture '{}' of the specified instance type does not match the architecture '{}' of the specified AMI. Specify an instance type and an AMI that have matching architectures, and try again.",
                kind.architecture, architecture
            ),
        ));
    }
    if kind.hypervisor == "nitro" && !ena {
        return Err(ApiError::new(
            "InvalidParameterCombination",
            format!(
                "Enhanced networking with the Elastic Network Adapter (ENA) is required for the '{}' instance type. Ensure that you are using an AMI that is enabled for ENA.",
                kind.name
            ),
        ));
    }
    if !kind.has_uefi() && boot_mode == Some("uefi") {
        return Err(ApiError::new(
            "InvalidParameterValue",
            format!(
                "The instance type '{}' does not support the boot mode 'uefi' of the specified AMI",
                kind.name
            ),
        ));
    }
    Ok(())
}

/// The image's devices, overridden by the caller's, with their sizes.
fn devices(state: &State, image: &Image, overrides: &[Mapping]) -> Result<Vec<Mapping>, ApiError> {
    let mut devices = Mapping::overlay(&image.mappings, overrides);
    devices.retain(|device| device.virtual_name.is_none());
    for device in &mut devices {
        let least = match &device.snapshot {
            Some(id) => state.snapshot(id)?.size,
            None => 1,
        };
        let size = device.size.unwrap_or(if device.snapshot.is_some() {
            least
        } else {
            EMPTY_SIZE
        });
        if size < least {
            return Err(too_small(
                size,
                device
                    .snapshot
                    .as_ref()
                    .map(SnapshotId::as_str)
                    .unwrap_or_default(),
                least,
            ));
        }
        device.size = Some(size);
        device.check_performance()?;
        let key = match &device.snapshot {
            Some(id) => state.snapshot(id)?.key.clone(),
            None => None,
        };
        let requested = encryption::Requested {
            encrypted: device.encrypted,
            key: device.key.take(),
        };
        device.key = requested.over(key.as_ref());
    }
    Ok(devices)
}

fn volume(device: &Mapping, instance: &Instance, now: Timestamp) -> Volume {
    let kind = device.kind.clone().unwrap_or_else(|| "gp2".to_owned());
    let gp3 = kind == "gp3";
    Volume {
        id: VolumeId::fresh(),
        size: device.size.unwrap_or(EMPTY_SIZE),
        iops: device.iops.or(gp3.then_some(3000)),
        throughput: device.throughput.or(gp3.then_some(125)),
        kind,
        key: device.key.clone(),
        snapshot: device.snapshot.clone(),
        zone: instance.zone.clone(),
        created: now,
        attachment: Some(Attachment {
            instance: instance.id.clone(),
            device: device.device.clone(),
            since: now,
            delete_on_termination: device.delete_on_termination.unwrap_or(true),
        }),
        made: false,
    }
}

/// A template instance with what all instances of the call have in common.
fn model(
    state: &mut State,
    now: Timestamp,
    params: &Params,
    image: &Image,
    kind: InstanceType,
    spot: Option<SpotRequest>,
) -> Result<Instance, ApiError> {
    // A one-time Spot Instance cannot be stopped, not even by its own system.
    let stops = if spot.is_some() {
        OnShutdown::Terminate
    } else {
        OnShutdown::Stop
    };
    let (settings, interface) = interfaces::Settings::read(params)?;
    let wanted_subnet = params
        .text("SubnetId")
        .or_else(|| interface.text("SubnetId"))
        .map(SubnetId::parse)
        .transpose()?;
    let wanted_zone = params.string("Placement.AvailabilityZone");
    let subnet =
        match (&wanted_subnet, &wanted_zone) {
            (Some(id), _) => state.network.subnet(id)?,
            (None, Some(zone)) => state.network.subnet_of_zone(zone)?,
            (None, None) => state.network.subnets.first().ok_or_else(|| {
                ApiError::new("MissingInput", "No subnets found for the default VPC")
            })?,
        };
    let (subnet, zone) = (subnet.id.clone(), subnet.zone.clone());
    let key = params.string("KeyName").filter(|name| !name.is_empty());
    let public_key = match &key {
        Some(name) => Some(state.key(name)?.public.clone()),
        None => None,
    };
    let model = Instance {
        id: InstanceId::unchecked(""),
        reservation: String::new(),
        index: 0,
        token: params.string("ClientToken"),
        image: image.id.clone(),
        kind: kind.name.to_owned(),
        architecture: image.architecture.clone(),
        root_device: image.root_device.clone(),
        boot_mode: image.boot_mode.clone(),
        ena: image.ena,
        sriov: image.sriov.clone(),
        subnet,
        zone,
        address: std::net::Ipv4Addr::LOCALHOST,
        key,
        public_key,
        groups: groups(state, params, &interface)?,
        interface: settings,
        profile: profile(&params.structure("IamInstanceProfile"))?,
        user_data: user_data(params.text("UserData"))?,
        on_shutdown: match params.text("InstanceInitiatedShutdownBehavior") {
            Some(text) => OnShutdown::read(text)?,
            None => stops,
        },
        protected: params.boolean("DisableApiTermination")?.unwrap_or(false),
        stop_protected: params.boolean("DisableApiStop")?.unwrap_or(false),
        ebs_optimized: params.boolean("EbsOptimized")?.unwrap_or(false),
        monitored: params.boolean("Monitoring.Enabled")?.unwrap_or(false),
        metadata: MetadataOptions {
            // An image with v2.0 requires tokens by default.
            tokens: if image.imds.is_some() {
                "required"
            } else {
                "optional"
            }
            .to_owned(),
            endpoint: "enabled".to_owned(),
            hop_limit: if image.imds.is_some() { 2 } else { 1 },
            tags: "disabled".to_owned(),
        }
        .changed(&params.structure("MetadataOptions"))?,
        spot,
        credits: Credits::of_launch(kind, params)?,
        launched: now,
        phase: Phase::Pending,
        since: now,
        reason: None,
        reboots: false,
        forced: false,
        emulated: false,
        fault: None,
    };
    model.check_spot()?;
    Ok(model)
}

impl MetadataOptions {
    /// These options, overridden by `params`.
    ///
    /// # Errors
    /// `InvalidParameterValue`.
    pub(crate) fn changed(mut self, params: &Params) -> Result<Self, ApiError> {
        let set = |field: &mut String, name: &str, known: [&str; 2]| match params.text(name) {
            Some(value) if known.contains(&value) => {
                value.clone_into(field);
                Ok(())
            }
            Some(value) => Err(ApiError::invalid_value(
                name,
                value,
                &format!("expecting {}", known.join(" or ")),
            )),
            None => Ok(()),
        };
        set(&mut self.tokens, "HttpTokens", ["optional", "required"])?;
        set(&mut self.endpoint, "HttpEndpoint", ["enabled", "disabled"])?;
        set(
            &mut self.tags,
            "InstanceMetadataTags",
            ["enabled", "disabled"],
        )?;
        if let Some(limit) = params.integer("HttpPutResponseHopLimit")? {
            if !(1..=64).contains(&limit) {
                return Err(ApiError::invalid_value(
                    "HttpPutResponseHopLimit",
                    &limit.to_string(),
                    "expecting 1 to 64",
                ));
            }
            self.hop_limit = limit;
        }
        Ok(self)
    }
}

fn groups(
    state: &mut State,
    params: &Params,
    interface: &Params,
) -> Result<Vec<SecurityGroupId>, ApiError> {
    let mut groups = SecurityGroupId::list(params, "SecurityGroupId")?;
    groups.extend(SecurityGroupId::list(interface, "SecurityGroupId")?);
    for id in &groups {
        state.group(id)?;
    }
    for name in params.list("SecurityGroup") {
        let found = state.groups.values().find(|group| group.name == name);
        groups.push(found.map(|group| group.id.clone()).ok_or_else(|| {
            ApiError::new(
                "InvalidGroup.NotFound",
                format!("The security group '{name}' does not exist in default VPC"),
            )
        })?);
    }
    if groups.is_empty() {
        groups.push(state.default_group());
    }
    Ok(groups)
}

/// The profile's name. It is not checked for existence: its credentials are generated, and permit everything here.
fn profile(params: &Params) -> Result<Option<String>, ApiError> {
    match (params.text("Name"), params.text("Arn")) {
        (Some(_), Some(_)) => Err(ApiError::new(
            "InvalidParameterCombination",
            "The parameter 'iamInstanceProfile.name' may not be used in combination with 'iamInstanceProfile.arn'",
        )),
        (Some(name), None) => Ok(Some(name.to_owned())),
        (None, Some(arn)) => match arn.split_once(":instance-profile/") {
            Some((_, path)) => Ok(path.rsplit('/').next().map(str::to_owned)),
            None => Err(ApiError::invalid_value(
                "iamInstanceProfile.arn",
                arn,
                "Invalid IAM Instance Profile ARN",
            )),
        },
        (None, None) => Ok(None),
    }
}

/// Checks that user data is base64 of at most EC2's size, and returns it without white space.
///
/// # Errors
/// `InvalidParameterValue`.
pub(crate) fn user_data(text: Option<&str>) -> Result<Option<String>, ApiError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let text: String = text.split_ascii_whitespace().collect();
    let bytes = STANDARD.decode(&text).map_err(|_| {
        ApiError::new(
            "InvalidParameterValue",
            "Invalid BASE64 encoding of user data",
        )
    })?;
    if bytes.len() > USER_DATA_LIMIT {
        return Err(ApiError::new(
            "InvalidParameterValue",
            format!("User data is limited to {USER_DATA_LIMIT} bytes"),
        ));
    }
    Ok(Some(text))
}
