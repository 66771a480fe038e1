//! HTTP connections to AWS: one client for http and one for https, shared by all calls.
//!
//! Owns their limits. Each is created at its first call: https needs the system's certificates, which cost
//! time and memory, and may be missing on an instance that uses plain http in a rehearsal.

use std::sync::{Arc, Once, OnceLock};
use std::time::Duration;

use anyhow::Context;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use reqwest::{Client, ClientBuilder, StatusCode};
use tokio::time::Instant;

use super::Backoff;

/// Time limit for one attempt; the caller's own limit leaves time for a retry.
const TRY_TIMEOUT: Duration = Duration::from_secs(4);
/// AWS endpoints are close; a connection that takes longer will not succeed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Idle connections to keep: as many as orders may be in progress, so that none is closed and reopened under
/// load.
const IDLE_CONNECTIONS: usize = 512;
/// S3 closes an idle connection after about 20 s; a request on a connection that is being closed would have
/// to be retried.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Selects the TLS implementation, once per process.
fn choose_tls() {
    static CHOSEN: Once = Once::new();
    CHOSEN.call_once(|| {
        // An error means that one is installed already, which is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// A client for `url`. Reads the system's certificates only for https.
///
/// # Errors
/// If `url` needs certificates and the system has none.
pub fn client(url: &str, timeout: Duration) -> anyhow::Result<Client> {
    choose_tls();
    let mut builder = ClientBuilder::new()
        .timeout(timeout)
        .connect_timeout(CONNECT_TIMEOUT.min(timeout))
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .http1_only()
        .redirect(reqwest::redirect::Policy::none());
    if url.starts_with("http://") {
        builder = builder.tls_certs_only([]);
    }
    builder.build().with_context(|| {
        format!("prepare a client for {url}\nhint: install the package ca-certificates, which https needs")
    })
}

/// Request extension: until when to retry the request while the service is too busy. For requests that can be
/// repeated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetryUntil(pub(crate) Instant);

/// Whether a status means that the service may accept the same request later (S3: `SlowDown` is a 503,
/// `InternalError` a 500).
fn is_busy(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// The clients, each created at first use. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Wire {
    plain: Arc<OnceLock<Client>>,
    encrypted: Arc<OnceLock<Client>>,
}

impl Wire {
    /// The client for `url`.
    pub(super) fn client(&self, url: &str) -> anyhow::Result<&Client> {
        let made = if url.starts_with("http://") {
            &self.plain
        } else {
            &self.encrypted
        };
        if let Some(client) = made.get() {
            return Ok(client);
        }
        let client = client(url, TRY_TIMEOUT)?;
        Ok(made.get_or_init(|| client))
    }
}

// Lets `object_store` use the same connections for S3 and credentials as every other call.
impl HttpConnector for Wire {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait::async_trait]
impl HttpService for Wire {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let plain = request.uri().scheme_str() == Some("http");
        let client = self
            .client(if plain { "http://" } else { "https://" })
            .map_err(|error| HttpError::new_boxed(HttpErrorKind::Unknown, error.into()))?;
        let Some(RetryUntil(deadline)) = request.extensions().get().copied() else {
            return HttpService::call(client, request).await;
        };
        let mut backoff = Backoff::until(deadline);
        loop {
            let answer = HttpService::call(client, request.clone()).await?;
            if !is_busy(answer.status()) || !backoff.pause().await {
                return Ok(answer);
            }
        }
    }
}
