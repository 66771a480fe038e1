//! Why the channel was not believed: one word for logs and metrics each, so that an attack, a stale
//! mirror and a full disk never look alike.

use std::fmt;

/// What went wrong with the channel, in the words of TUF 1.0.34 ("Goals to protect against specific
/// attacks") where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// Too few valid signatures: arbitrary software, or keys below the threshold.
    Unsigned,
    /// Metadata that has expired: a freeze, a dead publisher, or a wrong clock.
    Expired,
    /// A version lower than one seen before.
    Rollback,
    /// Parts that were never published together.
    MixAndMatch,
    /// More bytes than the signed or agreed limit.
    EndlessData,
    /// More key rotations than the agreed limit.
    EndlessRotation,
    /// Versions raised so far that honest ones would look like a rollback; keys must rotate.
    FastForward,
    /// Not the JSON that the specification describes.
    Malformed,
    /// Too slow: under the least rate, or over the deadline.
    Slow,
    /// The server answered, but not with the file: status, captive portal, redirect.
    Refused,
    /// No answer.
    Unreachable,
    /// The channel does not have what its own metadata names.
    Missing,
    /// This box could not keep what it verified: disk full, read-only, failing.
    Disk,
    /// There is no root of trust here, or it cannot be read.
    NoRoot,
}

impl Cause {
    /// The word in logs, metrics and the standing: stable, lower case, kebab.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Expired => "expired",
            Self::Rollback => "rollback",
            Self::MixAndMatch => "mix-and-match",
            Self::EndlessData => "endless-data",
            Self::EndlessRotation => "endless-rotation",
            Self::FastForward => "fast-forward",
            Self::Malformed => "malformed",
            Self::Slow => "slow",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Missing => "missing",
            Self::Disk => "disk",
            Self::NoRoot => "no-root",
        }
    }
}

/// A channel that was not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind, for programs.
    pub cause: Cause,
    /// What happened, in one line for people; never with credentials.
    pub detail: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.cause.code(), self.detail)
    }
}

impl std::error::Error for Refusal {}
