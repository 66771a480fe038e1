//! Key pairs: created with `ssh-keygen`, so that they are OpenSSH's own keys for guests and clients.

use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::KeyPairId;
use crate::wire::ids;

/// A key pair; the private key is not stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyPair {
    /// Its id.
    pub(crate) id: KeyPairId,
    /// Unique.
    pub(crate) name: String,
    /// `rsa` or `ed25519`.
    pub(crate) kind: String,
    /// The public key, as a line of `authorized_keys`.
    pub(crate) public: String,
    /// The fingerprint of the public key.
    pub(crate) fingerprint: String,
    /// When it was created.
    pub(crate) created: Timestamp,
}

/// A public key as a line of OpenSSH's form, from that or from RFC 4716's form, whose headers are dropped.
pub(super) fn one_line(text: &str) -> Option<String> {
    let text = text.trim();
    let Some(rest) = text.strip_prefix("---- BEGIN SSH2 PUBLIC KEY ----") else {
        return Some(text.to_owned());
    };
    let inside = rest.strip_suffix("---- END SSH2 PUBLIC KEY ----")?;
    let mut body = String::new();
    // A header line that ends with a backslash continues on the next one (RFC 4716, section 3.3).
    let mut in_header = false;
    for line in inside.lines().map(str::trim) {
        if in_header || line.contains(':') {
            in_header = line.ends_with('\\');
        } else {
            body.push_str(line);
        }
    }
    let blob = STANDARD.decode(&body).ok()?;
    let (length, rest) = blob.split_first_chunk()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let kind = std::str::from_utf8(rest.get(..length)?).ok()?;
    Some(format!("{kind} {body}"))
}

/// Creates a key pair: the private key in PEM, the public key as a line.
pub(super) fn generate(kind: &str) -> anyhow::Result<(String, String)> {
    use anyhow::Context as _;
    let folder = std::env::temp_dir().join(format!("rehearsal-key-{}", ids::uuid()));
    std::fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
    let made = (|| {
        let path = folder.join("key");
        let mut command = Command::new("ssh-keygen");
        command
            .args(["-q", "-N", "", "-C", "", "-t", kind, "-f"])
            .arg(&path);
        if kind == "rsa" {
            command.args(["-b", "2048", "-m", "PEM"]);
        }
        let output = command
            .output()
            .context("run ssh-keygen\nhint: apt-get install openssh-client")?;
        anyhow::ensure!(
            output.status.success(),
            "ssh-keygen: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let read = |path: &std::path::Path| {
            std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
        };
        Ok((
            read(&path)?,
            read(&path.with_extension("pub"))?.trim().to_owned(),
        ))
    })();
    // Removed in any case: a private key must not be left behind.
    std::fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_comes_in_openssh_form_or_as_rfc_4716_has_it() {
        let blob = "AAAAC3NzaC1lZDI1NTE5AAAAIJqsvh6bf8p0w0S7zvRTpJIXrdYUPNTYiYmCi0LkOx9z";
        let line = format!("ssh-ed25519 {blob}");
        let (first, second) = blob.split_at(30);
        let framed = |inside: &str| {
            format!("---- BEGIN SSH2 PUBLIC KEY ----\n{inside}\n---- END SSH2 PUBLIC KEY ----\n")
        };
        for (text, expected) in [
            (format!("{line} me@here\n"), Some(format!("{line} me@here"))),
            (framed(blob), Some(line.clone())),
            (
                framed(&format!(
                    "Subject: me\nComment: \"a long \\\nsecond line\"\n{first}\r\n{second}"
                )),
                Some(line.clone()),
            ),
            (framed("AAAA"), None),
            (framed("not base64!"), None),
            (framed(blob).replace("END", "FIN"), None),
        ] {
            assert_eq!(one_line(&text), expected, "{text}");
        }
    }
}
