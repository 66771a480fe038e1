//! What is odd about a fleet without being a reason to stop.

use super::{Pace, Sorted};
use crate::cloud::{HealthSource, HookMoment, Preferences};
use crate::config::Settings;
use crate::roll::view::FleetView;

/// The service gives up after an hour without progress; a hook that waits longer than a third of
/// it leaves a silent box fewer than three tries.
const LONG_HEARTBEAT_SECONDS: u32 = 1200;

/// Processes without which a sick member is not replaced.
const HEALTH_PROCESSES: [&str; 2] = ["HealthCheck", "ReplaceUnhealthy"];

/// Adds them to what is already known.
pub(super) fn warn(
    view: &FleetView,
    settings: &Settings,
    preferences: &Preferences,
    pace: Pace,
    sorted: &Sorted,
    warnings: &mut Vec<String>,
) {
    for hook in view
        .hooks
        .iter()
        .filter(|hook| hook.moment == HookMoment::Launching)
    {
        if hook.default_result != "ABANDON" {
            warnings.push(format!(
                "launch hook {} lets a box in that says nothing (default result {})",
                hook.name, hook.default_result
            ));
        }
        if hook.heartbeat_seconds > LONG_HEARTBEAT_SECONDS {
            warnings.push(format!(
                "launch hook {} waits {} s for a silent box, and the service gives up after an hour",
                hook.name, hook.heartbeat_seconds
            ));
        }
    }
    for process in HEALTH_PROCESSES {
        if view.suspended.iter().any(|suspended| suspended == process) {
            warnings.push(format!(
                "{process} is suspended: a sick member will not be replaced"
            ));
        }
    }
    if view.health == HealthSource::Ec2 && !view.target_groups.is_empty() {
        warnings.push(
            "the group ignores its load balancer's health checks; only the last verification looks at them".into(),
        );
    }
    if view.health == HealthSource::LoadBalancer && preferences.warmup_seconds < view.grace_seconds
    {
        warnings.push(format!(
            "the warm-up of {} s ends before the grace period of {} s: a box counts before it can be found sick",
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
    if !settings.auto_rollback {
        warnings.push(
            "roll.auto_rollback is off: a failed roll stays as it is until somebody acts".into(),
        );
    }
}
