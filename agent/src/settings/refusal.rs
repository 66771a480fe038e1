//! Refused settings, and numbers within limits.
//!
//! It knows no table; the tables' modules use it.

use std::fmt;
use std::time::Duration;

use anyhow::Result;

/// Why settings were refused: they must be fixed, retrying does not help.
#[derive(Debug)]
pub(crate) struct Refused(String);

impl Refused {
    /// With this reason, which ends with its hint.
    pub(crate) fn because(reason: String) -> Self {
        Self(reason)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

pub(super) fn refused<T>(message: impl Into<String>) -> Result<T> {
    Err(Refused(message.into()).into())
}

pub(super) fn number(
    at: &str,
    given: Option<u32>,
    default: u32,
    least: u32,
    most: u32,
) -> Result<u32> {
    let value = given.unwrap_or(default);
    if !(least..=most).contains(&value) {
        return refused(format!("{at}: {value} is not between {least} and {most}"));
    }
    Ok(value)
}

pub(super) fn seconds(
    at: &str,
    given: Option<u64>,
    default: u64,
    least: u64,
    most: u64,
) -> Result<Duration> {
    let value = given.unwrap_or(default);
    if !(least..=most).contains(&value) {
        return refused(format!("{at}: {value} is not between {least} and {most}"));
    }
    Ok(Duration::from_secs(value))
}
