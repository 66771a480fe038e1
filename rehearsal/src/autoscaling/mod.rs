//! Auto Scaling: groups, hooks, activities and instance refreshes.
//!
//! Owns everything an Auto Scaling group remembers and does; reaches instances, templates, target
//! groups and alarms only through [`world::World`], and knows no clock but the `now` it is given.
//!
//! `groups` and `members` are the types, `activities` the diary; `life` moves one member, `capacity`
//! keeps the group at its size, `refresh` replaces members; `api` speaks the query protocol;
//! `switches` names what AWS leaves open.
//!
//! # Not as on AWS
//!
//! - Groups have a launch template. Launch configurations, mixed instances policies, Classic Load
//!   Balancers, `MaxInstanceLifetime` and the strategy `ReplaceRootVolume` are refused with a
//!   ValidationError that names them. Warm pools, scaling policies, scheduled actions, notifications
//!   and AttachTrafficSources are `InvalidAction` (target groups attach by their own call).
//! - Hooks notify nobody: agents find their hook by instance id. An abandoned launch does not run the
//!   termination hooks.
//! - DefaultCooldown, CapacityRebalance and termination policies other than `OldestInstance`,
//!   `NewestInstance` and `Default` are kept and shown, without effect; so are weights.
//! - Unhealthy instances are replaced at once, not 10 % at a time, and terminated before their
//!   replacement is launched.
//! - A refresh does not wait for old instances that still drain or whose termination hook is open,
//!   unless the switch `success-waits-for-leaving` says so.
//! - A checkpoint that was passed does not fire again when capacity changes.
//! - Skip matching compares when the refresh starts, also for `$Latest`.
//! - Refreshes are remembered for good, activities up to 5,000 a group. Events go to the log.

use anyhow::Context as _;
use jiff::Timestamp;

pub(crate) mod activities;
mod api;
mod capacity;
pub(crate) mod groups;
mod life;
pub(crate) mod members;
pub(crate) mod refresh;
mod switches;
#[cfg(test)]
mod tests;
pub(crate) mod world;

pub(crate) use api::handle;
use groups::Group;
use switches::Switches;
use world::World;

use crate::table::{Changes, Series, Table, place, read};

/// Everything Auto Scaling remembers.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Groups by name.
    groups: Table<String, Group>,
    /// How the engine behaves where AWS says nothing.
    switches: Switches,
}

impl State {
    /// What changed since `before`.
    pub(crate) fn changes(&self, before: &Self, changes: &mut Changes) {
        for (name, was, now) in before.groups.changes(&self.groups) {
            if was.map(Group::settings) != now.map(Group::settings) {
                changes.put("autoscaling.groups", name.clone(), now);
            }
            // Copies that share everything.
            let members = |group: Option<&Group>| {
                group.map_or_else(Series::default, |group| group.members.clone())
            };
            let refreshes = |group: Option<&Group>| {
                group.map_or_else(Series::default, |group| group.refreshes.clone())
            };
            let history = |group: Option<&Group>| {
                group.map_or_else(Series::default, |group| group.diary.0.clone())
            };
            changes.series("autoscaling.members", name, &members(was), &members(now));
            changes.series(
                "autoscaling.refreshes",
                name,
                &refreshes(was),
                &refreshes(now),
            );
            changes.series("autoscaling.history", name, &history(was), &history(now));
        }
        changes.single("autoscaling.switches", &before.switches, &self.switches);
    }

    /// Takes a row back in; whether it is one of Auto Scaling's.
    ///
    /// # Errors
    /// When it is of another release.
    pub(crate) fn restore(&mut self, table: &str, key: &str, value: &[u8]) -> anyhow::Result<bool> {
        match table {
            "autoscaling.groups" => drop(self.groups.insert(key.to_owned(), read(value)?)),
            "autoscaling.switches" => self.switches = read(value)?,
            "autoscaling.members" | "autoscaling.refreshes" | "autoscaling.history" => {
                let (name, place) = place(key)?;
                let group = self.groups.get_mut(name).context("a part of no group")?;
                match table {
                    "autoscaling.members" => group.members.put(place, read(value)?),
                    "autoscaling.refreshes" => group.refreshes.put(place, read(value)?),
                    _ => group.diary.0.put(place, read(value)?),
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn group_of(&self, instance_id: &str) -> Option<&Group> {
        self.groups
            .values()
            .find(|g| g.member(instance_id).is_some())
    }
}

/// Moves every group and refresh as far as it can go now.
pub(crate) fn tick(state: &mut State, world: &mut dyn World, now: Timestamp) {
    let switches = &state.switches;
    let every = |_: &String, _: &Group| true;
    state.groups.update_where(every, |_, group| {
        life::advance(group, world, now, switches);
        if group.deleting {
            return;
        }
        let allowed = refresh::drive::step(group, world, now, switches);
        capacity::settle(group, world, now, switches, allowed);
    });
    state
        .groups
        .remove_where(|_, group| group.deleting && group.members.is_empty());
}

/// What IMDS shows as `autoscaling/target-lifecycle-state`.
pub(crate) fn target_lifecycle_state(state: &State, instance_id: &str) -> Option<String> {
    let member = state.group_of(instance_id)?.member(instance_id)?;
    Some(member.state.target().to_owned())
}

/// Sets a switch; `Err` says what it takes.
///
/// # Errors
/// When there is no such switch or it does not take this value.
pub(crate) fn set_switch(state: &mut State, name: &str, value: &str) -> Result<(), String> {
    state.switches.set(name, value)
}

/// A switch as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Switch {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it decides.
    pub(crate) what: &'static str,
    /// Its value.
    pub(crate) value: String,
    /// Its value where nobody touched it.
    pub(crate) usual: String,
}

/// All switches as they stand.
pub(crate) fn all_switches(state: &State) -> Vec<Switch> {
    let usual = Switches::default();
    switches::ALL
        .iter()
        .map(|(name, what)| Switch {
            name,
            what,
            value: state.switches.value(name),
            usual: usual.value(name),
        })
        .collect()
}

/// Names of all switches.
pub(crate) fn switch_names() -> impl Iterator<Item = &'static str> {
    switches::ALL.iter().map(|(name, _)| *name)
}

/// Whether there is such a switch.
pub(crate) fn is_switch(name: &str) -> bool {
    switch_names().any(|known| known == name)
}

/// All groups, by name.
pub(crate) fn groups(state: &State) -> impl Iterator<Item = &Group> {
    state.groups.values()
}
