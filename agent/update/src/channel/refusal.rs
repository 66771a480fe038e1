//! Why the channel was refused: one code for logs and metrics per cause, so that an attack, a stale mirror and a full
//! disk are never confused.

use std::fmt;

/// The cause, named as in TUF 1.0.34 ("Goals to protect against specific attacks") where it has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// Too few valid signatures: arbitrary software, or keys below the threshold.
    Unsigned,
    /// Expired metadata: a freeze attack, a publisher that stopped, or a wrong clock.
    Expired,
    /// A version lower than one seen before.
    Rollback,
    /// Parts that were never published together.
    MixAndMatch,
    /// A release whose bytes are not the ones that were signed.
    WrongDigest,
    /// More bytes than the signed or agreed limit.
    EndlessData,
    /// More key rotations than the agreed limit.
    EndlessRotation,
    /// A version so high that no later one is possible; keys must be rotated.
    FastForward,
    /// Not the JSON that the specification describes.
    Malformed,
    /// Too slow: under the least rate, or over the deadline.
    Slow,
    /// The server answered, but not with the file: status, captive portal, redirect.
    Refused,
    /// No response, or an incomplete one.
    Unreachable,
    /// The server's TLS certificate is not trusted.
    Untrusted,
    /// A file that the channel's own metadata names is missing.
    Missing,
    /// The verified data could not be stored: disk full, read-only, failing.
    Disk,
    /// The image has no root of trust, or it cannot be read.
    NoRoot,
    /// The channel's URL or its file of certificates cannot be used.
    Misconfigured,
}

impl Cause {
    /// Every cause, for tables and metrics.
    pub const ALL: [Self; 17] = [
        Self::Unsigned,
        Self::Expired,
        Self::Rollback,
        Self::MixAndMatch,
        Self::WrongDigest,
        Self::EndlessData,
        Self::EndlessRotation,
        Self::FastForward,
        Self::Malformed,
        Self::Slow,
        Self::Refused,
        Self::Unreachable,
        Self::Untrusted,
        Self::Missing,
        Self::Disk,
        Self::NoRoot,
        Self::Misconfigured,
    ];

    /// The code in logs, metrics and the status file: stable, lower case, kebab case.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Expired => "expired",
            Self::Rollback => "rollback",
            Self::MixAndMatch => "mix-and-match",
            Self::WrongDigest => "wrong-digest",
            Self::EndlessData => "endless-data",
            Self::EndlessRotation => "endless-rotation",
            Self::FastForward => "fast-forward",
            Self::Malformed => "malformed",
            Self::Slow => "slow",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Untrusted => "untrusted-server",
            Self::Missing => "missing",
            Self::Disk => "disk",
            Self::NoRoot => "no-root",
            Self::Misconfigured => "misconfigured",
        }
    }

    /// A refusal of this kind.
    pub(super) fn because(self, detail: impl Into<String>) -> Refusal {
        Refusal {
            cause: self,
            detail: detail.into(),
        }
    }
}

/// A refused channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The cause.
    pub cause: Cause,
    /// What happened, in one line; never with credentials.
    pub detail: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.cause.code(), self.detail)
    }
}

impl std::error::Error for Refusal {}

impl From<sigstore_tuf::Error> for Refusal {
    /// From an error of the TUF library, or of our transport and store below it.
    fn from(error: sigstore_tuf::Error) -> Self {
        use sigstore_tuf::Error as E;
        let cause = match error {
            E::Transport {
                source: Some(source),
                message,
            } => {
                return match source.downcast::<Self>() {
                    Ok(refusal) => *refusal,
                    Err(source) => Cause::Unreachable.because(format!("{message}: {source}")),
                };
            }
            E::DuplicateSignature { .. } | E::ThresholdNotMet { .. } | E::Crypto(_) => {
                Cause::Unsigned
            }
            E::Expired { .. } => Cause::Expired,
            E::Rollback { .. } => Cause::Rollback,
            E::BadRootVersion { trusted, new } if new <= trusted => Cause::Rollback,
            // A role that was pinned and no longer is: TUF 1.0.34, section 5.5.5, calls it a rollback.
            E::IntegrityMismatch(ref what) if what.starts_with("snapshot removes ") => {
                Cause::Rollback
            }
            E::BadRootVersion { .. } | E::IntegrityMismatch(_) => Cause::MixAndMatch,
            E::TargetNotFound(_) => Cause::Missing,
            E::Io { .. } => Cause::Disk,
            E::Transport { .. } => Cause::Unreachable,
            // Json, Malformed, NonIntegerNumber, UnusableKey, UnsupportedScheme, UnknownRole, and what
            // never leaves the library: EqualVersion, NotRefreshed.
            _ => Cause::Malformed,
        };
        cause.because(chain(&error))
    }
}

