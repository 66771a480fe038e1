//! `[channel]`: the signed channel that instances take new agents from; as written, with every shape checked.
//!
//! Shapes only: whether the repository exists or a key can be read is found out where it is used.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::channel::waves::Shape;
use cloud::ids::ChannelName;

/// Longest lifetime of a role's metadata, in days.
const LONGEST_DAYS: u32 = 3_660;

/// `[channel]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Channel {
    /// Where the repository is kept.
    pub(crate) repository: Repository,
    /// Where instances read it: metadata at URL/metadata/, targets at URL/targets/. [`Channel::url`] has the default.
    url: Option<String>,
    /// The channel that an image follows, and that `publish` puts a release into.
    #[serde(default = "defaults::name")]
    pub(crate) name: ChannelName,
    /// Whether `url` may begin with http://.
    #[serde(default)]
    pub(crate) plain_http: bool,
    /// Certificates, PEM, that instances trust for `url` instead of the system's roots.
    pub(crate) ca_file: Option<PathBuf>,
    /// The root of trust, relative to the configuration: `init` writes it, `rotate-root` brings it up to
    /// date, a bake puts it into the image. Keep it in version control.
    #[serde(default = "defaults::root")]
    pub(crate) root: PathBuf,
    /// The signing keys.
    #[serde(default)]
    pub(crate) keys: Keys,
    /// How long signed metadata is valid.
    #[serde(default)]
    pub(crate) expires: Expires,
    /// Wave profiles by name, beside the built-in ones.
    #[serde(default)]
    pub(crate) waves: BTreeMap<String, Shape>,
}

/// Where a repository is kept.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum Repository {
    /// A folder, relative to the configuration.
    Folder(PathBuf),
    /// A bucket and the prefix of its keys, without slashes at either end.
    Bucket {
        /// The bucket's name.
        bucket: String,
        /// The prefix; may be empty.
        prefix: String,
    },
}

impl TryFrom<String> for Repository {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix("s3://") else {
            if text.is_empty() || text.contains("://") {
                return Err(format!(
                    "`{text}` is not a repository: use a folder, or s3://bucket/prefix"
                ));
            }
            return Ok(Self::Folder(text.into()));
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let shaped = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b".-".contains(&c);
        if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(shaped) {
            return Err(format!("`{text}` names no bucket: use s3://bucket/prefix"));
        }
        let prefix = prefix.trim_matches('/');
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
        let part = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(plain);
        if !prefix.is_empty() && !prefix.split('/').all(part) {
            return Err(format!(
                "`{text}` has a prefix that does not fit into a URL: use a-z, A-Z, 0-9, `-`, `_`, `.` and `/`"
            ));
        }
        Ok(Self::Bucket {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        })
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", path.display()),
            Self::Bucket { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::Bucket { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// Where a key is kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum KeySource {
    /// `file:PATH`, relative to the configuration: PKCS#8 in PEM, or only the public half of a key kept elsewhere.
    File(PathBuf),
    /// `aws-kms:KEY`: an id, ARN or alias of an asymmetric signing key that never leaves KMS.
    AwsKms(String),
}

impl TryFrom<String> for KeySource {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("aws-kms", key)) if !key.is_empty() => Ok(Self::AwsKms(key.to_owned())),
            // The text may be the key itself, so it is not repeated.
            _ => Err("not a key source: use file:PATH or aws-kms:KEY".to_owned()),
        }
    }
}

impl std::str::FromStr for KeySource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.to_owned().try_into()
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::AwsKms(key) => write!(f, "aws-kms:{key}"),
        }
    }
}

/// `[channel.keys]`: the keys of each role and how many of them must sign. Empty where only reading is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Keys {
    /// Keep them offline; they are needed by `init` and `rotate-root` alone.
    pub(crate) root: Vec<KeySource>,
    /// How many of the root keys must sign.
    pub(crate) root_threshold: u32,
    /// They sign the releases: needed by `publish`, `promote` and `withdraw`.
    pub(crate) targets: Vec<KeySource>,
    /// How many of the targets keys must sign.
    pub(crate) targets_threshold: u32,
    /// It signs snapshot and timestamp: needed by everything that changes the channel, and by `refresh`.
    pub(crate) online: Option<KeySource>,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            root: Vec::new(),
            root_threshold: 2,
            targets: Vec::new(),
            targets_threshold: 1,
            online: None,
        }
    }
}

