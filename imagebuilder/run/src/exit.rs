//! The exit codes, and the error type that carries one together with its hint.
//!
//! Codes are interface: scripts branch on them, so a number never changes its meaning. This module prints nothing.

use std::process::ExitCode;

pub use support::Failure;
use support::Report;

use cloud::{CloudError, ConnectError};

/// How a command ended, as the number its process exits with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or there was nothing to do.
    Done = 0,
    /// Anything else.
    Unexpected = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// Refused before anything was created.
    Refused = 3,
    /// The bake failed; everything it created was removed.
    BakeFailed = 4,
    /// The bake failed and something could not be removed: it is named, and `reap` removes it.
    BakeLeft = 5,
    /// The roll failed and the fleet was not rolled back.
    RollFailed = 10,
    /// The roll failed and the fleet is back as it was.
    RolledBack = 11,
    /// The roll failed, and so did rolling it back.
    RollbackFailed = 12,
    /// Cancelled by the operator.
    Cancelled = 13,
    /// The roll finished, but not every member could be verified new and healthy.
    Unverified = 14,
    /// Watching timed out; the refresh continues.
    WatchTimedOut = 15,
    /// Another refresh of the group is active.
    RefreshActive = 16,
    /// The smoke test failed.
    SmokeTestFailed = 18,
}

impl Exit {
    /// Every code with the sentence `--help` shows, in numeric order.
    pub const ALL: [(Self, &'static str); 14] = [
        (Self::Done, "done, or nothing to do"),
        (Self::Unexpected, "unexpected error"),
        (Self::Usage, "wrong usage or configuration"),
        (Self::Refused, "refused by preflight, nothing was created"),
        (Self::BakeFailed, "bake failed, everything cleaned up"),
        (
            Self::BakeLeft,
            "bake failed, something is left (named; `imagebuilder reap` removes it)",
        ),
        (Self::RollFailed, "roll failed, not rolled back"),
        (Self::RolledBack, "roll failed, the fleet was rolled back"),
        (Self::RollbackFailed, "roll failed, rollback failed as well"),
        (Self::Cancelled, "cancelled"),
        (Self::Unverified, "roll finished but could not be verified"),
        (
            Self::WatchTimedOut,
            "watch timed out, the refresh is still running",
        ),
        (
            Self::RefreshActive,
            "another refresh of the group is active",
        ),
        (Self::SmokeTestFailed, "smoke test failed"),
    ];

    /// The process exit code.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The code an error asks for: that of the outermost [`Failure`] in its chain.
    pub fn of(error: &anyhow::Error) -> Self {
        let code = support::failure::exit_code(error);
        let mut known = Self::ALL.iter().map(|(exit, _)| *exit);
        known
            .find(|exit| Some(exit.code()) == code)
            .unwrap_or(Self::Unexpected)
    }

    /// An error that ends the command with this code.
    pub fn error(self, message: impl Into<String>) -> Failure {
        Failure::new(message).exit(self.code())
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// An error as it is printed; without a hint of its own, with that for a failed call of its kind.
pub(crate) fn report(error: &anyhow::Error) -> Report {
    let mut report = Report::of(error);
    if report.hints.is_empty()
        && let Some(hint) = error
            .chain()
            .find_map(|cause| cause.downcast_ref::<CloudError>()?.hint())
    {
        report.add_hint(hint);
    }
    report
}

/// The hints that are printed with an error, a line each; `None` without one.
pub fn hint(error: &anyhow::Error) -> Option<String> {
    let hints = report(error).hints;
    (!hints.is_empty()).then(|| hints.join("\n"))
}

/// Without a connection nothing was created: refused.
pub fn not_connected(error: ConnectError) -> Failure {
    let failure = Exit::Refused.error(error.message).hint(error.hint);
    match error.cause {
        Some(cause) => failure.because(cause),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn the_documented_codes_are_the_codes() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|(exit, _)| exit.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15, 16, 18]);
    }

    #[test]
    fn the_outermost_failure_decides_code_and_hint() {
        let inner = Exit::Refused
            .error("no such source")
            .hint("widen the filter");
        let outer: anyhow::Error = Exit::BakeFailed.error("bake failed").because(inner).into();
        let wrapped = Err::<(), _>(outer).context("while baking").unwrap_err();
        assert_eq!(Exit::of(&wrapped), Exit::BakeFailed);
        assert_eq!(hint(&wrapped).as_deref(), Some("widen the filter"));
        assert_eq!(
            format!("{wrapped:#}"),
            "while baking: bake failed: no such source"
        );
    }

    #[test]
    fn a_failed_call_has_the_hint_of_its_kind_by_default() {
        let call = || {
            let code = "RequestLimitExceeded";
            CloudError::new(cloud::Kind::Throttled, "search images", code, "")
        };
        let printed = hint(&anyhow::Error::from(call()).context("look"));
        assert!(printed.is_some_and(|printed| printed.contains("try again later")));
        let better: anyhow::Error = Exit::Refused
            .error("no")
            .hint("wait")
            .because(call())
            .into();
        assert_eq!(hint(&better).as_deref(), Some("wait"));
    }

    #[test]
    fn a_plain_error_is_unexpected() {
        assert_eq!(Exit::of(&anyhow::anyhow!("boom")), Exit::Unexpected);
    }
}
