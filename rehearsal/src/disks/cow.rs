//! Real disks: snapshots as raw, sparse files; volumes as copy-on-write overlays of them.
//!
//! A snapshot's file is written once and then only read, so an overlay keeps it by a hard link: the volume stays usable
//! when the snapshot is deleted, as on AWS, and the blocks are freed with the last link.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::DiskStore;
use crate::ids::{SnapshotId, VolumeId};

/// The overlay's name in a volume's folder.
const OVERLAY: &str = "disk.qcow2";
/// The hard link to the snapshot beside it: the overlay's backing file, named without a folder so that the cloud's
/// folder can be moved.
const BASE: &str = "base.raw";
/// Files have this extension until they are complete.
const UNFINISHED: &str = "new";

/// Disks below one folder.
#[derive(Debug)]
pub(crate) struct CowDisks {
    snapshots: PathBuf,
    volumes: PathBuf,
}

impl CowDisks {
    /// Disks below `folder`; incomplete files of a killed daemon are removed.
    ///
    /// # Errors
    /// When the folder cannot be written, or `qemu-img` is not installed.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Self> {
        if Command::new("qemu-img")
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_err()
        {
            bail!("qemu-img is not on PATH\nhint: apt-get install qemu-utils");
        }
        let disks = Self {
            snapshots: folder.join("disks/snapshots"),
            volumes: folder.join("disks/volumes"),
        };
        for folder in [&disks.snapshots, &disks.volumes] {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
            sweep(folder)?;
        }
        Ok(disks)
    }

    fn snapshot(&self, id: &SnapshotId) -> PathBuf {
        self.snapshots.join(format!("{id}.raw"))
    }

    fn volume(&self, id: &VolumeId) -> PathBuf {
        self.volumes.join(id.as_str())
    }
}

impl DiskStore for CowDisks {
    fn import(&self, snapshot_id: &SnapshotId, file: &Path) -> anyhow::Result<()> {
        let path = self.snapshot(snapshot_id);
        if path.exists() {
            return Ok(());
        }
        let unfinished = path.with_extension(UNFINISHED);
        let _ = fs::remove_file(&unfinished);
        // A hard link is free; across file systems the file is copied, sparse.
        if fs::hard_link(file, &unfinished).is_err() {
            let mut copy = Command::new("cp");
            copy.args(["--reflink=auto", "--sparse=always", "--"])
                .arg(file)
                .arg(&unfinished);
            run(&mut copy).with_context(|| format!("copy {}", file.display()))?;
        }
        finish(&unfinished, &path)
    }

    fn create_volume(
        &self,
        volume_id: &VolumeId,
        snapshot_id: Option<&SnapshotId>,
        size_gib: u32,
    ) -> anyhow::Result<PathBuf> {
        let folder = self.volume(volume_id);
        let disk = folder.join(OVERLAY);
        if disk.exists() {
            return Ok(disk);
        }
        let unfinished = folder.with_extension(UNFINISHED);
        let _ = fs::remove_dir_all(&unfinished);
        fs::create_dir_all(&unfinished)
            .with_context(|| format!("create {}", unfinished.display()))?;
        let mut size = u64::from(size_gib) << 30;
        let mut create = Command::new("qemu-img");
        create
            .current_dir(&unfinished)
            .args(["create", "-q", "-f", "qcow2"]);
        if let Some(id) = snapshot_id {
            let snapshot = self.snapshot(id);
            fs::hard_link(&snapshot, unfinished.join(BASE))
                .with_context(|| format!("find the disk of snapshot {id}"))?;
            let length = fs::metadata(&snapshot)
                .with_context(|| format!("read the size of {}", snapshot.display()))?
                .len();
            size = size.max(length);
            create.args(["-b", BASE, "-F", "raw"]);
        }
        create.arg(OVERLAY).arg(size.to_string());
        run(&mut create).with_context(|| format!("create the disk of volume {volume_id}"))?;
        finish(&unfinished, &folder)?;
        Ok(disk)
    }

    fn volume_path(&self, volume_id: &VolumeId) -> PathBuf {
        self.volume(volume_id).join(OVERLAY)
    }

    fn has_boot_code(&self, volume_id: &VolumeId) -> anyhow::Result<bool> {
        let folder = tempfile::tempdir().context("create a temporary folder")?;
        let sector = folder.path().join("sector");
        let mut copy = Command::new("qemu-img");
        copy.args(["dd", "-f", "qcow2", "-O", "raw", "bs=512", "count=1"]);
        for (name, path) in [("if", &self.volume_path(volume_id)), ("of", &sector)] {
            let mut operand = OsString::from(format!("{name}="));
            operand.push(path);
            copy.arg(operand);
        }
        run(&mut copy).with_context(|| format!("read the disk of volume {volume_id}"))?;
        super::has_boot_code(&sector)
    }

