//! Roots of trust: the first one, and every later one, signed in as many steps as its keys have holders.
//!
//! A root that lacks signatures is a draft: a file that is carried to the other keys and back. The order of writes
//! keeps the channel valid for readers at every moment: when the old keys are available, the rest is signed by old and new keys
//! before the new root appears; when they are lost, readers refuse from the new root's appearance to the timestamp's,
//! which is the next write.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bytes::Bytes;
use jiff::Timestamp;
use tough::schema::{Role, RoleKeys, RoleType, Root, Signed, Targets};

use super::author::{self, SPEC, Writer, in_days, next, sign};
use super::keys::{KeyId, Opened, short};
use super::seen::replace_file;
use super::session::ChannelSession;
use super::store::{Written, settle};
use super::verify::{self, Verified, metadata};
use crate::config::KeySource;
use run::exit::Exit;

/// A root is renewed automatically in the last quarter of its life.
const DUE: i64 = 4;

const ROLES: [RoleType; 4] = [
    RoleType::Root,
    RoleType::Targets,
    RoleType::Snapshot,
    RoleType::Timestamp,
];

/// The keys of the configuration.
#[derive(Debug)]
pub(crate) struct Ring {
    /// All of them: root, targets, online.
    pub(crate) all: Vec<Opened>,
    roots: usize,
}

/// How making a root ended.
#[derive(Debug)]
pub(crate) enum Made {
    /// There was nothing to do.
    Nothing(Verified),
    /// It is published.
    Published(Verified),
    /// It lacks signatures; the draft is in this file.
    Draft {
        /// The file.
        path: PathBuf,
        /// The draft.
        draft: Box<Signed<Root>>,
        /// Keys that may still sign, with their sources in the configuration.
        missing: Vec<String>,
    },
}

impl ChannelSession {
    /// The configured sources of its keys.
    fn every_key(&self) -> impl Iterator<Item = &KeySource> {
        let keys = &self.channel.keys;
        keys.root.iter().chain(&keys.targets).chain(&keys.online)
    }

    /// Opens every key of the configuration, at least by its public half.
    pub(crate) async fn ring(&self) -> anyhow::Result<Ring> {
        let keys = &self.channel.keys;
        let refuse = |key: &str| {
            Exit::Usage
                .error(format!("the configuration names no {key} keys"))
                .hint("name them in [channel.keys]; `imagebuilder channel init --generate-keys DIR` makes fresh ones")
        };
        let Some(online) = &keys.online else {
            return Err(refuse("online").into());
        };
        for (key, sources) in [("root", &keys.root), ("targets", &keys.targets)] {
            if sources.is_empty() {
                return Err(refuse(key).into());
            }
        }
        let sources = keys.root.iter().chain(&keys.targets).chain([online]);
        let all = self.keyring.open_all(sources).await?;
        let roots = keys.root.len();
        let names: BTreeSet<&[u8]> = all[..roots].iter().map(|key| key.id.as_ref()).collect();
        let role = &all[roots..all.len() - 1];
        let targets: BTreeSet<&[u8]> = role.iter().map(|key| key.id.as_ref()).collect();
        if names.len() < roots || targets.len() < role.len() {
            return Err(Exit::Usage
                .error("two keys of a role in [channel.keys] are the same key")
                .hint("a threshold counts keys, not files")
                .into());
        }
        if all[roots..]
            .iter()
            .any(|key| names.contains(key.id.as_ref()))
        {
            return Err(Exit::Usage
                .error("a root key in [channel.keys] serves another role as well")
                .hint("root keys stay offline; give the other role a key of its own")
                .into());
        }
        Ok(Ring { all, roots })
    }

    /// The root that the configuration asks for.
    fn wanted(&self, ring: &Ring, version: NonZeroU64) -> anyhow::Result<Root> {
        let keys = &self.channel.keys;
        let online = ring.all.len() - 1;
        let threshold =
            |number: u32| NonZeroU64::new(u64::from(number)).context("a threshold of 0 signatures");
        let role = |keys: &[Opened], threshold| RoleKeys {
            keyids: keys.iter().map(|key| key.id.clone()).collect(),
            threshold,
            _extra: HashMap::new(),
        };
        let one = NonZeroU64::MIN;
        let roles = HashMap::from([
            (
                RoleType::Root,
                role(&ring.all[..ring.roots], threshold(keys.root_threshold)?),
            ),
            (
                RoleType::Targets,
                role(
                    &ring.all[ring.roots..online],
                    threshold(keys.targets_threshold)?,
                ),
            ),
            (RoleType::Snapshot, role(&ring.all[online..], one)),
            (RoleType::Timestamp, role(&ring.all[online..], one)),
        ]);
        Ok(Root {
            spec_version: SPEC.to_owned(),
            consistent_snapshot: true,
            version,
            expires: in_days(self.now, self.channel.expires.root_days),
            keys: ring
                .all
                .iter()
                .map(|key| (key.id.clone(), key.public.clone()))
                .collect(),
            roles,
            _extra: HashMap::new(),
        })
    }

