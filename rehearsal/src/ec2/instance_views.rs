//! The calls that describe instances: description, status and console, and the XML of instances in other answers.

use std::net::Ipv4Addr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use super::State;
use super::boot_mode;
use super::instance_types;
use super::instances::{Instance, Phase, Reason, not_found};
use super::interface_calls;
use super::network::zone_id;
use super::select::{CallSpec, Describe, absent, each, maybe, one};
use super::tags;
use crate::account::ACCOUNT;
use crate::ids::{Id as _, InstanceId, SecurityGroupId};
use crate::table::Table;
use crate::wire::{ApiError, Params, Xml, iso};

pub(super) const INSTANCES: CallSpec = CallSpec {
    ids: "InstanceId",
    ids_alone: Some("instancesSet"),
    filters: &[
        "architecture",
        "availability-zone",
        "availability-zone-id",
        "block-device-mapping.attach-time",
        "block-device-mapping.delete-on-termination",
        "block-device-mapping.device-name",
        "block-device-mapping.status",
        "block-device-mapping.volume-id",
        "boot-mode",
        "client-token",
        "current-instance-boot-mode",
        "dns-name",
        "ebs-optimized",
        "ena-support",
        "enclave-options.enabled",
        "group-id",
        "group-name",
        "hibernation-options.configured",
        "hypervisor",
        "iam-instance-profile.arn",
        "iam-instance-profile.id",
        "iam-instance-profile.name",
        "image-id",
        "instance-id",
        "instance-lifecycle",
        "instance-state-code",
        "instance-state-name",
        "instance-type",
        "instance.group-id",
        "instance.group-name",
        "ip-address",
        "key-name",
        "launch-index",
        "launch-time",
        "maintenance-options.auto-recovery",
        "metadata-options.http-endpoint",
        "metadata-options.http-protocol-ipv4",
        "metadata-options.http-protocol-ipv6",
        "metadata-options.http-put-response-hop-limit",
        "metadata-options.http-tokens",
        "metadata-options.instance-metadata-tags",
        "metadata-options.state",
        "monitoring-state",
        "network-interface.addresses.association.ip-owner-id",
        "network-interface.addresses.association.public-dns-name",
        "network-interface.addresses.association.public-ip",
        "network-interface.addresses.primary",
        "network-interface.addresses.private-dns-name",
        "network-interface.addresses.private-ip-address",
        "network-interface.association.ip-owner-id",
        "network-interface.association.public-dns-name",
        "network-interface.association.public-ip",
        "network-interface.attachment.attach-time",
        "network-interface.attachment.attachment-id",
        "network-interface.attachment.delete-on-termination",
        "network-interface.attachment.device-index",
        "network-interface.attachment.instance-id",
        "network-interface.attachment.instance-owner-id",
        "network-interface.attachment.network-card-index",
        "network-interface.attachment.status",
        "network-interface.availability-zone",
        "network-interface.deny-all-igw-traffic",
        "network-interface.description",
        "network-interface.group-id",
        "network-interface.group-name",
        "network-interface.ipv6-native",
        "network-interface.mac-address",
        "network-interface.network-interface-id",
        "network-interface.operator.managed",
        "network-interface.owner-id",
        "network-interface.private-dns-name",
        "network-interface.private-ip-address",
        "network-interface.public-dns-name",
        "network-interface.requester-managed",
        "network-interface.source-dest-check",
        "network-interface.status",
        "network-interface.subnet-id",
        "network-interface.tag-key",
        "network-interface.tag-value",
        "network-interface.vpc-id",
        "network-performance-options.bandwidth-weighting",
        "operator.managed",
        "owner-id",
        "platform-details",
        "private-dns-name",
        "private-dns-name-options.enable-resource-name-dns-a-record",
        "private-dns-name-options.enable-resource-name-dns-aaaa-record",
        "private-dns-name-options.hostname-type",
        "private-ip-address",
        "reason",
        "reservation-id",
        "root-device-name",
        "root-device-type",
        "source-dest-check",
        "spot-instance-request-id",
        "state-reason-code",
        "state-reason-message",
        "subnet-id",
        "tenancy",
        "usage-operation",
        "virtualization-type",
        "vpc-id",
    ],
    absent: &[
        "affinity",
        "capacity-reservation-id",
        "capacity-reservation-specification.capacity-reservation-preference",
        "capacity-reservation-specification.capacity-reservation-target.capacity-reservation-id",
        "capacity-reservation-specification.capacity-reservation-target.capacity-reservation-resource-group-arn",
        "host-id",
        "ipv6-address",
        "kernel-id",
        "network-interface.addresses.association.allocation-id",
        "network-interface.addresses.association.association-id",
        "network-interface.addresses.association.carrier-ip",
        "network-interface.addresses.association.customer-owned-ip",
        "network-interface.association.allocation-id",
        "network-interface.association.association-id",
        "network-interface.association.carrier-ip",
        "network-interface.association.customer-owned-ip",
        "network-interface.ipv4-prefixes.ipv4-prefix",
        "network-interface.ipv6-address",
        "network-interface.ipv6-addresses.ipv6-address",
        "network-interface.ipv6-addresses.is-primary-ipv6",
        "network-interface.ipv6-prefixes.ipv6-prefix",
        "network-interface.operator.principal",
        "network-interface.outpost-arn",
        "network-interface.requester-id",
        "operator.principal",
        "outpost-arn",
        "placement-group-name",
        "placement-partition-number",
        "platform",
        "product-code",
        "product-code.type",
        "ramdisk-id",
        "requester-id",
        "tpm-support",
        "usage-operation-update-time",
    ],
    tags: true,
    ..CallSpec::USUAL
};

