//! Secrets of this service's own making: a prefix that names the kind, then random bytes in base64 for URLs.
//!
//! The prefix lets scanners for leaked secrets find one, and keeps each kind from being taken for another.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Draws one of so many bytes from the system's source of randomness.
///
/// # Errors
/// When the system has no randomness to give.
pub(crate) fn draw<const BYTES: usize>(prefix: &str) -> anyhow::Result<String> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("draw a secret: {error}"))?;
    Ok(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// Whether a text has the form of one.
pub(crate) fn has_form<const BYTES: usize>(prefix: &str, text: &str) -> bool {
    let encoded = text.strip_prefix(prefix);
    let bytes = encoded.and_then(|encoded| URL_SAFE_NO_PAD.decode(encoded).ok());
    bytes.is_some_and(|bytes| bytes.len() == BYTES)
}
