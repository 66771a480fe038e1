//! The calls on the network: the VPC, subnets, zones, regions and account attributes.

use super::State;
use super::network::{RESERVED, SUBNET_SIZE, Subnet, ZONES, address, zone_id};
use super::select::{CallSpec, Describe, Filters, Page, absent, one};
use super::tags;
use crate::account::{ACCOUNT, REGION};
use crate::ids::SubnetId;
use crate::wire::{ApiError, Params, Xml};

/// Regions that DescribeRegions lists; only the first exists here.
const REGIONS: [&str; 5] = [
    REGION,
    "us-east-2",
    "us-west-2",
    "eu-west-1",
    "eu-central-1",
];

pub(super) const VPCS: CallSpec = CallSpec {
    ids: "VpcId",
    ids_alone: Some("vpcSet"),
    filters: &[
        "cidr",
        "cidr-block-association.cidr-block",
        "cidr-block-association.state",
        "dhcp-options-id",
        "is-default",
        "isDefault",
        "owner-id",
        "state",
        "vpc-id",
    ],
    absent: &[
        "cidr-block-association.association-id",
        "ipv6-cidr-block-association.association-id",
        "ipv6-cidr-block-association.ipv6-cidr-block",
        "ipv6-cidr-block-association.ipv6-pool",
        "ipv6-cidr-block-association.state",
    ],
    tags: true,
    ..CallSpec::USUAL
};

pub(super) const SUBNETS: CallSpec = CallSpec {
    ids: "SubnetId",
    ids_alone: Some("subnetSet"),
    filters: &[
        "availability-zone",
        "availability-zone-id",
        "availabilityZone",
        "available-ip-address-count",
        "cidr",
        "cidr-block",
        "cidrBlock",
        "default-for-az",
        "defaultForAz",
        "enable-dns64",
        "ipv6-native",
        "map-customer-owned-ip-on-launch",
        "map-public-ip-on-launch",
        "owner-id",
        "private-dns-name-options-on-launch.enable-resource-name-dns-a-record",
        "private-dns-name-options-on-launch.enable-resource-name-dns-aaaa-record",
        "private-dns-name-options-on-launch.hostname-type",
        "state",
        "subnet-arn",
        "subnet-id",
        "vpc-id",
    ],
    absent: &[
        "customer-owned-ipv4-pool",
        "enable-lni-at-device-index",
        "ipv6-cidr-block-association.association-id",
        "ipv6-cidr-block-association.ipv6-cidr-block",
        "ipv6-cidr-block-association.state",
        "outpost-arn",
    ],
    tags: true,
    ..CallSpec::USUAL
};

pub(super) const AVAILABILITY_ZONES: CallSpec = CallSpec {
    filters: &[
        "group-long-name",
        "group-name",
        "opt-in-status",
        "region-name",
        "state",
        "zone-id",
        "zone-name",
        "zone-type",
    ],
    absent: &["message", "parent-zone-id", "parent-zone-name"],
    ..CallSpec::USUAL
};

pub(super) const ALL_REGIONS: CallSpec = CallSpec {
    filters: &["endpoint", "opt-in-status", "region-name"],
    ..CallSpec::USUAL
};

fn subnets_not_found(ids: &[&str]) -> ApiError {
    ApiError::new(
        "InvalidSubnetID.NotFound",
        absent("subnet ID", "subnet IDs", ids),
    )
}

fn vpcs_not_found(ids: &[&str]) -> ApiError {
    ApiError::new("InvalidVpcID.NotFound", absent("vpc ID", "vpc IDs", ids))
}

