//! Connections: accepts, serves, drains.
//!
//! Owns the listener, the limits on connections and the order of a stop. Knows nothing of orders.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::FutureExt;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// How long a connection may be silent between requests, or slow in a request's head. Longer than
/// the 60 s after which a load balancer closes it: were it the other way round, the balancer would
/// now and then send an order into a connection that is just being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Connections at once. Further ones wait in the listen queue.
const CONNECTIONS: usize = 4096;
/// After a failed accept (out of file descriptors, say) a new one would fail at once again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whether all requests under way were finished in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// They were.
    Fully,
    /// Some were cut off.
    OutOfTime,
}

/// Serves `router` on `listener` until `stop`; then takes what is already in the listen queue,
/// closes it, and gives requests under way `drain` to finish. A socket that systemd holds as well
/// stays open: what connects to it from now on waits there for the next process.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()>,
    drain: Duration,
) -> Drained {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut stop = pin!(stop);
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            (place, accepted) = accepted => match accepted {
                Ok((stream, _)) => attend(stream, router.clone(), &graceful, place),
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            () = &mut stop => break,
        }
    }
    // These clients were told by the kernel that they are connected; closing the listener now
    // would reset them.
    while let Some(Ok((stream, _))) = listener.accept().now_or_never() {
        attend(stream, router.clone(), &graceful, ());
    }
    drop(listener);
    match tokio::time::timeout(drain, graceful.shutdown()).await {
        Ok(()) => Drained::Fully,
        Err(_) => Drained::OutOfTime,
    }
}

/// Serves one connection in a task of its own, holding `place` meanwhile.
fn attend<Place: Send + 'static>(
    stream: TcpStream,
    router: Router,
    graceful: &GracefulShutdown,
    place: Place,
) {
    // An answer is one small packet; it must not wait for a second one.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "set nodelay failed");
    }
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .max_buf_size(32 * 1024)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let watched = graceful.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = watched.await {
            tracing::debug!(%error, "connection ended");
        }
        drop(place);
    });
}
