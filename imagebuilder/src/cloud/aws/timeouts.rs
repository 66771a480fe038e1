//! How long AWS has to answer, and how often it is asked.

use std::time::Duration;

/// Instance metadata answers within milliseconds or is not there: asking longer would only keep a laptop waiting.
pub(super) const IMDS_TIMEOUT: Duration = Duration::from_millis(500);
/// EC2 throttles whole accounts; with the SDK's backoff ten attempts bridge about a minute of it.
pub(super) const ATTEMPTS: u32 = 10;
/// A single attempt that takes longer will not be answered any more.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
/// TCP and TLS to a region on another continent take less than a second.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
