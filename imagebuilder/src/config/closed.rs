//! Values of the configuration with few choices or a fixed shape, validated when they are parsed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which of the builder's addresses Packer dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SshInterface {
    /// The public address.
    PublicIp,
    /// The private address.
    PrivateIp,
    /// The public name.
    PublicDns,
    /// The private name.
    PrivateDns,
}

/// Whose images may be taken.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Owner(String);

impl TryFrom<String> for Owner {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let account = text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit());
        let alias = ["self", "amazon", "aws-marketplace", "aws-backup-vault"];
        if account || alias.contains(&text.as_str()) {
            return Ok(Self(text));
        }
        Err(format!(
            "`{text}` is not an owner of images: use an account's twelve digits, {}",
            alias.map(|alias| format!("`{alias}`")).join(" or ")
        ))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who Packer logs in as: a name as `useradd` takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct UserName(String);

impl UserName {
    /// Debian's.
    pub(super) fn admin() -> Self {
        Self("admin".to_owned())
    }
}

impl TryFrom<String> for UserName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let first = |c: char| c.is_ascii_alphabetic() || c == '_';
        let rest = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if text.starts_with(first) && text.len() <= 32 && text.chars().all(rest) {
            Ok(Self(text))
        } else {
            Err(format!(
                "`{text}` is not a user's name, such as admin, ec2-user or ubuntu"
            ))
        }
    }
}

impl From<UserName> for String {
    fn from(name: UserName) -> Self {
        name.0
    }
}

/// A KMS key: id, alias, or the ARN of either.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct KmsKey(String);

impl TryFrom<String> for KmsKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let fits = |c: char| c.is_ascii_alphanumeric() || ":/_-".contains(c);
        if !text.is_empty() && text.len() <= 2048 && text.chars().all(fits) {
            Ok(Self(text))
        } else {
            Err(format!(
                "`{text}` is not a KMS key: use a key's id, `alias/…`, or the ARN of either"
            ))
        }
    }
}

impl From<KmsKey> for String {
    fn from(key: KmsKey) -> Self {
        key.0
    }
}

/// An absolute path of a file on the image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct ImagePath(String);

impl ImagePath {
    /// The path as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ImagePath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let refuse = |why: &str| Err(format!("path `{}` on the image {why}", text.escape_debug()));
        let Some(below) = text.strip_prefix('/') else {
            return refuse("is not an absolute path");
        };
        if text.chars().any(char::is_control) {
            return refuse("has a line break or another control character");
        }
        if text.ends_with(' ') {
            return refuse("ends with a blank");
        }
        if below.split('/').any(|part| ["", ".", ".."].contains(&part)) {
            return refuse("is not a file's plain path: no `..`, `.`, `//` and no `/` at its end");
        }
        Ok(Self(text))
    }
}

/// A file's mode.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Mode(String);

impl Mode {
    /// For a file that is not to be run.
    pub(crate) fn plain() -> Self {
        Self("0644".to_owned())
    }

    /// For a folder.
    pub(super) fn folder() -> Self {
        Self("0755".to_owned())
    }

    /// Its octal digits.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Mode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let octal = text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        if octal && (3..=4).contains(&text.len()) {
            Ok(Self(text))
        } else {
            Err(format!("mode `{text}` is not octal like 0644"))
        }
    }
}

/// A name as every distribution's `useradd` takes it.
pub(super) fn account_name(text: &str) -> bool {
    let first = |c: char| c.is_ascii_lowercase() || c == '_';
    let rest = |c: char| first(c) || c.is_ascii_digit() || c == '-';
    text.starts_with(first) && text.len() <= 32 && text.chars().all(rest)
}
