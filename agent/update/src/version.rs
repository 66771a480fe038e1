//! The version of the release that this binary is.

/// The version that the agent reports everywhere: set at build time for a release, else the workspace's.
#[must_use]
pub const fn version() -> &'static str {
    match option_env!("IMAGEBUILDER_AGENT_VERSION") {
        Some(version) => version,
        None => env!("CARGO_PKG_VERSION"),
    }
}
