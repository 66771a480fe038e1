//! Switches for behavior that AWS leaves open: each with a name and a stated default.
//!
//! Owns the names, the defaults and the parsing. Must not depend on the state machine, which reads the fields.

use serde::{Deserialize, Serialize};

/// How the cap of a refresh (MaxHealthyPercentage of desired) is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rounding {
    /// Down: 110 % of 5 is 5.
    Floor,
    /// Up: 110 % of 5 is 6.
    Ceil,
}

/// What happens with Min 100 and no Max: the guide and the API reference disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoMaxOrder {
    /// Terminate and launch at the same time (API reference).
    Together,
    /// Launch first (user guide).
    LaunchFirst,
}

/// Whether the next replacement may start before the whole batch is warm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Batches {
    /// As soon as the bounds permit.
    Continuous,
    /// Only when everything launched so far is warm.
    Strict,
}

/// What sets the stall clock back to zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StallReset {
    /// More replacements that are healthy and warm at the same time than ever before in this refresh.
    MoreUpdated,
    /// Any replacement that becomes healthy and warm, also in place of one that was lost.
    NewlyReady,
    /// Nothing: the stalls of the whole refresh add up.
    Never,
}

/// What InstancesToUpdate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToUpdate {
    /// Instances whose replacement was not launched yet.
    NotStarted,
    /// Instances whose replacement is not healthy and warm yet.
    NotUpdated,
}

/// Every switch of the Auto Scaling engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Switches {
    /// `stall-limit`: seconds without progress until a refresh fails; 3600 as documented.
    pub stall_limit: u32,
    /// `stall-reset`: `more-updated`, `newly-ready` or `never`.
    pub stall_reset: StallReset,
    /// `relaunch-delay`: seconds to wait after a failed launch, doubled per failure up to 300.
    pub relaunch_delay: u32,
    /// `max-rounding`: `floor` or `ceil`.
    pub max_rounding: Rounding,
    /// `no-max-order`: `together` or `launch-first`, for Min 100 with Max omitted.
    pub no_max_order: NoMaxOrder,
    /// `batches`: `continuous` or `strict`.
    pub batches: Batches,
    /// `alarms-while-baking`: on: an alarm during the bake time fails the refresh.
    pub alarms_while_baking: bool,
    /// `rollback-while-baking`: on: RollbackInstanceRefresh is accepted during the bake time.
    pub rollback_while_baking: bool,
    /// `checkpoints-in-rollback`: on: a rollback stops at checkpoints and has a bake time.
    pub checkpoints_in_rollback: bool,
    /// `surge-beyond-max-size`: on: MaxHealthyPercentage may exceed the group's MaxSize.
    pub surge_beyond_max_size: bool,
    /// `to-update`: `not-started` or `not-updated`.
    pub to_update: ToUpdate,
    /// `percent-counts-matching`: on: instances skipped by skip matching count as done.
    pub percent_counts_matching: bool,
    /// `success-waits-for-leaving`: whether a refresh ends only when the old instances are terminated, and not while
    /// they drain or wait at their termination hook.
    pub success_waits_for_leaving: bool,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            stall_limit: 3600,
            stall_reset: StallReset::MoreUpdated,
            relaunch_delay: 5,
            max_rounding: Rounding::Floor,
            no_max_order: NoMaxOrder::Together,
            batches: Batches::Continuous,
            alarms_while_baking: true,
            rollback_while_baking: true,
            checkpoints_in_rollback: false,
            surge_beyond_max_size: true,
            to_update: ToUpdate::NotStarted,
            percent_counts_matching: false,
            success_waits_for_leaving: false,
        }
    }
}

/// The name and description of each switch.
pub const ALL: [(&str, &str); 13] = [
    (
        "stall-limit",
        "seconds without progress until a refresh fails",
    ),
    (
        "stall-reset",
        "what sets the stall clock back: more-updated, newly-ready or never",
    ),
    (
        "relaunch-delay",
        "seconds to wait after a failed launch, doubled per failure up to 300",
    ),
    (
        "max-rounding",
        "how MaxHealthyPercentage of the desired capacity is rounded: floor or ceil",
    ),
    (
        "no-max-order",
        "Min 100 without Max: together, or launch-first",
    ),
    (
        "batches",
        "start the next replacement when the bounds permit (continuous), or when all launched instances are warm (strict)",
    ),
    (
        "alarms-while-baking",
        "on: an alarm during the bake time fails the refresh",
    ),
    (
        "rollback-while-baking",
        "on: RollbackInstanceRefresh is accepted during the bake time",
    ),
    (
        "checkpoints-in-rollback",
        "on: a rollback stops at checkpoints and has a bake time",
    ),
    (
        "surge-beyond-max-size",
        "on: MaxHealthyPercentage may exceed the group's MaxSize",
    ),
    (
        "to-update",
        "what InstancesToUpdate counts: not-started or not-updated",
    ),
    (
        "percent-counts-matching",
        "on: instances skipped by skip matching count as done",
    ),
    (
        "success-waits-for-leaving",
        "on: a refresh ends only when the old instances are terminated",
    ),
];

/// The values of a switch, each with its word.
type Words<T> = &'static [(&'static str, T)];

