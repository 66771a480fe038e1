//! Observes a group for its refresh, calls `decide`, and carries out its moves.
//!
//! Must not contain a rule of its own: `decide` decides.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::activities::moment;
use super::capacity::taking_order;
use super::environment::Environment;
use super::groups::Group;
use super::lifecycle::{self, Removal};
use super::members::{LifecycleState, Member};
use super::refresh::decide::{self, MemberView, Move, Role, View};
use super::refresh::switches::{StallReset, Switches};
use super::refresh::{
    InStandby, Mark, Protected, Refresh, RefreshStatus, RollbackDetails, StallClock,
};

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
    let decision = decide::decide(
        refresh,
        &observe(group, refresh, environment, now),
        now,
        switches,
    );
    if let Some(refresh) = group.active_refresh_mut() {
        refresh.percent = decision.percent;
        refresh.to_update = decision.to_update;
        refresh.reason = decision.reason;
        if decision.progress {
            let forget = switches.stall_reset != StallReset::Never;
            let warmup = refresh.preferences.warmup;
            refresh.stall.progress(warmup, forget, now);
        }
        refresh.mark = decision.mark;
        refresh.seen_ready.extend(decision.newly_ready);
        refresh.stall.run(decision.pace, now);
    }
    for next in decision.moves {
        act(group, next, environment, now, switches);
    }
    group.active_refresh().map_or(group.desired, |refresh| {
        decide::allowance(
            refresh,
            &observe(group, refresh, environment, now),
            now,
            switches,
        )
    })
}

/// The input of `decide`.
fn observe(
    group: &Group,
    refresh: &Refresh,
    environment: &dyn Environment,
    now: Timestamp,
) -> View {
    let order = taking_order(group, group.members.iter().filter(|m| m.state.is_counted()));
    let by_id: BTreeMap<&str, &Member> = group.members.iter().map(|m| (m.id.as_str(), m)).collect();
    let view_of = |member: &Member| MemberView {
        id: member.id.clone(),
        role: role(refresh, member),
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
            .filter_map(|id| by_id.get(id.as_str()))
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
                    ) && refresh.todo.contains(&m.id)
                })
                .map(|m| m.id.clone())
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

fn role(refresh: &Refresh, member: &Member) -> Role {
    if refresh.launched.contains(&member.id) {
        Role::New
    } else if !refresh.todo.contains(&member.id)
        || (member.protected && refresh.preferences.protected == Protected::Ignore)
    {
        Role::Outside
    } else {
        Role::Old
    }
}

fn act(
    group: &mut Group,
    next: Move,
    environment: &mut dyn Environment,
    now: Timestamp,
    switches: &Switches,
) {
    match next {
        Move::Terminate(id) => {
            if let Some(position) = group.position(&id) {
                lifecycle::remove(group, position, Removal::Refresh, environment, now);
            }
        }
        Move::Launch => {
            if lifecycle::may_launch(group, now) {
                let cause = format!(
                    "At {} an instance was launched in response to an instance refresh.",
                    moment(now)
                );
                lifecycle::launch(group, environment, now, switches, &cause);
            }
        }
        Move::End(status, why) => end(group, status, why, now),
        Move::Begin => {
            if let Some(refresh) = group.active_refresh_mut() {
                refresh.status = RefreshStatus::InProgress;
                refresh.event("Started", now);
            }
        }
        Move::Checkpoint {
            reached,
            next,
            until,
        } => {
            if let Some(refresh) = group.active_refresh_mut() {
                refresh.next_checkpoint = next;
                refresh.hold_until = Some(until);
                if let Some(percent) = reached {
                    refresh.event(format!("Checkpoint Reached ({percent})"), now);
                }
            }
        }
        Move::Bake(until) => {
            if let Some(refresh) = group.active_refresh_mut() {
                refresh.status = RefreshStatus::Baking;
                refresh.bake_until = Some(until);
                refresh.event("Started Baking", now);
            }
        }
        Move::RollBack(why) => roll_back(group, why, now),
    }
}

fn end(group: &mut Group, status: RefreshStatus, why: Option<String>, now: Timestamp) {
    let Some(refresh) = group.active_refresh_mut() else {
        return;
    };
    refresh.status = status;
    refresh.reason = why;
    refresh.ended = Some(now);
    refresh.event(
        match status {
            RefreshStatus::Successful => "Succeeded",
            RefreshStatus::Cancelled => "Cancelled",
            RefreshStatus::RollbackSuccessful => "Rollback Succeeded",
            RefreshStatus::RollbackFailed => "Rollback Failed",
            _ => "Failed",
        },
        now,
    );
    // The group adopts the new configuration only after success.
    if status == RefreshStatus::Successful
        && let Some(desired) = refresh.desired.clone()
    {
        group.template = desired;
    }
}

/// Starts the rollback of the active refresh: its new members are replaced by ones with the saved template.
pub(crate) fn roll_back(group: &mut Group, why: String, now: Timestamp) {
    let alive: Vec<String> = group
        .members
        .iter()
        .filter(|m| !m.state.is_being_removed())
        .map(|m| m.id.clone())
        .collect();
    let Some(refresh) = group.active_refresh_mut() else {
        return;
    };
    refresh.launched.retain(|id| alive.contains(id));
    refresh.todo = std::mem::take(&mut refresh.launched);
    refresh.matching.clear();
    refresh.seen_ready.clear();
    refresh.rollback = Some(RollbackDetails {
        reason: why,
        started: now,
        percent: refresh.percent,
        to_update: refresh.to_update,
        to_undo: u32::try_from(refresh.todo.len()).unwrap_or(u32::MAX),
    });
    refresh.target = refresh.previous.clone();
    refresh.status = RefreshStatus::RollbackInProgress;
    refresh.reason = None;
    refresh.next_checkpoint = 0;
    refresh.hold_until = None;
    refresh.bake_until = None;
    refresh.stall = StallClock::default();
    refresh.mark = Mark::default();
    refresh.event("Rollback Started", now);
    // The failed launches were of the new configuration; the saved one may launch at once.
    group.launch_failures = 0;
    group.launch_not_before = None;
}
