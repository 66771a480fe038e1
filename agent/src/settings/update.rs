//! `[update]`: which channel the instance follows, from settings to a [`Subscription`].

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use hyper::Uri;
use serde::Deserialize;

use super::{Sources, refused, seconds};
use crate::update::plan::{Window, Windows};
use crate::update::subscription::{self, Subject, Subscription};

fragment!(UpdateFragment {
    channel: String,
    url: String,
    plain_http: bool,
    ca_file: String,
    soak_seconds: u64,
    windows: Vec<String>,
});

impl Sources {
    /// What the updater goes by: what `configure` left in `run_dir`, else the image's own settings.
    ///
    /// # Errors
    /// `configure` left nothing that can be read, and the image's settings were refused.
    pub(crate) fn subject(&self, run_dir: &Path) -> Result<Subject> {
        if let Some(subject) = Subject::read(run_dir) {
            return Ok(subject);
        }
        tracing::info!("configure left nothing to go by; the image's own settings hold");
        Ok(Subject {
            instance_id: subscription::machine_name()?,
            subscription: self.load(None)?.update,
        })
    }
}

/// The longest soak: a trial unit ends by itself after 900 s (its `RuntimeMaxSec=`), and starting and
/// proving take their part of that.
pub(crate) const LONGEST_SOAK: u64 = 599;

impl UpdateFragment {
    /// The table's subscription; `None` when it names the empty channel, which is how user data or a drop-in
    /// takes back what the image says.
    pub(super) fn validate(self) -> Result<Option<Subscription>> {
        let channel = self.channel.unwrap_or_else(|| "stable".to_owned());
        if channel.is_empty() {
            return Ok(None);
        }
        let channel = ChannelName::parse(&channel)?;
        let Some(url) = self.url else {
            return refused(
                "update.url: missing\nhint: where the channel is served, such as \
                 https://updates.example.com/agent; or channel = \"\" for none",
            );
        };
        let plain_http = self.plain_http.unwrap_or(false);
        let windows = self.windows.unwrap_or_default();
        Ok(Some(Subscription {
            channel: channel.as_str().to_owned(),
            url: address(&url, plain_http)?,
            plain_http,
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

/// The address without the slash at its end. Never told in an error: it may carry a secret.
fn address(text: &str, plain_http: bool) -> Result<String> {
    let wrong = |cure: &str| {
        refused(format!(
            "update.url: not an address of a channel\nhint: {cure}"
        ))
    };
    let trimmed = text.trim_end_matches('/');
    if let Some(path) = trimmed.strip_prefix("file://") {
        return if path.starts_with('/') && !path.contains(['?', '#']) {
            Ok(trimmed.to_owned())
        } else {
            wrong("a folder is file:///and/its/path")
        };
    }
    let Some(uri) = trimmed
        .parse::<Uri>()
        .ok()
        .filter(|uri| uri.host().is_some_and(|host| !host.is_empty()))
    else {
        return wrong("https://host/path, or file:///path");
    };
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return wrong(
            "without a user or password: the channel is public, its signatures are what counts",
        );
    }
    if uri.query().is_some() || text.contains('#') {
        return wrong("without ? and #: /metadata/ and /targets/ are put behind it");
    }
    match uri.scheme_str() {
        Some("https") => Ok(trimmed.to_owned()),
        Some("http") if plain_http => Ok(trimmed.to_owned()),
        Some("http") => wrong("https://; or say plain_http = true as well"),
        _ => wrong("https://host/path, or file:///path"),
    }
}

fn absolute(text: &str) -> Result<PathBuf> {
    let path = PathBuf::from(text);
    if !path.is_absolute() {
        return refused(
            "update.ca_file: not a path from the root\nhint: such as /etc/ssl/our-ca.pem",
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
                    "update.windows: number {number}: {error}\nhint: such as \"Mon-Fri 09:00-16:00\", in UTC"
                ));
            }
        }
    }
    Ok(windows.into_iter().collect())
}
