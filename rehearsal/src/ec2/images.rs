//! Machine images as EC2 records them.
//!
//! An image is this record and the snapshots that it maps to devices; `machines.rs` copies those.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::encryption;
use crate::account::ACCOUNT;
use crate::ids::{Id as _, ImageId, InstanceId, SnapshotId};
use crate::wire::{ApiError, Params};

/// A machine image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image {
    /// Its id.
    pub(crate) id: ImageId,
    /// Unique among its owner's images.
    pub(crate) name: String,
    /// Free text.
    pub(crate) description: String,
    /// The account that owns it.
    pub(crate) owner: String,
    /// When it was requested.
    pub(crate) created: Timestamp,
    /// Its state.
    pub(crate) state: ImageState,
    /// Its devices, the root device first.
    pub(crate) mappings: Vec<Mapping>,
    /// The device that it boots.
    pub(crate) root_device: String,
    /// One of [`ARCHITECTURES`].
    pub(crate) architecture: String,
    /// `uefi`, `uefi-preferred` or `legacy-bios`, when set.
    pub(crate) boot_mode: Option<String>,
    /// Whether it has a driver for EC2's network adapter.
    pub(crate) ena: bool,
    /// `v2.0` when its instances shall require IMDSv2.
    pub(crate) imds: Option<String>,
    /// `simple`, when set.
    pub(crate) sriov: Option<String>,
    /// Accounts that may launch it besides its owner; `all` for every account.
    pub(crate) shared: BTreeSet<String>,
    /// The instance it was created from, by CreateImage.
    pub(crate) source_instance: Option<InstanceId>,
    /// Its source image: the one it is a copy of, or the one its instance was launched from.
    pub(crate) source_image: Option<ImageId>,
    /// When it is deprecated, if ever.
    pub(crate) deprecated: Option<Timestamp>,
    /// When it was last launched.
    pub(crate) launched: Option<Timestamp>,
}

/// The state of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ImageState {
    /// Its snapshots are being copied.
    Pending,
    /// Ready to be launched.
    Available,
    /// Failed, and why.
    Failed(String),
}

impl ImageState {
    /// As EC2 writes it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Available => "available",
            Self::Failed(_) => "failed",
        }
    }
}

/// A block device mapping.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mapping {
    /// e.g. `/dev/xvda`
    pub(crate) device: String,
    /// `None` for an empty disk.
    pub(crate) snapshot: Option<SnapshotId>,
    /// GiB; the snapshot's size when not set.
    pub(crate) size: Option<u32>,
    /// e.g. `gp3`
    pub(crate) kind: Option<String>,
    /// IOPS.
    pub(crate) iops: Option<i64>,
    /// MiB/s.
    pub(crate) throughput: Option<i64>,
    /// Whether EC2 would encrypt it.
    pub(crate) encrypted: Option<bool>,
    /// The ARN of the key to encrypt it with, in a launch request.
    pub(crate) key: Option<String>,
    /// Whether the volume is deleted with its instance.
    pub(crate) delete_on_termination: Option<bool>,
    /// `ephemeral0`…, an instance store volume, which no type here has: kept and shown.
    pub(crate) virtual_name: Option<String>,
    /// Whether the image's device is left out (`NoDevice`).
    pub(crate) suppressed: bool,
}

