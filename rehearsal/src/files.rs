//! Files that are replaced as a whole.

use std::path::Path;

use anyhow::Context as _;

/// Replaces the content of `path` such that a crash at any moment leaves the old or the new. Only the owner may read
/// the file: it may hold user data, and the key of the admin API.
///
/// # Errors
/// When the file or its folder cannot be written.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    support::files::replace(path, bytes, 0o600).with_context(|| format!("write {}", path.display()))
}
