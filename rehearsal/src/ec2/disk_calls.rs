//! The calls on snapshots and volumes, and which discarded disks can be deleted.

use std::collections::BTreeSet;

use super::State;
use super::disks::{Attachment, Snapshot, SnapshotState, Source, Volume};
use super::network::zone_id;
use super::select::{CallSpec, Describe, absent, maybe, one};
use super::tags;
use crate::account::ACCOUNT;
use crate::ids::{Id as _, InstanceId, SnapshotId, VolumeId};
use crate::wire::{ApiError, Params, Xml, iso};

impl State {
    /// The snapshot of that id.
    ///
    /// # Errors
    /// `InvalidSnapshot.NotFound`.
    pub(crate) fn snapshot(&self, id: &SnapshotId) -> Result<&Snapshot, ApiError> {
        self.snapshots
            .get(id)
            .ok_or_else(|| snapshot_not_found(&[id.as_str()]))
    }

    /// The volume of that id.
    ///
    /// # Errors
    /// `InvalidVolume.NotFound`.
    pub(crate) fn volume(&self, id: &VolumeId) -> Result<&Volume, ApiError> {
        self.volumes
            .get(id)
            .ok_or_else(|| volume_not_found(&[id.as_str()]))
    }

    /// An instance's volumes, the root volume first.
    pub(crate) fn volumes_of<'a>(
        &'a self,
        instance_id: &'a InstanceId,
    ) -> impl Iterator<Item = (&'a Volume, &'a Attachment)> {
        let root = self
            .instances
            .get(instance_id)
            .map(|instance| instance.root_device.as_str());
        let mut all: Vec<_> = self
            .volumes
            .of(instance_id)
            .filter_map(|volume| Some((volume, volume.attachment.as_ref()?)))
            .collect();
        all.sort_by_key(|(_, attachment)| {
            (
                Some(attachment.device.as_str()) != root,
                attachment.device.clone(),
            )
        });
        all.into_iter()
    }

    fn is_copied_from(&self, disk: &str) -> bool {
        self.snapshots.values().any(|snapshot| {
            snapshot.state == SnapshotState::Pending
                && match &snapshot.source {
                    Source::Volume(id) => id == disk,
                    Source::Snapshot(id) => id == disk,
                    Source::File(_) | Source::Nothing => false,
                }
        })
    }

    /// Removes a snapshot; its disk is deleted as soon as nothing needs it.
    pub(crate) fn drop_snapshot(&mut self, id: &SnapshotId) {
        if self.snapshots.remove(id).is_some() {
            self.tags.remove(id.as_str());
            self.discarded.insert(id.to_string(), ());
        }
    }

    /// Removes a volume; its disk is deleted as soon as nothing needs it.
    pub(crate) fn drop_volume(&mut self, id: &VolumeId) {
        if self.volumes.remove(id) {
            self.tags.remove(id.as_str());
            self.discarded.insert(id.to_string(), ());
        }
    }

    /// Whether nothing needs a discarded disk any more.
    pub(crate) fn is_free(&self, disk: &str) -> bool {
        let to_be_made =
            self.volumes.rows().values().any(|volume| {
                !volume.made && volume.snapshot.as_ref().is_some_and(|id| id == disk)
            });
        !to_be_made && !self.is_copied_from(disk)
    }
}

fn snapshot_not_found(ids: &[&str]) -> ApiError {
    ApiError::new(
        "InvalidSnapshot.NotFound",
        format!("{}.", absent("snapshot", "snapshots", ids)),
    )
}

fn volume_not_found(ids: &[&str]) -> ApiError {
    ApiError::new(
        "InvalidVolume.NotFound",
        format!("{}.", absent("volume", "volumes", ids)),
    )
}

pub(super) const SNAPSHOTS: CallSpec = CallSpec {
    ids: "SnapshotId",
    ids_alone: Some("snapshotSet"),
    filters: &[
        "description",
        "encrypted",
        "owner-id",
        "progress",
        "snapshot-id",
        "start-time",
        "status",
        "storage-tier",
        "volume-id",
        "volume-size",
    ],
    absent: &["owner-alias", "transfer-type"],
    tags: true,
    ..CallSpec::USUAL
};

pub(super) const VOLUMES: CallSpec = CallSpec {
    ids: "VolumeId",
    ids_alone: Some("volumeSet"),
    filters: &[
        "attachment.attach-time",
        "attachment.delete-on-termination",
        "attachment.device",
        "attachment.instance-id",
        "attachment.status",
        "availability-zone",
        "availability-zone-id",
        "create-time",
        "encrypted",
        "multi-attach-enabled",
        "operator.managed",
        "size",
        "snapshot-id",
        "status",
        "volume-id",
        "volume-type",
    ],
    absent: &["fast-restored", "operator.principal"],
    tags: true,
    ..CallSpec::USUAL
};

