//! SQLite's file: accessible to its owner only, and checked for replacement, since SQLite keeps writing to a
//! file that was deleted or replaced.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context, bail};

/// SQLite's file.
#[derive(Debug)]
pub(super) struct DatabaseFile {
    path: PathBuf,
    /// Device and inode of the open file.
    identity: OnceLock<(u64, u64)>,
}

impl DatabaseFile {
    /// The file at `path`; does not access it.
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            identity: OnceLock::new(),
        }
    }

    /// Creates the file and its folder if they do not exist.
    pub(super) async fn prepare(&self) -> anyhow::Result<()> {
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)
                    .with_context(|| format!("create the folder {}", folder.display()))?;
            }
            // SQLite creates its other files with the same mode.
            OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(&path)
                .with_context(|| format!("open {}", path.display()))?;
            Ok(())
        })
        .await?
    }

    /// Records the file's identity.
    pub(super) fn remember(&self) -> anyhow::Result<()> {
        let identity = self.identify()?;
        self.identity.get_or_init(|| identity);
        Ok(())
    }

    /// Fails if its path now leads to another file or none.
    pub(super) fn still_there(&self) -> anyhow::Result<()> {
        if let Some(open) = self.identity.get()
            && self.identify()? != *open
        {
            bail!(
                "{} was replaced while it was open\nhint: systemctl restart orders",
                self.path.display()
            );
        }
        Ok(())
    }

    fn identify(&self) -> anyhow::Result<(u64, u64)> {
        let metadata = fs::metadata(&self.path)
            .with_context(|| format!("read the metadata of {}", self.path.display()))?;
        Ok((metadata.dev(), metadata.ino()))
    }
}
