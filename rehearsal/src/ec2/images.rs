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
        let same_kind = wanted.kind.is_none() || wanted.kind == self.kind;
        Self {
            device: self.device.clone(),
            snapshot: wanted.snapshot.clone().or_else(|| self.snapshot.clone()),
            size: wanted.size.or(self.size),
            kind: wanted.kind.clone().or_else(|| self.kind.clone()),
            // Of another type, they are not the image's.
            iops: wanted.iops.or(self.iops.filter(|_| same_kind)),
            throughput: wanted.throughput.or(self.throughput.filter(|_| same_kind)),
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

    /// Refuses IOPS and throughput that its type does not have, or that it lacks.
    ///
    /// # Errors
    /// EC2's errors.
    pub(crate) fn check_performance(&self) -> Result<(), ApiError> {
        let kind = self.kind.as_deref().unwrap_or("gp2");
        let combination = |parameter: &str| {
            ApiError::new(
                "InvalidParameterCombination",
                format!("The parameter {parameter} is not supported for {kind} volumes."),
            )
        };
        let provisioned = ["io1", "io2"].contains(&kind);
        if self.iops.is_some() && !provisioned && kind != "gp3" {
            return Err(combination("iops"));
        }
        if self.throughput.is_some() && kind != "gp3" {
            return Err(combination("throughput"));
        }
        if self.iops.is_none() && provisioned {
            return Err(ApiError::new(
                "MissingParameter",
                format!("The parameter iops must be specified for {kind} volumes."),
            ));
        }
        Ok(())
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
    /// Whether its time of deprecation has passed.
    pub(crate) fn is_deprecated(&self, now: Timestamp) -> bool {
        self.deprecated.is_some_and(|at| at <= now)
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_takes_only_its_own_performance() {
        for (form, expected) in [
            ("", Ok(())),
            ("VolumeType=gp2", Ok(())),
            (
                "VolumeType=gp2&X.Iops=3000",
                Err("InvalidParameterCombination"),
            ),
            ("VolumeType=io2", Err("MissingParameter")),
            ("VolumeType=io2&X.Iops=3000", Ok(())),
            (
                "VolumeType=io2&X.Iops=3000&X.Throughput=200",
                Err("InvalidParameterCombination"),
            ),
            ("VolumeType=gp3&X.Iops=4000&X.Throughput=200", Ok(())),
        ] {
            let ebs = "BlockDeviceMapping.1.Ebs.";
            let form = format!(
                "BlockDeviceMapping.1.DeviceName=/dev/xvda&{ebs}{}",
                form.replace("X.", ebs)
            );
            let read = Mapping::read_all(&Params::parse(form.as_bytes())).unwrap();
            let found = read[0].check_performance();
            let found = found.map_err(|error| error.code.into_owned());
            assert_eq!(found, expected.map_err(str::to_owned), "{form}");
        }
    }

    #[test]
    fn another_type_drops_the_images_performance() {
        let image = Mapping {
            kind: Some("gp3".to_owned()),
            iops: Some(4000),
            throughput: Some(200),
            ..Mapping::default()
        };
        for (kind, iops) in [
            (None, Some(4000)),
            (Some("gp3"), Some(4000)),
            (Some("gp2"), None),
        ] {
            let wanted = Mapping {
                kind: kind.map(str::to_owned),
                ..Mapping::default()
            };
            assert_eq!(image.with(&wanted).iops, iops, "{kind:?}");
        }
    }
}
