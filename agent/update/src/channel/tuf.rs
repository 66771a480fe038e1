//! The channel as a TUF 1.0.34 repository, verified by `sigstore-tuf`.
//!
//! The library verifies; this module adds what it leaves to its callers: verified metadata is stored before it is
//! used, the floor survives key rotations that did not happen, crashes and broken files, and versions and time are
//! limited. See `docs/decisions/0006-the-tuf-client.md`.
//!
//! **The floor** is the contents of the store and the image's metadata, as far as they are signed by the current
//! root's keys: recovery from stolen keys is a root with new ones (TUF 1.0.34, section 6.1). The library's own floor
//! is the newest consistent trio; ours keeps a snapshot also after a newer timestamp arrived without its snapshot.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use contract::release::Release;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use sigstore_tuf::metadata::Role;
use sigstore_tuf::transport::FetchFuture;
use sigstore_tuf::{
    Error, Metadata, Repository, Root, Snapshot, TargetFile, Timestamp as Heartbeat,
    TrustedMetadataSet, Updater, UpdaterConfig,
};

use super::limits::Limits;
use super::store::{Store, root_name};
use super::transport::{ChannelFiles, Digests};
use super::{Catalogue, Channel, Digest, Offer};
use crate::channel::refusal::{Cause, Refusal};
use crate::proxy::Proxy;

/// The root of trust's file in [`Place::trust`].
const ROOT: &str = "root.json";

/// The folder of the metadata as of the bake in [`Place::trust`].
const BAKED: &str = "metadata";

/// The store's note of the root that its contents depend on.
const ANCHOR: &str = "anchor";

/// Where a channel is, and where its metadata is stored.
#[derive(Clone, Debug)]
pub struct Place {
    /// URL of the metadata: `https://…`, `file:///…`.
    pub metadata_url: String,
    /// URL of the targets.
    pub targets_url: String,
    /// Certificates to trust instead of the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// Allows `http://`: every byte is verified, but anyone on the network path can delay it.
    pub plain_http: bool,
    /// The proxies to use.
    pub proxy: Proxy,
    /// The image's files: `root.json`, and `metadata/` as of the bake, which may be absent. On an instance
    /// [`contract::layout::CHANNEL`].
    pub trust: PathBuf,
    /// The metadata store, created if missing.
    pub store: PathBuf,
    /// Its limits.
    pub limits: Limits,
}

impl Place {
    /// A channel at a URL: its metadata at `URL/metadata/`, its targets at `URL/targets/`.
    #[must_use]
    pub fn new(url: &str, trust: &Path, store: &Path) -> Self {
        let url = url.trim_end_matches('/');
        Self {
            metadata_url: format!("{url}/metadata"),
            targets_url: format!("{url}/targets"),
            ca_file: None,
            plain_http: false,
            proxy: Proxy::default(),
            trust: trust.to_owned(),
            store: store.to_owned(),
            limits: Limits::default(),
        }
    }
}

/// A file that verified metadata names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    path: String,
    length: u64,
    digests: Digests,
}

/// The channel by TUF.
pub struct TufChannel {
    limits: Limits,
    pinned: Vec<u8>,
    baked: PathBuf,
    store: Arc<Store>,
    files: Arc<ChannelFiles>,
    /// As of the last successful refresh.
    current: Option<Updater>,
}

impl TufChannel {
    /// Opens a channel: reads the image's root of trust, repairs the store and seeds it with the image's metadata.
    /// Does not use the network.
    ///
    /// # Errors
    /// [`Cause::NoRoot`], [`Cause::Misconfigured`], or [`Cause::Disk`] if the store cannot be repaired.
    pub fn open(place: &Place) -> Result<Self, Refusal> {
        let path = place.trust.join(ROOT);
        let no_root = |what: &dyn std::fmt::Display| {
            Cause::NoRoot.because(format!("{}: {what}", path.display()))
        };
        let pinned = fs::read(&path).map_err(|error| no_root(&error))?;
        let root = TrustedMetadataSet::from_root(&pinned)
            .map_err(|error| no_root(&Refusal::from(error).detail))?;
        if root.root().version > place.limits.version {
            return Err(no_root(&"its version is too high"));
        }
        let files = ChannelFiles::new(
            &place.metadata_url,
            &place.targets_url,
            place.ca_file.as_deref(),
            place.plain_http,
            &place.proxy,
            &place.limits,
        )?;
        let channel = Self {
            limits: place.limits,
            pinned,
            baked: place.trust.join(BAKED),
            store: Arc::new(Store::open(&place.store)?),
            files: Arc::new(files),
            current: None,
        };
        channel.repair(root)?;
        Ok(channel)
    }

