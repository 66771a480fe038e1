//! The order of services: `after`.

use std::collections::BTreeMap;

/// What is wrong with the order of services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderFinding<'a> {
    /// A service waits for one that there is not.
    Unknown {
        /// The service.
        service: &'a str,
        /// The name that no service has.
        other: &'a str,
    },
    /// These services wait for each other.
    Cycle(Vec<&'a str>),
}

/// Unknown names in `after`, and services that wait for each other. `after` by service.
#[must_use]
pub fn order_findings<'a>(after: &BTreeMap<&'a str, &'a [String]>) -> Vec<OrderFinding<'a>> {
    let mut findings = Vec::new();
    for (service, before) in after {
        let unknown = before.iter().filter(|it| !after.contains_key(it.as_str()));
        findings.extend(unknown.map(|other| OrderFinding::Unknown { service, other }));
    }
    // Removes what waits for nothing that is left, until all are removed or the rest waits for itself.
    let mut left = after.clone();
    loop {
        let waits = |before: &[String]| before.iter().any(|it| left.contains_key(it.as_str()));
        let free: Vec<&str> = left
            .iter()
            .filter(|(_, before)| !waits(before))
            .map(|(name, _)| *name)
            .collect();
        if free.is_empty() {
            break;
        }
        left.retain(|name, _| !free.contains(name));
    }
    if !left.is_empty() {
        findings.push(OrderFinding::Cycle(left.into_keys().collect()));
    }
    findings
}
