//! A repository in a bucket: conditional writes keep two publishers apart, `Cache-Control` sets how long caches may keep a file.

use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, Error, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions,
    UpdateVersion,
};

use super::store::{Found, Keep, Store, Tag, TooLong, Written};
use run::exit::Exit;

/// The keys below a prefix of a bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    objects: Arc<dyn ObjectStore>,
    name: String,
    prefix: String,
}

impl Bucket {
    /// `objects` are the bucket's; `name` is for messages.
    pub(crate) fn new(objects: Arc<dyn ObjectStore>, name: String, prefix: String) -> Self {
        Self {
            objects,
            name,
            prefix,
        }
    }

    fn key(&self, path: &str) -> Path {
        Path::from_iter(
            self.prefix
                .split('/')
                .chain(path.split('/'))
                .filter(|part| !part.is_empty()),
        )
    }

    fn called(&self, path: &str) -> String {
        format!("s3://{}/{}", self.name, self.key(path))
    }

    /// An error of the service with a hint where its cause is known.
    fn failed(&self, doing: &str, path: &str, error: Error) -> anyhow::Error {
        let place = self.called(path);
        let denied = matches!(
            error,
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. }
        );
        let no_bucket = error.to_string().contains("NoSuchBucket");
        let error = anyhow::Error::new(error).context(format!("{doing} {place}"));
        if no_bucket {
            return Exit::Refused
                .error(format!("there is no bucket {}", self.name))
                .hint("create it, with versioning on, or correct `repository` in [channel]")
                .into();
        }
        if denied {
            return Exit::Refused
                .error(format!("{doing} {place} is not allowed"))
                .because(error)
                .hint("the caller needs s3:GetObject, s3:PutObject and s3:ListBucket on it: docs/channel.md")
                .into();
        }
        error
    }

    async fn put(
        &self,
        path: &str,
        bytes: Bytes,
        keep: Keep,
        mode: PutMode,
    ) -> anyhow::Result<Written> {
        let kind = if path.ends_with(".json") {
            "application/json"
        } else {
            "application/octet-stream"
        };
        let options = PutOptions {
            mode,
            attributes: Attributes::from_iter([
                (Attribute::ContentType, kind),
                (Attribute::CacheControl, keep.header()),
            ]),
            ..PutOptions::default()
        };
        match self
            .objects
            .put_opts(&self.key(path), bytes.clone().into(), options)
            .await
        {
            Ok(_) => Ok(Written::Done),
            // After a lost answer the client retries, and finds its own object.
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                let there = self.read(path, bytes.len() as u64).await;
                match there {
                    Ok(Some(found)) if found.bytes == bytes => Ok(Written::Done),
                    Ok(_) => Ok(Written::Occupied),
                    Err(error) if error.is::<TooLong>() => Ok(Written::Occupied),
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(self.failed("write", path, error)),
        }
    }
}

#[async_trait]
impl Store for Bucket {
    async fn read(&self, path: &str, most: u64) -> anyhow::Result<Option<Found>> {
        let found = match self.objects.get(&self.key(path)).await {
            Ok(found) => found,
            Err(Error::NotFound { source, .. }) if !source.to_string().contains("NoSuchBucket") => {
                return Ok(None);
            }
            Err(error) => return Err(self.failed("read", path, error)),
        };
        let tag = Tag(found
            .meta
            .e_tag
            .clone()
            .with_context(|| format!("{} has no ETag", self.called(path)))?);
        let mut bytes = BytesMut::new();
        let mut stream = found.into_stream();
        while let Some(part) = stream.next().await {
            bytes.extend_from_slice(&part.map_err(|error| self.failed("read", path, error))?);
            if bytes.len() as u64 > most {
                let path = self.called(path);
                return Err(TooLong { path, most }.into());
            }
        }
        Ok(Some(Found {
            bytes: bytes.freeze(),
            tag,
        }))
    }

    async fn create(&self, path: &str, bytes: Bytes, keep: Keep) -> anyhow::Result<Written> {
        self.put(path, bytes, keep, PutMode::Create).await
    }

    async fn replace(
        &self,
        path: &str,
        bytes: Bytes,
        keep: Keep,
        was: &Tag,
    ) -> anyhow::Result<Written> {
        let was = UpdateVersion {
            e_tag: Some(was.0.clone()),
            version: None,
        };
        self.put(path, bytes, keep, PutMode::Update(was)).await
    }
}
