//! The HTTP server: accepts connections, limits them, serves them, drains them.
//!
//! Owns the listener, the limits on connections and the order of a stop. Does not know orders. [`connection`]
//! serves a single connection; this module decides how many there may be and which is closed when there are
//! too many.

mod connection;
mod tracking;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use futures_util::FutureExt;
use futures_util::future::Either;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::caller::Peer;

/// Delay after a failed accept. Without it, running out of file descriptors would cause a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// File descriptors reserved for the store's files and connections, AWS, and the log.
const RESERVED_DESCRIPTORS: usize = 256;

/// Limits on connections and their time limits.
///
/// An idle connection costs a kilobyte, an active one about sixteen, and up to `head` more while a request's
/// head is incomplete. So there may be many idle connections and few active ones; the product of number and
/// size bounds the memory.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Open connections.
    pub connections: usize,
    /// Connections with a request in progress or just finished.
    pub active: usize,
    /// Time limit for an idle connection. Longer than the 60 s after which a load balancer closes it:
    /// otherwise the balancer would sometimes send an order into a connection that is being closed.
    pub idle: Duration,
    /// Time limit from the first byte of a request's head to its last: a phone with a bad connection needs
    /// seconds, a slow-head attack would take forever.
    pub head_time: Duration,
    /// Bytes in a request's head; at least 8192.
    pub head: usize,
    /// How long a response may wait for the client to read more of it.
    pub stall: Duration,
    /// After this long without a request a connection counts as idle and releases its buffers.
    pub park: Duration,
    /// How long a connection waits for another one's slot before it is refused.
    pub slot_wait: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 16_384,
            active: 2048,
            idle: Duration::from_secs(75),
            head_time: Duration::from_secs(10),
            head: 16 * 1024,
            stall: Duration::from_secs(30),
            park: Duration::from_secs(1),
            slot_wait: Duration::from_secs(1),
        }
    }
}

impl Bounds {
    /// The limits, reduced to the process's limit on open files. That limit is raised first, as far as
    /// allowed and useful.
    #[must_use]
    pub fn within_open_files(self) -> Self {
        let wanted = self.connections + RESERVED_DESCRIPTORS;
        let Some(limit) = open_files(wanted) else {
            return self;
        };
        let connections = self
            .connections
            .min(limit.saturating_sub(limit.min(512) / 2));
        Self {
            connections,
            active: self.active.min(connections),
            ..self
        }
    }
}

/// Raises the limit on open files towards `wanted` and returns it; `None` if it cannot be read.
fn open_files(wanted: usize) -> Option<usize> {
    // Read from a file because the unit forbids the calls that could also set limits.
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))?;
    let mut columns = line.split_whitespace().skip(3);
    let soft: u64 = columns.next()?.parse().ok()?;
    let hard: u64 = columns.next()?.parse().ok()?;
    let raised = hard.min(u64::try_from(wanted).ok()?);
    if raised <= soft {
        return usize::try_from(soft).ok();
    }
    let limit = rustix::process::Rlimit {
        current: Some(raised),
        maximum: Some(hard),
    };
    let done = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
    usize::try_from(if done.is_ok() { raised } else { soft }).ok()
}

/// Whether all requests in progress finished in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// They did.
    Fully,
    /// Some were cut off.
    OutOfTime,
}

/// How far the stop has progressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum StopPhase {
    /// Serving normally.
    Open,
    /// Still serving; each response asks its client to reconnect elsewhere.
    LameDuck,
    /// Requests in progress are finished; no new ones are accepted.
    Stopping,
}

/// State shared by all connections.
struct Shared {
    bounds: Bounds,
    router: Router,
    slots: Arc<Semaphore>,
    active: Arc<Semaphore>,
    /// Wakes the connection that has been idle longest, which then closes.
    evict_idle: Notify,
    /// Wakes the connection that has been active longest, which then closes after its request.
    evict_slow: Notify,
    phase: watch::Receiver<StopPhase>,
    /// Open connections, for the metrics.
    open: Gauge,
    /// Connections refused so far.
    shed: AtomicU64,
    begun: Instant,
}

