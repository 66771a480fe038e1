//! The slots: directories by version and digest, and the links `stable` and `trial`.
//!
//! It decides nothing: [`super::phases`] decides which build is stable or on trial. Every step may be interrupted by
//! a power loss: a slot without its file `COMPLETE`, which is written last and removed first, does not count.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use contract::layout;
use semver::Version;
use sha2::{Digest as _, Sha256};

use support::files;

use super::build::Build;
use super::channel::Digest;

/// The file of a complete slot: it holds the digest of the slot's executable.
pub(crate) const COMPLETE: &str = "COMPLETE";

/// The file in the runtime directory that a run locks.
pub(crate) const LOCK: &str = "lock";

/// Mode of the lock: any user who could open the file could lock it and block updates and repairs.
const LOCK_MODE: u32 = 0o600;

/// Bytes that an update leaves free, besides twice its own length: the journal and the services on the instance need
/// room too.
const RESERVE_BYTES: u64 = 16 << 20;

/// Inodes that it leaves free; a slot takes three.
const RESERVE_INODES: u64 = 64;

/// The directories: [`contract::layout`] on an instance, a temporary tree in a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The slot that came with the image.
    pub(crate) factory: PathBuf,
    /// The tree of the slots and links.
    pub(crate) slots: PathBuf,
    /// The image's files of the channel.
    pub(crate) channel: PathBuf,
    /// The updater's state.
    pub(crate) state: PathBuf,
    /// The updater's runtime directory.
    pub(crate) run: PathBuf,
}

impl Layout {
    /// The image's layout below `root`: `/` on an instance.
    #[must_use]
    pub(crate) fn below(root: &Path) -> Self {
        let at = |path: &str| root.join(path.trim_start_matches('/'));
        Self {
            factory: at(layout::FACTORY),
            slots: at(layout::SLOTS),
            channel: at(layout::CHANNEL),
            state: at(layout::STATE),
            run: at(layout::RUN),
        }
    }
}

/// One of the two links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// The release that the instance runs; moved by a promotion or a repair only.
    Stable,
    /// The release on trial; may dangle.
    Trial,
}

impl Link {
    fn name(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Trial => "trial",
        }
    }
}

/// The target of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Leads {
    /// The factory slot.
    Factory,
    /// A complete slot.
    Slot(Build),
    /// Nowhere: there is no link, or it does not lead to the factory or a complete slot.
    Nowhere,
    /// The disk failed: no reason to change anything.
    Unreadable(String),
}

/// The slots of an instance.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    layout: Layout,
}

