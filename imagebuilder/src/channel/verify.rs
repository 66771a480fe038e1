//! Reads a repository and verifies all of it from the known root, as an instance would: TUF 1.0.34, section 5.
//!
//! Whether something is expired is kept apart from whether it is genuine: an operator has to be able to fix the
//! former, and nothing is ever built on what fails the latter.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use bytes::Bytes;
use contract::release::Release;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use tough::schema::{self, Role, RoleType, Root, Signed, Snapshot, Target, Targets};

use super::store::{Store, Tag};
use run::exit::{Exit, Failure};

/// Longest metadata file that is read, in bytes: a thousand releases take about half of it.
pub(crate) const MOST: u64 = 2 * 1024 * 1024;
/// Most roots that are followed from the known one: one a week for twenty years.
const MOST_ROOTS: u64 = 1024;

pub(crate) const TIMESTAMP: &str = "metadata/timestamp.json";

/// The path of a versioned metadata file.
pub(crate) fn metadata(version: u64, role: &str) -> String {
    format!("metadata/{version}.{role}.json")
}

/// The path of a target with this digest.
pub(crate) fn target(digest: &str, name: &str) -> String {
    format!("targets/{digest}.{name}")
}

/// The chain of roots, each signed by the one before it.
#[derive(Clone, Debug)]
pub(crate) struct Roots {
    /// The newest.
    pub(crate) current: Signed<Root>,
    /// The one before it, if there is one at or after the known root.
    pub(crate) previous: Option<Signed<Root>>,
    /// Every one as it was read, by version, from the one known here.
    pub(crate) files: BTreeMap<u64, Bytes>,
}

/// A repository at one moment, all of it genuine and consistent.
#[derive(Clone, Debug)]
pub(crate) struct Verified {
    /// The roots.
    pub(crate) roots: Roots,
    /// The timestamp, which names the newest snapshot.
    pub(crate) timestamp: Signed<schema::Timestamp>,
    /// Which `timestamp.json` that was.
    pub(crate) tag: Tag,
    /// The snapshot, which lists the metadata files.
    pub(crate) snapshot: Signed<Snapshot>,
    /// The releases.
    pub(crate) targets: Signed<Targets>,
    /// Metadata but the roots as it was read, by file name.
    pub(crate) files: BTreeMap<String, Bytes>,
}

/// One release of the repository.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// The target's name.
    pub(crate) name: String,
    /// SHA-256 of its bytes, in lower-case hex.
    pub(crate) digest: String,
    /// Its length in bytes.
    pub(crate) length: u64,
    /// What it is.
    pub(crate) release: Release,
}

impl Verified {
    /// The newest root.
    pub(crate) fn root(&self) -> &Root {
        &self.roots.current.signed
    }

    /// Every release that this program understands, in the order of names.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        entries(&self.targets.signed)
    }

    /// Versions of root, timestamp, snapshot and targets.
    pub(crate) fn versions(&self) -> [u64; 4] {
        [
            self.root().version.get(),
            self.timestamp.signed.version.get(),
            self.snapshot.signed.version.get(),
            self.targets.signed.version.get(),
        ]
    }

    /// When each role expires.
    pub(crate) fn expiries(&self) -> [(RoleType, Timestamp); 4] {
        [
            (RoleType::Root, self.root().expires),
            (RoleType::Targets, self.targets.signed.expires),
            (RoleType::Snapshot, self.snapshot.signed.expires),
            (RoleType::Timestamp, self.timestamp.signed.expires),
        ]
    }

    /// Refuses when one of `roles` is expired; instances refuse it as well, so the hint has the fix.
    pub(crate) fn fresh(&self, roles: &[RoleType], now: Timestamp) -> Result<(), Failure> {
        for (role, expires) in self.expiries() {
            if roles.contains(&role) && expires <= now {
                return Err(Exit::Refused
                    .error(format!(
                        "the channel's {role} metadata expired at {expires}"
                    ))
                    .hint(fix(role)));
            }
        }
        Ok(())
    }
}

/// What brings an expired role back.
pub(crate) fn fix(role: RoleType) -> &'static str {
    match role {
        RoleType::Root => "with the root keys at hand: `imagebuilder channel rotate-root`",
        RoleType::Targets => {
            "with the targets keys at hand: `imagebuilder channel refresh --targets`"
        }
        _ => "`imagebuilder channel refresh`; run it from cron so that it does not come to this",
    }
}

/// Every release of `targets` that this program understands, in the order of names.
pub(crate) fn entries(targets: &Targets) -> Vec<Entry> {
    let mut entries: Vec<Entry> = targets
        .targets
        .iter()
        .filter_map(|(name, target)| entry(name.raw(), target))
        .collect();
    entries.sort_by(|a, b| {
        (&a.release.version, &a.release.arch).cmp(&(&b.release.version, &b.release.arch))
    });
    entries
}

fn entry(name: &str, target: &Target) -> Option<Entry> {
    let custom = target.custom.clone().into_iter().collect();
    let release: Release = serde_json::from_value(serde_json::Value::Object(custom)).ok()?;
    release.check().ok()?;
    Some(Entry {
        name: name.to_owned(),
        digest: hex::encode(&target.hashes.sha256),
        length: target.length,
        release,
    })
}

/// Reads the known root.
///
/// # Errors
/// When there is none, or it is no root that signs itself.
pub(crate) fn known(path: &Path) -> anyhow::Result<Bytes> {
    let bytes = std::fs::read(path).map_err(|error| {
        let absent = error.kind() == std::io::ErrorKind::NotFound;
        let failure = Exit::Refused
            .error(format!("cannot read the channel's root of trust {}", path.display()))
            .because(error);
        if absent {
            failure.hint("`imagebuilder channel init` makes a channel; for an existing one, take the file from version control, or from its author")
        } else {
            failure
        }
    })?;
    let root: Signed<Root> = parse(&bytes, &path.display().to_string())?;
    signed_by(&root.signed, &root, &path.display().to_string())?;
    Ok(bytes.into())
}

