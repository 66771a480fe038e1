//! A session's token: what it is, and how long it lives.

use std::fmt;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::secret;

/// How long a session lives from its log-in, used or not.
pub const SESSION_LIFETIME: Duration = Duration::from_secs(14 * 24 * 3600);

/// How many random bytes a token has.
const BYTES: usize = 32;

/// How long a device is known after its last log-in.
pub const DEVICE_LIFETIME: Duration = Duration::from_secs(180 * 24 * 3600);

/// A session's token: what a browser or a program shows to be known again. 256 bits from the
/// system's source; the place of accounts keeps only its SHA-256.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionToken(String);

impl SessionToken {
    /// How every token begins: tells it from an operator's, and lets scanners for leaked secrets
    /// find it.
    pub const PREFIX: &str = "shop_session_";

    /// A new one that nobody can guess.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn new() -> anyhow::Result<Self> {
        secret::draw::<BYTES>(Self::PREFIX).map(Self)
    }

    /// The token that `text` spells, if it could be one of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        secret::has_form::<BYTES>(Self::PREFIX, text).then(|| Self(text.to_owned()))
    }

    /// Its text, for the one whose session it is.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What the place of accounts keeps of it.
    pub(super) fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

/// A device's token: it distinguishes a browser that had a session of an account from others at its
/// log-in. It opens nothing; the place of accounts keeps its SHA-256 among those of sessions, for which it
/// cannot be taken: each kind has a prefix of its own.
#[derive(Clone, PartialEq, Eq)]
pub struct DeviceToken(String);

impl DeviceToken {
    /// How every token begins.
    pub const PREFIX: &str = "shop_device_";

    /// A new one that nobody can guess.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn new() -> anyhow::Result<Self> {
        secret::draw::<BYTES>(Self::PREFIX).map(Self)
    }

    /// The token that `text` spells, if it could be one of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        secret::has_form::<BYTES>(Self::PREFIX, text).then(|| Self(text.to_owned()))
    }

    /// Its text, for the device.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What the place of accounts keeps of it.
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
    fn a_token_is_read_back_and_never_shown_by_accident() {
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
