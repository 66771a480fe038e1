//! What an image may contain: packages, users, groups, folders, units, kernel settings and scripts; as written, with every
//! shape checked.
//!
//! Shapes only: files are read where they are staged, and what only the source image knows is checked on the builder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::closed::{ImagePath, Mode, account_name};
use super::{Archive, Config, unit_kind, unit_name};

/// Longest time limit of a script, in seconds.
const LONGEST_SECONDS: u32 = 86_400;

/// `[image.packages]`: the list of the manager that the image has is installed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Packages {
    /// For apt, each with `=version` behind it when it is pinned.
    pub(crate) apt: Vec<String>,
    /// For dnf, each with `-version` behind it when it is pinned.
    pub(crate) dnf: Vec<String>,
    /// The archives of apt in which those for apt are looked up before a bake; see [`Archive`]. Not part of the image.
    pub(crate) archives: Vec<String>,
    /// Where `apt` is written, for messages.
    #[serde(skip)]
    pub(crate) place: Written,
}

/// Where a key is written. Configurations are the same wherever that is, so it is not printed.
#[derive(Clone, Default)]
pub(crate) struct Written(pub(crate) Option<String>);

impl std::fmt::Debug for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("_")
    }
}

/// `[image.users.NAME]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct User {
    /// The number; the next free one when left out.
    pub(crate) uid: Option<u32>,
    /// The primary group; one of the user's own name when left out.
    pub(crate) group: Option<String>,
    /// Further groups.
    #[serde(default)]
    pub(crate) groups: Vec<String>,
    /// The home folder, made for users that are not system users.
    pub(crate) home: Option<String>,
    /// The login shell.
    pub(crate) shell: Option<String>,
    /// Whether it is a system user.
    #[serde(default = "yes")]
    pub(crate) system: bool,
    /// The name in full.
    pub(crate) comment: Option<String>,
}

/// `[image.groups.NAME]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    /// The number; the next free one when left out.
    pub(crate) gid: Option<u32>,
    /// Whether it is a system group.
    #[serde(default = "yes")]
    pub(crate) system: bool,
}

/// `[[image.folder]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Folder {
    /// The absolute path on the image.
    pub(crate) path: ImagePath,
    /// Its mode, octal.
    #[serde(default = "Mode::folder")]
    pub(crate) mode: Mode,
    /// Its owner.
    #[serde(default = "root")]
    pub(crate) owner: String,
    /// Its group.
    #[serde(default = "root")]
    pub(crate) group: String,
}

/// `[[image.unit]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Unit {
    /// The file here; its name is the unit's.
    pub(crate) source: PathBuf,
    /// Whether it is rendered first.
    #[serde(default)]
    pub(crate) template: bool,
    /// Whether it starts at boot; what has an `[Install]` does when this is left out.
    pub(crate) enable: Option<bool>,
    /// The unit that it is a drop-in of.
    pub(crate) drop_in_of: Option<String>,
}

impl Unit {
    /// The name of its file; empty when it has none.
    pub(crate) fn name(&self) -> &str {
        let name = self.source.file_name();
        name.and_then(std::ffi::OsStr::to_str).unwrap_or_default()
    }

    /// Where it is on the image.
    pub(crate) fn dest(&self) -> String {
        let name = self.name();
        match &self.drop_in_of {
            Some(unit) => format!("/etc/systemd/system/{unit}.d/{name}"),
            None => format!("/etc/systemd/system/{name}"),
        }
    }

    fn finding(&self) -> Option<String> {
        let name = self.name();
        let at = format!("[[image.unit]] source {}", self.source.display());
        match &self.drop_in_of {
            Some(unit) if !unit_name(unit) => Some(format!(
                "[[image.unit]] drop_in_of `{}` is not the name of a systemd unit, such as nginx.service",
                unit.escape_debug()
            )),
            Some(_) if !name.strip_suffix(".conf").is_some_and(plain_name) => Some(format!(
                "{at} is not a drop-in's name: systemd reads those whose name ends with .conf, such as limits.conf"
            )),
            Some(_) if self.enable.is_some() => Some(format!(
                "{at} is a drop-in, so `enable` means nothing: set it for the unit itself"
            )),
            None if !unit_name(name)
                && !unit_kind(name, &["mount", "automount", "swap", "slice"]) =>
            {
                Some(format!(
                    "{at} is not named as a systemd unit, such as worker.service; for a drop-in set drop_in_of"
                ))
            }
            _ => None,
        }
    }
}

