//! The S3 store: one object an order, `<prefix>/<id>.json`, created only if absent.
//!
//! Owns the keys and the reading of S3's answers. The client is made at first use, because it
//! needs the region, which may have to come from the instance.

use anyhow::{Context, bail};
use async_trait::async_trait;
use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
};
use tokio::sync::OnceCell;

use super::{CreateError, Store};
use crate::aws::Aws;
use crate::order::{Order, OrderId};
use crate::settings::AwsSettings;

/// The object the probe asks for. It need not be there: the answer "no such key" has been through
/// name, network, credentials and bucket, and costs a read, not a write.
const PROBE: &str = ".probe";

/// Orders in a bucket.
#[derive(Debug)]
pub struct S3Store {
    bucket: String,
    prefix: String,
    aws: Aws,
    client: OnceCell<AmazonS3>,
}

impl S3Store {
    /// A store in `bucket`, under `prefix`.
    #[must_use]
    pub fn new(bucket: String, prefix: String, aws: AwsSettings) -> Self {
        Self {
            bucket,
            prefix,
            aws: Aws::new(aws),
            client: OnceCell::new(),
        }
    }

    async fn client(&self) -> anyhow::Result<&AmazonS3> {
        self.client
            .get_or_try_init(|| async {
                let builder = self.aws.s3().await?.with_bucket_name(&self.bucket);
                builder.build().context("prepare the S3 client")
            })
            .await
    }

    fn key(&self, name: &str) -> Path {
        Path::from_iter(
            self.prefix
                .split('/')
                .chain([name])
                .filter(|part| !part.is_empty()),
        )
    }

    async fn read(&self, client: &AmazonS3, id: OrderId) -> anyhow::Result<Option<Order>> {
        let key = self.key(&format!("{id}.json"));
        let content = match client.get(&key).await {
            Ok(found) => found.bytes().await,
            Err(Error::NotFound { source, .. }) if !says_no_bucket(&source.to_string()) => {
                return Ok(None);
            }
            Err(error) => Err(error),
        };
        let content = content.with_context(|| format!("read s3://{}/{key}", self.bucket))?;
        let order = serde_json::from_slice(&content)
            .with_context(|| format!("s3://{}/{key} is not an order", self.bucket))?;
        Ok(Some(order))
    }
}

/// S3 answers 404 for a missing bucket as for a missing key; only the text tells.
fn says_no_bucket(answer: &str) -> bool {
    answer.contains("NoSuchBucket")
}

#[async_trait]
impl Store for S3Store {
    async fn create(&self, order: &Order) -> Result<(), CreateError> {
        let create = async {
            let client = self.client().await?;
            let key = self.key(&format!("{}.json", order.id));
            let options = PutOptions {
                mode: PutMode::Create,
                attributes: Attributes::from_iter([(Attribute::ContentType, "application/json")]),
                ..PutOptions::default()
            };
            match client
                .put_opts(&key, serde_json::to_vec(order)?.into(), options)
                .await
            {
                Ok(_) => Ok(true),
                // The client tries again after a lost answer, and then meets its own object.
                Err(Error::AlreadyExists { .. }) => {
                    Ok(self.read(client, order.id).await?.as_ref() == Some(order))
                }
                Err(error) => {
                    Err(error).with_context(|| format!("create s3://{}/{key}", self.bucket))
                }
            }
        };
        match create.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(CreateError::Exists),
            Err(error) => Err(CreateError::Unavailable(error)),
        }
    }

    async fn get(&self, id: OrderId) -> anyhow::Result<Option<Order>> {
        self.read(self.client().await?, id).await
    }

    async fn probe(&self) -> anyhow::Result<()> {
        match self.client().await?.get(&self.key(PROBE)).await {
            Ok(_) => Ok(()),
            Err(Error::NotFound { source, .. }) => {
                if says_no_bucket(&source.to_string()) {
                    bail!("the bucket {} does not exist", self.bucket);
                }
                Ok(())
            }
            Err(Error::PermissionDenied { source, .. }) => bail!(
                "reading s3://{}/{} is not allowed: {source}; hint: the role needs s3:PutObject, \
                 s3:GetObject and s3:ListBucket",
                self.bucket,
                self.prefix
            ),
            Err(error) => Err(error).with_context(|| format!("reach the bucket {}", self.bucket)),
        }
    }
}
