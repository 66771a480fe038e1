//! The updater under power cuts and failing disks, call by call: the built binary, under strace, killed or
//! refused at every call by which it changes anything on the disk.
//!
//! What it does to the disk is recorded once; then, for each call, a fresh instance is updated with that call
//! disturbed, looked at, and updated again undisturbed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod author;
mod sandbox;
mod trace;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use sandbox::{Sandbox, output};
use trace::{Call, disturbed, record};

/// Everything that the run of a whole update does to the disk.
fn calls() -> Vec<Call> {
    let sandbox = Sandbox::new();
    let mut calls = record(&sandbox);
    calls.retain(Call::changes);
    assert!(sandbox.is_updated());
    sandbox.assert_sound("recorded");
    calls
}

/// Does something with each of the calls, two at a time: the machine has two processors, at least.
fn each<T: Sync>(calls: &[T], action: impl Fn(usize, &T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(call) = calls.get(at) else { return };
                    action(at, call);
                }
            });
        }
    });
}

fn by_name(calls: &[Call]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for call in calls {
        *counts.entry(call.name.as_str()).or_insert(0) += 1;
    }
    counts
}

#[test]
fn killed_at_any_disk_change_the_next_run_completes() {
    let calls = calls();
    let finished = AtomicUsize::new(0);
    each(&calls, |_, call| {
        for after in ["kill", "power loss"] {
            let what = format!("{after} at {} {} ({})", call.name, call.nth, call.arguments);
            let mut sandbox = Sandbox::new();
            let done = disturbed(&sandbox, call, "signal=KILL");
            assert_eq!(done.status.signal(), Some(9), "{what}: {}", output(&done));
            sandbox.assert_sound(&what);
            if after == "power loss" {
                sandbox.reboot();
            }
            sandbox.assert_completes(&what);
        }
        finished.fetch_add(1, Ordering::Relaxed);
    });
    let counts = by_name(&calls);
    println!("{} calls, twice each: {counts:?}", finished.into_inner());
    assert!(calls.len() > 60, "{counts:?}");
    for name in ["rename", "fsync", "write", "symlink", "openat"] {
        assert!(counts.contains_key(name), "{counts:?}");
    }
}

/// The disk refuses any one call: the run ends in order, nobody is blamed, stable is as it was or wholly the
/// new one, nothing that fills the disk is left; and with the disk well again the update completes.
#[test]
fn a_disk_failure_at_any_call_blames_no_release() {
    let calls = calls();
    let points: Vec<(&Call, &str)> = calls
        .iter()
        .flat_map(|call| {
            let errors: &[&str] = match call.name.as_str() {
                "fsync" | "fdatasync" | "unlink" | "unlinkat" | "rmdir" | "fchmod" => &["EIO"],
                _ => &["ENOSPC", "EIO"],
            };
            errors.iter().map(move |error| (call, *error))
        })
        .collect();
    each(&points, |_, (call, error)| {
        let what = format!("{error} at {} {} ({})", call.name, call.nth, call.arguments);
        let sandbox = Sandbox::new();
        let done = disturbed(&sandbox, call, &format!("error={error}"));
        let code = done.status.code();
        assert!(
            matches!(code, Some(0 | 1 | 4)),
            "{what}: {code:?} {}",
            output(&done)
        );
        sandbox.assert_sound(&what);
        assert!(sandbox.runs_stable(), "{what}: {}", output(&done));
        if !call.name.starts_with("unlink") {
            assert_eq!(sandbox.parts(), [""; 0], "{what}: {}", output(&done));
        }
        sandbox.pause_is_over();
        sandbox.assert_completes(&what);
    });
    println!("{} faults: {:?}", points.len(), by_name(&calls));
}

