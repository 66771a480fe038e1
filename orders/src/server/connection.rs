//! Serves one connection: idle, active, idle again, until it is closed.
//!
//! Owns the time limits for a client. While no request is in progress a connection is one small task. What
//! HTTP needs (buffers, parser, an active slot) is allocated with the first byte of a request and released
//! when the connection is idle again.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};

use super::tracking::{Activity, Phase, TrackedBody, TrackedStream};
use super::{Bounds, Shared, StopPhase};
use crate::caller::Peer;

/// Time that a new connection has for its first request after the stop began: the request may
/// already be on its way.
const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(1);
/// How long a client may take to read the last response and close its side. If the server closed at once with
/// unread input, TCP would reset the connection and the response could be lost.
const LINGER: Duration = Duration::from_secs(2);
/// Bytes read at once while lingering or idle.
const CHUNK: usize = 1024;

/// Sent to connections that find no slot. Same form as the service's own errors.
pub(super) const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/problem+json\r\nretry-after: 2\r\ncontent-length: 73\r\n\
    connection: close\r\n\r\n\
    {\"status\":503,\"title\":\"Service Unavailable\",\"detail\":\"too many at once\"}\n";
/// Sent if a request's head is not complete in time.
pub(super) const SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\n\
    content-type: application/problem+json\r\ncontent-length: 73\r\n\
    connection: close\r\n\r\n\
    {\"status\":408,\"title\":\"Request Timeout\",\"detail\":\"the head is too slow\"}\n";

/// How serving HTTP on a connection ended.
enum End<S> {
    /// It is idle; the bytes of a next request that were already read.
    Parked(S, Bytes),
    /// The connection is finished.
    Over,
}

/// Serves one connection, holding its slot meanwhile.
pub(super) async fn serve_connection<S>(
    mut stream: S,
    peer: Option<Peer>,
    shared: Arc<Shared>,
    _slot: OwnedSemaphorePermit,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _counted = Counted::new(&shared.open);
    let mut first = Bytes::new();
    let mut grace_until = Instant::now() + FIRST_REQUEST_GRACE;
    loop {
        if first.is_empty() {
            let stop = async {
                reached(&shared, StopPhase::Stopping).await;
                tokio::time::sleep_until(grace_until).await;
            };
            tokio::select! {
                // Received bytes are handled first, whatever else happened.
                biased;
                read = read_some(&mut stream) => match read {
                    Some(bytes) => first = bytes,
                    None => return,
                },
                () = tokio::time::sleep(shared.bounds.idle) => return,
                () = shared.evict_idle.notified() => return,
                () = stop => return,
            }
        }
        let Some(active_slot) = shared.active_slot().await else {
            shared.count_rejected();
            reject(stream, BUSY).await;
            return;
        };
        // Boxed, so that an idle connection's task does not have the size of an active one.
        match Box::pin(serve_http(stream, peer, first, &shared, active_slot)).await {
            End::Parked(back, rest) => (stream, first) = (back, rest),
            End::Over => return,
        }
        grace_until = Instant::now();
    }
}

/// Counts an open connection until dropped.
struct Counted(Gauge);

impl Counted {
    fn new(open: &Gauge) -> Self {
        open.inc();
        Self(open.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Writes `response` and closes in a way that lets the client read it.
pub(super) async fn reject<S>(mut stream: S, response: &'static [u8])
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let _ = tokio::time::timeout(LINGER, async {
        stream.write_all(response).await?;
        stream.shutdown().await
    })
    .await;
    linger(stream).await;
}

/// Reads and discards input until the client closes its side.
async fn linger<S: AsyncRead + Unpin>(mut stream: S) {
    let rest = async { while read_some(&mut stream).await.is_some() {} };
    let _ = tokio::time::timeout(LINGER, rest).await;
}

async fn reached(shared: &Shared, wanted: StopPhase) {
    // An error means that the sender was dropped, which also means stop.
    let _ = shared
        .phase
        .clone()
        .wait_for(|phase| *phase >= wanted)
        .await;
}

/// The next bytes; `None` at the end. Holds no buffer while waiting.
async fn read_some<S: AsyncRead + Unpin>(stream: &mut S) -> Option<Bytes> {
    poll_fn(|context| {
        let mut chunk = [0; CHUNK];
        let mut chunk = ReadBuf::new(&mut chunk);
        match Pin::new(&mut *stream).poll_read(context, &mut chunk) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) if !chunk.filled().is_empty() => {
                Poll::Ready(Some(Bytes::copy_from_slice(chunk.filled())))
            }
            Poll::Ready(_) => Poll::Ready(None),
        }
    })
    .await
}

/// Why serving HTTP on a connection ended.
enum Outcome {
    /// HTTP ended the connection.
    Ended,
    /// No request was in progress for a while.
    Park,
    /// The head was not complete in time.
    Slow,
    /// Another connection needs the slot.
    Evicted,
}

/// Serves HTTP, starting with the bytes in `first`, while requests come.
async fn serve_http<S>(
    stream: S,
    peer: Option<Peer>,
    first: Bytes,
    shared: &Shared,
    active_slot: OwnedSemaphorePermit,
) -> End<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let bounds = &shared.bounds;
    let activity = Arc::new(Activity::begin(shared.begun));
    let stream = TrackedStream::new(stream, first, Arc::clone(&activity), bounds.stall);
    let service = tracked_service(shared, peer, &activity);
    let mut connection = http1::Builder::new()
        // The timer below replaces HTTP's own, which creates and drops a timer for every request.
        .header_read_timeout(None)
        .max_buf_size(bounds.head)
        // HTTP announces in the response when it is the last one.
        .keep_alive(*shared.phase.borrow() == StopPhase::Open)
        // A client may close its side after sending and still wait for the response (RFC 9112 §9.6).
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);

    let mut evicted = pin!(shared.evict_slow.notified());
    let mut stop = pin!(reached(shared, StopPhase::LameDuck));
    let mut timer = pin!(tokio::time::sleep(bounds.park));
    let mut ending = false;
    let outcome = poll_fn(|context| {
        loop {
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(context) {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                }
                return Poll::Ready(Outcome::Ended);
            }
            if ending {
                break;
            }
            let evict = evicted.as_mut().poll(context).is_ready();
            if !evict && stop.as_mut().poll(context).is_pending() {
                break;
            }
            ending = true;
            match activity.phase() {
                Phase::Idle => return Poll::Ready(Outcome::Park),
                Phase::Head if evict => return Poll::Ready(Outcome::Evicted),
                // The request in progress is the last one.
                _ => Pin::new(&mut connection).graceful_shutdown(),
            }
        }
        poll_time_limits(timer.as_mut(), context, &activity, bounds)
    })
    .await;

    let parts = connection.into_parts();
    let stream = parts.io.into_inner().into_stream();
    drop(active_slot);
    match outcome {
        Outcome::Park => return End::Parked(stream, parts.read_buf),
        Outcome::Ended => linger(stream).await,
        Outcome::Slow => reject(stream, SLOW).await,
        Outcome::Evicted => {
            shared.count_rejected();
            reject(stream, BUSY).await;
        }
    }
    End::Over
}