/// DescribeVpcs.
pub(crate) fn describe_vpcs(state: &State, params: &Params) -> Result<Xml, ApiError> {
    let network = &state.network;
    let all = [(network.vpc.clone(), ())].into();
    let chosen =
        Describe::new(params, &state.tags, &VPCS).choose(&all, vpcs_not_found, |(), name| {
            match name {
                "vpc-id" => one(&network.vpc),
                "isDefault" | "is-default" => one(true),
                "state" => one("available"),
                "cidr" | "cidr-block-association.cidr-block" => one(network.cidr()),
                "cidr-block-association.state" => one("associated"),
                "owner-id" => one(ACCOUNT),
                "dhcp-options-id" => one("default"),
                _ => None,
            }
        })?;
    let mut xml = Xml::new();
    chosen.write(&mut xml, "vpcSet", |x, ()| {
        x.text("vpcId", &network.vpc)
            .text("ownerId", ACCOUNT)
            .text("state", "available")
            .text("cidrBlock", network.cidr())
            .text("dhcpOptionsId", "default")
            .text("instanceTenancy", "default")
            .text("isDefault", true);
        tags::write(x, state.tags.get(network.vpc.as_str()));
    });
    Ok(xml)
}

/// DescribeVpcAttribute.
pub(crate) fn describe_vpc_attribute(state: &State, params: &Params) -> Result<Xml, ApiError> {
    let id = params.required("VpcId")?;
    state.network.check_vpc(id)?;
    let attribute = params.required("Attribute")?;
    if !["enableDnsSupport", "enableDnsHostnames"].contains(&attribute) {
        return Err(ApiError::invalid_value(
            "attribute",
            attribute,
            "Unknown attribute.",
        ));
    }
    let mut xml = Xml::new();
    xml.text("vpcId", id).node(attribute, |x| {
        x.text("value", true);
    });
    Ok(xml)
}

/// DescribeSubnets.
pub(crate) fn describe_subnets(state: &State, params: &Params) -> Result<Xml, ApiError> {
    let network = &state.network;
    let cidr = |subnet: &Subnet| format!("{}/20", address(network.second_byte, subnet.index, 0));
    let free = |subnet: &Subnet| {
        let used = state
            .instances
            .values()
            .filter(|instance| instance.subnet == subnet.id && instance.is_alive())
            .count();
        let left = state
            .interfaces
            .values()
            .filter(|left| left.subnet == subnet.id)
            .count();
        SUBNET_SIZE as usize - RESERVED as usize - 1 - used - left
    };
    let all = network
        .subnets
        .iter()
        .map(|subnet| (subnet.id.clone(), subnet))
        .collect();
    let chosen = Describe::new(params, &state.tags, &SUBNETS).choose(
        &all,
        subnets_not_found,
        |subnet, name| match name {
            "subnet-id" => one(&subnet.id),
            "vpc-id" => one(&network.vpc),
            "availability-zone" | "availabilityZone" => one(&subnet.zone),
            "availability-zone-id" => one(zone_id(&subnet.zone)),
            "default-for-az" | "defaultForAz" => one(true),
            "map-public-ip-on-launch" => one(true),
            "subnet-arn" => one(subnet_arn(&subnet.id)),
            "enable-dns64"
            | "ipv6-native"
            | "map-customer-owned-ip-on-launch"
            | "private-dns-name-options-on-launch.enable-resource-name-dns-a-record"
            | "private-dns-name-options-on-launch.enable-resource-name-dns-aaaa-record" => {
                one(false)
            }
            "private-dns-name-options-on-launch.hostname-type" => one("ip-name"),
            "state" => one("available"),
            "cidr" | "cidr-block" | "cidrBlock" => one(cidr(subnet)),
            "available-ip-address-count" => one(free(subnet)),
            "owner-id" => one(ACCOUNT),
            _ => None,
        },
    )?;
    let mut xml = Xml::new();
    chosen.write(&mut xml, "subnetSet", |x, subnet| {
        x.text("subnetId", &subnet.id)
            .text("subnetArn", subnet_arn(&subnet.id))
            .text("state", "available")
            .text("vpcId", &network.vpc)
            .text("ownerId", ACCOUNT)
            .text("cidrBlock", cidr(subnet))
            .text("availableIpAddressCount", free(subnet))
            .text("availabilityZone", &subnet.zone)
            .text("availabilityZoneId", zone_id(&subnet.zone))
            .text("defaultForAz", true)
            .text("mapPublicIpOnLaunch", true)
            .text("assignIpv6AddressOnCreation", false);
        tags::write(x, state.tags.get(subnet.id.as_str()));
    });
    Ok(xml)
}

fn subnet_arn(id: &SubnetId) -> String {
    format!("arn:aws:ec2:{REGION}:{ACCOUNT}:subnet/{id}")
}

