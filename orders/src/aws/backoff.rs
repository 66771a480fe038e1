//! Pauses between attempts, up to a deadline.
//!
//! Rule: a call that a service refused as too busy is retried until its caller's time limit, with full
//! jitter: each pause is random, from nothing to the current maximum, so that clients refused together do not
//! return together.
//! <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>

use std::time::Duration;

use tokio::time::Instant;

/// Maximum of the first pause; doubles for each further one.
const FIRST: Duration = Duration::from_millis(50);
/// Maximum of any pause, so that a service that works again does not stay idle.
const LONGEST: Duration = Duration::from_secs(1);

/// The pauses of one call.
#[derive(Debug)]
pub(crate) struct Backoff {
    deadline: Instant,
    at_most: Duration,
}

impl Backoff {
    /// Pauses that end at `deadline`.
    pub(crate) fn until(deadline: Instant) -> Self {
        Self {
            deadline,
            at_most: FIRST,
        }
    }

    /// Pauses that end after `budget`.
    pub(crate) fn within(budget: Duration) -> Self {
        Self::until(Instant::now() + budget)
    }

    /// Waits before the next attempt. Returns `false` at once if there is no time left.
    pub(crate) async fn pause(&mut self) -> bool {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let pause = self.at_most.mul_f64(fastrand::f64());
        self.at_most = (self.at_most * 2).min(LONGEST);
        tokio::time::sleep(pause.min(left)).await;
        Instant::now() < self.deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn attempts_fill_the_budget_with_random_pauses() {
        let budget = Duration::from_secs(8);
        let mut tries = Vec::new();
        for _ in 0..200 {
            let begun = Instant::now();
            let mut backoff = Backoff::within(budget);
            let mut last = begun;
            let mut count = 0;
            while backoff.pause().await {
                // The timer has a resolution of a millisecond.
                let pause = last.elapsed();
                assert!(pause <= LONGEST + Duration::from_millis(1), "{pause:?}");
                last = Instant::now();
                count += 1;
            }
            let taken = begun.elapsed();
            assert!(
                taken >= budget && taken < budget + Duration::from_millis(2),
                "{taken:?}"
            );
            assert!(!backoff.pause().await);
            tries.push(count);
        }
        assert!(tries.iter().all(|count| *count >= 8), "{tries:?}");
        assert_ne!(tries.iter().min(), tries.iter().max());
    }
}
