//! The HTTP proxies of outbound calls: settings and environment in, one decision for each URL out.
//!
//! It opens no connection. A proxy's URL may contain a password: no error, log line or debug output here has more of it
//! than host and port.

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use hyper::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use serde::{Deserialize, Serialize};

/// The file's name in the directory that `configure` writes. It may contain a password, which [`super::subscription`]'s
/// file, readable for all, must not.
pub const FILE: &str = "proxy.json";

/// The settings' part; a key that is absent is taken from the environment, an empty one switches the environment's off.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProxySettings {
    /// For `https://`.
    pub https: Option<String>,
    /// For `http://`.
    pub http: Option<String>,
    /// What is reached without a proxy.
    pub no_proxy: Option<Vec<String>>,
}

impl fmt::Debug for ProxySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |url: &Option<String>| url.as_deref().map(shown);
        f.debug_struct("ProxySettings")
            .field("https", &shown(&self.https))
            .field("http", &shown(&self.http))
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

impl ProxySettings {
    /// Whether a key is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The file as text.
    ///
    /// # Errors
    /// None in practice: all of it is plain data.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).context("cannot write the proxies as JSON")
    }

    /// Reads what `configure` wrote in `run_dir`; nothing is set if it wrote nothing.
    ///
    /// # Errors
    /// The file cannot be read: going without the proxy would send to where the settings forbid it.
    pub fn read(run_dir: &Path) -> Result<Self> {
        let path = run_dir.join(FILE);
        match fs::read_to_string(&path) {
            // Without the parser's message, which may quote the file.
            Ok(text) => serde_json::from_str(&text)
                .map_err(|_| anyhow::anyhow!("{} is invalid", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// The proxies of this process: the settings, else the environment.
    ///
    /// # Errors
    /// A variable is not the URL of a proxy.
    pub fn effective(&self) -> Result<Proxy> {
        self.over(|name| std::env::var(name).ok())
    }

    /// [`Self::effective`] with the environment as a parameter.
    ///
    /// # Errors
    /// A variable is not the URL of a proxy.
    pub fn over(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Proxy> {
        let first = |names: &[&'static str]| {
            let set = names.iter().filter_map(|name| {
                let value = variable(name)?;
                (!value.trim().is_empty()).then(|| (*name, value.trim().to_owned()))
            });
            set.into_iter().next()
        };
        let url = |set: &Option<String>, names: &[&'static str]| match set {
            Some(url) if url.is_empty() => Ok(None),
            Some(url) => Ok(Some(with_scheme(url))),
            None => match first(names) {
                Some((name, url)) => match check(&url) {
                    Ok(()) => Ok(Some(with_scheme(&url))),
                    Err(why) => bail!("the variable {name} {why}"),
                },
                None => Ok(None),
            },
        };
        let no_proxy = match &self.no_proxy {
            Some(names) => names.join(","),
            None => first(&["NO_PROXY", "no_proxy"]).map_or_else(String::new, |(_, it)| it),
        };
        // The matcher's own `*` leaves out addresses.
        if no_proxy.split(',').any(|entry| entry.trim() == "*") {
            return Ok(Proxy::default());
        }
        Ok(Proxy {
            https: url(
                &self.https,
                &["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
            )?,
            http: url(
                &self.http,
                &["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"],
            )?,
            no_proxy,
        })
    }
}

/// The proxies of a process.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxy {
    https: Option<String>,
    http: Option<String>,
    no_proxy: String,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_string())
    }
}

/// `https by http://proxy.example:3128, except for .internal`, without credentials.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (scheme, url) in [("https", &self.https), ("http", &self.http)] {
            if let Some(url) = url {
                parts.push(format!("{scheme} by {}", shown(url)));
            }
        }
        if parts.is_empty() {
            return f.write_str("none");
        }
        if !self.no_proxy.is_empty() {
            parts.push(format!("except for {}", self.no_proxy));
        }
        f.write_str(&parts.join(", "))
    }
}

impl Proxy {
    /// Whether every URL is reached directly.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.https.is_none() && self.http.is_none()
    }

    /// The URL of the proxy for `https://`, with its credentials.
    #[must_use]
    pub fn https(&self) -> Option<&str> {
        self.https.as_deref()
    }

    /// The URL of the proxy for `http://`, with its credentials.
    #[must_use]
    pub fn http(&self) -> Option<&str> {
        self.http.as_deref()
    }

    /// What is reached without a proxy, separated by commas.
    #[must_use]
    pub fn no_proxy(&self) -> &str {
        &self.no_proxy
    }

    /// The decision for each URL.
    pub(crate) fn matcher(&self) -> Matcher {
        Matcher::builder()
            .https(self.https.as_deref().unwrap_or_default())
            .http(self.http.as_deref().unwrap_or_default())
            .no(self.no_proxy.as_str())
            .build()
    }
}

/// Whether a text is the URL of a proxy that can be used: `http://host:port`, with `user:password@` or without.
///
/// # Errors
/// Why not, to be continued from "NAME …"; without any part of the text, which may be a secret.
pub fn check(url: &str) -> Result<(), &'static str> {
    if let Some((scheme, _)) = url.split_once("://") {
        let scheme = scheme.to_ascii_lowercase();
        if scheme.starts_with("socks") {
            return Err("names a SOCKS proxy: only HTTP proxies are supported");
        }
        if scheme == "https" {
            return Err(
                "has a proxy with TLS: only plain http:// to the proxy is supported; what goes through it has TLS",
            );
        }
    }
    let uri = url.parse::<Uri>().ok().filter(|uri| {
        let plain = matches!(uri.scheme_str(), None | Some("http"));
        let bare = uri.path_and_query().is_none_or(|path| path == "/");
        let host = uri.host().unwrap_or_default();
        let authority = uri.authority().map_or("", |it| it.as_str());
        // A port beyond 65535 is none to this parser.
        let port = uri.port().is_some() || authority.ends_with(host);
        plain && bare && port && !host.is_empty() && !url.contains('#')
    });
    match uri {
        Some(_) => Ok(()),
        None => Err("is not the URL of a proxy, such as http://proxy.example:3128"),
    }
}

/// A proxy without a scheme is one of plain HTTP, as for curl.
fn with_scheme(url: &str) -> String {
    match url.contains("://") {
        true => url.to_owned(),
        false => format!("http://{url}"),
    }
}

/// Whether a proxy's URL contains credentials.
#[must_use]
pub fn has_credentials(url: &str) -> bool {
    let uri = url.parse::<Uri>().ok();
    let authority = uri.as_ref().and_then(Uri::authority);
    authority.is_some_and(|authority| authority.as_str().contains('@'))
}

/// Whether an entry of `no_proxy` has an effect: `*`, an address, a network, or the end of a host name.
#[must_use]
pub fn is_exception(entry: &str) -> bool {
    if entry == "*" || entry.parse::<IpAddr>().is_ok() {
        return true;
    }
    if let Some((address, length)) = entry.split_once('/') {
        let most = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        return length.parse::<u8>().is_ok_and(|length| length <= most);
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let name = entry.strip_prefix('.').unwrap_or(entry);
    !name.is_empty() && name.chars().all(fits)
}

/// A proxy's URL for messages: without credentials.
fn shown(url: &str) -> String {
    match url.parse::<Uri>() {
        Ok(uri) => match (uri.host(), uri.port()) {
            (Some(host), Some(port)) => format!("http://{host}:{port}"),
            (Some(host), None) => format!("http://{host}"),
            (None, _) => "none".to_owned(),
        },
        Err(_) => "none".to_owned(),
    }
}

#[cfg(test)]
mod tests;
