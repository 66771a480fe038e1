//! The default folder of the file store.
//!
//! An instance has a system folder; an ordinary user who tries the service without settings gets a folder in
//! their home. Under systemd it is always the system folder: orders in an unexpected place are lost orders.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// The system folder.
const SYSTEM: &str = "/var/lib/orders";
/// Variables that only a process started by systemd has.
const SYSTEMD_VARIABLES: [&str; 2] = ["NOTIFY_SOCKET", "STATE_DIRECTORY"];

/// The system folder, unless it is not writable and the `environment` names a home.
pub(super) fn folder(environment: &BTreeMap<String, String>) -> PathBuf {
    choose(environment, may_write)
}

fn choose(environment: &BTreeMap<String, String>, may_write: impl Fn(&Path) -> bool) -> PathBuf {
    let system = PathBuf::from(SYSTEM);
    let by_systemd = SYSTEMD_VARIABLES
        .iter()
        .any(|name| environment.contains_key(*name));
    if by_systemd || may_write(&system) {
        return system;
    }
    // The XDG Base Directory Specification requires ignoring relative paths.
    let absolute = |name: &str| {
        let path = environment.get(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    state.map_or(system, |state| state.join("orders"))
}

/// Whether files can be created in `folder`, or it can be created itself.
fn may_write(folder: &Path) -> bool {
    let writable = |path: &Path| access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    if folder.exists() {
        return writable(folder);
    }
    folder.parent().is_some_and(writable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ordinary_user_gets_a_folder_in_the_home() {
        // The environment; whether the system folder is writable; the expected folder.
        type Row<'a> = (&'a [(&'a str, &'a str)], bool, &'a str);
        let table: [Row<'_>; 8] = [
            (&[], true, SYSTEM),
            (&[], false, SYSTEM),
            (&[("HOME", "/home/ada")], true, SYSTEM),
            (
                &[("HOME", "/home/ada")],
                false,
                "/home/ada/.local/state/orders",
            ),
            (
                &[("HOME", "/home/ada"), ("XDG_STATE_HOME", "/state")],
                false,
                "/state/orders",
            ),
            (
                &[("HOME", "/home/ada"), ("XDG_STATE_HOME", "state")],
                false,
                "/home/ada/.local/state/orders",
            ),
            (
                &[("HOME", "/root"), ("NOTIFY_SOCKET", "/run/n")],
                false,
                SYSTEM,
            ),
            (
                &[("HOME", "/root"), ("STATE_DIRECTORY", SYSTEM)],
                false,
                SYSTEM,
            ),
        ];
        for (pairs, may_write, expected) in table {
            let environment = pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            let folder = choose(&environment, |_| may_write);
            assert_eq!(folder, Path::new(expected), "{pairs:?} {may_write}");
        }
    }

    #[test]
    fn a_folder_is_writable_if_it_or_its_parent_is() {
        let folder = tempfile::tempdir().unwrap();
        assert!(may_write(folder.path()));
        assert!(may_write(&folder.path().join("new")));
        assert!(!may_write(&folder.path().join("not/there")));
    }
}
