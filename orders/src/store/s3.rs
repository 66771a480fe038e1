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

use super::{CreateError, Entry, Kept, Store};
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
    async fn create(&self, entry: &Entry) -> Result<Kept, CreateError> {
        let order = &entry.order;
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
            Ok(true) => Ok(Kept::Now),
            Ok(false) => Err(CreateError::Exists),
            Err(error) => Err(CreateError::Unavailable(error)),
        }
    }

    async fn get(&self, id: OrderId) -> anyhow::Result<Option<Order>> {
        self.read(self.client().await?, id).await
    }

    async fn list(&self, _: OrderId, _: usize) -> anyhow::Result<Vec<Order>> {
        anyhow::bail!("not listed yet")
    }

    async fn notices(&self, _: usize) -> anyhow::Result<Vec<OrderId>> {
        Ok(Vec::new())
    }

    async fn settle_notice(&self, _: OrderId) -> anyhow::Result<()> {
        Ok(())
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, copy_bidirectional, split};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::contract;
    use super::*;
    use crate::moto::Moto;

    fn store(endpoint: &str, bucket: &str) -> S3Store {
        S3Store::new(
            bucket.to_owned(),
            "orders/here".to_owned(),
            Moto::settings(endpoint),
        )
    }

    #[tokio::test]
    async fn keeps_the_contract() {
        let moto = Moto::start();
        moto.make_bucket("shop").await;
        contract::holds(&|| Box::new(store(&moto.endpoint, "shop"))).await;
    }

    #[tokio::test]
    async fn a_missing_bucket_is_named() {
        let moto = Moto::start();
        let store = store(&moto.endpoint, "nowhere");
        let error = format!("{:#}", store.probe().await.unwrap_err());
        assert_eq!(error, "the bucket nowhere does not exist");
        let order = contract::order("Ada");
        assert!(matches!(
            store.create(&order.clone().into()).await,
            Err(CreateError::Unavailable(_))
        ));
        assert!(
            store.get(order.id).await.is_err(),
            "no bucket is not the same as no order"
        );
    }

    #[tokio::test]
    async fn an_answer_lost_on_the_way_is_no_second_order_and_no_refusal() {
        let moto = Moto::start();
        moto.make_bucket("shop").await;
        let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", door.local_addr().unwrap());
        let inside = moto.endpoint.trim_start_matches("http://").to_owned();
        let cut = std::sync::Arc::new(AtomicBool::new(false));
        let first = std::sync::Arc::clone(&cut);
        let proxy = tokio::spawn(async move {
            while let Ok((mut client, _)) = door.accept().await {
                let mut server = TcpStream::connect(&inside).await.unwrap();
                let first = std::sync::Arc::clone(&first);
                tokio::spawn(async move {
                    if first.swap(true, Ordering::SeqCst) {
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                        return;
                    }
                    // The first answer: the server has acted, and the client never hears of it.
                    let (mut from_client, _to_client) = split(client);
                    let (mut from_server, mut to_server) = split(server);
                    tokio::select! {
                        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
                        _ = from_server.read_u8() => {}
                    }
                });
            }
        });
        let order = contract::order("Ada");
        store(&endpoint, "shop")
            .create(&order.clone().into())
            .await
            .unwrap();
        assert!(cut.load(Ordering::SeqCst));
        assert_eq!(
            store(&moto.endpoint, "shop").get(order.id).await.unwrap(),
            Some(order)
        );
        proxy.abort();
    }

    #[test]
    fn keys_have_no_empty_parts() {
        let key = |prefix: &str| {
            S3Store::new("b".into(), prefix.into(), AwsSettings::default())
                .key("x")
                .to_string()
        };
        assert_eq!(key(""), "x");
        assert_eq!(key("orders"), "orders/x");
        assert_eq!(key("a//b"), "a/b/x");
    }
}
