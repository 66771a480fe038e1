//! Auto Scaling: groups, hooks, activities and instance refreshes.
//!
//! Owns the state and behavior of Auto Scaling groups; reaches instances, templates, target groups and alarms only
//! through [`environment::Environment`], and has no clock but the `now` it is given.
//!
//! `groups` and `members` are the types, `activities` the activity log; `lifecycle` moves one member, `capacity` keeps
//! the group at its size, the crate `instance-refresh` decides about replacements and `refresh_driver` carries them out;
//! `api` is the query protocol.
//!
//! # Not as on AWS
//!
//! - Groups have a launch template. Launch configurations, mixed instances policies, Classic Load Balancers,
//!   `MaxInstanceLifetime` and the strategy `ReplaceRootVolume` are refused with a ValidationError that names them.
//!   Warm pools, scaling policies, scheduled actions, notifications and AttachTrafficSources are `InvalidAction`
//!   (target groups attach by their own call).
//! - Hooks send no notifications: agents find their hook by instance id. An abandoned launch does not run the
//!   termination hooks.
//! - DefaultCooldown, CapacityRebalance and termination policies other than `OldestInstance`, `NewestInstance` and
//!   `Default` are kept and shown, without effect; so are weights.
//! - Unhealthy instances are replaced at once, not 10 % at a time, and terminated before their replacement is launched.
//! - A refresh does not wait for old instances that still drain or whose termination hook is open, unless the switch
//!   `success-waits-for-leaving` is on.
//! - A checkpoint that was passed does not fire again when capacity changes.
//! - Skip matching compares when the refresh starts, also for `$Latest`.
//! - Refreshes are kept without limit, activities up to 5,000 per group. Events go to the log.

use jiff::Timestamp;

pub(crate) mod activities;
mod api;
mod capacity;
pub(crate) mod environment;
pub(crate) mod groups;
mod lifecycle;
pub(crate) mod members;
mod refresh_calls;
mod refresh_driver;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use api::handle;
use environment::Environment;
use groups::Group;

use crate::ids::GroupName;
pub(crate) use state::{
    State, all_switches, groups, is_switch, set_switch, switch_names, target_lifecycle_state,
};

/// Moves every group and refresh on, as far as possible now.
pub(crate) fn tick(state: &mut State, environment: &mut dyn Environment, now: Timestamp) {
    let switches = &state.switches;
    let every = |_: &GroupName, _: &Group| true;
    state.groups.update_where(every, |_, group| {
        lifecycle::advance(group, environment, now, switches);
        if group.deleting {
            return;
        }
        let allowed = refresh_driver::step(group, environment, now, switches);
        capacity::settle(group, environment, now, switches, allowed);
    });
    state
        .groups
        .remove_where(|_, group| group.deleting && group.members.is_empty());
}
