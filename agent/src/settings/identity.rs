//! `[identity]`: whether the instance is one of EC2, or any machine that has no metadata service.
//!
//! It decides where user data comes from, so only the image's own files may set it.

use std::fs;

use anyhow::Result;
use serde::Deserialize;

use super::{Fragment, Sources, refused};

fragment!(
    /// Where the instance's identity comes from.
    IdentityFragment { machine: bool }
);

impl Sources {
    /// Whether the image's own files name the machine id as the identity.
    ///
    /// It is needed before the settings are complete, since user data is one of their sources, and it must not fail:
    /// settings that are refused for another reason are reported by the daemon once it knows who it is.
    pub(crate) fn is_machine(&self) -> bool {
        let drop_ins = self.drop_in_files().unwrap_or_default();
        let files = std::iter::once(self.file.clone()).chain(drop_ins);
        let mut set = files.rev().filter_map(|path| {
            let table: toml::Table = fs::read_to_string(path).ok()?.parse().ok()?;
            let machine = table.get("identity")?.get("machine")?;
            // Of another type, it is refused with the settings, without waiting for a metadata service.
            Some(machine.as_bool().unwrap_or(true))
        });
        set.next().unwrap_or(false)
    }
}

/// Refuses `[identity]` in user data: reading user data needs the metadata service.
pub(super) fn refuse_in_user_data(fragment: &Fragment) -> Result<()> {
    if fragment.identity.machine.is_some() {
        return refused(
            "user data: identity.machine: only the image's own settings may have this key\nhint: set it in a drop-in \
             file, such as /etc/imagebuilder/agent.d/machine.toml",
        );
    }
    Ok(())
}

/// Whether the machine id is the identity. Refuses, all at once, the settings that only an instance of EC2 can carry
/// out.
pub(super) fn validate(inputs: &Fragment) -> Result<bool> {
    if inputs.identity.machine != Some(true) {
        return Ok(false);
    }
    let serving = &inputs.serving;
    let groups = serving.target_groups.as_ref();
    let impossible = [
        ("hooks.launch", inputs.hooks.launch.is_some()),
        ("hooks.terminate", inputs.hooks.terminate.is_some()),
        (
            "serving.target_groups",
            groups.is_some_and(|groups| !groups.is_empty()),
        ),
        ("serving.replace", serving.replace == Some(true)),
        (
            "notices.drain_on_rebalance",
            inputs.notices.drain_on_rebalance == Some(true),
        ),
        (
            "notices.drain_before_seconds",
            inputs.notices.drain_before_seconds.is_some(),
        ),
        (
            "metrics.cloudwatch_namespace",
            inputs.metrics.cloudwatch_namespace.is_some(),
        ),
    ];
    let set = impossible.iter().filter(|(_, set)| *set);
    let set: Vec<&str> = set.map(|(key, _)| *key).collect();
    if set.is_empty() {
        return Ok(true);
    }
    refused(format!(
        "identity.machine: without a metadata service there is no group, load balancer, notice or role for {}\nhint: \
         remove what is named, or identity.machine = true on an instance of EC2",
        set.join(", ")
    ))
}
