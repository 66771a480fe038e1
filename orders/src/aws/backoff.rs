//! Pauses between tries, to the end of a time budget.
//!
//! Rule: a call that a service was too busy for is tried again until the time of who waits for it is used
//! up, with full jitter: of those who were refused together each waits a time of its own, anywhere from
//! nothing to the whole pause.
//! <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>

use std::time::Duration;

use tokio::time::Instant;

/// The longest first pause; doubled for each further one.
const FIRST: Duration = Duration::from_millis(50);
/// The longest pause: a service that works again must not stand idle.
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

    /// Pauses that end when `budget` is used up.
    pub(crate) fn within(budget: Duration) -> Self {
        Self::until(Instant::now() + budget)
    }

    /// Waits before the next try. `false`, at once, when there is no time for one.
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
    async fn tries_go_on_to_the_end_of_the_budget_and_differ() {
        let budget = Duration::from_secs(8);
        let mut tries = Vec::new();
        for _ in 0..200 {
            let begun = Instant::now();
            let mut backoff = Backoff::within(budget);
            let mut last = begun;
            let mut count = 0;
            while backoff.pause().await {
                // The timer's step is a millisecond.
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
