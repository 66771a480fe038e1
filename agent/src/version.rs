//! The version of this binary.

/// The version this binary reports everywhere: set at build time for a release, else the workspace's.
pub(crate) const fn version() -> &'static str {
    match option_env!("IMAGEBUILDER_AGENT_VERSION") {
        Some(version) => version,
        None => env!("CARGO_PKG_VERSION"),
    }
}