    /// The default path of a draft: beside the root of trust in this repository.
    pub(crate) fn draft_path(&self) -> PathBuf {
        self.known_path().with_extension("draft.json")
    }

    /// Continues the draft of `wanted` if there is one, else begins it; signs it with the available keys.
    async fn drafted(
        &self,
        wanted: Root,
        current: Option<&Root>,
        keys: &[Opened],
    ) -> anyhow::Result<Signed<Root>> {
        let path = self.draft_path();
        let mut draft = Signed {
            signed: wanted,
            signatures: Vec::new(),
        };
        if let Some(found) = read_draft(&path)? {
            let stale = found.signed.version < draft.signed.version;
            if !stale
                && (found.signed.version != draft.signed.version
                    || !same(&found.signed, &draft.signed))
            {
                return Err(Exit::Refused
                    .error(format!(
                        "the draft {} is not the root that the configuration asks for",
                        path.display()
                    ))
                    .hint("fix [channel.keys], or remove the draft to start over")
                    .into());
            }
            if !stale && found.signed.expires > self.now {
                draft = found;
            }
        }
        let roots: Vec<&Root> = current.into_iter().collect();
        add_signatures(&mut draft, &roots, keys).await?;
        Ok(draft)
    }

    /// Writes the draft to a file; returns which keys may still sign.
    fn put_down(
        &self,
        draft: Signed<Root>,
        current: Option<&Root>,
        ring: &Ring,
    ) -> anyhow::Result<Made> {
        let path = self.draft_path();
        replace_file(&path, &author::bytes(&draft)?)?;
        let mut missing = Vec::new();
        for root in current.into_iter().chain([&draft.signed]) {
            for id in keyids(root, RoleType::Root) {
                let signed = draft
                    .signatures
                    .iter()
                    .any(|signature| signature.keyid == *id);
                let name = ring.all.iter().find(|key| key.id == *id).map_or_else(
                    || format!("{} of root {}", short(id), root.version),
                    |key| format!("{} ({})", short(id), key.source),
                );
                if !signed && !missing.contains(&name) {
                    missing.push(name);
                }
            }
        }
        Ok(Made::Draft {
            path,
            draft: Box::new(draft),
            missing,
        })
    }

    /// Makes the repository, or resumes where an interrupted run stopped.
    ///
    /// # Errors
    /// When there is another channel already, or a key is missing.
    pub(crate) async fn init(&self) -> anyhow::Result<Made> {
        let known = self.known_path();
        let store = self.store.as_ref();
        let taken = store.read(verify::TIMESTAMP, verify::MOST).await?.is_some();
        let first = store.read(&metadata(1, "root"), verify::MOST).await?;
        if !known.exists() && (taken || first.is_some()) {
            return Err(Exit::Refused
                .error(format!("there is a channel in {} already", self.place()))
                .hint(format!(
                    "take its root of trust {} from version control, or from its author; or name another place as `repository`",
                    known.display()
                ))
                .into());
        }
        if taken {
            return Ok(Made::Nothing(self.verified().await?));
        }
        self.may_change(self.every_key()).await?;
        let ring = self.ring().await?;
        if !known.exists() {
            let wanted = self.wanted(&ring, NonZeroU64::MIN)?;
            let draft = self.drafted(wanted, None, &ring.all).await?;
            if draft.signed.verify_role(&draft).is_err() {
                return self.put_down(draft, None, &ring);
            }
            // Stored as the known root first: if this run is interrupted, the next one uses the same root.
            replace_file(&known, &author::bytes(&draft)?)?;
        }
        let bytes = self.known()?;
        let root: Signed<Root> = verify::parse(&bytes, &known.display().to_string())?;
        let writer = Writer {
            store,
            keys: &ring.all,
            roots: vec![&root.signed],
            expires: &self.channel.expires,
            now: self.now,
        };
        let targets = Targets::new(SPEC.to_owned(), NonZeroU64::MIN, self.now);
        let (_, targets) = writer.targets(targets).await?;
        let (_, snapshot) = writer.snapshot(NonZeroU64::MIN, targets).await?;
        let stamp = writer.timestamp(NonZeroU64::MIN, snapshot).await?;
        self.publish_root(&root, &bytes).await?;
        writer.commit(stamp, None).await?;
        remove_draft(&self.draft_path())?;
        Ok(Made::Published(self.remember().await?))
    }

