//! Access to AWS: HTTP clients, region, credentials, instance metadata.
//!
//! Owns what S3, DynamoDB, SNS and CloudWatch have in common. Everything is requested lazily and in the
//! background: the service listens before the first response arrives, and outside of EC2 there is none.

mod backoff;
mod call;
pub(crate) mod table;
mod wire;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredentialProvider};
use object_store::{BackoffConfig, RetryConfig};
use reqwest::Method;
use tokio::sync::OnceCell;

use crate::settings::AwsSettings;
pub(crate) use backoff::Backoff;
pub(crate) use call::{CLOUDWATCH, CallError, FORM, SNS, WRONG_CLOCK, element};
pub(crate) use wire::RetryUntil;
use wire::Wire;
pub use wire::client;

/// Time limit for a call with its retries. An order waits for it, and clients time out after 5 s to 60 s.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The metadata service is on the same host.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);
/// Lifetime of a metadata token; each is used once.
const METADATA_TOKEN_SECONDS: &str = "60";

/// AWS as configured for this process. Cheap to clone; clones share connections and credentials.
#[derive(Debug, Clone)]
pub struct Aws {
    settings: Arc<AwsSettings>,
    region: Arc<OnceCell<String>>,
    credentials: Arc<OnceCell<AwsCredentialProvider>>,
    wire: Wire,
}

impl Aws {
    /// AWS with these settings; sends no request yet.
    #[must_use]
    pub fn new(settings: AwsSettings) -> Self {
        Self {
            settings: Arc::new(settings),
            region: Arc::default(),
            credentials: Arc::default(),
            wire: Wire::default(),
        }
    }

    /// The endpoint of `service` (`S3`, `CLOUDWATCH`) if it is not the region's default.
    #[must_use]
    pub fn endpoint(&self, service: &str) -> Option<&str> {
        self.settings.endpoint(service)
    }

    /// The configured region, or the instance's.
    ///
    /// # Errors
    /// If neither is available.
    pub async fn region(&self) -> anyhow::Result<&str> {
        let region = self.region.get_or_try_init(|| async {
            if let Some(region) = self.settings.region() {
                return Ok(region.to_owned());
            }
            self.metadata("placement/region").await.context(
                "find the region\nhint: set AWS_REGION, or [s3] region in the settings file",
            )
        });
        Ok(region.await?.as_str())
    }

    /// A builder with endpoint, region, credentials, connections and limits set; the caller adds the bucket.
    ///
    /// # Errors
    /// If the region is unknown, or the variables contradict each other.
    pub async fn s3(&self) -> anyhow::Result<AmazonS3Builder> {
        let credentials = self.credentials().await?;
        Ok(self
            .s3_with_own_credentials()
            .await?
            .with_credentials(credentials))
    }

    async fn s3_with_own_credentials(&self) -> anyhow::Result<AmazonS3Builder> {
        let mut builder = AmazonS3Builder::new();
        for (name, value) in self.settings.variables() {
            if let Ok(key) = name.to_ascii_lowercase().parse() {
                builder = builder.with_config(key, value);
            }
        }
        if let Some(endpoint) = self.endpoint("S3") {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(endpoint) = self.settings.metadata_endpoint() {
            builder = builder.with_metadata_endpoint(endpoint);
        }
        Ok(builder
            .with_region(self.region().await?)
            .with_http_connector(self.wire.clone())
            // Only single keys are deleted, and not every server supports bulk deletion.
            .with_config(AmazonS3ConfigKey::DisableBulkDelete, "true")
            // A few quick attempts, since a customer waits for the result.
            .with_retry(RetryConfig {
                max_retries: 3,
                retry_timeout: CALL_TIMEOUT,
                backoff: BackoffConfig {
                    init_backoff: Duration::from_millis(50),
                    max_backoff: Duration::from_secs(1),
                    base: 2.0,
                },
            }))
    }

    /// Credentials from the standard chain: variables, web identity, container, instance role. Kept until
    /// shortly before they expire.
    ///
    /// # Errors
    /// If the variables contradict each other, or the region is unknown.
    pub async fn credentials(&self) -> anyhow::Result<AwsCredentialProvider> {
        let credentials = self.credentials.get_or_try_init(|| async {
            // The S3 client provides the credentials; it requires a bucket name, which is not used.
            let s3 = self.s3_with_own_credentials().await?;
            let s3 = s3.with_bucket_name("unused").build()?;
            anyhow::Ok(Arc::clone(s3.credentials()))
        });
        Ok(Arc::clone(credentials.await?))
    }

    /// A value of the instance metadata (IMDSv2).
    ///
    /// # Errors
    /// If this is not an instance, or its metadata service does not respond.
    pub async fn metadata(&self, path: &str) -> anyhow::Result<String> {
        let Some(endpoint) = self.settings.metadata_endpoint() else {
            anyhow::bail!("instance metadata is turned off (AWS_EC2_METADATA_DISABLED)");
        };
        let client = self.wire.client(endpoint)?;
        let token = client
            .request(Method::PUT, format!("{endpoint}/latest/api/token"))
            .header(
                "x-aws-ec2-metadata-token-ttl-seconds",
                METADATA_TOKEN_SECONDS,
            )
            .timeout(METADATA_TIMEOUT)
            .send()
            .await?
            .error_for_status()?
            .text()
            .await?;
        let value = client
            .get(format!("{endpoint}/latest/meta-data/{path}"))
            .header("x-aws-ec2-metadata-token", token)
            .timeout(METADATA_TIMEOUT)
            .send()
            .await?
            .error_for_status()?
            .text()
            .await?;
        Ok(value.trim().to_owned())
    }
}

/// The instance's id, read in the background; `unknown` until then, and outside of EC2.
#[derive(Debug, Clone)]
pub struct InstanceId {
    found: Arc<OnceLock<String>>,
    lookup: Arc<tokio::sync::Semaphore>,
    aws: Aws,
}

impl InstanceId {
    /// An id that was not read yet.
    #[must_use]
    pub fn new(aws: Aws) -> Self {
        Self {
            found: Arc::default(),
            lookup: Arc::new(tokio::sync::Semaphore::new(1)),
            aws,
        }
    }

    /// The id if it is known; otherwise starts a lookup without waiting for it.
    #[must_use]
    pub fn now_or_unknown(&self) -> String {
        if let Some(id) = self.found.get() {
            return id.clone();
        }
        if let Ok(permit) = Arc::clone(&self.lookup).try_acquire_owned() {
            let this = self.clone();
            tokio::spawn(async move {
                match this.aws.metadata("instance-id").await {
                    Ok(id) => this.found.get_or_init(|| id),
                    Err(error) => {
                        tracing::debug!(error = format!("{error:#}"), "no instance id");
                        return;
                    }
                };
                drop(permit);
            });
        }
        "unknown".to_owned()
    }
}

#[cfg(test)]
mod tests;