/// `[[image.script]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImageScript {
    /// The script here.
    pub(crate) source: PathBuf,
    /// Seconds after which it is killed, and the bake fails.
    #[serde(default = "ten_minutes")]
    pub(crate) timeout_seconds: u32,
    /// Its environment.
    #[serde(default)]
    pub(crate) environment: BTreeMap<String, String>,
    /// Whether the builder is rebooted after it.
    #[serde(default)]
    pub(crate) reboot: bool,
}

fn yes() -> bool {
    true
}

fn ten_minutes() -> u32 {
    600
}

pub(super) fn root() -> String {
    "root".to_owned()
}

/// What no image can contain.
pub(super) fn findings(config: &Config) -> Vec<String> {
    let image = &config.image;
    let mut findings = Vec::new();
    for (manager, list) in [("apt", &image.packages.apt), ("dnf", &image.packages.dnf)] {
        packages(manager, list, &mut findings);
    }
    archives(&image.packages.archives, &mut findings);
    accounts(&image.users, &image.groups, &mut findings);
    for payload in &image.payload {
        let what = format!("[[image.payload]] {}", payload.dest.as_str());
        owned(&what, &payload.owner, &payload.group, &mut findings);
    }
    let mut paths = BTreeSet::new();
    for folder in &image.folder {
        let what = format!("[[image.folder]] {}", folder.path.as_str());
        owned(&what, &folder.owner, &folder.group, &mut findings);
        if !paths.insert(&folder.path) {
            findings.push(format!("{what} is there twice"));
        }
    }
    findings.extend(image.unit.iter().filter_map(Unit::finding));
    findings.extend(
        image
            .sysctl
            .iter()
            .filter_map(|(key, value)| sysctl(key, value)),
    );
    kernel_arguments(&image.kernel_arguments, &mut findings);
    if let Some(network) = image.imds_network {
        network.findings(&image.kernel_arguments, &mut findings);
    }
    for script in &image.script {
        findings.extend(self::script(script));
    }
    for (name, service) in &config.services {
        if service.installed && service.binary.is_some() {
            findings.push(format!(
                "[services.{name}] has `installed = true`, and so brings no `binary`: remove one of them"
            ));
        }
    }
    findings
}

fn packages(manager: &str, list: &[String], findings: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for package in list {
        let (name, pin) = match manager {
            "apt" => match package.split_once(['=', '/']) {
                Some((name, pin)) => (name, Some(pin)),
                None => (package.as_str(), None),
            },
            _ => (package.as_str(), None),
        };
        let fits = |text: &str, more: &str| {
            text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && text
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        let named = match manager {
            // apt takes a minus at the end for "remove it", and a name that it does not find for a pattern.
            "apt" => fits(name, "+-.:") && !name.ends_with('-'),
            _ => fits(name, "+-._~:*^"),
        };
        if !named || !pin.is_none_or(|pin| fits(pin, "+-.:~*")) {
            findings.push(format!(
                "[image.packages] {manager}: `{}` is not a package that {manager} takes, such as {}",
                package.escape_debug(),
                if manager == "apt" { "nginx or curl=7.88.*" } else { "nginx or nginx-1.26.*" },
            ));
        }
        if !seen.insert(name) {
            findings.push(format!(
                "[image.packages] {manager} names `{}` twice",
                name.escape_debug()
            ));
        }
    }
}

fn archives(lines: &[String], findings: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for line in lines {
        // What has a password is not printed.
        let shown = if line.contains('@') { "…" } else { line };
        let at = format!("[image.packages] archives: `{}`", shown.escape_debug());
        if let Err(why) = Archive::parse(line) {
            findings.push(format!("{at} {why}"));
        } else if !seen.insert(line) {
            findings.push(format!("{at} is there twice"));
        }
    }
}

/// A file's name without surprises for systemd or a shell.
fn plain_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.@".contains(c))
}

fn owned(what: &str, owner: &str, group: &str, findings: &mut Vec<String>) {
    for (key, name) in [("owner", owner), ("group", group)] {
        if !account_name(name) {
            findings.push(format!(
                "{what}: {key} `{}` is not a name, such as root or www-data",
                name.escape_debug()
            ));
        }
    }
}

