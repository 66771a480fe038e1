//! `[update]`: the channel that the instance follows, from settings to a [`Subscription`].

use std::fmt;
use std::path::{Path, PathBuf};

use agent_update::proxy::ProxySettings;
use agent_update::subscription::{self, LONGEST_SOAK, Subject, Subscription, Window, Windows};
use anyhow::Result;
use hyper::Uri;
use serde::Deserialize;

use super::{Sources, refused, seconds};

fragment!(UpdateFragment {
    channel: String,
    url: String,
    plain_http: bool,
    ca_file: String,
    soak_seconds: u64,
    windows: Vec<String>,
});

impl Sources {
    /// The updater's settings: what `configure` wrote in `run_dir`, else the image's own settings.
    ///
    /// # Errors
    /// `configure` wrote nothing that can be read, and the image's settings were refused; or the proxies that it wrote
    /// cannot be read.
    pub(crate) fn subject(&self, run_dir: &Path) -> Result<Subject> {
        if let Some(mut subject) = Subject::read(run_dir) {
            if let Some(subscription) = &mut subject.subscription {
                subscription.proxy = ProxySettings::read(run_dir)?;
            }
            return Ok(subject);
        }
        tracing::info!("configure wrote no update settings; using the image's own");
        Ok(Subject {
            instance_id: subscription::machine_name()?,
            subscription: self.load(None)?.update,
        })
    }
}

impl UpdateFragment {
    /// The table's subscription; `None` for an empty channel name, with which user data or a drop-in overrides the
    /// image's.
    pub(super) fn validate(self, proxy: &ProxySettings) -> Result<Option<Subscription>> {
        let channel = self.channel.unwrap_or_else(|| "stable".to_owned());
        if channel.is_empty() {
            return Ok(None);
        }
        let channel = ChannelName::parse(&channel)?;
        let Some(url) = self.url else {
            return refused(
                "update.url: missing\nhint: set the URL of the channel, such as \
                 https://updates.example.com/agent; or set channel = \"\"",
            );
        };
        let plain_http = self.plain_http.unwrap_or(false);
        let windows = self.windows.unwrap_or_default();
        Ok(Some(Subscription {
            channel: channel.as_str().to_owned(),
            url: address(&url, plain_http)?,
            plain_http,
            proxy: proxy.clone(),
            ca_file: self.ca_file.map(|text| absolute(&text)).transpose()?,
            soak: seconds(
                "update.soak_seconds",
                self.soak_seconds,
                120,
                1,
                LONGEST_SOAK,
            )?,
            windows: hours(&windows)?,
        }))
    }
}

name!(
    /// A channel's name.
    ChannelName,
    "update.channel"
);

/// The URL without the slash at its end. It is in no error: it may contain a secret.
fn address(text: &str, plain_http: bool) -> Result<String> {
    let wrong = |hint: &str| {
        refused(format!(
            "update.url: not an address of a channel\nhint: {hint}"
        ))
    };
    let trimmed = text.trim_end_matches('/');
    if let Some(path) = trimmed.strip_prefix("file://") {
        return if path.starts_with('/') && !path.contains(['?', '#']) {
            Ok(trimmed.to_owned())
        } else {
            wrong("write a folder as file:///and/its/path")
        };
    }
    let Some(uri) = trimmed
        .parse::<Uri>()
        .ok()
        .filter(|uri| uri.host().is_some_and(|host| !host.is_empty()))
    else {
        return wrong("use https://host/path, or file:///path");
    };
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return wrong(
            "remove the user and password: the channel is public, its signatures protect it",
        );
    }
    if uri.query().is_some() || text.contains('#') {
        return wrong("remove ? and #: /metadata/ and /targets/ are appended");
    }
    match uri.scheme_str() {
        Some("https") => Ok(trimmed.to_owned()),
        Some("http") if plain_http => Ok(trimmed.to_owned()),
        Some("http") => wrong("use https://, or set plain_http = true as well"),
        _ => wrong("use https://host/path, or file:///path"),
    }
}

fn absolute(text: &str) -> Result<PathBuf> {
    let path = PathBuf::from(text);
    if !path.is_absolute() {
        return refused(
            "update.ca_file: not an absolute path\nhint: use a path such as /etc/ssl/our-ca.pem",
        );
    }
    Ok(path)
}

fn hours(texts: &[String]) -> Result<Windows> {
    let mut windows = Vec::new();
    for (number, text) in (1..).zip(texts) {
        match text.parse::<Window>() {
            Ok(window) => windows.push(window),
            Err(error) => {
                return refused(format!(
                    "update.windows: number {number}: {error}\nhint: use a window such as \"Mon-Fri 09:00-16:00\", in UTC"
                ));
            }
        }
    }
    Ok(windows.into_iter().collect())
}
