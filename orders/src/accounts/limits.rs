//! How often one may try: for each caller, for each login, and for all together.
//!
//! Rule: a stranger's tries are the stranger's. The caller's own bucket is asked first, so that what one
//! address sends uses up nothing of others; a login is limited for each caller apart, and a device that
//! had a session of it passes that by a bucket of its own: nobody locks an owner out. What all callers
//! without such a device try at one login is limited too, against guessers with many addresses.
//!
//! Buckets that refill with time. Each box counts for itself. Tries at a login that does not exist
//! count as those at one that does: a limit must not tell which is which.
//! <https://owasp.org/www-community/Slow_Down_Online_Guessing_Attacks_with_Device_Cookies>

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::caller::Caller;

/// Log-ins of one caller, whatever the login: an office behind one address, against a flood.
const ONE_CALLER: Rate = Rate {
    burst: 20,
    refill: Duration::from_millis(500),
};
/// Tries at one login by one caller or from one known device, and how soon there is another one: a person
/// who has forgotten which password it was, against a guesser who gets 1440 a day.
const ONE_LOGIN: Rate = Rate {
    burst: 10,
    refill: Duration::from_secs(60),
};
/// Tries at one login of all callers together, but for known devices.
const ONE_LOGIN_OF_ALL: Rate = Rate {
    burst: 50,
    refill: Duration::from_secs(20),
};
/// Log-ins of everybody: twenty a second, each some 20 ms of one core, so that guessers with many logins
/// and addresses cannot keep even one core busy.
const ALL_LOGINS: Rate = Rate {
    burst: 60,
    refill: Duration::from_millis(50),
};
/// New accounts of one caller.
const ONE_CALLERS_REGISTRATIONS: Rate = Rate {
    burst: 10,
    refill: Duration::from_secs(10),
};
/// New accounts of everybody: whether a login is taken can be asked by trying to register it.
const ALL_REGISTRATIONS: Rate = Rate {
    burst: 20,
    refill: Duration::from_secs(1),
};
/// Buckets of a kind that are remembered; past it those that are full again are forgotten, and if none is,
/// new ones wait. A million tries a day do not reach it, for all together are limited too.
const REMEMBERED: usize = 20_000;

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

/// Buckets of one kind, as many as are remembered.
#[derive(Debug)]
struct Buckets<K> {
    rate: Rate,
    by_key: HashMap<K, Bucket>,
}

impl<K: Eq + Hash> Buckets<K> {
    fn new(rate: Rate) -> Self {
        Self {
            rate,
            by_key: HashMap::new(),
        }
    }

    fn take(&mut self, key: K, now: Instant) -> Result<(), TooMany> {
        if self.by_key.len() >= REMEMBERED && !self.by_key.contains_key(&key) {
            self.by_key.retain(|_, bucket| bucket.full_at > now);
            if self.by_key.len() >= REMEMBERED {
                return Err(TooMany(self.rate.refill));
            }
        }
        let bucket = self.by_key.entry(key).or_insert_with(|| Bucket::new(now));
        bucket.take(self.rate, now)
    }

    fn give_back(&mut self, key: &K) {
        if let Some(bucket) = self.by_key.get_mut(key) {
            bucket.give_back(self.rate);
        }
    }
}

/// Where a try comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// A device that had a session of the login's account, by its token's digest.
    Device([u8; 32]),
    /// A caller; `None` where callers are not known, who are then all one.
    Caller(Option<Caller>),
}

/// All limits of one box.
#[derive(Debug)]
pub(super) struct Limits(Mutex<All>);

#[derive(Debug)]
struct All {
    callers: Buckets<Option<Caller>>,
    logins: Buckets<(String, Source)>,
    logins_of_all: Buckets<String>,
    all_logins: Bucket,
    registering: Buckets<Option<Caller>>,
    all_registrations: Bucket,
}

impl Default for Limits {
    fn default() -> Self {
        let now = Instant::now();
        Self(Mutex::new(All {
            callers: Buckets::new(ONE_CALLER),
            logins: Buckets::new(ONE_LOGIN),
            logins_of_all: Buckets::new(ONE_LOGIN_OF_ALL),
            all_logins: Bucket::new(now),
            registering: Buckets::new(ONE_CALLERS_REGISTRATIONS),
            all_registrations: Bucket::new(now),
        }))
    }
}

