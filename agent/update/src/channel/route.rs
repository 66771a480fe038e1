//! Connections to the channel's server, directly or through a proxy.
//!
//! `https://` goes through a tunnel (CONNECT), so that the proxy sees a host name and TLS; `http://` is forwarded by it.
//! It decides nothing: [`crate::proxy`] does.

use std::error::Error;
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::Uri;
use hyper::header::HeaderValue;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::proxy::Proxy;

type BoxError = Box<dyn Error + Send + Sync>;

/// The connector below TLS.
#[derive(Clone, Debug)]
pub(super) struct Route {
    matcher: Arc<Matcher>,
    direct: HttpConnector,
}

impl Route {
    pub(super) fn new(proxy: &Proxy) -> Self {
        let mut direct = HttpConnector::new();
        // TLS is above this connector.
        direct.enforce_http(false);
        Self {
            matcher: Arc::new(proxy.matcher()),
            direct,
        }
    }

    /// The credentials to send with a request that a proxy forwards. A tunnel has them in its CONNECT only.
    pub(super) fn authorization(&self, to: &Uri) -> Option<HeaderValue> {
        let proxy = self.matcher.intercept(to)?;
        let forwarded = to.scheme_str() == Some("http");
        proxy.basic_auth().filter(|_| forwarded).cloned()
    }
}

impl Service<Uri> for Route {
    type Response = Hop;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Hop, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.direct.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let mut direct = self.direct.clone();
        let proxy = self.matcher.intercept(&to);
        Box::pin(async move {
            let Some(proxy) = proxy else {
                return Ok(Hop::new(direct.call(to).await?, false));
            };
            let at = proxy.uri().clone();
            let through = |error: BoxError| ThroughProxy {
                at: at.clone(),
                error,
            };
            if to.scheme_str() == Some("http") {
                let hop = direct.call(at.clone()).await;
                return Ok(Hop::new(hop.map_err(|error| through(error.into()))?, true));
            }
            let mut tunnel = Tunnel::new(at.clone(), direct);
            if let Some(credentials) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(credentials.clone());
            }
            let hop = tunnel.call(to).await;
            Ok(Hop::new(hop.map_err(|error| through(error.into()))?, false))
        })
    }
}

/// What failed at a proxy, with the proxy's name.
#[derive(Debug)]
struct ThroughProxy {
    /// Without credentials.
    at: Uri,
    error: BoxError,
}

impl fmt::Display for ThroughProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.at.authority().map_or("", |at| at.as_str());
        write!(f, "proxy {authority}")
    }
}

impl Error for ThroughProxy {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.error.as_ref())
    }
}

/// A connection to the server, to a tunnel's end, or to a proxy that forwards requests.
pub(super) struct Hop {
    stream: TokioIo<TcpStream>,
    /// A forwarding proxy is sent the whole URL.
    forwards: bool,
}

impl Hop {
    fn new(stream: TokioIo<TcpStream>, forwards: bool) -> Self {
        Self { stream, forwards }
    }
}

impl Connection for Hop {
    fn connected(&self) -> Connected {
        self.stream.connected().proxy(self.forwards)
    }
}

impl Read for Hop {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl Write for Hop {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
}