/// The lock on the slots: held for a whole attempt, released with the process.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Slots {
    /// The slots of a layout; creates nothing.
    #[must_use]
    pub(crate) fn new(layout: Layout) -> Self {
        Self { layout }
    }

    /// The directories.
    #[must_use]
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Locks the slots; `None` if another process holds the lock.
    ///
    /// # Errors
    /// The runtime directory cannot be written.
    pub(crate) fn lock(&self) -> Result<Option<Lock>> {
        let path = self.layout.run.join(LOCK);
        let open = || {
            fs::create_dir_all(&self.layout.run)?;
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(LOCK_MODE)
                .open(&path)
        };
        let file = open().with_context(|| format!("cannot open {}", path.display()))?;
        // An older version created it readable for all users, and the runtime directory may be from then.
        file.set_permissions(fs::Permissions::from_mode(LOCK_MODE))
            .with_context(|| format!("cannot restrict the mode of {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    /// Refuses a release for which the disk has no room, before any of it is fetched: twice its length and a reserve
    /// must be free.
    ///
    /// # Errors
    /// What is missing, and how much.
    pub(crate) fn room_for(&self, length: u64) -> Result<()> {
        let staging = self.staging();
        fs::create_dir_all(&staging)
            .and_then(|()| fs::create_dir_all(self.versions()))
            .with_context(|| format!("cannot make {}", staging.display()))?;
        let device = |dir: &Path| fs::metadata(dir).map(|data| data.dev());
        if device(&staging).ok() != device(&self.versions()).ok() {
            bail!(
                "{} is not on the file system of the slots\nhint: unmount it",
                staging.display()
            );
        }
        let disk = rustix::fs::statvfs(&staging)
            .with_context(|| format!("cannot read the free space of {}", staging.display()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let needed = length.saturating_mul(2).saturating_add(RESERVE_BYTES);
        if free < needed {
            bail!(
                "{} bytes free on the file system of {}, {needed} needed",
                free,
                self.layout.slots.display()
            );
        }
        // File systems that allocate inodes on demand report none at all.
        if disk.f_files > 0 && disk.f_favail < RESERVE_INODES {
            bail!(
                "{} inodes free on the file system of {}, {RESERVE_INODES} needed",
                disk.f_favail,
                self.layout.slots.display()
            );
        }
        Ok(())
    }

    /// The file that a release is streamed to.
    #[must_use]
    pub(crate) fn part(&self, digest: &Digest) -> PathBuf {
        self.staging().join(format!("{digest}.part"))
    }

    /// The directory of a build's slot.
    #[must_use]
    pub(crate) fn dir(&self, build: &Build) -> PathBuf {
        self.versions()
            .join(format!("{}-{}", build.version, build.digest.short()))
    }

    /// The executable in a build's slot.
    #[must_use]
    pub(crate) fn binary(&self, build: &Build) -> PathBuf {
        self.dir(build).join(layout::BINARY)
    }

    /// Makes a slot of a fetched part. An existing complete slot with the right bytes is kept.
    ///
    /// # Errors
    /// The part does not have the digest (it is removed then), or the disk failed.
    pub(crate) fn admit(&self, build: &Build) -> Result<()> {
        if self.verify(build).is_ok() {
            return Ok(());
        }
        let part = self.part(&build.digest);
        let dir = self.dir(build);
        let found = hash(&part).with_context(|| format!("cannot read {}", part.display()))?;
        if found != build.digest {
            let _ = files::remove(&part);
            bail!(
                "{} has digest {found}, not {}",
                part.display(),
                build.digest
            );
        }
        self.place(build, &part, &dir)
            .with_context(|| format!("cannot make the slot {}", dir.display()))
    }

    fn place(&self, build: &Build, part: &Path, dir: &Path) -> io::Result<()> {
        let file = File::open(part)?;
        file.set_permissions(fs::Permissions::from_mode(0o755))?;
        file.sync_all()?;
        // An existing slot is incomplete or has the wrong bytes.
        remove_slot(dir)?;
        fs::create_dir_all(dir)?;
        fs::rename(part, dir.join(layout::BINARY))?;
        files::sync_dir(dir)?;
        files::replace(
            &dir.join(COMPLETE),
            format!("{}\n", build.digest).as_bytes(),
            0o644,
        )?;
        files::sync_dir(&self.versions())
    }

    /// Verifies that the build has a complete slot with the bytes of its digest: reads all of them.
    ///
    /// # Errors
    /// What is wrong with the slot.
    pub(crate) fn verify(&self, build: &Build) -> Result<()> {
        let dir = self.dir(build);
        let complete = read_complete(&dir)
            .with_context(|| format!("cannot read {}", dir.join(COMPLETE).display()))?;
        if complete.as_ref() != Some(&build.digest) {
            bail!("the slot {} is not complete", dir.display());
        }
        let binary = self.binary(build);
        let mode = fs::metadata(&binary)
            .with_context(|| format!("cannot read {}", binary.display()))?
            .permissions()
            .mode();
        if mode & 0o111 != 0o111 {
            bail!(
                "{} cannot be executed: its mode is {:o}",
                binary.display(),
                mode & 0o7777
            );
        }
        let found = hash(&binary).with_context(|| format!("cannot read {}", binary.display()))?;
        if found != build.digest {
            bail!(
                "{} has digest {found}, not {}: it changed on the disk",
                binary.display(),
                build.digest
            );
        }
        Ok(())
    }

    /// Makes a build's executable executable again.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn let_run(&self, build: &Build) -> Result<()> {
        let binary = self.binary(build);
        let Ok(data) = fs::symlink_metadata(&binary) else {
            return Ok(());
        };
        if !data.is_file() || data.permissions().mode() & 0o111 == 0o111 {
            return Ok(());
        }
        tracing::warn!(
            "{} was not executable: its mode was restored",
            binary.display()
        );
        File::open(&binary)
            .and_then(|file| {
                file.set_permissions(fs::Permissions::from_mode(0o755))?;
                file.sync_all()
            })
            .with_context(|| format!("cannot make {} executable", binary.display()))
    }

    /// Whether [`Slots::verify`] failed because of the disk: then nothing is known about the bytes.
    #[must_use]
    pub(crate) fn is_the_disks(error: &anyhow::Error) -> bool {
        error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() != io::ErrorKind::NotFound)
    }

    /// Every complete slot, by its name and its file `COMPLETE`; the executables are not read.
    #[must_use]
    pub(crate) fn complete(&self) -> Vec<Build> {
        let mut found: Vec<Build> = entries(&self.versions())
            .iter()
            .filter_map(|dir| build_of(dir).ok().flatten())
            .collect();
        found.sort_by(|a, b| a.version.cmp(&b.version));
        found
    }

    /// The target of a link.
    #[must_use]
    pub(crate) fn leads(&self, link: Link) -> Leads {
        self.follow(link)
            .unwrap_or_else(|error| Leads::Unreadable(error.to_string()))
    }

    fn follow(&self, link: Link) -> io::Result<Leads> {
        let Some(target) = there(fs::canonicalize(self.layout.slots.join(link.name())))? else {
            return Ok(Leads::Nowhere);
        };
        let is_file = |path: &Path| {
            there(fs::metadata(path)).map(|data| data.is_some_and(|data| data.is_file()))
        };
        if there(fs::canonicalize(&self.layout.factory))?.as_ref() == Some(&target) {
            return Ok(if is_file(&target.join(layout::BINARY))? {
                Leads::Factory
            } else {
                Leads::Nowhere
            });
        }
        let versions = there(fs::canonicalize(self.versions()))?;
        if versions.is_none() || target.parent() != versions.as_deref() {
            return Ok(Leads::Nowhere);
        }
        Ok(match build_of(&target)? {
            Some(build) if is_file(&target.join(layout::BINARY))? => Leads::Slot(build),
            _ => Leads::Nowhere,
        })
    }

    /// The image's own build: its digest is computed from its bytes, its version is printed by it.
    ///
    /// # Errors
    /// There is none, or it does not print its version.
    pub(crate) fn factory(&self) -> Result<Build> {
        let binary = self.layout.factory.join(layout::BINARY);
        let digest = hash(&binary).with_context(|| format!("cannot read {}", binary.display()))?;
        let answer = std::process::Command::new(&binary)
            .arg("--version")
            .stdin(std::process::Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", binary.display()))?;
        let version = String::from_utf8_lossy(&answer.stdout)
            .split_whitespace()
            .last()
            .and_then(|word| Version::parse(word).ok())
            .ok_or_else(|| anyhow!("{} does not print its version", binary.display()))?;
        Ok(Build { version, digest })
    }

    /// Points `trial` to a build's slot, after verifying all its bytes.
    ///
    /// # Errors
    /// The slot is invalid, or the disk failed; the link is unchanged.
    pub(crate) fn arm(&self, build: &Build) -> Result<()> {
        self.verify(build)?;
        self.point(Link::Trial, &self.within(build))
    }

    /// Moves `stable` to a build's slot, after verifying all its bytes: the commit point. A link that points there
    /// already is left alone.
    ///
    /// # Errors
    /// As [`Slots::arm`].
    pub(crate) fn promote(&self, build: &Build) -> Result<()> {
        self.verify(build)?;
        if self.leads(Link::Stable) == Leads::Slot(build.clone()) {
            return files::sync_dir(&self.layout.slots)
                .with_context(|| format!("cannot keep {}", self.layout.slots.display()));
        }
        self.point(Link::Stable, &self.within(build))
    }

    /// Points `stable` to the factory slot: the last resort.
    ///
    /// # Errors
    /// The disk's; the link is then as it was.
    pub(crate) fn fall_back(&self) -> Result<()> {
        self.point(Link::Stable, &self.layout.factory)
    }

    /// Removes the link `trial`.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn disarm(&self) -> Result<()> {
        let path = self.layout.slots.join(Link::Trial.name());
        if fs::symlink_metadata(&path).is_err() {
            return Ok(());
        }
        files::remove(&path)
            .and_then(|()| files::sync_parent(&path))
            .with_context(|| format!("cannot remove {}", path.display()))
    }

    /// Removes every slot except those of `keep` and of the two links, and all staging files except the part of
    /// `under_way`.
    ///
    /// # Errors
    /// The disk's, after it removed what it could.
    pub(crate) fn collect(&self, keep: &[Build], under_way: Option<&Digest>) -> Result<()> {
        let mut kept: Vec<PathBuf> = keep.iter().map(|build| self.dir(build)).collect();
        for link in [Link::Stable, Link::Trial] {
            match self.leads(link) {
                Leads::Slot(build) => kept.push(self.dir(&build)),
                Leads::Unreadable(why) => bail!("cannot read the link {}: {why}", link.name()),
                Leads::Factory | Leads::Nowhere => {}
            }
        }
        let part = under_way.map(|digest| self.part(digest));
        let mut failed = None;
        for dir in entries(&self.versions()) {
            if !kept.contains(&dir)
                && let Err(error) = remove_slot(&dir)
            {
                failed = Some((dir, error));
            }
        }
        for leftover in entries(&self.staging()) {
            if Some(&leftover) != part.as_ref()
                && let Err(error) = remove_all(&leftover)
            {
                failed = Some((leftover, error));
            }
        }
        match failed {
            None => Ok(()),
            Some((path, error)) => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
        }
    }

    fn point(&self, link: Link, target: &Path) -> Result<()> {
        let path = self.layout.slots.join(link.name());
        fs::create_dir_all(&self.layout.slots)
            .and_then(|()| files::point(&path, target))
            .with_context(|| format!("cannot point {} to {}", path.display(), target.display()))
    }

    /// A slot's path in the links: relative, so that the tree can be read from outside of its root.
    fn within(&self, build: &Build) -> PathBuf {
        let dir = self.dir(build);
        dir.strip_prefix(&self.layout.slots)
            .map_or(dir.clone(), Path::to_owned)
    }

    fn versions(&self) -> PathBuf {
        self.layout.slots.join("versions")
    }

    fn staging(&self) -> PathBuf {
        self.layout.slots.join("staging")
    }
}

/// SHA-256 of a file's bytes.
///
/// # Errors
/// The call's.
pub(crate) fn hash(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => hasher.update(&chunk[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let hex: String = hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Digest::parse(&hex).ok_or_else(|| io::Error::other("an invalid digest"))
}

/// The value; `None` if there is none, or an invalid one. A failing disk is an error.
fn there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    use io::ErrorKind::{InvalidData, IsADirectory, NotADirectory, NotFound};
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error)
            if matches!(
                error.kind(),
                NotFound | NotADirectory | IsADirectory | InvalidData
            ) =>
        {
            Ok(None)
        }
        Err(error) if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::LOOP) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The digest in a slot's `COMPLETE`.
fn read_complete(dir: &Path) -> io::Result<Option<Digest>> {
    let text = there(fs::read_to_string(dir.join(COMPLETE)))?;
    Ok(text.and_then(|text| Digest::parse(text.strip_suffix('\n')?)))
}

/// The build of a slot's name and `COMPLETE`, if they agree.
fn build_of(dir: &Path) -> io::Result<Option<Build>> {
    let Some(digest) = read_complete(dir)? else {
        return Ok(None);
    };
    let version = dir
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.strip_suffix(digest.short())?.strip_suffix('-'))
        .and_then(|version| Version::parse(version).ok());
    Ok(version.map(|version| Build { version, digest }))
}

/// Removes `COMPLETE` durably first, then the rest.
fn remove_slot(dir: &Path) -> io::Result<()> {
    let complete = dir.join(COMPLETE);
    if fs::symlink_metadata(&complete).is_ok() {
        files::remove(&complete)?;
        files::sync_dir(dir)?;
    }
    remove_all(dir)
}

fn remove_all(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(data) if data.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .map(|found| found.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