pub(super) const STATUS: CallSpec = CallSpec {
    ids: "InstanceId",
    ids_alone: Some("instancesSet"),
    filters: &[
        "availability-zone",
        "availability-zone-id",
        "event.code",
        "event.description",
        "event.instance-event-id",
        "event.not-before",
        "instance-state-code",
        "instance-state-name",
        "instance-status.reachability",
        "instance-status.status",
        "operator.managed",
        "system-status.reachability",
        "system-status.status",
    ],
    absent: &[
        "application-status.status",
        "attached-ebs-status.status",
        "event.not-after",
        "event.not-before-deadline",
        "operator.principal",
    ],
    tags: true,
    ..CallSpec::USUAL
};

pub(super) const PROFILES: CallSpec = CallSpec {
    ids: "AssociationId",
    filters: &["instance-id", "state"],
    ..CallSpec::USUAL
};

/// DescribeInstances.
pub(crate) fn describe(state: &State, params: &Params) -> Result<Xml, ApiError> {
    InstanceId::list(params, "InstanceId")?;
    let chosen = Describe::new(params, &state.tags, &INSTANCES).choose(
        &state.instances,
        not_found,
        |instance, name| field(state, instance, name),
    )?;
    let mut xml = Xml::new();
    // A reservation lists only the instances that are on this page.
    let mut reservations: Vec<Vec<&Instance>> = Vec::new();
    for instance in chosen.items {
        match reservations.iter_mut().find(|all| {
            all.iter()
                .any(|one| one.reservation == instance.reservation)
        }) {
            Some(all) => all.push(instance),
            None => reservations.push(vec![instance]),
        }
    }
    xml.list("reservationSet", "item", reservations, |x, all| {
        write_reservation(x, state, &all)
    })
    .maybe("nextToken", chosen.next);
    Ok(xml)
}

/// The lifecycle of a Spot Instance; others have none.
const SPOT: &str = "spot";
/// The id of every instance profile.
const PROFILE_ID: &str = "AIPAREHEARSAL00000000";

