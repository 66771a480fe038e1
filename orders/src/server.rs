//! Connections: accepts, bounds, serves, drains.
//!
//! Owns the listener, the limits on connections and the order of a stop. Knows nothing of orders.
//! One connection's life is [`connection`]'s; here is how many may live, and who goes when there
//! are too many.

mod connection;
mod watched;

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

/// After a failed accept (out of file descriptors, say) a new one would fail at once again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Descriptors that are not for customers: the store's files and connections, AWS, the log.
const DESCRIPTORS_OF_OUR_OWN: usize = 256;

/// How many connections there may be, and how patient they are met.
///
/// A connection that is silent costs a kilobyte, one that speaks some sixteen, and up to `head`
/// more while it does not come to an end: so there may be many of the one kind and few of the other,
/// and the product of number and size is what memory is bounded by.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections at once.
    pub connections: usize,
    /// Of these, those with a request under way, or just after one.
    pub speaking: usize,
    /// How long a connection may be silent. Longer than the 60 s after which a load balancer closes
    /// it: were it the other way round, the balancer would now and then send an order into a
    /// connection that is just being closed.
    pub idle: Duration,
    /// From the first byte of a request's head to its last: a phone on a bad line needs seconds, a
    /// slow-head attack would take for ever.
    pub head_time: Duration,
    /// Bytes in a request's head; at least 8192.
    pub head: usize,
    /// How long an answer may wait for a client to take in more of it.
    pub stall: Duration,
    /// After so long without a request a connection counts as silent, and gives its memory back.
    pub park: Duration,
    /// How long one connection waits for the place of another before it is sent away.
    pub patience: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 16_384,
            speaking: 2048,
            idle: Duration::from_secs(75),
            head_time: Duration::from_secs(10),
            head: 16 * 1024,
            stall: Duration::from_secs(30),
            park: Duration::from_secs(1),
            patience: Duration::from_secs(1),
        }
    }
}

impl Bounds {
    /// The same, as far as the process's limit on open files goes. The limit is raised as far as it
    /// may be and is of use.
    #[must_use]
    pub fn within_open_files(self) -> Self {
        let wanted = self.connections + DESCRIPTORS_OF_OUR_OWN;
        let Some(limit) = open_files(wanted) else {
            return self;
        };
        let connections = self
            .connections
            .min(limit.saturating_sub(limit.min(512) / 2));
        Self {
            connections,
            speaking: self.speaking.min(connections),
            ..self
        }
    }
}

/// The limit on open files, raised towards `wanted`; `None` when it cannot be told.
fn open_files(wanted: usize) -> Option<usize> {
    // Read rather than asked for: the unit forbids the calls that set limits.
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

/// Whether all requests under way were finished in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// They were.
    Fully,
    /// Some were cut off.
    OutOfTime,
}

/// How far the end of the service has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// It serves.
    Open,
    /// It still serves, and asks every client to go elsewhere with its answer.
    LameDuck,
    /// What is under way is finished, nothing new is taken.
    Stopping,
}

/// What all connections share.
struct House {
    bounds: Bounds,
    router: Router,
    places: Arc<Semaphore>,
    voices: Arc<Semaphore>,
    /// Wakes the connection that has been silent longest: it must go.
    crowded: Notify,
    /// Wakes the connection that has been speaking longest: it must come to an end.
    hurry: Notify,
    stage: watch::Receiver<Stage>,
    /// Connections open now, for the metrics.
    open: Gauge,
    /// Connections sent away so far.
    shed: AtomicU64,
    begun: Instant,
}

impl House {
    /// A place for a connection, perhaps that of another.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.admit(&self.places, &self.crowded).await
    }

    /// A place among the speaking, perhaps that of another.
    async fn voice(&self) -> Option<OwnedSemaphorePermit> {
        self.admit(&self.voices, &self.hurry).await
    }

    async fn admit(&self, to: &Arc<Semaphore>, instead: &Notify) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(to).try_acquire_owned() {
            return Some(permit);
        }
        instead.notify_one();
        let waiting = tokio::time::timeout(self.bounds.patience, Arc::clone(to).acquire_owned());
        waiting.await.ok()?.ok()
    }

    /// Counts a connection that was sent away, and says so now and then: an attack must not fill
    /// the log.
    fn sent_away(&self) {
        let shed = self.shed.fetch_add(1, Ordering::Relaxed) + 1;
        if shed.is_power_of_two() {
            tracing::warn!(shed, "too many connections; some were sent away");
        }
    }
}