fn accounts(
    users: &BTreeMap<String, User>,
    groups: &BTreeMap<String, Group>,
    findings: &mut Vec<String>,
) {
    let mut ids = BTreeMap::new();
    for (name, group) in groups {
        let at = format!("[image.groups.{name}]");
        named(&at, name, "group", findings);
        numbered(&at, "gid", group.gid, &mut ids, findings);
    }
    let mut ids = BTreeMap::new();
    for (name, user) in users {
        let at = format!("[image.users.{name}]");
        named(&at, name, "user", findings);
        numbered(&at, "uid", user.uid, &mut ids, findings);
        for group in user.group.iter().chain(&user.groups) {
            if !account_name(group) {
                findings.push(format!(
                    "{at} `{}` is not a group's name",
                    group.escape_debug()
                ));
            }
        }
        let path = |text: &&String| {
            !ImagePath::try_from((*text).clone()).is_ok_and(|_| !text.contains([' ', ':']))
        };
        for (key, value) in [("home", &user.home), ("shell", &user.shell)] {
            if let Some(text) = value.as_ref().filter(path) {
                findings.push(format!(
                    "{at} {key} `{}` is not an absolute path without blanks and colons",
                    text.escape_debug()
                ));
            }
        }
        let odd = |c: char| c.is_control() || c == ':';
        if user
            .comment
            .as_ref()
            .is_some_and(|text| text.contains(odd) || text.trim() != text)
        {
            findings.push(format!(
                "{at} comment has a colon, a line break or blanks at an end"
            ));
        }
    }
}

fn named(at: &str, name: &str, kind: &str, findings: &mut Vec<String>) {
    if name == "root" {
        findings.push(format!("{at} is there on every image: remove it"));
    } else if !account_name(name) {
        findings.push(format!(
            "{at} is not a {kind}'s name: use a-z, 0-9, `_` and `-`, at most 32, a letter first"
        ));
    }
}

fn numbered(
    at: &str,
    key: &str,
    id: Option<u32>,
    ids: &mut BTreeMap<u32, String>,
    findings: &mut Vec<String>,
) {
    let Some(id) = id else { return };
    // 65535 and the last one mean "no change" to chown(2).
    if id == 0 || id == 65_535 || id >= u32::MAX - 1 {
        findings.push(format!(
            "{at} {key} is {id}: it must be 1 to 4294967293, but not 65535"
        ));
    }
    if let Some(other) = ids.insert(id, at.to_owned()) {
        findings.push(format!("{at} and {other} have one {key}, {id}"));
    }
}

fn sysctl(key: &str, value: &toml::Value) -> Option<String> {
    let part = |part: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "_-:".contains(c))
    };
    if !key.contains(['.', '/']) || !key.split(['.', '/']).all(part) {
        return Some(format!(
            "[image.sysctl] `{}` is not a kernel setting, such as net.core.somaxconn",
            key.escape_debug()
        ));
    }
    match value {
        toml::Value::Integer(_) => None,
        toml::Value::String(text)
            if !text.trim().is_empty() && !text.contains(|c: char| c.is_control() && c != '\t') =>
        {
            None
        }
        _ => Some(format!(
            "[image.sysctl] {key} is neither a number nor a text of one line"
        )),
    }
}

fn kernel_arguments(arguments: &[String], findings: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for argument in arguments {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.,:=/+@%".contains(c);
        let first = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !argument.starts_with(first) || !argument.chars().all(fits) {
            findings.push(format!(
                "[image] kernel_arguments: `{}` is not one kernel argument, such as quiet or console=ttyS0,115200",
                argument.escape_debug()
            ));
        }
        if !seen.insert(argument) {
            findings.push(format!(
                "[image] kernel_arguments names `{}` twice",
                argument.escape_debug()
            ));
        }
    }
}

fn script(script: &ImageScript) -> Vec<String> {
    let at = format!("[[image.script]] {}", script.source.display());
    let mut findings =
        super::environment_findings(&format!("{at}: environment"), &script.environment);
    let name = script.source.file_name().and_then(std::ffi::OsStr::to_str);
    if !name.is_some_and(plain_name) {
        findings.push(format!(
            "{at} is not a script's plain name: use a-z, A-Z, 0-9, `-`, `_`, `.` and `@`"
        ));
    }
    if !(1..=LONGEST_SECONDS).contains(&script.timeout_seconds) {
        findings.push(format!(
            "{at}: timeout_seconds is {}; it must be 1 to {LONGEST_SECONDS}",
            script.timeout_seconds
        ));
    }
    findings
}

/// The file name of a path; findings have refused paths without one.
pub(crate) fn file_name(path: &Path) -> &str {
    path.file_name()
        .and_then(std::ffi::OsStr::to_str)
        .unwrap_or_default()
}
