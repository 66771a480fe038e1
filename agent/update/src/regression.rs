//! How a host can be worse on trial than before it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a host was worse on trial than before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Regression {
    /// The trial wrote no status of its own.
    NoStatus,
    /// The host was fit and is not.
    Unfit,
    /// These services passed before and do not now.
    Sick(Vec<String>),
    /// The trial did not answer whether it may be replaced.
    Mute,
    /// It refused to be replaced.
    Busy(String),
}

impl Regression {
    /// The code.
    #[must_use]
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NoStatus | Self::Unfit | Self::Sick(_) => "worse",
            Self::Mute => "mute",
            Self::Busy(_) => "busy",
        }
    }
}

impl fmt::Display for Regression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStatus => f.write_str("the trial wrote no status of its own"),
            Self::Unfit => f.write_str("the host was fit before the trial and not on it"),
            Self::Sick(names) => write!(
                f,
                "{} passed before the trial and not on it",
                names.join(", ")
            ),
            Self::Mute => f.write_str("the trial did not answer whether it may be replaced"),
            Self::Busy(reason) => write!(f, "the trial refused to be replaced: {reason}"),
        }
    }
}