    fn capture(&self, volume_id: &VolumeId, snapshot_id: &SnapshotId) -> anyhow::Result<()> {
        let path = self.snapshot(snapshot_id);
        if path.exists() {
            return Ok(());
        }
        let unfinished = path.with_extension(UNFINISHED);
        let mut convert = Command::new("qemu-img");
        convert
            .args(["convert", "-q", "-f", "qcow2", "-O", "raw", "-T", "none"])
            .arg(self.volume_path(volume_id))
            .arg(&unfinished);
        let copied = run(&mut convert)
            .with_context(|| format!("copy the disk of volume {volume_id}"))
            .and_then(|()| finish(&unfinished, &path));
        if copied.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        copied
    }

    fn duplicate(&self, snapshot_id: &SnapshotId, copy_id: &SnapshotId) -> anyhow::Result<()> {
        // A snapshot's file is only read, so the copy may share it.
        self.import(copy_id, &self.snapshot(snapshot_id))
            .with_context(|| format!("copy the disk of snapshot {snapshot_id}"))
    }

    fn delete_volume(&self, volume_id: &VolumeId) {
        // It may have been deleted already.
        let _ = fs::remove_dir_all(self.volume(volume_id));
    }

    fn delete_snapshot(&self, snapshot_id: &SnapshotId) {
        let _ = fs::remove_file(self.snapshot(snapshot_id));
    }
}

/// Runs a program that copies; its stderr becomes the error.
fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!(
            "{} ({})",
            String::from_utf8_lossy(&output.stderr).trim(),
            output.status
        );
    }
    Ok(())
}

