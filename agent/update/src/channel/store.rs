//! The verified metadata on disk: the rollback floor of this instance.
//!
//! It verifies nothing and decides nothing, [`super::tuf`] does. The TUF library writes during a refresh and only
//! logs a failed write, so its writes are collected here, and [`Store::commit`] writes them to the disk, each by
//! [`files::replace`], before they are used.
//!
//! ```text
//! anchor                        SHA-256 of the image's root that all of this hangs on
//! root.json                     the newest root
//! root_history/<N>.root.json    the chain from the image's root to it
//! timestamp.json, snapshot.json, targets.json
//! *.broken                      what could not be read, for people
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sigstore_tuf::{Error, MetadataStore};

use support::files;

use crate::channel::refusal::{Cause, Refusal};

/// The folder of the root chain, as the library names it.
const CHAIN: &str = "root_history";

/// Only the updater, which is root, uses the metadata.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

/// The metadata store of a channel.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    pending: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl Store {
    /// Opens the store, making its directories.
    pub(super) fn open(dir: &Path) -> Result<Self, Refusal> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(DIR_MODE)
            .create(dir.join(CHAIN))
            .and_then(|()| files::sync_parent(dir))
            .and_then(|()| files::sync_dir(dir))
            .map_err(|error| disk("making", dir, &error))?;
        Ok(Self {
            dir: dir.to_owned(),
            pending: Mutex::default(),
        })
    }

    /// The file `name` on the disk. One that cannot be read is moved aside.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Refusal> {
        match fs::read(self.dir.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                self.set_aside(name, "a directory")?;
                Ok(None)
            }
            Err(error) => Err(disk("reading", &self.dir.join(name), &error)),
        }
    }

    /// Puts bytes under `name` at once.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Refusal> {
        // An unchanged file needs no room: a full disk with a current store is no error.
        if self.read(name)?.as_deref() == Some(bytes) {
            return Ok(());
        }
        let path = self.dir.join(name);
        files::replace(&path, bytes, FILE_MODE).map_err(|error| disk("writing", &path, &error))
    }

    /// Moves an unusable file to `<name>.broken`, over an older one.
    pub(super) fn set_aside(&self, name: &str, why: &str) -> Result<(), Refusal> {
        let path = self.dir.join(name);
        let aside = self.dir.join(format!("{name}.broken"));
        tracing::warn!("{} is broken ({why}): moved aside", path.display());
        if aside.is_dir() {
            fs::remove_dir_all(&aside).map_err(|error| disk("removing", &aside, &error))?;
        }
        fs::rename(&path, &aside)
            .and_then(|()| files::sync_parent(&path))
            .map_err(|error| disk("moving aside", &path, &error))
    }

    /// Drops the collected writes of `name`s that are not to be kept.
    pub(super) fn discard(&self, unwanted: impl Fn(&str) -> bool) {
        self.gathered().retain(|name, _| !unwanted(name));
    }

    /// Writes the collected files to the disk: the chain of roots in its order, the newest root, and then from the
    /// timestamp down, so that no file exists without the one that it depends on.
    pub(super) fn commit(&self) -> Result<(), Refusal> {
        let pending = std::mem::take(&mut *self.gathered());
        let mut pending: Vec<_> = pending.into_iter().collect();
        pending.sort_by_key(|(name, _)| rank(name));
        for (name, bytes) in pending {
            self.write(&name, &bytes)?;
        }
        files::sync_dir(&self.dir).map_err(|error| disk("syncing", &self.dir, &error))
    }

    fn gathered(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MetadataStore for Store {
    fn load(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        if let Some(bytes) = self.gathered().get(name) {
            return Ok(Some(bytes.clone()));
        }
        keepable(name)
            .then(|| self.read(name))
            .transpose()
            .map(Option::flatten)
            .map_err(|refusal| Error::transport_with_source("metadata store", refusal))
    }

    fn store(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        // Versioned copies would accumulate for years, and nothing reads them.
        if keepable(name) {
            self.gathered().insert(name.to_owned(), bytes.to_owned());
        }
        Ok(())
    }
}

/// The name of a root in the chain.
pub(super) fn root_name(version: u64) -> String {
    format!("{CHAIN}/{version}.root.json")
}

/// Whether a name is one of the files that are kept; no other is written.
fn keepable(name: &str) -> bool {
    let (folder, file) = name.split_once('/').unwrap_or(("", name));
    let Some(stem) = file.strip_suffix(".json") else {
        return false;
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    match folder {
        // Roles as the library writes them, percent-encoded.
        "" => {
            let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.~%".contains(&c);
            let versioned = stem
                .split_once('.')
                .is_some_and(|(version, _)| digits(version));
            !stem.is_empty() && stem.bytes().all(plain) && !versioned
        }
        CHAIN => stem.strip_suffix(".root").is_some_and(digits),
        _ => false,
    }
}

/// The order in which files reach the disk.
fn rank(name: &str) -> (u8, u64) {
    let version = |file: &str| file.split('.').next().and_then(|v| v.parse().ok());
    match name {
        "root.json" => (1, 0),
        "timestamp.json" => (2, 0),
        "snapshot.json" => (3, 0),
        "targets.json" => (4, 0),
        _ => match name.split_once('/') {
            Some((_, file)) => (0, version(file).unwrap_or(u64::MAX)),
            None => (5, 0),
        },
    }
}

fn disk(doing: &str, path: &Path, error: &io::Error) -> Refusal {
    Cause::Disk.because(format!("{doing} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_metadata_reach_the_disk() {
        for kept in [
            "root.json",
            "timestamp.json",
            "role1.json",
            "a%2Fb.json",
            "..%2F..%2Fetc.json",
            "root_history/12.root.json",
        ] {
            assert!(keepable(kept), "{kept}");
        }
        for other in [
            "",
            ".json",
            "anchor",
            "../root.json",
            "/etc/passwd.json",
            "7.snapshot.json",
            "targets/app.json",
            "root_history/x.root.json",
            "root_history/../1.root.json",
            "root_history/1.root.json.broken",
            "a\\b.json",
        ] {
            assert!(!keepable(other), "{other}");
        }
    }

    #[test]
    fn collected_writes_reach_the_disk_only_at_the_commit() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.store("timestamp.json", b"1").unwrap();
        assert_eq!(store.read("timestamp.json"), Ok(None));
        assert_eq!(
            store.load("timestamp.json").unwrap().as_deref(),
            Some(&b"1"[..])
        );
        store.commit().unwrap();
        assert_eq!(
            store.read("timestamp.json").unwrap().as_deref(),
            Some(&b"1"[..])
        );
    }

    #[test]
    fn a_failed_write_is_a_refusal_and_keeps_the_old_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.write("timestamp.json", b"old").unwrap();
        // The place where the new file is written first is taken: root may write anywhere else.
        fs::create_dir(dir.path().join("timestamp.json.new")).unwrap();
        store.store("timestamp.json", b"new").unwrap();
        assert_eq!(store.commit().unwrap_err().cause, Cause::Disk);
        assert_eq!(
            store.read("timestamp.json").unwrap().as_deref(),
            Some(&b"old"[..])
        );
        // The same bytes need no write.
        store.store("timestamp.json", b"old").unwrap();
        store.commit().unwrap();
    }

    #[test]
    fn roots_reach_the_disk_in_their_order_and_before_all_else() {
        let mut names = [
            "targets.json",
            "role1.json",
            "root_history/10.root.json",
            "timestamp.json",
            "root.json",
            "root_history/9.root.json",
            "snapshot.json",
        ];
        names.sort_by_key(|name| rank(name));
        assert_eq!(
            names,
            [
                "root_history/9.root.json",
                "root_history/10.root.json",
                "root.json",
                "timestamp.json",
                "snapshot.json",
                "targets.json",
                "role1.json",
            ]
        );
    }
}
