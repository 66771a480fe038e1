//! Disks of images, snapshots and volumes, as files in the cloud's folder.
//!
//! A store knows files; it does not know EC2. Ids name the files: `snap-…` and `vol-…`.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;

use crate::guests::HostKind;

mod cow;
mod empty;

/// Keeps the disks. Calls may take as long as copying takes: the cloud makes the long ones
/// ([`DiskStore::import`], [`DiskStore::capture`]) from threads that may block.
pub(crate) trait DiskStore: Send + Sync {
    /// Takes the image file `file` in as the disk of snapshot `snapshot_id`, durably. Cheap where the
    /// file system can share blocks. Doing it again for the same id is fine.
    ///
    /// # Errors
    /// When it cannot be read or written.
    fn import(&self, snapshot_id: &str, file: &Path) -> anyhow::Result<()>;
    /// Makes the disk of a new volume: a copy-on-write overlay of the snapshot's disk, or an empty
    /// disk; at least `size_gib` large. Doing it again for the same id leaves the disk as it is. The
    /// volume must stay usable when the snapshot is deleted later (as on AWS): hold on to what it
    /// stands on, e.g. by a hard link.
    ///
    /// # Errors
    /// When the snapshot's disk is not there, or the disk cannot be written.
    fn create_volume(
        &self,
        volume_id: &str,
        snapshot_id: Option<&str>,
        size_gib: u32,
    ) -> anyhow::Result<PathBuf>;
    /// Where a volume's disk is.
    fn volume_path(&self, volume_id: &str) -> PathBuf;
    /// Whether BIOS finds code to run in the first sector of a volume's disk.
    ///
    /// # Errors
    /// When the volume's disk is not there or cannot be read.
    fn has_boot_code(&self, volume_id: &str) -> anyhow::Result<bool>;
    /// Copies a volume's disk, whole and flat, to the disk of a new snapshot; returns once it is
    /// durable. Nothing half-done is left behind on an error or when killed.
    ///
    /// # Errors
    /// When the volume's disk is not there or the copy cannot be written.
    fn capture(&self, volume_id: &str, snapshot_id: &str) -> anyhow::Result<()>;
    /// Makes the disk of snapshot `copy_id` the same as that of `snapshot_id`, durably. Either may be deleted
    /// without the other. Doing it again for the same id is fine.
    ///
    /// # Errors
    /// When the source's disk is not there or the copy cannot be written.
    fn duplicate(&self, snapshot_id: &str, copy_id: &str) -> anyhow::Result<()>;
    /// Forgets a volume's disk; an unknown one is fine.
    fn delete_volume(&self, volume_id: &str);
    /// Forgets a snapshot's disk; an unknown one is fine.
    fn delete_snapshot(&self, snapshot_id: &str);
}

/// The store that suits a machine room.
///
/// # Errors
/// When the folder cannot be written, or a program the store needs is not there.
pub(crate) fn open(kind: &HostKind, folder: &Path) -> anyhow::Result<Arc<dyn DiskStore>> {
    Ok(match kind {
        HostKind::Qemu(_) => Arc::new(cow::CowDisks::open(folder)?),
        HostKind::Puppets { .. } => Arc::new(empty::EmptyDisks::new(folder)),
    })
}

/// Bytes of a disk's first sector.
const SECTOR: u64 = 512;
/// Where the code in it ends and the disk's own data begin, a partition table among them.
const CODE: usize = 440;

/// Whether BIOS finds code to run in the first sector of the disk image `file` (raw). A disk that only UEFI boots has none there: its
/// first sector holds a partition table alone.
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
