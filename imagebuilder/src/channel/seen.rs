//! The newest versions seen in this folder: a repository that goes back to older ones is refused, as an instance refuses it.
//!
//! Kept beside the runs, not in version control: losing the file only loses this check.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::verify::Verified;
use run::exit::Exit;

/// What was seen of a repository.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    repository: String,
    /// Root, timestamp, snapshot, targets.
    versions: [u64; 4],
}

/// The note's file.
#[derive(Clone, Debug)]
pub(crate) struct Seen(pub(crate) PathBuf);

impl Seen {
    /// Refuses a repository older than what was seen of it here.
    ///
    /// # Errors
    /// When it is older, or the note cannot be read.
    pub(crate) fn check(&self, repository: &str, verified: &Verified) -> anyhow::Result<()> {
        let text = match std::fs::read(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                return Err(error).with_context(|| format!("read {}", self.0.display()));
            }
        };
        // The file is written by rename, so an incomplete one was written by another program.
        let Ok(note) = serde_json::from_slice::<Note>(&text) else {
            return Ok(());
        };
        if note.repository != repository {
            return Ok(());
        }
        let roles = ["root", "timestamp", "snapshot", "targets"];
        for ((role, was), is) in roles.iter().zip(note.versions).zip(verified.versions()) {
            if is < was {
                return Err(Exit::Refused
                    .error(format!("the channel went back: {role} {was} was seen here, now it is {is}"))
                    .hint(format!(
                        "instances refuse it as well. Put the newer files back; if this is another channel in the same place, remove {}",
                        self.0.display()
                    ))
                    .into());
            }
        }
        Ok(())
    }

    /// Notes what was seen.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn note(&self, repository: &str, verified: &Verified) -> anyhow::Result<()> {
        let note = Note {
            repository: repository.to_owned(),
            versions: verified.versions(),
        };
        let text = serde_json::to_vec_pretty(&note).context("serialize what was seen")?;
        replace_file(&self.0, &text)
    }
}

/// Replaces a file durably and atomically.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let write = || {
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            std::fs::create_dir_all(folder)?;
        }
        support::files::replace(path, bytes, 0o644)
    };
    write().with_context(|| format!("write {}", path.display()))
}
