//! The key Packer logs in with: an ed25519 pair of this run's own.
//!
//! EC2 would make an RSA key for Packer 1.6.6, whose signatures no current sshd accepts. So we make the
//! key and import its public half; the private half is a file of the run folder with mode 0600, and is removed with
//! the bake.

use std::path::Path;

use anyhow::Context as _;
use ssh_key::private::Ed25519Keypair;
use ssh_key::{LineEnding, PrivateKey};

use crate::staging;
use crate::template::KEY_FILE;
use cloud::ids::RunId;

/// The key pair's name in EC2.
pub(super) fn name(run: &RunId) -> String {
    format!("imagebuilder-{run}")
}

/// Makes a key, writes its private half into the run folder and returns its public half.
pub(crate) fn write(folder: &Path) -> anyhow::Result<String> {
    let mut seed = [0_u8; 32];
    getrandom::fill(&mut seed).context("draw randomness for a key")?;
    let mut key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
    key.set_comment("imagebuilder");
    let private = key.to_openssh(LineEnding::LF).context("encode the key")?;
    staging::write(&folder.join(KEY_FILE), private.as_bytes(), 0o600)?;
    key.public_key()
        .to_openssh()
        .context("encode the public key")
}

/// Removes the private half.
pub(super) fn remove(folder: &Path) {
    // Without its key pair in EC2 the file opens nothing; a failure to remove it does no harm.
    let _ = std::fs::remove_file(folder.join(KEY_FILE));
}

/// A random number for a run's id.
pub(super) fn random() -> anyhow::Result<u32> {
    let mut bytes = [0_u8; 4];
    getrandom::fill(&mut bytes).context("draw randomness for the run's id")?;
    Ok(u32::from_ne_bytes(bytes))
}
