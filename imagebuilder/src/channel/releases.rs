//! How publishing, promoting and withdrawing change the targets: pure, from metadata to metadata.
//!
//! Signs nothing and reads no file; no change is `None`, so that every verb can be run twice.

use std::collections::{BTreeMap, HashMap};

use anyhow::Context as _;
use contract::release::{Kind, Release, Rollout, SCHEMA, Withdrawal};
use jiff::Timestamp;
use semver::Version;
use tough::TargetName;
use tough::schema::{Hashes, Target, Targets};

use super::verify::{Entry, entries};
use super::waves::Shape;
use cloud::ids::ChannelName;
use run::exit::{Exit, Failure};

/// Longest withdrawal reason, in bytes: every instance stores it.
const LONGEST_REASON: usize = 500;

/// A release to publish.
#[derive(Clone, Debug)]
pub(crate) struct New {
    /// Its version.
    pub(crate) version: Version,
    /// Its architecture, as the kernel names it.
    pub(crate) arch: String,
    /// SHA-256 of its bytes.
    pub(crate) digest: Vec<u8>,
    /// Its length in bytes.
    pub(crate) length: u64,
    /// The channel it joins.
    pub(crate) channel: ChannelName,
    /// When its first wave begins.
    pub(crate) start: Timestamp,
    /// How it spreads; `None` takes the default, or what it has already.
    pub(crate) waves: Option<Shape>,
    /// What a new rollout gets when `waves` is `None`.
    pub(crate) default_waves: Shape,
    /// Oldest version that may update directly to it.
    pub(crate) min_from: Option<Version>,
    /// The version that no instance of its channel may stay below.
    pub(crate) floor: Option<Version>,
}

/// Changed targets, and notes for the operator.
#[derive(Debug)]
pub(crate) struct Edit {
    /// As they are to be.
    pub(crate) targets: Targets,
    /// What else the operator should know.
    pub(crate) notes: Vec<String>,
}

/// Adds a release, or finds it there already.
///
/// # Errors
/// When the version exists with other bytes or other terms, was withdrawn, or instances would not accept it.
pub(crate) fn publish(targets: &Targets, new: &New) -> anyhow::Result<Option<Edit>> {
    let name = Release::target_name(&new.version, &new.arch);
    let there = find(targets, &name)?;
    let mut release = match &there {
        None => Release {
            schema: SCHEMA,
            kind: Kind::Agent,
            version: new.version.clone(),
            arch: new.arch.clone(),
            channels: BTreeMap::new(),
            min_from: new.min_from.clone(),
            floor: new.floor.clone(),
            withdrawn: None,
        },
        Some(entry) => {
            same_terms(entry, new)?;
            entry.release.clone()
        }
    };
    let channel = new.channel.as_str();
    if let Some(rollout) = release.channels.get(channel) {
        let has = Shape::of(&rollout.waves, rollout.since);
        return match &new.waves {
            Some(wanted) if *wanted != has => Err(Exit::Refused
                .error(format!(
                    "{} is in {channel} already, with waves {has}",
                    new.version
                ))
                .hint(format!(
                    "to change them: `imagebuilder channel promote {} --to {channel} --waves …`",
                    new.version
                ))
                .into()),
            _ => Ok(None),
        };
    }
    let shape = new.waves.as_ref().unwrap_or(&new.default_waves);
    join(&mut release, channel, shape, new.start);
    release.check().map_err(|unusable| {
        Exit::Refused.error(format!("no instance would accept it: {unusable}"))
    })?;
    let mut notes = Vec::new();
    let newer = entries(targets).into_iter().filter(|entry| {
        entry.release.arch == new.arch
            && entry.release.withdrawn.is_none()
            && entry.release.channels.contains_key(channel)
            && entry.release.version > new.version
    });
    if let Some(newest) = newer.max_by(|a, b| a.release.version.cmp(&b.release.version)) {
        notes.push(format!(
            "{channel} carries {}, which is newer: instances never go back to {} by themselves",
            newest.release.version, new.version
        ));
    }
    let mut targets = targets.clone();
    let target = Target {
        length: new.length,
        hashes: Hashes {
            sha256: new.digest.clone().into(),
            _extra: HashMap::new(),
        },
        custom: HashMap::new(),
        _extra: HashMap::new(),
    };
    put(&mut targets, &name, Some(target), &release)?;
    Ok(Some(Edit { targets, notes }))
}