    /// The target of a name, searched through delegations; after a refresh. For conformance: releases are
    /// targets of the top level, and [`Channel::refresh`] names them.
    ///
    /// # Errors
    /// [`Cause::Missing`], or a refusal of delegated metadata.
    pub async fn find(&mut self, name: &str, now: Timestamp) -> Result<Target, Refusal> {
        let missing = || Cause::Missing.because(format!("{name} is not a target"));
        let updater = self.current.as_mut().ok_or_else(missing)?;
        let found = updater.get_target_info(name, now).await;
        let consistent = updater.trusted().root().consistent_snapshot;
        self.store.commit()?;
        target(name, &found?.ok_or_else(missing)?, consistent)
    }

    /// Streams a target into `part`, as [`Channel::fetch`] does.
    ///
    /// # Errors
    /// Those of the transport; [`Cause::WrongDigest`] when it is not what was signed.
    pub async fn fetch_target(&self, target: &Target, part: &Path) -> Result<(), Refusal> {
        let Target {
            path,
            length,
            digests,
        } = target;
        self.files.target(path, *length, digests, part).await
    }

    /// Moves unreadable files aside, and writes the image's metadata into a store that is older.
    fn repair(&self, mut trusted: TrustedMetadataSet) -> Result<(), Refusal> {
        let anchor = hex::encode(Sha256::digest(&self.pinned));
        if self.store.read(ANCHOR)?.as_deref() != Some(anchor.as_bytes()) {
            // Another channel's roots would look like a chain that was cut.
            if self.store.read(ROOT)?.is_some() {
                self.store.set_aside(ROOT, "of another root of trust")?;
            }
            self.store.write(ANCHOR, anchor.as_bytes())?;
        }
        loop {
            let name = root_name(trusted.root().version + 1);
            match self.store.read(&name)? {
                Some(bytes) => {
                    if let Err(error) = trusted.update_root(&bytes) {
                        self.store.set_aside(&name, &error.to_string())?;
                        break;
                    }
                }
                None => break,
            }
        }
        for name in [ROOT, "timestamp.json", "snapshot.json", "targets.json"] {
            if let Some(bytes) = self.store.read(name)?
                && serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_err()
            {
                self.store.set_aside(name, "not JSON")?;
            }
        }
        if self.store.read(ROOT)?.is_none() {
            self.store.write(ROOT, trusted.root_bytes())?;
        }
        self.seed(trusted.root())
    }

    fn seed(&self, root: &Root) -> Result<(), Refusal> {
        let Some((bytes, image)) = self.image(root) else {
            return Ok(());
        };
        let stored = self.store.read("timestamp.json")?;
        let stored = stored.and_then(|bytes| verified::<Heartbeat>(&bytes, root, "timestamp"));
        if stored.is_some_and(|stored| stored.version >= image.version) {
            return Ok(());
        }
        let pin = image.snapshot_meta().map(|pin| pin.version);
        let snapshot = pin.and_then(|version| self.image_file("snapshot", version));
        let targets = snapshot.as_deref().and_then(|bytes| {
            let snapshot = verified::<Snapshot>(bytes, root, "snapshot")?;
            self.image_file("targets", snapshot.meta.get("targets.json")?.version)
        });
        self.store.write("timestamp.json", &bytes)?;
        for (name, bytes) in [("snapshot.json", snapshot), ("targets.json", targets)] {
            if let Some(bytes) = bytes {
                self.store.write(name, &bytes)?;
            }
        }
        Ok(())
    }

