//! Whether the service is ready for orders: probed in the background, read by `/gtg`.
//!
//! Owns the state and the loop that updates it. `/gtg` only reads the latest state, so that a slow store
//! cannot make the health check time out and get a healthy instance replaced.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::store::Store;
use support::one_line;

/// Time between two probes. A load balancer's own interval is several seconds as well.
const INTERVAL: Duration = Duration::from_secs(2);
/// Minimum time between two probes, however many orders fail: a failing store must not get extra load.
const PAUSE: Duration = Duration::from_millis(250);
/// A probe that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(5);
/// One lost packet must not take an instance out of service; the second failure in a row does.
const FAILURES_TO_FAIL: u32 = 2;

/// The state that `/gtg` reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// No probe has finished yet.
    Starting,
    /// The store accepts orders.
    Ready,
    /// The store does not accept orders, for this reason.
    Failing(String),
    /// The service is stopping and finishes the requests in progress.
    Draining,
}

impl State {
    /// The reason for not being ready, for people; `None` when ready.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Ready => None,
            Self::Starting => Some("waiting for the first probe of the store".to_owned()),
            Self::Failing(reason) => Some(format!("the store does not work: {reason}")),
            Self::Draining => Some("stopping; finishing the requests in progress".to_owned()),
        }
    }
}

/// Counts failed probes and decides the next state. Pure.
#[derive(Debug, Default)]
struct FailureCounter {
    failures: u32,
}

impl FailureCounter {
    fn next(&mut self, state: &State, outcome: Result<(), String>) -> State {
        match (state, outcome) {
            (State::Draining, _) => State::Draining,
            (_, Ok(())) => {
                self.failures = 0;
                State::Ready
            }
            (_, Err(reason)) => {
                self.failures = self.failures.saturating_add(1);
                match state {
                    State::Ready if self.failures < FAILURES_TO_FAIL => State::Ready,
                    _ => State::Failing(reason),
                }
            }
        }
    }
}

/// The latest state, shared.
#[derive(Debug, Clone)]
pub struct Readiness {
    state: Arc<watch::Sender<State>>,
    probe_now: Arc<Notify>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self {
            state: Arc::new(watch::Sender::new(State::Starting)),
            probe_now: Arc::default(),
        }
    }
}

impl Readiness {
    /// The current state.
    #[must_use]
    pub fn now(&self) -> State {
        self.state.borrow().clone()
    }

    /// A receiver for changes of the state.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// An order failed in the store: probe at once instead of after the interval. Ignored while the store is
    /// already known to fail.
    pub fn report_failure(&self) {
        if self.now() == State::Ready {
            self.probe_now.notify_one();
        }
    }

    /// The service is stopping; no probe changes the state any more.
    pub fn drain(&self) {
        self.state.send_replace(State::Draining);
    }

    /// Probes `store` forever.
    pub async fn probe_forever(self, store: Arc<dyn Store>) {
        let mut counter = FailureCounter::default();
        loop {
            let outcome = match tokio::time::timeout(TIMEOUT, store.probe()).await {
                Ok(outcome) => outcome.map_err(|error| one_line(&error)),
                Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
            };
            let failed = outcome.as_ref().err().cloned();
            self.state.send_if_modified(|state| {
                let next = counter.next(state, outcome);
                let changed = *state != next;
                *state = next;
                changed
            });
            // A failure that changes the state is logged with that change.
            if let Some(reason) = failed
                && self.now() == State::Ready
            {
                tracing::warn!(reason, "the store failed its probe");
            }
            tokio::time::sleep(PAUSE).await;
            let interval = tokio::time::sleep(INTERVAL - PAUSE);
            tokio::select! {
                () = interval => {}
                () = self.probe_now.notified() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::order::{Order, OrderId};
    use crate::store::stuck::Stuck;
    use crate::store::{CreateError, Entry, FollowError, Followed, Kept, Position};

    #[test]
    fn only_a_ready_store_survives_one_failure() {
        let failed = || Err("slow".to_owned());
        let failing = || State::Failing("slow".to_owned());
        let table = [
            (State::Starting, vec![Ok(())], State::Ready),
            (State::Starting, vec![failed()], failing()),
            (State::Ready, vec![failed()], State::Ready),
            (State::Ready, vec![failed(), failed()], failing()),
            (State::Ready, vec![failed(), Ok(()), failed()], State::Ready),
            (failing(), vec![Ok(())], State::Ready),
            (State::Draining, vec![Ok(()), failed()], State::Draining),
        ];
        for (start, outcomes, expected) in table {
            let mut counter = FailureCounter::default();
            let mut state = start.clone();
            for outcome in outcomes.clone() {
                state = counter.next(&state, outcome);
            }
            assert_eq!(state, expected, "{start:?} {outcomes:?}");
        }
    }

    /// A store that always works and counts its probes.
    #[derive(Default)]
    struct Counted(AtomicUsize);

    #[async_trait::async_trait]
    impl Store for Counted {
        async fn create(&self, _: &Entry) -> Result<Kept, CreateError> {
            Ok(Kept::Now)
        }
        async fn get(&self, _: OrderId) -> anyhow::Result<Option<Order>> {
            Ok(None)
        }
        async fn list(&self, _: OrderId, _: usize) -> anyhow::Result<Vec<Order>> {
            Ok(Vec::new())
        }
        async fn end(&self) -> anyhow::Result<Position> {
            Ok(Position::BEGINNING)
        }
        async fn follow(&self, _: &Position, _: usize) -> Result<Followed, FollowError> {
            Err(anyhow::anyhow!("not asked for").into())
        }
        async fn probe(&self) -> anyhow::Result<()> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
        async fn notices(&self, _: usize) -> anyhow::Result<Vec<OrderId>> {
            Ok(Vec::new())
        }
        async fn settle_notice(&self, _: OrderId) -> anyhow::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failed_orders_speed_up_probes_within_a_limit() {
        let readiness = Readiness::default();
        let store = Arc::new(Counted::default());
        let watching = tokio::spawn(readiness.clone().probe_forever(Arc::clone(&store) as _));
        let probes = |of: &Counted| of.0.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(20)).await;
        let calm = probes(&store);
        assert!((10..=11).contains(&calm), "{calm}");
        for _ in 0..1000 {
            readiness.report_failure();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let hurried = probes(&store) - calm;
        assert!((30..=41).contains(&hurried), "{hurried}");
        watching.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_store_is_reported_as_failing() {
        let readiness = Readiness::default();
        let mut changes = readiness.changes();
        let watching = tokio::spawn(readiness.clone().probe_forever(Arc::new(Stuck)));
        changes.changed().await.unwrap();
        assert_eq!(
            readiness.now().reason().unwrap(),
            "the store does not work: no answer within 5 s"
        );
        watching.abort();
    }
}
