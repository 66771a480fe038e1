//! Session and device tokens and their lifetimes.

use std::fmt;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::secret;

/// Lifetime of a session from its log-in, used or not.
pub const SESSION_LIFETIME: Duration = Duration::from_secs(14 * 24 * 3600);

/// Random bytes in a token.
const BYTES: usize = 32;

/// How long a device stays known after its last log-in.
pub const DEVICE_LIFETIME: Duration = Duration::from_secs(180 * 24 * 3600);

/// A session's token, which a browser or program sends to be recognised: 256 random bits from the operating
/// system. The account storage keeps only its SHA-256.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionToken(String);

impl SessionToken {
    /// Prefix of every token: distinguishes it from an operator's token, and lets scanners find leaked ones.
    pub const PREFIX: &str = "shop_session_";

    /// Generates a new token.
    ///
    /// # Errors
    /// If the operating system provides no randomness.
    pub fn new() -> anyhow::Result<Self> {
        secret::draw::<BYTES>(Self::PREFIX).map(Self)
    }

    /// Parses a token; `None` if `text` does not have the form of one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        secret::has_form::<BYTES>(Self::PREFIX, text).then(|| Self(text.to_owned()))
    }

    /// The token's text, for the client it belongs to.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The digest that the account storage keeps.
    pub(super) fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

/// A device's token: distinguishes a browser that had a session of an account from others at log-in. It
/// grants no access. The account storage keeps its SHA-256 together with those of sessions; the prefixes keep
/// one from being used as the other.
#[derive(Clone, PartialEq, Eq)]
pub struct DeviceToken(String);

impl DeviceToken {
    /// Prefix of every token.
    pub const PREFIX: &str = "shop_device_";

    /// Generates a new token.
    ///
    /// # Errors
    /// If the operating system provides no randomness.
    pub fn new() -> anyhow::Result<Self> {
        secret::draw::<BYTES>(Self::PREFIX).map(Self)
    }

    /// Parses a token; `None` if `text` does not have the form of one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        secret::has_form::<BYTES>(Self::PREFIX, text).then(|| Self(text.to_owned()))
    }

    /// The token's text, for the device it belongs to.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The digest that the account storage keeps.
    pub(super) fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

impl fmt::Debug for DeviceToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceToken(…)")
    }
}

impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionToken(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_round_trips_and_is_hidden_from_debug() {
        let token = SessionToken::new().unwrap();
        assert_eq!(SessionToken::parse(token.reveal()), Some(token.clone()));
        assert_ne!(SessionToken::new().unwrap(), token);
        assert_eq!(format!("{token:?}"), "SessionToken(…)");
        let device = DeviceToken::new().unwrap();
        assert_eq!(DeviceToken::parse(device.reveal()), Some(device.clone()));
        assert_eq!(SessionToken::parse(device.reveal()), None);
        assert_eq!(DeviceToken::parse(token.reveal()), None);
        let short = &token.reveal()[..token.reveal().len() - 2];
        for other in ["", "shop_session_", short, &token.reveal()[1..]] {
            assert_eq!(SessionToken::parse(other), None, "{other}");
        }
    }
}
