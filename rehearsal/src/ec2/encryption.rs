//! Encryption of volumes and snapshots: which key EC2 would use. No data is encrypted here.
//!
//! Rule: encryption is never lost. What is created from an encrypted snapshot or volume is encrypted, with the same key
//! unless the caller names another; a request to the contrary is refused, or ignored where EC2 ignores it. A resource
//! is encrypted if and only if it has a key.

use crate::account::{ACCOUNT, REGION};
use crate::wire::{ApiError, Params};

/// The id of the account's key `alias/aws/ebs`, which EC2 uses when the caller names none.
const DEFAULT_KEY: &str = "eb500000-0000-4000-8000-000000000000";

/// The encryption settings of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Requested {
    /// `Encrypted`, when sent.
    pub(crate) encrypted: Option<bool>,
    /// `KmsKeyId` as an ARN, when sent.
    pub(crate) key: Option<String>,
}

impl Requested {
    /// Reads `Encrypted` and `KmsKeyId`.
    ///
    /// # Errors
    /// `InvalidParameterDependency` for a key without `Encrypted`, `InvalidParameterValue` for a malformed key.
    pub(crate) fn read(params: &Params) -> Result<Self, ApiError> {
        let encrypted = params.boolean("Encrypted")?;
        let key = params.text("KmsKeyId").map(arn).transpose()?;
        if key.is_some() && encrypted != Some(true) {
            return Err(ApiError::new(
                "InvalidParameterDependency",
                "The parameter KmsKeyId requires the parameter Encrypted to be set.",
            ));
        }
        Ok(Self { encrypted, key })
    }

    /// The key of a resource created with these settings from a source with the key `source`.
    pub(crate) fn over(&self, source: Option<&String>) -> Option<String> {
        match (source, self.encrypted) {
            (None, Some(false) | None) => None,
            (None, Some(true)) => Some(self.key.clone().unwrap_or_else(default_key)),
            (Some(source), _) => Some(self.key.clone().unwrap_or_else(|| source.clone())),
        }
    }
}

/// The ARN of the key that EC2 uses when the caller names none.
pub(crate) fn default_key() -> String {
    format!("arn:aws:kms:{REGION}:{ACCOUNT}:key/{DEFAULT_KEY}")
}

/// The ARN of a key given by id, alias or ARN. Keys are not looked up, so an alias stays an alias.
fn arn(key: &str) -> Result<String, ApiError> {
    if let Some(rest) = key.strip_prefix("arn:aws:kms:") {
        if rest.contains(":key/") || rest.contains(":alias/") {
            return Ok(key.to_owned());
        }
    } else if let Some(alias) = key.strip_prefix("alias/") {
        return Ok(match alias {
            "aws/ebs" => default_key(),
            alias => format!("arn:aws:kms:{REGION}:{ACCOUNT}:alias/{alias}"),
        });
    } else if key.len() >= 36 && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Ok(format!("arn:aws:kms:{REGION}:{ACCOUNT}:key/{key}"));
    }
    Err(ApiError::invalid_value(
        "KmsKeyId",
        key,
        "expecting a key's id, alias or ARN",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(form: &str) -> Result<Requested, String> {
        Requested::read(&Params::parse(form.as_bytes())).map_err(|error| error.code.into_owned())
    }

    #[test]
    fn encryption_is_never_lost() {
        let source = "arn:aws:kms:us-east-1:123456789012:key/own".to_owned();
        for form in ["", "Encrypted=false", "Encrypted=true"] {
            let requested = read(form).unwrap();
            assert_eq!(
                requested.over(Some(&source)),
                Some(source.clone()),
                "{form}"
            );
        }
        assert_eq!(read("").unwrap().over(None), None);
        assert_eq!(read("Encrypted=false").unwrap().over(None), None);
        assert_eq!(
            read("Encrypted=true").unwrap().over(None),
            Some(default_key())
        );
        let other = read("Encrypted=true&KmsKeyId=alias/shop").unwrap();
        for source in [None, Some(&source)] {
            assert_eq!(
                other.over(source).as_deref(),
                Some("arn:aws:kms:us-east-1:123456789012:alias/shop"),
                "{source:?}"
            );
        }
    }

    #[test]
    fn a_key_is_an_id_an_alias_or_an_arn() {
        let id = "1234abcd-12ab-34cd-56ef-1234567890ab";
        let full = format!("arn:aws:kms:us-east-1:123456789012:key/{id}");
        for (given, expected) in [
            (id, Ok(full.clone())),
            (full.as_str(), Ok(full.clone())),
            ("alias/aws/ebs", Ok(default_key())),
            ("shop", Err("InvalidParameterValue".to_owned())),
            ("arn:aws:s3:::shop", Err("InvalidParameterValue".to_owned())),
        ] {
            let found = read(&format!("Encrypted=true&KmsKeyId={given}"));
            assert_eq!(
                found.map(|requested| requested.key.unwrap()),
                expected,
                "{given}"
            );
        }
        let alone = read("KmsKeyId=alias/shop");
        assert_eq!(alone, Err("InvalidParameterDependency".to_owned()));
    }
}
