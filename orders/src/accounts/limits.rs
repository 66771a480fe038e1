//! Rate limits on log-ins and registrations: per caller, per login, and for all together.
//!
//! Rule: one caller's attempts do not use up the limits of others. The caller's own bucket is checked first.
//! A login is limited for each caller separately, and a device that had a session of the account has a bucket
//! of its own, so that nobody can lock an owner out. The attempts of all callers without such a device on one
//! login are limited too, against guessers with many addresses.
//!
//! Buckets refill with time. Each instance counts for itself. Attempts on an unknown login count like those
//! on a known one, so that a limit does not reveal which logins exist.
//! <https://owasp.org/www-community/Slow_Down_Online_Guessing_Attacks_with_Device_Cookies>

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::caller::Caller;

/// Log-ins of one caller, whatever the login: enough for an office behind one address, too few for a flood.
const PER_CALLER: Rate = Rate {
    burst: 20,
    refill: Duration::from_millis(500),
};
/// Attempts on one login by one caller or from one known device: enough for a person who forgot their
/// password; a guesser gets 1440 a day.
const PER_LOGIN_AND_SOURCE: Rate = Rate {
    burst: 10,
    refill: Duration::from_secs(60),
};
/// Attempts on one login by all callers together, except known devices.
const PER_LOGIN: Rate = Rate {
    burst: 50,
    refill: Duration::from_secs(20),
};
/// Log-ins of all callers: twenty a second at about 20 ms of one core each, so that guessers with many logins
/// and addresses cannot keep even one core busy.
const ALL_LOG_INS: Rate = Rate {
    burst: 60,
    refill: Duration::from_millis(50),
};
/// New accounts of one caller.
const REGISTRATIONS_PER_CALLER: Rate = Rate {
    burst: 10,
    refill: Duration::from_secs(10),
};
/// New accounts of all callers: registering reveals whether a login is taken.
const ALL_REGISTRATIONS: Rate = Rate {
    burst: 20,
    refill: Duration::from_secs(1),
};
/// Buckets kept per kind. Past this, full ones are dropped; if none is full, new keys are refused. The limits
/// for all together keep even a million attempts a day below it.
const MAX_BUCKETS: usize = 20_000;

#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u32,
    refill: Duration,
}

/// How long to wait before the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMany(pub(super) Duration);

/// A bucket, stored as the time at which it is full again.
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

