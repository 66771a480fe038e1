//! A check of a service: its keys, which are the same in `imagebuilder.toml` and `agent.toml`, and what they may be.
//!
//! It makes no check and knows no file: a caller adds the place to each [`Finding`], and the way it prints one. What is wrong is
//! described without the value, since an agent's settings may come from user data, which may have secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use http::header::{self, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

mod order;
#[cfg(test)]
mod tests;

pub use order::{OrderFinding, order_findings};

/// What the name of a check is.
pub const NAME: &str = "letters, digits, `-`, `_` and `.`, at most 64";

/// Longest name of a check: it begins each report of the check.
const LONGEST_NAME: usize = 64;

/// Longest time of a check in seconds. A round waits for its slowest check.
const LONGEST_SECONDS: u64 = 60;

/// Longest name of a unit that systemd takes.
const LONGEST_UNIT: usize = 255;

/// The kinds of checks, as settings name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KindName {
    /// One GET by HTTP.
    Http,
    /// One GET by HTTPS.
    Https,
    /// A connection by TCP.
    Tcp,
    /// A connection to a Unix socket.
    Unix,
    /// A program.
    Exec,
    /// A unit's state.
    Systemd,
}

impl KindName {
    /// The name in settings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Must pass once before the other checks are made; not made afterwards.
    Startup,
    /// Decides whether the service is fit.
    Readiness,
    /// Decides whether the service is restarted.
    Liveness,
}

/// What a check without `purpose` decides.
#[must_use]
pub fn usual_purposes() -> BTreeSet<Purpose> {
    [Purpose::Readiness, Purpose::Liveness].into()
}

/// Declares the table: every key optional, since several files may each have a part of it.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $($field: Option<$type>),* }

        impl $name {
            /// This table with every key that `later` names taken from `later`.
            #[must_use]
            pub fn over(self, later: Self) -> Self {
                Self { $($field: later.$field.or(self.$field)),* }
            }
        }
    };
}

table!(
    /// One check as a file has it.
    CheckTable {
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

/// What is wrong with one key of a check. As a sentence: `KEY VALUE is PROBLEM: FIX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The key.
    pub key: &'static str,
    /// The value, or the part of it that is wrong: not to be printed where it may be a secret.
    pub value: Option<String>,
    /// What is wrong, without the value.
    pub problem: String,
    /// What to write instead.
    pub fix: String,
}

impl Finding {
    fn new(key: &'static str, problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            key,
            value: None,
            problem: problem.into(),
            fix: fix.into(),
        }
    }

    fn of(mut self, value: impl Into<String>) -> Self {
        self.value = Some(value.into());
        self
    }
}

/// One check, valid.
#[derive(Clone, Debug)]
pub struct Check {
    /// Its name; empty for `health_url` and for the check of a service without any.
    pub name: String,
    /// What is done.
    pub kind: CheckKind,
    /// How long it may take; `None`: as long as fits the interval.
    pub timeout: Option<Duration>,
    /// What it decides; never empty.
    pub purposes: BTreeSet<Purpose>,
}

/// What a check does.
#[derive(Clone, Debug)]
pub enum CheckKind {
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
    /// A test of the image has passed; no settings have it, see [`image_tests`](crate::image_tests).
    Test {
        /// The file of the results.
        results: PathBuf,
        /// The test.
        name: String,
    },
}

/// A GET and what its answer must be.
#[derive(Clone, Debug)]
pub struct HttpCheck {
    /// The URL; its scheme is `http` or `https`.
    pub uri: Uri,
    /// The authorities that are trusted instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Sent with the request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The status codes that pass.
    pub statuses: Vec<RangeInclusive<u16>>,
    /// Text that the answer must contain.
    pub body_contains: Option<String>,
}

impl HttpCheck {
    /// A plain GET whose answer is 2xx.
    #[must_use]
    pub fn plain(uri: Uri) -> Self {
        Self {
            uri,
            ca_file: None,
            headers: Vec::new(),
            statuses: vec![200..=299],
            body_contains: None,
        }
    }
}

impl Check {
    /// The check of `health_url`.
    #[must_use]
    pub fn of_health_url(uri: Uri) -> Self {
        Self::usual(CheckKind::Http(HttpCheck::plain(uri)))
    }

