//! Why the program fails, by exit code.

/// Why the program did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Invalid usage or settings: exit code 2.
    Usage(anyhow::Error),
    /// An operation failed: exit code 1.
    Unexpected(anyhow::Error),
    /// Orders failed, as the printed result shows: exit code 1.
    Reported,
    /// An accepted order is missing or stored twice, as the printed result shows: exit code 3.
    Lost,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Unexpected(error)
    }
}
