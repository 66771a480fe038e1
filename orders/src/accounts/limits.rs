//! How often one may try: for each login, and for all together.
//!
//! Buckets that refill with time. Each box counts for itself. Tries at a login that does not exist
//! count as those at one that does: a limit must not tell which is which.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Tries at one login, and how soon there is another one: a person who has forgotten which password
/// it was, against a guesser who gets 1440 a day.
const ONE_LOGIN: Rate = Rate {
    burst: 10,
    refill: Duration::from_secs(60),
};
/// Log-ins of everybody: twenty a second, each some 20 ms of one core, so that a guesser with many logins
/// cannot keep even one core busy.
const ALL_LOGINS: Rate = Rate {
    burst: 60,
    refill: Duration::from_millis(50),
};
/// New accounts of everybody: whether a login is taken can be asked by trying to register it.
const ALL_REGISTRATIONS: Rate = Rate {
    burst: 20,
    refill: Duration::from_secs(1),
};
/// Logins remembered; past it those that are full again are forgotten, and if none is, new ones wait.
/// A million tries a day do not reach it, for all together are limited too.
const LOGINS: usize = 20_000;

#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u32,
    refill: Duration,
}

/// Must wait so long before the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMany(pub(super) Duration);

/// A bucket, kept as the time at which it is full again.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    full_at: Instant,
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    fn take(&mut self, rate: Rate, now: Instant) -> Result<(), TooMany> {
        let full_at = self.full_at.max(now) + rate.refill;
        let most = now + rate.refill * rate.burst;
        if full_at > most {
            return Err(TooMany(full_at - most));
        }
        self.full_at = full_at;
        Ok(())
    }

    fn give_back(&mut self, rate: Rate) {
        if let Some(full_at) = self.full_at.checked_sub(rate.refill) {
            self.full_at = full_at;
        }
    }
}

/// All limits of one box.
#[derive(Debug)]
pub(super) struct Limits(Mutex<Buckets>);

#[derive(Debug)]
struct Buckets {
    logins: HashMap<String, Bucket>,
    all_logins: Bucket,
    all_registrations: Bucket,
}

impl Default for Limits {
    fn default() -> Self {
        let now = Instant::now();
        Self(Mutex::new(Buckets {
            logins: HashMap::new(),
            all_logins: Bucket::new(now),
            all_registrations: Bucket::new(now),
        }))
    }
}

impl Limits {
    /// Counts a try to log in.
    ///
    /// # Errors
    /// When there were too many, for this login or in all.
    pub(super) fn log_in(&self, login: &str) -> Result<(), TooMany> {
        let now = Instant::now();
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let buckets = &mut *buckets;
        if buckets.logins.len() >= LOGINS && !buckets.logins.contains_key(login) {
            buckets.logins.retain(|_, bucket| bucket.full_at > now);
            if buckets.logins.len() >= LOGINS {
                return Err(TooMany(ONE_LOGIN.refill));
            }
        }
        // The login's own first: who is past it must not use up what all share.
        let bucket = buckets
            .logins
            .entry(login.to_owned())
            .or_insert_with(|| Bucket::new(now));
        bucket.take(ONE_LOGIN, now)?;
        buckets.all_logins.take(ALL_LOGINS, now).inspect_err(|_| {
            bucket.give_back(ONE_LOGIN);
        })
    }

    /// A try that was right, or was not judged, does not count for its login.
    pub(super) fn forgive(&self, login: &str) {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.logins.get_mut(login) {
            bucket.give_back(ONE_LOGIN);
        }
    }

    /// Counts a registration.
    ///
    /// # Errors
    /// When there were too many.
    pub(super) fn register(&self) -> Result<(), TooMany> {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        buckets
            .all_registrations
            .take(ALL_REGISTRATIONS, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_login_is_tried_ten_times_and_then_once_a_minute() {
        let limits = Limits::default();
        for _ in 0..10 {
            limits.log_in("ada").unwrap();
        }
        assert_eq!(limits.log_in("ada"), Err(TooMany(ONE_LOGIN.refill)));
        limits.log_in("bob").unwrap();
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(limits.log_in("ada"), Err(TooMany(Duration::from_secs(1))));
        tokio::time::advance(Duration::from_secs(1)).await;
        limits.log_in("ada").unwrap();
        assert!(limits.log_in("ada").is_err());
        limits.forgive("ada");
        limits.log_in("ada").unwrap();
        // Long after, no more than ten again.
        tokio::time::advance(Duration::from_secs(86_400)).await;
        let taken = (0..20).take_while(|_| limits.log_in("ada").is_ok());
        assert_eq!(taken.count(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn all_together_are_limited_and_one_past_its_own_limit_does_not_use_that_up() {
        let limits = Limits::default();
        for _ in 0..1000 {
            let _ = limits.log_in("guessed");
        }
        let others = (0..200).take_while(|n| limits.log_in(&format!("login{n}")).is_ok());
        assert_eq!(others.count(), 50);
        let registered = (0..200).take_while(|_| limits.register().is_ok());
        assert_eq!(registered.count(), 20);
        tokio::time::advance(Duration::from_secs(1)).await;
        limits.register().unwrap();
        limits.register().unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let limits = Limits::default();
        for n in 0..LOGINS * 2 {
            limits.log_in(&format!("login{n}")).unwrap();
            tokio::time::advance(ALL_LOGINS.refill).await;
        }
        assert!(limits.0.lock().unwrap().logins.len() <= LOGINS);
    }
}
