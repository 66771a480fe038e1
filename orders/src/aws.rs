//! How AWS is reached: HTTP clients, region, credentials, the instance's own metadata.
//!
//! Owns what S3 and CloudWatch have in common. Everything here is asked for in the background and
//! lazily: the service listens before the first answer, and off EC2 there is none.

use std::sync::{Arc, Once, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail};
use object_store::aws::{AmazonS3Builder, AwsCredentialProvider};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use reqwest::{Client, ClientBuilder, Method};
use tokio::sync::OnceCell;

use crate::settings::AwsSettings;

/// A store or metric call that takes longer has failed: a client's own patience is 5 s to 60 s.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Every AWS endpoint is near; a connection that takes longer will not come.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The metadata service is on the same host.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a metadata token lasts; each is used for one look only.
const METADATA_TOKEN_SECONDS: &str = "60";

/// Picks the TLS implementation, once a process.
fn choose_tls() {
    static CHOSEN: Once = Once::new();
    CHOSEN.call_once(|| {
        // An error means that one is installed already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// A client for `url`. The system's certificates are read only for https: it takes time and
/// memory, and a box that speaks plain http to a rehearsal may have none.
///
/// # Errors
/// When the system has no certificates and `url` needs them.
pub fn client(url: &str, timeout: Duration) -> anyhow::Result<Client> {
    choose_tls();
    let mut builder = ClientBuilder::new()
        .timeout(timeout)
        .connect_timeout(CONNECT_TIMEOUT.min(timeout))
        .redirect(reqwest::redirect::Policy::none());
    if url.starts_with("http://") {
        builder = builder.tls_certs_only([]);
    }
    builder.build().with_context(|| {
        format!("prepare a client for {url}; hint: https needs the package ca-certificates")
    })
}

/// AWS as seen from this process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Aws {
    settings: AwsSettings,
    region: Arc<OnceCell<String>>,
}

impl Aws {
    /// AWS as the settings say; asks nothing yet.
    #[must_use]
    pub fn new(settings: AwsSettings) -> Self {
        Self {
            settings,
            region: Arc::default(),
        }
    }

    /// The endpoint of `service` (`S3`, `CLOUDWATCH`) when it is not the region's own.
    #[must_use]
    pub fn endpoint(&self, service: &str) -> Option<&str> {
        self.settings.endpoint(service)
    }

    /// The region: as set, or as the instance says.
    ///
    /// # Errors
    /// When neither says.
    pub async fn region(&self) -> anyhow::Result<&str> {
        let region = self.region.get_or_try_init(|| async {
            if let Some(region) = self.settings.region() {
                return Ok(region.to_owned());
            }
            self.metadata("placement/region").await.context(
                "find the region; hint: set AWS_REGION, or [s3] region in the settings file",
            )
        });
        Ok(region.await?.as_str())
    }

    /// A builder with endpoint, region, credentials and limits set; the bucket is the caller's.
    ///
    /// # Errors
    /// When the region is not known.
    pub async fn s3(&self) -> anyhow::Result<AmazonS3Builder> {
        choose_tls();
        let mut builder = AmazonS3Builder::new();
        for (name, value) in self.settings.variables() {
            if let Ok(key) = name.to_ascii_lowercase().parse() {
                builder = builder.with_config(key, value);
            }
        }
        let mut options = ClientOptions::new()
            .with_timeout(CALL_TIMEOUT)
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_http1_only();
        if let Some(endpoint) = self.endpoint("S3") {
            let plain = endpoint.starts_with("http://");
            options = options
                .with_allow_http(plain)
                .with_no_system_certificates(plain);
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(endpoint) = self.settings.metadata_endpoint() {
            builder = builder.with_metadata_endpoint(endpoint);
        }
        Ok(builder
            .with_region(self.region().await?)
            .with_client_options(options)
            // One order waits on this: a few quick tries, then the customer is told.
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

    /// Credentials by the standard chain: variables, web identity, container, instance role.
    ///
    /// # Errors
    /// When the variables contradict each other, or the region is not known.
    pub async fn credentials(&self) -> anyhow::Result<AwsCredentialProvider> {
        // The credentials are the S3 client's; a bucket is a matter of form and never asked.
        let s3 = self.s3().await?.with_bucket_name("unused").build()?;
        Ok(Arc::clone(s3.credentials()))
    }

    /// One value of the instance metadata (version 2: with a token).
    ///
    /// # Errors
    /// When this is no instance, or its metadata service does not answer.
    pub async fn metadata(&self, path: &str) -> anyhow::Result<String> {
        let Some(endpoint) = self.settings.metadata_endpoint() else {
            bail!("the instance metadata is switched off (AWS_EC2_METADATA_DISABLED)");
        };
        let client = client(endpoint, METADATA_TIMEOUT)?;
        let token = client
            .request(Method::PUT, format!("{endpoint}/latest/api/token"))
            .header(
                "x-aws-ec2-metadata-token-ttl-seconds",
                METADATA_TOKEN_SECONDS,
            )
            .send()
            .await?
            .error_for_status()?
            .text()
            .await?;
        let value = client
            .get(format!("{endpoint}/latest/meta-data/{path}"))
            .header("x-aws-ec2-metadata-token", token)
            .send()
            .await?
            .error_for_status()?
            .text()
            .await?;
        Ok(value.trim().to_owned())
    }
}

/// This instance's id, looked up in the background; `unknown` until found, and off EC2.
#[derive(Debug, Clone)]
pub struct InstanceId {
    found: Arc<OnceLock<String>>,
    looking: Arc<tokio::sync::Semaphore>,
    aws: Aws,
}

impl InstanceId {
    /// An id not looked for yet.
    #[must_use]
    pub fn new(aws: Aws) -> Self {
        Self {
            found: Arc::default(),
            looking: Arc::new(tokio::sync::Semaphore::new(1)),
            aws,
        }
    }

    /// The id, if it is known by now; if not, one look is started, and not waited for.
    #[must_use]
    pub fn now_or_unknown(&self) -> String {
        if let Some(id) = self.found.get() {
            return id.clone();
        }
        if let Ok(permit) = Arc::clone(&self.looking).try_acquire_owned() {
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
