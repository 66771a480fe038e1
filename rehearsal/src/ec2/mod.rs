//! EC2: what the rest of the cloud and its callers know of images, machines, disks and their network.
//!
//! It keeps the books; it starts no machine and copies no disk: what it wants done it writes down in
//! its state, and `machines.rs` does it and reports back.
//!
//! # Not as on AWS
//!
//! - An instance's private address is an address of this machine's loopback network; its public address
//!   and DNS name are that same address. Security groups are kept and shown, and filter nothing.
//! - Every machine has 2 CPUs and 512 MiB, whatever its type says; only x86_64 runs. Status
//!   checks pass as soon as the machine is started, not when its system is up.
//! - Only the root volume is seen by the machine; the others are kept, shown and copied. Encryption,
//!   IOPS and throughput are shown and do nothing. Volumes and snapshots come with instances and images:
//!   CreateVolume, AttachVolume, CreateSnapshot and CopySnapshot are `InvalidAction`. CopyImage copies within the
//!   region. Keys (KmsKeyId) are not looked up. A snapshot's progress is 0 % or 100 %.
//! - CreateImage powers a running instance off and on again, and refuses NoReboot of one. A stop, a
//!   reboot and a termination press the power button; a terminated machine has 30 s before its plug is
//!   pulled.
//! - There is one VPC, the default one, and no other network objects but each instance's interface. Placement
//!   groups, dedicated hosts and IPv6 are absent. Spot has no prices and one-time requests only; CPU credits change nothing.
//! - Instance profiles are not looked up; their credentials are made up, change hourly and open everything.
//! - Nothing is eventually consistent: what was answered is so at once. DryRun asks the same checks, not IAM.

use std::collections::BTreeMap;

use crate::cloud::RequestContext;
use crate::table::{Changes, Table, read};
use crate::wire::{ApiError, Params, Xml};

pub(crate) mod boot_mode;
mod copy;
pub(crate) mod cpu;
pub(crate) mod disks;
pub(crate) mod encryption;
pub(crate) mod image_calls;
pub(crate) mod images;
pub(crate) mod instance_attributes;
pub(crate) mod instance_steps;
pub(crate) mod instance_types;
pub(crate) mod instance_views;
pub(crate) mod instances;
pub(crate) mod interfaces;
pub(crate) mod keys;
pub(crate) mod neighbours;
pub(crate) mod network;
pub(crate) mod run;
pub(crate) mod security_groups;
pub(crate) mod select;
pub(crate) mod spot;
pub(crate) mod tags;
pub(crate) mod templates;

pub(crate) use instance_views::console_output;
pub(crate) use instances::tick;
use tags::Tags;

/// Everything EC2 remembers.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Images by id.
    pub(crate) images: Table<String, images::Image>,
    /// Snapshots by id.
    pub(crate) snapshots: Table<String, disks::Snapshot>,
    /// Volumes by id.
    pub(crate) volumes: disks::Volumes,
    /// Instances by id, the terminated ones for an hour more.
    pub(crate) instances: Table<String, instances::Instance>,
    /// Launch templates by id.
    pub(crate) templates: Table<String, templates::Template>,
    /// Key pairs by name.
    pub(crate) keys: Table<String, keys::KeyPair>,
    /// Security groups by id.
    pub(crate) groups: Table<String, security_groups::SecurityGroup>,
    /// Network interfaces that outlived their instances, by id.
    pub(crate) interfaces: Table<String, interfaces::Interface>,
    /// The default VPC and its subnets; there is no other.
    pub(crate) network: network::Network,
    /// Tags by resource id.
    pub(crate) tags: Table<String, Tags>,
    /// Ids of volumes, snapshots and instances that are gone and whose files are still to go.
    pub(crate) discarded: Table<String, ()>,
    /// RunInstances by ClientToken: what was asked, and the reservation it made.
    pub(crate) tokens: Table<String, run::Spent>,
}

impl State {
    /// What changed since `before`.
    pub(crate) fn changes(&self, before: &Self, changes: &mut Changes) {
        changes.table("ec2.images", &before.images, &self.images);
        changes.table("ec2.snapshots", &before.snapshots, &self.snapshots);
        changes.table("ec2.volumes", before.volumes.rows(), self.volumes.rows());
        changes.table("ec2.instances", &before.instances, &self.instances);
        changes.table("ec2.templates", &before.templates, &self.templates);
        changes.table("ec2.keys", &before.keys, &self.keys);
        changes.table("ec2.groups", &before.groups, &self.groups);
        changes.table("ec2.interfaces", &before.interfaces, &self.interfaces);
        changes.table("ec2.tags", &before.tags, &self.tags);
        changes.table("ec2.discarded", &before.discarded, &self.discarded);
        changes.table("ec2.tokens", &before.tokens, &self.tokens);
        changes.single("ec2.network", &before.network, &self.network);
    }

