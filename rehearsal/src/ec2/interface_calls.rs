//! The calls on network interfaces, and the interfaces of instances.

use std::net::Ipv4Addr;

use super::State;
use super::instance_views::{group_name, private_name};
use super::instances::{Instance, Phase};
use super::interfaces::{Attachment, Interface};
use super::select::{CallSpec, Describe, absent, each, maybe, one};
use super::tags;
use crate::account::ACCOUNT;
use crate::ids::{Id as _, InstanceId, InterfaceId};
use crate::table::Table;
use crate::wire::{ApiError, Params, Xml, iso};

impl Instance {
    /// The id of its interface.
    pub(crate) fn interface_id(&self) -> InterfaceId {
        InterfaceId::unchecked(self.id.as_str().replacen("i-", "eni-", 1))
    }

    /// Its public address, while it has one.
    pub(crate) fn public_address(&self) -> Option<Ipv4Addr> {
        let up = matches!(self.phase, Phase::Pending | Phase::Running);
        (up && self.interface.public).then_some(self.address)
    }

    fn interface(&self) -> Interface {
        Interface {
            id: self.interface_id(),
            description: self.interface.description.clone(),
            subnet: self.subnet.clone(),
            zone: self.zone.clone(),
            address: self.address,
            groups: self.groups.clone(),
            attachment: Some(Attachment {
                id: self.id.as_str().replacen("i-", "eni-attach-", 1),
                instance: self.id.clone(),
                since: self.launched,
                delete_on_termination: self.interface.delete_on_termination,
                public: self.public_address().is_some(),
            }),
        }
    }
}

impl State {
    /// The interface of that id.
    ///
    /// # Errors
    /// `InvalidNetworkInterfaceID.NotFound`.
    pub(crate) fn interface(&self, id: &InterfaceId) -> Result<Interface, ApiError> {
        if let Some(left) = self.interfaces.get(id) {
            return Ok(left.clone());
        }
        let owner = id.as_str().replacen("eni-", "i-", 1);
        let instance = self.instances.get(owner.as_str());
        match instance.filter(|instance| instance.is_alive()) {
            Some(instance) => Ok(instance.interface()),
            None => Err(not_found(&[id.as_str()])),
        }
    }

    /// Removes the interface of a terminated instance, or keeps it on its own.
    pub(crate) fn release_interface(&mut self, instance_id: &InstanceId) {
        let Some(instance) = self.instances.get(instance_id) else {
            return;
        };
        let interface = Interface {
            attachment: None,
            ..instance.interface()
        };
        if instance.interface.delete_on_termination {
            self.tags.remove(interface.id.as_str());
        } else {
            self.interfaces.insert(interface.id.clone(), interface);
        }
    }

    /// Whether an address is in use.
    pub(crate) fn is_taken(&self, address: Ipv4Addr) -> bool {
        let of_instance = |other: &Instance| other.is_alive() && other.address == address;
        self.instances.values().any(of_instance)
            || self.interfaces.values().any(|left| left.address == address)
    }
}

fn not_found(ids: &[&str]) -> ApiError {
    ApiError::new(
        "InvalidNetworkInterfaceID.NotFound",
        absent("networkInterface ID", "networkInterface IDs", ids),
    )
}

pub(super) const TAKES: CallSpec = CallSpec {
    ids: "NetworkInterfaceId",
    ids_alone: Some("networkInterfaceIdSet"),
    filters: &[
        "addresses.association.owner-id",
        "addresses.association.public-ip",
        "addresses.primary",
        "addresses.private-ip-address",
        "association.ip-owner-id",
        "association.public-dns-name",
        "association.public-ip",
        "attachment.attach-time",
        "attachment.attachment-id",
        "attachment.delete-on-termination",
        "attachment.device-index",
        "attachment.instance-id",
        "attachment.instance-owner-id",
        "attachment.status",
        "availability-zone",
        "availability-zone-id",
        "description",
        "group-id",
        "group-name",
        "interface-type",
        "mac-address",
        "network-interface-id",
        "operator.managed",
        "owner-id",
        "private-dns-name",
        "private-ip-address",
        "requester-managed",
        "source-dest-check",
        "status",
        "subnet-id",
        "vpc-id",
    ],
    absent: &[
        "association.allocation-id",
        "association.association-id",
        "ipv6-addresses.ipv6-address",
        "operator.principal",
        "requester-id",
    ],
    tags: true,
    ..CallSpec::USUAL
};

/// DescribeNetworkInterfaces.
pub(crate) fn describe(state: &State, params: &Params) -> Result<Xml, ApiError> {
    let named = InterfaceId::list(params, "NetworkInterfaceId")?;
    let all: Table<InterfaceId, Interface> = if named.is_empty() {
        let alive = state.instances.values().filter(|one| one.is_alive());
        let attached = alive.map(Instance::interface);
        attached
            .chain(state.interfaces.values().cloned())
            .map(|interface| (interface.id.clone(), interface))
            .collect()
    } else {
        let mut found = Table::default();
        for id in named {
            // Unknown ids are reported together below.
            if let Ok(interface) = state.interface(&id) {
                found.insert(id, interface);
            }
        }
        found
    };
    let chosen =
        Describe::new(params, &state.tags, &TAKES).choose(&all, not_found, |interface, name| {
            field(state, interface, name)
        })?;
    let mut xml = Xml::new();
    chosen.write(&mut xml, "networkInterfaceSet", |x, interface| {
        write(x, state, interface);
        x.text("availabilityZone", &interface.zone)
            .text("requesterManaged", false);
        tags::write_all(x, state.tags.get(interface.id.as_str()));
    });
    Ok(xml)
}