/// DescribeAvailabilityZones.
pub(crate) fn describe_zones(params: &Params) -> Result<Xml, ApiError> {
    let filters = Filters::read(params, &AVAILABILITY_ZONES)?;
    let wanted = params.list("ZoneName");
    let mut found = Vec::new();
    for letter in ZONES {
        let zone = format!("{REGION}{letter}");
        let passes = filters.pass(None, |name| match name {
            "zone-name" => one(&zone),
            "zone-id" => one(zone_id(&zone)),
            "state" => one("available"),
            "region-name" | "group-name" => one(REGION),
            "zone-type" => one("availability-zone"),
            "group-long-name" => one("US East (N. Virginia)"),
            "opt-in-status" => one("opt-in-not-required"),
            _ => None,
        })?;
        if passes && (wanted.is_empty() || wanted.contains(&zone.as_str())) {
            found.push(zone);
        }
    }
    if let Some(unknown) = wanted.iter().find(|zone| {
        !ZONES
            .iter()
            .any(|letter| **zone == format!("{REGION}{letter}"))
    }) {
        return Err(ApiError::new(
            "InvalidParameterValue",
            format!("Invalid availability zone: [{unknown}]"),
        ));
    }
    let mut xml = Xml::new();
    xml.list("availabilityZoneInfo", "item", found, |x, zone| {
        x.text("zoneName", &zone)
            .text("zoneState", "available")
            .text("regionName", REGION)
            .text("zoneId", zone_id(&zone))
            .text("groupName", REGION)
            .text("networkBorderGroup", REGION)
            .text("zoneType", "availability-zone")
            .text("optInStatus", "opt-in-not-required");
    });
    Ok(xml)
}

/// DescribeRegions.
pub(crate) fn describe_regions(params: &Params) -> Result<Xml, ApiError> {
    let filters = Filters::read(params, &ALL_REGIONS)?;
    let wanted = params.list("RegionName");
    let mut found = Vec::new();
    for region in REGIONS {
        let passes = filters.pass(None, |name| match name {
            "region-name" => one(region),
            "endpoint" => one(format!("ec2.{region}.amazonaws.com")),
            "opt-in-status" => one("opt-in-not-required"),
            _ => None,
        })?;
        if passes && (wanted.is_empty() || wanted.contains(&region)) {
            found.push((region.to_owned(), region));
        }
    }
    if let Some(unknown) = wanted.iter().find(|region| !REGIONS.contains(region)) {
        return Err(ApiError::new(
            "InvalidParameterValue",
            format!("Invalid region provided: {unknown}"),
        ));
    }
    let mut xml = Xml::new();
    Page::read(params, &ALL_REGIONS)?
        .cut(found)
        .write(&mut xml, "regionInfo", |x, region| {
            x.text("regionName", region)
                .text("regionEndpoint", format_args!("ec2.{region}.amazonaws.com"))
                .text("optInStatus", "opt-in-not-required");
        });
    Ok(xml)
}

/// DescribeAccountAttributes.
pub(crate) fn describe_account(state: &State, params: &Params) -> Result<Xml, ApiError> {
    let vpc = state.network.vpc.as_str();
    let all = [
        ("supported-platforms", "VPC"),
        ("default-vpc", vpc),
        ("max-instances", "1000"),
        ("vpc-max-security-groups-per-interface", "5"),
        ("max-elastic-ips", "5"),
        ("vpc-max-elastic-ips", "5"),
    ];
    let wanted = params.list("AttributeName");
    if let Some(unknown) = wanted
        .iter()
        .find(|name| !all.iter().any(|(known, _)| known == *name))
    {
        return Err(ApiError::invalid_value(
            "attributeName",
            unknown,
            "Unknown attribute.",
        ));
    }
    let mut xml = Xml::new();
    let chosen = all
        .iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.contains(name));
    xml.list("accountAttributeSet", "item", chosen, |x, (name, value)| {
        x.text("attributeName", name)
            .list("attributeValueSet", "item", [value], |x, value| {
                x.text("attributeValue", value);
            });
    });
    Ok(xml)
}
