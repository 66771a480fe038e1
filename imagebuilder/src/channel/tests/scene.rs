//! An operator's folder, a repository, and a process that can be killed at a write.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::bail;
use async_trait::async_trait;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use object_store::memory::InMemory;

use super::super::bucket::Bucket;
use super::super::digest;
use super::super::keys::{Keyring, generate};
use super::super::root::Made;
use super::super::seen::Seen;
use super::super::session::ChannelSession;
use super::super::store::{Found, Keep, Store, Tag, Written};
use super::super::verify::{self, Verified};
use crate::config::{Channel, KeySource};
use cloud::testing::InMemoryAws;
use run::output::Output;

/// When every story begins.
const BEGIN: &str = "2026-11-21T08:00:00Z";

/// When the process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Before the write.
    Before,
    /// The write happened and its answer was lost.
    After,
}

/// A store whose process is killed at a write: every later call fails.
pub(super) struct Mortal {
    pub(super) inner: Arc<dyn Store>,
    pub(super) left: AtomicI64,
    pub(super) cut: Cut,
}

impl Mortal {
    fn breathe(&self) -> anyhow::Result<()> {
        if self.left.load(Ordering::SeqCst) <= 0 {
            bail!("dead");
        }
        Ok(())
    }

    /// Whether this write is the last.
    fn last(&self) -> bool {
        self.left.fetch_sub(1, Ordering::SeqCst) == 1
    }
}

#[async_trait]
impl Store for Mortal {
    async fn read(&self, path: &str, most: u64) -> anyhow::Result<Option<Found>> {
        self.breathe()?;
        self.inner.read(path, most).await
    }

    async fn create(&self, path: &str, bytes: Bytes, keep: Keep) -> anyhow::Result<Written> {
        self.breathe()?;
        if self.last() {
            if self.cut == Cut::After {
                let _ = self.inner.create(path, bytes, keep).await?;
            }
            bail!("cut at {path}");
        }
        self.inner.create(path, bytes, keep).await
    }

    async fn replace(
        &self,
        path: &str,
        bytes: Bytes,
        keep: Keep,
        was: &Tag,
    ) -> anyhow::Result<Written> {
        self.breathe()?;
        if self.last() {
            if self.cut == Cut::After {
                let _ = self.inner.replace(path, bytes, keep, was).await?;
            }
            bail!("cut at {path}");
        }
        self.inner.replace(path, bytes, keep, was).await
    }
}

/// An operator's folder, and a repository.
pub(super) struct Scene {
    pub(super) folder: tempfile::TempDir,
    pub(super) store: Arc<dyn Store>,
    /// The root that a reader was given on the first day.
    pub(super) first: Option<Bytes>,
    pub(super) channel: Channel,
    pub(super) now: Timestamp,
    /// The simulated permissions of the caller.
    pub(super) aws: InMemoryAws,
    pub(super) output: Output,
}

impl Scene {
    pub(super) fn in_memory() -> Self {
        let bucket = Bucket::new(
            Arc::new(InMemory::new()),
            "shop".to_owned(),
            "agents".to_owned(),
        );
        Self::with(Arc::new(bucket))
    }

    pub(super) fn with(store: Arc<dyn Store>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("keys")).unwrap();
        let scene = Self {
            store,
            first: None,
            channel: toml::from_str(
                "repository = \"s3://shop/agents\"\n[keys]\nroot = [\"file:keys/root-1.pem\", \"file:keys/root-2.pem\", \"file:keys/root-3.pem\"]\ntargets = [\"file:keys/targets-1.pem\"]\nonline = \"file:keys/online.pem\"\n",
            )
            .unwrap(),
            folder,
            now: BEGIN.parse().unwrap(),
            aws: InMemoryAws::default(),
            output: Output::captured(),
        };
        for name in ["root-1", "root-2", "root-3", "targets-1", "online"] {
            scene.key(name);
        }
        scene
    }

    pub(super) fn at(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn key(&self, name: &str) -> KeySource {
        let path = Path::new("keys").join(name).with_extension("pem");
        if !self.at().join(&path).exists() {
            generate(&self.at().join(&path)).unwrap();
        }
        KeySource::File(path)
    }

    /// The private key is removed, its public half stays.
    pub(super) fn take_away(&self, name: &str) {
        std::fs::rename(
            self.at().join(format!("keys/{name}.pem")),
            self.at().join(format!("{name}.away")),
        )
        .unwrap();
    }

    pub(super) fn session(&self) -> ChannelSession {
        self.session_with(Box::new(Mortal {
            inner: Arc::clone(&self.store),
            left: AtomicI64::new(i64::MAX),
            cut: Cut::Before,
        }))
    }

    pub(super) fn session_with(&self, store: Box<dyn Store>) -> ChannelSession {
        ChannelSession {
            channel: self.channel.clone(),
            folder: self.at().to_owned(),
            store,
            keyring: Keyring::new(
                self.at().to_owned(),
                Box::new(|| Box::pin(async { bail!("there is no KMS here") })),
            ),
            seen: Seen(self.at().join(".imagebuilder/channel.json")),
            output: self.output.clone(),
            now: self.now,
            cloud: Some(self.aws.cloud()),
            connection: cloud::aws::Connection::default(),
        }
    }

    pub(super) fn later(&mut self, hours: i64) {
        self.now += SignedDuration::from_hours(hours);
    }

    pub(super) async fn made(mut self) -> Self {
        assert!(matches!(
            self.session().init().await.unwrap(),
            Made::Published(_)
        ));
        self.first = Some(self.session().known().unwrap());
        self
    }

    /// The view of an instance that was given the first root, with every target available and complete.
    pub(super) async fn reader(&self) -> anyhow::Result<Verified> {
        let known = self
            .first
            .clone()
            .map_or_else(|| self.session().known(), Ok)?;
        let seen = verify::repository(self.store.as_ref(), &known).await?;
        for entry in seen.entries() {
            let path = verify::target(&entry.digest, &entry.name);
            let found = self
                .store
                .read(&path, entry.length)
                .await?
                .expect("the target is there");
            assert_eq!(digest(&found.bytes), entry.digest, "{path}");
        }
        Ok(seen)
    }
}
