//! Checks that may never pass, as far as that can be seen here: a warning and not a refusal, since a program may listen where no
//! text says so, and the source image or a package may bring what is not staged.
//!
//! Reads what was gathered; changes nothing.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::IpAddr;

use anyhow::Context as _;
use contract::checks::CheckKind;
use contract::image_tests::DIR;

use super::{AGENT_BINARY, AGENT_TOML, Content, Staging};
use crate::config::{Config, Service};
use cloud::ids::ServiceName;

/// A larger file is not searched; it may mention whatever is asked for.
const LARGEST: u64 = 16 * 1024 * 1024;

/// The lowest number that is taken for a port in a text: what is below is more often a part of a time.
const LOWEST_PORT: u16 = 80;

/// What may keep a check from passing, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Doubt {
    /// What, with its place.
    pub(crate) what: String,
    /// What to do.
    pub(crate) fix: String,
}

/// Where a check of this instance connects.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    /// A port, asked by HTTP.
    Http(u16),
    /// A port.
    Tcp(u16),
    /// A Unix socket.
    Socket(String),
}

impl Address {
    fn text(&self) -> String {
        match self {
            Self::Http(port) | Self::Tcp(port) => port.to_string(),
            Self::Socket(path) => path.clone(),
        }
    }
}

impl Staging {
    /// The checks that may never pass.
    pub(crate) fn doubts(&self, config: &Config) -> anyhow::Result<Vec<Doubt>> {
        let mut doubts = Vec::new();
        for (name, service) in &config.services {
            doubts.extend(self.misspelled_units(config, name, service));
            // Its package, or the source image, has its settings.
            if service.installed {
                continue;
            }
            let own = self.own_ports(name, service)?;
            for (place, address) in addresses(name, service) {
                // A port of another program may be one that a package brings; the service's own is in its unit or environment.
                let known = matches!(address, Address::Http(_)) && !own.is_empty();
                if (known || is_closed(config)) && !self.mentions(config, &address.text())? {
                    doubts.push(doubt(name, &place, &address, &own));
                }
            }
        }
        Ok(doubts)
    }

    /// The ports that a service's unit, socket, settings and environment name.
    fn own_ports(&self, name: &ServiceName, service: &Service) -> anyhow::Result<BTreeSet<u16>> {
        let unit = service.unit_name(name);
        let socket = unit.replace(".service", ".socket");
        let settings = format!("/etc/{name}/{name}.toml");
        let mut found = BTreeSet::new();
        for (dest, file) in &self.files {
            let is_unit = [&unit, &socket].iter().any(|unit| {
                dest.ends_with(&format!("/{unit}")) || dest.contains(&format!("/{unit}.d/"))
            });
            if (is_unit || *dest == settings)
                && let Some(bytes) = read(&file.content)?
            {
                found.extend(ports(&String::from_utf8_lossy(&bytes)));
            }
        }
        for (key, value) in &service.environment {
            found.extend(ports(&format!("{key}={value}")));
        }
        Ok(found)
    }

