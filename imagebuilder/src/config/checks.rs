//! `[services.<name>.checks.<check>]`: the agent's checks of a service, and what of them can be refused before a bake.
//!
//! The keys are the agent's own, in [`contract::checks`]; docs/agent.md describes them.

use std::collections::BTreeMap;

use cloud::ids::ServiceName;
use contract::checks::{self, CheckTable, Finding, OrderFinding};

/// What the agent would refuse of the checks of a service whose unit is `unit`.
pub(super) fn findings(
    name: &ServiceName,
    unit: &str,
    tables: &BTreeMap<String, CheckTable>,
) -> Vec<String> {
    let mut findings = Vec::new();
    for (check, table) in tables {
        if !checks::is_name(check) {
            findings.push(format!(
                "[services.{name}.checks] `{}` is not a name: {}",
                check.escape_debug(),
                checks::NAME
            ));
        }
        let at = format!("[services.{name}.checks.{check}]");
        let refused = table.check(check, unit).err().unwrap_or_default();
        findings.extend(refused.iter().map(|finding| sentence(&at, finding)));
        findings.extend(short_unit(&at, table));
    }
    findings
}

fn sentence(at: &str, finding: &Finding) -> String {
    let Finding {
        key, problem, fix, ..
    } = finding;
    match &finding.value {
        Some(value) => format!("{at} {key} `{}` is {problem}: {fix}", value.escape_debug()),
        None => format!("{at} {key} is {problem}: {fix}"),
    }
}

/// A unit without its kind. systemd adds `.service`, so the agent takes it; here a unit has one name wherever it is named.
fn short_unit(at: &str, table: &CheckTable) -> Option<String> {
    let unit = table.unit()?;
    (!unit.contains('.')).then(|| {
        let unit = unit.escape_debug();
        format!(
            "{at} unit `{unit}` is not the whole name of a systemd unit: such as {unit}.service"
        )
    })
}

/// Unknown names in `after`, and services that wait for each other.
pub(super) fn order_findings(services: &BTreeMap<&str, &[String]>) -> Vec<String> {
    let sentence = |finding| match finding {
        OrderFinding::Unknown { service, other } => {
            let near = support::nearest(other, services.keys().copied());
            let hint = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            format!(
                "[services.{service}] after names `{}`, which is not a service here{hint}",
                other.escape_debug()
            )
        }
        OrderFinding::Cycle(names) => format!(
            "[services] {} wait for each other: remove one `after`",
            names.join(", ")
        ),
    };
    let findings = checks::order_findings(services).into_iter();
    findings.map(sentence).collect()
}

#[cfg(test)]
mod tests;
