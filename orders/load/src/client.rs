//! The HTTP/1.1 client of the load generator: a limited number of reused connections.
//!
//! Contains only what an order needs: it sends thousands a second from the cores that the service under test
//! runs on, and must leave it most of their time. Must not know what an order or a response means.

use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use reqwest::Url;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

/// A connection unused for longer is closed: load balancers close theirs after 60 s, and an order sent into a
/// closing connection is lost.
const IDLE: Duration = Duration::from_secs(50);
/// A response to an order is short; anything longer is not from the service.
const LONGEST_ANSWER: usize = 64 * 1024;

const HINT: &str = "hint: write http://127.0.0.1:8080, or https://";

static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
static REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// A response of any status.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    /// The seconds in `Retry-After`.
    pub(crate) retry_after: Option<Duration>,
    /// Whether the service marked it as a repeated response.
    pub(crate) replayed: bool,
    pub(crate) body: Bytes,
}

/// Why there is no response.
#[derive(Debug)]
pub(crate) enum RequestError {
    /// No response within the time limit.
    TimedOut,
    /// All connections were busy until the time limit; the order was not sent.
    Busy,
    /// The connection could not be opened.
    Connect(String),
    /// The connection broke before the response was complete.
    Request(String),
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("timed out"),
            Self::Busy => f.write_str("every connection was busy; not sent"),
            Self::Connect(cause) => write!(f, "connect: {cause}"),
            Self::Request(cause) => write!(f, "request: {cause}"),
        }
    }
}

/// The last cause, which has the reason without address and port, so that equal reasons are counted together.
fn cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The service's base URL, from a URL of it or of its `/order`.
pub(crate) fn base(url: &str) -> anyhow::Result<&str> {
    if !url.contains("://") {
        bail!("the URL {url:?} has no scheme\n{HINT}");
    }
    let url = url.trim_end_matches('/');
    Ok(url.strip_suffix("/order").unwrap_or(url))
}

/// Sends orders to one service.
pub(crate) struct Client {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    authority: HeaderValue,
    path: String,
    timeout: Duration,
    /// Idle connections, the most recently used last; surplus ones age and are closed.
    idle: Mutex<Vec<(SendRequest<Full<Bytes>>, Instant)>>,
    permits: Semaphore,
}

impl Client {
    /// A client that posts to `<url>/order` over at most `connections` connections, with a time limit for
    /// each response.
    pub(crate) fn new(url: &str, connections: usize, timeout: Duration) -> anyhow::Result<Self> {
        let url: Url = format!("{}/order", base(url)?)
            .parse()
            .with_context(|| format!("the URL {url:?} is invalid\n{HINT}"))?;
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            bail!("the URL {url} has no host\n{HINT}");
        };
        // An IPv6 address has brackets only in a URL.
        let host = host.trim_matches(['[', ']']).to_owned();
        let tls = match url.scheme() {
            "http" => None,
            "https" => Some((tls()?, ServerName::try_from(host.clone())?)),
            other => bail!("the URL has the scheme {other}\n{HINT}"),
        };
        let authority = match url.port() {
            None => url.host_str().unwrap_or_default().to_owned(),
            Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
        };
        Ok(Self {
            authority: HeaderValue::from_str(&authority)?,
            path: url.path().to_owned(),
            host,
            port,
            tls,
            timeout,
            idle: Mutex::default(),
            permits: Semaphore::new(connections),
        })
    }

    /// Opens `count` connections in advance. Failures are ignored here: the orders will report them.
    pub(crate) async fn warm_up(&self, count: usize) {
        let made = join_all((0..count).map(|_| timeout(self.timeout, self.connect()))).await;
        for sender in made.into_iter().flatten().flatten() {
            self.put_back(sender);
        }
    }

    /// Sends one order and returns the response; sets `sent` to when a connection was available.
    pub(crate) async fn post(
        &self,
        body: Bytes,
        key: Option<&str>,
        sent: &mut Instant,
    ) -> Result<Reply, RequestError> {
        let Ok(permit) = timeout(self.timeout, self.permits.acquire()).await else {
            return Err(RequestError::Busy);
        };
        *sent = Instant::now();
        let reply = timeout(self.timeout, self.exchange(body, key)).await;
        drop(permit);
        reply.unwrap_or(Err(RequestError::TimedOut))
    }

    async fn exchange(&self, body: Bytes, key: Option<&str>) -> Result<Reply, RequestError> {
        let mut request = self.request(body, key)?;
        while let Some(mut sender) = self.take() {
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => return self.read(sender, response).await,
                // Closed before anything was sent: try the next connection.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(RequestError::Request(cause(error.error()))),
                },
            }
        }
        let mut sender = self.connect().await?;
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| RequestError::Request(cause(&error)))?;
        self.read(sender, response).await
    }

    fn request(
        &self,
        body: Bytes,
        key: Option<&str>,
    ) -> Result<Request<Full<Bytes>>, RequestError> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&self.path)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json");
        if let Some(key) = key {
            request = request.header(&IDEMPOTENCY_KEY, key);
        }
        request
            .body(Full::new(body))
            .map_err(|error| RequestError::Request(error.to_string()))
    }

    async fn read(
        &self,
        sender: SendRequest<Full<Bytes>>,
        response: Response<Incoming>,
    ) -> Result<Reply, RequestError> {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LONGEST_ANSWER).collect().await;
        let body = body.map_err(|error| RequestError::Request(cause(&*error)))?;
        self.put_back(sender);
        Ok(Reply {
            status: head.status,
            retry_after: retry_after(&head.headers),
            replayed: head.headers.contains_key(&REPLAYED),
            body: body.to_bytes(),
        })
    }

    fn take(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((sender, used)) = idle.pop() {
            if used.elapsed() > IDLE {
                // The ones below are older.
                idle.clear();
            } else if !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    fn put_back(&self, sender: SendRequest<Full<Bytes>>) {
        if !sender.is_closed() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push((sender, Instant::now()));
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, RequestError> {
        let refused = |error: std::io::Error| RequestError::Connect(cause(&error));
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = stream.map_err(refused)?;
        // An order is one small write; it must not wait for a second one (Nagle).
        stream.set_nodelay(true).map_err(refused)?;
        match &self.tls {
            None => handshake(stream).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await;
                handshake(stream.map_err(refused)?).await
            }
        }
    }
}

async fn handshake<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, RequestError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| RequestError::Connect(cause(&error)))?;
    // Errors of the connection are reported to its request.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// TLS with the system's certificates.
fn tls() -> anyhow::Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    let (added, _) =
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        bail!("the system has no trusted certificates\nhint: install the package ca-certificates");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}
