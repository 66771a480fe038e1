//! File system operations beside the database's own reads and writes: the file and its folder, whether they
//! were replaced, how much space is left.
//!
//! Owns every system call that redb does not make itself, and records failures.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};
use rustix::fs::Advice;

/// Free disk space below which orders are refused, so that the database never meets a full disk in the middle
/// of a commit, and the operator has space to clean up.
const MIN_FREE: u64 = 16 * 1024 * 1024;

/// Identifies the file behind a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// The identity of the file at `path`, if it exists.
    pub(super) fn of(path: &Path) -> anyhow::Result<Option<Self>> {
        match std::fs::metadata(path) {
            Ok(metadata) => Ok(Some(Self::from(&metadata))),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(error) => {
                Err(error).with_context(|| format!("read the metadata of {}", path.display()))
            }
        }
    }

    fn from(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// Creates the folder, accessible to this user only: orders are customers' data.
pub(super) fn make_folder(folder: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("create the folder {}", folder.display()))
}

/// Makes the folder's entries survive a crash of the machine.
pub(super) fn sync_folder(folder: &Path) -> anyhow::Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("sync the folder {}", folder.display()))
}

/// Opens the file for reading and writing; creates it only if `make`.
pub(super) fn open_file(path: &Path, make: bool) -> anyhow::Result<(File, Identity)> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(make)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("open {}", path.display()))?;
    let metadata = file
        .metadata()
        .with_context(|| format!("read the metadata of {}", path.display()))?;
    if !metadata.is_file() {
        bail!("{} is not a file", path.display());
    }
    Ok((file, Identity::from(&metadata)))
}

/// Whether the last process that had the database open ended without closing it. redb does not report this;
/// the byte after its magic number does, and is updated before anything else is written.
/// <https://github.com/cberner/redb/blob/master/docs/design.md#database-header-64-bytes>
pub(super) fn ended_uncleanly(file: &File) -> io::Result<bool> {
    const MAGIC: &[u8; 4] = b"redb";
    const RECOVERY_REQUIRED: u8 = 2;
    let mut head = [0; 10];
    match file.read_exact_at(&mut head, 0) {
        Ok(()) => Ok(head.starts_with(MAGIC) && head[9] & RECOVERY_REQUIRED != 0),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Free bytes on the disk of `folder` for this user.
pub(super) fn free_space(folder: &Path) -> anyhow::Result<u64> {
    let disk = rustix::fs::statvfs(folder)
        .with_context(|| format!("read the free space of {}", folder.display()))?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Fails if there is hardly any space left on the disk of `folder`.
pub(super) fn require_space(free: u64, folder: &Path) -> anyhow::Result<()> {
    if free < MIN_FREE {
        bail!(
            "the disk of {} is full: {} MiB left, {} are needed\nhint: free some space; the service resumes by itself",
            folder.display(),
            free >> 20,
            MIN_FREE >> 20
        );
    }
    Ok(())
}

/// Makes the next read return what is on the disk instead of what the operating system has cached. After a
/// failed write or fsync the two may differ: the system drops pages it could not write but keeps returning
/// them, and a database built on those is lost at the next power cut.
/// <https://wiki.postgresql.org/wiki/Fsync_Errors>
pub(super) fn forget_cached(file: &File) -> io::Result<()> {
    // Writes what can still be written; the rest is dropped with the cache.
    let synced = file.sync_all();
    rustix::fs::fadvise(file, 0, None, Advice::DontNeed)?;
    synced
}

/// Whether the disk failed since the last check.
#[derive(Debug, Default)]
pub(super) struct Failures {
    seen: AtomicBool,
    #[cfg(test)]
    pub(super) injected: super::tests::Injected,
}

impl Failures {
    /// Records a failure.
    pub(super) fn note(&self) {
        self.seen.store(true, Ordering::Release);
    }

    /// Returns whether there was a failure, and resets it.
    pub(super) fn take(&self) -> bool {
        self.seen.swap(false, Ordering::AcqRel)
    }
}

/// redb's file backend, recording every failure.
#[derive(Debug)]
pub(super) struct TrackedFile {
    file: FileBackend,
    failures: Arc<Failures>,
}

impl TrackedFile {
    pub(super) fn new(file: FileBackend, failures: Arc<Failures>) -> Self {
        Self { file, failures }
    }

    fn track<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if result.is_err() {
            self.failures.note();
        }
        result
    }
}

impl StorageBackend for TrackedFile {
    fn len(&self) -> io::Result<u64> {
        self.track(self.file.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.track(self.file.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        #[cfg(test)]
        self.failures.injected.did(super::tests::Did::SetLen(len));
        self.track(self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        #[cfg(test)]
        self.track(self.failures.injected.before_sync())?;
        self.track(self.file.sync_data())?;
        #[cfg(test)]
        self.failures.injected.did(super::tests::Did::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        self.track(self.failures.injected.before_write(offset, data))?;
        self.track(self.file.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