/// The disk does not give what is asked of it: the instance stays as it is, on its stable agent.
#[test]
fn a_disk_that_cannot_be_read_changes_nothing() {
    let updated = || {
        let sandbox = Sandbox::new();
        sandbox.assert_completes("before the disk fails");
        sandbox
    };
    let mut calls = record(&updated());
    let mut files = BTreeSet::new();
    calls.retain(|call| {
        let file = call.paths().first().copied().unwrap_or_default().to_owned();
        call.reads() && (call.name != "read" || files.insert(file))
    });
    each(&calls, |_, call| {
        let what = format!("EIO at {} {} ({})", call.name, call.nth, call.arguments);
        let sandbox = updated();
        let inode = sandbox.stable_inode();
        let done = disturbed(&sandbox, call, "error=EIO");
        let code = done.status.code();
        assert!(
            matches!(code, Some(0 | 1 | 2 | 4)),
            "{what}: {code:?} {}",
            output(&done)
        );
        assert_eq!(sandbox.stable_inode(), inode, "{what}: {}", output(&done));
        sandbox.assert_sound(&what);
        assert!(sandbox.runs_stable(), "{what}: {}", output(&done));
        sandbox.assert_completes(&what);
    });
    println!("{} faults: {:?}", calls.len(), by_name(&calls));
    assert!(calls.len() > 30, "{:?}", by_name(&calls));
}

/// What lasts is what was fsynced: each file before it is renamed into place, each directory after.
#[test]
fn every_rename_is_between_two_fsyncs() {
    let calls = calls();
    let (mut dirty, mut links) = (BTreeSet::new(), BTreeSet::new());
    let mut due: Option<(String, String)> = None;
    let (mut renamed, mut pointed) = (Vec::new(), 0);
    for call in &calls {
        let paths = call.paths();
        // The runtime directory is memory, and what is in it is meant to go with the boot.
        if paths
            .iter()
            .any(|path| path.contains("/run/imagebuilder-update/"))
        {
            continue;
        }
        let shown = format!("{} ({})", call.name, call.arguments);
        let first = paths.first().copied().unwrap_or_default().to_owned();
        let last = paths.last().copied().unwrap_or_default().to_owned();
        match call.name.as_str() {
            "fsync" | "fdatasync" => {
                dirty.remove(&first);
                if due.as_ref().is_some_and(|(dir, _)| *dir == first) {
                    due = None;
                }
            }
            "symlink" | "symlinkat" => {
                links.insert(last);
            }
            "rename" | "renameat" | "renameat2" => {
                assert_eq!(due, None, "not fsynced before {shown}");
                let quoted: Vec<&str> = call.arguments.split('"').skip(1).step_by(2).collect();
                let (from, to) = (quoted[0].to_owned(), quoted[1].to_owned());
                assert!(
                    !dirty.contains(&from),
                    "{from} is not fsynced before {shown}"
                );
                if links.remove(&from) {
                    pointed += 1;
                }
                let dir = Path::new(&to)
                    .parent()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                due = Some((dir, shown));
                renamed.push(to);
            }
            // A file that is made, filled or changed is not on the disk yet.
            "openat" | "write" | "pwrite64" | "writev" | "ftruncate" | "fchmod" | "fchmodat" => {
                dirty.insert(last);
            }
            _ => {}
        }
    }
    assert_eq!(due, None, "not fsynced at the end");
    let stable = |to: &&String| to.ends_with("/imagebuilder-agent/stable");
    assert_eq!(renamed.iter().filter(stable).count(), 1, "{renamed:#?}");
    let states = |to: &&String| to.ends_with("/state.json");
    assert!(renamed.iter().filter(states).count() >= 10, "{renamed:#?}");
    for name in [
        "/imagebuilder-agent/trial",
        "/COMPLETE",
        "/imagebuilder-agent",
        "/timestamp.json",
    ] {
        assert!(
            renamed.iter().any(|to| to.ends_with(name)),
            "{name}: {renamed:#?}"
        );
    }
    println!("{} renames, {pointed} of them of links", renamed.len());
}

#[test]
fn of_eight_updaters_at_once_one_updates() {
    let sandbox = Sandbox::new();
    let running: Vec<_> = (0..8)
        .map(|_| {
            let mut updater = sandbox.update();
            updater.stdout(Stdio::null()).stderr(Stdio::piped());
            updater.spawn().unwrap()
        })
        .collect();
    let mut updated = 0;
    for updater in running {
        let done = updater.wait_with_output().unwrap();
        assert_eq!(done.status.code(), Some(0), "{}", output(&done));
        updated += usize::from(output(&done).contains("updated from 1.0.0 to 1.1.0"));
    }
    assert_eq!(updated, 1);
    sandbox.assert_completes("eight at once");
    let started = fs::read_to_string(sandbox.path("played/started")).unwrap();
    assert_eq!(started.matches("trial").count(), 1, "{started}");
}

