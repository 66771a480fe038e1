//! Ownership: what a run may change or remove.
//!
//! Rule: a resource belongs to a run only if our own API call returned its id, or the API shows our run tag on it; for an
//! image also, if the instance it was made from belongs to the run; for a snapshot, if CreateImage took it of a volume and an
//! instance of the run. Every call that removes something takes an [`Owned`], which only these ways can make. An id that was read from a program's output, from
//! a name or from a description is not evidence.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The id of a resource that belongs to one of our runs. The ledger keeps it as the bare id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Owned<T>(pub(super) T);

impl<T> Owned<T> {
    /// An id that our own call returned. For the implementations of the API only.
    pub(super) fn returned(id: T) -> Self {
        Self(id)
    }

    /// An id in a test.
    #[cfg(any(test, feature = "testing"))]
    pub fn for_test(id: T) -> Self {
        Self(id)
    }

    /// The id.
    pub fn id(&self) -> &T {
        &self.0
    }
}

impl<T: fmt::Display> Owned<T> {
    /// The same resource, its id as text; for the ledger, which lists many kinds.
    pub fn text(&self) -> Owned<String> {
        Owned(self.0.to_string())
    }
}

impl Owned<String> {
    /// The same resource, its id parsed.
    ///
    /// # Errors
    /// When it is not of that kind.
    pub fn typed<T: std::str::FromStr>(&self) -> Result<Owned<T>, T::Err> {
        self.0.parse().map(Owned)
    }
}

impl<T: fmt::Display> fmt::Display for Owned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