fn field(state: &State, instance: &Instance, name: &str) -> Option<Vec<String>> {
    let volumes = || state.volumes_of(&instance.id);
    match name {
        "instance-id" => one(&instance.id),
        "instance-lifecycle" => maybe(instance.spot().map(|_| SPOT)),
        "spot-instance-request-id" => maybe(instance.spot().map(|request| &request.id)),
        "instance-state-name" => one(instance.phase.name()),
        "instance-state-code" => one(instance.phase.code()),
        "image-id" => one(&instance.image),
        "instance-type" => one(&instance.kind),
        "availability-zone" => one(&instance.zone),
        "availability-zone-id" => one(zone_id(&instance.zone)),
        "subnet-id" => one(&instance.subnet),
        "vpc-id" => one(&state.network.vpc),
        "boot-mode" => maybe(instance.boot_mode.as_ref()),
        "current-instance-boot-mode" => one(boot_mode::name(instance.firmware())),
        "ebs-optimized" => one(instance.ebs_optimized),
        "ena-support" => one(instance.ena),
        "enclave-options.enabled"
        | "hibernation-options.configured"
        | "operator.managed"
        | "private-dns-name-options.enable-resource-name-dns-a-record"
        | "private-dns-name-options.enable-resource-name-dns-aaaa-record" => one(false),
        "maintenance-options.auto-recovery" | "network-performance-options.bandwidth-weighting" => {
            one("default")
        }
        "private-dns-name-options.hostname-type" => one("ip-name"),
        "platform-details" => one("Linux/UNIX"),
        "usage-operation" => one("RunInstances"),
        "source-dest-check" => one(true),
        "reason" => one(transition(instance)),
        "state-reason-message" => maybe(instance.reason.as_ref().map(|reason| &reason.message)),
        "private-ip-address" => one(instance.address),
        "ip-address" => maybe(instance.public_address()),
        "private-dns-name" => one(private_name(instance.address)),
        "dns-name" => maybe(instance.public_address()),
        "key-name" => maybe(instance.key.as_ref()),
        "reservation-id" => one(&instance.reservation),
        "client-token" => maybe(instance.token.as_ref()),
        "architecture" => one(&instance.architecture),
        "root-device-name" => one(&instance.root_device),
        "root-device-type" => one("ebs"),
        "virtualization-type" => one("hvm"),
        "hypervisor" => one("xen"),
        "owner-id" => one(ACCOUNT),
        "launch-time" => one(iso(instance.launched)),
        "launch-index" => one(instance.index),
        "monitoring-state" => one(if instance.monitored {
            "enabled"
        } else {
            "disabled"
        }),
        "tenancy" => one("default"),
        "instance.group-id" | "group-id" => each(&instance.groups),
        "instance.group-name" | "group-name" => Some(
            instance
                .groups
                .iter()
                .map(|id| group_name(state, id).to_owned())
                .collect(),
        ),
        "iam-instance-profile.arn" => maybe(instance.profile.as_deref().map(profile_arn)),
        "iam-instance-profile.id" => maybe(instance.profile.as_ref().map(|_| PROFILE_ID)),
        "iam-instance-profile.name" => maybe(instance.profile.as_ref()),
        "block-device-mapping.volume-id" => {
            Some(volumes().map(|(volume, _)| volume.id.to_string()).collect())
        }
        "block-device-mapping.device-name" => {
            Some(volumes().map(|(_, at)| at.device.clone()).collect())
        }
        "block-device-mapping.status" => Some(volumes().map(|_| "attached".to_owned()).collect()),
        "block-device-mapping.attach-time" => {
            Some(volumes().map(|(_, at)| iso(at.since)).collect())
        }
        "block-device-mapping.delete-on-termination" => Some(
            volumes()
                .map(|(_, at)| at.delete_on_termination.to_string())
                .collect(),
        ),
        "metadata-options.http-tokens" => one(&instance.metadata.tokens),
        "metadata-options.http-endpoint" => one(&instance.metadata.endpoint),
        "metadata-options.http-put-response-hop-limit" => one(instance.metadata.hop_limit),
        "metadata-options.instance-metadata-tags" => one(&instance.metadata.tags),
        "metadata-options.state" => one("applied"),
        "metadata-options.http-protocol-ipv4" => one("enabled"),
        "metadata-options.http-protocol-ipv6" => one("disabled"),
        "state-reason-code" => maybe(instance.reason.as_ref().map(|reason| &reason.code)),
        name => {
            let of_interface = name.strip_prefix("network-interface.")?;
            interface_calls::field_of(state, instance, of_interface)
        }
    }
}

