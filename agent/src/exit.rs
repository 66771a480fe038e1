//! How the program ends, and its exit codes.

use std::process::ExitCode;

use crate::settings::Refused;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done; for `status`: fit.
    Done,
    /// An unexpected error; the log has it.
    Unexpected,
    /// The settings were refused and must be fixed.
    Refused,
    /// `status`: not fit, or not running.
    NotFit,
    /// `update run`: nothing changed, because the channel, the disk or systemd failed; retried later.
    Postponed,
    /// `update run`: a release failed on this instance, which runs its stable agent.
    Skipped,
}

impl Exit {
    /// The code an error ends with.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        if error.is::<Refused>() {
            Self::Refused
        } else {
            Self::Unexpected
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Unexpected => 1,
            Exit::Refused => 2,
            Exit::NotFit => 3,
            Exit::Postponed => 4,
            Exit::Skipped => 5,
        })
    }
}