/// Buckets of one kind, limited in number.
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
        if self.by_key.len() >= MAX_BUCKETS && !self.by_key.contains_key(&key) {
            self.by_key.retain(|_, bucket| bucket.full_at > now);
            if self.by_key.len() >= MAX_BUCKETS {
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

/// Where an attempt comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// A device that had a session of the login's account, by its token's digest.
    Device([u8; 32]),
    /// A caller; `None` if callers are not known, who then count as one.
    Caller(Option<Caller>),
}

/// All limits of one instance.
#[derive(Debug)]
pub(super) struct Limits(Mutex<All>);

#[derive(Debug)]
struct All {
    callers: Buckets<Option<Caller>>,
    logins: Buckets<(String, Source)>,
    logins_by_all: Buckets<String>,
    all_log_ins: Bucket,
    registering: Buckets<Option<Caller>>,
    all_registrations: Bucket,
}

impl Default for Limits {
    fn default() -> Self {
        let now = Instant::now();
        Self(Mutex::new(All {
            callers: Buckets::new(PER_CALLER),
            logins: Buckets::new(PER_LOGIN_AND_SOURCE),
            logins_by_all: Buckets::new(PER_LOGIN),
            all_log_ins: Bucket::new(now),
            registering: Buckets::new(REGISTRATIONS_PER_CALLER),
            all_registrations: Bucket::new(now),
        }))
    }
}

impl Limits {
    /// Counts a request to log in, before anything is looked up.
    ///
    /// # Errors
    /// If this caller sent too many.
    pub(super) fn count_request(&self, caller: Option<Caller>) -> Result<(), TooMany> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Unknown callers count as one, and are limited by the bucket for all.
        match caller {
            Some(_) => all.callers.take(caller, Instant::now()),
            None => Ok(()),
        }
    }

    /// Counts an attempt to log in.
    ///
    /// # Errors
    /// If there were too many, for this login or for all.
    pub(super) fn log_in(&self, login: &str, from: Source) -> Result<(), TooMany> {
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = &mut *all;
        // The login's own bucket first: attempts past it must not use up the shared one.
        let key = (login.to_owned(), from);
        all.logins.take(key.clone(), now)?;
        let of_all = match from {
            Source::Device(_) => Ok(()),
            Source::Caller(_) => all.logins_by_all.take(login.to_owned(), now),
        };
        of_all
            .inspect_err(|_| all.logins.give_back(&key))
            .and_then(|()| {
                let taken = all.all_log_ins.take(ALL_LOG_INS, now);
                taken.inspect_err(|_| {
                    all.logins.give_back(&key);
                    if matches!(from, Source::Caller(_)) {
                        all.logins_by_all.give_back(&key.0);
                    }
                })
            })
    }

    /// Takes back an attempt that succeeded or was not checked.
    pub(super) fn refund(&self, login: &str, from: Source) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (login.to_owned(), from);
        all.logins.give_back(&key);
        if matches!(from, Source::Caller(_)) {
            all.logins_by_all.give_back(&key.0);
        }
    }

    /// Counts a registration.
    ///
    /// # Errors
    /// If there were too many, by this caller or by all.
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
            let refused = Err(TooMany(PER_LOGIN_AND_SOURCE.refill));
            assert_eq!(limits.log_in("ada", from), refused, "{from:?}");
            limits.log_in("bob", from).unwrap();
            tokio::time::advance(Duration::from_secs(59)).await;
            let second = Duration::from_secs(1);
            assert_eq!(limits.log_in("ada", from), Err(TooMany(second)), "{from:?}");
            tokio::time::advance(second).await;
            limits.log_in("ada", from).unwrap();
            assert!(limits.log_in("ada", from).is_err(), "{from:?}");
            limits.refund("ada", from);
            limits.log_in("ada", from).unwrap();
            // A long pause does not allow more than ten again.
            tokio::time::advance(Duration::from_secs(86_400)).await;
            let taken = (0..20).take_while(|_| limits.log_in("ada", from).is_ok());
            assert_eq!(taken.count(), 10, "{from:?}");
        }
    }

    /// Others may try as long and from wherever they like: the owner logs in from another address or, if too
    /// many addresses are used, from a known device.
    #[tokio::test(start_paused = true)]
    async fn other_callers_cannot_lock_an_owner_out() {
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

    /// A flood from one address, whatever the logins, slows only that address.
    #[tokio::test(start_paused = true)]
    async fn a_flood_of_one_caller_uses_up_nothing_of_others() {
        let limits = Limits::default();
        let mut accepted = 0;
        for second in 0..26 {
            for n in 0..425 {
                let flood = limits.count_request(caller(1));
                let _ = flood.and_then(|()| limits.log_in(&format!("{second} {n}"), by(1)));
            }
            let good = limits.count_request(caller(2));
            accepted += usize::from(good.and_then(|()| limits.log_in("ada", by(2))).is_ok());
            limits.refund("ada", by(2));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(accepted, 26);
        let flood = (0..100).take_while(|_| limits.register(caller(1)).is_ok());
        assert_eq!(flood.count(), 10);
        limits.register(caller(2)).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn own_limits_apply_before_the_limit_for_all() {
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
    async fn the_number_of_buckets_is_bounded() {
        let limits = Limits::default();
        for n in 0..MAX_BUCKETS * 2 {
            limits.log_in(&format!("login{n}"), by(1)).unwrap();
            tokio::time::advance(ALL_LOG_INS.refill).await;
        }
        let all = limits.0.lock().unwrap();
        assert!(all.logins.by_key.len() <= MAX_BUCKETS);
        assert!(all.logins_by_all.by_key.len() <= MAX_BUCKETS);
    }
}
