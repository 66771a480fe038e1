//! File-system steps that are either wholly done or not begun, also when the power goes in between.
//!
//! A rename is atomic but not durable before its directory is fsynced, and says nothing of the file's
//! own data: so every file is fsynced before it is renamed into place, and its directory after. No file
//! is written in place, nothing live is renamed away.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Puts `bytes` at `path`: after a crash it holds the old bytes or the new, never a part of either. What
/// could not be put in place is not left behind.
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

/// Removes a file or link; that there is none is well too.
///
/// # Errors
/// The call's.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes what was created, renamed or removed in `dir` last.
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

/// Where a file is written before it is renamed: one fixed name, so that leftovers never pile up.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}
