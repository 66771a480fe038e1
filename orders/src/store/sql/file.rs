//! SQLite's file: made for its owner's eyes only, and watched, since SQLite itself goes on writing
//! into a file that was deleted or replaced.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context, bail};

/// The file.
#[derive(Debug)]
pub(super) struct DatabaseFile {
    path: PathBuf,
    /// Device and number of the file that is open.
    identity: OnceLock<(u64, u64)>,
}

impl DatabaseFile {
    /// The file at `path`, untouched.
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            identity: OnceLock::new(),
        }
    }

    /// Makes it and its folder when they are not there.
    pub(super) async fn prepare(&self) -> anyhow::Result<()> {
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)
                    .with_context(|| format!("make the folder {}", folder.display()))?;
            }
            // The files SQLite puts beside it get the same mode.
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

    /// Remembers which file it is.
    pub(super) fn remember(&self) -> anyhow::Result<()> {
        let identity = self.look()?;
        self.identity.get_or_init(|| identity);
        Ok(())
    }

    /// Fails when another file, or none, has its name now.
    pub(super) fn still_there(&self) -> anyhow::Result<()> {
        if let Some(open) = self.identity.get()
            && self.look()? != *open
        {
            bail!(
                "{} was replaced while it was open; hint: restart orders",
                self.path.display()
            );
        }
        Ok(())
    }

    fn look(&self) -> anyhow::Result<(u64, u64)> {
        let metadata = fs::metadata(&self.path)
            .with_context(|| format!("look for {}", self.path.display()))?;
        Ok((metadata.dev(), metadata.ino()))
    }
}