    /// Whether anything that is staged names a port or a path, apart from the checks themselves.
    fn mentions(&self, config: &Config, what: &str) -> anyhow::Result<bool> {
        let environment = config
            .services
            .values()
            .flat_map(|it| it.environment.values());
        let scripts = self.scripts.values().map(|script| &script.text);
        let user_data = self.user_data.iter().map(Vec::as_slice);
        let mut texts = environment
            .chain(scripts)
            .map(String::as_bytes)
            .chain(self.contents.script_texts().map(str::as_bytes))
            .chain(user_data);
        if texts.any(|text| has_token(text, what)) {
            return Ok(true);
        }
        for (dest, file) in &self.files {
            // Tests ask, too.
            if [AGENT_BINARY, AGENT_TOML].contains(&dest.as_str()) || dest.starts_with(DIR) {
                continue;
            }
            match read(&file.content)? {
                Some(bytes) if !has_token(&bytes, what) => {}
                _ => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Units of checks that nothing brings, and that are named almost as one that is brought.
    fn misspelled_units(
        &self,
        config: &Config,
        name: &ServiceName,
        service: &Service,
    ) -> Vec<Doubt> {
        let units = config.services.iter();
        let mut known: BTreeSet<String> = units
            .map(|(name, service)| service.unit_name(name))
            .collect();
        let staged = self.files.keys();
        let staged = staged.filter_map(|dest| dest.strip_prefix("/etc/systemd/system/"));
        known.extend(staged.filter(|unit| !unit.contains('/')).map(str::to_owned));
        let mut doubts = Vec::new();
        for (check, table) in &service.checks {
            let Some(unit) = table.unit().filter(|unit| !known.contains(*unit)) else {
                continue;
            };
            let Some((stem, kind)) = unit.rsplit_once('.') else {
                continue;
            };
            // Without the kind, which is most of a short name.
            let stems = known.iter().filter_map(|unit| unit.rsplit_once('.'));
            let stems = stems.filter(|(_, other)| *other == kind);
            if let Some(near) = support::nearest(stem, stems.map(|(stem, _)| stem)) {
                doubts.push(Doubt {
                    what: format!("[services.{name}.checks.{check}] unit {unit} is none that this image brings"),
                    fix: format!("did you mean `{near}.{kind}`? If the source image has {unit}, this is no fault"),
                });
            }
        }
        doubts
    }
}

/// Whether all that an image gets is in its configuration: no package and no script may bring what listens.
fn is_closed(config: &Config) -> bool {
    let image = &config.image;
    let packages = image.packages.apt.is_empty() && image.packages.dnf.is_empty();
    packages
        && image.script.is_empty()
        && image.provision.is_none()
        && !config.services.values().any(|service| service.installed)
}

fn doubt(name: &ServiceName, place: &str, address: &Address, own: &BTreeSet<u16>) -> Doubt {
    let at = match address {
        Address::Socket(path) => path.clone(),
        _ => format!("port {}", address.text()),
    };
    let named: Vec<String> = own.iter().map(ToString::to_string).collect();
    let instead = match (&named[..], address) {
        ([], _) | (_, Address::Socket(_)) => String::new(),
        (named, _) => format!(
            "; what {name} is configured with names {}",
            named.join(", ")
        ),
    };
    Doubt {
        what: format!("{place} asks at {at}, which nothing of this image mentions{instead}"),
        fix: "correct one of the two; if the program listens there by itself, this is no fault"
            .to_owned(),
    }
}

/// Where the checks of a service connect on this instance, each with its place.
fn addresses(name: &ServiceName, service: &Service) -> Vec<(String, Address)> {
    let mut found = Vec::new();
    let http = |uri: &str| {
        let uri = url::Url::parse(uri).ok()?;
        let local = is_local(uri.host_str()?);
        local
            .then(|| uri.port_or_known_default().map(Address::Http))
            .flatten()
    };
    for (key, uri) in [
        ("health_url", &service.health_url),
        ("version_url", &service.version_url),
    ] {
        let address = uri.as_deref().and_then(http);
        found.extend(address.map(|address| (format!("[services.{name}] {key}"), address)));
    }
    for (check, table) in &service.checks {
        let Ok(valid) = table.check(check, &service.unit_name(name)) else {
            continue;
        };
        let address = match &valid.kind {
            CheckKind::Http(check) => http(&check.uri.to_string()),
            CheckKind::Tcp(address) => tcp(address),
            CheckKind::Unix(path) => Some(Address::Socket(path.display().to_string())),
            CheckKind::Exec(_) | CheckKind::Systemd(_) | CheckKind::Test { .. } => None,
        };
        found.extend(address.map(|address| (format!("[services.{name}.checks.{check}]"), address)));
    }
    found
}

fn tcp(address: &str) -> Option<Address> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok()?;
    is_local(host).then_some(Address::Tcp(port))
}

fn is_local(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// The numbers in a text that are ports: behind a colon, and the values of `ListenStream` and of what ends with `port`.
fn ports(text: &str) -> BTreeSet<u16> {
    let mut found = BTreeSet::new();
    let number = |text: &str| {
        let digits = text.split(|c: char| !c.is_ascii_digit()).next()?;
        digits
            .parse::<u16>()
            .ok()
            .filter(|port| *port >= LOWEST_PORT)
    };
    let lines = text.lines().map(str::trim);
    for line in lines.filter(|line| !line.starts_with(['#', ';'])) {
        let line = line.strip_prefix("Environment=").unwrap_or(line);
        let line = line.trim_matches('"');
        let parts = line.split(':').skip(1);
        found.extend(parts.filter_map(number));
        if let Some((key, value)) = line.split_once('=') {
            let key = key.trim().to_ascii_lowercase();
            if key == "listenstream" || key.ends_with("port") {
                found.extend(number(value.trim().trim_start_matches('"')));
            }
        }
    }
    found
}

/// Whether a text has this, and not as a part of a longer number or name.
fn has_token(text: &[u8], token: &str) -> bool {
    let token = token.as_bytes();
    let is_part = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let mut windows = text.windows(token.len()).enumerate();
    windows.any(|(at, window)| {
        let before = at.checked_sub(1).and_then(|at| text.get(at));
        window == token && !is_part(before) && !is_part(text.get(at + token.len()))
    })
}

/// What is in a file; `None` when it is too large to be searched.
fn read(content: &Content) -> anyhow::Result<Option<Vec<u8>>> {
    let path = match content {
        Content::Bytes(bytes) => return Ok(Some(bytes.clone())),
        Content::File { path, .. } => path,
    };
    let mut bytes = Vec::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes));
    read.with_context(|| format!("read {}", path.display()))?;
    let fits = u64::try_from(bytes.len()).is_ok_and(|length| length <= LARGEST);
    Ok(fits.then_some(bytes))
}

#[cfg(test)]
mod tests;
