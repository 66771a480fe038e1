//! Which function answers which EC2 action.

use std::collections::BTreeMap;

use super::State;
use super::copy;
use super::credit_calls;
use super::disk_calls;
use super::image_calls;
use super::image_lifecycle;
use super::instance_attributes;
use super::instance_lifecycle;
use super::instance_types;
use super::instance_views;
use super::interface_calls;
use super::key_calls;
use super::network_calls;
use super::run;
use super::security_group_calls;
use super::security_groups;
use super::spot_calls;
use super::tag_calls;
use super::template_calls;
use crate::request::RequestContext;
use crate::wire::{ApiError, Params, Xml};

#[cfg(test)]
use super::select;

/// Answers one EC2 request; see [`crate::cloud`] for the convention.
///
/// # Errors
/// EC2's own errors.
pub(crate) fn handle(
    ec2: &mut State,
    ctx: &RequestContext,
    action: &str,
    params: &Params,
) -> Result<Xml, ApiError> {
    let params = &without_empty(params);
    if params.boolean("DryRun")? == Some(true) {
        // A trial on a copy of the state, which is discarded.
        answer(&mut ec2.clone(), ctx, action, params)?;
        return Err(ApiError::new(
            "DryRunOperation",
            "Request would have succeeded, but DryRun flag is set.",
        )
        .with_status(412));
    }
    answer(ec2, ctx, action, params)
}

/// The parameters without empty ones, which EC2 treats as not sent; but a value may be empty, and `NoDevice` always is.
fn without_empty(params: &Params) -> Params {
    let is_sent = |name: &str, value: &str| {
        !value.is_empty() || name.contains("Value") || name.ends_with("NoDevice")
    };
    let flat: BTreeMap<String, String> = params
        .iter()
        .filter(|(name, value)| is_sent(name, value))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Params::from(flat)
}

