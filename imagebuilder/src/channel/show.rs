//! The content of `channel show`: pure, from verified metadata and the time to a view and its text.

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;
use tough::schema::{RoleType, Root};

use super::keys::short;
use super::root::keyids;
use super::verify::{Entry, Verified, fix};
use super::waves::Shape;
use run::document::Document;
use run::ledger::ChannelVersions;

/// A channel: its metadata, keys, releases and waves.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct View {
    /// Where the channel is.
    repository: String,
    /// Where instances read it.
    url: String,
    /// Versions of the metadata.
    versions: ChannelVersions,
    /// The roles that sign.
    roles: Vec<RoleView>,
    /// The releases, newest first.
    releases: Vec<ReleaseView>,
}

impl Document for View {
    const NAME: &'static str = "channel-show";
}

/// A role that signs.
#[derive(Debug, Serialize, JsonSchema)]
struct RoleView {
    /// Its name.
    role: String,
    /// The version of its metadata.
    version: u64,
    /// When its metadata expires.
    expires: Timestamp,
    /// Whether that is soon.
    state: Freshness,
    /// How many of its keys have to sign.
    threshold: u64,
    /// Key ids, whole.
    keys: Vec<String>,
}

/// When a role's metadata expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Freshness {
    /// Not soon.
    Fresh,
    /// Within a quarter of its lifetime.
    Soon,
    /// It has expired.
    Expired,
}

/// A release for one architecture.
#[derive(Debug, Serialize, JsonSchema)]
struct ReleaseView {
    /// Its version.
    version: String,
    /// Its architecture.
    arch: String,
    /// The name of its binary in the repository.
    target: String,
    /// The binary's digest.
    sha256: String,
    /// The binary's size in bytes.
    length: u64,
    /// The oldest version that may update directly to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    min_from: Option<String>,
    /// The version that no instance of its channels stays below, whatever its hold, window and wave.
    #[serde(skip_serializing_if = "Option::is_none")]
    floor: Option<String>,
    /// The channels that carry it.
    channels: Vec<RolloutView>,
    /// That it was withdrawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    withdrawn: Option<WithdrawalView>,
}

/// The withdrawal of a release.
#[derive(Debug, Serialize, JsonSchema)]
struct WithdrawalView {
    /// When.
    at: Timestamp,
    /// Why.
    reason: String,
    /// The version that instances on it go back to; absent when they stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    rollback_to: Option<String>,
}

/// A release in a channel.
#[derive(Debug, Serialize, JsonSchema)]
struct RolloutView {
    /// The channel.
    channel: String,
    /// When it was added.
    since: Timestamp,
    /// Its waves, as they are written on the command line.
    shape: String,
    /// Share of the fleet whose wave has begun, in percent.
    open: u8,
    /// Its waves.
    waves: Vec<WaveView>,
}

/// A wave.
#[derive(Debug, Serialize, JsonSchema)]
struct WaveView {
    /// The share of the fleet, with the waves before, in percent.
    percent: u8,
    /// When it begins.
    at: Timestamp,
    /// Whether it has begun.
    open: bool,
}

/// A role's metadata that is expired or soon will be.
#[derive(Debug)]
pub(crate) struct Warning {
    /// Expired already, rather than soon.
    pub(crate) expired: bool,
    /// What is expired, and when.
    pub(crate) message: String,
    /// How to fix it.
    pub(crate) fix: String,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.message, self.fix)
    }
}

/// The view as of `now`. `lives` are the configured lifetimes of root, targets, snapshot and timestamp, in days.
pub(crate) fn view(
    verified: &Verified,
    repository: String,
    url: String,
    lives: [u32; 4],
    now: Timestamp,
) -> View {
    let versions = ChannelVersions::from(verified.versions());
    let of = [
        versions.root,
        versions.targets,
        versions.snapshot,
        versions.timestamp,
    ];
    let roles = verified
        .expiries()
        .into_iter()
        .zip(of.into_iter().zip(lives))
        .map(|((role, expires), (version, days))| {
            role_view(verified.root(), role, version, expires, days, now)
        })
        .collect();
    View {
        repository,
        url,
        versions,
        roles,
        releases: verified
            .entries()
            .into_iter()
            .rev()
            .map(|entry| release_view(entry, now))
            .collect(),
    }
}

fn role_view(
    root: &Root,
    role: RoleType,
    version: u64,
    expires: Timestamp,
    days: u32,
    now: Timestamp,
) -> RoleView {
    // A quarter of a life is time enough to gather the keys.
    let soon = SignedDuration::from_hours(i64::from(days) * 24 / 4);
    RoleView {
        role: role.to_string(),
        version,
        expires,
        state: if expires <= now {
            Freshness::Expired
        } else if expires <= now + soon {
            Freshness::Soon
        } else {
            Freshness::Fresh
        },
        threshold: root.roles.get(&role).map_or(0, |role| role.threshold.get()),
        keys: keyids(root, role).iter().map(hex::encode).collect(),
    }
}

