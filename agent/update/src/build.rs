//! A release's identity: its version and its digest.

use semver::Version;
use serde::{Deserialize, Serialize};

use super::channel::Digest;

/// A version in a slot, or about to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// Its version.
    pub version: Version,
    /// Its digest.
    pub digest: Digest,
}