    /// The image's timestamp, if it is signed by `root`.
    fn image(&self, root: &Root) -> Option<(Vec<u8>, Heartbeat)> {
        let bytes = fs::read(self.baked.join("timestamp.json")).ok()?;
        let heartbeat = verified(&bytes, root, "timestamp")?;
        Some((bytes, heartbeat))
    }

    /// A role of the image's metadata, under its plain name or that of a consistent snapshot.
    fn image_file(&self, role: &str, version: u64) -> Option<Vec<u8>> {
        let names = [format!("{version}.{role}.json"), format!("{role}.json")];
        names
            .iter()
            .find_map(|name| fs::read(self.baked.join(name)).ok())
    }

    /// Every timestamp and snapshot known before this refresh, from the store and from the image.
    fn known(&self) -> Result<Known, Refusal> {
        let mut known = Known {
            root: self.store.read(ROOT)?.and_then(|bytes| {
                let root = TrustedMetadataSet::from_root(&bytes).ok()?;
                Some(root.root().version)
            }),
            timestamps: Vec::from_iter(self.store.read("timestamp.json")?),
            snapshots: Vec::from_iter(self.store.read("snapshot.json")?),
        };
        if let Ok(bytes) = fs::read(self.baked.join("timestamp.json")) {
            let pin = Metadata::<Heartbeat>::from_slice(&bytes)
                .ok()
                .and_then(|heartbeat| heartbeat.signed().snapshot_meta().map(|pin| pin.version));
            known.timestamps.push(bytes);
            known
                .snapshots
                .extend(pin.and_then(|version| self.image_file("snapshot", version)));
        }
        Ok(known)
    }

    fn config(&self) -> UpdaterConfig {
        let mut config = UpdaterConfig::default();
        config.root_max_length = self.limits.root;
        config.timestamp_max_length = self.limits.timestamp;
        config.snapshot_max_length = self.limits.snapshot;
        config.targets_max_length = self.limits.targets;
        // One more than our own limit, so that we refuse it, with the right cause.
        config.max_root_rotations = self.limits.rotations.saturating_add(1);
        config
    }

    /// Takes over what the library verified, as far as it is not below the floor.
    fn keep(&self, trusted: &TrustedMetadataSet, known: &Known) -> Result<(), Refusal> {
        let judged = known
            .admits_root(trusted.root(), self.limits.version)
            .and_then(|()| {
                known
                    .admits_timestamp(trusted, self.limits.version)
                    .inspect_err(|_| self.store.discard(below_root))
            })
            .and_then(|()| {
                known
                    .admits_snapshot(trusted, self.limits.version)
                    .inspect_err(|_| self.store.discard(below_timestamp))
            });
        match judged {
            Err(refusal) if trusted.root().version < known.root.unwrap_or(0) => {
                self.store.discard(|_| true);
                Err(refusal)
            }
            judged => self.store.commit().and(judged),
        }
    }
}

#[async_trait]
impl Channel for TufChannel {
    async fn refresh(&mut self, now: Timestamp) -> Result<Catalogue, Refusal> {
        self.current = None;
        // Left by an earlier refresh that was cancelled.
        self.store.discard(|_| true);
        let known = self.known()?;
        let source = MetadataSource {
            files: Arc::clone(&self.files),
            roots: AtomicU32::new(0),
            limit: self.limits.rotations,
        };
        let mut updater = Updater::new(source, &self.pinned)
            .map_err(|error| Cause::NoRoot.because(Refusal::from(error).detail))?
            .with_config(self.config())
            .with_store(Arc::clone(&self.store));
        let verified = match tokio::time::timeout(self.limits.refresh, updater.refresh(now)).await {
            Ok(verified) => verified.map_err(Refusal::from),
            Err(_) => Err(Cause::Slow.because(format!(
                "the metadata was not whole after {:?}",
                self.limits.refresh
            ))),
        };
        let kept = self.keep(updater.trusted(), &known);
        match (verified, kept) {
            // The other refusal may follow from unverified metadata.
            (Err(refusal), Ok(()) | Err(_)) | (Ok(()), Err(refusal)) => return Err(refusal),
            (Ok(()), Ok(())) => {}
        }
        let catalogue = catalogue(updater.trusted())?;
        self.current = Some(updater);
        Ok(catalogue)
    }