/// `[channel.expires]`, in days.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Expires {
    /// The root of trust.
    pub(crate) root_days: u32,
    /// The releases.
    pub(crate) targets_days: u32,
    /// The snapshot, which lists the metadata files.
    pub(crate) snapshot_days: u32,
    /// The timestamp, which names the newest snapshot.
    pub(crate) timestamp_days: u32,
}

impl Default for Expires {
    fn default() -> Self {
        Self {
            root_days: 365,
            targets_days: 90,
            snapshot_days: 7,
            timestamp_days: 1,
        }
    }
}

mod defaults {
    use std::path::PathBuf;

    use cloud::ids::ChannelName;

    pub(super) fn name() -> ChannelName {
        ChannelName::stable()
    }
    pub(super) fn root() -> PathBuf {
        "channel-root.json".into()
    }
}

impl Channel {
    /// Where instances read the channel: as configured, else derived from the repository. `folder` is the
    /// configuration's, `region` the bucket's.
    pub(crate) fn url(&self, folder: &Path, region: Option<&str>) -> String {
        if let Some(url) = &self.url {
            return url.trim_end_matches('/').to_owned();
        }
        match &self.repository {
            Repository::Folder(path) => {
                let path = folder.join(path);
                let path = std::path::absolute(&path).unwrap_or(path);
                format!("file://{}", path.display())
            }
            Repository::Bucket { bucket, prefix } => {
                let host = region.map_or_else(
                    || "s3.amazonaws.com".to_owned(),
                    |region| format!("s3.{region}.amazonaws.com"),
                );
                // A dot in the bucket's name would not match the service's wildcard certificate.
                let base = if bucket.contains('.') {
                    format!("https://{host}/{bucket}")
                } else {
                    format!("https://{bucket}.{host}")
                };
                format!("{base}/{prefix}").trim_end_matches('/').to_owned()
            }
        }
    }

