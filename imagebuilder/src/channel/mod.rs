//! Authoring of the signed channel (a TUF 1.0.34 repository) that instances take new agents from.
//!
//! ```text
//! config ──► Keyring (keys) ─────────────┐
//! store  ──► verify: the chain of roots, │
//!            timestamp, snapshot, targets│──► releases: what changes, pure ──► author: sign, write in order
//! known root.json ───────────────────────┘                                     root: rotate, draft by draft
//! ```
//!
//! Nothing is written before all existing metadata was verified from the known root. The commands are in
//! `commands/channel/`. Nothing of this is on an instance: the agent has a client of its own.

pub(crate) mod author;
pub(crate) mod bucket;
pub(crate) mod folder;
pub(crate) mod keys;
mod preflight;
pub(crate) mod releases;
pub(crate) mod root;
pub(crate) mod seen;
pub(crate) mod session;
pub(crate) mod show;
pub(crate) mod store;
#[cfg(test)]
mod tests;
pub(crate) mod verify;
pub(crate) mod waves;

use sha2::{Digest as _, Sha256};

/// SHA-256 in lower-case hex.
pub(crate) fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
