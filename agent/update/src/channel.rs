//! The signed channel, as a trait narrow enough that the TUF library behind it can be replaced.

use std::fmt;
use std::path::Path;

use async_trait::async_trait;
use contract::release::Release;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

mod limits;
mod refusal;
mod route;
mod store;
mod transport;
mod tuf;

pub use limits::{Limits, Rate};
pub use refusal::{Cause, Refusal};
pub use transport::tls;
pub use tuf::{Place, Target, TufChannel};

/// SHA-256 in lower-case hex: the unique name of a release.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// Reads 64 lower-case hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        (text.len() == 64 && text.bytes().all(hex)).then(|| Self(text.to_owned()))
    }

    /// All 64 digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, as slots are named.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| "not a SHA-256 in lower-case hex".to_owned())
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

/// One release as the channel's verified metadata describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The target's name.
    pub target: String,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its length in bytes.
    pub length: u64,
    /// What it is; [`Release::check`] holds.
    pub release: Release,
}

/// The channel's contents at one moment, all of it verified and unexpired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalogue {
    /// Every usable release of every channel and architecture.
    pub offers: Vec<Offer>,
    /// When the first of the four roles expires, usually the timestamp: after that nothing in here is fresh.
    pub expires: Timestamp,
    /// Versions of root, timestamp, snapshot and targets, for messages.
    pub versions: [u64; 4],
}

/// The signed channel.
#[async_trait]
pub trait Channel: Send {
    /// Updates the metadata and verifies all of it against `now`. Verified metadata is stored durably before it is
    /// used: versions never go back, across runs.
    async fn refresh(&mut self, now: Timestamp) -> Result<Catalogue, Refusal>;

    /// Streams a release into `part`, continuing after what is already there: at most its length, at no less than the
    /// least rate. It succeeds only with the right digest; on a wrong digest `part` is removed.
    async fn fetch(&mut self, offer: &Offer, part: &Path) -> Result<(), Refusal>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_64_lower_case_hex_digits() {
        let good = "0123456789abcdef".repeat(4);
        assert_eq!(Digest::parse(&good).unwrap().short(), "0123456789ab");
        for bad in [
            "",
            &good[1..],
            &good.to_uppercase(),
            &good.replace('0', "g"),
        ] {
            assert_eq!(Digest::parse(bad), None, "{bad}");
        }
    }
}