/// How the service comes to its end.
#[derive(Debug)]
pub struct Stop<Told, Hurry> {
    /// When it begins, and how long the lame-duck time is.
    pub told: Told,
    /// Ends the lame-duck time before.
    pub hurry: Hurry,
    /// How long requests under way get to finish after it.
    pub drain: Duration,
}

/// Serves `router` on `listener` within `bounds`, counting in `open`, until `stop`; then
/// comes the lame-duck time: for so long it goes on serving, on connections old and new, and closes each with its
/// next answer (`Connection: close`). A client that keeps a connection is never met by a closed one while
/// it does not know yet; whoever asks `/gtg` goes elsewhere meanwhile. Then it takes what is already in the
/// listen queue, closes that, and gives requests under way `drain` to finish. A socket that systemd
/// holds as well stays open: what connects to it from now on waits there for the next process.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    open: Gauge,
    stop: Stop<impl Future<Output = Duration>, impl Future<Output = ()>>,
) -> Drained {
    let (tell, stage) = watch::channel(Stage::Open);
    let house = Arc::new(House {
        bounds,
        router,
        places: Arc::new(Semaphore::new(bounds.connections)),
        voices: Arc::new(Semaphore::new(bounds.speaking)),
        crowded: Notify::new(),
        hurry: Notify::new(),
        stage,
        open,
        shed: AtomicU64::new(0),
        begun: Instant::now(),
    });
    let Stop { told, hurry, drain } = stop;
    let (mut stop, mut hurry) = (pin!(told), pin!(hurry));
    // Never yet.
    let mut lame = pin!(Either::Left(std::future::pending()));
    let mut lame_duck = false;
    loop {
        // Only the accepting is given up for the others: a connection that is there is served.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            time = &mut stop, if !lame_duck => {
                lame_duck = true;
                // The receivers are in `house`, so there are some.
                let _ = tell.send(Stage::LameDuck);
                lame.set(Either::Right(tokio::time::sleep(time)));
                continue;
            }
            () = &mut lame, if lame_duck => break,
            () = &mut hurry, if lame_duck => break,
        };
        match accepted {
            Ok((stream, address)) => welcome(stream, address, &house).await,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // These clients were told by the kernel that they are connected; closing the listener now
    // would reset them.
    while let Some(Ok((stream, address))) = listener.accept().now_or_never() {
        welcome(stream, address, &house).await;
    }
    drop(listener);
    let _ = tell.send(Stage::Stopping);
    let all = u32::try_from(bounds.connections).unwrap_or(u32::MAX);
    let gone = Arc::clone(&house.places).acquire_many_owned(all);
    match tokio::time::timeout(drain, gone).await {
        Ok(_) => Drained::Fully,
        Err(_) => Drained::OutOfTime,
    }
}

/// Gives a connection a place, and a task of its own that holds it; or sends it away.
async fn welcome(stream: TcpStream, address: SocketAddr, house: &Arc<House>) {
    // An answer is one small packet; it must not wait for a second one.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "set nodelay failed");
    }
    admit(stream, Some(Peer(address.ip())), house).await;
}

async fn admit<S>(stream: S, peer: Option<Peer>, house: &Arc<House>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match house.place().await {
        Some(place) => {
            let house = Arc::clone(house);
            tokio::spawn(connection::attend(stream, peer, house, place));
        }
        None => {
            house.sent_away();
            // One at a time, `patience` apart: these need no bound.
            tokio::spawn(connection::send_away(stream, connection::BUSY));
        }
    }
}

#[cfg(test)]
mod tests;