fn release_view(entry: Entry, now: Timestamp) -> ReleaseView {
    let release = entry.release;
    ReleaseView {
        version: release.version.to_string(),
        arch: release.arch,
        target: entry.name,
        sha256: entry.digest,
        length: entry.length,
        min_from: release.min_from.map(|version| version.to_string()),
        floor: release.floor.map(|version| version.to_string()),
        channels: release
            .channels
            .into_iter()
            .map(|(channel, rollout)| RolloutView {
                channel,
                since: rollout.since,
                shape: Shape::of(&rollout.waves, rollout.since).to_string(),
                open: if rollout.waves.is_empty() {
                    if rollout.since <= now { 100 } else { 0 }
                } else {
                    rollout
                        .waves
                        .iter()
                        .filter(|wave| wave.at <= now)
                        .map(|wave| wave.percent)
                        .max()
                        .unwrap_or(0)
                },
                waves: rollout
                    .waves
                    .iter()
                    .map(|wave| WaveView {
                        percent: wave.percent,
                        at: wave.at,
                        open: wave.at <= now,
                    })
                    .collect(),
            })
            .collect(),
        withdrawn: release.withdrawn.map(|withdrawn| WithdrawalView {
            at: withdrawn.at,
            reason: withdrawn.reason,
            rollback_to: withdrawn.rollback_to.map(|version| version.to_string()),
        }),
    }
}

impl View {
    /// What is expired or soon will be.
    pub(crate) fn warnings(&self) -> Vec<Warning> {
        self.roles
            .iter()
            .filter_map(|role| {
                let message = match role.state {
                    Freshness::Expired => format!(
                        "{} metadata expired at {}: instances take nothing new",
                        role.role, role.expires
                    ),
                    Freshness::Soon => {
                        format!("{} metadata expires at {}", role.role, role.expires)
                    }
                    Freshness::Fresh => return None,
                };
                let kind: RoleType = role.role.parse().ok()?;
                // A timestamp is valid for a day: cron renews it before it expires.
                let fix = if role.state == Freshness::Soon && kind == RoleType::Timestamp {
                    "run `imagebuilder channel refresh`, and check why cron did not".to_owned()
                } else {
                    fix(kind).to_owned()
                };
                Some(Warning {
                    expired: role.state == Freshness::Expired,
                    message,
                    fix,
                })
            })
            .collect()
    }

    /// When each role's metadata expires, in one line.
    pub(crate) fn expiries(&self, now: Timestamp) -> String {
        let roles = self.roles.iter();
        let roles = roles.map(|role| format!("{} {}", role.role, span(role.expires, now)));
        roles.collect::<Vec<_>>().join(", ")
    }

    /// The view as lines of text.
    pub(crate) fn text(&self, now: Timestamp) -> Vec<String> {
        let mut lines = vec![
            format!("channel {}, read at {}", self.repository, self.url),
            String::new(),
        ];
        for role in &self.roles {
            let keys: Vec<&str> = role.keys.iter().map(|id| &id[..8.min(id.len())]).collect();
            lines.push(format!(
                "{:<10} {:>4}  expires {} ({})  {} of {}",
                role.role,
                role.version,
                role.expires,
                span(role.expires, now),
                role.threshold,
                keys.join(" ")
            ));
        }
        if self.releases.is_empty() {
            lines.extend([String::new(), "no release yet".to_owned()]);
        }
        for release in &self.releases {
            lines.push(String::new());
            lines.push(format!(
                "{} {}  {}  {} bytes",
                release.version,
                release.arch,
                &release.sha256[..12.min(release.sha256.len())],
                release.length
            ));
            for (name, version) in [("min from", &release.min_from), ("floor", &release.floor)] {
                if let Some(version) = version {
                    lines.push(format!("  {name} {version}"));
                }
            }
            if let Some(withdrawn) = &release.withdrawn {
                let back = withdrawn
                    .rollback_to
                    .as_ref()
                    .map_or("instances stay until a newer release".to_owned(), |to| {
                        format!("instances go back to {to}")
                    });
                lines.push(format!(
                    "  WITHDRAWN {}: {}; {back}",
                    withdrawn.at, withdrawn.reason
                ));
            }
            for rollout in &release.channels {
                lines.push(format!(
                    "  {}: open to {} %, since {}",
                    rollout.channel, rollout.open, rollout.since
                ));
                for wave in &rollout.waves {
                    let mark = if wave.open { "open" } else { "" };
                    lines.push(
                        format!("    {:>3} %  {}  {mark}", wave.percent, wave.at)
                            .trim_end()
                            .to_owned(),
                    );
                }
            }
        }
        lines
    }
}

/// `in 6 d`, `3 h ago`.
fn span(at: Timestamp, now: Timestamp) -> String {
    let hours = at.duration_since(now).as_hours();
    let size = |hours: i64| {
        if hours >= 48 {
            format!("{} d", hours / 24)
        } else {
            format!("{hours} h")
        }
    };
    if at <= now {
        format!("{} ago", size(-hours))
    } else {
        format!("in {}", size(hours))
    }
}

/// A draft of a root for those who are to sign it: which keys will have which role.
pub(crate) fn draft(root: &Root) -> Vec<String> {
    let mut lines = vec![format!("root {}, expires {}", root.version, root.expires)];
    for role in [
        RoleType::Root,
        RoleType::Targets,
        RoleType::Snapshot,
        RoleType::Timestamp,
    ] {
        let keys: Vec<String> = keyids(root, role).iter().map(short).collect();
        let threshold = root.roles.get(&role).map_or(0, |role| role.threshold.get());
        lines.push(format!("  {role}: {threshold} of {}", keys.join(" ")));
    }
    lines
}
