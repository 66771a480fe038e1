//! Observes a group for its refresh, advances it, and carries out its actions.
//!
//! Must not contain a rule of its own: the crate `instance-refresh` decides.

use std::collections::{BTreeMap, BTreeSet};

use instance_refresh::switches::Switches;
use instance_refresh::{Action, InStandby, MemberView, Refresh, RefreshStatus, View, allowance};
use jiff::Timestamp;

use super::activities::moment;
use super::capacity::taking_order;
use super::environment::Environment;
use super::groups::Group;
use super::lifecycle::{self, Removal};
use super::members::{LifecycleState, Member};
use crate::ids::{Id as _, InstanceId};

/// Moves the group's active refresh on, if there is one; returns how many members the group may have until the next
/// tick.
pub(crate) fn step(
    group: &mut Group,
    environment: &mut dyn Environment,
    now: Timestamp,
    switches: &Switches,
) -> u32 {
    let Some(refresh) = group.active_refresh() else {
        return group.desired;
    };
    let view = observe(group, refresh, environment, now);
    let mut actions = Vec::new();
    change(group, |refresh| {
        actions = refresh.advance(&view, now, switches);
    });
    for action in actions {
        carry_out(group, action, environment, now, switches);
    }
    group.active_refresh().map_or(group.desired, |refresh| {
        allowance(
            refresh,
            &observe(group, refresh, environment, now),
            now,
            switches,
        )
    })
}

/// Changes the active refresh, and logs the events that this adds.
fn change(group: &mut Group, change: impl FnOnce(&mut Refresh)) {
    let Some(refresh) = group.active_refresh_mut() else {
        return;
    };
    let known = refresh.events.len();
    change(refresh);
    for event in &refresh.events[known..] {
        tracing::info!(refresh = %refresh.id, "instance refresh {}", event.what);
    }
}

/// What the engine has to know about the group.
fn observe(
    group: &Group,
    refresh: &Refresh,
    environment: &dyn Environment,
    now: Timestamp,
) -> View {
    let order = taking_order(group, group.members.iter().filter(|m| m.state.is_counted()));
    let by_id: BTreeMap<&InstanceId, &Member> = group.members.iter().map(|m| (&m.id, m)).collect();
    let view_of = |member: &Member| MemberView {
        id: member.id.to_string(),
        role: refresh.role(member.id.as_str(), member.protected),
        in_service: member.state == LifecycleState::InService,
        healthy: member.is_healthy(),
        warm: member.is_warm(refresh.preferences.warmup, now),
        protected: member.protected,
    };
    View {
        desired: group.desired,
        max_size: group.max_size,
        members: order
            .iter()
            .filter_map(|id| by_id.get(id))
            .map(|member| view_of(member))
            .collect(),
        standby: if refresh.preferences.standby == InStandby::Ignore {
            Vec::new()
        } else {
            group
                .members
                .iter()
                .filter(|m| {
                    matches!(
                        m.state,
                        LifecycleState::Standby | LifecycleState::EnteringStandby
                    ) && refresh.todo.contains(m.id.as_str())
                })
                .map(|m| m.id.to_string())
                .collect()
        },
        removing: group.members.iter().any(|m| m.state.is_being_removed()),
        alarms: refresh
            .preferences
            .alarms
            .iter()
            .map(|name| (name.clone(), environment.alarm(name)))
            .collect(),
        suspended: ["InstanceRefresh", "Launch", "Terminate"]
            .iter()
            .any(|process| group.is_suspended(process)),
    }
}

fn carry_out(
    group: &mut Group,
    action: Action,
    environment: &mut dyn Environment,
    now: Timestamp,
    switches: &Switches,
) {
    match action {
        Action::Terminate(id) => {
            if let Some(position) = group.position(&InstanceId::unchecked(id)) {
                lifecycle::remove(group, position, Removal::Refresh, environment, now);
            }
        }
        Action::Launch => {
            if lifecycle::may_launch(group, now) {
                let cause = format!(
                    "At {} an instance was launched in response to an instance refresh.",
                    moment(now)
                );
                lifecycle::launch(group, environment, now, switches, &cause);
            }
        }
        Action::Ended(RefreshStatus::Successful) => adopt_desired(group),
        Action::Ended(_) => {}
        Action::RollBack(why) => roll_back(group, why, now),
    }
}

/// Saves the newest refresh's template: the group adopts the new configuration only after success.
fn adopt_desired(group: &mut Group) {
    let desired = group.refreshes.last().and_then(|r| r.desired.clone());
    if let Some(desired) = desired {
        group.template = desired;
    }
}

/// Starts the rollback of the active refresh.
pub(crate) fn roll_back(group: &mut Group, why: String, now: Timestamp) {
    let remaining: BTreeSet<InstanceId> = group
        .members
        .iter()
        .filter(|m| !m.state.is_being_removed())
        .map(|m| m.id.clone())
        .collect();
    change(group, |refresh| {
        refresh.roll_back(why, |id| remaining.contains(id), now);
    });
    // The failed launches were of the new configuration; the saved one may launch at once.
    group.launch_failures = 0;
    group.launch_not_before = None;
}
