//! File-system steps that are either complete or not started, even after a power failure.
//!
//! A rename is atomic but not durable before its directory is fsynced, and does not make the file's own data durable:
//! so every file is fsynced before it is renamed into place, and its directory after. No file is written in place,
//! and no file in use is renamed away.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Replaces the file at `path` with `bytes`: after a crash it holds the old bytes or the new ones, never a mixture. A
/// failed replacement leaves no temporary file.
///
/// # Errors
/// The first call that failed; `path` is then as it was, unless only the last fsync failed.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let beside = beside(path);
    let put = || {
        remove_file(&beside)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    put().inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })?;
    sync_parent(path)
}

/// Points the link at `link` to `target`, by one rename.
///
/// # Errors
/// The first call that failed; the link is then as it was, unless only the last fsync failed.
pub fn point(link: &Path, target: &Path) -> io::Result<()> {
    let beside = beside(link);
    let put = || {
        remove_file(&beside)?;
        std::os::unix::fs::symlink(target, &beside)?;
        fs::rename(&beside, link)
    };
    put().inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })?;
    sync_parent(link)
}

/// Removes a file or link; a missing one is no error.
///
/// # Errors
/// The call's.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes changes of the directory `dir` durable.
///
/// # Errors
/// The call's.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// [`sync_dir`] of the directory that `path` is in.
///
/// # Errors
/// The call's.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    sync_dir(path.parent().unwrap_or(Path::new("/")))
}

/// The temporary file that is renamed: one fixed name, so that leftovers do not accumulate.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}