    /// The check of a service that has no other: its unit is active.
    #[must_use]
    pub fn of_unit(unit: &str) -> Self {
        Self::usual(CheckKind::Systemd(unit.to_owned()))
    }

    fn usual(kind: CheckKind) -> Self {
        Self {
            name: String::new(),
            kind,
            timeout: None,
            purposes: usual_purposes(),
        }
    }
}

/// Whether it is the name of a check: [`NAME`].
#[must_use]
pub fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=LONGEST_NAME).contains(&text.len()) && text.chars().all(fits)
}

impl CheckTable {
    /// The unit as written.
    #[must_use]
    pub fn unit(&self) -> Option<&str> {
        self.unit.as_deref()
    }

    /// The check `name` of a service whose unit is `unit`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn check(&self, name: &str, unit: &str) -> Result<Check, Vec<Finding>> {
        let Some(kind) = self.kind else {
            let kinds = "one of http, https, tcp, unix, exec, systemd";
            return Err(vec![Finding::new("kind", "missing", kinds)]);
        };
        let mut findings = self.keys_of_other_kinds(kind);
        let purposes = self.purpose.clone().unwrap_or_else(usual_purposes);
        if purposes.is_empty() {
            let fix = "one or more of startup, readiness, liveness";
            findings.push(Finding::new("purpose", "empty", fix));
        }
        if let Some(seconds) = self.timeout_seconds
            && !(1..=LONGEST_SECONDS).contains(&seconds)
        {
            let problem = format!("{seconds}, which is not between 1 and {LONGEST_SECONDS}");
            let fix = "a check that needs longer has to be divided";
            findings.push(Finding::new("timeout_seconds", problem, fix));
        }
        match self.kind(kind, unit, &mut findings) {
            Some(kind) if findings.is_empty() => Ok(Check {
                name: name.to_owned(),
                kind,
                timeout: self.timeout_seconds.map(Duration::from_secs),
                purposes,
            }),
            _ => Err(findings),
        }
    }

    fn keys_of_other_kinds(&self, kind: KindName) -> Vec<Finding> {
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
        let (name, own) = (kind.as_str(), kind.keys());
        let others = given
            .into_iter()
            .filter(|(key, given)| *given && !own.contains(key));
        let finding = |(key, _)| {
            let fix = format!("its own keys are {}", own.join(", "));
            Finding::new(key, format!("not a key of kind {name}"), fix)
        };
        others.map(finding).collect()
    }

    /// What the check does, unless a key that this needs is wrong.
    fn kind(&self, kind: KindName, unit: &str, findings: &mut Vec<Finding>) -> Option<CheckKind> {
        let valid = match kind {
            KindName::Http | KindName::Https => {
                return self.http(kind, findings).map(CheckKind::Http);
            }
            KindName::Tcp => required("address", kind, self.address.as_ref())
                .and_then(|text| address(text).map(CheckKind::Tcp)),
            KindName::Unix => required("socket", kind, self.socket.as_ref())
                .and_then(|path| absolute("socket", path).map(CheckKind::Unix)),
            KindName::Exec => required("command", kind, self.command.as_ref())
                .and_then(|words| program(words).map(CheckKind::Exec)),
            KindName::Systemd => {
                self::unit(self.unit.as_deref().unwrap_or(unit)).map(CheckKind::Systemd)
            }
        };
        valid.map_err(|finding| findings.push(finding)).ok()
    }

    fn http(&self, kind: KindName, findings: &mut Vec<Finding>) -> Option<HttpCheck> {
        let mut keep = |finding| findings.push(finding);
        let uri = required("url", kind, self.url.as_ref())
            .and_then(|text| url(text, kind.as_str()))
            .map_err(&mut keep);
        if let Some(path) = &self.ca_file {
            let _ = absolute("ca_file", path).map_err(&mut keep);
        }
        let mut headers = Vec::new();
        for (name, value) in self.headers.iter().flatten() {
            headers.extend(request_header(name, value).map_err(&mut keep));
        }
        let statuses = match self.expect_status.as_deref() {
            None => vec![200..=299],
            Some(texts) => statuses(texts).map_err(&mut keep).unwrap_or_default(),
        };
        Some(HttpCheck {
            uri: uri.ok()?,
            ca_file: self.ca_file.clone(),
            headers,
            statuses,
            body_contains: self.body_contains.clone(),
        })
    }
}