    async fn fetch(&mut self, offer: &Offer, part: &Path) -> Result<(), Refusal> {
        let consistent = match &self.current {
            Some(updater) => updater.trusted().root().consistent_snapshot,
            None => true,
        };
        let digests = Digests {
            sha256: Some(offer.digest.as_str().to_owned()),
            sha512: None,
        };
        let target = Target {
            path: located(&offer.target, offer.digest.as_str(), consistent),
            length: offer.length,
            digests,
        };
        self.fetch_target(&target, part).await
    }
}

/// The metadata before a refresh, as bytes: the keys that must have signed it are only known after the refresh.
struct Known {
    root: Option<u64>,
    timestamps: Vec<Vec<u8>>,
    snapshots: Vec<Vec<u8>>,
}

impl Known {
    fn admits_root(&self, root: &Root, highest: u64) -> Result<(), Refusal> {
        sane("root", root.version, highest)?;
        match self.root {
            Some(known) if known > root.version => Err(Cause::Rollback.because(format!(
                "the chain of roots ends at {}, root {known} was trusted before",
                root.version
            ))),
            _ => Ok(()),
        }
    }

    fn admits_timestamp(&self, trusted: &TrustedMetadataSet, highest: u64) -> Result<(), Refusal> {
        let Some(new) = trusted.timestamp() else {
            return Ok(());
        };
        sane("timestamp", new.version, highest)?;
        let pin = |heartbeat: &Heartbeat| heartbeat.snapshot_meta().map_or(0, |pin| pin.version);
        sane("snapshot", pin(new), highest)?;
        for bytes in &self.timestamps {
            let Some(known) = verified::<Heartbeat>(bytes, trusted.root(), "timestamp") else {
                continue;
            };
            not_lower("timestamp", known.version, new.version)?;
            not_lower("snapshot", pin(&known), pin(new))?;
        }
        Ok(())
    }

    fn admits_snapshot(&self, trusted: &TrustedMetadataSet, highest: u64) -> Result<(), Refusal> {
        let Some(new) = trusted.snapshot() else {
            return Ok(());
        };
        for (name, pin) in &new.meta {
            sane(name, pin.version, highest)?;
        }
        for bytes in &self.snapshots {
            let Some(known) = verified::<Snapshot>(bytes, trusted.root(), "snapshot") else {
                continue;
            };
            for (name, pin) in &known.meta {
                let new = new.meta.get(name).map_or(0, |pin| pin.version);
                not_lower(name, pin.version, new)?;
            }
        }
        Ok(())
    }
}

fn below_root(name: &str) -> bool {
    !name.starts_with("root")
}

fn below_timestamp(name: &str) -> bool {
    below_root(name) && name != "timestamp.json"
}

fn sane(role: &str, version: u64, highest: u64) -> Result<(), Refusal> {
    if version <= highest {
        return Ok(());
    }
    Err(Cause::FastForward.because(format!(
        "{role} has version {version}, beyond {highest}: its keys are to be rotated"
    )))
}

fn not_lower(role: &str, known: u64, new: u64) -> Result<(), Refusal> {
    if new >= known {
        return Ok(());
    }
    Err(Cause::Rollback.because(format!("{role} has version {new}, {known} was seen before")))
}

/// Metadata that enough of `root`'s keys for `role` have signed, of any age.
fn verified<T: Role>(bytes: &[u8], root: &Root, role: &str) -> Option<T> {
    let metadata = Metadata::<T>::from_slice(bytes).ok()?;
    metadata
        .verify_threshold(&root.keys, root.role(role)?, role)
        .ok()?;
    Some(metadata.into_signed())
}

