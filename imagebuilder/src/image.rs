//! What an image is: its input digest, its name and its tags. Pure, but for reading what is digested.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use contract::tags;
use sha2::{Digest as _, Sha256};

use cloud::Tags;
use cloud::ids::{Digest, ImageId, ImageName, RunId};

/// Longest AMI name, by EC2's rule.
const AMI_NAME_LIMIT: usize = 128;
/// Longest tag value, by EC2's rule.
const TAG_VALUE_LIMIT: usize = 256;

/// SHA-256 of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    finish(Sha256::new_with_prefix(bytes))
}

/// SHA-256 of a file, read piece by piece.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn sha256_of(path: &Path) -> std::io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path)?;
    let mut piece = vec![0; 1 << 16];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(finish(hasher)),
            count => hasher.update(&piece[..count]),
        }
    }
}

fn finish(hasher: Sha256) -> Digest {
    let hex: String = hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    match Digest::parse(hex) {
        Ok(digest) => digest,
        Err(_) => unreachable!("32 bytes are 64 hex characters"),
    }
}

/// Combines everything that goes into an image, in order, into one digest.
///
/// Every part carries its label, the label's length and its content's digest, so that no two different inputs run together into the same bytes.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    hasher: Sha256,
    parts: Vec<(String, Digest)>,
}

impl Inputs {
    /// Adds one input.
    pub(crate) fn add(&mut self, label: &str, content: &[u8]) {
        self.add_digest(label, sha256(content));
    }

    /// Adds one input by its content's digest.
    pub(crate) fn add_digest(&mut self, label: &str, digest: Digest) {
        self.hasher.update((label.len() as u64).to_be_bytes());
        self.hasher.update(label.as_bytes());
        self.hasher.update(digest.as_str().as_bytes());
        self.parts.push((label.to_owned(), digest));
    }

    /// The digest over all inputs, and each input's own, which show what changed between two bakes.
    pub(crate) fn finish(self) -> (Digest, Vec<(String, Digest)>) {
        (finish(self.hasher), self.parts)
    }
}

/// The AMI's name: `<image>-<run>-<digest8>`. The run's id is in it so that two hosts never make the same name.
pub(crate) fn ami_name(image: &ImageName, run: &RunId, digest: &Digest) -> String {
    let name = format!("{image}-{run}-{}", short(digest));
    debug_assert!(
        name.len() <= AMI_NAME_LIMIT,
        "an image name has at most 64 characters"
    );
    name
}

/// The first eight characters of a digest, for names and messages.
pub(crate) fn short(digest: &Digest) -> &str {
    &digest.as_str()[..8]
}

/// The values of the tags of one bake.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The run.
    pub(crate) run: RunId,
    /// The image's configured name.
    pub(crate) image: ImageName,
    /// The input digest.
    pub(crate) digest: Digest,
    /// The source image.
    pub(crate) source: ImageId,
    /// The parameter that named it; empty where none did.
    pub(crate) source_parameter: String,
    /// The agent's digest, shortened.
    pub(crate) agent: String,
    /// The services with their digests, shortened.
    pub(crate) services: String,
    /// The commit of the configuration.
    pub(crate) git: String,
}

impl Origin {
    /// The tags for everything the bake creates.
    pub(crate) fn tags(&self) -> Tags {
        [
            (tags::RUN, self.run.as_str()),
            (tags::IMAGE, self.image.as_str()),
            (tags::DIGEST, self.digest.as_str()),
            (tags::SOURCE_AMI, self.source.as_str()),
            (tags::SOURCE_PARAMETER, &self.source_parameter),
            (tags::AGENT, &self.agent),
            (tags::SERVICE, &self.services),
            (tags::GIT, &self.git),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| {
            (
                key.to_owned(),
                value.chars().take(TAG_VALUE_LIMIT).collect(),
            )
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(parts: &[(&str, &str)]) -> Digest {
        let mut inputs = Inputs::default();
        for (label, content) in parts {
            inputs.add(label, content.as_bytes());
        }
        inputs.finish().0
    }

    #[test]
    fn every_input_counts_and_inputs_are_delimited() {
        let base = digest(&[("a", "1"), ("b", "2")]);
        for other in [
            &[("a", "1"), ("b", "3")][..],
            &[("a", "1"), ("c", "2")],
            &[("b", "2"), ("a", "1")],
            &[("a", "1b2")],
            &[("a", "1"), ("b2", "")],
        ] {
            assert_ne!(base, digest(other), "{other:?}");
        }
        assert_eq!(base, digest(&[("a", "1"), ("b", "2")]));
    }

    #[test]
    fn names_fit_ec2s_limit_sort_by_time_and_are_one_runs() {
        let at: jiff::Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let digest = sha256(b"x");
        let named = |image: &str, random| {
            let image = ImageName::parse(image).unwrap();
            ami_name(&image, &run::id::run_id("bake", at, random), &digest)
        };
        assert_eq!(
            named("shop", 0xab_cdef),
            "shop-20260102T030405Z-bake-abcdef-2d711642"
        );
        // Two hosts in the same second, with the same inputs.
        assert_ne!(named("shop", 1), named("shop", 2));
        assert!(named(&"a".repeat(64), 1).len() <= AMI_NAME_LIMIT);
    }
}
