//! The connections to AWS: one client for each of http and https, shared by all who call.
//!
//! Owns their limits and their making, which is put off until the first call: what https needs (the
//! system's certificates) costs time and memory, and a box that speaks plain http to a rehearsal may
//! not have it.

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

/// A store or metric call that takes longer has failed, and may be tried again within the patience
/// of who waits for it.
const TRY_TIMEOUT: Duration = Duration::from_secs(4);
/// Every AWS endpoint is near; a connection that takes longer will not come.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Connections kept for the next call: as many as orders may be under way at once, so that none is
/// closed in the rush and opened again.
const IDLE_CONNECTIONS: usize = 512;
/// S3 closes a silent connection after some 20 s; a call into one that is just being closed would
/// have to be tried again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Picks the TLS implementation, once a process.
fn choose_tls() {
    static CHOSEN: Once = Once::new();
    CHOSEN.call_once(|| {
        // An error means that one is installed already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// A client for `url`. The system's certificates are read only for https.
///
/// # Errors
/// When the system has no certificates and `url` needs them.
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
        format!("prepare a client for {url}; hint: https needs the package ca-certificates")
    })
}

/// In a request's extensions: until when a service that is too busy for it is asked again. For requests
/// that bear being made twice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience(pub(crate) Instant);

/// Whether a service says that it may take the same request later (S3: `SlowDown` is a 503,
/// `InternalError` a 500).
fn is_busy(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// The clients, each made when it is first needed. Clones are the same.
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

// So that `object_store`, for S3 and for credentials, uses the same connections as every other call.
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
        let Some(Patience(deadline)) = request.extensions().get().copied() else {
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
