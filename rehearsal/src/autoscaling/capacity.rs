//! Keeps a group at its desired capacity and rid of unhealthy members.
//!
//! Owns scale-out, scale-in and health replacement. Must not replace healthy members: `refresh` does, and its surplus
//! is not scaled in here.

use std::collections::BTreeMap;

use instance_refresh::switches::Switches;
use jiff::Timestamp;

use super::activities::moment;
use super::environment::Environment;
use super::groups::Group;
use super::lifecycle::{self, Removal};
use super::members::{LifecycleState, Member};
use crate::ids::InstanceId;

/// Removes unhealthy members, then launches or terminates until the group has its desired size. `allowed` is how many
/// counted members an active refresh may have at once.
pub(crate) fn settle(
    group: &mut Group,
    environment: &mut dyn Environment,
    now: Timestamp,
    switches: &Switches,
    allowed: u32,
) {
    replace_unhealthy(group, environment, now);
    let counted = group.counted();
    if counted < group.desired {
        grow(group, environment, now, switches, group.desired - counted);
    } else if counted > allowed.max(group.desired) {
        shrink(
            group,
            environment,
            now,
            counted - allowed.max(group.desired),
        );
    } else if counted == group.desired {
        group.capacity_cause = None;
        group.unreplaced = 0;
    }
}

fn replace_unhealthy(group: &mut Group, environment: &mut dyn Environment, now: Timestamp) {
    if group.is_suspended("ReplaceUnhealthy") || group.is_suspended("Terminate") {
        return;
    }
    for position in group.members.places() {
        let member = &group.members[position];
        if member.state.is_counted() && !member.is_healthy() {
            let why = Removal::Unhealthy(member.health);
            lifecycle::remove(group, position, why, environment, now);
            group.unreplaced = group.unreplaced.saturating_add(1);
        }
    }
}

fn grow(
    group: &mut Group,
    environment: &mut dyn Environment,
    now: Timestamp,
    switches: &Switches,
    missing: u32,
) {
    let at = moment(now);
    let from = group.desired - missing;
    for _ in 0..missing {
        if !lifecycle::may_launch(group, now) {
            return;
        }
        let cause = if group.unreplaced > 0 {
            format!(
                "At {at} an instance was launched in response to an unhealthy instance needing to be replaced."
            )
        } else {
            let why = group
                .capacity_cause
                .as_deref()
                .map(|why| format!("{why}  "))
                .unwrap_or_default();
            format!(
                "{why}At {at} an instance was started in response to a difference between desired and actual capacity, increasing the capacity from {from} to {}.",
                group.desired
            )
        };
        if lifecycle::launch(group, environment, now, switches, &cause).is_some() {
            group.unreplaced = group.unreplaced.saturating_sub(1);
        }
    }
}

fn shrink(group: &mut Group, environment: &mut dyn Environment, now: Timestamp, surplus: u32) {
    if group.is_suspended("Terminate") {
        return;
    }
    let at = moment(now);
    let counted = group.counted();
    let why = group
        .capacity_cause
        .as_deref()
        .map(|why| format!("{why}  "))
        .unwrap_or_default();
    let reason = format!(
        "{why}At {at} an instance was taken out of service in response to a difference between desired and actual capacity, shrinking the capacity from {counted} to {}.",
        counted - surplus
    );
    let candidates = |m: &&Member| m.state.is_counted() && !m.protected;
    let order = taking_order(group, group.members.iter().filter(candidates));
    for id in order
        .into_iter()
        .take(usize::try_from(surplus).unwrap_or(usize::MAX))
    {
        if let Some(position) = group.position(&id) {
            lifecycle::remove(group, position, Removal::ScaleIn(&reason), environment, now);
        }
    }
}

/// The order in which members are removed: always from the zone with the most members left, and in a zone by the
/// group's termination policy, then by age.
pub(crate) fn taking_order<'a>(
    group: &Group,
    candidates: impl Iterator<Item = &'a Member>,
) -> Vec<InstanceId> {
    let mut zones: BTreeMap<&str, (usize, Vec<&Member>)> = BTreeMap::new();
    for member in candidates {
        zones.entry(&member.zone).or_default().1.push(member);
    }
    for member in group.members.iter().filter(|m| m.state.is_counted()) {
        if let Some((crowd, _)) = zones.get_mut(member.zone.as_str()) {
            *crowd += 1;
        }
    }
    let policy = group
        .termination_policies
        .first()
        .map_or("Default", String::as_str);
    for (_, members) in zones.values_mut() {
        members.sort_by_key(|member| rank(group, policy, member));
        // Popped from the end.
        members.reverse();
    }
    let mut order = Vec::new();
    while let Some((crowd, members)) = zones
        .values_mut()
        .filter(|(_, members)| !members.is_empty())
        .max_by_key(|(crowd, _)| *crowd)
    {
        *crowd = crowd.saturating_sub(1);
        order.extend(members.pop().map(|member| member.id.clone()));
    }
    order
}

/// Sort key, lowest first: members that are not in service, then the policy's order.
fn rank(group: &Group, policy: &str, member: &Member) -> (bool, bool, u64, i64) {
    let serves = member.state == LifecycleState::InService && member.is_healthy();
    let age = member.launched.as_millisecond();
    match policy {
        "NewestInstance" => (serves, false, 0, -age),
        "OldestInstance" => (serves, false, 0, age),
        _ => {
            let wanted = group.launch_template();
            let current =
                member.template.id == wanted.id && member.template.version == wanted.version;
            let version = member.template.version.parse().unwrap_or(0);
            (serves, current, version, age)
        }
    }
}
