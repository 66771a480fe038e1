//! Disks of images, snapshots and volumes, as files in the cloud's folder.
//!
//! A store manages files and has no notion of EC2. Ids name the files: `snap-…` and `vol-…`.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;

use crate::guests::HostKind;
use crate::ids::{SnapshotId, VolumeId};

mod cow;
mod empty;

/// Stores the disks. Calls may take as long as copying takes: the cloud makes the long ones ([`DiskStore::import`],
/// [`DiskStore::capture`]) from threads that may block.
pub(crate) trait DiskStore: Send + Sync {
    /// Imports the image file `file` as the disk of snapshot `snapshot_id`, durably. Cheap where the file system can
    /// share blocks. May be repeated for the same id.
    ///
    /// # Errors
    /// When it cannot be read or written.
    fn import(&self, snapshot_id: &SnapshotId, file: &Path) -> anyhow::Result<()>;
    /// Creates the disk of a new volume: a copy-on-write overlay of the snapshot's disk, or an empty disk; at least
    /// `size_gib` large. A repeated call for the same id changes nothing. The volume must stay usable when the snapshot
    /// is deleted later (as on AWS): keep its base, e.g. by a hard link.
    ///
    /// # Errors
    /// When the snapshot has no disk, or the disk cannot be written.
    fn create_volume(
        &self,
        volume_id: &VolumeId,
        snapshot_id: Option<&SnapshotId>,
        size_gib: u32,
    ) -> anyhow::Result<PathBuf>;
    /// The path of a volume's disk.
    fn volume_path(&self, volume_id: &VolumeId) -> PathBuf;
    /// Whether the first sector of a volume's disk contains boot code for BIOS.
    ///
    /// # Errors
    /// When the volume has no disk or it cannot be read.
    fn has_boot_code(&self, volume_id: &VolumeId) -> anyhow::Result<bool>;
    /// Copies a volume's disk, whole and flat, to the disk of a new snapshot; returns once it is durable. An error or a
    /// kill leaves nothing incomplete behind.
    ///
    /// # Errors
    /// When the volume has no disk or the copy cannot be written.
    fn capture(&self, volume_id: &VolumeId, snapshot_id: &SnapshotId) -> anyhow::Result<()>;
    /// Copies the disk of snapshot `snapshot_id` to that of `copy_id`, durably. Either may be deleted without the
    /// other. May be repeated for the same id.
    ///
    /// # Errors
    /// When the source has no disk or the copy cannot be written.
    fn duplicate(&self, snapshot_id: &SnapshotId, copy_id: &SnapshotId) -> anyhow::Result<()>;
    /// Deletes a volume's disk; an unknown one is fine.
    fn delete_volume(&self, volume_id: &VolumeId);
    /// Deletes a snapshot's disk; an unknown one is fine.
    fn delete_snapshot(&self, snapshot_id: &SnapshotId);
}

/// Opens the store for the given kind of guests.
///
/// # Errors
/// When the folder cannot be written, or a required program is not installed.
pub(crate) fn open(kind: &HostKind, folder: &Path) -> anyhow::Result<Arc<dyn DiskStore>> {
    Ok(match kind {
        HostKind::Qemu(_) => Arc::new(cow::CowDisks::open(folder)?),
        HostKind::Puppets { .. } => Arc::new(empty::EmptyDisks::new(folder)),
    })
}

/// Bytes of a disk's first sector.
const SECTOR: u64 = 512;
/// Where the boot code in it ends and the disk's own data begin, such as the partition table.
const CODE: usize = 440;

/// Whether the first sector of the raw disk image `file` contains boot code for BIOS. A disk that boots by UEFI only
/// has none: its first sector holds just a partition table.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn has_boot_code(file: &Path) -> anyhow::Result<bool> {
    let mut sector = Vec::new();
    File::open(file)
        .and_then(|opened| opened.take(SECTOR).read_to_end(&mut sector))
        .with_context(|| format!("read {}", file.display()))?;
    let code = sector.get(..CODE).unwrap_or_default();
    Ok(sector.ends_with(&[0x55, 0xaa]) && code.iter().any(|byte| *byte != 0))
}
