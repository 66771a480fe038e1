//! What can go wrong with a call, as far as callers branch on it.

use std::fmt;

/// The kinds of failure callers branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The resource does not exist.
    NotFound,
    /// The resource is in use, so it cannot be deleted yet.
    InUse,
    /// The caller is not allowed to.
    Denied,
    /// There are no credentials, or they are not accepted.
    Credentials,
    /// This machine's clock is wrong.
    Clock,
    /// Too many requests, even after the SDK's retries.
    Throttled,
    /// No answer was received.
    Unreachable,
    /// The request itself is wrong.
    Invalid,
    /// Anything else.
    Other,
}

/// A failed call: operation, the resource's id where there is one, and the service's message.
#[derive(Clone, Debug)]
pub struct CloudError {
    /// What callers branch on.
    pub kind: Kind,
    operation: String,
    code: String,
    message: String,
}

impl CloudError {
    /// A failure of `operation`, for example `terminate i-1`.
    pub fn new(
        kind: Kind,
        operation: impl Into<String>,
        code: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            operation: operation.into(),
            code: code.into(),
            message: message.into(),
        }
    }

    /// How to fix it, where that follows from the kind.
    pub fn hint(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Denied => Some(
                "allow it to the caller that `imagebuilder doctor` names; docs/operating.md has what each command needs",
            ),
            Kind::Credentials => {
                Some("the keys are wrong or have expired: log in again, or check AWS_PROFILE")
            }
            Kind::Clock => Some(
                "this machine's clock is more than five minutes off, or it was suspended during the call: set it (`timedatectl`), and try again",
            ),
            Kind::Throttled => Some(
                "the account is throttled, and the call was repeated for a minute: try again later",
            ),
            Kind::Unreachable => Some("the call can be repeated: check the network, and try again"),
            Kind::NotFound | Kind::InUse | Kind::Invalid | Kind::Other => None,
        }
    }

    /// Whether every other call would fail for the same reason.
    pub fn is_of_all_calls(&self) -> bool {
        matches!(
            self.kind,
            Kind::Credentials | Kind::Clock | Kind::Throttled | Kind::Unreachable
        )
    }

    /// Whether its code is this one; AWS's SDKs disagree on the suffix `Fault`.
    pub fn has_code(&self, code: &str) -> bool {
        self.code == code || self.code.strip_suffix("Fault") == Some(code)
    }

    /// Whether the same call may succeed when it is repeated.
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, Kind::Throttled | Kind::Unreachable | Kind::Other)
    }

    /// The service's error code, empty when it never answered.
    pub fn code(&self) -> &str {
        &self.code
    }
}

impl fmt::Display for CloudError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.operation)?;
        if !self.code.is_empty() {
            write!(f, ": {}", self.code)?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for CloudError {}

/// Why there is no connection: no region, no credentials, or no answer from an endpoint.
#[derive(Debug)]
pub struct ConnectError {
    /// What is missing.
    pub message: String,
    /// How to provide it.
    pub hint: String,
    /// The SDK's cause, where there is one.
    pub cause: Option<anyhow::Error>,
}

impl ConnectError {
    /// An error without a cause.
    pub(super) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: hint.into(),
            cause: None,
        }
    }
}

/// The result of every call.
pub type Answer<T> = Result<T, CloudError>;
