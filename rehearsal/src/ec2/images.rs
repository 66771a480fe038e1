//! Machine images: how they come, what they are, and how they go.
//!
//! An image is its record here and the snapshots it maps to devices; `machines.rs` copies those.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::encryption;
use crate::account::ACCOUNT;
use crate::wire::{ApiError, Params};

/// A machine image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image {
    /// `ami-…`
    pub(crate) id: String,
    /// Unique among its owner's.
    pub(crate) name: String,
    /// For people.
    pub(crate) description: String,
    /// The account it belongs to.
    pub(crate) owner: String,
    /// When it was asked for.
    pub(crate) created: Timestamp,
    /// How far it is.
    pub(crate) state: ImageState,
    /// Its devices, the root's first.
    pub(crate) mappings: Vec<Mapping>,
    /// Which of them it boots.
    pub(crate) root_device: String,
    /// One of [`ARCHITECTURES`].
    pub(crate) architecture: String,
    /// `uefi`, `uefi-preferred` or `legacy-bios`, when it says.
    pub(crate) boot_mode: Option<String>,
    /// Whether it has a driver for EC2's network adapter.
    pub(crate) ena: bool,
    /// `v2.0` when its instances shall demand IMDSv2.
    pub(crate) imds: Option<String>,
    /// `simple` when it says so.
    pub(crate) sriov: Option<String>,
    /// Accounts that may launch it besides its owner; `all` for everybody.
    pub(crate) shared: BTreeSet<String>,
    /// The instance it was made of, by CreateImage.
    pub(crate) source_instance: Option<String>,
    /// The image it comes from: the one it is a copy of, or the one its instance was launched from.
    pub(crate) source_image: Option<String>,
    /// When it is out of date, if somebody said.
    pub(crate) deprecated: Option<Timestamp>,
    /// When it was last launched.
    pub(crate) launched: Option<Timestamp>,
}

/// How far an image is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ImageState {
    /// Its snapshots are being copied.
    Pending,
    /// It can be launched.
    Available,
    /// It never will, and why.
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

/// A device and what is on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mapping {
    /// e.g. `/dev/xvda`
    pub(crate) device: String,
    /// `None` for an empty disk.
    pub(crate) snapshot: Option<String>,
    /// GiB; the snapshot's when not said.
    pub(crate) size: Option<u32>,
    /// e.g. `gp3`
    pub(crate) kind: Option<String>,
    /// IOPS.
    pub(crate) iops: Option<i64>,
    /// MiB/s.
    pub(crate) throughput: Option<i64>,
    /// Whether EC2 would encrypt it.
    pub(crate) encrypted: Option<bool>,
    /// The ARN of the key it is to be encrypted with, of a launch request.
    pub(crate) key: Option<String>,
    /// Whether the volume goes with its instance.
    pub(crate) delete_on_termination: Option<bool>,
    /// `ephemeral0`…, which no type here has: kept and shown.
    pub(crate) virtual_name: Option<String>,
    /// That the device shall not be, whatever the image says.
    pub(crate) suppressed: bool,
}

impl Mapping {
    /// Reads `BlockDeviceMapping.N`.
    ///
    /// # Errors
    /// When a field is none that EC2 takes.
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
                    snapshot: ebs.string("SnapshotId"),
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

    /// This mapping with what `wish` says in its place.
    pub(crate) fn with(&self, wish: &Self) -> Self {
        Self {
            device: self.device.clone(),
            snapshot: wish.snapshot.clone().or_else(|| self.snapshot.clone()),
            size: wish.size.or(self.size),
            kind: wish.kind.clone().or_else(|| self.kind.clone()),
            iops: wish.iops.or(self.iops),
            throughput: wish.throughput.or(self.throughput),
            encrypted: wish.encrypted.or(self.encrypted),
            key: wish.key.clone().or_else(|| self.key.clone()),
            delete_on_termination: wish.delete_on_termination.or(self.delete_on_termination),
            virtual_name: wish
                .virtual_name
                .clone()
                .or_else(|| self.virtual_name.clone()),
            suppressed: wish.suppressed,
        }
    }

    /// Lays `wishes` over `devices`: known devices are changed or left out, new ones added.
    pub(crate) fn overlay(devices: &[Self], wishes: &[Self]) -> Vec<Self> {
        let mut all = devices.to_vec();
        for wish in wishes {
            match all.iter_mut().find(|mapping| mapping.device == wish.device) {
                Some(mapping) => *mapping = mapping.with(wish),
                None => all.push(wish.clone()),
            }
        }
        all.retain(|mapping| !mapping.suppressed);
        all
    }
}

impl Image {
    /// Whether it stands on that snapshot.
    pub(crate) fn uses(&self, snapshot_id: &str) -> bool {
        self.snapshots().any(|id| id == snapshot_id)
    }

    /// The snapshots it stands on.
    pub(crate) fn snapshots(&self) -> impl Iterator<Item = &str> {
        self.mappings
            .iter()
            .filter_map(|mapping| mapping.snapshot.as_deref())
    }

    /// Refuses to change another's image.
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

/// Refuses what is no image's id.
///
/// # Errors
/// `InvalidAMIID.Malformed`.
pub(crate) fn check_id(id: &str) -> Result<(), ApiError> {
    if id.starts_with("ami-") {
        return Ok(());
    }
    Err(ApiError::new(
        "InvalidAMIID.Malformed",
        format!("Invalid id: \"{id}\" (expecting \"ami-...\")"),
    ))
}

/// What EC2 says of images that are not there.
pub(crate) fn not_found(ids: &[&str]) -> ApiError {
    let message = match ids {
        [id] => format!("The image id '[{id}]' does not exist"),
        ids => format!("The image ids '[{}]' do not exist", ids.join(", ")),
    };
    ApiError::new("InvalidAMIID.NotFound", message)
}

/// What EC2 says to a volume that its snapshot does not fit on.
pub(crate) fn too_small(size: u32, snapshot: &str, needed: u32) -> ApiError {
    ApiError::new(
        "InvalidBlockDeviceMapping",
        format!(
            "Volume of size {size}GB is smaller than snapshot '{snapshot}', expect size >= {needed}GB"
        ),
    )
}
