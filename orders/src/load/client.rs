//! The customers' side of HTTP/1.1: a bounded set of connections, kept and used again.
//!
//! Nothing but what one order needs: thousands a second are sent from the cores that the service
//! under test runs on, and what the generator takes, the service lacks. Must not know what an order
//! or an answer means.

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

/// A connection unused for longer is not used again: load balancers close theirs after 60 s, and an
/// order sent into a closing connection is lost without anybody's fault.
const IDLE: Duration = Duration::from_secs(50);
/// An answer to an order is a line; whoever sends more is not the service.
const LONGEST_ANSWER: usize = 64 * 1024;

const HINT: &str = "hint: write http://127.0.0.1:8080, or https://";

static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
static REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// An answer, whatever its status.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    /// What `Retry-After` says, when in seconds.
    pub(super) retry_after: Option<Duration>,
    /// Whether it says that it was given before.
    pub(super) replayed: bool,
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// None within the time allowed.
    TimedOut,
    /// All connections were busy for as long as an order may take; it was not sent.
    Busy,
    /// The connection could not be made.
    Connect(String),
    /// The connection broke before the answer was whole.
    Request(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("timed out"),
            Self::Busy => f.write_str("every connection was busy; not sent"),
            Self::Connect(cause) => write!(f, "connect: {cause}"),
            Self::Request(cause) => write!(f, "request: {cause}"),
        }
    }
}

/// The last cause, which names the reason, without the address and port before it, which would
/// make every reason a different one.
fn cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// What comes before the service's paths in a URL of it, or of its `/order`.
pub(super) fn base(url: &str) -> anyhow::Result<&str> {
    if !url.contains("://") {
        bail!("the URL {url:?} has no scheme; {HINT}");
    }
    let url = url.trim_end_matches('/');
    Ok(url.strip_suffix("/order").unwrap_or(url))
}

/// Where orders go.
pub(super) struct Client {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    authority: HeaderValue,
    path: String,
    timeout: Duration,
    /// Connections not in use, the one used last on top: what is too many for the load gets old.
    idle: Mutex<Vec<(SendRequest<Full<Bytes>>, Instant)>>,
    places: Semaphore,
}

impl Client {
    /// A client that posts to `<url>/order` over at most `connections` connections, waiting `timeout`
    /// for each answer.
    pub(super) fn new(url: &str, connections: usize, timeout: Duration) -> anyhow::Result<Self> {
        let url: Url = format!("{}/order", base(url)?)
            .parse()
            .with_context(|| format!("the URL {url:?} cannot be read; {HINT}"))?;
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            bail!("the URL {url} has no host; {HINT}");
        };
        // An address of version 6 stands in brackets in a URL, and nowhere else.
        let host = host.trim_matches(['[', ']']).to_owned();
        let tls = match url.scheme() {
            "http" => None,
            "https" => Some((tls()?, ServerName::try_from(host.clone())?)),
            other => bail!("the URL has the scheme {other}; {HINT}"),
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
            places: Semaphore::new(connections),
        })
    }

    /// Makes `count` connections, so that the first orders do not wait for them. One that fails is not
    /// said here: the orders will tell.
    pub(super) async fn warm_up(&self, count: usize) {
        let made = join_all((0..count).map(|_| timeout(self.timeout, self.connect()))).await;
        for sender in made.into_iter().flatten().flatten() {
            self.put_back(sender);
        }
    }

    /// Sends one order and gives the answer; `sent` is when a connection was there to send it on.
    pub(super) async fn post(
        &self,
        body: Bytes,
        key: Option<&str>,
        sent: &mut Instant,
    ) -> Result<Reply, Trouble> {
        let Ok(place) = timeout(self.timeout, self.places.acquire()).await else {
            return Err(Trouble::Busy);
        };
        *sent = Instant::now();
        let reply = timeout(self.timeout, self.exchange(body, key)).await;
        drop(place);
        reply.unwrap_or(Err(Trouble::TimedOut))
    }

    async fn exchange(&self, body: Bytes, key: Option<&str>) -> Result<Reply, Trouble> {
        let mut request = self.request(body, key)?;
        while let Some(mut sender) = self.take() {
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => return self.read(sender, response).await,
                // Closed before anything was sent on it: the next one.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Trouble::Request(cause(error.error()))),
                },
            }
        }
        let mut sender = self.connect().await?;
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| Trouble::Request(cause(&error)))?;
        self.read(sender, response).await
    }

    fn request(&self, body: Bytes, key: Option<&str>) -> Result<Request<Full<Bytes>>, Trouble> {
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
            .map_err(|error| Trouble::Request(error.to_string()))
    }

    async fn read(
        &self,
        sender: SendRequest<Full<Bytes>>,
        response: Response<Incoming>,
    ) -> Result<Reply, Trouble> {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LONGEST_ANSWER).collect().await;
        let body = body.map_err(|error| Trouble::Request(cause(&*error)))?;
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
                // Those below are older still.
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

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Trouble> {
        let refused = |error: std::io::Error| Trouble::Connect(cause(&error));
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = stream.map_err(refused)?;
        // An order is one small write; it must not wait for a second one.
        stream.set_nodelay(true).map_err(refused)?;
        match &self.tls {
            None => shake_hands(stream).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await;
                shake_hands(stream.map_err(refused)?).await
            }
        }
    }
}

async fn shake_hands<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, Trouble>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Trouble::Connect(cause(&error)))?;
    // What breaks the connection is told to the request on it.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// TLS that trusts whom the system trusts.
fn tls() -> anyhow::Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    let (added, _) =
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        bail!("no certificates are trusted here; hint: https needs the package ca-certificates");
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
