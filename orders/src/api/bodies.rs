//! Limits on request bodies being read: number, bytes, speed.
//!
//! Rule: an order takes one of the permits for orders in progress only once its whole body was read, and
//! bodies being read have limits of their own. So a client that sends one byte a second costs a few hundred
//! bytes for a few seconds and blocks nobody. When there are too many, the one that has been read longest is
//! dropped: a normal body arrives within milliseconds, so it is never the oldest of a thousand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::problem::Problem;

/// Largest body. An order with all fields at their limits is under 20 KiB.
const BODY_LIMIT: usize = 32 * 1024;
/// Time limit for a body: a phone with a bad connection needs seconds.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// An incomplete body must bring [`MIN_BYTES_PER_WINDOW`] in each window of this length, which is longer than
/// TCP takes to retransmit a packet twice.
const WINDOW: Duration = Duration::from_secs(5);
/// 256 bytes a second; Apache's default is 500 (mod_reqtimeout).
const MIN_BYTES_PER_WINDOW: usize = 256 * 5;
/// Bodies being read at once: half of [`Bounds::active`](crate::server::Bounds), so that bodies alone cannot
/// use up the active connections.
const MAX_BODIES: usize = 1024;
/// Bytes of all bodies being read.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// All bodies being read. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Bodies(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    /// The number of the next body; the lowest is the oldest.
    next: u64,
    bytes: usize,
    by_age: BTreeMap<u64, BodyShare>,
}

#[derive(Debug)]
struct BodyShare {
    bytes: usize,
    /// Dropped with this value, which makes the reader stop.
    _alive: oneshot::Sender<()>,
}

impl Open {
    fn remove(&mut self, number: u64) {
        if let Some(one) = self.by_age.remove(&number) {
            self.bytes -= one.bytes;
        }
    }

    fn remove_oldest(&mut self) {
        if let Some((_, one)) = self.by_age.pop_first() {
            self.bytes -= one.bytes;
        }
    }
}

/// One body's share of the limits, released on drop.
struct Ticket {
    all: Bodies,
    number: u64,
    alive: oneshot::Receiver<()>,
}

impl Ticket {
    /// Counts `bytes` more and drops the oldest bodies if there are too many.
    fn hold(&self, bytes: usize) {
        let mut open = self.all.open();
        let Some(one) = open.by_age.get_mut(&self.number) else {
            // This body was dropped itself; its reader finds out at the next poll.
            return;
        };
        one.bytes += bytes;
        open.bytes += bytes;
        while open.bytes > MAX_BYTES {
            open.remove_oldest();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.all.open().remove(self.number);
    }
}

impl Bodies {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self) -> Ticket {
        let (sender, alive) = oneshot::channel();
        let mut open = self.open();
        while open.by_age.len() >= MAX_BODIES {
            open.remove_oldest();
        }
        let number = open.next;
        open.next += 1;
        let one = BodyShare {
            bytes: 0,
            _alive: sender,
        };
        open.by_age.insert(number, one);
        drop(open);
        Ticket {
            all: self.clone(),
            number,
            alive,
        }
    }