    async fn publish_root(&self, root: &Signed<Root>, bytes: &Bytes) -> anyhow::Result<()> {
        let path = metadata(root.signed.version.get(), "root");
        if settle(self.store.as_ref(), &path, bytes).await? == Written::Done {
            return Ok(());
        }
        Err(Exit::Refused
            .error(format!("another root {} exists already", root.signed.version))
            .hint("another publisher made it: run `imagebuilder channel show`, and then the same again if it is still wanted")
            .into())
    }

    /// Brings the root of trust to what the configuration asks for.
    ///
    /// # Errors
    /// When what is there does not verify, a key cannot sign, or a write fails.
    pub(crate) async fn rotate(&self, old: &[KeySource], renew: bool) -> anyhow::Result<Made> {
        let store = self.store.as_ref();
        let roots = verify::roots(store, &self.known()?).await?;
        let current = roots.current.signed.clone();
        let ring = self.ring().await?;
        let mut keys = self.keyring.open_all(old).await?;
        keys.extend(ring.all.iter().cloned());
        // Interrupted after the root was written and before the timestamp was: the rest is still signed for the old root.
        let (was, settled) = match (
            verify::below(store, &roots, &current).await,
            &roots.previous,
        ) {
            (Ok(was), _) => (was, true),
            (Err(_), Some(previous)) => {
                (verify::below(store, &roots, &previous.signed).await?, false)
            }
            (Err(error), None) => return Err(error),
        };
        let Some(was) = was else {
            return Err(Exit::Refused
                .error("the repository has no timestamp.json")
                .hint("run `imagebuilder channel init`")
                .into());
        };
        self.seen.check(&self.place(), &was)?;
        let signers = || old.iter().chain(self.every_key());
        if !settled {
            self.may_change(signers()).await?;
            self.output
                .info("an interrupted rotation is finished first");
            let (stamp, _) = self.resign(&was, &[&current], &keys).await?;
            if let Some(stamp) = stamp {
                self.writer(&[&current], &keys)
                    .commit(stamp, Some(&was.tag))
                    .await?;
            }
            self.learn(&roots.current).await?;
        }
        let was = if settled { was } else { self.remember().await? };

        let wanted = self.wanted(&ring, next(current.version))?;
        if same(&wanted, &current)
            && !renew
            && !due(&current, self.channel.expires.root_days, self.now)
        {
            self.learn(&roots.current).await?;
            remove_draft_of(&self.draft_path(), &current)?;
            return Ok(if settled {
                Made::Nothing(was)
            } else {
                Made::Published(was)
            });
        }
        self.may_change(signers()).await?;
        let draft = self.drafted(wanted, Some(&current), &keys).await?;
        if current.verify_role(&draft).is_err() || draft.signed.verify_role(&draft).is_err() {
            return self.put_down(draft, Some(&current), &ring);
        }
        let bytes = author::bytes(&draft)?;
        let both = [&draft.signed, &current];
        let (stamp, gentle) = self.resign(&was, &both, &keys).await?;
        let writer = self.writer(&both, &keys);
        match stamp {
            Some(stamp) if gentle => {
                writer.commit(stamp, Some(&was.tag)).await?;
                self.publish_root(&draft, &bytes).await?;
            }
            Some(stamp) => {
                self.output.warn("the old keys are not available: instances wait until timestamp.json is written, a moment from now");
                self.publish_root(&draft, &bytes).await?;
                writer.commit(stamp, Some(&was.tag)).await?;
            }
            None => self.publish_root(&draft, &bytes).await?,
        }
        self.learn(&draft).await?;
        remove_draft(&self.draft_path())?;
        Ok(Made::Published(self.remember().await?))
    }

    fn writer<'a>(&'a self, roots: &[&'a Root], keys: &'a [Opened]) -> Writer<'a> {
        Writer {
            store: self.store.as_ref(),
            keys,
            roots: roots.to_vec(),
            expires: &self.channel.expires,
            now: self.now,
        }
    }

    /// Signs again what the first of `roots` would no longer accept, up to the timestamp, which is not written yet.
    /// Whether all of them accept it.
    async fn resign(
        &self,
        was: &Verified,
        roots: &[&Root],
        keys: &[Opened],
    ) -> anyhow::Result<(Option<Bytes>, bool)> {
        let new = roots[0];
        let targets = new.verify_role(&was.targets).is_err();
        let snapshot = targets || new.verify_role(&was.snapshot).is_err();
        let stamp = snapshot || new.verify_role(&was.timestamp).is_err();
        if !stamp {
            return Ok((None, true));
        }
        let mut signed = vec![RoleType::Timestamp];
        signed.extend(snapshot.then_some(RoleType::Snapshot));
        signed.extend(targets.then_some(RoleType::Targets));
        let gentle = roots
            .iter()
            .all(|root| signed.iter().all(|role| can(root, *role, keys)));
        let writer = self.writer(roots, keys);
        let listed = if targets {
            let mut targets = was.targets.signed.clone();
            targets.version = next(targets.version);
            Some(writer.targets(targets).await?.1)
        } else {
            was.snapshot.signed.meta.get("targets.json").cloned()
        };
        let listed = if snapshot {
            let listed = listed.context("nothing lists targets.json")?;
            Some(
                writer
                    .snapshot(next(was.snapshot.signed.version), listed)
                    .await?
                    .1,
            )
        } else {
            was.timestamp.signed.meta.get("snapshot.json").cloned()
        };
        let listed = listed.context("nothing lists snapshot.json")?;
        let stamp = writer
            .timestamp(next(was.timestamp.signed.version), listed)
            .await?;
        Ok((Some(stamp), gentle))
    }

    /// Stores this root as the known one, if it is newer.
    async fn learn(&self, root: &Signed<Root>) -> anyhow::Result<()> {
        let path = self.known_path();
        let known: Signed<Root> = verify::parse(&self.known()?, &path.display().to_string())?;
        if known.signed.version < root.signed.version {
            let published = metadata(root.signed.version.get(), "root");
            let found = self.store.read(&published, verify::MOST).await?;
            let found = found.with_context(|| format!("{published} was removed meanwhile"))?;
            replace_file(&path, &found.bytes)?;
        }
        Ok(())
    }
}

