//! A signed channel in a folder: one key for all four roles, which is enough for what is proven here.

use std::fs;
use std::path::Path;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A channel with one release, `version`, for everybody: metadata and targets below `dir`, the root of
/// trust at `trust/root.json`. Returns the release's digest.
pub(crate) fn channel(dir: &Path, trust: &Path, version: &str, binary: &[u8]) -> String {
    let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let public = json!({"keytype": "ed25519", "scheme": "ed25519",
        "keyval": {"public": hex(key.public_key().as_ref())}});
    // Keys are sorted and nothing needs escaping: serde_json's compact form is the canonical one.
    let id = sha256(public.to_string().as_bytes());
    let signed = |signed: Value| {
        let sig = hex(key.sign(signed.to_string().as_bytes()).as_ref());
        json!({"signed": signed, "signatures": [{"keyid": id, "sig": sig}]}).to_string()
    };
    let expires = (Timestamp::now() + SignedDuration::from_hours(24))
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let role = |kind: &str, body: Value| {
        let mut role =
            json!({"_type": kind, "spec_version": "1.0.34", "version": 1, "expires": expires});
        for (name, value) in body.as_object().unwrap() {
            role[name] = value.clone();
        }
        signed(role)
    };
    let held = json!({"keyids": [id], "threshold": 1});
    let root = role(
        "root",
        json!({"consistent_snapshot": true, "keys": {(id.clone()): public},
            "roles": {"root": held, "timestamp": held, "snapshot": held, "targets": held}}),
    );
    let digest = sha256(binary);
    let arch = std::env::consts::ARCH;
    let name = format!("imagebuilder-agent-{version}-{arch}");
    let targets = role(
        "targets",
        json!({"targets": {(name.clone()): {"length": binary.len(), "hashes": {"sha256": digest},
            "custom": {"schema": 1, "kind": "agent", "version": version, "arch": arch,
                "channels": {"stable": {"since": "2026-01-01T00:00:00Z"}}}}}}),
    );
    let pinned = |text: &str| json!({"version": 1, "length": text.len(), "hashes": {"sha256": sha256(text.as_bytes())}});
    let snapshot = role(
        "snapshot",
        json!({"meta": {"targets.json": pinned(&targets)}}),
    );
    let timestamp = role(
        "timestamp",
        json!({"meta": {"snapshot.json": pinned(&snapshot)}}),
    );
    for dir in [&dir.join("metadata"), &dir.join("targets"), trust] {
        fs::create_dir_all(dir).unwrap();
    }
    fs::write(trust.join("root.json"), &root).unwrap();
    for (name, text) in [
        ("1.root.json", &root),
        ("timestamp.json", &timestamp),
        ("1.snapshot.json", &snapshot),
        ("1.targets.json", &targets),
    ] {
        fs::write(dir.join("metadata").join(name), text).unwrap();
    }
    fs::write(dir.join("targets").join(format!("{digest}.{name}")), binary).unwrap();
    digest
}
