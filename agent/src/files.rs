//! Atomic file replacement, with the path in the error.

use std::path::Path;

use anyhow::{Context, Result};

/// Writes a file so that a reader sees the old text or the new one, never half of it.
pub(crate) fn replace(path: &Path, text: &str, mode: u32) -> Result<()> {
    support::files::replace(path, text.as_bytes(), mode)
        .with_context(|| format!("cannot write {}", path.display()))
}
