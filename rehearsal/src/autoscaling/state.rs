//! Everything Auto Scaling remembers, how it is written and read back, and what others ask of it.

use anyhow::Context as _;

use super::groups::Group;
use super::refresh::switches::{self, Switches};
use crate::table::{Changes, Series, Table, place, read};

/// Everything Auto Scaling remembers.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Groups by name.
    pub(super) groups: Table<String, Group>,
    /// How the engine behaves where AWS says nothing.
    pub(super) switches: Switches,
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
                    _ => group.activity_log.0.put(place, read(value)?),
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(super) fn group_of(&self, instance_id: &str) -> Option<&Group> {
        self.groups
            .values()
            .find(|g| g.member(instance_id).is_some())
    }
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
