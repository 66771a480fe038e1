//! The channel that this instance follows, and how: the updater's settings.
//!
//! The updater cannot reach the metadata service, and so has no user data. `configure` has: it writes the merged and
//! validated settings into a file that the updater reads at every run. This module must not validate: the agent does,
//! when it reads its settings.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

pub use super::plan::{NotAWindow, Window, Windows};
use super::proxy::ProxySettings;

/// The file's name in the directory that `configure` writes.
pub const FILE: &str = "update.json";

/// Longest soak, in seconds: a trial unit is stopped after 900 s (its `RuntimeMaxSec=`), which includes starting it and
/// the last self-test.
pub const LONGEST_SOAK: u64 = 599;

/// Files that identify this host, for instances without a metadata service.
const NAMES: [&str; 2] = ["/etc/machine-id", "/proc/sys/kernel/hostname"];

/// The channel and how it is followed, validated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// The channel's name.
    pub channel: String,
    /// Its URL, without a slash at the end: metadata below `metadata/`, targets below `targets/`. `https://`,
    /// `file://`, or with `plain_http` also `http://`.
    pub url: String,
    /// Whether `http://` is allowed: everything is verified, but requests can be observed.
    #[serde(default)]
    pub plain_http: bool,
    /// The settings of proxies. Not in [`FILE`], which every user may read: see [`crate::proxy::FILE`].
    #[serde(skip)]
    pub proxy: ProxySettings,
    /// Certificate authorities to trust instead of the system's, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// How long a trial must run without a problem before it is confirmed.
    #[serde(rename = "soak_seconds", with = "seconds")]
    pub soak: Duration,
    /// When the daemon may be restarted for an update.
    #[serde(default, with = "texts")]
    pub windows: Windows,
}

/// The settings that `configure` writes for the updater.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// This instance: `i-…`, or [`machine_name`].
    pub instance_id: String,
    /// The channel that it follows; `None`: none, it is not updated.
    pub subscription: Option<Subscription>,
}

impl Subject {
    /// The file as text.
    ///
    /// # Errors
    /// None in practice: all of it is plain data.
    pub fn to_json(&self) -> Result<String> {
        let mut json = match &self.subscription {
            Some(subscription) => serde_json::to_value(subscription),
            None => Ok(serde_json::json!({})),
        }
        .context("cannot write the subscription as JSON")?;
        json["instance_id"] = self.instance_id.clone().into();
        Ok(format!("{json:#}\n"))
    }

    /// Reads the file's text.
    ///
    /// # Errors
    /// The file is invalid, from another version or another program.
    pub fn parse(text: &str) -> Result<Self> {
        let mut json: serde_json::Value = serde_json::from_str(text)?;
        let Some(instance_id) = json["instance_id"].as_str().filter(|id| !id.is_empty()) else {
            bail!("no instance_id");
        };
        let instance_id = instance_id.to_owned();
        let subscription = match json.get("channel") {
            Some(_) => Some(serde_json::from_value(json.take())?),
            None => None,
        };
        Ok(Self {
            instance_id,
            subscription,
        })
    }

    /// Reads what `configure` wrote in `run_dir`; `None` if it cannot be read, which is logged.
    #[must_use]
    pub fn read(run_dir: &Path) -> Option<Self> {
        let path = run_dir.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!("cannot read {}: {error}", path.display());
                return None;
            }
        };
        Self::parse(&text)
            .inspect_err(|error| tracing::warn!("{} is invalid: {error:#}", path.display()))
            .ok()
    }
}

/// A name for an instance without a metadata service: `machine-` and an id derived from its machine id.
///
/// Derived, since the machine id itself must not be published (machine-id(5)). A host without a machine id is named by
/// its host name in the same way.
///
/// # Errors
/// There is neither a machine id nor a host name.
pub fn machine_name() -> Result<String> {
    name_from(NAMES.map(Path::new))
}

/// What the machine id is hashed with, so that the result is this program's own: a random id, never to be changed.
const APPLICATION: [u8; 16] = 0xd78a_8ba8_11f7_4409_b996_aa7c_ce93_5407_u128.to_be_bytes();

fn name_from([machine_id, host_name]: [&Path; 2]) -> Result<String> {
    let read = |file: &Path| fs::read_to_string(file).unwrap_or_default();
    // A file of a first boot whose id is not settled yet contains `uninitialized`.
    if let Some(id) = parse_id(read(machine_id).trim()) {
        return Ok(format!("machine-{}", derived(&id)));
    }
    match read(host_name).trim() {
        "" => bail!(
            "nothing names this machine: it has neither a machine id nor a host name\nhint: systemd-machine-id-setup"
        ),
        host => Ok(format!("machine-{}", derived(host.as_bytes()))),
    }
}

