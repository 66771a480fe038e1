//! `[services.NAME.checks.CHECK]`: what a check does, when it counts, and which keys belong to which kind.
//!
//! It makes no check; see [`crate::health`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Uri, header};
use serde::Deserialize;

use super::refusal::{refused, seconds};

/// The kinds of checks, as settings name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KindName {
    Http,
    Https,
    Tcp,
    Unix,
    Exec,
    Systemd,
}

impl KindName {
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

    /// The keys that only some kinds have, and this one does.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Purpose {
    /// Must pass once before the other checks are made; not made afterwards.
    Startup,
    /// Decides whether the service is fit.
    Readiness,
    /// Decides whether the service is restarted.
    Liveness,
}

fragment!(
    /// One check as a source has it.
    CheckFragment {
        kind: KindName,
        url: String,
        ca_file: PathBuf,
        headers: BTreeMap<String, String>,
        expect_status: Vec<String>,
        body_contains: String,
        address: String,
        socket: PathBuf,
        command: Vec<String>,
        unit: String,
        timeout_seconds: u64,
        purpose: BTreeSet<Purpose>,
    }
);

/// One check of a service.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    /// Its name; empty for `health_url` and for the check of a service without any.
    pub(crate) name: String,
    /// What is done.
    pub(crate) kind: CheckKind,
    /// How long it may take; `None`: as long as fits the interval.
    pub(crate) timeout: Option<Duration>,
    /// What it decides; never empty.
    pub(crate) purposes: BTreeSet<Purpose>,
}

/// What a check does.
#[derive(Clone, Debug)]
pub(crate) enum CheckKind {
    /// One GET by HTTP or HTTPS.
    Http(HttpCheck),
    /// Connect to `host:port`.
    Tcp(String),
    /// Connect to a Unix socket.
    Unix(PathBuf),
    /// Run a program; exit code 0 passes.
    Exec(Vec<String>),
    /// The unit must be active.
    Systemd(String),
}

/// A GET and what its answer must be.
#[derive(Clone, Debug)]
pub(crate) struct HttpCheck {
    /// The URL; its scheme is `http` or `https`.
    pub(crate) uri: Uri,
    /// The authorities that are trusted instead of the system's.
    pub(crate) ca_file: Option<PathBuf>,
    /// Sent with the request.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// The status codes that pass.
    pub(crate) statuses: Vec<RangeInclusive<u16>>,
    /// Text that the answer must contain.
    pub(crate) body_contains: Option<String>,
}

impl HttpCheck {
    /// A plain GET whose answer is 2xx.
    pub(crate) fn plain(uri: Uri) -> Self {
        Self {
            uri,
            ca_file: None,
            headers: Vec::new(),
            statuses: vec![200..=299],
            body_contains: None,
        }
    }
}

/// What a check without `purpose` decides.
fn usual_purposes() -> BTreeSet<Purpose> {
    [Purpose::Readiness, Purpose::Liveness].into()
}

impl Check {
    /// The check of `health_url`.
    pub(super) fn of_health_url(uri: Uri) -> Self {
        Self {
            name: String::new(),
            kind: CheckKind::Http(HttpCheck::plain(uri)),
            timeout: None,
            purposes: usual_purposes(),
        }
    }

    /// The check of a service that has no other: its unit is active.
    pub(super) fn of_unit(unit: &str) -> Self {
        Self {
            name: String::new(),
            kind: CheckKind::Systemd(unit.to_owned()),
            timeout: None,
            purposes: usual_purposes(),
        }
    }

    /// Validates the check `name` at `at`, the table's path.
    pub(super) fn validate(at: &str, name: &str, unit: &str, table: CheckFragment) -> Result<Self> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > support::text::NAME || !name.chars().all(fits) {
            return refused(
                "services.….checks: not a name\nhint: letters, digits, `-`, `_` and `.`, at most 64",
            );
        }
        let Some(kind) = table.kind else {
            return refused(format!(
                "{at}.kind: missing\nhint: one of http, https, tcp, unix, exec, systemd"
            ));
        };
        table.refuse_other_keys(at, kind)?;
        let purposes = table.purpose.clone().unwrap_or_else(usual_purposes);
        if purposes.is_empty() {
            return refused(format!(
                "{at}.purpose: empty\nhint: one or more of startup, readiness, liveness"
            ));
        }
        let timeout = match table.timeout_seconds {
            None => None,
            given => Some(seconds(&format!("{at}.timeout_seconds"), given, 1, 1, 60)?),
        };
        Ok(Self {
            name: name.to_owned(),
            kind: table.kind(at, kind, unit)?,
            timeout,
            purposes,
        })
    }
}

impl CheckFragment {
    fn refuse_other_keys(&self, at: &str, kind: KindName) -> Result<()> {
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
        let other = given
            .into_iter()
            .find(|(key, given)| *given && !kind.keys().contains(key));
        match other {
            Some((key, _)) => refused(format!(
                "{at}.{key}: not a key of kind {}\nhint: its own keys are {}",
                kind.as_str(),
                kind.keys().join(", ")
            )),
            None => Ok(()),
        }
    }