/// An error and its sources on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let message = cause.to_string();
        // hyper's errors repeat their source.
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io;

    use jiff::Timestamp;
    use sigstore_tuf::Error as E;

    use super::*;

    #[test]
    fn every_cause_has_its_own_code() {
        let words: BTreeSet<_> = Cause::ALL.iter().map(|cause| cause.code()).collect();
        assert_eq!(words.len(), Cause::ALL.len());
        let kebab = |c: char| c.is_ascii_lowercase() || c == '-';
        assert!(words.iter().all(|word| word.chars().all(kebab)));
    }

    /// `docs/agent.md` explains every code, and no other.
    #[test]
    fn every_cause_is_explained() {
        let page = include_str!("../../../../docs/agent.md");
        let table = page.split("| code | what was seen").nth(1).unwrap();
        let table = table.split("\n\n").next().unwrap();
        let explained: Vec<_> = table
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        let codes: BTreeSet<_> = Cause::ALL.iter().map(|cause| cause.code()).collect();
        assert_eq!(explained.len(), codes.len());
        assert_eq!(explained.into_iter().collect::<BTreeSet<_>>(), codes);
    }

    #[test]
    fn every_library_error_has_its_cause() {
        let role = || "timestamp".to_owned();
        let json = serde_json::from_str::<u8>("<html>").unwrap_err();
        let ours = Cause::Slow.because("timestamp.json: 3 bytes in 10 s");
        let cases = [
            (E::Json(json), Cause::Malformed, "failed to parse JSON: "),
            (
                E::Malformed("no `signed`".into()),
                Cause::Malformed,
                "malformed metadata: no `signed`",
            ),
            (E::NonIntegerNumber, Cause::Malformed, "canonical JSON only"),
            (
                E::UnusableKey {
                    key_id: "k".into(),
                    reason: "short".into(),
                },
                Cause::Malformed,
                "unusable key k: short",
            ),
            (
                E::UnsupportedScheme {
                    keytype: "x".into(),
                    scheme: "y".into(),
                },
                Cause::Malformed,
                "unsupported key scheme",
            ),
            (
                E::UnknownRole("mirrors".into()),
                Cause::Malformed,
                "unknown role: mirrors",
            ),
            (
                E::DuplicateSignature {
                    role: role(),
                    key_id: "k".into(),
                },
                Cause::Unsigned,
                "duplicate signature",
            ),
            (
                E::ThresholdNotMet {
                    role: role(),
                    found: 1,
                    threshold: 2,
                },
                Cause::Unsigned,
                "signature threshold not met for role timestamp: 1/2",
            ),
            (
                E::Rollback {
                    role: role(),
                    trusted: 7,
                    new: 6,
                },
                Cause::Rollback,
                "rollback detected for timestamp: trusted version 7 > new version 6",
            ),
            (
                E::BadRootVersion { trusted: 3, new: 2 },
                Cause::Rollback,
                "root version must",
            ),
            (
                E::BadRootVersion { trusted: 3, new: 5 },
                Cause::MixAndMatch,
                "root version must",
            ),
            (
                E::IntegrityMismatch("snapshot removes targets.json, which".into()),
                Cause::Rollback,
                "integrity check failed: snapshot removes",
            ),
            (
                E::IntegrityMismatch("targets.json: sha256 mismatch".into()),
                Cause::MixAndMatch,
                "integrity check failed: targets.json: sha256 mismatch",
            ),
            (
                E::Expired {
                    role: role(),
                    expires: Timestamp::UNIX_EPOCH,
                },
                Cause::Expired,
                "timestamp metadata expired at 1970-01-01T00:00:00Z",
            ),
            (
                E::TargetNotFound("a".into()),
                Cause::Missing,
                "target \"a\"",
            ),
            (
                E::io("writing root.json", io::Error::other("no space left")),
                Cause::Disk,
                "writing root.json: no space left",
            ),
            (
                E::transport("odd"),
                Cause::Unreachable,
                "transport error: odd",
            ),
            (
                E::transport_with_source("channel", ours),
                Cause::Slow,
                "timestamp.json: 3 bytes in 10 s",
            ),
        ];
        for (error, cause, expected) in cases {
            let refusal = Refusal::from(error);
            assert_eq!(refusal.cause, cause, "{expected}: {refusal}");
            assert!(
                refusal.detail.starts_with(expected),
                "{expected}: {refusal}"
            );
        }
    }
}