    /// The number of bodies being read, and their bytes.
    #[cfg(test)]
    fn count(&self) -> (usize, usize) {
        let open = self.open();
        (open.by_age.len(), open.bytes)
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// 413 past 32 KiB; 408 if it takes longer than 10 s, brings less than 256 bytes a second over 5 s, or
    /// was dropped for newer ones; 400 if it breaks off.
    pub(super) async fn read(&self, body: Body) -> Result<Vec<u8>, Problem> {
        let too_large = || {
            Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body must have at most {BODY_LIMIT} bytes"),
            )
        };
        // Refused before reading, so that a client that waits for 100 Continue does not send it.
        if usize::try_from(body.size_hint().lower()).is_ok_and(|length| length > BODY_LIMIT) {
            return Err(too_large());
        }
        let mut ticket = self.enter();
        let mut body = Limited::new(body, BODY_LIMIT);
        let mut read = Vec::new();
        let deadline = Instant::now() + BODY_TIMEOUT;
        let mut before_window = 0;
        let watch = tokio::time::sleep(WINDOW);
        tokio::pin!(watch);
        loop {
            let frame = tokio::select! {
                biased;
                _ = &mut ticket.alive => {
                    return Err(Problem::too_slow(
                        "the body was incomplete while too many others were being read",
                    ));
                }
                frame = body.frame() => frame,
                () = &mut watch => {
                    if watch.deadline() >= deadline {
                        let limit = BODY_TIMEOUT.as_secs();
                        return Err(Problem::too_slow(format!(
                            "the body took longer than {limit} s"
                        )));
                    }
                    if read.len() - before_window < MIN_BYTES_PER_WINDOW {
                        let (least, window) = (MIN_BYTES_PER_WINDOW, WINDOW.as_secs());
                        return Err(Problem::too_slow(format!(
                            "the body brought less than {least} bytes in {window} s"
                        )));
                    }
                    before_window = read.len();
                    let next = watch.deadline() + WINDOW;
                    watch.as_mut().reset(next.min(deadline));
                    continue;
                }
            };
            match frame {
                None => return Ok(read),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        ticket.hold(data.len());
                        read.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large()),
                Some(Err(_)) => {
                    return Err(Problem::new(
                        StatusCode::BAD_REQUEST,
                        "the body is incomplete",
                    ));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use axum::body::Bytes;
    use futures_util::{StreamExt, stream};

    use super::*;

    /// A body of pieces, each after so many milliseconds; then it ends, or never does.
    fn paced(pieces: Vec<(u64, usize)>, ends: bool) -> Body {
        let pieces = stream::iter(pieces).then(|(pause, length)| async move {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            Ok::<_, io::Error>(Bytes::from(vec![b'x'; length]))
        });
        if ends {
            Body::from_stream(pieces)
        } else {
            Body::from_stream(pieces.chain(stream::pending()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_is_refused_and_a_slow_connection_is_not() {
        let drip = |count, pause, length| vec![(pause, length); count];
        // Pieces, whether it ends; the status; seconds.
        let table = [
            (drip(1, 0, 80), true, 200, 0),
            (drip(1, 4900, 80), true, 200, 4),
            (drip(60, 1000, 1), false, 408, 5),
            (drip(60, 1000, 1), true, 408, 5),
            // Fast at first: each window counts by itself.
            (
                [drip(1, 0, 5000), drip(60, 1000, 1)].concat(),
                false,
                408,
                10,
            ),
            // 400 bytes a second until the time limit.
            (drip(9, 1000, 400), true, 200, 9),
            (drip(60, 1000, 400), true, 408, 10),
            (drip(40, 1, 1000), true, 413, 0),
        ];
        for (pieces, ends, status, seconds) in table {
            let case = format!("{} pieces of {:?}", pieces.len(), pieces[0]);
            let bodies = Bodies::default();
            let begun = Instant::now();
            let whole: usize = pieces.iter().map(|(_, length)| length).sum();
            match bodies.read(paced(pieces, ends)).await {
                Ok(read) => assert_eq!((read.len(), 200), (whole, status), "{case}"),
                Err(problem) => assert_eq!(problem.status(), status, "{case}"),
            }
            assert_eq!(begun.elapsed().as_secs(), seconds, "{case}");
            assert_eq!(bodies.count(), (0, 0), "{case}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_body_is_dropped_for_the_next() {
        let bodies = Bodies::default();
        let read = |pieces| {
            let bodies = bodies.clone();
            tokio::spawn(async move { bodies.read(paced(pieces, false)).await })
        };
        let first = read(vec![(0, 1)]);
        let mut others = vec![];
        for _ in 1..MAX_BODIES {
            tokio::task::yield_now().await;
            others.push(read(vec![(0, 1)]));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(bodies.count().0, MAX_BODIES);
        assert!(!first.is_finished());
        assert!(bodies.read(Body::from("an order")).await.is_ok());
        assert_eq!(first.await.unwrap().unwrap_err().status(), 408);
        assert_eq!(bodies.count().0, MAX_BODIES - 1);
        // The same for bytes: one more than fit.
        drop(others);
        let bodies = Bodies::default();
        let large = |_| {
            let bodies = bodies.clone();
            tokio::spawn(async move { bodies.read(paced(vec![(0, BODY_LIMIT)], false)).await })
        };
        let large: Vec<_> = (0..=MAX_BYTES / BODY_LIMIT).map(large).collect();
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(bodies.count(), (MAX_BYTES / BODY_LIMIT, MAX_BYTES));
        let cut: Vec<bool> = large.iter().map(|one| one.is_finished()).collect();
        assert_eq!(cut.iter().filter(|cut| **cut).count(), 1);
        assert!(cut[0], "the oldest");
    }

    /// Whatever bodies arrive: each is read or refused in time, and the limits always hold.
    #[test]
    fn any_bodies_end_in_time_and_within_the_limits() {
        bolero::check!()
            .with_type::<Vec<(Vec<(u16, u16)>, bool)>>()
            .with_iterations(200)
            .for_each(|some| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .start_paused(true)
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    let bodies = Bodies::default();
                    let reading = some.iter().map(|(pieces, ends)| {
                        let pieces: Vec<(u64, usize)> = pieces
                            .iter()
                            .map(|(pause, length)| (u64::from(*pause), usize::from(*length)))
                            .collect();
                        let whole: usize = pieces.iter().map(|(_, length)| length).sum();
                        let bodies = bodies.clone();
                        let body = paced(pieces, *ends);
                        async move {
                            let begun = Instant::now();
                            match bodies.read(body).await {
                                Ok(read) => assert_eq!(read.len(), whole),
                                Err(problem) => assert!([408, 413].contains(&problem.status())),
                            }
                            let (count, bytes) = bodies.count();
                            assert!(count <= MAX_BODIES && bytes <= MAX_BYTES, "{count} {bytes}");
                            assert!(begun.elapsed() <= BODY_TIMEOUT);
                        }
                    });
                    futures_util::future::join_all(reading).await;
                    assert_eq!(bodies.count(), (0, 0));
                });
            });
    }
}
