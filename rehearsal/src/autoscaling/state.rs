//! The state of Auto Scaling, how it is written and read back, and what other modules read from it.

use anyhow::Context as _;
use instance_refresh::switches::{self, Switches};

use super::groups::Group;
use crate::ids::{GroupName, InstanceId};
use crate::table::{Changes, Series, Table, place, read};

/// The state of Auto Scaling.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Groups by name.
    pub(super) groups: Table<GroupName, Group>,
    /// How the engine behaves where AWS is undocumented.
    pub(super) switches: Switches,
}

impl State {
    /// What changed since `before`.
    pub(crate) fn changes(&self, before: &Self, changes: &mut Changes) {
        for (name, was, now) in before.groups.changes(&self.groups) {
            if was.map(Group::settings) != now.map(Group::settings) {
                changes.put("autoscaling.groups", name.to_string(), now);
            }
            // Cheap copies, which share the rows.
            let members = |group: Option<&Group>| {
                group.map_or_else(Series::default, |group| group.members.clone())
            };
            let refreshes = |group: Option<&Group>| {
                group.map_or_else(Series::default, |group| group.refreshes.clone())
            };
            let history = |group: Option<&Group>| {
                group.map_or_else(Series::default, |group| group.activity_log.0.clone())
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

    /// Reads a row back; returns whether it is one of Auto Scaling's.
    ///
    /// # Errors
    /// When it was written by another release.
    pub(crate) fn restore(&mut self, table: &str, key: &str, value: &[u8]) -> anyhow::Result<bool> {
        match table {
            "autoscaling.groups" => {
                drop(self.groups.insert(GroupName::new(key), read(value)?));
            }
            "autoscaling.switches" => self.switches = read(value)?,
            "autoscaling.members" | "autoscaling.refreshes" | "autoscaling.history" => {
                let (name, place) = place(key)?;
                let group = self
                    .groups
                    .get_mut(name)
                    .context("a row without its group")?;
                match table {
                    "autoscaling.members" => group.members.put(place, read(value)?),
                    "autoscaling.refreshes" => group.refreshes.put(place, read(value)?),
                    _ => group.activity_log.0.put(place, read(value)?),
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(super) fn group_of(&self, instance_id: &InstanceId) -> Option<&Group> {
        self.groups
            .values()
            .find(|g| g.member(instance_id).is_some())
    }
}

/// The value of `autoscaling/target-lifecycle-state` in IMDS.
pub(crate) fn target_lifecycle_state(state: &State, instance_id: &InstanceId) -> Option<String> {
    let member = state.group_of(instance_id)?.member(instance_id)?;
    Some(member.state.target().to_owned())
}

/// Sets a switch; `Err` lists the valid values.
///
/// # Errors
/// When there is no such switch or the value is not valid.
pub(crate) fn set_switch(state: &mut State, name: &str, value: &str) -> Result<(), String> {
    state.switches.set(name, value)
}

/// A switch and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Switch {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its description.
    pub(crate) what: &'static str,
    /// Its value.
    pub(crate) value: String,
    /// Its default.
    pub(crate) usual: String,
}

/// All switches and their values.
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
