//! Empty disks: files of no length, for puppets, which boot nothing.
//!
//! They follow the rules of the real store (a disk must exist to be copied), so that the cloud's bookkeeping is
//! exercised.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::DiskStore;
use crate::ids::{SnapshotId, VolumeId};

/// Disks without content.
#[derive(Debug)]
pub(crate) struct EmptyDisks {
    folder: PathBuf,
}

impl EmptyDisks {
    /// Disks below `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.join("disks"),
        }
    }

    fn path(&self, id: impl AsRef<str>) -> PathBuf {
        self.folder.join(id.as_ref())
    }

    fn touch(&self, id: impl AsRef<str>) -> anyhow::Result<PathBuf> {
        let path = self.path(id);
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("create {}", self.folder.display()))?;
        fs::File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    }
}

impl DiskStore for EmptyDisks {
    fn import(&self, snapshot_id: &SnapshotId, _file: &Path) -> anyhow::Result<()> {
        self.touch(snapshot_id).map(drop)
    }

    fn create_volume(
        &self,
        volume_id: &VolumeId,
        snapshot_id: Option<&SnapshotId>,
        _size_gib: u32,
    ) -> anyhow::Result<PathBuf> {
        if let Some(id) = snapshot_id {
            anyhow::ensure!(self.path(id).exists(), "snapshot {id} has no disk");
        }
        self.touch(volume_id)
    }

    fn volume_path(&self, volume_id: &VolumeId) -> PathBuf {
        self.path(volume_id)
    }

    /// Puppets boot nothing, with any firmware.
    fn has_boot_code(&self, _volume_id: &VolumeId) -> anyhow::Result<bool> {
        Ok(true)
    }

    fn capture(&self, volume_id: &VolumeId, snapshot_id: &SnapshotId) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.path(volume_id).exists(),
            "volume {volume_id} has no disk"
        );
        self.touch(snapshot_id).map(drop)
    }

    fn duplicate(&self, snapshot_id: &SnapshotId, copy_id: &SnapshotId) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.path(snapshot_id).exists(),
            "snapshot {snapshot_id} has no disk"
        );
        self.touch(copy_id).map(drop)
    }

    fn delete_volume(&self, volume_id: &VolumeId) {
        // It may have been deleted already.
        let _ = fs::remove_file(self.path(volume_id));
    }

    fn delete_snapshot(&self, snapshot_id: &SnapshotId) {
        let _ = fs::remove_file(self.path(snapshot_id));
    }
}
