//! How the program ends when it does not succeed.

/// Why the program ends otherwise than well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Wrong usage or settings: exit code 2.
    Usage(anyhow::Error),
    /// Something did not work: exit code 1.
    Unexpected(anyhow::Error),
    /// It worked, and what it found is bad; already said: exit code 1.
    Found,
    /// An accepted order is not in its store once; already said: exit code 3.
    Lost,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Unexpected(error)
    }
}
