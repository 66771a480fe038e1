//! `[services.<name>.checks.<check>]`: the agent's checks of a service, and what of them can be refused before a bake.
//!
//! The keys are the agent's own; docs/agent.md describes them.

use std::collections::{BTreeMap, BTreeSet};

use cloud::ids::ServiceName;
use serde::{Deserialize, Serialize};

/// What a check does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Http,
    Https,
    Tcp,
    Unix,
    Exec,
    Systemd,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Tcp => "tcp",
            Self::Unix => "unix",
            Self::Exec => "exec",
            Self::Systemd => "systemd",
        }
    }

    /// The keys that only some kinds have, and this one does. The first is required, but of `systemd`.
    const fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Http => &["url", "headers", "expect_status", "body_contains"],
            Self::Https => &[
                "url",
                "ca_file",
                "headers",
                "expect_status",
                "body_contains",
            ],
            Self::Tcp => &["address"],
            Self::Unix => &["socket"],
            Self::Exec => &["command"],
            Self::Systemd => &["unit"],
        }
    }
}

/// What a check decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Purpose {
    Startup,
    Readiness,
    Liveness,
}

/// One check.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Check {
    kind: Kind,
    url: Option<String>,
    ca_file: Option<String>,
    headers: Option<BTreeMap<String, String>>,
    expect_status: Option<Vec<String>>,
    body_contains: Option<String>,
    address: Option<String>,
    socket: Option<String>,
    command: Option<Vec<String>>,
    unit: Option<String>,
    timeout_seconds: Option<u32>,
    purpose: Option<BTreeSet<Purpose>>,
}

impl Check {
    /// The keys that are set, each with its value as TOML.
    pub(crate) fn rendered(&self) -> Vec<(String, String)> {
        let table = toml::Table::try_from(self).unwrap_or_default();
        let keys = table.into_iter();
        keys.map(|(key, value)| (key, value.to_string())).collect()
    }

    /// What the agent would refuse, and what can never pass.
    fn findings(&self, at: &str) -> Vec<String> {
        let given = [
            ("url", self.url.is_some()),
            ("ca_file", self.ca_file.is_some()),
            ("headers", self.headers.is_some()),
            ("expect_status", self.expect_status.is_some()),
            ("body_contains", self.body_contains.is_some()),
            ("address", self.address.is_some()),
            ("socket", self.socket.is_some()),
            ("command", self.command.is_some()),
            ("unit", self.unit.is_some()),
        ];
        let (kind, own) = (self.kind.as_str(), self.kind.keys());
        let mut findings = Vec::new();
        for (key, given) in given {
            if given && !own.contains(&key) {
                let own = own.join(", ");
                findings.push(format!(
                    "{at} {key} is not a key of kind `{kind}`: its own keys are {own}"
                ));
            }
            if !given && self.kind != Kind::Systemd && own.first() == Some(&key) {
                findings.push(format!("{at} {key} is missing: kind `{kind}` needs it"));
            }
        }
        findings.extend(self.wrong_values().map(|what| format!("{at} {what}")));
        findings
    }

    /// Values that the agent refuses, or with which the check can never pass.
    fn wrong_values(&self) -> impl Iterator<Item = String> {
        let scheme = self.kind.as_str();
        let never = "the check can never pass";
        let url = self.url.as_deref().filter(|url| !is_url(url, scheme));
        let address = self.address.as_deref().filter(|it| !is_address(it));
        let program = self.command.as_ref().map(|command| command.first());
        let program = program.filter(|it| it.is_none_or(|it| !it.starts_with('/')));
        let relative = |path: &Option<String>| path.clone().filter(|it| !it.starts_with('/'));
        let status = |text: &&String| !is_status(text);
        let statuses = self.expect_status.as_deref();
        let timeout = self.timeout_seconds.filter(|it| !(1..=60).contains(it));
        [
            url.map(|url| {
                format!("url `{url}` is not one that a check of kind `{scheme}` can request: {never}; use {scheme}://HOST:PORT/PATH")
            }),
            relative(&self.ca_file).map(|it| format!("ca_file `{it}` is not an absolute path on the image: {never}")),
            address.map(|it| format!("address `{it}` is not a host and a port such as 127.0.0.1:3306: {never}")),
            relative(&self.socket).map(|it| format!("socket `{it}` is not an absolute path: {never}")),
            program.map(|it| {
                let it = it.map_or("", String::as_str);
                format!("command begins with `{it}`, which is not the absolute path of a program: {never}")
            }),
            statuses.filter(|texts| texts.is_empty()).map(|_| format!("expect_status is empty: {never}")),
            statuses.and_then(|texts| texts.iter().find(status)).map(|it| {
                format!("expect_status `{it}` is not a status code or a range such as 200-299: {never}")
            }),
            self.unit.as_deref().filter(|it| !is_unit(it)).map(|it| {
                format!("unit `{}` is not the name of a systemd unit: {never}", it.escape_debug())
            }),
            timeout.map(|it| format!("timeout_seconds is {it}; it must be 1 to 60")),
            self.purpose.as_ref().filter(|it| it.is_empty()).map(|_| {
                "purpose is empty: use one or more of startup, readiness, liveness".to_owned()
            }),
            self.headers.as_ref().and_then(|headers| headers.iter().find(|it| !is_header(it))).map(|(name, _)| {
                format!("headers: `{}` is not a header that a check can send", name.escape_debug())
            }),
        ]
        .into_iter()
        .flatten()
    }
}

