//! What an image takes from the signed channel: whether its agent may be baked, and the metadata that a new instance starts from.
//!
//! Pure. [`crate::channel::verify`] reads and verifies the repository; nothing is signed here.

use std::collections::BTreeMap;

use contract::release::Release;
use jiff::Timestamp;
use semver::Version;
use tough::schema::RoleType;

use crate::channel::verify::Verified;
use crate::config::Arch;
use cloud::ids::{ChannelName, Digest};
use run::exit::{Exit, Failure};

/// Refuses metadata that instances would refuse, and an agent that the channel would replace again at once. The version
/// under which the agent was published, `None` when it never was.
///
/// # Errors
/// When a role is expired, or the agent was withdrawn or is below the channel's floor.
pub(super) fn admit(
    verified: &Verified,
    channel: &ChannelName,
    arch: Arch,
    agent: &Digest,
    now: Timestamp,
) -> Result<Option<Version>, Failure> {
    let every = [
        RoleType::Root,
        RoleType::Targets,
        RoleType::Snapshot,
        RoleType::Timestamp,
    ];
    verified.fresh(&every, now)?;
    let entries = verified.entries();
    let carried = |release: &Release| release.channels.contains_key(channel.as_str());
    let Some(own) = entries.iter().find(|entry| entry.digest == agent.as_str()) else {
        return Ok(None);
    };
    let version = &own.release.version;
    if own.release.arch != kernel_name(arch) {
        return Err(Exit::Refused
            .error(format!(
                "the agent was published as {version} for {}, and the image is for {}",
                own.release.arch,
                kernel_name(arch)
            ))
            .hint("name the right build in [image.agent] `binary`"));
    }
    if let Some(withdrawal) = &own.release.withdrawn {
        return Err(Exit::Refused
            .error(format!(
                "agent {version} was withdrawn at {}: {}",
                withdrawal.at, withdrawal.reason
            ))
            .hint("bake with another one; `imagebuilder channel show` lists the releases"));
    }
    let floor = entries
        .iter()
        .filter(|entry| entry.release.arch == own.release.arch && carried(&entry.release))
        .filter_map(|entry| entry.release.floor.as_ref())
        .max();
    if let Some(floor) = floor.filter(|floor| version < floor) {
        return Err(Exit::Refused
            .error(format!(
                "agent {version} is below the floor of channel {channel}, {floor}"
            ))
            .hint("bake with a newer one; `imagebuilder channel show` lists the releases"));
    }
    Ok(Some(version.clone()))
}

/// The metadata under the names that the agent uses: a new instance accepts nothing older.
pub(super) fn snapshot(verified: &Verified) -> BTreeMap<String, Vec<u8>> {
    let mut files: BTreeMap<String, Vec<u8>> = verified
        .files
        .iter()
        .map(|(name, bytes)| (unversioned(name).to_owned(), bytes.to_vec()))
        .collect();
    // The first is the known root, which the image has apart.
    for (version, bytes) in verified.roots.files.iter().skip(1) {
        files.insert(format!("root_history/{version}.root.json"), bytes.to_vec());
    }
    files
}

/// `7.targets.json` becomes `targets.json`, the name under which the agent keeps the newest.
fn unversioned(name: &str) -> &str {
    match name.split_once('.') {
        Some((version, rest)) if version.bytes().all(|c| c.is_ascii_digit()) => rest,
        _ => name,
    }
}

/// As the kernel, and so a release, names an architecture.
fn kernel_name(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "x86_64",
        Arch::Arm64 => "aarch64",
    }
}

#[cfg(test)]
mod tests;
