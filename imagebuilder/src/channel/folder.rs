//! A repository in a folder: every file is written whole under another name, made durable, then given its name.
//!
//! A lock per folder keeps two publishers on the same machine apart.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use async_trait::async_trait;
use bytes::Bytes;

use super::digest;
use super::store::{Found, Keep, Store, Tag, TooLong, Written};
use run::exit::Exit;
use run::lock::Lock;

/// The prefix of temporary names.
const UNNAMED: &str = ".unnamed-";

/// A folder, locked while this exists if it is to be written.
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    _lock: Option<Lock>,
}

impl Folder {
    /// The folder, for reading.
    pub(crate) fn reading(root: PathBuf) -> Self {
        Self { root, _lock: None }
    }

    /// The folder, for writing: created if missing, locked, and cleared of temporary files of interrupted runs.
    pub(crate) fn writing(root: PathBuf) -> anyhow::Result<Self> {
        for part in ["metadata", "targets"] {
            let folder = root.join(part);
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("create the folder {}", folder.display()))?;
        }
        let path = root.join(".lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        let lock = Lock::of(file).with_context(|| format!("lock {}", path.display()))?;
        let Some(lock) = lock else {
            return Err(Exit::Refused
                .error(format!(
                    "another process is changing the channel in {}",
                    root.display()
                ))
                .hint("wait for it to end, and try again")
                .into());
        };
        for part in ["metadata", "targets"] {
            for entry in std::fs::read_dir(root.join(part))? {
                let entry = entry?;
                if entry.file_name().to_string_lossy().starts_with(UNNAMED) {
                    std::fs::remove_file(entry.path())
                        .with_context(|| format!("remove {}", entry.path().display()))?;
                }
            }
        }
        Ok(Self {
            root,
            _lock: Some(lock),
        })
    }

    /// Writes `bytes` durably under a temporary name beside `path`.
    fn unnamed(&self, path: &Path, bytes: &[u8]) -> anyhow::Result<PathBuf> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let unnamed = path.with_file_name(format!("{UNNAMED}{name}"));
        let write = || {
            let mut file = File::create(&unnamed)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().with_context(|| format!("write {}", unnamed.display()))?;
        Ok(unnamed)
    }
}

/// Makes the names in the folder of `path` durable.
fn settled(path: &Path) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("sync {}", folder.display()))
}

#[async_trait]
impl Store for Folder {
    async fn read(&self, path: &str, most: u64) -> anyhow::Result<Option<Found>> {
        let place = self.root.join(path);
        let file = match File::open(&place) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("open {}", place.display())),
        };
        let mut bytes = Vec::new();
        file.take(most + 1)
            .read_to_end(&mut bytes)
            .with_context(|| format!("read {}", place.display()))?;
        if bytes.len() as u64 > most {
            let path = place.display().to_string();
            return Err(TooLong { path, most }.into());
        }
        Ok(Some(Found {
            tag: Tag(digest(&bytes)),
            bytes: bytes.into(),
        }))
    }

    async fn create(&self, path: &str, bytes: Bytes, _: Keep) -> anyhow::Result<Written> {
        let place = self.root.join(path);
        let unnamed = self.unnamed(&place, &bytes)?;
        // A hard link, unlike a rename, does not replace an existing file.
        let linked = std::fs::hard_link(&unnamed, &place);
        std::fs::remove_file(&unnamed).with_context(|| format!("remove {}", unnamed.display()))?;
        match linked {
            Ok(()) => settled(&place).map(|()| Written::Done),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Written::Occupied),
            Err(error) => Err(error).with_context(|| format!("create {}", place.display())),
        }
    }

    async fn replace(
        &self,
        path: &str,
        bytes: Bytes,
        _: Keep,
        was: &Tag,
    ) -> anyhow::Result<Written> {
        let place = self.root.join(path);
        // The lock excludes other runs of this program; this detects every other writer.
        let there = std::fs::read(&place).with_context(|| format!("read {}", place.display()))?;
        if digest(&there) != was.0 {
            return Ok(Written::Occupied);
        }
        let unnamed = self.unnamed(&place, &bytes)?;
        std::fs::rename(&unnamed, &place)
            .with_context(|| format!("replace {}", place.display()))?;
        settled(&place)?;
        Ok(Written::Done)
    }
}
