//! Objects in S3, with the SDK's endpoint, region and credentials.

use std::fmt;
use std::sync::{Arc, Once};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_sdk_ec2::config::{ProvideCredentials as _, SharedCredentialsProvider};
use object_store::aws::{AmazonS3Builder, AwsCredential};
use object_store::{ClientOptions, CredentialProvider, ObjectStore, RetryConfig};
use tokio::sync::Mutex;

use super::error::with_causes;
use super::timeouts::{ATTEMPT_TIMEOUT, CONNECT_TIMEOUT};

/// Credentials are renewed this long before they end, so that none ends during a request.
const EARLY: Duration = Duration::from_secs(60);
/// S3's throttling ends within seconds.
const RETRIES: RetryConfig = RetryConfig {
    max_retries: 6,
    retry_timeout: Duration::from_secs(60),
    backoff: object_store::BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(15),
        base: 2.0,
    },
};

/// Selects the TLS implementation, once per process.
fn choose_tls() {
    static CHOSEN: Once = Once::new();
    CHOSEN.call_once(|| {
        // An error means that one is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

pub(super) fn bucket(
    config: &aws_config::SdkConfig,
    region: &str,
    endpoint_url: Option<&str>,
    bucket: &str,
) -> anyhow::Result<Arc<dyn ObjectStore>> {
    choose_tls();
    let endpoint = endpoint_url
        .map(ToOwned::to_owned)
        .or_else(|| std::env::var("AWS_ENDPOINT_URL_S3").ok())
        .or_else(|| config.endpoint_url().map(ToOwned::to_owned));
    let plain = endpoint
        .as_ref()
        .is_some_and(|url| url.starts_with("http://"));
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(region)
        .with_retry(RETRIES)
        .with_client_options(
            ClientOptions::new()
                .with_timeout(ATTEMPT_TIMEOUT)
                .with_connect_timeout(CONNECT_TIMEOUT)
                .with_http1_only()
                .with_allow_http(plain)
                .with_no_system_certificates(plain),
        );
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(chain) = config.credentials_provider() {
        builder = builder.with_credentials(Arc::new(FromSdk {
            chain,
            last: Mutex::new(None),
        }));
    }
    Ok(Arc::new(builder.build()?))
}

/// The SDK's credentials for a client that has a chain of its own, which supports neither profiles nor SSO.
struct FromSdk {
    chain: SharedCredentialsProvider,
    last: Mutex<Option<(Arc<AwsCredential>, Option<SystemTime>)>>,
}

impl fmt::Debug for FromSdk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FromSdk")
    }
}

#[async_trait]
impl CredentialProvider for FromSdk {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut last = self.last.lock().await;
        if let Some((credential, until)) = &*last
            && until.is_none_or(|until| SystemTime::now() + EARLY < until)
        {
            return Ok(Arc::clone(credential));
        }
        let found = self.chain.provide_credentials().await.map_err(|error| {
            object_store::Error::Generic {
                store: "S3",
                source: format!("no AWS credentials: {}", with_causes(&error)).into(),
            }
        })?;
        let credential = Arc::new(AwsCredential {
            key_id: found.access_key_id().to_owned(),
            secret_key: found.secret_access_key().to_owned(),
            token: found.session_token().map(ToOwned::to_owned),
        });
        *last = Some((Arc::clone(&credential), found.expiry()));
        Ok(credential)
    }
}
