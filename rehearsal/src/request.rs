//! What every service handler gets with a request.

use jiff::Timestamp;

/// What a handler knows about the request besides its parameters.
#[derive(Clone, Debug)]
pub(crate) struct RequestContext {
    /// The cloud's time; the same for the whole request.
    pub(crate) now: Timestamp,
}