/// The release under this name, if it exists; one that is not understood is an error.
fn find(targets: &Targets, name: &str) -> anyhow::Result<Option<Entry>> {
    let entry = entries(targets)
        .into_iter()
        .find(|entry| entry.name == name);
    if entry.is_none() && targets.targets.contains_key(&TargetName::new(name)?) {
        return Err(Exit::Refused
            .error(format!("{name} exists already, written by a newer tool"))
            .hint("use a newer imagebuilder, or another version number")
            .into());
    }
    Ok(entry)
}

/// Refuses to publish again under one version what is not the same.
fn same_terms(entry: &Entry, new: &New) -> Result<(), Failure> {
    let release = &entry.release;
    if entry.digest != hex::encode(&new.digest) {
        return Err(Exit::Refused
            .error(format!(
                "{} is published already with other bytes (SHA-256 {}, here {})",
                entry.name,
                &entry.digest[..12],
                &hex::encode(&new.digest)[..12]
            ))
            .hint("a version's bytes never change: use another version number"));
    }
    if let Some(withdrawn) = &release.withdrawn {
        return Err(Exit::Refused
            .error(format!(
                "{} was withdrawn: {}",
                entry.name, withdrawn.reason
            ))
            .hint("instances skip it permanently: publish a new version"));
    }
    for (key, wanted, has) in [
        ("--min-from", &new.min_from, &release.min_from),
        ("--floor", &new.floor, &release.floor),
    ] {
        if let Some(wanted) = wanted
            && Some(wanted) != has.as_ref()
        {
            let has = has.as_ref().map_or("none".to_owned(), ToString::to_string);
            return Err(Exit::Refused
                .error(format!(
                    "{} is published already with {key} {has}, not {wanted}",
                    entry.name
                ))
                .hint("a published release never changes: publish a new version"));
        }
    }
    Ok(())
}

fn join(release: &mut Release, channel: &str, shape: &Shape, start: Timestamp) {
    let rollout = Rollout {
        since: start,
        waves: shape.from(start),
    };
    release.channels.insert(channel.to_owned(), rollout);
}

/// Writes a release over its target's custom metadata, or a new target.
fn put(
    targets: &mut Targets,
    name: &str,
    target: Option<Target>,
    release: &Release,
) -> anyhow::Result<()> {
    let key = TargetName::new(name).with_context(|| format!("name the target {name}"))?;
    let mut target = match target.or_else(|| targets.targets.get(&key).cloned()) {
        Some(target) => target,
        None => anyhow::bail!("there is no target {name}"),
    };
    let serde_json::Value::Object(custom) =
        serde_json::to_value(release).context("serialize a release")?
    else {
        anyhow::bail!("a release is not an object");
    };
    // Fields that a newer tool wrote are kept.
    for known in ["channels", "min_from", "floor", "withdrawn"] {
        target.custom.remove(known);
    }
    target.custom.extend(custom);
    targets.targets.insert(key, target);
    Ok(())
}

/// The releases of a version, one an architecture.
fn of_version(targets: &Targets, version: &Version) -> Result<Vec<Entry>, Failure> {
    let all = entries(targets);
    let found: Vec<Entry> = all
        .iter()
        .filter(|entry| entry.release.version == *version)
        .cloned()
        .collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let mut known: Vec<String> = all
        .iter()
        .map(|entry| entry.release.version.to_string())
        .collect();
    known.dedup();
    let known = match known.len() {
        0 => "there is none yet: `imagebuilder channel publish BINARY`".to_owned(),
        many => format!("there are {}", known[many.saturating_sub(5)..].join(", ")),
    };
    Err(Exit::Refused
        .error(format!("there is no release {version}"))
        .hint(known))
}