    fn kind(self, at: &str, kind: KindName, unit: &str) -> Result<CheckKind> {
        let missing = |key: &str| {
            refused(format!(
                "{at}.{key}: missing\nhint: kind {} needs it",
                kind.as_str()
            ))
        };
        let absolute = |path: &std::path::Path| path.is_absolute();
        Ok(match kind {
            KindName::Http | KindName::Https => CheckKind::Http(self.http(at, kind)?),
            KindName::Tcp => match self.address {
                None => return missing("address"),
                Some(address) if is_address(&address) => CheckKind::Tcp(address),
                Some(_) => {
                    return refused(format!(
                        "{at}.address: not a host and a port\nhint: such as 127.0.0.1:3306"
                    ));
                }
            },
            KindName::Unix => match self.socket {
                None => return missing("socket"),
                Some(socket) if absolute(&socket) => CheckKind::Unix(socket),
                Some(_) => return refused(format!("{at}.socket: not an absolute path")),
            },
            KindName::Exec => match self.command {
                None => return missing("command"),
                Some(command) => CheckKind::Exec(program(&format!("{at}.command"), command)?),
            },
            KindName::Systemd => {
                let unit = self.unit.unwrap_or_else(|| unit.to_owned());
                if unit.is_empty() || unit.contains(|c: char| c.is_whitespace() || c == '/') {
                    return refused(format!("{at}.unit: not the name of a unit"));
                }
                CheckKind::Systemd(unit)
            }
        })
    }

    fn http(self, at: &str, kind: KindName) -> Result<HttpCheck> {
        let scheme = kind.as_str();
        let Some(url) = self.url else {
            return refused(format!("{at}.url: missing\nhint: kind {scheme} needs it"));
        };
        let fits = |uri: &Uri| {
            uri.scheme_str() == Some(scheme)
                && uri.host().is_some_and(|host| !host.is_empty())
                && uri.authority().is_some_and(|a| !a.as_str().contains('@'))
        };
        let Some(uri) = url.parse::<Uri>().ok().filter(fits) else {
            return refused(format!(
                "{at}.url: not an address that a check of kind {scheme} can request\nhint: such as \
                 {scheme}://127.0.0.1:8080/gtg"
            ));
        };
        if self
            .ca_file
            .as_ref()
            .is_some_and(|path| !path.is_absolute())
        {
            return refused(format!("{at}.ca_file: not an absolute path"));
        }
        let mut headers = Vec::new();
        for (name, value) in self.headers.unwrap_or_default() {
            headers.push(request_header(at, &name, &value)?);
        }
        let statuses = match self.expect_status {
            None => vec![200..=299],
            Some(texts) => statuses(at, &texts)?,
        };
        Ok(HttpCheck {
            uri,
            ca_file: self.ca_file,
            headers,
            statuses,
            body_contains: self.body_contains,
        })
    }
}

/// `host:port`.
fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && !host.contains(|c: char| c.is_whitespace() || c == '/')
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

/// A command line whose program is an absolute path: no shell and no search path is involved.
fn program(at: &str, command: Vec<String>) -> Result<Vec<String>> {
    let absolute = command.first().is_some_and(|it| it.starts_with('/'));
    if !absolute || command.iter().any(|word| word.contains('\0')) {
        return refused(format!(
            "{at}: does not begin with the absolute path of a program\nhint: such as [\"/usr/bin/mysqladmin\", \
             \"ping\"]; a shell's features need [\"/bin/sh\", \"-c\", …]"
        ));
    }
    Ok(command)
}

fn request_header(at: &str, name: &str, value: &str) -> Result<(HeaderName, HeaderValue)> {
    // They describe the connection and the body, which are the agent's.
    let own = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
    ];
    let parsed = name.parse::<HeaderName>().ok().zip(value.parse().ok());
    match parsed {
        Some((name, value)) if !own.contains(&name) => Ok((name, value)),
        _ => refused(format!(
            "{at}.headers: not a header that a check can send\nhint: a name such as x-probe, a value of one line; not \
             connection, content-length or transfer-encoding"
        )),
    }
}

/// `401`, or `200-299`.
fn statuses(at: &str, texts: &[String]) -> Result<Vec<RangeInclusive<u16>>> {
    let read = |text: &String| {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let range = from.parse().ok()?..=to.parse().ok()?;
        let fits = *range.start() >= 100 && *range.end() <= 599 && !range.is_empty();
        fits.then_some(range)
    };
    let ranges: Option<Vec<_>> = texts.iter().map(read).collect();
    match ranges {
        Some(ranges) if !ranges.is_empty() => Ok(ranges),
        _ => refused(format!(
            "{at}.expect_status: not status codes\nhint: such as [\"200-299\", \"401\"]"
        )),
    }
}

/// Refuses unknown names in `after`, and services that wait for each other. `after` by service.
pub(super) fn refuse_bad_order(after: &BTreeMap<&str, &[String]>) -> Result<()> {
    for (name, before) in after {
        for other in *before {
            if !after.contains_key(other.as_str()) {
                let known = after.keys().copied();
                let hint = support::nearest(other, known).map_or_else(String::new, |near| {
                    format!("\nhint: did you mean `{near}`?")
                });
                return refused(format!("services.{name}.after: an unknown service{hint}"));
            }
        }
    }
    // Removes what waits for nothing that is left, until all are removed or the rest waits for itself.
    let mut left = after.clone();
    loop {
        let free: Vec<&str> = left
            .iter()
            .filter(|(_, before)| !before.iter().any(|other| left.contains_key(other.as_str())))
            .map(|(name, _)| *name)
            .collect();
        if free.is_empty() {
            break;
        }
        left.retain(|name, _| !free.contains(name));
    }
    if left.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = left.keys().copied().collect();
    refused(format!(
        "services: {} wait for each other\nhint: remove one `after`",
        names.join(", ")
    ))
}

#[cfg(test)]
mod tests;