/// Gives a complete file its final name, durably.
fn finish(unfinished: &Path, path: &Path) -> anyhow::Result<()> {
    let done = || -> std::io::Result<()> {
        File::open(unfinished)?.sync_all()?;
        fs::rename(unfinished, path)?;
        match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    done().with_context(|| format!("finish {}", path.display()))
}

/// Removes incomplete files of a killed daemon.
fn sweep(folder: &Path) -> anyhow::Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("list {}", folder.display()))?
            .path();
        if path.extension().is_some_and(|ending| ending == UNFINISHED) {
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    const MIB: usize = 1 << 20;

    /// 4 MiB with one written block.
    fn image(folder: &Path) -> PathBuf {
        let path = folder.join("image.raw");
        let mut bytes = vec![0; 4 * MIB];
        bytes[MIB..MIB + 5].copy_from_slice(b"first");
        fs::write(&path, bytes).unwrap();
        path
    }

    fn write(disk: &Path, command: &str) {
        let mut io = Command::new("qemu-io");
        io.args(["-f", "qcow2", "-c", command]).arg(disk);
        run(&mut io).unwrap();
    }

    fn read(disks: &CowDisks, snapshot: &SnapshotId) -> Vec<u8> {
        fs::read(disks.snapshot(snapshot)).unwrap()
    }

    #[test]
    fn a_snapshot_contains_the_written_data_of_a_volume() {
        let folder = tempfile::tempdir().unwrap();
        let disks = CowDisks::open(folder.path()).unwrap();
        disks
            .import(&"snap-1".into(), &image(folder.path()))
            .unwrap();
        let disk = disks
            .create_volume(&"vol-1".into(), Some(&"snap-1".into()), 0)
            .unwrap();
        assert_eq!(disk, disks.volume_path(&"vol-1".into()));
        write(&disk, "write -P 0x41 2M 512");
        disks.capture(&"vol-1".into(), &"snap-2".into()).unwrap();

        let copy = read(&disks, &"snap-2".into());
        assert_eq!(copy.len(), 4 * MIB);
        assert_eq!(&copy[MIB..MIB + 5], b"first");
        assert_eq!(copy[2 * MIB..2 * MIB + 512], [0x41; 512]);
        assert_eq!(read(&disks, &"snap-1".into())[2 * MIB], 0);
        let blocks = fs::metadata(disks.snapshot(&"snap-2".into()))
            .unwrap()
            .blocks();
        assert!(blocks * 512 < MIB as u64, "sparse: {blocks} blocks");
    }

    #[test]
    fn only_code_in_the_first_sector_is_boot_code() {
        let folder = tempfile::tempdir().unwrap();
        let disks = CowDisks::open(folder.path()).unwrap();
        let sector = |code: u8, mark: [u8; 2]| {
            let mut sector = vec![0; 512];
            sector[439] = code;
            // A partition, as in the protective MBR of a GPT.
            sector[450] = 0xee;
            sector[510..].copy_from_slice(&mark);
            sector
        };
        let table = [
            (sector(0xfa, [0x55, 0xaa]), true),
            (sector(0, [0x55, 0xaa]), false),
            (sector(0xfa, [0, 0]), false),
            (Vec::new(), false),
        ];
        for (number, (bytes, expected)) in table.into_iter().enumerate() {
            let file = folder.path().join("image.raw");
            // A new file each time: the store links it.
            let _ = fs::remove_file(&file);
            fs::write(&file, &bytes).unwrap();
            assert_eq!(super::super::has_boot_code(&file).unwrap(), expected);
            let (snapshot, volume) = (format!("snap-{number}"), format!("vol-{number}"));
            disks.import(&snapshot.as_str().into(), &file).unwrap();
            disks
                .create_volume(&volume.as_str().into(), Some(&snapshot.as_str().into()), 1)
                .unwrap();
            assert_eq!(
                disks.has_boot_code(&volume.as_str().into()).unwrap(),
                expected,
                "{number}"
            );
        }
        // What the guest itself wrote counts.
        let mut code = String::from("write -P 0xfa 0 440");
        write(&disks.volume_path(&"vol-1".into()), &code);
        assert!(disks.has_boot_code(&"vol-1".into()).unwrap());
        code = code.replace("0xfa", "0");
        write(&disks.volume_path(&"vol-0".into()), &code);
        assert!(!disks.has_boot_code(&"vol-0".into()).unwrap());
        assert!(disks.has_boot_code(&"vol-9".into()).is_err());
    }

    #[test]
    fn a_volume_outlives_its_snapshot_and_a_moved_folder() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().join("here");
        let disks = CowDisks::open(&here).unwrap();
        disks
            .import(&"snap-1".into(), &image(folder.path()))
            .unwrap();
        disks
            .create_volume(&"vol-1".into(), Some(&"snap-1".into()), 0)
            .unwrap();
        disks.delete_snapshot(&"snap-1".into());
        assert!(
            disks
                .create_volume(&"vol-2".into(), Some(&"snap-1".into()), 0)
                .is_err()
        );

        let there = folder.path().join("there");
        fs::rename(here, &there).unwrap();
        let disks = CowDisks::open(&there).unwrap();
        assert!(
            !disks.volume(&"vol-2".into()).exists(),
            "nothing half-made is left"
        );
        disks.capture(&"vol-1".into(), &"snap-2".into()).unwrap();
        assert_eq!(&read(&disks, &"snap-2".into())[MIB..MIB + 5], b"first");
        disks.delete_volume(&"vol-1".into());
        disks.delete_volume(&"vol-1".into());
        assert!(!disks.volume(&"vol-1".into()).exists());
    }

    #[test]
    fn a_copy_of_a_snapshot_outlives_it() {
        let folder = tempfile::tempdir().unwrap();
        let disks = CowDisks::open(folder.path()).unwrap();
        disks
            .import(&"snap-1".into(), &image(folder.path()))
            .unwrap();
        let original = read(&disks, &"snap-1".into());
        disks.duplicate(&"snap-1".into(), &"snap-2".into()).unwrap();
        disks.duplicate(&"snap-1".into(), &"snap-2".into()).unwrap();
        disks.delete_snapshot(&"snap-1".into());
        assert_eq!(read(&disks, &"snap-2".into()), original);
        assert!(disks.duplicate(&"snap-1".into(), &"snap-3".into()).is_err());
        assert!(!disks.snapshot(&"snap-3".into()).exists());
    }

    #[test]
    fn a_volume_is_as_large_as_asked_and_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let disks = CowDisks::open(folder.path()).unwrap();
        let disk = disks.create_volume(&"vol-1".into(), None, 1).unwrap();
        write(&disk, "write -P 0x41 1023M 1M");
        disks.create_volume(&"vol-1".into(), None, 1).unwrap();
        disks.capture(&"vol-1".into(), &"snap-1".into()).unwrap();
        let copy = File::open(disks.snapshot(&"snap-1".into())).unwrap();
        assert_eq!(copy.metadata().unwrap().len(), 1 << 30);
        let mut last = [0; 1];
        std::os::unix::fs::FileExt::read_exact_at(&copy, &mut last, (1 << 30) - 1).unwrap();
        assert_eq!(last, [0x41]);
    }

    #[test]
    fn incomplete_disks_are_removed_and_never_used() {
        let folder = tempfile::tempdir().unwrap();
        let disks = CowDisks::open(folder.path()).unwrap();
        fs::write(disks.snapshots.join("snap-1.new"), "half").unwrap();
        fs::create_dir(disks.volumes.join("vol-1.new")).unwrap();
        let disks = CowDisks::open(folder.path()).unwrap();
        assert_eq!(fs::read_dir(&disks.snapshots).unwrap().count(), 0);
        assert_eq!(fs::read_dir(&disks.volumes).unwrap().count(), 0);
        let error = disks
            .capture(&"vol-9".into(), &"snap-9".into())
            .unwrap_err();
        assert!(format!("{error:#}").contains("vol-9"), "{error:#}");
        assert_eq!(fs::read_dir(&disks.snapshots).unwrap().count(), 0);
    }
}
