//! `GET /metrics` on loopback. It only reads counters; a scraper that connects too often is refused, and never delays
//! the daemon.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::Meter;
use super::exposition::Exposition;

/// One scrape, from its first byte to its last.
const LONGEST_SCRAPE: Duration = Duration::from_secs(5);

/// Scrapes at a time; more wait to be accepted.
const MOST_SCRAPES: usize = 4;

/// A request of ours is a line and a few headers.
const LONGEST_REQUEST: usize = 8192;

/// Before an address that is taken is tried again: while a trial takes over, the agent before it may
/// still hold it.
const BIND_PAUSE: Duration = Duration::from_secs(10);

/// Serves forever. A port that is in use is retried.
pub(crate) async fn serve(address: SocketAddr, meter: Meter) {
    let mut logged = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if !logged => {
                tracing::warn!("no metrics yet: cannot listen on {address}: {error}");
                logged = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(BIND_PAUSE).await;
    };
    let address = listener.local_addr().unwrap_or(address);
    tracing::info!("metrics on http://{address}/metrics");
    answer(listener, meter).await;
}

/// Answers connections.
pub(super) async fn answer(listener: TcpListener, meter: Meter) {
    let mut scrapes = JoinSet::new();
    loop {
        if scrapes.len() >= MOST_SCRAPES {
            scrapes.join_next().await;
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    scrapes.spawn(tokio::time::timeout(LONGEST_SCRAPE, scrape(stream, meter.clone())));
                }
                // For example without free descriptors: without a pause this would be a busy loop.
                Err(error) => {
                    tracing::debug!("cannot accept a scrape: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            },
            Some(_) = scrapes.join_next() => {}
        }
    }
}

async fn scrape(stream: TcpStream, meter: Meter) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = respond(&request, &meter);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(LONGEST_REQUEST)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!("a scrape was interrupted: {error}");
    }
}

fn respond(request: &Request<Incoming>, meter: &Meter) -> Response<Full<Bytes>> {
    let (status, header, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => (
            StatusCode::OK,
            (CONTENT_TYPE, Exposition::TYPE),
            meter.exposition(Timestamp::now()),
        ),
        (_, "/metrics") => (
            StatusCode::METHOD_NOT_ALLOWED,
            (ALLOW, "GET, HEAD"),
            String::new(),
        ),
        _ => (
            StatusCode::NOT_FOUND,
            (CONTENT_TYPE, "text/plain"),
            "metrics are at /metrics\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let (name, value) = header;
    response
        .headers_mut()
        .insert(name, hyper::header::HeaderValue::from_static(value));
    response
}
