//! The state of EC2, and how it is written and read back.

use super::disks::{Snapshot, Volumes};
use super::images::Image;
use super::instances::Instance;
use super::interfaces::Interface;
use super::keys::KeyPair;
use super::network::Network;
use super::security_groups::SecurityGroup;
use super::tags::Tags;
use super::templates::Template;
use super::tokens::UsedToken;
use crate::ids::{
    Id as _, ImageId, InstanceId, InterfaceId, SecurityGroupId, SnapshotId, TemplateId,
};
use crate::table::{Changes, Table, read};

/// The state of EC2.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Images by id.
    pub(crate) images: Table<ImageId, Image>,
    /// Snapshots by id.
    pub(crate) snapshots: Table<SnapshotId, Snapshot>,
    /// Volumes by id.
    pub(crate) volumes: Volumes,
    /// Instances by id, terminated ones for one more hour.
    pub(crate) instances: Table<InstanceId, Instance>,
    /// Launch templates by id.
    pub(crate) templates: Table<TemplateId, Template>,
    /// Key pairs by name.
    pub(crate) keys: Table<String, KeyPair>,
    /// Security groups by id.
    pub(crate) groups: Table<SecurityGroupId, SecurityGroup>,
    /// Network interfaces that outlived their instances, by id.
    pub(crate) interfaces: Table<InterfaceId, Interface>,
    /// The default VPC and its subnets; there is no other.
    pub(crate) network: Network,
    /// Tags by resource id.
    pub(crate) tags: Table<String, Tags>,
    /// Ids of removed volumes, snapshots and instances whose files are still to be removed.
    pub(crate) discarded: Table<String, ()>,
    /// Requests by ClientToken: their parameters and results.
    pub(crate) tokens: Table<String, UsedToken>,
    /// Whether machines are puppets, which boot nothing and so have any architecture. Not kept: of this start of the cloud.
    pub(crate) puppets: bool,
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

    /// Reads a row back; returns whether it is one of EC2's.
    ///
    /// # Errors
    /// When it was written by another release.
    pub(crate) fn restore(&mut self, table: &str, key: &str, value: &[u8]) -> anyhow::Result<bool> {
        let key = key.to_owned();
        match table {
            "ec2.images" => drop(self.images.insert(ImageId::unchecked(key), read(value)?)),
            "ec2.snapshots" => {
                drop(
                    self.snapshots
                        .insert(SnapshotId::unchecked(key), read(value)?),
                );
            }
            "ec2.volumes" => self.volumes.insert(read(value)?),
            "ec2.instances" => {
                drop(
                    self.instances
                        .insert(InstanceId::unchecked(key), read(value)?),
                );
            }
            "ec2.templates" => {
                drop(
                    self.templates
                        .insert(TemplateId::unchecked(key), read(value)?),
                );
            }
            "ec2.keys" => drop(self.keys.insert(key, read(value)?)),
            "ec2.groups" => {
                drop(
                    self.groups
                        .insert(SecurityGroupId::unchecked(key), read(value)?),
                );
            }
            "ec2.interfaces" => {
                drop(
                    self.interfaces
                        .insert(InterfaceId::unchecked(key), read(value)?),
                );
            }
            "ec2.tags" => drop(self.tags.insert(key, read(value)?)),
            "ec2.discarded" => drop(self.discarded.insert(key, ())),
            "ec2.tokens" => drop(self.tokens.insert(key, read(value)?)),
            "ec2.network" => self.network = read(value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Replaces the tags of a resource just created.
    pub(crate) fn tag(&mut self, id: impl AsRef<str>, tags: Tags) {
        if !tags.is_empty() {
            self.tags.insert(id.as_ref().to_owned(), tags);
        }
    }
}
