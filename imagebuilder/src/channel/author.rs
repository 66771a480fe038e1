//! Signs metadata and writes it in the only order that is safe: referenced files before those that reference them, and
//! `timestamp.json` last.
//!
//! An interrupted write leaves files that nothing references; the next one uses the version after them. Versions only
//! have to increase (TUF sections 5.4 to 5.6), and a file that a reader may have seen is never written again.

use std::collections::HashMap;
use std::num::NonZeroU64;

use anyhow::Context as _;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tough::schema::{
    Hashes, Metafile, Role, RoleType, Root, Signature, Signed, Snapshot, Targets,
    Timestamp as Stamp,
};

use super::keys::Opened;
use super::store::{Keep, Store, Tag, Written, settle};
use super::verify::{self, TIMESTAMP, Verified, metadata};
use crate::config::Expires;
use run::exit::Exit;

/// The specification that is followed.
pub(crate) const SPEC: &str = "1.0.34";
/// Most versions that are skipped because interrupted runs left files there: more than that is not accidental.
const MOST_SKIPPED: u64 = 64;

/// Whole days from `now`, to the second: TUF has no fractions in its dates (section 4.2).
pub(crate) fn in_days(now: Timestamp, days: u32) -> Timestamp {
    let later = now + SignedDuration::from_hours(24 * i64::from(days));
    Timestamp::from_second(later.as_second()).unwrap_or(later)
}

/// The version after `version`.
pub(crate) fn next(version: NonZeroU64) -> NonZeroU64 {
    version.saturating_add(1)
}

/// Adds the signatures of all `keys` that one of `roots` gives the role to.
///
/// # Errors
/// When a key cannot sign.
pub(crate) async fn sign<T: Role>(
    role: T,
    roots: &[&Root],
    keys: &[Opened],
) -> anyhow::Result<Signed<T>> {
    let message = role
        .canonical_form()
        .context("make the canonical form of metadata")?;
    let mut signatures: Vec<Signature> = Vec::new();
    for key in keys {
        let asked = roots.iter().any(|root| {
            root.roles
                .get(&T::TYPE)
                .is_some_and(|role| role.keyids.contains(&key.id))
        });
        let again = signatures.iter().any(|signature| signature.keyid == key.id);
        if asked
            && !again
            && let Some(bytes) = key.sign(&message).await?
        {
            signatures.push(Signature {
                keyid: key.id.clone(),
                sig: bytes.into(),
            });
        }
    }
    Ok(Signed {
        signed: role,
        signatures,
    })
}

/// Refuses metadata that `root` would not accept: it is never written.
///
/// # Errors
/// When the threshold is not reached, with what is missing.
pub(crate) fn enough<T: Role>(root: &Root, role: &Signed<T>) -> anyhow::Result<()> {
    let Err(error) = root.verify_role(role) else {
        return Ok(());
    };
    let kind = T::TYPE;
    let table = match kind {
        RoleType::Root | RoleType::Targets => format!("`{kind}` in [channel.keys]"),
        _ => "`online` in [channel.keys]".to_owned(),
    };
    Err(Exit::Refused
        .error(format!("the available keys cannot sign the channel's {kind} metadata: {error}"))
        .hint(format!(
            "root {} lists the keys whose signatures count, `imagebuilder channel show` prints them: provide those keys as {table}, or change them with `imagebuilder channel rotate-root`",
            root.version
        ))
        .into())
}

/// A file's bytes: readable, and the same for the same content.
///
/// # Errors
/// When it cannot be serialized.
pub(crate) fn bytes<T: Serialize>(role: &Signed<T>) -> anyhow::Result<Bytes> {
    // Through a value, whose maps are sorted.
    let value = serde_json::to_value(role).context("serialize metadata")?;
    let mut bytes = serde_json::to_vec_pretty(&value).context("serialize metadata")?;
    bytes.push(b'\n');
    Ok(bytes.into())
}

/// The entry that another file has for this one.
fn listing(version: NonZeroU64, bytes: &Bytes) -> Metafile {
    use sha2::Digest as _;
    Metafile {
        length: Some(bytes.len() as u64),
        hashes: Some(Hashes {
            sha256: sha2::Sha256::digest(bytes).to_vec().into(),
            _extra: HashMap::new(),
        }),
        version,
        _extra: HashMap::new(),
    }
}

/// Who signs, what must accept it, and how long it is valid.
pub(crate) struct Writer<'a> {
    /// The files.
    pub(crate) store: &'a dyn Store,
    /// The available keys.
    pub(crate) keys: &'a [Opened],
    /// Whose keys sign. The first must accept what is signed; the others' signatures are added.
    pub(crate) roots: Vec<&'a Root>,
    /// How long signed metadata is valid.
    pub(crate) expires: &'a Expires,
    /// The time of signing.
    pub(crate) now: Timestamp,
}