impl Mapping {
    /// Reads `BlockDeviceMapping.N`.
    ///
    /// # Errors
    /// When a field is not valid.
    pub(crate) fn read_all(params: &Params) -> Result<Vec<Self>, ApiError> {
        params
            .structs("BlockDeviceMapping")
            .iter()
            .map(|mapping| {
                let ebs = mapping.structure("Ebs");
                let encryption = encryption::Requested::read(&ebs)?;
                let size = match ebs.integer("VolumeSize")? {
                    None => None,
                    Some(size) => Some(
                        u32::try_from(size)
                            .ok()
                            .filter(|size| (1..=16_384).contains(size))
                            .ok_or_else(|| {
                                ApiError::invalid_value(
                                    "volumeSize",
                                    &size.to_string(),
                                    "Expecting 1 to 16384 GiB.",
                                )
                            })?,
                    ),
                };
                let kind = ebs.string("VolumeType");
                if let Some(kind) = &kind
                    && !["standard", "gp2", "gp3", "io1", "io2", "st1", "sc1"]
                        .contains(&kind.as_str())
                {
                    return Err(ApiError::invalid_value(
                        "volumeType",
                        kind,
                        "Unknown volume type.",
                    ));
                }
                Ok(Self {
                    device: mapping.required("DeviceName")?.to_owned(),
                    snapshot: ebs.text("SnapshotId").map(SnapshotId::parse).transpose()?,
                    size,
                    kind,
                    iops: ebs.integer("Iops")?,
                    throughput: ebs.integer("Throughput")?,
                    encrypted: encryption.encrypted,
                    key: encryption.key,
                    delete_on_termination: ebs.boolean("DeleteOnTermination")?,
                    virtual_name: mapping.string("VirtualName"),
                    suppressed: mapping.text("NoDevice").is_some(),
                })
            })
            .collect()
    }

    /// This mapping, overridden by `wanted`.
    pub(crate) fn with(&self, wanted: &Self) -> Self {
        Self {
            device: self.device.clone(),
            snapshot: wanted.snapshot.clone().or_else(|| self.snapshot.clone()),
            size: wanted.size.or(self.size),
            kind: wanted.kind.clone().or_else(|| self.kind.clone()),
            iops: wanted.iops.or(self.iops),
            throughput: wanted.throughput.or(self.throughput),
            encrypted: wanted.encrypted.or(self.encrypted),
            key: wanted.key.clone().or_else(|| self.key.clone()),
            delete_on_termination: wanted.delete_on_termination.or(self.delete_on_termination),
            virtual_name: wanted
                .virtual_name
                .clone()
                .or_else(|| self.virtual_name.clone()),
            suppressed: wanted.suppressed,
        }
    }

    /// Overrides `devices` by `overrides`: known devices are changed or left out, new ones added.
    pub(crate) fn overlay(devices: &[Self], overrides: &[Self]) -> Vec<Self> {
        let mut all = devices.to_vec();
        for wanted in overrides {
            match all
                .iter_mut()
                .find(|mapping| mapping.device == wanted.device)
            {
                Some(mapping) => *mapping = mapping.with(wanted),
                None => all.push(wanted.clone()),
            }
        }
        all.retain(|mapping| !mapping.suppressed);
        all
    }
}

impl Image {
    /// Whether it maps that snapshot.
    pub(crate) fn uses(&self, snapshot_id: &SnapshotId) -> bool {
        self.snapshots().any(|id| id == snapshot_id)
    }

    /// The snapshots it maps.
    pub(crate) fn snapshots(&self) -> impl Iterator<Item = &SnapshotId> {
        self.mappings
            .iter()
            .filter_map(|mapping| mapping.snapshot.as_ref())
    }

    /// Refuses changes to another account's image.
    ///
    /// # Errors
    /// `AuthFailure`.
    pub(crate) fn check_own(&self) -> Result<(), ApiError> {
        if self.owner == ACCOUNT {
            return Ok(());
        }
        Err(ApiError::new(
            "AuthFailure",
            format!("Not authorized for image:{}", self.id),
        ))
    }
}

/// EC2's error for unknown images.
pub(crate) fn not_found(ids: &[&str]) -> ApiError {
    let message = match ids {
        [id] => format!("The image id '[{id}]' does not exist"),
        ids => format!("The image ids '[{}]' do not exist", ids.join(", ")),
    };
    ApiError::new("InvalidAMIID.NotFound", message)
}

/// EC2's error for a volume that is smaller than its snapshot.
pub(crate) fn too_small(size: u32, snapshot: &str, needed: u32) -> ApiError {
    ApiError::new(
        "InvalidBlockDeviceMapping",
        format!(
            "Volume of size {size}GB is smaller than snapshot '{snapshot}', expect size >= {needed}GB"
        ),
    )
}
