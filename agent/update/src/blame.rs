//! Why attempts at a release failed, counted by cause, and what follows. Pure.
//!
//! The rule: *a release is blamed only for what it caused.* Every failed attempt has one [`FailureKind`]. Each kind
//! is counted for each release, with growing pauses between attempts. Only a release that crashes in [`CRASHES`]
//! attempts is skipped; `update forgive` ends that, and resets all counts.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::build::Build;
use super::regression::Regression;

/// Attempts in which a release must crash before it is not tried again: a host that lacked memory or disk for a
/// moment must not lose a good release forever.
pub(crate) const CRASHES: u32 = 3;

/// Most releases whose failures are kept: far more than a channel offers at one time.
const REMEMBERED: usize = 64;

/// The cause of a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The host, the network or the channel: disk full, fork refused, `noexec`, killed for lack of memory, or a
    /// problem that exists without the release as well.
    Environment,
    /// The attempt was interrupted while the release's code ran: a reboot, a power cut, a killed updater, a stopped
    /// trial. Usually an accident.
    Interrupted,
    /// The host was worse on trial, and recovered on the stable release.
    Unhealthy,
    /// The release crashed, hung, or failed its self-test on a host where the stable release passes its own.
    Crashed,
}

impl FailureKind {
    /// The shortest and the longest pause before the next attempt.
    fn pauses(self) -> (SignedDuration, SignedDuration) {
        let (minutes, hours, week) = (
            SignedDuration::from_mins,
            SignedDuration::from_hours,
            SignedDuration::from_hours(7 * 24),
        );
        match self {
            // The timer runs every 15 minutes; a host whose network was repaired is up to date within half a working
            // day.
            Self::Environment => (minutes(15), hours(4)),
            Self::Interrupted => (minutes(15), week),
            Self::Unhealthy | Self::Crashed => (hours(1), week),
        }
    }

    /// The pause after `count` failures of this kind in a row.
    #[must_use]
    pub(crate) fn pause(self, count: u32) -> SignedDuration {
        let (first, longest) = self.pauses();
        // The first interruption costs nothing: a reboot is no sign of a bad release.
        let doublings = match self {
            Self::Interrupted if count <= 1 => return SignedDuration::ZERO,
            Self::Interrupted => count.saturating_sub(2),
            _ => count.saturating_sub(1),
        };
        (first * (1 << doublings.min(12))).min(longest)
    }

    /// Whether the release may have harmed the host: then a lower release is taken meanwhile, and it is nothing to go
    /// back to.
    #[must_use]
    pub(crate) fn is_suspect(self) -> bool {
        self != Self::Environment
    }
}

/// The failures of one release by one cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Their number, at least 1.
    pub count: u32,
    /// When the last one was.
    pub at: Timestamp,
    /// Why, in one line.
    #[serde(default)]
    pub reason: String,
}

/// The failures of one release on this host; all of them expire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// The release.
    pub build: Build,
    /// By cause.
    pub causes: BTreeMap<FailureKind, Count>,
}

impl Failures {
    /// The time of the next attempt, and the failure that it waits for; `None` if it is due. A failure in the future,
    /// from a wrong clock, causes no pause. Failures before `since` are ignored: an operator wants an attempt now.
    #[must_use]
    pub fn until(
        &self,
        now: Timestamp,
        since: Option<Timestamp>,
    ) -> Option<(Timestamp, FailureKind, &Count)> {
        let pending = self.causes.iter().filter_map(|(kind, count)| {
            let until = count.at.checked_add(kind.pause(count.count)).ok()?;
            let pending = count.at <= now && now < until && since.is_none_or(|at| at < count.at);
            pending.then_some((until, *kind, count))
        });
        pending.max_by_key(|(until, ..)| *until)
    }

    /// Attempts in which it crashed.
    #[must_use]
    pub(crate) fn crashes(&self) -> u32 {
        self.causes
            .get(&FailureKind::Crashed)
            .map_or(0, |count| count.count)
    }

    fn last(&self) -> Timestamp {
        let times = self.causes.values().map(|count| count.at);
        times.max().unwrap_or(Timestamp::MIN)
    }
}

/// Counts one failure. The release whose last failure is oldest makes room.
pub(crate) fn count(
    all: &mut Vec<Failures>,
    build: &Build,
    kind: FailureKind,
    reason: &str,
    at: Timestamp,
) {
    let known = all
        .iter()
        .position(|known| known.build.digest == build.digest);
    let mut failures = match known {
        Some(index) => all.remove(index),
        None => Failures {
            build: build.clone(),
            causes: BTreeMap::new(),
        },
    };
    let before = failures.causes.get(&kind).map_or(0, |count| count.count);
    let counted = Count {
        count: before.saturating_add(1),
        at,
        reason: support::text::line(reason, support::text::REASON),
    };
    failures.causes.insert(kind, counted);
    all.push(failures);
    if all.len() > REMEMBERED {
        let oldest = (0..all.len()).min_by_key(|index| all[*index].last());
        oldest.map(|index| all.remove(index));
    }
}

/// What is held against a digest.
#[must_use]
pub(crate) fn of<'a>(all: &'a [Failures], build: &Build) -> Option<&'a Failures> {
    all.iter().find(|known| known.build.digest == build.digest)
}

/// Who is to blame for a unit's end.
///
/// systemd itself exits with 200 to 243 in the place of a program that it could not set up or execute; signals that
/// a process does not raise itself come from outside.
#[must_use]
pub(crate) fn of_unit(result: &str, status: Option<i32>) -> FailureKind {
    match result {
        // Failed to fork, to make a directory, to open a socket.
        "resources" | "exec-condition" => FailureKind::Environment,
        // Out of memory: of the host, or the unit's own limit, which cannot be distinguished here.
        "oom-kill" => FailureKind::Unhealthy,
        // Ended normally: it exited by itself, or was stopped.
        "success" => FailureKind::Interrupted,
        "exit-code" if status.is_some_and(|code| (200..=243).contains(&code)) => {
            FailureKind::Environment
        }
        "signal" if status.is_some_and(is_from_outside) => FailureKind::Environment,
        _ => FailureKind::Crashed,
    }
}