impl Limits {
    /// Counts a request to log in, before anything is looked up for it.
    ///
    /// # Errors
    /// When there were too many of this caller.
    pub(super) fn knock(&self, caller: Option<Caller>) -> Result<(), TooMany> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Callers that are not known are all one, and limited as all together below.
        match caller {
            Some(_) => all.callers.take(caller, Instant::now()),
            None => Ok(()),
        }
    }

    /// Counts a try to log in.
    ///
    /// # Errors
    /// When there were too many, for this login or in all.
    pub(super) fn log_in(&self, login: &str, from: Source) -> Result<(), TooMany> {
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = &mut *all;
        // The login's own first: who is past it must not use up what others share.
        let key = (login.to_owned(), from);
        all.logins.take(key.clone(), now)?;
        let of_all = match from {
            Source::Device(_) => Ok(()),
            Source::Caller(_) => all.logins_of_all.take(login.to_owned(), now),
        };
        of_all
            .inspect_err(|_| all.logins.give_back(&key))
            .and_then(|()| {
                let taken = all.all_logins.take(ALL_LOGINS, now);
                taken.inspect_err(|_| {
                    all.logins.give_back(&key);
                    if matches!(from, Source::Caller(_)) {
                        all.logins_of_all.give_back(&key.0);
                    }
                })
            })
    }

    /// A try that was right, or was not judged, does not count for its login.
    pub(super) fn forgive(&self, login: &str, from: Source) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (login.to_owned(), from);
        all.logins.give_back(&key);
        if matches!(from, Source::Caller(_)) {
            all.logins_of_all.give_back(&key.0);
        }
    }

    /// Counts a registration.
    ///
    /// # Errors
    /// When there were too many, of this caller or in all.
    pub(super) fn register(&self, caller: Option<Caller>) -> Result<(), TooMany> {
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if caller.is_some() {
            all.registering.take(caller, now)?;
        }
        all.all_registrations.take(ALL_REGISTRATIONS, now)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn caller(number: u8) -> Option<Caller> {
        Some(Caller::from(IpAddr::from(Ipv4Addr::new(10, 0, 0, number))))
    }

    fn by(number: u8) -> Source {
        Source::Caller(caller(number))
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_is_tried_ten_times_and_then_once_a_minute() {
        for from in [by(1), Source::Caller(None), Source::Device([7; 32])] {
            let limits = Limits::default();
            for _ in 0..10 {
                limits.log_in("ada", from).unwrap();
            }
            assert_eq!(limits.log_in("ada", from), Err(TooMany(ONE_LOGIN.refill)));
            limits.log_in("bob", from).unwrap();
            tokio::time::advance(Duration::from_secs(59)).await;
            let second = Duration::from_secs(1);
            assert_eq!(limits.log_in("ada", from), Err(TooMany(second)));
            tokio::time::advance(second).await;
            limits.log_in("ada", from).unwrap();
            assert!(limits.log_in("ada", from).is_err());
            limits.forgive("ada", from);
            limits.log_in("ada", from).unwrap();
            // Long after, no more than ten again.
            tokio::time::advance(Duration::from_secs(86_400)).await;
            let taken = (0..20).take_while(|_| limits.log_in("ada", from).is_ok());
            assert_eq!(taken.count(), 10);
        }
    }

    /// Strangers try as long and from wherever they like: the owner logs in from another address, and where
    /// they have too many of those, from a device that was in before.
    #[tokio::test(start_paused = true)]
    async fn strangers_lock_no_owner_out() {
        let limits = Limits::default();
        for _ in 0..100 {
            let _ = limits.log_in("ada", by(1));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        limits.log_in("ada", by(2)).unwrap();
        for number in 3..200 {
            for _ in 0..20 {
                let _ = limits.log_in("ada", by(number));
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(limits.log_in("ada", by(201)).is_err(), "too many in all");
        limits.log_in("ada", Source::Device([7; 32])).unwrap();
        limits.log_in("bob", by(201)).unwrap();
    }

    /// A flood from one address, at whatever logins, is the flood's own affair.
    #[tokio::test(start_paused = true)]
    async fn a_flood_of_one_caller_uses_up_nothing_of_others() {
        let limits = Limits::default();
        let mut honest = 0;
        for second in 0..26 {
            for n in 0..425 {
                let flood = limits.knock(caller(1));
                let _ = flood.and_then(|()| limits.log_in(&format!("{second} {n}"), by(1)));
            }
            let good = limits.knock(caller(2));
            honest += usize::from(good.and_then(|()| limits.log_in("ada", by(2))).is_ok());
            limits.forgive("ada", by(2));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(honest, 26);
        let flood = (0..100).take_while(|_| limits.register(caller(1)).is_ok());
        assert_eq!(flood.count(), 10);
        limits.register(caller(2)).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn all_together_are_limited_and_one_past_its_own_limit_does_not_use_that_up() {
        let limits = Limits::default();
        for _ in 0..1000 {
            let _ = limits.log_in("guessed", by(1));
        }
        let others = (0..200).take_while(|n| limits.log_in(&format!("login{n}"), by(1)).is_ok());
        assert_eq!(others.count(), 50);
        let registered = (0..200).take_while(|_| limits.register(None).is_ok());
        assert_eq!(registered.count(), 20);
        tokio::time::advance(Duration::from_secs(1)).await;
        limits.register(None).unwrap();
        limits.register(None).unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let limits = Limits::default();
        for n in 0..REMEMBERED * 2 {
            limits.log_in(&format!("login{n}"), by(1)).unwrap();
            tokio::time::advance(ALL_LOGINS.refill).await;
        }
        let all = limits.0.lock().unwrap();
        assert!(all.logins.by_key.len() <= REMEMBERED);
        assert!(all.logins_of_all.by_key.len() <= REMEMBERED);
    }
}
