//! What every channel command is given: configuration, files, keys, the time; and the one way to change targets.

use std::path::PathBuf;

use anyhow::Context as _;
use bytes::Bytes;
use contract::release::Release;
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;
use tough::schema::{RoleType, Targets};

use super::author::{self, Extent, Writer};
use super::bucket::Bucket;
use super::folder::Folder;
use super::keys::{Keyring, Opened};
use super::releases::{self, Edit, New};
use super::seen::Seen;
use super::store::{Store, Written, settle};
use super::verify::{self, Verified};
use crate::config::{Channel, Config, Repository};
use crate::context::Context;
use cloud::Cloud;
use cloud::aws::Connection;
use run::exit::Exit;
use run::ledger::ChannelVersions;
use run::output::Output;

/// Whether the repository is to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read only.
    Read,
    /// Changed: a folder is locked.
    Write,
}

/// What every channel command is given.
pub(crate) struct ChannelSession {
    /// `[channel]`.
    pub(crate) channel: Channel,
    /// The folder that the configuration's paths start from.
    pub(crate) folder: PathBuf,
    /// The repository.
    pub(crate) store: Box<dyn Store>,
    /// The keys.
    pub(crate) keyring: Keyring,
    /// What was seen before.
    pub(crate) seen: Seen,
    /// Where progress is printed.
    pub(crate) output: Output,
    /// The time of this run.
    pub(crate) now: Timestamp,
    /// The account of the bucket.
    pub(crate) cloud: Option<Cloud>,
    /// For a connection that is made later.
    pub(crate) connection: Connection,
}

/// The result of a change, for `--json`.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Outcome {
    /// Whether anything was written.
    pub(crate) changed: bool,
    /// Versions of root, timestamp, snapshot and targets.
    pub(crate) versions: ChannelVersions,
}

impl ChannelSession {
    /// Opens the repository that the configuration names; connects only where a bucket or a KMS key asks for it.
    pub(crate) async fn open(
        context: &Context,
        config: &Config,
        access: Access,
    ) -> anyhow::Result<Self> {
        let channel = config.channel()?.clone();
        let folder = context.root();
        let connection = context.connection(config.bake.region.as_deref());
        let mut cloud = None;
        let store: Box<dyn Store> = match &channel.repository {
            Repository::Folder(path) => {
                let path = folder.join(path);
                Box::new(match access {
                    Access::Read => Folder::reading(path),
                    Access::Write => Folder::writing(path)?,
                })
            }
            Repository::Bucket { bucket, prefix } => {
                let account = cloud::aws::account(&connection)
                    .await
                    .map_err(run::exit::not_connected)?;
                let objects = account.objects(bucket)?;
                cloud = Some(account.cloud());
                Box::new(Bucket::new(objects, bucket.clone(), prefix.clone()))
            }
        };
        Ok(Self {
            seen: Seen(context.state().join("channel.json")),
            keyring: keyring(folder.clone(), connection.clone()),
            channel,
            folder,
            store,
            output: context.output.clone(),
            now: Timestamp::now(),
            cloud,
            connection,
        })
    }

    /// The file with the root of trust of this folder.
    pub(crate) fn known_path(&self) -> PathBuf {
        self.folder.join(&self.channel.root)
    }

    /// The root of trust of this folder.
    pub(crate) fn known(&self) -> anyhow::Result<Bytes> {
        verify::known(&self.known_path())
    }

    /// The repository's name, for messages.
    pub(crate) fn place(&self) -> String {
        self.channel.repository.to_string()
    }

    /// Reads and verifies everything, and refuses what is older than what was seen here.
    pub(crate) async fn verified(&self) -> anyhow::Result<Verified> {
        let verified = verify::repository(self.store.as_ref(), &self.known()?).await?;
        self.seen.check(&self.place(), &verified)?;
        Ok(verified)
    }

    /// Opens the keys that sign snapshot and timestamp and, if requested, targets.
    pub(crate) async fn keys(&self, with_targets: bool) -> anyhow::Result<Vec<Opened>> {
        let keys = &self.channel.keys;
        let Some(online) = &keys.online else {
            return Err(Exit::Usage
                .error("the configuration names no online key")
                .hint("name it as `online` in [channel.keys]")
                .into());
        };
        let targets: &[_] = if with_targets { &keys.targets } else { &[] };
        if with_targets && targets.is_empty() {
            return Err(Exit::Usage
                .error("the configuration names no targets keys")
                .hint("name them as `targets` in [channel.keys]")
                .into());
        }
        self.keyring.open_all(targets.iter().chain([online])).await
    }