/// Who is to blame for a program that did not succeed.
#[must_use]
pub(crate) fn of_exit(status: ExitStatus) -> FailureKind {
    match status.signal() {
        Some(signal) if is_from_outside(signal) => FailureKind::Environment,
        _ => FailureKind::Crashed,
    }
}

/// Who is to blame for a program that could not be started. Its digest was just verified.
#[must_use]
pub(crate) fn of_spawn(error: &io::Error) -> FailureKind {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        // Not a program for this host, or its interpreter is not in the image.
        Some(Errno::NOEXEC | Errno::NOENT | Errno::LIBBAD) => FailureKind::Crashed,
        // No process, memory or descriptor available; noexec, a security policy; and unknown errors.
        _ => FailureKind::Environment,
    }
}

/// SIGHUP, SIGINT, SIGKILL (from the kernel for lack of memory, or an operator), SIGTERM: another process sent it.
fn is_from_outside(signal: i32) -> bool {
    matches!(signal, 1 | 2 | 9 | 15)
}

/// Who is to blame for a host that was worse on trial, once the stable release runs again. `same`: whether the host
/// still is.
#[must_use]
pub(crate) fn compared(worse: &Regression, same: bool) -> (FailureKind, String) {
    if same {
        (
            FailureKind::Environment,
            format!("{worse}, and likewise on the stable release"),
        )
    } else {
        (
            FailureKind::Unhealthy,
            format!("{worse}, and it recovered after the trial"),
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use semver::Version;

    use super::*;
    use crate::channel::Digest;

    fn build(minor: u64) -> Build {
        Build {
            version: Version::new(1, minor, 0),
            digest: Digest::parse(&format!("{minor:064x}")).unwrap(),
        }
    }

    fn at(minutes: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minutes)
    }

    #[test]
    fn pauses_grow_by_cause_up_to_the_longest() {
        use FailureKind::{Crashed, Environment, Interrupted, Unhealthy};
        for (kind, minutes) in [
            (Environment, [15, 30, 60, 120, 240, 240]),
            (Interrupted, [0, 15, 30, 60, 120, 240]),
            (Unhealthy, [60, 120, 240, 480, 960, 1920]),
            (Crashed, [60, 120, 240, 480, 960, 1920]),
        ] {
            for (count, minutes) in (1..).zip(minutes) {
                assert_eq!(
                    kind.pause(count),
                    SignedDuration::from_mins(minutes),
                    "{kind:?} {count}"
                );
            }
        }
        assert_eq!(Unhealthy.pause(u32::MAX), SignedDuration::from_hours(168));
    }

    #[test]
    fn a_release_is_blamed_for_its_own_ends_only() {
        use FailureKind::{Crashed, Environment, Interrupted, Unhealthy};
        for (result, status, kind) in [
            ("exit-code", Some(1), Crashed),
            ("exit-code", Some(101), Crashed),
            ("core-dump", Some(6), Crashed),
            ("signal", Some(11), Crashed),
            ("signal", Some(31), Crashed),
            ("watchdog", Some(6), Crashed),
            ("timeout", Some(15), Crashed),
            ("protocol", Some(0), Crashed),
            // noexec, a sandbox that cannot be set up.
            ("exit-code", Some(203), Environment),
            ("exit-code", Some(226), Environment),
            ("resources", None, Environment),
            ("signal", Some(9), Environment),
            ("signal", Some(15), Environment),
            ("oom-kill", Some(9), Unhealthy),
            ("success", Some(0), Interrupted),
        ] {
            assert_eq!(of_unit(result, status), kind, "{result} {status:?}");
        }
        for (raw, kind) in [
            (1 << 8, Crashed),
            (11, Crashed),
            (6, Crashed),
            (9, Environment),
            (15, Environment),
        ] {
            assert_eq!(of_exit(ExitStatus::from_raw(raw)), kind, "{raw}");
        }
        // EAGAIN, ENOMEM, EMFILE, EACCES, EPERM, ETXTBSY; ENOEXEC, ENOENT.
        for (errno, kind) in [
            (11, Environment),
            (12, Environment),
            (24, Environment),
            (13, Environment),
            (1, Environment),
            (26, Environment),
            (8, Crashed),
            (2, Crashed),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(of_spawn(&error), kind, "{error}");
        }
    }

    proptest! {
        /// Whatever happened, the next try is due within a week of the last failure, and at once where the clock shows
        /// that nothing happened yet; the list stays bounded.
        #[test]
        fn no_pause_lasts_forever(
            events in proptest::collection::vec((0_u64..80, 0..4_u8, 0..100_000_i64), 1..200),
            now in 0..200_000_i64,
        ) {
            let kinds = [FailureKind::Environment, FailureKind::Interrupted, FailureKind::Unhealthy, FailureKind::Crashed];
            let mut all = Vec::new();
            for (minor, kind, minutes) in events {
                count(&mut all, &build(minor), kinds[usize::from(kind)], "why", at(minutes));
            }
            prop_assert!(all.len() <= REMEMBERED);
            for failures in &all {
                if let Some((until, ..)) = failures.until(at(now), None) {
                    prop_assert!(until > at(now) && until <= at(now) + SignedDuration::from_hours(168));
                    prop_assert!(failures.until(at(now), Some(at(now))).is_none());
                }
                prop_assert!(failures.until(at(-1), None).is_none());
            }
        }
    }
}
