//! One connection's life: silent, speaking, silent again, until somebody has had enough.
//!
//! Owns what a client may keep waiting and for how long. While nothing is under way a connection is
//! one small task; what HTTP needs (buffers, parser, a place among the speaking) it gets with the
//! first byte of a request, and gives back when it falls silent again.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::watched::{Life, Phase, Told, Watched};
use super::{House, Stage};
use crate::caller::Peer;

/// Who was just accepted when the service is told to stop gets this long to say what it wants: its
/// request may be here already.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a client may take to read the last answer and close its side. Closed at once, with
/// bytes of its own unread, the connection would be reset and the answer lost on the way.
const LINGER: Duration = Duration::from_secs(2);
/// Read at once while lingering or silent.
const PIECE: usize = 1024;

/// For those there is no room for. The same words as the service's own refusals.
pub(super) const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/problem+json\r\nretry-after: 2\r\ncontent-length: 73\r\n\
    connection: close\r\n\r\n\
    {\"status\":503,\"title\":\"Service Unavailable\",\"detail\":\"too many at once\"}\n";
/// For those whose request's head does not come to an end.
pub(super) const SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\n\
    content-type: application/problem+json\r\ncontent-length: 73\r\n\
    connection: close\r\n\r\n\
    {\"status\":408,\"title\":\"Request Timeout\",\"detail\":\"the head is too slow\"}\n";

/// How speaking ended.
enum End<S> {
    /// It fell silent; these bytes of a next request are here already.
    Parked(S, Bytes),
    /// It is over.
    Over,
}

/// Serves one connection, holding its `place` meanwhile.
pub(super) async fn attend<S>(
    mut stream: S,
    peer: Option<Peer>,
    house: Arc<House>,
    _place: OwnedSemaphorePermit,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _counted = Counted::new(&house.open);
    let mut first = Bytes::new();
    let mut last_words = Instant::now() + LAST_WORDS;
    loop {
        if first.is_empty() {
            let stop = async {
                reached(&house, Stage::Stopping).await;
                tokio::time::sleep_until(last_words).await;
            };
            tokio::select! {
                // Who has said something is heard, whatever else happened.
                biased;
                heard = listen(&mut stream) => match heard {
                    Some(bytes) => first = bytes,
                    None => return,
                },
                () = tokio::time::sleep(house.bounds.idle) => return,
                () = house.crowded.notified() => return,
                () = stop => return,
            }
        }
        let Some(voice) = house.voice().await else {
            house.sent_away();
            send_away(stream, BUSY).await;
            return;
        };
        // In a box of its own, so that a silent connection does not have the room of one that speaks.
        match Box::pin(speak(stream, peer, first, &house, voice)).await {
            End::Parked(back, rest) => (stream, first) = (back, rest),
            End::Over => return,
        }
        last_words = Instant::now();
    }
}

/// One of the open connections, until it is dropped.
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

/// Says `words` and closes, so that the client gets to read them.
pub(super) async fn send_away<S>(mut stream: S, words: &'static [u8])
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let _ = tokio::time::timeout(LINGER, async {
        stream.write_all(words).await?;
        stream.shutdown().await
    })
    .await;
    linger(stream).await;
}

/// Reads, and throws away, what a client still sends, until it has closed its side.
async fn linger<S: AsyncRead + Unpin>(mut stream: S) {
    let rest = async { while listen(&mut stream).await.is_some() {} };
    let _ = tokio::time::timeout(LINGER, rest).await;
}

async fn reached(house: &House, wanted: Stage) {
    // An error means that the sender is gone, which means stop as well.
    let _ = house.stage.clone().wait_for(|stage| *stage >= wanted).await;
}

/// The next bytes; `None` at the end. Holds no buffer while there are none.
async fn listen<S: AsyncRead + Unpin>(stream: &mut S) -> Option<Bytes> {
    poll_fn(|context| {
        let mut piece = [0; PIECE];
        let mut piece = ReadBuf::new(&mut piece);
        match Pin::new(&mut *stream).poll_read(context, &mut piece) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) if !piece.filled().is_empty() => {
                Poll::Ready(Some(Bytes::copy_from_slice(piece.filled())))
            }
            Poll::Ready(_) => Poll::Ready(None),
        }
    })
    .await
}

/// Why a connection stops to speak.
enum Verdict {
    /// HTTP is at its end.
    Ended,
    /// Nothing was under way for a while.
    Park,
    /// The head takes too long.
    Slow,
    /// Others need its place.
    Hurried,
}

/// Speaks HTTP, beginning with the bytes of `first`, as long as requests come.
async fn speak<S>(
    stream: S,
    peer: Option<Peer>,
    first: Bytes,
    house: &House,
    voice: OwnedSemaphorePermit,
) -> End<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let bounds = &house.bounds;
    let life = Arc::new(Life::begin(house.begun));
    let io = TokioIo::new(Watched::new(stream, first, Arc::clone(&life), bounds.stall));
    let router = TowerToHyperService::new(house.router.clone());
    let service = service_fn(|mut request: Request<Incoming>| {
        life.serve();
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let answer = router.call(request);
        let life = Arc::clone(&life);
        async move {
            let answer = answer.await?;
            Ok::<_, Infallible>(answer.map(|body| Told::new(body, life)))
        }
    });
    let mut connection = http1::Builder::new()
        // The watch below is ours: HTTP's own would make and drop a timer for every request.
        .header_read_timeout(None)
        .max_buf_size(bounds.head)
        // The answer says so when it is the last one.
        .keep_alive(*house.stage.borrow() == Stage::Open)
        // A client may close its side once it has sent all and still wait for the answer (RFC 9112 §9.6).
        .half_close(true)
        .serve_connection(io, service);

    let mut hurried = pin!(house.hurry.notified());
    let mut stop = pin!(reached(house, Stage::LameDuck));
    let mut watch = pin!(tokio::time::sleep(bounds.park));
    let mut leaving = false;
    let verdict = poll_fn(|context| {
        loop {
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(context) {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                }
                return Poll::Ready(Verdict::Ended);
            }
            if leaving {
                break;
            }
            let hurry = hurried.as_mut().poll(context).is_ready();
            if !hurry && stop.as_mut().poll(context).is_pending() {
                break;
            }
            leaving = true;
            match life.phase() {
                Phase::Idle => return Poll::Ready(Verdict::Park),
                Phase::Head if hurry => return Poll::Ready(Verdict::Hurried),
                // The request under way is the last one.
                _ => Pin::new(&mut connection).graceful_shutdown(),
            }
        }
        // Looked at now and then, not set anew for every request: who is being served is not
        // watched, and the others are off by no more than `park`.
        while watch.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            let due = match life.phase() {
                Phase::Head => life.since() + bounds.head_time,
                Phase::Idle => life.since() + bounds.park,
                Phase::Serving | Phase::Answered => now + bounds.park,
            };
            if due > now {
                watch.as_mut().reset(due);
                continue;
            }
            return Poll::Ready(match life.phase() {
                Phase::Head => Verdict::Slow,
                _ => Verdict::Park,
            });
        }
        Poll::Pending
    })
    .await;

    let parts = connection.into_parts();
    let stream = parts.io.into_inner().into_stream();
    drop(voice);
    match verdict {
        Verdict::Park => return End::Parked(stream, parts.read_buf),
        Verdict::Ended => linger(stream).await,
        Verdict::Slow => send_away(stream, SLOW).await,
        Verdict::Hurried => {
            house.sent_away();
            send_away(stream, BUSY).await;
        }
    }
    End::Over
}