impl Writer<'_> {
    /// Signs a versioned role and writes it, at the first version from its own on where nothing is.
    async fn versioned<T: Role + Clone>(
        &self,
        mut role: T,
        name: &str,
        set: impl Fn(&mut T, NonZeroU64),
    ) -> anyhow::Result<(Signed<T>, Metafile)> {
        for _ in 0..MOST_SKIPPED {
            let signed = sign(role.clone(), &self.roots, self.keys).await?;
            enough(self.roots[0], &signed)?;
            let content = bytes(&signed)?;
            let version = role.version();
            let path = metadata(version.get(), name);
            if settle(self.store, &path, &content).await? == Written::Done {
                return Ok((signed, listing(version, &content)));
            }
            set(&mut role, next(version));
        }
        Err(Exit::Refused
            .error(format!(
                "{MOST_SKIPPED} versions of {name}.json after the current one exist already"
            ))
            .hint("check who writes there, and remove what no snapshot lists")
            .into())
    }

    /// Writes targets, for a snapshot to list.
    pub(crate) async fn targets(
        &self,
        mut targets: Targets,
    ) -> anyhow::Result<(Signed<Targets>, Metafile)> {
        SPEC.clone_into(&mut targets.spec_version);
        targets.expires = in_days(self.now, self.expires.targets_days);
        self.versioned(targets, "targets", |role, version| role.version = version)
            .await
    }

    /// Writes a snapshot that lists `targets`.
    pub(crate) async fn snapshot(
        &self,
        version: NonZeroU64,
        targets: Metafile,
    ) -> anyhow::Result<(Signed<Snapshot>, Metafile)> {
        let expires = in_days(self.now, self.expires.snapshot_days);
        let mut snapshot = Snapshot::new(SPEC.to_owned(), version, expires);
        snapshot.meta.insert("targets.json".to_owned(), targets);
        self.versioned(snapshot, "snapshot", |role, version| role.version = version)
            .await
    }

    /// Signs a timestamp over `snapshot`; not written yet.
    pub(crate) async fn timestamp(
        &self,
        version: NonZeroU64,
        snapshot: Metafile,
    ) -> anyhow::Result<Bytes> {
        let expires = in_days(self.now, self.expires.timestamp_days);
        let mut stamp = Stamp::new(SPEC.to_owned(), version, expires);
        stamp.meta.insert("snapshot.json".to_owned(), snapshot);
        let signed = sign(stamp, &self.roots, self.keys).await?;
        enough(self.roots[0], &signed)?;
        bytes(&signed)
    }

    /// Commits: replaces `timestamp.json`, if it is still the one that was read, or creates the first.
    pub(crate) async fn commit(&self, stamp: Bytes, was: Option<&Tag>) -> anyhow::Result<()> {
        let written = match was {
            Some(was) => {
                self.store
                    .replace(TIMESTAMP, stamp, Keep::Never, was)
                    .await?
            }
            None => self.store.create(TIMESTAMP, stamp, Keep::Never).await?,
        };
        if written == Written::Done {
            return Ok(());
        }
        Err(Exit::Refused
            .error("another publisher changed the channel meanwhile; this change was not made")
            .hint("run it again: it starts from the other publisher's version")
            .into())
    }
}

/// What is to be signed again beside the timestamp.
#[derive(Debug)]
pub(crate) enum Extent {
    /// Nothing else.
    Timestamp,
    /// The snapshot.
    Snapshot,
    /// The targets, as they are to be from now on, and the snapshot.
    Targets(Box<Targets>),
}

/// Signs and writes `extent` on top of the current metadata.
///
/// # Errors
/// When a key is missing, a write fails, or another publisher was faster; then readers still see the version before.
pub(crate) async fn write(
    writer: &Writer<'_>,
    was: &Verified,
    extent: Extent,
) -> anyhow::Result<()> {
    let listed = |meta: &HashMap<String, Metafile>, name: &str| {
        meta.get(name)
            .cloned()
            .with_context(|| format!("nothing lists {name}"))
    };
    let stamp_version = next(was.timestamp.signed.version);
    let snapshot = match extent {
        Extent::Timestamp => listed(&was.timestamp.signed.meta, "snapshot.json")?,
        Extent::Snapshot => {
            let targets = listed(&was.snapshot.signed.meta, "targets.json")?;
            writer
                .snapshot(next(was.snapshot.signed.version), targets)
                .await?
                .1
        }
        Extent::Targets(mut targets) => {
            targets.version = next(was.targets.signed.version);
            let (_, targets) = writer.targets(*targets).await?;
            writer
                .snapshot(next(was.snapshot.signed.version), targets)
                .await?
                .1
        }
    };
    let stamp = writer.timestamp(stamp_version, snapshot).await?;
    writer.commit(stamp, Some(&was.tag)).await
}

/// Reads everything back, as an instance would, and returns it.
///
/// # Errors
/// When what was written does not verify.
pub(crate) async fn read_back(store: &dyn Store, known: &Bytes) -> anyhow::Result<Verified> {
    verify::repository(store, known)
        .await
        .context("read back what was written")
}
