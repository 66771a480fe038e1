//! Limits that fit each other: metadata as large as it may be, within the memory that the updater's unit has.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(
    dead_code,
    reason = "what no honest publisher does is other tests' business"
)]
#[path = "../update/tests/channel/repository.rs"]
mod repository;

use std::fs;
use std::process::Command;

use agent_update::channel::Limits;
use serde_json::json;

use repository::{ROLES, Repository};

const UPDATER: &str = include_str!("../../templates/systemd/imagebuilder-agent/updater.tera");

/// Of the unit's memory, what its other processes (`systemctl`), the kernel and the pages of files take.
const REST: u64 = 16 << 20;

/// What the updater's unit may have in all, in bytes.
fn unit_memory() -> u64 {
    let set = UPDATER.split_once("set memory = \"").unwrap().1;
    let (mebibytes, _) = set.split_once("M\"").unwrap();
    mebibytes.parse::<u64>().unwrap() << 20
}

/// A channel whose targets role has just under `limit` bytes.
fn full(limit: u64) -> Repository {
    let mut channel = Repository::new();
    channel.targets.clear();
    for role in ROLES {
        channel.role(role).expires = "2040-01-01T00:00:00Z".parse().unwrap();
    }
    channel.sign("root");
    channel.publish();
    let length = |channel: &Repository| {
        let path = channel.path("targets");
        u64::try_from(channel.files[&path].len()).unwrap()
    };
    let mut releases = 0_u64;
    let entry = |channel: &mut Repository, number: u64| {
        let digest = format!("{number:064x}");
        // Short releases are what makes most of a role's bytes into structures.
        let custom = json!({"schema": 1, "kind": "agent", "version": format!("1.{number}.0"), "arch": "x86_64",
            "channels": {"stable": {"since": "2026-05-01T00:00:00Z"}}});
        channel.targets.insert(
            format!("imagebuilder-agent-1.{number}.0-x86_64"),
            json!({"length": 1, "hashes": {"sha256": digest}, "custom": custom}),
        );
    };
    entry(&mut channel, 0);
    channel.publish();
    let first = length(&channel);
    entry(&mut channel, 1_000_000);
    channel.publish();
    let each = length(&channel) - first;
    while first + (releases + 2) * each < limit {
        releases += 1;
        entry(&mut channel, releases);
    }
    channel.publish();
    let length = length(&channel);
    assert!(
        length <= limit && length > limit * 9 / 10,
        "{length} of {limit}"
    );
    channel
}

/// The updater and a release's self-test have the whole channel in memory at the same time.
#[test]
fn the_largest_channel_fits_the_units_memory_limit() {
    let channel = full(Limits::default().targets);
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let at = |path: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    for (path, bytes) in &channel.files {
        fs::write(at(&format!("served/{path}")), bytes).unwrap();
    }
    let trust = "usr/share/imagebuilder-agent/channel/root.json";
    fs::write(at(trust), channel.root()).unwrap();
    let url = format!("file://{}", root.join("served").display());
    let terms = json!({"instance_id": "i-1", "channel": "stable", "url": url, "soak_seconds": 1});
    fs::write(at("configured/update.json"), terms.to_string()).unwrap();
    for dir in [
        "opt/imagebuilder-agent/staging",
        "var/lib/imagebuilder-update",
        "run/imagebuilder-update",
    ] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    let each = (unit_memory() - REST) / 2;
    // The kernel counts what a process writes to that is its own: RLIMIT_DATA, in KiB.
    let probed = Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -d {} && exec \"$@\"", each >> 10))
        .arg("sh")
        .arg(env!("CARGO_BIN_EXE_imagebuilder-agent"))
        .args(["update", "probe", "--root"])
        .arg(root)
        .arg("--configured-dir")
        .arg(root.join("configured"))
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&probed.stderr);
    assert!(probed.status.success(), "{} MiB: {log}", each >> 20);
}
