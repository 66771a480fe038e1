//! Observes a connection from outside of HTTP: which phase it is in, and since when.
//!
//! Does not decide anything. Phases are derived from three events: bytes were read, a request was passed to
//! the service, a response was written completely.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use hyper::body::{Bytes, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A connection's phase between two requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// No request is in progress, and every response was passed to the kernel.
    Idle,
    /// A request has begun; its head is incomplete.
    Head,
    /// The service is handling a request, or its response is being written.
    Serving,
    /// The response's last byte was passed to HTTP, but perhaps not yet to the kernel.
    Answered,
}

/// A connection's phase and when it began. One task writes and reads it; it is shared only because the
/// observed objects are separate.
#[derive(Debug)]
pub(super) struct Activity {
    epoch: Instant,
    phase: AtomicU8,
    since: AtomicU64,
}

impl Activity {
    /// A connection on which the first bytes of a request just arrived.
    pub(super) fn begin(epoch: Instant) -> Self {
        let activity = Self {
            epoch,
            phase: AtomicU8::new(Phase::Head as u8),
            since: AtomicU64::new(0),
        };
        activity.enter(Phase::Head);
        activity
    }

    fn enter(&self, phase: Phase) {
        let nanos = self.epoch.elapsed().as_nanos();
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        self.since.store(nanos, Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// The current phase.
    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Idle,
            1 => Phase::Head,
            2 => Phase::Serving,
            _ => Phase::Answered,
        }
    }

    /// When the current phase began, if it waits for the client.
    pub(super) fn since(&self) -> Instant {
        self.epoch + Duration::from_nanos(self.since.load(Ordering::Relaxed))
    }

    /// Records that a request was passed to the service.
    pub(super) fn request_started(&self) {
        self.phase.store(Phase::Serving as u8, Ordering::Relaxed);
    }

    fn bytes_read(&self) {
        if self.phase() == Phase::Idle {
            self.enter(Phase::Head);
        }
    }

    fn body_written(&self) {
        if self.phase() == Phase::Serving {
            self.phase.store(Phase::Answered as u8, Ordering::Relaxed);
        }
    }

    fn flushed(&self) {
        if self.phase() == Phase::Answered {
            self.enter(Phase::Idle);
        }
    }
}

/// A response body that records when HTTP has consumed it.
#[derive(Debug)]
pub(super) struct TrackedBody {
    body: Body,
    activity: Arc<Activity>,
}

impl TrackedBody {
    pub(super) fn new(body: Body, activity: Arc<Activity>) -> Self {
        Self { body, activity }
    }
}

impl Drop for TrackedBody {
    fn drop(&mut self) {
        self.activity.body_written();
    }
}

impl hyper::body::Body for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that records its reads and writes. It starts with bytes that were read before, and fails if the
/// peer reads nothing for too long.
pub(super) struct TrackedStream<S> {
    stream: S,
    before: Bytes,
    activity: Arc<Activity>,
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> TrackedStream<S> {
    pub(super) fn new(stream: S, before: Bytes, activity: Arc<Activity>, stall: Duration) -> Self {
        Self {
            stream,
            before,
            activity,
            stall,
            stalled: None,
        }
    }

    pub(super) fn into_stream(self) -> S {
        self.stream
    }

    /// The outcome of a write; an error if none completed for too long.
    fn paced<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let stall = self.stall;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TrackedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.before.is_empty() {
            let count = self.before.len().min(into.remaining());
            into.put_slice(&self.before.split_to(count));
            return Poll::Ready(Ok(()));
        }
        let already = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, into))?;
        if into.filled().len() > already {
            self.activity.bytes_read();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TrackedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.paced(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.paced(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // HTTP flushes only after writing everything it has.
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.activity.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