    /// Signs and writes on top of `was`, reads it back, and remembers it.
    pub(crate) async fn write(&self, was: &Verified, extent: Extent) -> anyhow::Result<Verified> {
        let keys = self.keys(matches!(extent, Extent::Targets(_))).await?;
        let writer = Writer {
            store: self.store.as_ref(),
            keys: &keys,
            roots: vec![was.root()],
            expires: &self.channel.expires,
            now: self.now,
        };
        author::write(&writer, was, extent).await?;
        self.remember().await
    }

    /// Reads back what was written, and remembers it.
    pub(crate) async fn remember(&self) -> anyhow::Result<Verified> {
        let verified = author::read_back(self.store.as_ref(), &self.known()?).await?;
        self.seen
            .note(&self.place(), &verified)
            .context("remember what was written")?;
        Ok(verified)
    }

    /// Changes targets, if `edit` finds that there is something to change. `before` runs between decision and signing.
    pub(crate) async fn change(
        &self,
        edit: impl Fn(&Targets) -> anyhow::Result<Option<Edit>>,
        before: impl AsyncFnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Outcome> {
        let was = self.verified().await?;
        was.fresh(
            &[RoleType::Root, RoleType::Snapshot, RoleType::Timestamp],
            self.now,
        )?;
        let Some(edit) = edit(&was.targets.signed)? else {
            return Ok(Outcome {
                changed: false,
                versions: was.versions().into(),
            });
        };
        let keys = &self.channel.keys;
        self.may_change(keys.targets.iter().chain(&keys.online))
            .await?;
        before().await?;
        let is = self
            .write(&was, Extent::Targets(Box::new(edit.targets)))
            .await?;
        for note in edit.notes {
            self.output.warn(note);
        }
        Ok(Outcome {
            changed: true,
            versions: is.versions().into(),
        })
    }

    /// Signs the timestamp again, the snapshot once half its life is over, and the targets if requested.
    pub(crate) async fn refresh(&self, targets: bool) -> anyhow::Result<Verified> {
        let was = self.verified().await?;
        was.fresh(&[RoleType::Root], self.now)?;
        let extent = if targets {
            Extent::Targets(Box::new(was.targets.signed.clone()))
        } else {
            // A fresh timestamp over expired targets would help no instance, and would hide the problem.
            was.fresh(&[RoleType::Targets], self.now)?;
            // Not every time: each snapshot is a file that is kept.
            let half =
                SignedDuration::from_hours(i64::from(self.channel.expires.snapshot_days) * 12);
            if was.snapshot.signed.expires <= self.now + half {
                Extent::Snapshot
            } else {
                Extent::Timestamp
            }
        };
        let keys = &self.channel.keys;
        let signing: &[_] = if targets { &keys.targets } else { &[] };
        self.may_change(signing.iter().chain(&keys.online)).await?;
        self.write(&was, extent).await
    }

    /// Publishes a release: first its bytes, under a name that is their digest, then what points at them.
    pub(crate) async fn publish(&self, new: &New, bytes: &Bytes) -> anyhow::Result<Outcome> {
        let name = Release::target_name(&new.version, &new.arch);
        let path = verify::target(&hex::encode(&new.digest), &name);
        let upload = async || {
            if settle(self.store.as_ref(), &path, bytes).await? == Written::Done {
                return Ok(());
            }
            Err(Exit::Refused
                .error(format!(
                    "{path} exists already with content that does not match its name"
                ))
                .hint("it was not written by this program: remove it, and find out who wrote it")
                .into())
        };
        self.change(|targets| releases::publish(targets, new), upload)
            .await
    }
}

/// Keys in files relative to `folder`, and in the KMS that is connected to.
pub(crate) fn keyring(folder: PathBuf, connection: Connection) -> Keyring {
    Keyring::new(
        folder,
        Box::new(move || {
            let connection = connection.clone();
            Box::pin(async move {
                let account = cloud::aws::account(&connection)
                    .await
                    .map_err(run::exit::not_connected)?;
                Ok(account.signing_keys())
            })
        }),
    )
}