impl Shared {
    /// A slot for a connection, taken from an idle one if there are too many.
    async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        self.acquire(&self.slots, &self.evict_idle).await
    }

    /// A slot for an active connection, taken from another one if there are too many.
    async fn active_slot(&self) -> Option<OwnedSemaphorePermit> {
        self.acquire(&self.active, &self.evict_slow).await
    }

    async fn acquire(&self, to: &Arc<Semaphore>, instead: &Notify) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(to).try_acquire_owned() {
            return Some(permit);
        }
        instead.notify_one();
        let waiting = tokio::time::timeout(self.bounds.slot_wait, Arc::clone(to).acquire_owned());
        waiting.await.ok()?.ok()
    }

    /// Counts a refused connection and logs the count at powers of two: an attack must not fill the log.
    fn count_rejected(&self) {
        let shed = self.shed.fetch_add(1, Ordering::Relaxed) + 1;
        if shed.is_power_of_two() {
            tracing::warn!(shed, "too many connections; some were refused");
        }
    }
}

/// How the server stops.
#[derive(Debug)]
pub struct Stop<Requested, Skip> {
    /// Resolves when the stop begins, with the length of the lame-duck time.
    pub requested: Requested,
    /// Ends the lame-duck time early.
    pub skip_lame_duck: Skip,
    /// Time limit for requests in progress after the lame-duck time.
    pub drain: Duration,
}

/// Serves `router` on `listener` within `bounds` until `stop`, counting connections in `open`.
///
/// During the lame-duck time it keeps serving old and new connections and closes each with its next response
/// (`Connection: close`), so that a client that keeps a connection learns of the stop before it is closed;
/// balancers that poll `/gtg` move away meanwhile. Then it accepts what is already in the listen queue,
/// closes the listener, and gives requests in progress `drain` to finish. A socket that systemd holds as well
/// stays open: new connections wait in its queue for the next process.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    open: Gauge,
    stop: Stop<impl Future<Output = Duration>, impl Future<Output = ()>>,
) -> Drained {
    let (sender, phase) = watch::channel(StopPhase::Open);
    let shared = Arc::new(Shared {
        bounds,
        router,
        slots: Arc::new(Semaphore::new(bounds.connections)),
        active: Arc::new(Semaphore::new(bounds.active)),
        evict_idle: Notify::new(),
        evict_slow: Notify::new(),
        phase,
        open,
        shed: AtomicU64::new(0),
        begun: Instant::now(),
    });
    let Stop {
        requested,
        skip_lame_duck,
        drain,
    } = stop;
    let (mut stop, mut skip) = (pin!(requested), pin!(skip_lame_duck));
    // Not started yet.
    let mut lame = pin!(Either::Left(std::future::pending()));
    let mut lame_duck = false;
    loop {
        // Only accept is cancelled by the other branches; accepted connections are served.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            time = &mut stop, if !lame_duck => {
                lame_duck = true;
                // Cannot fail: `shared` holds a receiver.
                let _ = sender.send(StopPhase::LameDuck);
                lame.set(Either::Right(tokio::time::sleep(time)));
                continue;
            }
            () = &mut lame, if lame_duck => break,
            () = &mut skip, if lame_duck => break,
        };
        match accepted {
            Ok((stream, address)) => accept(stream, address, &shared).await,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // The kernel has already completed these connections; closing the listener now would reset them.
    while let Some(Ok((stream, address))) = listener.accept().now_or_never() {
        accept(stream, address, &shared).await;
    }
    drop(listener);
    let _ = sender.send(StopPhase::Stopping);
    let all = u32::try_from(bounds.connections).unwrap_or(u32::MAX);
    let all_closed = Arc::clone(&shared.slots).acquire_many_owned(all);
    match tokio::time::timeout(drain, all_closed).await {
        Ok(_) => Drained::Fully,
        Err(_) => Drained::OutOfTime,
    }
}

/// Spawns a task for the connection if there is a slot, or refuses it.
async fn accept(stream: TcpStream, address: SocketAddr, shared: &Arc<Shared>) {
    // A response is one small packet; it must not wait for a second one (Nagle).
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "set nodelay failed");
    }
    admit(stream, Some(Peer(address.ip())), shared).await;
}

async fn admit<S>(stream: S, peer: Option<Peer>, shared: &Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match shared.slot().await {
        Some(slot) => {
            let shared = Arc::clone(shared);
            tokio::spawn(connection::serve_connection(stream, peer, shared, slot));
        }
        None => {
            shared.count_rejected();
            // At most one per `slot_wait`, so these need no limit.
            tokio::spawn(connection::reject(stream, connection::BUSY));
        }
    }
}

#[cfg(test)]
mod tests;
