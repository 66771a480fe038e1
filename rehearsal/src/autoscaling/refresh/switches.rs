//! Switches for behavior that AWS leaves open: each with a name and a stated default.
//!
//! Owns the names, the defaults and the parsing. Must not depend on the engine, which reads the fields.

use serde::{Deserialize, Serialize};

/// How the cap of a refresh (MaxHealthyPercentage of desired) is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Rounding {
    /// Down: 110 % of 5 is 5.
    Floor,
    /// Up: 110 % of 5 is 6.
    Ceil,
}

/// What happens with Min 100 and no Max: the guide and the API reference disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum NoMaxOrder {
    /// Terminate and launch at the same time (API reference).
    Together,
    /// Launch first (user guide).
    LaunchFirst,
}

/// Whether the next replacement may start before the whole batch is warm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Batches {
    /// As soon as the bounds permit.
    Continuous,
    /// Only when everything launched so far is warm.
    Strict,
}

/// What sets the stall clock back to zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StallReset {
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
pub(crate) enum ToUpdate {
    /// Instances whose replacement was not launched yet.
    NotStarted,
    /// Instances whose replacement is not healthy and warm yet.
    NotUpdated,
}

/// Every switch of the Auto Scaling engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Switches {
    /// `stall-limit`: seconds without progress until a refresh fails; 3600 as documented.
    pub(crate) stall_limit: u32,
    /// `stall-reset`: `more-updated`, `newly-ready` or `never`.
    pub(crate) stall_reset: StallReset,
    /// `relaunch-delay`: seconds to wait after a failed launch, doubled per failure up to 300.
    pub(crate) relaunch_delay: u32,
    /// `max-rounding`: `floor` or `ceil`.
    pub(crate) max_rounding: Rounding,
    /// `no-max-order`: `together` or `launch-first`, for Min 100 with Max omitted.
    pub(crate) no_max_order: NoMaxOrder,
    /// `batches`: `continuous` or `strict`.
    pub(crate) batches: Batches,
    /// `alarms-while-baking`: on: an alarm during the bake time fails the refresh.
    pub(crate) alarms_while_baking: bool,
    /// `rollback-while-baking`: on: RollbackInstanceRefresh is accepted during the bake time.
    pub(crate) rollback_while_baking: bool,
    /// `checkpoints-in-rollback`: on: a rollback stops at checkpoints and has a bake time.
    pub(crate) checkpoints_in_rollback: bool,
    /// `surge-beyond-max-size`: on: MaxHealthyPercentage may exceed the group's MaxSize.
    pub(crate) surge_beyond_max_size: bool,
    /// `to-update`: `not-started` or `not-updated`.
    pub(crate) to_update: ToUpdate,
    /// `percent-counts-matching`: on: instances skipped by skip matching count as done.
    pub(crate) percent_counts_matching: bool,
    /// `success-waits-for-leaving`: whether a refresh ends only when the old instances are terminated, and not while
    /// they drain or wait at their termination hook.
    pub(crate) success_waits_for_leaving: bool,
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
pub(crate) const ALL: [(&str, &str); 13] = [
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

impl Switches {
    /// The value of the switch called `name`, as [`Switches::set`] takes it.
    pub(crate) fn value(&self, name: &str) -> String {
        let fields = serde_json::to_value(self).unwrap_or_default();
        match &fields[name.replace('-', "_")] {
            serde_json::Value::Bool(true) => "on".to_owned(),
            serde_json::Value::Bool(false) => "off".to_owned(),
            serde_json::Value::String(word) => word.clone(),
            number => number.to_string(),
        }
    }

    /// Sets the switch `name`; `Err` lists the valid values.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "stall-limit" => self.stall_limit = seconds(name, value)?,
            "stall-reset" => {
                self.stall_reset = one_of(
                    name,
                    value,
                    &[
                        ("more-updated", StallReset::MoreUpdated),
                        ("newly-ready", StallReset::NewlyReady),
                        ("never", StallReset::Never),
                    ],
                )?;
            }
            "relaunch-delay" => self.relaunch_delay = seconds(name, value)?,
            "max-rounding" => {
                self.max_rounding = one_of(
                    name,
                    value,
                    &[("floor", Rounding::Floor), ("ceil", Rounding::Ceil)],
                )?;
            }
            "no-max-order" => {
                self.no_max_order = one_of(
                    name,
                    value,
                    &[
                        ("together", NoMaxOrder::Together),
                        ("launch-first", NoMaxOrder::LaunchFirst),
                    ],
                )?;
            }
            "batches" => {
                self.batches = one_of(
                    name,
                    value,
                    &[
                        ("continuous", Batches::Continuous),
                        ("strict", Batches::Strict),
                    ],
                )?;
            }
            "alarms-while-baking" => self.alarms_while_baking = on_off(name, value)?,
            "rollback-while-baking" => self.rollback_while_baking = on_off(name, value)?,
            "checkpoints-in-rollback" => self.checkpoints_in_rollback = on_off(name, value)?,
            "surge-beyond-max-size" => self.surge_beyond_max_size = on_off(name, value)?,
            "to-update" => {
                self.to_update = one_of(
                    name,
                    value,
                    &[
                        ("not-started", ToUpdate::NotStarted),
                        ("not-updated", ToUpdate::NotUpdated),
                    ],
                )?;
            }
            "percent-counts-matching" => self.percent_counts_matching = on_off(name, value)?,
            "success-waits-for-leaving" => self.success_waits_for_leaving = on_off(name, value)?,
            _ => {
                let names = ALL.map(|(name, _)| name);
                return Err(format!(
                    "unknown switch {name}\nhint: use one of {}",
                    names.join(", ")
                ));
            }
        }
        Ok(())
    }
}

fn seconds(name: &str, value: &str) -> Result<u32, String> {
    value
        .parse()
        .map_err(|_| format!("{name} takes a number of seconds, not {value:?}"))
}

fn on_off(name: &str, value: &str) -> Result<bool, String> {
    one_of(name, value, &[("on", true), ("off", false)])
}

fn one_of<T: Copy>(name: &str, value: &str, choices: &[(&str, T)]) -> Result<T, String> {
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
