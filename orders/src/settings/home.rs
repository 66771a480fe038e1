//! Where orders are kept when nobody says where.
//!
//! A box has its folder; who only wants to try the service out, as an ordinary user and without any
//! settings, gets one of their own. Never guesses for a service of systemd's: orders that are not
//! where they are looked for are lost orders.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// The folder of a box.
const SYSTEM: &str = "/var/lib/orders";
/// What only a process that systemd started has.
const BY_SYSTEMD: [&str; 2] = ["NOTIFY_SOCKET", "STATE_DIRECTORY"];

/// The folder: the box's, unless it is not ours to write and the `environment` names a home.
pub(super) fn folder(environment: &BTreeMap<String, String>) -> PathBuf {
    choose(environment, may_write)
}

fn choose(environment: &BTreeMap<String, String>, may_write: impl Fn(&Path) -> bool) -> PathBuf {
    let system = PathBuf::from(SYSTEM);
    let by_systemd = BY_SYSTEMD
        .iter()
        .any(|name| environment.contains_key(*name));
    if by_systemd || may_write(&system) {
        return system;
    }
    // The XDG Base Directory Specification: a path that is not absolute is to be ignored.
    let absolute = |name: &str| {
        let path = environment.get(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    state.map_or(system, |state| state.join("orders"))
}

/// Whether files can be made in `folder`, or it can be made itself.
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
    fn an_ordinary_user_has_a_folder_of_their_own_and_a_box_never_guesses() {
        // what the environment has; whether the box's folder is ours to write; the folder
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
    fn a_folder_can_be_written_when_it_or_its_parent_can() {
        let folder = tempfile::tempdir().unwrap();
        assert!(may_write(folder.path()));
        assert!(may_write(&folder.path().join("new")));
        assert!(!may_write(&folder.path().join("not/there")));
    }
}