/// DeleteSnapshot.
pub(crate) fn delete_snapshot(state: &mut State, params: &Params) -> Result<Xml, ApiError> {
    let id = SnapshotId::required(params, "SnapshotId")?;
    let snapshot = state.snapshot(&id)?;
    check_own(snapshot)?;
    if let Some(image) = state.images.values().find(|image| image.uses(&id)) {
        return Err(ApiError::new(
            "InvalidSnapshot.InUse",
            format!("The snapshot {id} is currently in use by {}", image.id),
        ));
    }
    state.drop_snapshot(&id);
    Ok(tags::done())
}

fn check_own(snapshot: &Snapshot) -> Result<(), ApiError> {
    if snapshot.owner == ACCOUNT {
        return Ok(());
    }
    Err(ApiError::new(
        "AuthFailure",
        format!("Not authorized for snapshot {}", snapshot.id),
    ))
}

/// DescribeSnapshots.
pub(crate) fn describe_snapshots(state: &State, params: &Params) -> Result<Xml, ApiError> {
    let owners = params.list("Owner");
    let chosen = Describe::new(params, &state.tags, &SNAPSHOTS).choose_where(
        &state.snapshots,
        |snapshot| owners.is_empty() || owners.iter().any(|owner| is_owner(owner, &snapshot.owner)),
        snapshot_not_found,
        |snapshot, name| match name {
            "snapshot-id" => one(&snapshot.id),
            "status" => one(snapshot.state.name()),
            "volume-id" => one(volume_id(snapshot)),
            "volume-size" => one(snapshot.size),
            "owner-id" => one(&snapshot.owner),
            "description" => one(&snapshot.description),
            "encrypted" => one(snapshot.key.is_some()),
            "progress" => one(progress(snapshot)),
            "start-time" => one(iso(snapshot.started)),
            "storage-tier" => one("standard"),
            _ => None,
        },
    )?;
    let mut xml = Xml::new();
    chosen.write(&mut xml, "snapshotSet", |x, snapshot| {
        x.text("snapshotId", &snapshot.id)
            .text("volumeId", volume_id(snapshot))
            .text("status", snapshot.state.name());
        if let SnapshotState::Failed(why) = &snapshot.state {
            x.text("statusMessage", why);
        }
        x.text("startTime", iso(snapshot.started))
            .maybe("completionTime", snapshot.completed.map(iso))
            .text("progress", progress(snapshot))
            .text("ownerId", &snapshot.owner)
            .text("description", &snapshot.description)
            .text("volumeSize", snapshot.size)
            .text("encrypted", snapshot.key.is_some())
            .maybe("kmsKeyId", snapshot.key.as_ref())
            .text("storageTier", "standard");
        tags::write(x, state.tags.get(snapshot.id.as_str()));
    });
    Ok(xml)
}

/// Whether `wanted` (an id or `self`) names the account `owner`.
pub(crate) fn is_owner(wanted: &str, owner: &str) -> bool {
    wanted == owner || (wanted == "self" && owner == ACCOUNT)
}

fn volume_id(snapshot: &Snapshot) -> &str {
    match &snapshot.source {
        Source::Volume(id) => id.as_str(),
        // EC2's id for snapshots that were not created from a volume here.
        Source::Snapshot(_) | Source::File(_) | Source::Nothing => "vol-ffffffff",
    }
}

fn progress(snapshot: &Snapshot) -> &'static str {
    match snapshot.state {
        SnapshotState::Completed => "100%",
        SnapshotState::Pending | SnapshotState::Failed(_) => "0%",
    }
}