/// The router, as a service of one connection: requests have its peer, and `activity` records them.
fn tracked_service(
    shared: &Shared,
    peer: Option<Peer>,
    activity: &Arc<Activity>,
) -> impl Service<Request<Incoming>, Response = Response<TrackedBody>, Error = Infallible, Future: Send>
{
    let router = TowerToHyperService::new(shared.router.clone());
    let activity = Arc::clone(activity);
    service_fn(move |mut request: Request<Incoming>| {
        activity.request_started();
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let answer = router.call(request);
        let activity = Arc::clone(&activity);
        async move {
            let answer = answer.await?;
            Ok(answer.map(|body| TrackedBody::new(body, activity)))
        }
    })
}

/// Ends a connection that is idle, or whose request's head is not complete in time.
///
/// One timer, checked periodically instead of being reset for every request: requests being served have no
/// limit, and the other limits are exceeded by at most `park`.
fn poll_time_limits(
    mut timer: Pin<&mut Sleep>,
    context: &mut Context<'_>,
    activity: &Activity,
    bounds: &Bounds,
) -> Poll<Outcome> {
    while timer.as_mut().poll(context).is_ready() {
        let now = Instant::now();
        let due = match activity.phase() {
            Phase::Head => activity.since() + bounds.head_time,
            Phase::Idle => activity.since() + bounds.park,
            Phase::Serving | Phase::Answered => now + bounds.park,
        };
        if due > now {
            timer.as_mut().reset(due);
            continue;
        }
        return Poll::Ready(match activity.phase() {
            Phase::Head => Outcome::Slow,
            _ => Outcome::Park,
        });
    }
    Poll::Pending
}