/// The values of an instance's interface for a filter `network-interface.…` of DescribeInstances.
pub(crate) fn field_of(state: &State, instance: &Instance, name: &str) -> Option<Vec<String>> {
    let interface = instance.interface();
    let tags = || state.tags.get(interface.id.as_str()).into_iter().flatten();
    match name {
        "tag-key" => Some(tags().map(|(key, _)| key.clone()).collect()),
        "tag-value" => Some(tags().map(|(_, value)| value.clone()).collect()),
        "attachment.network-card-index" => one(0),
        "public-dns-name" => maybe(interface.public_address()),
        "addresses.private-dns-name" => one(private_name(interface.address)),
        "addresses.association.public-dns-name" => maybe(interface.public_address()),
        "addresses.association.ip-owner-id" => maybe(interface.public_address().map(|_| "amazon")),
        "deny-all-igw-traffic" | "ipv6-native" => one(false),
        name => field(state, &interface, name),
    }
}

fn field(state: &State, interface: &Interface, name: &str) -> Option<Vec<String>> {
    let at = interface.attachment.as_ref();
    match name {
        "network-interface-id" => one(&interface.id),
        "description" => one(&interface.description),
        "status" => one(interface.status()),
        "subnet-id" => one(&interface.subnet),
        "vpc-id" => one(&state.network.vpc),
        "availability-zone" => one(&interface.zone),
        "availability-zone-id" => one(super::network::zone_id(&interface.zone)),
        "owner-id" => one(ACCOUNT),
        "group-id" => each(&interface.groups),
        "group-name" => Some(
            interface
                .groups
                .iter()
                .map(|id| group_name(state, id).to_owned())
                .collect(),
        ),
        "private-ip-address" | "addresses.private-ip-address" => one(interface.address),
        "addresses.primary" => one(true),
        "private-dns-name" => one(private_name(interface.address)),
        "mac-address" => one(interface.mac()),
        "interface-type" => one("interface"),
        "source-dest-check" => one(true),
        "requester-managed" | "operator.managed" => one(false),
        "association.public-ip"
        | "addresses.association.public-ip"
        | "association.public-dns-name" => maybe(interface.public_address()),
        "association.ip-owner-id" | "addresses.association.owner-id" => {
            maybe(interface.public_address().map(|_| "amazon"))
        }
        "attachment.attachment-id" => maybe(at.map(|at| &at.id)),
        "attachment.instance-id" => maybe(at.map(|at| &at.instance)),
        "attachment.instance-owner-id" => maybe(at.map(|_| ACCOUNT)),
        "attachment.device-index" => maybe(at.map(|_| 0)),
        "attachment.status" => maybe(at.map(|_| "attached")),
        "attachment.attach-time" => maybe(at.map(|at| iso(at.since))),
        "attachment.delete-on-termination" => maybe(at.map(|at| at.delete_on_termination)),
        _ => None,
    }
}

/// Writes an instance's interface for DescribeInstances.
pub(crate) fn write_of(x: &mut Xml, state: &State, instance: &Instance) {
    let alive = instance.is_alive().then(|| instance.interface());
    x.list("networkInterfaceSet", "item", alive, |x, interface| {
        write(x, state, &interface);
    });
}

fn write(x: &mut Xml, state: &State, interface: &Interface) {
    x.text("networkInterfaceId", &interface.id)
        .text("subnetId", &interface.subnet)
        .text("vpcId", &state.network.vpc)
        .text("description", &interface.description)
        .text("ownerId", ACCOUNT)
        .text("status", interface.status())
        .text("macAddress", interface.mac())
        .text("privateIpAddress", interface.address)
        .text("privateDnsName", private_name(interface.address))
        .text("sourceDestCheck", true)
        .text("interfaceType", "interface")
        .list("groupSet", "item", &interface.groups, |x, id| {
            x.text("groupId", id)
                .text("groupName", group_name(state, id));
        });
    if let Some(at) = &interface.attachment {
        x.node("attachment", |x| {
            x.text("attachmentId", &at.id)
                .text("deviceIndex", 0)
                .text("networkCardIndex", 0)
                .text("instanceId", &at.instance)
                .text("instanceOwnerId", ACCOUNT)
                .text("status", "attached")
                .text("attachTime", iso(at.since))
                .text("deleteOnTermination", at.delete_on_termination);
        });
    }
    write_association(x, interface.public_address());
    x.list(
        "privateIpAddressesSet",
        "item",
        [interface.address],
        |x, address| {
            x.text("privateIpAddress", address)
                .text("privateDnsName", private_name(address))
                .text("primary", true);
            write_association(x, interface.public_address());
        },
    );
}

fn write_association(x: &mut Xml, public: Option<Ipv4Addr>) {
    if let Some(address) = public {
        x.node("association", |x| {
            x.text("publicIp", address)
                .text("publicDnsName", address)
                .text("ipOwnerId", "amazon");
        });
    }
}

/// DeleteNetworkInterface: only one that outlived its instance.
pub(crate) fn delete(state: &mut State, params: &Params) -> Result<Xml, ApiError> {
    let id = InterfaceId::required(params, "NetworkInterfaceId")?;
    if state.interface(&id)?.attachment.is_some() {
        return Err(ApiError::new(
            "InvalidParameterValue",
            format!("Network interface '{id}' is currently in use."),
        ));
    }
    state.interfaces.remove(&id);
    state.tags.remove(id.as_str());
    Ok(tags::done())
}