/// The 32 hex digits of machine-id(5); zeros are no id.
fn parse_id(text: &str) -> Option<[u8; 16]> {
    let digits = text.len() == 32 && text.bytes().all(|c| c.is_ascii_hexdigit());
    let id = u128::from_str_radix(text, 16).ok().filter(|id| *id != 0)?;
    digits.then_some(id.to_be_bytes())
}

/// As `sd_id128_get_machine_app_specific(3)`: HMAC-SHA256 of the application's id, keyed by the machine id; its first
/// half, marked and written as a version 4 UUID.
fn derived(key: &[u8]) -> String {
    let mut padded = [0_u8; 64];
    for (to, from) in padded.iter_mut().zip(key) {
        *to = *from;
    }
    let mut mac = Hmac::<Sha256>::new(&padded.into());
    mac.update(&APPLICATION);
    let tag = mac.finalize().into_bytes();
    let half = tag
        .iter()
        .take(16)
        .fold(0_u128, |id, byte| id << 8 | u128::from(*byte));
    let id = half & !(0xf000_u128 << 64) & !(0xc_u128 << 60) | 0x4000_u128 << 64 | 0x8_u128 << 60;
    let hex = format!("{id:032x}");
    let groups = [0..8, 8..12, 12..16, 16..20, 20..32].map(|group| &hex[group]);
    groups.join("-")
}

mod seconds {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(value.as_secs())
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_secs)
    }
}

mod texts {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use crate::plan::{NotAWindow, Window, Windows};

    pub(super) fn serialize<S: Serializer>(value: &Windows, to: S) -> Result<S::Ok, S::Error> {
        value.texts().serialize(to)
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Windows, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        let windows: Result<Windows, NotAWindow> =
            texts.iter().map(|text| text.parse::<Window>()).collect();
        windows.map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription() -> Subscription {
        Subscription {
            channel: "stable".to_owned(),
            url: "https://updates.example.com/agent".to_owned(),
            plain_http: false,
            proxy: ProxySettings::default(),
            ca_file: None,
            soak: Duration::from_secs(120),
            windows: std::iter::once("Mon-Fri 09:00-16:00".parse::<Window>().unwrap()).collect(),
        }
    }

    #[test]
    fn the_updater_reads_what_configure_writes() {
        for subscription in [Some(subscription()), None] {
            let written = Subject {
                instance_id: "i-1".to_owned(),
                subscription,
            };
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(FILE), written.to_json().unwrap()).unwrap();
            assert_eq!(Subject::read(dir.path()), Some(written));
        }
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Subject::read(dir.path()), None);
    }

    #[test]
    fn the_file_is_flat_and_may_have_unknown_fields() {
        let json = r#"{"instance_id":"i-1","channel":"beta","url":"file:///srv/c","soak_seconds":60,"new":1}"#;
        let read = Subject::parse(json).unwrap();
        let terms = read.subscription.unwrap();
        assert_eq!((terms.channel.as_str(), terms.soak.as_secs()), ("beta", 60));
        assert!(terms.windows.open(jiff::Timestamp::UNIX_EPOCH));
    }

    #[test]
    fn what_is_not_such_a_file_is_not_read() {
        for text in [
            "",
            "[]",
            "7",
            r#"{"channel":"stable","url":"file:///c","soak_seconds":1}"#,
            r#"{"instance_id":"","channel":"stable","url":"file:///c","soak_seconds":1}"#,
            r#"{"instance_id":"i-1","channel":"stable"}"#,
            r#"{"instance_id":"i-1","channel":"stable","url":"file:///c","soak_seconds":1,"windows":["x"]}"#,
        ] {
            assert!(Subject::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_derived_name_does_not_reveal_the_machine_id() {
        let dir = tempfile::tempdir().unwrap();
        let (id, host) = (dir.path().join("machine-id"), dir.path().join("hostname"));
        let name = || name_from([&id, &host]);
        let error = name().unwrap_err().to_string();
        assert!(
            error.contains("neither a machine id nor a host name"),
            "{error}"
        );
        fs::write(&host, "box\n").unwrap();
        let by_host = name().unwrap();
        for none in [
            "uninitialized\n",
            "",
            "0123",
            &"0".repeat(32),
            &"x".repeat(32),
        ] {
            fs::write(&id, none).unwrap();
            assert_eq!(name().unwrap(), by_host, "{none}");
        }
        fs::write(&id, "0123456789abcdef0123456789abcdef\n").unwrap();
        let by_id = name().unwrap();
        assert_ne!(by_id, by_host);
        assert!(!by_id.contains("0123456789"));
    }

    /// The expected value is that of `systemd-id128 machine-id --app-specific=d78a8ba811f74409b996aa7cce935407 --uuid`
    /// (systemd 252) on a machine with this id.
    #[test]
    fn the_derived_name_is_the_one_systemd_derives() {
        let id = parse_id("0123456789abcdef0123456789abcdef").unwrap();
        assert_eq!(derived(&id), "042887b5-e6b5-412f-a081-6027e2c30de4");
    }
}
