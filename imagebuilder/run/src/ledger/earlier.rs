//! Journals of schema 1 and 2, which kept what they recorded of a roll or a bake as facts: texts under keys.
//!
//! Only read: a journal that is written again is of the current schema. What has not the form that those releases wrote is left out.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::records::{BakeRecord, ChannelVersions, Direction, Former, RollRecord, Target};
use cloud::ids::{Digest, GroupName, ImageId};

/// The part of the journal that the current one does not have.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Earlier {
    #[serde(default)]
    facts: BTreeMap<String, String>,
}

impl Earlier {
    /// The record of a roll; `None` when no group was recorded.
    pub(super) fn roll(&self) -> Option<RollRecord> {
        let text = |key| self.facts.get(key);
        Some(RollRecord {
            group: GroupName::parse(text("group")?.as_str()).ok()?,
            direction: match text("back") {
                Some(_) => Direction::Back,
                None => Direction::Forward,
            },
            previous: text("previous").and_then(|text| target(text)),
            target: text("target").and_then(|text| target(text)),
            intended: text("refresh-intended").and_then(|text| text.parse().ok()),
            refresh: text("refresh").cloned(),
            stopped: text("stopped").cloned(),
        })
    }

    /// The record of a bake; `None` when no digest was recorded.
    pub(super) fn bake(&self) -> Option<BakeRecord> {
        let inputs = self.facts.iter().filter_map(|(key, text)| {
            let label = key.strip_prefix("input ")?;
            Some((label.to_owned(), Digest::parse(text.as_str()).ok()?))
        });
        Some(BakeRecord {
            digest: Digest::parse(self.facts.get("digest")?.as_str()).ok()?,
            inputs: inputs.collect(),
            source: None,
            source_parameter: None,
            channel: self.facts.get("channel").and_then(|text| channel(text)),
            // Empty when there was none.
            candidate_before: self
                .facts
                .get("candidate-before")
                .map(|text| Former::from(ImageId::parse(text.as_str()).ok())),
        })
    }
}

/// A target as `lt-…:8:ami-…`.
fn target(text: &str) -> Option<Target> {
    let mut parts = text.splitn(3, ':');
    Some(Target {
        template_id: parts.next()?.to_owned(),
        version: parts.next()?.parse().ok()?,
        image: parts.next()?.parse().ok()?,
    })
}

/// Versions as `root 1, timestamp 4, snapshot 3, targets 2`.
fn channel(text: &str) -> Option<ChannelVersions> {
    let version = |role: &str| {
        let mut parts = text.split(", ");
        let version = parts.find_map(|part| part.strip_prefix(role)?.strip_prefix(' '));
        version?.parse().ok()
    };
    Some(ChannelVersions {
        root: version("root")?,
        timestamp: version("timestamp")?,
        snapshot: version("snapshot")?,
        targets: version("targets")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn earlier(facts: &[(&str, &str)]) -> Earlier {
        Earlier {
            facts: facts
                .iter()
                .map(|(key, text)| ((*key).to_owned(), (*text).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn what_has_not_the_recorded_form_is_left_out() {
        for bad in ["", "lt-1:8", "lt-1:x:ami-2", "lt-1:8:x"] {
            assert_eq!(target(bad), None, "{bad}");
        }
        for bad in [
            "",
            "root 1, timestamp 2, snapshot 3",
            "root 1, timestamp 2, snapshot 3, targets x",
        ] {
            assert_eq!(channel(bad), None, "{bad}");
        }
        assert_eq!(earlier(&[]).roll(), None);
        assert_eq!(earlier(&[]).bake(), None);
        let roll = earlier(&[
            ("group", "shop"),
            ("target", "lt-1:8"),
            ("refresh-intended", "now"),
        ]);
        let roll = roll.roll().unwrap();
        assert_eq!((roll.target, roll.intended), (None, None));
    }
}