fn answer(
    ec2: &mut State,
    ctx: &RequestContext,
    action: &str,
    params: &Params,
) -> Result<Xml, ApiError> {
    match action {
        "RegisterImage" => image_lifecycle::register(ec2, ctx, params),
        "CreateImage" => image_lifecycle::create(ec2, ctx, params),
        "CopyImage" => copy::copy(ec2, ctx, params),
        "DeregisterImage" => image_lifecycle::deregister(ec2, params),
        "DescribeImages" => image_calls::describe(ec2, ctx, params),
        "DescribeImageAttribute" => image_calls::describe_attribute(ec2, params),
        "ModifyImageAttribute" => image_calls::modify_attribute(ec2, params),
        "ResetImageAttribute" => image_calls::reset_attribute(ec2, params),
        "EnableImageDeprecation" => image_calls::deprecate(ec2, params, true),
        "DisableImageDeprecation" => image_calls::deprecate(ec2, params, false),
        "DeleteSnapshot" => disk_calls::delete_snapshot(ec2, params),
        "DescribeSnapshots" => disk_calls::describe_snapshots(ec2, params),
        "DescribeSnapshotAttribute" => disk_calls::describe_snapshot_attribute(ec2, params),
        "ModifySnapshotAttribute" => disk_calls::modify_snapshot_attribute(ec2, params),
        "DeleteVolume" => disk_calls::delete_volume(ec2, params),
        "DescribeVolumes" => disk_calls::describe_volumes(ec2, params),
        "RunInstances" => run::run(ec2, ctx, params),
        "DescribeInstances" => instance_views::describe(ec2, params),
        "DescribeInstanceStatus" => instance_views::describe_status(ec2, params),
        "DescribeInstanceAttribute" => instance_attributes::describe_attribute(ec2, params),
        "ModifyInstanceAttribute" => instance_attributes::modify_attribute(ec2, params),
        "ModifyInstanceMetadataOptions" => instance_attributes::modify_metadata(ec2, params),
        "StartInstances" => instance_lifecycle::start(ec2, ctx, params),
        "StopInstances" => instance_lifecycle::stop(ec2, ctx, params),
        "RebootInstances" => instance_lifecycle::reboot(ec2, params),
        "TerminateInstances" => instance_lifecycle::terminate(ec2, ctx, params),
        "MonitorInstances" => instance_attributes::monitor(ec2, params, true),
        "UnmonitorInstances" => instance_attributes::monitor(ec2, params, false),
        "DescribeIamInstanceProfileAssociations" => instance_views::describe_profiles(ec2, params),
        "DescribeInstanceTypes" => instance_types::describe(params),
        "DescribeInstanceTypeOfferings" => instance_types::describe_offerings(params),
        "DescribeInstanceCreditSpecifications" => credit_calls::describe_credits(ec2, params),
        "ModifyInstanceCreditSpecification" => credit_calls::modify_credits(ec2, params),
        "DescribeSpotInstanceRequests" => spot_calls::describe(ec2, params),
        "CancelSpotInstanceRequests" => spot_calls::cancel(ec2, params),
        "CreateKeyPair" => key_calls::create(ec2, ctx, params),
        "ImportKeyPair" => key_calls::import(ec2, ctx, params),
        "DeleteKeyPair" => key_calls::delete(ec2, params),
        "DescribeKeyPairs" => key_calls::describe(ec2, params),
        "CreateSecurityGroup" => security_group_calls::create(ec2, params),
        "DeleteSecurityGroup" => security_group_calls::delete(ec2, params),
        "DescribeSecurityGroups" => security_group_calls::describe(ec2, params),
        "AuthorizeSecurityGroupIngress" => {
            security_group_calls::authorize(ec2, params, security_groups::Direction::Ingress)
        }
        "AuthorizeSecurityGroupEgress" => {
            security_group_calls::authorize(ec2, params, security_groups::Direction::Egress)
        }
        "RevokeSecurityGroupIngress" => {
            security_group_calls::revoke(ec2, params, security_groups::Direction::Ingress)
        }
        "RevokeSecurityGroupEgress" => {
            security_group_calls::revoke(ec2, params, security_groups::Direction::Egress)
        }
        "DescribeNetworkInterfaces" => interface_calls::describe(ec2, params),
        "DeleteNetworkInterface" => interface_calls::delete(ec2, params),
        "DescribeVpcs" => network_calls::describe_vpcs(ec2, params),
        "DescribeVpcAttribute" => network_calls::describe_vpc_attribute(ec2, params),
        "DescribeSubnets" => network_calls::describe_subnets(ec2, params),
        "DescribeAvailabilityZones" => network_calls::describe_zones(params),
        "DescribeRegions" => network_calls::describe_regions(params),
        "DescribeAccountAttributes" => network_calls::describe_account(ec2, params),
        "CreateLaunchTemplate" => template_calls::create(ec2, ctx, params),
        "CreateLaunchTemplateVersion" => template_calls::create_version(ec2, ctx, params),
        "ModifyLaunchTemplate" => template_calls::modify(ec2, params),
        "DeleteLaunchTemplate" => template_calls::delete(ec2, params),
        "DeleteLaunchTemplateVersions" => template_calls::delete_versions(ec2, params),
        "DescribeLaunchTemplates" => template_calls::describe(ec2, params),
        "DescribeLaunchTemplateVersions" => template_calls::describe_versions(ec2, params),
        "CreateTags" => tag_calls::create(ec2, params),
        "DeleteTags" => tag_calls::delete(ec2, params),
        "DescribeTags" => tag_calls::describe(ec2, params),
        _ => Err(ApiError::invalid_action(action)),
    }
}

/// The specification of each Describe call, for tests of all of them.
#[cfg(test)]
pub(crate) fn all_specs() -> [(&'static str, select::CallSpec); 20] {
    [
        ("DescribeImages", image_calls::TAKES),
        ("DescribeSnapshots", disk_calls::SNAPSHOTS),
        ("DescribeVolumes", disk_calls::VOLUMES),
        ("DescribeInstances", instance_views::INSTANCES),
        ("DescribeInstanceStatus", instance_views::STATUS),
        (
            "DescribeIamInstanceProfileAssociations",
            instance_views::PROFILES,
        ),
        (
            "DescribeInstanceCreditSpecifications",
            credit_calls::CREDITS,
        ),
        ("DescribeSpotInstanceRequests", spot_calls::REQUESTS),
        ("DescribeInstanceTypes", instance_types::TAKES),
        ("DescribeInstanceTypeOfferings", instance_types::OFFERINGS),
        ("DescribeKeyPairs", key_calls::TAKES),
        ("DescribeSecurityGroups", security_group_calls::TAKES),
        ("DescribeNetworkInterfaces", interface_calls::TAKES),
        ("DescribeVpcs", network_calls::VPCS),
        ("DescribeSubnets", network_calls::SUBNETS),
        (
            "DescribeAvailabilityZones",
            network_calls::AVAILABILITY_ZONES,
        ),
        ("DescribeRegions", network_calls::ALL_REGIONS),
        ("DescribeLaunchTemplates", template_calls::TEMPLATES),
        ("DescribeLaunchTemplateVersions", template_calls::VERSIONS),
        ("DescribeTags", tag_calls::TAKES),
    ]
}