/// DescribeSnapshotAttribute.
pub(crate) fn describe_snapshot_attribute(state: &State, params: &Params) -> Result<Xml, ApiError> {
    let snapshot = state.snapshot(&SnapshotId::required(params, "SnapshotId")?)?;
    let attribute = params.required("Attribute")?;
    let mut xml = Xml::new();
    xml.text("snapshotId", &snapshot.id);
    match attribute {
        "createVolumePermission" => {
            write_shared(&mut xml, "createVolumePermission", &snapshot.shared)
        }
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

/// Writes the accounts that a resource is shared with.
pub(crate) fn write_shared(xml: &mut Xml, name: &str, shared: &BTreeSet<String>) {
    xml.list(name, "item", shared, |x, who| {
        x.text(if who == "all" { "group" } else { "userId" }, who);
    });
}

/// ModifySnapshotAttribute.
pub(crate) fn modify_snapshot_attribute(
    state: &mut State,
    params: &Params,
) -> Result<Xml, ApiError> {
    let id = SnapshotId::required(params, "SnapshotId")?;
    check_own(state.snapshot(&id)?)?;
    if let Some(attribute) = params.text("Attribute")
        && attribute != "createVolumePermission"
    {
        return Err(ApiError::invalid_value(
            "attribute",
            attribute,
            "Only createVolumePermission can be modified.",
        ));
    }
    let change = Sharing::read(params, "CreateVolumePermission")?;
    if let Some(snapshot) = state.snapshots.get_mut(&id) {
        change.apply(&mut snapshot.shared);
    }
    Ok(tags::done())
}

/// A change of the accounts that a resource is shared with, in either of EC2's two forms.
#[derive(Debug, Default)]
pub(crate) struct Sharing {
    add: Vec<String>,
    remove: Vec<String>,
}

impl Sharing {
    /// Reads `<permission>.Add.N.UserId`…, or `OperationType` with `UserId.N` and `UserGroup.N`.
    ///
    /// # Errors
    /// For an unknown operation, group or account form.
    pub(crate) fn read(params: &Params, permission: &str) -> Result<Self, ApiError> {
        let mut sharing = Self::default();
        let lists = params.structure(permission);
        for (name, into) in [("Add", &mut sharing.add), ("Remove", &mut sharing.remove)] {
            for who in lists.structs(name) {
                into.extend(who.string("UserId").into_iter().chain(who.string("Group")));
                for (name, value) in who.iter() {
                    if !["UserId", "Group"].contains(&name) {
                        return Err(one_account(name, value));
                    }
                }
            }
        }
        for name in ["OrganizationArn", "OrganizationalUnitArn"] {
            if let Some(value) = params.list(name).first() {
                return Err(one_account(name, value));
            }
        }
        let mut flat = params.strings("UserId");
        flat.extend(params.strings("UserGroup"));
        match params.text("OperationType") {
            Some("add") | None => sharing.add.extend(flat),
            Some("remove") => sharing.remove.extend(flat),
            Some(other) => {
                return Err(ApiError::invalid_value(
                    "operationType",
                    other,
                    "expecting add or remove",
                ));
            }
        }
        for who in sharing.add.iter().chain(&sharing.remove) {
            let account = who.len() == 12 && who.bytes().all(|byte| byte.is_ascii_digit());
            if who != "all" && !account {
                return Err(ApiError::new(
                    "InvalidAMIAttributeItemValue",
                    format!("Invalid attribute item value \"{who}\" for userId item type."),
                ));
            }
        }
        Ok(sharing)
    }

    /// Makes the change.
    pub(crate) fn apply(self, shared: &mut BTreeSet<String>) {
        shared.extend(self.add);
        for who in &self.remove {
            shared.remove(who);
        }
    }
}

/// Refuses to share with organizations, which this cloud does not have.
fn one_account(name: &str, value: &str) -> ApiError {
    ApiError::new(
        "UnsupportedOperation",
        format!("there are no organizations here: {name} ({value}) cannot be honoured"),
    )
}

/// DeleteVolume.
pub(crate) fn delete_volume(state: &mut State, params: &Params) -> Result<Xml, ApiError> {
    let id = VolumeId::required(params, "VolumeId")?;
    if let Some(attachment) = &state.volume(&id)?.attachment {
        return Err(ApiError::new(
            "VolumeInUse",
            format!(
                "Volume {id} is currently attached to {}",
                attachment.instance
            ),
        ));
    }
    state.drop_volume(&id);
    Ok(tags::done())
}

/// DescribeVolumes.
pub(crate) fn describe_volumes(state: &State, params: &Params) -> Result<Xml, ApiError> {
    let chosen = Describe::new(params, &state.tags, &VOLUMES).choose(
        state.volumes.rows(),
        volume_not_found,
        |volume, name| {
            let attachment = volume.attachment.as_ref();
            match name {
                "volume-id" => one(&volume.id),
                "status" => one(volume.state()),
                "size" => one(volume.size),
                "volume-type" => one(&volume.kind),
                "snapshot-id" => maybe(volume.snapshot.as_ref()),
                "availability-zone" => one(&volume.zone),
                "encrypted" => one(volume.key.is_some()),
                "create-time" => one(iso(volume.created)),
                "availability-zone-id" => one(zone_id(&volume.zone)),
                "multi-attach-enabled" | "operator.managed" => one(false),
                "attachment.attach-time" => maybe(attachment.map(|at| iso(at.since))),
                "attachment.instance-id" => maybe(attachment.map(|at| &at.instance)),
                "attachment.device" => maybe(attachment.map(|at| &at.device)),
                "attachment.delete-on-termination" => {
                    maybe(attachment.map(|at| at.delete_on_termination))
                }
                "attachment.status" => maybe(attachment.map(|_| "attached")),
                _ => None,
            }
        },
    )?;
    let mut xml = Xml::new();
    chosen.write(&mut xml, "volumeSet", |x, volume| {
        x.text("volumeId", &volume.id)
            .text("size", volume.size)
            .text(
                "snapshotId",
                volume
                    .snapshot
                    .as_ref()
                    .map(SnapshotId::as_str)
                    .unwrap_or_default(),
            )
            .text("availabilityZone", &volume.zone)
            .text("status", volume.state())
            .text("createTime", iso(volume.created))
            .list("attachmentSet", "item", &volume.attachment, |x, at| {
                x.text("volumeId", &volume.id)
                    .text("instanceId", &at.instance)
                    .text("device", &at.device)
                    .text("status", "attached")
                    .text("attachTime", iso(at.since))
                    .text("deleteOnTermination", at.delete_on_termination);
            })
            .text("volumeType", &volume.kind)
            .maybe("iops", volume.iops)
            .maybe("throughput", volume.throughput)
            .text("encrypted", volume.key.is_some())
            .maybe("kmsKeyId", volume.key.as_ref())
            .text("multiAttachEnabled", false);
        tags::write(x, state.tags.get(volume.id.as_str()));
    });
    Ok(xml)
}