fn catalogue(trusted: &TrustedMetadataSet) -> Result<Catalogue, Refusal> {
    let (Some(timestamp), Some(snapshot), Some(targets)) = (
        trusted.timestamp(),
        trusted.snapshot(),
        trusted.targets_role("targets"),
    ) else {
        return Err(Cause::Malformed.because("a role is missing after a refresh"));
    };
    let root = trusted.root();
    let expiries = [
        root.expires,
        timestamp.expires,
        snapshot.expires,
        targets.expires,
    ];
    Ok(Catalogue {
        offers: targets
            .targets
            .iter()
            .filter_map(|(name, file)| offer(name, file))
            .collect(),
        expires: expiries.into_iter().fold(Timestamp::MAX, Timestamp::min),
        versions: [
            root.version,
            timestamp.version,
            snapshot.version,
            targets.version,
        ],
    })
}

/// A target as a release, if this agent can use it: releases of a newer tool must not keep an older agent from
/// updating.
fn offer(name: &str, file: &TargetFile) -> Option<Offer> {
    let unusable = |why: &str| tracing::debug!("target {name:?} is left out: {why}");
    let custom = file.custom.as_ref()?;
    let release = match serde_json::from_value::<Release>(custom.clone()) {
        Ok(release) => release,
        Err(error) => {
            unusable(&error.to_string());
            return None;
        }
    };
    if let Err(why) = release.check() {
        unusable(&why.to_string());
        return None;
    }
    // This also keeps slashes out of names.
    if name != Release::target_name(&release.version, &release.arch) || !plain(name) {
        unusable("not its release's name");
        return None;
    }
    let Some(digest) = file
        .hashes
        .get("sha256")
        .and_then(|hash| Digest::parse(hash))
    else {
        unusable("no SHA-256");
        return None;
    };
    Some(Offer {
        target: name.to_owned(),
        digest,
        length: file.length,
        release,
    })
}

fn plain(name: &str) -> bool {
    name.bytes()
        .all(|c| c.is_ascii_alphanumeric() || b"-._+".contains(&c))
}

fn target(name: &str, file: &TargetFile, consistent: bool) -> Result<Target, Refusal> {
    let hash = |algorithm: &str| {
        file.hashes
            .get(algorithm)
            .map(|hash| hash.to_ascii_lowercase())
    };
    let digests = Digests {
        sha256: hash("sha256"),
        sha512: hash("sha512"),
    };
    let first = digests
        .sha256
        .as_ref()
        .or(digests.sha512.as_ref())
        .ok_or_else(|| {
            Cause::Malformed.because(format!("{name} has neither SHA-256 nor SHA-512"))
        })?;
    Ok(Target {
        path: located(name, first, consistent),
        length: file.length,
        digests,
    })
}

/// The path of a target on the server: with consistent snapshots its file name begins with its digest (TUF 1.0.34,
/// section 5.7.3).
fn located(name: &str, digest: &str, consistent: bool) -> String {
    match name.rsplit_once('/') {
        _ if !consistent => name.to_owned(),
        Some((folder, file)) => format!("{folder}/{digest}.{file}"),
        None => format!("{digest}.{name}"),
    }
}

/// The library's access to the channel's metadata.
struct MetadataSource {
    files: Arc<ChannelFiles>,
    roots: AtomicU32,
    limit: u32,
}

impl Repository for MetadataSource {
    fn fetch_metadata<'a>(&'a self, name: &'a str, max_length: u64) -> FetchFuture<'a> {
        Box::pin(async move {
            let root = name
                .strip_suffix(".root.json")
                .is_some_and(|version| version.bytes().all(|c| c.is_ascii_digit()));
            let fetched = match self.files.metadata(name, max_length, root).await {
                Ok(None) if !root => Err(Cause::Missing.because(format!("{name} is not there"))),
                Ok(Some(_)) if root && self.roots.fetch_add(1, Ordering::Relaxed) >= self.limit => {
                    let limit = self.limit;
                    Err(Cause::EndlessRotation.because(format!("more than {limit} new roots")))
                }
                fetched => fetched,
            };
            fetched.map_err(|refusal| Error::transport_with_source("channel", refusal))
        })
    }

    fn fetch_target<'a>(&'a self, path: &'a str, _max_length: u64) -> FetchFuture<'a> {
        // The library would hold a release in memory as a whole: [`ChannelFiles::target`] streams it.
        Box::pin(async move { Err(Error::TargetNotFound(path.to_owned())) })
    }
}
