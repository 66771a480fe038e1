//! `[services.NAME.checks.CHECK]` and `after`: the keys that imagebuilder and the agent share, refused at their place.
//!
//! What a check may be is [`contract::checks`]'; this module makes none, see [`crate::health`]. A refusal has no value: it may be
//! user data's, and so a secret.

use std::collections::BTreeMap;

use anyhow::Result;
use contract::checks::{self, Check, CheckTable, OrderFinding};

use super::refusal::refused;

/// Validates the check `name` at `at`, the table's path.
pub(super) fn validate(at: &str, name: &str, unit: &str, table: &CheckTable) -> Result<Check> {
    if !checks::is_name(name) {
        let known = checks::NAME;
        return refused(format!("services.….checks: not a name\nhint: {known}"));
    }
    table.check(name, unit).or_else(|findings| {
        let first = findings.into_iter().next();
        refused(first.map_or_else(
            || format!("{at}: not a check"),
            |it| format!("{at}.{}: {}\nhint: {}", it.key, it.problem, it.fix),
        ))
    })
}

/// Refuses unknown names in `after`, and services that wait for each other. `after` by service.
pub(super) fn refuse_bad_order(after: &BTreeMap<&str, &[String]>) -> Result<()> {
    match checks::order_findings(after).into_iter().next() {
        None => Ok(()),
        Some(OrderFinding::Unknown { service, other }) => {
            let near = support::nearest(other, after.keys().copied());
            let hint = near.map_or_else(String::new, |near| {
                format!("\nhint: did you mean `{near}`?")
            });
            refused(format!(
                "services.{service}.after: an unknown service{hint}"
            ))
        }
        Some(OrderFinding::Cycle(names)) => refused(format!(
            "services: {} wait for each other\nhint: remove one `after`",
            names.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests;