    /// Refuses values that cannot work; the text names the key.
    pub(super) fn validate(&self) -> Result<(), String> {
        if let Some(url) = &self.url {
            let rest = |scheme| {
                url.strip_prefix(scheme)
                    .filter(|rest: &&str| !rest.is_empty())
            };
            match (rest("https://").or(rest("file://")), rest("http://")) {
                (Some(_), _) => {}
                (None, Some(_)) if self.plain_http => {}
                (None, Some(_)) => {
                    return Err(format!(
                        "[channel] url `{url}` is not encrypted; set `plain_http = true` to allow it"
                    ));
                }
                (None, None) => {
                    return Err(format!(
                        "[channel] url `{url}` does not begin with https://, file:// or, with `plain_http = true`, http://"
                    ));
                }
            }
        }
        let keys = &self.keys;
        for (key, threshold, sources) in [
            ("root", keys.root_threshold, &keys.root),
            ("targets", keys.targets_threshold, &keys.targets),
        ] {
            let named = format!("[channel.keys] {key}_threshold is {threshold}");
            if threshold == 0 {
                return Err(format!("{named}; it must be at least 1"));
            }
            if !sources.is_empty() && (threshold as usize) > sources.len() {
                return Err(format!("{named}, but `{key}` names {}", sources.len()));
            }
            if let Some(twice) = sources
                .iter()
                .enumerate()
                .find_map(|(at, source)| sources[..at].contains(source).then_some(source))
            {
                return Err(format!("[channel.keys] {key} names {twice} twice"));
            }
        }
        if let Some(online) = &keys.online
            && keys.root.contains(online)
        {
            return Err(format!(
                "[channel.keys] {online} is the online key and a root key: a stolen online key would then control the channel"
            ));
        }
        for (key, days) in [
            ("root_days", self.expires.root_days),
            ("targets_days", self.expires.targets_days),
            ("snapshot_days", self.expires.snapshot_days),
            ("timestamp_days", self.expires.timestamp_days),
        ] {
            if !(1..=LONGEST_DAYS).contains(&days) {
                return Err(format!(
                    "[channel.expires] {key} is {days}; it must be 1 to {LONGEST_DAYS}"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(text: &str) -> Channel {
        toml::from_str(text).unwrap()
    }

    fn refused(text: &str) -> String {
        match toml::from_str::<Channel>(text) {
            Err(error) => error.message().to_owned(),
            Ok(channel) => channel.validate().unwrap_err(),
        }
    }

    #[test]
    fn a_repository_is_enough_and_the_rest_is_safe() {
        let channel = channel("repository = \"channel\"");
        channel.validate().unwrap();
        assert_eq!(channel.name.as_str(), "stable");
        assert_eq!(channel.root, Path::new("channel-root.json"));
        assert_eq!(
            (channel.keys.root_threshold, channel.keys.targets_threshold),
            (2, 1)
        );
        assert_eq!(channel.expires.timestamp_days, 1);
        assert_eq!(
            channel.url(Path::new("/shop"), None),
            "file:///shop/channel"
        );
    }

    #[test]
    fn the_default_url_is_the_buckets_regional_one() {
        for (repository, region, url) in [
            (
                "s3://shop/agents/",
                Some("eu-north-1"),
                "https://shop.s3.eu-north-1.amazonaws.com/agents",
            ),
            ("s3://shop", None, "https://shop.s3.amazonaws.com"),
            (
                "s3://a.shop/x",
                Some("eu-north-1"),
                "https://s3.eu-north-1.amazonaws.com/a.shop/x",
            ),
        ] {
            let channel = channel(&format!("repository = \"{repository}\""));
            assert_eq!(channel.url(Path::new("/"), region), url, "{repository}");
        }
        let named = channel("repository = \"s3://shop\"\nurl = \"https://cdn.example/agents/\"");
        assert_eq!(
            named.url(Path::new("/"), None),
            "https://cdn.example/agents"
        );
    }

    #[test]
    fn invalid_values_are_refused_by_key() {
        let more = |text: &str| refused(&format!("repository = \"channel\"\n{text}"));
        insta::assert_snapshot!(
            [
                refused(""),
                refused("repository = \"ftp://x\""),
                refused("repository = \"s3:///x\""),
                refused("repository = \"s3://shop/a b\""),
                refused("repository = \"s3://shop/a/../b\""),
                more("url = \"http://cdn.example\""),
                more("url = \"cdn.example\""),
                more("url = \"https://\""),
                more("name = \"Stable Channel\""),
                more("keys = { root = [\"-----BEGIN PRIVATE KEY-----\"] }"),
                more("keys = { root = [\"file:\"] }"),
                more("keys = { root = [\"file:a\"] }"),
                more("keys = { targets = [\"file:a\"], targets_threshold = 2 }"),
                more("keys = { targets_threshold = 0 }"),
                more("keys = { root = [\"file:a\", \"file:a\"] }"),
                more("keys = { root = [\"file:a\", \"file:b\"], online = \"file:b\" }"),
                more("expires = { timestamp_days = 0 }"),
                more("expires = { root_days = 9999 }"),
                more("waves = { ours = \"1%@0h,5%\" }"),
                more("waves = { ours = \"5%@0h,1%@2h\" }"),
            ]
            .join("\n"),
            @r#"
            missing field `repository`
            `ftp://x` is not a repository: use a folder, or s3://bucket/prefix
            `s3:///x` names no bucket: use s3://bucket/prefix
            `s3://shop/a b` has a prefix that does not fit into a URL: use a-z, A-Z, 0-9, `-`, `_`, `.` and `/`
            `s3://shop/a/../b` has a prefix that does not fit into a URL: use a-z, A-Z, 0-9, `-`, `_`, `.` and `/`
            [channel] url `http://cdn.example` is not encrypted; set `plain_http = true` to allow it
            [channel] url `cdn.example` does not begin with https://, file:// or, with `plain_http = true`, http://
            [channel] url `https://` does not begin with https://, file:// or, with `plain_http = true`, http://
            `Stable Channel` is not a channel's name: use 1 to 32 of a-z, 0-9, `-`, beginning with a letter
            not a key source: use file:PATH or aws-kms:KEY
            not a key source: use file:PATH or aws-kms:KEY
            [channel.keys] root_threshold is 2, but `root` names 1
            [channel.keys] targets_threshold is 2, but `targets` names 1
            [channel.keys] targets_threshold is 0; it must be at least 1
            [channel.keys] root names file:a twice
            [channel.keys] file:b is the online key and a root key: a stolen online key would then control the channel
            [channel.expires] timestamp_days is 0; it must be 1 to 3660
            [channel.expires] root_days is 9999; it must be 1 to 3660
            `5%` is not a wave: it looks like 5%@1h, after m, h or d
            waves `5%@0h,1%@2h` do not ascend at `1%@2h`
            "#
        );
    }
}