/// Adds what `keys` can sign of a draft: for its own root role, and for that of `roots`.
///
/// # Errors
/// When a key cannot sign.
pub(crate) async fn add_signatures(
    draft: &mut Signed<Root>,
    roots: &[&Root],
    keys: &[Opened],
) -> anyhow::Result<usize> {
    let own = draft.signed.clone();
    let all: Vec<&Root> = roots.iter().copied().chain([&own]).collect();
    let signed = sign(draft.signed.clone(), &all, keys).await?;
    let before = draft.signatures.len();
    for signature in signed.signatures {
        if !draft
            .signatures
            .iter()
            .any(|had| had.keyid == signature.keyid)
        {
            draft.signatures.push(signature);
        }
    }
    Ok(draft.signatures.len() - before)
}

/// Signs a draft with keys that it need not name itself: those of the root before it.
///
/// # Errors
/// When a key cannot sign.
pub(crate) async fn sign_blindly(
    draft: &mut Signed<Root>,
    keys: &[Opened],
) -> anyhow::Result<usize> {
    let message = draft
        .signed
        .canonical_form()
        .context("make the canonical form of the draft")?;
    let mut added = 0;
    for key in keys {
        let had = draft
            .signatures
            .iter()
            .any(|signature| signature.keyid == key.id);
        if !had && let Some(bytes) = key.sign(&message).await? {
            draft.signatures.push(tough::schema::Signature {
                keyid: key.id.clone(),
                sig: bytes.into(),
            });
            added += 1;
        }
    }
    Ok(added)
}

/// Reads a draft, if there is one.
///
/// # Errors
/// When the file cannot be read, or is no root.
pub(crate) fn read_draft(path: &Path) -> anyhow::Result<Option<Signed<Root>>> {
    match std::fs::read(path) {
        Ok(bytes) => verify::parse(&bytes, &path.display().to_string()).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

fn remove_draft(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes the draft of a root that is published already.
fn remove_draft_of(path: &Path, root: &Root) -> anyhow::Result<()> {
    match read_draft(path)? {
        Some(draft) if draft.signed.version <= root.version => remove_draft(path),
        _ => Ok(()),
    }
}

/// The ids of a role's keys.
pub(crate) fn keyids(root: &Root, role: RoleType) -> &[KeyId] {
    root.roles.get(&role).map_or(&[], |role| &role.keyids)
}

/// Whether both give the same keys the same roles with the same thresholds.
fn same(a: &Root, b: &Root) -> bool {
    let set = |root: &Root, role| -> BTreeSet<Vec<u8>> {
        keyids(root, role).iter().map(|id| id.to_vec()).collect()
    };
    let threshold = |root: &Root, role| root.roles.get(&role).map(|role| role.threshold);
    a.consistent_snapshot == b.consistent_snapshot
        && ROLES
            .into_iter()
            .all(|role| set(a, role) == set(b, role) && threshold(a, role) == threshold(b, role))
}

/// Whether the root is in the last quarter of its life.
fn due(root: &Root, days: u32, now: Timestamp) -> bool {
    let left = root.expires.duration_since(now).as_hours();
    left <= i64::from(days) * 24 / DUE
}

/// Whether `keys` reach the threshold of a role.
fn can(root: &Root, role: RoleType, keys: &[Opened]) -> bool {
    let ids = keyids(root, role);
    let enough_signers = ids
        .iter()
        .filter(|id| keys.iter().any(|key| key.signs() && key.id == **id))
        .count();
    root.roles
        .get(&role)
        .is_some_and(|role| enough_signers as u64 >= role.threshold.get())
}