pub(super) fn group_name<'a>(state: &'a State, id: &SecurityGroupId) -> &'a str {
    state
        .groups
        .get(id)
        .map(|group| group.name.as_str())
        .unwrap_or_default()
}

/// The private DNS name of an address.
pub(super) fn private_name(address: Ipv4Addr) -> String {
    format!("ip-{}.ec2.internal", address.to_string().replace('.', "-"))
}

pub(super) fn profile_arn(name: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:instance-profile/{name}")
}

/// Writes instances of one RunInstances call.
pub(crate) fn write_reservation(x: &mut Xml, state: &State, instances: &[&Instance]) {
    x.maybe(
        "reservationId",
        instances.first().map(|instance| &instance.reservation),
    )
    .text("ownerId", ACCOUNT)
    .node("groupSet", |_| {})
    .list("instancesSet", "item", instances, |x, instance| {
        write(x, state, instance)
    });
}

fn write(x: &mut Xml, state: &State, instance: &Instance) {
    let alive = instance.is_alive();
    let address = alive.then_some(instance.address);
    x.text("instanceId", &instance.id)
        .text("imageId", &instance.image);
    write_state(x, "instanceState", instance.phase);
    x.text(
        "privateDnsName",
        if alive {
            private_name(instance.address)
        } else {
            String::new()
        },
    )
    .text(
        "dnsName",
        instance
            .public_address()
            .map(|address| address.to_string())
            .unwrap_or_default(),
    )
    .text("reason", transition(instance))
    .maybe("keyName", instance.key.as_ref())
    .text("amiLaunchIndex", instance.index)
    .node("productCodes", |_| {})
    .text("instanceType", &instance.kind)
    .text("launchTime", iso(instance.launched))
    .node("placement", |x| {
        x.text("availabilityZone", &instance.zone)
            .text("groupName", "")
            .text("tenancy", "default");
    })
    .node("monitoring", |x| {
        x.text(
            "state",
            if instance.monitored {
                "enabled"
            } else {
                "disabled"
            },
        );
    });
    if alive {
        x.text("subnetId", &instance.subnet)
            .text("vpcId", &state.network.vpc)
            .maybe("privateIpAddress", address)
            .maybe("ipAddress", instance.public_address())
            .text("sourceDestCheck", true);
    }
    write_groups(x, state, instance);
    if let Some(Reason { code, message }) = &instance.reason {
        x.node("stateReason", |x| {
            x.text("code", code).text("message", message);
        });
    }
    x.text("architecture", &instance.architecture)
        .text("rootDeviceType", "ebs")
        .text("rootDeviceName", &instance.root_device);
    write_devices(x, state, instance);
    if let Some(request) = instance.spot() {
        x.text("instanceLifecycle", SPOT)
            .text("spotInstanceRequestId", &request.id);
    }
    x.text("virtualizationType", "hvm")
        .text("clientToken", instance.token.as_deref().unwrap_or_default());
    tags::write(x, state.tags.get(instance.id.as_str()));
    x.text("hypervisor", "xen");
    interface_calls::write_of(x, state, instance);
    x.text("ebsOptimized", instance.ebs_optimized)
        .text("enaSupport", instance.ena)
        .maybe("sriovNetSupport", instance.sriov.as_ref());
    if let Some(name) = &instance.profile {
        x.node("iamInstanceProfile", |x| {
            x.text("arn", profile_arn(name)).text("id", PROFILE_ID);
        });
    }
    if let Ok(kind) = instance_types::find(&instance.kind) {
        x.node("cpuOptions", |x| {
            x.text("coreCount", kind.cores())
                .text("threadsPerCore", kind.vcpus / kind.cores());
        });
    }
    write_metadata(x, "metadataOptions", instance);
    x.maybe("bootMode", instance.boot_mode.as_ref())
        .text(
            "currentInstanceBootMode",
            boot_mode::name(instance.firmware()),
        )
        .text("platformDetails", "Linux/UNIX")
        .text("usageOperation", "RunInstances");
}

