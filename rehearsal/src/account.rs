//! The one account and the one region that the cloud has.

/// The account that owns everything but the base images.
pub(crate) const ACCOUNT: &str = "123456789012";
/// The region that all resources are in.
pub(crate) const REGION: &str = "us-east-1";