    /// CallSpec a row back in; whether it is one of EC2's.
    ///
    /// # Errors
    /// When it is of another release.
    pub(crate) fn restore(&mut self, table: &str, key: &str, value: &[u8]) -> anyhow::Result<bool> {
        let key = key.to_owned();
        match table {
            "ec2.images" => drop(self.images.insert(key, read(value)?)),
            "ec2.snapshots" => drop(self.snapshots.insert(key, read(value)?)),
            "ec2.volumes" => self.volumes.insert(read(value)?),
            "ec2.instances" => drop(self.instances.insert(key, read(value)?)),
            "ec2.templates" => drop(self.templates.insert(key, read(value)?)),
            "ec2.keys" => drop(self.keys.insert(key, read(value)?)),
            "ec2.groups" => drop(self.groups.insert(key, read(value)?)),
            "ec2.interfaces" => drop(self.interfaces.insert(key, read(value)?)),
            "ec2.tags" => drop(self.tags.insert(key, read(value)?)),
            "ec2.discarded" => drop(self.discarded.insert(key, ())),
            "ec2.tokens" => drop(self.tokens.insert(key, read(value)?)),
            "ec2.network" => self.network = read(value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Whether there is such a resource.
    ///
    /// # Errors
    /// The `NotFound` of its kind, or `InvalidID` for an id of no kind.
    pub(crate) fn check_exists(&self, id: &str) -> Result<(), ApiError> {
        match tags::kind(id) {
            Some("image") => self.image(id).map(drop),
            Some("instance") => self.instance(id).map(drop),
            Some("snapshot") => self.snapshot(id).map(drop),
            Some("volume") => self.volume(id).map(drop),
            Some("security-group") => self.group(id).map(drop),
            Some("launch-template") => self.template_by_id(id).map(drop),
            Some("key-pair") if self.keys.values().any(|key| key.id == id) => Ok(()),
            Some("network-interface") => self.interface(id).map(drop),
            Some(spot::KIND) => self.check_spot_request(id),
            Some("subnet") => self.network.subnet(id).map(drop),
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

    /// Replaces the tags of a resource just created.
    pub(crate) fn tag(&mut self, id: &str, tags: Tags) {
        if !tags.is_empty() {
            self.tags.insert(id.to_owned(), tags);
        }
    }
}

/// Answers one EC2 request; see [`crate::cloud`] for the convention.
///
/// # Errors
/// What EC2 itself would say.
pub(crate) fn handle(
    ec2: &mut State,
    ctx: &RequestContext,
    action: &str,
    params: &Params,
) -> Result<Xml, ApiError> {
    let params = &said(params);
    if params.boolean("DryRun")? == Some(true) {
        // Tried for real, on a copy that is thrown away.
        answer(&mut ec2.clone(), ctx, action, params)?;
        return Err(ApiError::new(
            "DryRunOperation",
            "Request would have succeeded, but DryRun flag is set.",
        )
        .with_status(412));
    }
    answer(ec2, ctx, action, params)
}

/// The parameters without those sent empty, which EC2 takes as not sent; but a value may be empty, and
/// `NoDevice` always is.
fn said(params: &Params) -> Params {
    let said = |name: &str, value: &str| {
        !value.is_empty() || name.contains("Value") || name.ends_with("NoDevice")
    };
    let flat: BTreeMap<String, String> = params
        .iter()
        .filter(|(name, value)| said(name, value))
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
        "RegisterImage" => images::register(ec2, ctx, params),
        "CreateImage" => images::create(ec2, ctx, params),
        "CopyImage" => copy::copy(ec2, ctx, params),
        "DeregisterImage" => images::deregister(ec2, params),
        "DescribeImages" => image_calls::describe(ec2, params),
        "DescribeImageAttribute" => image_calls::describe_attribute(ec2, params),
        "ModifyImageAttribute" => image_calls::modify_attribute(ec2, params),
        "ResetImageAttribute" => image_calls::reset_attribute(ec2, params),
        "EnableImageDeprecation" => image_calls::deprecate(ec2, params, true),
        "DisableImageDeprecation" => image_calls::deprecate(ec2, params, false),
        "DeleteSnapshot" => disks::delete_snapshot(ec2, params),
        "DescribeSnapshots" => disks::describe_snapshots(ec2, params),
        "DescribeSnapshotAttribute" => disks::describe_snapshot_attribute(ec2, params),
        "ModifySnapshotAttribute" => disks::modify_snapshot_attribute(ec2, params),
        "DeleteVolume" => disks::delete_volume(ec2, params),
        "DescribeVolumes" => disks::describe_volumes(ec2, params),
        "RunInstances" => run::run(ec2, ctx, params),
        "DescribeInstances" => instance_views::describe(ec2, params),
        "DescribeInstanceStatus" => instance_views::describe_status(ec2, params),
        "DescribeInstanceAttribute" => instance_attributes::describe_attribute(ec2, params),
        "ModifyInstanceAttribute" => instance_attributes::modify_attribute(ec2, params),
        "ModifyInstanceMetadataOptions" => instance_attributes::modify_metadata(ec2, params),
        "StartInstances" => instance_steps::start(ec2, ctx, params),
        "StopInstances" => instance_steps::stop(ec2, ctx, params),
        "RebootInstances" => instance_steps::reboot(ec2, params),
        "TerminateInstances" => instance_steps::terminate(ec2, ctx, params),
        "MonitorInstances" => instance_attributes::monitor(ec2, params, true),
        "UnmonitorInstances" => instance_attributes::monitor(ec2, params, false),
        "DescribeIamInstanceProfileAssociations" => instance_views::describe_profiles(ec2, params),
        "DescribeInstanceTypes" => instance_types::describe(params),
        "DescribeInstanceTypeOfferings" => instance_types::describe_offerings(params),
        "DescribeInstanceCreditSpecifications" => cpu::describe_credits(ec2, params),
        "ModifyInstanceCreditSpecification" => cpu::modify_credits(ec2, params),
        "DescribeSpotInstanceRequests" => spot::describe(ec2, params),
        "CancelSpotInstanceRequests" => spot::cancel(ec2, params),
        "CreateKeyPair" => keys::create(ec2, ctx, params),
        "ImportKeyPair" => keys::import(ec2, ctx, params),
        "DeleteKeyPair" => keys::delete(ec2, params),
        "DescribeKeyPairs" => keys::describe(ec2, params),
        "CreateSecurityGroup" => security_groups::create(ec2, params),
        "DeleteSecurityGroup" => security_groups::delete(ec2, params),
        "DescribeSecurityGroups" => security_groups::describe(ec2, params),
        "AuthorizeSecurityGroupIngress" => {
            security_groups::authorize(ec2, params, security_groups::Way::In)
        }
        "AuthorizeSecurityGroupEgress" => {
            security_groups::authorize(ec2, params, security_groups::Way::Out)
        }
        "RevokeSecurityGroupIngress" => {
            security_groups::revoke(ec2, params, security_groups::Way::In)
        }
        "RevokeSecurityGroupEgress" => {
            security_groups::revoke(ec2, params, security_groups::Way::Out)
        }
        "DescribeNetworkInterfaces" => interfaces::describe(ec2, params),
        "DeleteNetworkInterface" => interfaces::delete(ec2, params),
        "DescribeVpcs" => network::describe_vpcs(ec2, params),
        "DescribeVpcAttribute" => network::describe_vpc_attribute(ec2, params),
        "DescribeSubnets" => network::describe_subnets(ec2, params),
        "DescribeAvailabilityZones" => network::describe_zones(params),
        "DescribeRegions" => network::describe_regions(params),
        "DescribeAccountAttributes" => network::describe_account(ec2, params),
        "CreateLaunchTemplate" => templates::create(ec2, ctx, params),
        "CreateLaunchTemplateVersion" => templates::create_version(ec2, ctx, params),
        "ModifyLaunchTemplate" => templates::modify(ec2, params),
        "DeleteLaunchTemplate" => templates::delete(ec2, params),
        "DeleteLaunchTemplateVersions" => templates::delete_versions(ec2, params),
        "DescribeLaunchTemplates" => templates::describe(ec2, params),
        "DescribeLaunchTemplateVersions" => templates::describe_versions(ec2, params),
        "CreateTags" => tags::create(ec2, params),
        "DeleteTags" => tags::delete(ec2, params),
        "DescribeTags" => tags::describe(ec2, params),
        _ => Err(ApiError::invalid_action(action)),
    }
}

/// What each Describe call accepts, for tests that try it all.
#[cfg(test)]
pub(crate) fn all_specs() -> [(&'static str, select::CallSpec); 20] {
    [
        ("DescribeImages", image_calls::TAKES),
        ("DescribeSnapshots", disks::SNAPSHOTS),
        ("DescribeVolumes", disks::VOLUMES),
        ("DescribeInstances", instance_views::INSTANCES),
        ("DescribeInstanceStatus", instance_views::STATUS),
        (
            "DescribeIamInstanceProfileAssociations",
            instance_views::PROFILES,
        ),
        ("DescribeInstanceCreditSpecifications", cpu::CREDITS),
        ("DescribeSpotInstanceRequests", spot::REQUESTS),
        ("DescribeInstanceTypes", instance_types::TAKES),
        ("DescribeInstanceTypeOfferings", instance_types::OFFERINGS),
        ("DescribeKeyPairs", keys::TAKES),
        ("DescribeSecurityGroups", security_groups::TAKES),
        ("DescribeNetworkInterfaces", interfaces::TAKES),
        ("DescribeVpcs", network::VPCS),
        ("DescribeSubnets", network::SUBNETS),
        ("DescribeAvailabilityZones", network::AVAILABILITY_ZONES),
        ("DescribeRegions", network::ALL_REGIONS),
        ("DescribeLaunchTemplates", templates::TEMPLATES),
        ("DescribeLaunchTemplateVersions", templates::VERSIONS),
        ("DescribeTags", tags::TAKES),
    ]
}