/// Puts a release into one more channel, or gives it other waves there.
///
/// # Errors
/// When there is no such release, or it was withdrawn.
pub(crate) fn promote(
    targets: &Targets,
    version: &Version,
    to: &ChannelName,
    start: Timestamp,
    waves: Option<&Shape>,
    default_waves: &Shape,
) -> anyhow::Result<Option<Edit>> {
    let mut edited = targets.clone();
    let mut changed = false;
    for entry in of_version(targets, version)? {
        let mut release = entry.release;
        if let Some(withdrawn) = &release.withdrawn {
            return Err(Exit::Refused
                .error(format!(
                    "{} was withdrawn: {}",
                    entry.name, withdrawn.reason
                ))
                .hint("instances skip it permanently: publish a new version")
                .into());
        }
        let has = release
            .channels
            .get(to.as_str())
            .map(|rollout| Shape::of(&rollout.waves, rollout.since));
        let shape = match (has, waves) {
            (Some(has), Some(wanted)) if has != *wanted => wanted,
            (Some(_), _) => continue,
            (None, wanted) => wanted.unwrap_or(default_waves),
        };
        join(&mut release, to.as_str(), shape, start);
        put(&mut edited, &entry.name, None, &release)?;
        changed = true;
    }
    Ok(changed.then_some(Edit {
        targets: edited,
        notes: Vec::new(),
    }))
}

/// Takes a release back, for every architecture.
///
/// # Errors
/// When there is no such release, or nothing to roll back to.
pub(crate) fn withdraw(
    targets: &Targets,
    version: &Version,
    reason: &str,
    rollback_to: Option<&Version>,
    now: Timestamp,
) -> anyhow::Result<Option<Edit>> {
    if reason.trim().is_empty() || reason.len() > LONGEST_REASON {
        return Err(Exit::Usage
            .error(format!("--reason has to be 1 to {LONGEST_REASON} bytes"))
            .into());
    }
    let withdrawn_release = of_version(targets, version)?;
    if let Some(back) = rollback_to {
        let all = entries(targets);
        for entry in &withdrawn_release {
            check_rollback_target(&all, entry, back)?;
        }
    }
    let mut edited = targets.clone();
    let mut notes = Vec::new();
    let mut changed = false;
    for entry in &withdrawn_release {
        let mut release = entry.release.clone();
        let at = release.withdrawn.as_ref().map_or(now, |before| before.at);
        let withdrawal = Withdrawal {
            at,
            reason: reason.to_owned(),
            rollback_to: rollback_to.cloned(),
        };
        if release.withdrawn.as_ref() != Some(&withdrawal) {
            release.withdrawn = Some(withdrawal);
            put(&mut edited, &entry.name, None, &release)?;
            changed = true;
        }
    }
    // No instance is to be sent to the withdrawn release.
    for entry in entries(&edited) {
        let mut release = entry.release;
        let Some(withdrawn) = &mut release.withdrawn else {
            continue;
        };
        if withdrawn.rollback_to.as_ref() != Some(version) {
            continue;
        }
        withdrawn.rollback_to = rollback_to.cloned();
        let destination =
            rollback_to.map_or("stay where they are".to_owned(), |to| format!("go to {to}"));
        notes.push(format!(
            "instances on {}, which were sent back to {version}, now {destination}",
            entry.name
        ));
        put(&mut edited, &entry.name, None, &release)?;
        changed = true;
    }
    Ok(changed.then_some(Edit {
        targets: edited,
        notes,
    }))
}

/// Whether instances on the withdrawn release can be sent to `back`.
fn check_rollback_target(
    all: &[Entry],
    withdrawn_release: &Entry,
    back: &Version,
) -> Result<(), Failure> {
    let refuse =
        |why: String| Err(Exit::Refused.error(format!("no instance can be sent to {back}: {why}")));
    if *back >= withdrawn_release.release.version {
        return refuse(format!(
            "it is not older than {}",
            withdrawn_release.release.version
        ))
        .map_err(|failure| failure.hint("a newer release needs no --rollback-to: publish it"));
    }
    let found = all.iter().find(|entry| {
        entry.release.version == *back && entry.release.arch == withdrawn_release.release.arch
    });
    let Some(found) = found else {
        return refuse(format!(
            "there is no release of it for {}",
            withdrawn_release.release.arch
        ));
    };
    if let Some(withdrawn) = &found.release.withdrawn {
        return refuse(format!("it was withdrawn itself: {}", withdrawn.reason));
    }
    let floor = all
        .iter()
        .filter(|entry| {
            entry.release.withdrawn.is_none()
                && withdrawn_release
                    .release
                    .channels
                    .keys()
                    .any(|channel| entry.release.channels.contains_key(channel))
        })
        .filter_map(|entry| entry.release.floor.as_ref())
        .max();
    if let Some(floor) = floor
        && back < floor
    {
        return refuse(format!("the floor of its channel is {floor}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