fn required<'a, T>(
    key: &'static str,
    kind: KindName,
    value: Option<&'a T>,
) -> Result<&'a T, Finding> {
    value.ok_or_else(|| Finding::new(key, "missing", format!("kind {} needs it", kind.as_str())))
}

fn url(text: &str, scheme: &str) -> Result<Uri, Finding> {
    let fits = |uri: &Uri| {
        uri.scheme_str() == Some(scheme)
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri
                .authority()
                .is_some_and(|it| !it.as_str().contains('@') && has_a_port(it.as_str()))
    };
    text.parse().ok().filter(fits).ok_or_else(|| {
        let problem = format!("not an address that a check of kind {scheme} can request");
        let fix = format!("such as {scheme}://127.0.0.1:8080/gtg");
        Finding::new("url", problem, fix).of(text)
    })
}

/// Whether the port of an authority is one, or there is none.
fn has_a_port(authority: &str) -> bool {
    match authority.rsplit_once(':') {
        // The end of an address of IPv6 is none.
        Some((_, port)) if !port.ends_with(']') => {
            port.is_empty() || port.parse::<u16>().is_ok_and(|port| port > 0)
        }
        _ => true,
    }
}

/// `host:port`.
fn address(text: &str) -> Result<String, Finding> {
    let fits = text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && !host.contains(|c: char| c.is_whitespace() || c == '/')
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    fits.then(|| text.to_owned()).ok_or_else(|| {
        Finding::new("address", "not a host and a port", "such as 127.0.0.1:3306").of(text)
    })
}

fn absolute(key: &'static str, path: &Path) -> Result<PathBuf, Finding> {
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    let fix = "the path of a file on the instance begins with /";
    Err(Finding::new(key, "not an absolute path", fix).of(path.to_string_lossy()))
}

/// A command line whose program is an absolute path: no shell and no search path is involved.
fn program(command: &[String]) -> Result<Vec<String>, Finding> {
    let first = command.first().map_or("", String::as_str);
    if first.starts_with('/') && !command.iter().any(|word| word.contains('\0')) {
        return Ok(command.to_vec());
    }
    let fix = "such as [\"/usr/bin/mysqladmin\", \"ping\"]; a shell's features need [\"/bin/sh\", \"-c\", …]";
    Err(Finding::new(
        "command",
        "not the absolute path of a program and its arguments",
        fix,
    )
    .of(first))
}

fn unit(name: &str) -> Result<String, Finding> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || c == '/';
    if (1..=LONGEST_UNIT).contains(&name.len()) && !name.contains(odd) {
        return Ok(name.to_owned());
    }
    Err(Finding::new(
        "unit",
        "not the name of a systemd unit",
        "such as nginx.service",
    )
    .of(name))
}

fn request_header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), Finding> {
    // They describe the connection and the body, which are the agent's.
    let own = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
    ];
    match name.parse::<HeaderName>().ok().zip(value.parse().ok()) {
        Some((name, value)) if !own.contains(&name) => Ok((name, value)),
        _ => {
            let fix = "a name such as x-probe, a value of one line; not connection, content-length or transfer-encoding";
            Err(Finding::new("headers", "not a header that a check can send", fix).of(name))
        }
    }
}

/// `401`, or `200-299`.
fn statuses(texts: &[String]) -> Result<Vec<RangeInclusive<u16>>, Finding> {
    let fix = "such as [\"200-299\", \"401\"]";
    if texts.is_empty() {
        return Err(Finding::new("expect_status", "empty", fix));
    }
    let range = |text: &String| {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let range = from.parse().ok()?..=to.parse().ok()?;
        let fits = *range.start() >= 100 && *range.end() <= 599 && !range.is_empty();
        fits.then_some(range)
    };
    let read = |text| {
        range(text).ok_or_else(|| {
            let problem = "not a status code or a range of them";
            Finding::new("expect_status", problem, fix).of(text)
        })
    };
    texts.iter().map(read).collect()
}
