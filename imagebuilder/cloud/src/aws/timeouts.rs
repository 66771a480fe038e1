//! Timeouts and numbers of attempts for calls to AWS.

use std::time::Duration;

/// Instance metadata answers within milliseconds or does not exist; a longer timeout would delay every start on a laptop.
pub(super) const IMDS_TIMEOUT: Duration = Duration::from_millis(500);
/// EC2 throttles whole accounts; with the SDK's backoff ten attempts bridge about a minute of it.
pub(super) const ATTEMPTS: u32 = 10;
/// An attempt without an answer by then gets none.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
/// TCP and TLS to a region on another continent take less than a second.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