fn is_url(url: &str, scheme: &str) -> bool {
    let rest = url
        .strip_prefix(scheme)
        .and_then(|it| it.strip_prefix("://"));
    let host = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    host.is_some_and(|host| !host.is_empty() && !host.starts_with(':') && !host.contains('@'))
        && !url.contains(char::is_whitespace)
}

fn is_unit(text: &str) -> bool {
    let odd = |c: char| c.is_whitespace() || c.is_control() || c == '/';
    text.len() <= 255 && text.contains('.') && !text.contains(odd) && !text.starts_with(['.', '-'])
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && !host.contains(|c: char| c.is_whitespace() || c == '/')
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

fn is_status(text: &str) -> bool {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    match (from.parse::<u16>(), to.parse::<u16>()) {
        (Ok(from), Ok(to)) => (100..=599).contains(&from) && (from..=599).contains(&to),
        _ => false,
    }
}

fn is_header((name, value): &(&String, &String)) -> bool {
    let own = ["connection", "content-length", "transfer-encoding"];
    let fits = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    !name.is_empty()
        && name.chars().all(fits)
        && !own.contains(&name.to_ascii_lowercase().as_str())
        && !value.contains(|c: char| c.is_control() && c != '\t')
}

/// What is wrong with a service's checks.
pub(super) fn findings(name: &ServiceName, checks: &BTreeMap<String, Check>) -> Vec<String> {
    let mut findings = Vec::new();
    for (check, table) in checks {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if check.is_empty() || check.len() > 64 || !check.chars().all(fits) {
            findings.push(format!(
                "[services.{name}.checks] `{}` is not a name: letters, digits, `-`, `_` and `.`, at most 64",
                check.escape_debug()
            ));
        }
        findings.extend(table.findings(&format!("[services.{name}.checks.{check}]")));
    }
    findings
}

/// Unknown names in `after`, and services that wait for each other.
pub(super) fn order_findings(services: &BTreeMap<String, &[String]>) -> Vec<String> {
    let mut findings = Vec::new();
    let mut left = services.clone();
    for (name, after) in services {
        for other in after.iter().filter(|other| !left.contains_key(*other)) {
            let near = support::nearest(other, left.keys().map(String::as_str));
            let hint = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            findings.push(format!(
                "[services.{name}] after names `{}`, which is not a service here{hint}",
                other.escape_debug()
            ));
        }
    }
    // Removes what waits for nothing that is left, until all are removed or the rest waits for itself.
    loop {
        let waits = |before: &[String]| before.iter().any(|other| left.contains_key(other));
        let free: Vec<String> = left
            .iter()
            .filter(|(_, before)| !waits(before))
            .map(|(name, _)| name.clone())
            .collect();
        if free.is_empty() {
            break;
        }
        left.retain(|name, _| !free.contains(name));
    }
    if !left.is_empty() {
        let names: Vec<String> = left.into_keys().collect();
        findings.push(format!(
            "[services] {} wait for each other: remove one `after`",
            names.join(", ")
        ));
    }
    findings
}

#[cfg(test)]
mod tests;
