//! A release of the agent: the custom metadata of its target in the signed channel.
//!
//! `imagebuilder channel` writes it, the agent's updater reads it. It is the `custom` object of an entry of
//! the channel's `targets.json` (TUF 1.0.34, section 4.5), so it is read only after its signatures were
//! verified. Targets have flat names ([`Release::target_name`]) and are one executable file each.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use semver::Version;
use serde::{Deserialize, Serialize};

/// The one schema number this crate reads and writes.
pub const SCHEMA: u32 = 1;

/// One release of the agent for one architecture.
///
/// Unknown fields are ignored, so that an older agent can still update itself to a release described
/// by a newer tool; an unknown `schema` makes a release invisible ([`Release::check`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What the target is.
    pub kind: Kind,
    /// The version that the binary reports.
    pub version: Version,
    /// The architecture it runs on, as the kernel names it: `x86_64`, `aarch64`.
    pub arch: String,
    /// The channels that contain it, and how each rolls it out.
    #[serde(default)]
    pub channels: BTreeMap<String, Rollout>,
    /// The oldest version that may update directly to this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_from: Option<Version>,
    /// Instances on a channel that contains this release must not stay older than this version: they update
    /// regardless of hold, window and wave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Version>,
    /// Set if the release was withdrawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn: Option<Withdrawal>,
}

/// What a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// The agent's executable.
    Agent,
    /// An unknown kind of a newer tool; not for this reader.
    #[serde(other)]
    Unknown,
}

/// How one channel rolls a release out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// When it was added to the channel.
    pub since: Timestamp,
    /// Cumulative shares of the fleet, both columns ascending. Empty: all instances at once.
    #[serde(default)]
    pub waves: Vec<Wave>,
}

/// From `at` on, the first `percent` of the fleet may take the release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wave {
    /// Cumulative share of the fleet, 1 to 100.
    pub percent: u8,
    /// When the wave begins.
    pub at: Timestamp,
}

/// Why a release was withdrawn, and where its instances go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawal {
    /// When.
    pub at: Timestamp,
    /// Why, for people.
    pub reason: String,
    /// The version that instances on the withdrawn one return to; without it they stay until a newer release
    /// is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_to: Option<Version>,
}

/// What is wrong with a release's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable(String);

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unusable {}

impl Release {
    /// The name of the release's target: `imagebuilder-agent-1.2.0-x86_64`.
    #[must_use]
    pub fn target_name(version: &Version, arch: &str) -> String {
        format!("{}-{version}-{arch}", crate::layout::BINARY)
    }

    /// Checks that this reader can use the release.
    ///
    /// # Errors
    /// The first problem: an unknown schema or kind, waves that do not ascend or are outside 1 to 100, a
    /// release that rolls back to itself, a floor above its own version.
    pub fn check(&self) -> Result<(), Unusable> {
        let unusable = |text: String| Err(Unusable(text));
        if self.schema != SCHEMA {
            return unusable(format!("schema {} is not {SCHEMA}", self.schema));
        }
        if self.kind != Kind::Agent {
            return unusable("not an agent".to_owned());
        }
        for (channel, rollout) in &self.channels {
            let mut last: Option<Wave> = None;
            for wave in &rollout.waves {
                let ascends =
                    last.is_none_or(|last| last.percent < wave.percent && last.at <= wave.at);
                if !ascends || !(1..=100).contains(&wave.percent) {
                    return unusable(format!("the waves of channel {channel} do not ascend"));
                }
                last = Some(*wave);
            }
        }
        if self
            .floor
            .as_ref()
            .is_some_and(|floor| *floor > self.version)
        {
            return unusable(format!("its floor is above {}", self.version));
        }
        let back = self.withdrawn.as_ref().and_then(|w| w.rollback_to.as_ref());
        if back == Some(&self.version) {
            return unusable(format!("{} rolls back to itself", self.version));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release() -> Release {
        serde_json::from_str(
            r#"{"schema":1,"kind":"agent","version":"1.2.0","arch":"x86_64","of_a_newer_tool":7,
                "channels":{"stable":{"since":"2026-01-01T00:00:00Z","waves":[
                    {"percent":5,"at":"2026-01-01T00:00:00Z"},{"percent":100,"at":"2026-01-02T00:00:00Z"}]}},
                "min_from":"1.0.0","floor":"1.1.0"}"#,
        )
        .unwrap()
    }

    #[test]
    fn a_release_round_trips_and_ignores_unknown_fields() {
        let release = release();
        assert_eq!(release.check(), Ok(()));
        assert_eq!(
            Release::target_name(&release.version, &release.arch),
            "imagebuilder-agent-1.2.0-x86_64"
        );
        let again: Release =
            serde_json::from_str(&serde_json::to_string(&release).unwrap()).unwrap();
        assert_eq!(again, release);
    }

    #[test]
    fn an_unusable_release_has_a_reason() {
        type Change = fn(&mut Release);
        let cases: [(Change, &str); 6] = [
            (|r| r.schema = 2, "schema 2 is not 1"),
            (|r| r.kind = Kind::Unknown, "not an agent"),
            (
                |r| r.channels.get_mut("stable").unwrap().waves.reverse(),
                "the waves of channel stable do not ascend",
            ),
            (
                |r| r.channels.get_mut("stable").unwrap().waves[1].percent = 101,
                "the waves of channel stable do not ascend",
            ),
            (
                |r| r.floor = Some(Version::new(2, 0, 0)),
                "its floor is above 1.2.0",
            ),
            (
                |r| {
                    r.withdrawn = Some(Withdrawal {
                        at: Timestamp::UNIX_EPOCH,
                        reason: String::new(),
                        rollback_to: Some(r.version.clone()),
                    });
                },
                "1.2.0 rolls back to itself",
            ),
        ];
        for (change, reason) in cases {
            let mut release = release();
            change(&mut release);
            assert_eq!(release.check().unwrap_err().to_string(), reason);
        }
    }

    #[test]
    fn an_unknown_kind_is_read_and_refused() {
        let mut json = serde_json::to_value(release()).unwrap();
        json["kind"] = "splines".into();
        let release: Release = serde_json::from_value(json).unwrap();
        assert!(release.check().is_err());
    }
}
