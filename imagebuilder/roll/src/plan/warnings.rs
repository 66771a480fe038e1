//! What the operator should know about a fleet although it does not prevent a roll.

use super::{Direction, Pace, Sorted};
use crate::settings::Settings;
use crate::view::FleetView;
use cloud::{HealthSource, HookMoment, Preferences};

/// The service gives up after an hour without progress; a hook that waits longer than a third of
/// it leaves fewer than three tries for an instance that never reports.
const LONG_HEARTBEAT_SECONDS: u32 = 1200;

/// Processes without which an unhealthy member is not replaced.
const HEALTH_PROCESSES: [&str; 2] = ["HealthCheck", "ReplaceUnhealthy"];

/// Warns of a watch that would end before the roll can.
pub(super) fn watched_too_shortly(settings: &Settings, pace: Pace, warnings: &mut Vec<String>) {
    if let Some(watched) = settings.watch_timeout
        && watched.as_secs() < pace.seconds
    {
        warnings.push(format!(
            "roll.watch_timeout_seconds is {}, and the roll may take {} s: leave it out, and it is derived",
            watched.as_secs(),
            pace.seconds
        ));
    }
}

/// Adds them to what is already known.
pub(super) fn warn(
    view: &FleetView,
    settings: &Settings,
    preferences: &Preferences,
    pace: Pace,
    sorted: &Sorted,
    direction: Direction,
    warnings: &mut Vec<String>,
) {
    for hook in view
        .hooks
        .iter()
        .filter(|hook| hook.moment == HookMoment::Launching)
    {
        if hook.default_result != "ABANDON" {
            warnings.push(format!(
                "launch hook {} lets an instance serve that never reports (default result {})",
                hook.name, hook.default_result
            ));
        }
        if hook.heartbeat_seconds > LONG_HEARTBEAT_SECONDS {
            warnings.push(format!(
                "launch hook {} waits {} s for an instance that never reports, and the service gives up after an hour",
                hook.name, hook.heartbeat_seconds
            ));
        }
    }
    for process in HEALTH_PROCESSES {
        if view.suspended.iter().any(|suspended| suspended == process) {
            warnings.push(format!(
                "{process} is suspended: an unhealthy member will not be replaced"
            ));
        }
    }
    if view.health == HealthSource::LoadBalancer && !view.has_traffic_source {
        warnings.push(
            "the group's health type is ELB, and no load balancer is attached: no instance can fail that check"
                .into(),
        );
    }
    if view.health == HealthSource::Ec2 && view.has_traffic_source {
        warnings.push(
            "the group ignores its load balancer's health checks; only the last verification reads them".into(),
        );
    }
    if view.health == HealthSource::LoadBalancer && preferences.warmup_seconds < view.grace_seconds
    {
        warnings.push(format!(
            "the warm-up of {} s ends before the grace period of {} s: an instance counts before its health checks do",
            preferences.warmup_seconds, view.grace_seconds
        ));
    }
    if pace.cap > view.size.max && !sorted.replace.is_empty() {
        warnings.push(format!(
            "the roll may need {} members and the group's maximum is {}",
            pace.cap, view.size.max
        ));
    }
    if view.warm_pool {
        warnings.push("the group has a warm pool, which is replaced after the live members".into());
    }
    if !sorted.protected.is_empty() || !sorted.standby.is_empty() {
        warnings.push(
            "protected and standby members stay as they are: the roll will end as not verified (14)".into(),
        );
    }
    if !settings.auto_rollback && !matches!(direction, Direction::Back) {
        warnings.push(
            "roll.auto_rollback is off: a failed roll is not rolled back until an operator does it"
                .into(),
        );
    }
}