/// Follows the chain from the known root to the newest: TUF section 5.3.
///
/// # Errors
/// When a root is not signed by its predecessor and by itself.
pub(crate) async fn roots(store: &dyn Store, known: &Bytes) -> anyhow::Result<Roots> {
    let mut current: Signed<Root> = parse(known, "the known root")?;
    let mut previous = None;
    let mut files = BTreeMap::from([(current.signed.version.get(), known.clone())]);
    for _ in 0..MOST_ROOTS {
        let version = current.signed.version.get() + 1;
        let path = metadata(version, "root");
        let Some(found) = store.read(&path, MOST).await? else {
            return Ok(Roots {
                current,
                previous,
                files,
            });
        };
        let next: Signed<Root> = parse(&found.bytes, &path)?;
        signed_by(&current.signed, &next, &path)?;
        signed_by(&next.signed, &next, &path)?;
        is_version(&next, version, &path)?;
        files.insert(version, found.bytes);
        previous = Some(std::mem::replace(&mut current, next));
    }
    Err(Exit::Refused
        .error(format!(
            "the channel has more than {MOST_ROOTS} roots after the one known here"
        ))
        .into())
}

/// Reads and verifies everything below `root`: TUF sections 5.4 to 5.6. `None` when there is no timestamp.
///
/// # Errors
/// When anything is not signed by the keys in `root`, or is inconsistent.
pub(crate) async fn below(
    store: &dyn Store,
    roots: &Roots,
    root: &Root,
) -> anyhow::Result<Option<Verified>> {
    let Some(stamp) = store.read(TIMESTAMP, MOST).await? else {
        return Ok(None);
    };
    let timestamp: Signed<schema::Timestamp> = parse(&stamp.bytes, TIMESTAMP)?;
    signed_by(root, &timestamp, TIMESTAMP)?;

    let meta = timestamp.signed.meta.get("snapshot.json");
    let (path, bytes) = listed(store, meta, "snapshot").await?;
    let snapshot: Signed<Snapshot> = parse(&bytes, &path)?;
    signed_by(root, &snapshot, &path)?;
    is_version(&snapshot, meta.map_or(0, |meta| meta.version.get()), &path)?;
    let mut files = BTreeMap::from([
        ("timestamp.json".to_owned(), stamp.bytes),
        (file_name(&path), bytes),
    ]);

    let meta = snapshot.signed.meta.get("targets.json");
    let (path, bytes) = listed(store, meta, "targets").await?;
    let targets: Signed<Targets> = parse(&bytes, &path)?;
    signed_by(root, &targets, &path)?;
    is_version(&targets, meta.map_or(0, |meta| meta.version.get()), &path)?;
    files.insert(file_name(&path), bytes);
    Ok(Some(Verified {
        roots: roots.clone(),
        timestamp,
        tag: stamp.tag,
        snapshot,
        targets,
        files,
    }))
}

/// Reads and verifies a repository from the known root.
///
/// # Errors
/// When there is none, or anything of it is not genuine.
pub(crate) async fn repository(store: &dyn Store, known: &Bytes) -> anyhow::Result<Verified> {
    let roots = roots(store, known).await?;
    let verified = below(store, &roots, &roots.current.signed).await?;
    verified.ok_or_else(|| {
        Exit::Refused
            .error("the repository has no timestamp.json: it is empty, or its init was interrupted")
            .hint("run `imagebuilder channel init`")
            .into()
    })
}

fn file_name(path: &str) -> String {
    path.trim_start_matches("metadata/").to_owned()
}

/// Reads the metadata file that another lists, and compares it with the entry.
async fn listed(
    store: &dyn Store,
    meta: Option<&schema::Metafile>,
    role: &str,
) -> anyhow::Result<(String, Bytes)> {
    let Some(meta) = meta else {
        return Err(tampered(&format!("nothing lists {role}.json")));
    };
    let path = metadata(meta.version.get(), role);
    let Some(found) = store.read(&path, MOST).await? else {
        return Err(tampered(&format!("{path} is listed but missing")));
    };
    let right_length = meta
        .length
        .is_none_or(|length| length == found.bytes.len() as u64);
    let right_digest = meta
        .hashes
        .as_ref()
        .is_none_or(|hashes| hex::encode(&hashes.sha256) == super::digest(&found.bytes));
    if right_length && right_digest {
        Ok((path, found.bytes))
    } else {
        Err(tampered(&format!("{path} is not the file that is listed")))
    }
}

pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], path: &str) -> anyhow::Result<Signed<T>> {
    serde_json::from_slice(bytes)
        .with_context(|| format!("{path} is not valid metadata"))
        .map_err(|error| tampered(&format!("{error:#}")))
}

fn signed_by<T: Role>(root: &Root, role: &Signed<T>, path: &str) -> anyhow::Result<()> {
    root.verify_role(role).map_err(|error| {
        tampered(&format!(
            "{path} is not signed by the keys in root {}: {error}",
            root.version
        ))
    })
}

fn is_version<T: Role>(role: &Signed<T>, version: u64, path: &str) -> anyhow::Result<()> {
    if role.signed.version().get() == version {
        return Ok(());
    }
    Err(tampered(&format!(
        "{path} contains version {}",
        role.signed.version()
    )))
}

/// The repository is not what its keys have signed.
fn tampered(what: &str) -> anyhow::Error {
    Exit::Refused
        .error(format!("the channel does not verify: {what}"))
        .hint("nothing was changed. Find out who wrote there before anything is signed again: docs/channel.md")
        .into()
}
