//! Changes of files that are complete or not begun, whatever ends the process or the power in between.
//!
//! A rename is atomic, but not durable before its directory is synced, and it does not cover the file's own data: every file is
//! synced before it is renamed into place, and its directory after. No file is written in place.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Replaces the file at `path` by one with `bytes` and the permissions `mode`: after a crash it has the old bytes or the new.
/// After an error nothing is left beside it.
///
/// # Errors
/// The first call that failed; the file is then as it was, unless only the last sync failed.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    renamed(path, |beside| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(beside)?;
        file.write_all(bytes)?;
        file.sync_all()
    })
}

/// Points the symbolic link at `link` to `target`, by one rename.
///
/// # Errors
/// The first call that failed; the link is then as it was, unless only the last sync failed.
pub fn point(link: &Path, target: &Path) -> io::Result<()> {
    renamed(link, |beside| std::os::unix::fs::symlink(target, beside))
}

/// Removes a file or a link. Not an error when there is none.
///
/// # Errors
/// The call's.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes what was created, renamed or removed in this directory durable.
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
    match path.parent() {
        None => sync_dir(Path::new("/")),
        Some(parent) if parent.as_os_str().is_empty() => sync_dir(Path::new(".")),
        Some(parent) => sync_dir(parent),
    }
}

/// Creates something beside `path` and renames it into place.
fn renamed(path: &Path, create: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    let beside = beside(path);
    // A leftover may have other permissions, and `mode` counts for a new file only.
    remove(&beside)
        .and_then(|()| create(&beside))
        .and_then(|()| fs::rename(&beside, path))
        .inspect_err(|_| {
            let _ = fs::remove_file(&beside);
        })?;
    sync_parent(path)
}

/// One fixed name, so that leftovers of crashes never pile up.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn replace_takes_over_a_leftover_and_its_permissions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        fs::write(dir.path().join("state.new"), "half").unwrap();
        replace(&path, b"one", 0o600).unwrap();
        replace(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_replace_leaves_the_old_and_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        // A directory that is not empty cannot be replaced by a file.
        fs::create_dir_all(path.join("child")).unwrap();
        replace(&path, b"one", 0o600).unwrap_err();
        assert!(path.join("child").is_dir());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn point_replaces_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("current");
        point(&link, Path::new("a")).unwrap();
        point(&link, Path::new("b")).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("b"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn removing_nothing_is_not_an_error() {
        let dir = tempfile::tempdir().unwrap();
        remove(&dir.path().join("none")).unwrap();
    }
}