pub(super) fn write_state(x: &mut Xml, name: &str, phase: Phase) {
    x.node(name, |x| {
        x.text("code", phase.code()).text("name", phase.name());
    });
}

fn transition(instance: &Instance) -> String {
    match &instance.reason {
        Some(reason) if reason.code == "Client.UserInitiatedShutdown" => {
            format!(
                "User initiated ({})",
                instance.since.strftime("%Y-%m-%d %H:%M:%S GMT")
            )
        }
        Some(reason) => reason.code.clone(),
        None => String::new(),
    }
}

pub(super) fn write_groups(x: &mut Xml, state: &State, instance: &Instance) {
    x.list("groupSet", "item", &instance.groups, |x, id| {
        x.text("groupId", id)
            .text("groupName", group_name(state, id));
    });
}

pub(super) fn write_devices(x: &mut Xml, state: &State, instance: &Instance) {
    x.list(
        "blockDeviceMapping",
        "item",
        state.volumes_of(&instance.id),
        |x, (volume, at)| {
            x.text("deviceName", &at.device).node("ebs", |x| {
                x.text("volumeId", &volume.id)
                    .text("status", "attached")
                    .text("attachTime", iso(at.since))
                    .text("deleteOnTermination", at.delete_on_termination);
            });
        },
    );
}

pub(super) fn write_metadata(x: &mut Xml, name: &str, instance: &Instance) {
    let options = &instance.metadata;
    x.node(name, |x| {
        x.text("state", "applied")
            .text("httpTokens", &options.tokens)
            .text("httpPutResponseHopLimit", options.hop_limit)
            .text("httpEndpoint", &options.endpoint)
            .text("httpProtocolIpv6", "disabled")
            .text("instanceMetadataTags", &options.tags);
    });
}

/// One of the two status checks of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// The host and the virtual machine.
    System,
    /// The system in the virtual machine.
    Instance,
}

impl Check {
    /// The summary and its one detail, reachability:
    /// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceStatusSummary.html>.
    fn of(self, instance: &Instance) -> (&'static str, &'static str) {
        let fails = instance
            .impairment()
            .is_some_and(|fault| self == Self::Instance || fault.failure.kind.is_of_the_host());
        match (instance.phase, fails) {
            (Phase::Running, false) => ("ok", "passed"),
            (Phase::Running, true) => ("impaired", "failed"),
            _ => ("not-applicable", "insufficient-data"),
        }
    }
}

/// The fault of an instance's machine, as an event: the only part of this answer with a description. An ended fault is
/// marked completed, as on AWS.
fn write_fault(x: &mut Xml, instance: &Instance) {
    x.list("eventsSet", "item", &instance.fault, |x, fault| {
        x.text("instanceEventId", event_id(instance))
            .text("code", EVENT)
            .maybe("description", event_description(instance))
            .text("notBefore", iso(fault.since));
    });
}

const EVENT: &str = "system-reboot";

fn event_id(instance: &Instance) -> String {
    instance.id.as_str().replacen("i-", "instance-event-", 1)
}

fn event_description(instance: &Instance) -> Option<String> {
    let fault = instance.fault.as_ref()?;
    let done = if fault.over.is_some() {
        "[Completed] "
    } else {
        ""
    };
    Some(format!("{done}{}", instance.fault_text()?))
}

