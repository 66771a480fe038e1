//! How long a roll may be watched, and how long its verification may take.
//!
//! Rule: time limits are derived from what is there: batches, warm-up, checkpoints, baking, draining and termination hooks. A
//! refresh that makes progress must never reach its limit; one that does not ends by itself, as the service gives up after an hour without
//! progress. Pure.

use std::time::Duration;

use super::plan::Pace;
use super::view::{FleetView, HookMoment};
use crate::settings::Settings;
use cloud::Preferences;

/// The service fails a refresh that made no progress for this long
/// (<https://docs.aws.amazon.com/autoscaling/ec2/userguide/asg-instance-refresh.html>).
const STALLED: Duration = Duration::from_secs(3600);

/// How long a fleet may take to become healthy once all of it is replaced: registration and its health checks.
const SETTLES: Duration = Duration::from_secs(300);

/// The limits of one roll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Watching a refresh ends after this; the refresh continues.
    pub(crate) watch: Duration,
    /// Verifying a finished fleet ends after this.
    pub(crate) verify: Duration,
    /// How long the last old instance may take to terminate: its connections, then its hooks. Nothing waits for it.
    pub(crate) leave: Duration,
}

/// The limits for replacing all members of a group: the settings' where they are set, else derived.
pub(crate) fn limits(view: &FleetView, settings: &Settings, preferences: &Preferences) -> Limits {
    let whole = Pace::of(
        view.size.desired,
        usize::try_from(view.size.desired).unwrap_or(usize::MAX),
        preferences,
    );
    let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
    let hooks: u64 = view
        .hooks
        .iter()
        .filter(|hook| hook.moment == HookMoment::Terminating)
        .map(|hook| u64::from(hook.heartbeat_seconds))
        .sum();
    let leave = seconds(view.drain_seconds) + Duration::from_secs(hooks);
    Limits {
        // A roll can take twice its estimate; a refresh that is slower still makes progress at least once an hour.
        watch: settings
            .watch_timeout
            .unwrap_or(Duration::from_secs(2 * whole.seconds) + STALLED + leave),
        verify: settings
            .verify_timeout
            .unwrap_or(SETTLES + seconds(view.grace_seconds.max(preferences.warmup_seconds))),
        leave,
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::preferences;
    use super::super::sample;
    use super::*;
    use cloud::Hook;

    fn of(view: &FleetView, roll: &str) -> Limits {
        let settings = sample::settings(roll);
        limits(view, &settings, &preferences(view, &settings))
    }

    #[test]
    fn limits_are_derived_from_what_is_there_and_fit_together() {
        for size in [1, 3, 10, 100, 500] {
            for warmup in [0, 300] {
                for drain in [0, 300, 3600] {
                    for heartbeat in [30, 3600] {
                        let mut view = sample::fleet(size, 7, "ami-1");
                        view.drain_seconds = drain;
                        view.default_warmup_seconds = Some(warmup);
                        view.grace_seconds = warmup;
                        view.hooks.push(Hook {
                            name: "drain".into(),
                            moment: HookMoment::Terminating,
                            default_result: "CONTINUE".into(),
                            heartbeat_seconds: heartbeat,
                        });
                        let roll = "checkpoints = [50]\ncheckpoint_delay_seconds = 900\nbake_seconds = 600";
                        let limits = of(&view, roll);
                        let batches = u64::from(size.div_ceil((size / 10).max(1)));
                        let least = batches * u64::from(warmup)
                            + 900
                            + 600
                            + u64::from(drain)
                            + u64::from(heartbeat)
                            + 3600;
                        assert!(
                            limits.watch >= Duration::from_secs(least),
                            "{size} {warmup} {drain} {heartbeat}: {limits:?}"
                        );
                        assert!(limits.verify >= Duration::from_secs(u64::from(warmup) + 300));
                        assert_eq!(
                            limits.leave,
                            Duration::from_secs(u64::from(drain) + u64::from(heartbeat))
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_set_counts() {
        let view = sample::fleet(3, 7, "ami-1");
        let limits = of(
            &view,
            "watch_timeout_seconds = 60\nverify_timeout_seconds = 7",
        );
        assert_eq!(limits.watch, Duration::from_secs(60));
        assert_eq!(limits.verify, Duration::from_secs(7));
    }
}
