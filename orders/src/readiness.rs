//! Whether the service may be given orders: probed in the background, read by `/gtg`.
//!
//! Owns the judgement and the loop that feeds it. `/gtg` only reads the latest state, so that a
//! slow store can never make the health check time out and get a healthy box replaced.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::store::Store;

/// Time between two probes: a few seconds are what a load balancer's own interval allows anyway.
const INTERVAL: Duration = Duration::from_secs(2);
/// A probe that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(5);
/// One lost packet must not take a box out of service; the second failure in a row does.
const FAILURES_TO_FALL: u32 = 2;

/// What `/gtg` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// No probe has come back yet.
    Starting,
    /// The store takes orders.
    Ready,
    /// The store does not take orders, for this reason.
    Failing(String),
    /// The service is told to stop and finishes what it has.
    Draining,
}

impl State {
    /// The state in words, for people: `None` when ready.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Ready => None,
            Self::Starting => Some("waiting for the first answer of the store".to_owned()),
            Self::Failing(reason) => Some(format!("the store does not work: {reason}")),
            Self::Draining => Some("stopping; finishing the orders under way".to_owned()),
        }
    }
}

/// The pure part: which state follows from a probe's outcome.
#[derive(Debug, Default)]
struct Judge {
    failures: u32,
}

impl Judge {
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
                    State::Ready if self.failures < FAILURES_TO_FALL => State::Ready,
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
    doubt: Arc<Notify>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self {
            state: Arc::new(watch::Sender::new(State::Starting)),
            doubt: Arc::default(),
        }
    }
}

impl Readiness {
    /// The state now.
    #[must_use]
    pub fn now(&self) -> State {
        self.state.borrow().clone()
    }

    /// Changes of the state, for those who tell others.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// An order just failed in the store: probe now, not at the next interval.
    pub fn doubt(&self) {
        self.doubt.notify_one();
    }

    /// The service is told to stop; no probe changes this any more.
    pub fn drain(&self) {
        self.state.send_replace(State::Draining);
    }

    /// Probes `store` for ever.
    pub async fn watch(self, store: Arc<dyn Store>) {
        let mut judge = Judge::default();
        loop {
            let outcome = match tokio::time::timeout(TIMEOUT, store.probe()).await {
                Ok(outcome) => outcome.map_err(|error| format!("{error:#}")),
                Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
            };
            if let Err(reason) = &outcome {
                tracing::warn!(reason, "the store failed its probe");
            }
            self.state.send_if_modified(|state| {
                let next = judge.next(state, outcome);
                let changed = *state != next;
                *state = next;
                changed
            });
            let interval = tokio::time::sleep(INTERVAL);
            tokio::select! {
                () = interval => {}
                () = self.doubt.notified() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::stuck::Stuck;

    #[test]
    fn one_failure_is_forgiven_only_to_a_ready_store() {
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
            let mut judge = Judge::default();
            let mut state = start.clone();
            for outcome in outcomes.clone() {
                state = judge.next(&state, outcome);
            }
            assert_eq!(state, expected, "{start:?} {outcomes:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_store_is_said_to_be_failing() {
        let readiness = Readiness::default();
        let mut changes = readiness.changes();
        let watching = tokio::spawn(readiness.clone().watch(Arc::new(Stuck)));
        changes.changed().await.unwrap();
        assert_eq!(
            readiness.now().reason().unwrap(),
            "the store does not work: no answer within 5 s"
        );
        watching.abort();
    }
}
