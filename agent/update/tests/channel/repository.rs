//! A small publisher of TUF repositories that also signs what no honest publisher would.
//!
//! Every file it ever published stays in [`Repository::files`], as a mirror's would.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// The moment at which everything here is fresh.
pub(crate) fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

pub(crate) fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

pub(crate) const ROLES: [&str; 4] = ["root", "timestamp", "snapshot", "targets"];

/// The files of a channel by path, `metadata/…` and `targets/…`.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

#[derive(Clone)]
pub(crate) struct Key([u8; 32]);

impl Key {
    fn pair(&self) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&self.0).unwrap()
    }

    fn public(&self) -> Value {
        let public = hex(self.pair().public_key().as_ref());
        json!({"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": public}})
    }

    pub(crate) fn id(&self) -> String {
        sha256(&sigstore_tuf::canonical_json::to_canonical_bytes(&self.public()).unwrap())
    }

    pub(crate) fn signature(&self, signed: &Value) -> Value {
        let bytes = sigstore_tuf::canonical_json::to_canonical_bytes(signed).unwrap();
        json!({"keyid": self.id(), "sig": hex(self.pair().sign(&bytes).as_ref())})
    }
}

#[derive(Clone)]
pub(crate) struct Role {
    pub(crate) keys: Vec<Key>,
    pub(crate) threshold: usize,
    pub(crate) version: u64,
    pub(crate) expires: Timestamp,
}

#[derive(Clone)]
pub(crate) struct Repository {
    pub(crate) roles: BTreeMap<&'static str, Role>,
    /// What the targets role lists.
    pub(crate) targets: BTreeMap<String, Value>,
    /// What a snapshot pins beside `targets.json`.
    pub(crate) pinned: BTreeMap<String, u64>,
    pub(crate) files: Files,
    seed: u8,
}

impl Repository {
    /// Version 1 of everything, with one release.
    pub(crate) fn new() -> Self {
        let mut repository = Self {
            roles: BTreeMap::new(),
            targets: BTreeMap::new(),
            pinned: BTreeMap::new(),
            files: Files::new(),
            seed: 0,
        };
        for role in ROLES {
            let role_keys = Role {
                keys: vec![repository.key()],
                threshold: 1,
                version: 1,
                expires: now() + days(30),
            };
            repository.roles.insert(role, role_keys);
        }
        repository.add_release("1.1.0", b"the agent, version 1.1.0");
        repository.sign("root");
        repository.publish();
        repository
    }

    pub(crate) fn key(&mut self) -> Key {
        self.seed += 1;
        Key([self.seed; 32])
    }

    pub(crate) fn role(&mut self, role: &str) -> &mut Role {
        self.roles.get_mut(role).unwrap()
    }

    /// Adds a release to what is published next; returns its target's name.
    pub(crate) fn add_release(&mut self, version: &str, bytes: &[u8]) -> String {
        let name = format!("imagebuilder-agent-{version}-x86_64");
        let digest = sha256(bytes);
        let custom = json!({"schema": 1, "kind": "agent", "version": version, "arch": "x86_64",
                            "channels": {"stable": {"since": "2026-05-01T00:00:00Z"}}});
        self.targets.insert(
            name.clone(),
            json!({"length": bytes.len(), "hashes": {"sha256": digest}, "custom": custom}),
        );
        self.files
            .insert(format!("targets/{digest}.{name}"), bytes.to_vec());
        name
    }

    /// The next version of targets, snapshot and timestamp.
    pub(crate) fn next(&mut self) {
        for role in ["targets", "snapshot", "timestamp"] {
            self.role(role).version += 1;
        }
        self.publish();
    }

    /// Signs targets, snapshot and timestamp as they are.
    pub(crate) fn publish(&mut self) {
        for role in ["targets", "snapshot", "timestamp"] {
            self.sign(role);
        }
    }

    /// A new root, signed by the keys of the one before as well.
    pub(crate) fn rotate(&mut self, role: &str) {
        let before = self.role("root").keys.clone();
        let key = self.key();
        self.role(role).keys = vec![key];
        self.next_root(&before);
    }

    /// The next root, signed by these keys and its own.
    pub(crate) fn next_root(&mut self, before: &[Key]) {
        self.role("root").version += 1;
        let signed = self.signed("root");
        let mut keys = self.role("root").keys.clone();
        keys.extend_from_slice(before);
        keys.sort_by_key(Key::id);
        keys.dedup_by_key(|key| key.id());
        let signatures = keys.iter().map(|key| key.signature(&signed)).collect();
        self.put("root", &signed, signatures);
    }

    /// Signs one role as it is, with all of its keys.
    pub(crate) fn sign(&mut self, role: &str) {
        let signed = self.signed(role);
        let keys = self.role(role).keys.clone();
        let signatures = keys.iter().map(|key| key.signature(&signed)).collect();
        self.put(role, &signed, signatures);
    }

    /// Publishes one role with these signatures.
    pub(crate) fn put(&mut self, role: &str, signed: &Value, signatures: Vec<Value>) {
        let bytes = json!({"signed": signed, "signatures": signatures}).to_string();
        self.files.insert(self.path(role), bytes.into_bytes());
    }

    /// Where a role of its present version is.
    pub(crate) fn path(&self, role: &str) -> String {
        let version = self.roles[role].version;
        match role {
            "timestamp" => "metadata/timestamp.json".to_owned(),
            role => format!("metadata/{version}.{role}.json"),
        }
    }

    /// The current contents of a role.
    pub(crate) fn signed(&self, role: &str) -> Value {
        let this = &self.roles[role];
        let mut signed = json!({"_type": role, "spec_version": "1.0.34", "version": this.version,
                                "expires": this.expires.to_string()});
        let more = match role {
            "root" => {
                let roles: serde_json::Map<_, _> = self
                    .roles
                    .iter()
                    .map(|(name, role)| {
                        let ids: Vec<_> = role.keys.iter().map(Key::id).collect();
                        (
                            (*name).to_owned(),
                            json!({"keyids": ids, "threshold": role.threshold}),
                        )
                    })
                    .collect();
                let keys = self.roles.values().flat_map(|role| &role.keys);
                let keys: serde_json::Map<_, _> =
                    keys.map(|key| (key.id(), key.public())).collect();
                json!({"consistent_snapshot": true, "keys": keys, "roles": roles})
            }
            "timestamp" => json!({"meta": {"snapshot.json": self.pin("snapshot")}}),
            "snapshot" => {
                let mut meta = json!({"targets.json": self.pin("targets")});
                for (name, version) in &self.pinned {
                    meta[name] = json!({"version": version});
                }
                json!({"meta": meta})
            }
            _ => json!({"targets": self.targets}),
        };
        for (name, value) in more.as_object().unwrap() {
            signed[name] = value.clone();
        }
        signed
    }

    fn pin(&self, role: &str) -> Value {
        let bytes = &self.files[&self.path(role)];
        json!({"version": self.roles[role].version, "length": bytes.len(),
               "hashes": {"sha256": sha256(bytes)}})
    }

    /// The newest root.
    pub(crate) fn root(&self) -> &[u8] {
        &self.files[&self.path("root")]
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