const ON_OFF: Words<bool> = &[("on", true), ("off", false)];
const STALL_RESET: Words<StallReset> = &[
    ("more-updated", StallReset::MoreUpdated),
    ("newly-ready", StallReset::NewlyReady),
    ("never", StallReset::Never),
];
const MAX_ROUNDING: Words<Rounding> = &[("floor", Rounding::Floor), ("ceil", Rounding::Ceil)];
const NO_MAX_ORDER: Words<NoMaxOrder> = &[
    ("together", NoMaxOrder::Together),
    ("launch-first", NoMaxOrder::LaunchFirst),
];
const BATCHES: Words<Batches> = &[
    ("continuous", Batches::Continuous),
    ("strict", Batches::Strict),
];
const TO_UPDATE: Words<ToUpdate> = &[
    ("not-started", ToUpdate::NotStarted),
    ("not-updated", ToUpdate::NotUpdated),
];

/// A switch of [`Switches`], to read or set it by its name.
enum Field<'a> {
    Seconds(&'a mut u32),
    Flag(&'a mut bool),
    StallReset(&'a mut StallReset),
    Rounding(&'a mut Rounding),
    NoMaxOrder(&'a mut NoMaxOrder),
    Batches(&'a mut Batches),
    ToUpdate(&'a mut ToUpdate),
}

impl Switches {
    /// The value of the switch called `name`, as [`Switches::set`] takes it; empty when there is none.
    pub fn value(&self, name: &str) -> String {
        match self.clone().field(name) {
            Some(Field::Seconds(value)) => value.to_string(),
            Some(Field::Flag(value)) => word(ON_OFF, value),
            Some(Field::StallReset(value)) => word(STALL_RESET, value),
            Some(Field::Rounding(value)) => word(MAX_ROUNDING, value),
            Some(Field::NoMaxOrder(value)) => word(NO_MAX_ORDER, value),
            Some(Field::Batches(value)) => word(BATCHES, value),
            Some(Field::ToUpdate(value)) => word(TO_UPDATE, value),
            None => String::new(),
        }
    }

    /// Sets the switch called `name`.
    ///
    /// # Errors
    /// When there is no such switch, or the value is not valid; the text lists what is.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match self.field(name) {
            Some(Field::Seconds(field)) => *field = seconds(name, value)?,
            Some(Field::Flag(field)) => *field = one_of(name, value, ON_OFF)?,
            Some(Field::StallReset(field)) => *field = one_of(name, value, STALL_RESET)?,
            Some(Field::Rounding(field)) => *field = one_of(name, value, MAX_ROUNDING)?,
            Some(Field::NoMaxOrder(field)) => *field = one_of(name, value, NO_MAX_ORDER)?,
            Some(Field::Batches(field)) => *field = one_of(name, value, BATCHES)?,
            Some(Field::ToUpdate(field)) => *field = one_of(name, value, TO_UPDATE)?,
            None => {
                let names = ALL.map(|(name, _)| name);
                return Err(format!(
                    "unknown switch {name}\nhint: use one of {}",
                    names.join(", ")
                ));
            }
        }
        Ok(())
    }

    fn field(&mut self, name: &str) -> Option<Field<'_>> {
        Some(match name {
            "stall-limit" => Field::Seconds(&mut self.stall_limit),
            "stall-reset" => Field::StallReset(&mut self.stall_reset),
            "relaunch-delay" => Field::Seconds(&mut self.relaunch_delay),
            "max-rounding" => Field::Rounding(&mut self.max_rounding),
            "no-max-order" => Field::NoMaxOrder(&mut self.no_max_order),
            "batches" => Field::Batches(&mut self.batches),
            "alarms-while-baking" => Field::Flag(&mut self.alarms_while_baking),
            "rollback-while-baking" => Field::Flag(&mut self.rollback_while_baking),
            "checkpoints-in-rollback" => Field::Flag(&mut self.checkpoints_in_rollback),
            "surge-beyond-max-size" => Field::Flag(&mut self.surge_beyond_max_size),
            "to-update" => Field::ToUpdate(&mut self.to_update),
            "percent-counts-matching" => Field::Flag(&mut self.percent_counts_matching),
            "success-waits-for-leaving" => Field::Flag(&mut self.success_waits_for_leaving),
            _ => return None,
        })
    }
}

fn word<T: PartialEq + 'static>(words: Words<T>, value: &T) -> String {
    let found = words.iter().find(|(_, choice)| choice == value);
    found.map_or_else(String::new, |(word, _)| (*word).to_owned())
}

fn seconds(name: &str, value: &str) -> Result<u32, String> {
    value
        .parse()
        .map_err(|_| format!("{name} takes a number of seconds, not {value:?}"))
}

fn one_of<T: Copy + 'static>(name: &str, value: &str, choices: Words<T>) -> Result<T, String> {
    choices
        .iter()
        .find(|(word, _)| *word == value)
        .map(|(_, choice)| *choice)
        .ok_or_else(|| {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            format!("{name} takes {}, not {value:?}", words.join(" or "))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_switch_is_settable_and_errors_list_valid_values() {
        let mut switches = Switches::default();
        for (name, _) in ALL {
            let message = switches.set(name, "nonsense").expect_err(name);
            assert!(message.starts_with(name), "{message}");
            let value = switches.value(name);
            switches.set(name, &value).expect("its own value");
            assert_eq!(switches, Switches::default(), "{name} {value}");
        }
        switches.set("stall-limit", "90").expect("a number");
        assert_eq!(switches.stall_limit, 90);
        switches.set("batches", "strict").expect("a choice");
        assert_eq!(switches.batches, Batches::Strict);
        assert!(
            switches
                .set("stal-limit", "1")
                .expect_err("typo")
                .contains("hint: use one of")
        );
    }
}