/// A real one, too small for a release or for the state, where this host lets us mount one.
#[test]
fn a_disk_that_is_full_is_refused_and_harms_nothing() {
    let may = std::process::Command::new("unshare")
        .args(["-m", "true"])
        .output();
    if !may.is_ok_and(|done| done.status.success()) {
        println!("no right to mount: the injected faults stand for it");
        return;
    }
    let slots = "mount -t tmpfs -o size=8m none \"$IMAGEBUILDER_UPDATE_ROOT/opt\" && cd \"$IMAGEBUILDER_UPDATE_ROOT/opt\" && \
        mkdir -p imagebuilder-agent/versions imagebuilder-agent/staging && \
        ln -s ../../usr/lib/imagebuilder-agent/factory imagebuilder-agent/stable && \"$@\"; echo $?; \
        readlink imagebuilder-agent/stable; ls -A imagebuilder-agent/staging imagebuilder-agent/versions";
    let state = "mount -t tmpfs -o size=4k none \"$IMAGEBUILDER_UPDATE_ROOT/var/lib/imagebuilder-update\" && \"$@\"; echo $?";
    for (mount, output_then, code) in [(slots, "4\n", "no-room"), (state, "", "")] {
        let sandbox = Sandbox::new();
        let mut full = sandbox.command("unshare");
        full.args([
            "-m",
            "sh",
            "-c",
            mount,
            "sh",
            env!("CARGO_BIN_EXE_imagebuilder-agent"),
        ]);
        let done = full.args(["update", "run"]).output().unwrap();
        let stdout = String::from_utf8_lossy(&done.stdout);
        assert!(
            stdout.starts_with(output_then),
            "{mount}: {stdout} {}",
            output(&done)
        );
        assert_ne!(
            stdout.lines().next(),
            Some("0"),
            "{mount}: {}",
            output(&done)
        );
        if !code.is_empty() {
            let left = "../../usr/lib/imagebuilder-agent/factory\n\
                imagebuilder-agent/staging:\n\nimagebuilder-agent/versions:\n";
            assert!(stdout.ends_with(left), "{mount}: {stdout}");
            let shown =
                fs::read_to_string(sandbox.path("run/imagebuilder-update/status.json")).unwrap();
            assert!(
                shown.contains(&format!("\"code\": \"{code}\"")),
                "{mount}: {shown}"
            );
        }
        assert!(!sandbox.is_updated(), "{mount}");
        assert!(sandbox.runs_stable(), "{mount}");
        sandbox.assert_sound("full");
        sandbox.pause_is_over();
        sandbox.assert_completes("with room again");
    }
}

#[test]
fn a_copy_of_another_instance_starts_over_with_its_floor() {
    let mut sandbox = Sandbox::new();
    sandbox.assert_completes("the first instance");
    let path = sandbox.path("var/lib/imagebuilder-update/state.json");
    let mut state = sandbox.state().unwrap();
    state["floor"] = "1.0.5".into();
    let failed =
        serde_json::json!({"count": 1, "at": "2026-01-01T00:00:00Z", "reason": "interrupted"});
    state["failures"] = serde_json::json!([{"build": {"version": "1.1.0", "digest": sandbox.digest},
        "causes": {"interrupted": failed}}]);
    state["skipped"] = serde_json::json!([{"build": {"version": "1.0.9", "digest": "0".repeat(64)},
        "reason": "crashed", "at": "2026-01-01T00:00:00Z"}]);
    fs::write(&path, state.to_string()).unwrap();
    sandbox.is_now("i-0b");
    sandbox.reboot();
    sandbox.assert_completes("the second instance");
    let state = sandbox.state().unwrap();
    assert_eq!(state["instance_id"], "i-0b");
    assert_eq!(state["floor"], "1.0.5");
    assert_eq!(state["previous"], serde_json::Value::Null);
    assert_eq!(state["failures"], serde_json::json!([]));
    assert_eq!(state["confirmed"].as_array().map(Vec::len), Some(1));
}