/// DescribeInstanceStatus.
pub(crate) fn describe_status(state: &State, params: &Params) -> Result<Xml, ApiError> {
    InstanceId::list(params, "InstanceId")?;
    let all = params.boolean("IncludeAllInstances")?.unwrap_or(false);
    let chosen = Describe::new(params, &state.tags, &STATUS).choose_where(
        &state.instances,
        |instance| all || instance.phase == Phase::Running,
        not_found,
        |instance, name| match name {
            "availability-zone" => one(&instance.zone),
            "availability-zone-id" => one(zone_id(&instance.zone)),
            "operator.managed" => one(false),
            "event.code" => maybe(instance.fault.as_ref().map(|_| EVENT)),
            "event.description" => maybe(event_description(instance)),
            "event.instance-event-id" => maybe(instance.fault.as_ref().map(|_| event_id(instance))),
            "event.not-before" => maybe(instance.fault.as_ref().map(|fault| iso(fault.since))),
            "instance-state-name" => one(instance.phase.name()),
            "instance-state-code" => one(instance.phase.code()),
            "instance-status.status" => one(Check::Instance.of(instance).0),
            "instance-status.reachability" => one(Check::Instance.of(instance).1),
            "system-status.status" => one(Check::System.of(instance).0),
            "system-status.reachability" => one(Check::System.of(instance).1),
            _ => None,
        },
    )?;
    let mut xml = Xml::new();
    chosen.write(&mut xml, "instanceStatusSet", |x, instance| {
        x.text("instanceId", &instance.id)
            .text("availabilityZone", &instance.zone);
        write_fault(x, instance);
        write_state(x, "instanceState", instance.phase);
        for (name, check) in [
            ("systemStatus", Check::System),
            ("instanceStatus", Check::Instance),
        ] {
            let (summary, reachability) = check.of(instance);
            x.node(name, |x| {
                x.text("status", summary);
                let running = (instance.phase == Phase::Running).then_some(());
                x.list("details", "item", running, |x, ()| {
                    let since = instance.impairment().filter(|_| reachability == "failed");
                    x.text("name", "reachability")
                        .text("status", reachability)
                        .maybe("impairedSince", since.map(|fault| iso(fault.since)));
                });
            });
        }
    });
    Ok(xml)
}

/// DescribeIamInstanceProfileAssociations: of the instances that have a profile.
pub(crate) fn describe_profiles(state: &State, params: &Params) -> Result<Xml, ApiError> {
    let id = |instance: &Instance| instance.id.as_str().replacen("i-", "iip-assoc-", 1);
    let with_profile = |one: &&Instance| one.profile.is_some() && one.is_alive();
    let all: Table<String, &Instance> = state
        .instances
        .values()
        .filter(with_profile)
        .map(|instance| (id(instance), instance))
        .collect();
    let missing = |ids: &[&str]| {
        ApiError::new(
            "InvalidAssociationID.NotFound",
            absent("association ID", "association IDs", ids),
        )
    };
    let chosen =
        Describe::new(params, &state.tags, &PROFILES).choose(&all, missing, |instance, name| {
            match name {
                "instance-id" => one(&instance.id),
                "state" => one("associated"),
                _ => None,
            }
        })?;
    let mut xml = Xml::new();
    chosen.write(
        &mut xml,
        "iamInstanceProfileAssociationSet",
        |x, instance| {
            x.text("associationId", id(instance))
                .text("instanceId", &instance.id)
                .node("iamInstanceProfile", |x| {
                    x.maybe("arn", instance.profile.as_deref().map(profile_arn))
                        .text("id", PROFILE_ID);
                })
                .text("state", "associated")
                .text("timestamp", iso(instance.launched));
        },
    );
    Ok(xml)
}

/// GetConsoleOutput; `output` is the output of the machine's serial console so far.
pub(crate) fn console_output(
    state: &State,
    now: Timestamp,
    params: &Params,
    output: &[u8],
) -> Result<Xml, ApiError> {
    let instance = state.instance(&InstanceId::required(params, "InstanceId")?)?;
    let mut xml = Xml::new();
    xml.text("instanceId", &instance.id)
        .text("timestamp", iso(now))
        .text("output", STANDARD.encode(output));
    Ok(xml)
}
