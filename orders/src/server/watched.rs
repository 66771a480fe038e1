//! What one can see of a connection from outside of HTTP: which phase it is in, and since when.
//!
//! Knows nothing of what follows from it. The phases are told by three witnesses: bytes that are
//! read, a request that is handed to the service, an answer that was written to its end.

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

/// Where a connection is between two requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Nothing is under way, and every answer is with the kernel.
    Idle,
    /// A request has begun, its head is not complete.
    Head,
    /// A request is with the service, or its answer is being written.
    Serving,
    /// The answer's last byte was given to HTTP, but perhaps not yet to the kernel.
    Answered,
}

/// The phase of a connection and its beginning. One task writes and reads it; it is shared only
/// because the witnesses are apart.
#[derive(Debug)]
pub(super) struct Life {
    epoch: Instant,
    phase: AtomicU8,
    since: AtomicU64,
}

impl Life {
    /// A connection on which the first bytes of a request just came in.
    pub(super) fn begin(epoch: Instant) -> Self {
        let life = Self {
            epoch,
            phase: AtomicU8::new(Phase::Head as u8),
            since: AtomicU64::new(0),
        };
        life.enter(Phase::Head);
        life
    }

    fn enter(&self, phase: Phase) {
        let nanos = self.epoch.elapsed().as_nanos();
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        self.since.store(nanos, Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// The phase now.
    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Idle,
            1 => Phase::Head,
            2 => Phase::Serving,
            _ => Phase::Answered,
        }
    }

    /// When a phase of waiting for the client began.
    pub(super) fn since(&self) -> Instant {
        self.epoch + Duration::from_nanos(self.since.load(Ordering::Relaxed))
    }

    /// A request was handed to the service.
    pub(super) fn serve(&self) {
        self.phase.store(Phase::Serving as u8, Ordering::Relaxed);
    }

    fn heard(&self) {
        if self.phase() == Phase::Idle {
            self.enter(Phase::Head);
        }
    }

    fn told(&self) {
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

/// An answer's body that tells when HTTP has done with it.
#[derive(Debug)]
pub(super) struct Told {
    body: Body,
    life: Arc<Life>,
}

impl Told {
    pub(super) fn new(body: Body, life: Arc<Life>) -> Self {
        Self { body, life }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.life.told();
    }
}

impl hyper::body::Body for Told {
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

/// A stream whose reading and writing is watched. It begins with bytes that were read before, and
/// fails when the other side takes nothing in for too long.
pub(super) struct Watched<S> {
    stream: S,
    before: Bytes,
    life: Arc<Life>,
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, before: Bytes, life: Arc<Life>, stall: Duration) -> Self {
        Self {
            stream,
            before,
            life,
            stall,
            stalled: None,
        }
    }

    pub(super) fn into_stream(self) -> S {
        self.stream
    }

    /// The outcome of a write, failed when there was none for too long.
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

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
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
            self.life.heard();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
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
        // HTTP flushes only when it has written all that it had.
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.life.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
