//! `[proxy]`: the HTTP proxies of the channel and of AWS's APIs. The metadata service and checks never use one.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use agent_update::proxy::{ProxySettings, check, has_credentials, is_exception};
use anyhow::Result;
use serde::Deserialize;

use super::refusal::refused;

/// A proxy's URL, which may contain a password.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub(super) struct ProxyUrl(String);

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProxyUrl(…)")
    }
}

fragment!(
    /// The proxies; an empty URL switches the environment's off.
    ProxyFragment {
        https: ProxyUrl,
        http: ProxyUrl,
        no_proxy: Vec<String>,
    }
);

impl ProxyFragment {
    fn into_settings(self) -> ProxySettings {
        ProxySettings {
            https: self.https.map(|url| url.0),
            http: self.http.map(|url| url.0),
            no_proxy: self.no_proxy,
        }
    }

    /// The table's settings. Refuses, all at once, what cannot be used; a URL is in no message.
    pub(super) fn validate(self) -> Result<ProxySettings> {
        let settings = self.into_settings();
        let mut wrong = Vec::new();
        for (key, url) in [("https", &settings.https), ("http", &settings.http)] {
            if let Some(Err(why)) = url.as_deref().filter(|url| !url.is_empty()).map(check) {
                wrong.push(format!("proxy.{key} {why}"));
            }
        }
        for (number, entry) in (1..).zip(settings.no_proxy.iter().flatten()) {
            if !is_exception(entry) {
                wrong.push(format!(
                    "number {number} of proxy.no_proxy is no host name, address or network"
                ));
            }
        }
        if wrong.is_empty() {
            return Ok(settings);
        }
        refused(format!(
            "{}\nhint: https = \"http://proxy.example:3128\"; no_proxy = [\".corp.example\", \"10.0.0.0/8\"], where a \
             name includes its subdomains",
            wrong.join("; ")
        ))
    }
}

/// Warns of a proxy's password in a file that every user of the instance may read.
pub(super) fn warn_if_exposed(path: &Path, proxy: &ProxyFragment) {
    let urls = [&proxy.https, &proxy.http];
    let secret = urls
        .into_iter()
        .flatten()
        .any(|url| has_credentials(&url.0));
    let mode = || fs::metadata(path).map(|file| file.permissions().mode());
    if secret && mode().is_ok_and(|mode| mode & 0o004 != 0) {
        tracing::warn!(
            "{}: a proxy's password can be read by every user of this instance: chgrp imagebuilder-agent, chmod 0640",
            path.display()
        );
    }
}
