//! Newtypes for everything that has an identity: parsed once at the border, trusted after.
//!
//! Only shapes are checked here, never existence.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An identifier that does not have the shape it must have.
#[derive(Debug, PartialEq, Eq)]
pub struct BadId {
    kind: &'static str,
    text: String,
    want: &'static str,
}

impl fmt::Display for BadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not {}: {}", self.text, self.kind, self.want)
    }
}

impl std::error::Error for BadId {}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $want:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Parses the identifier, checking its shape.
            pub fn parse(text: impl Into<String>) -> Result<Self, BadId> {
                let text = text.into();
                let valid: fn(&str) -> bool = $valid;
                if valid(&text) {
                    Ok(Self(text))
                } else {
                    Err(BadId { kind: $kind, text, want: $want })
                }
            }

            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                Self::parse(text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                Self::parse(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

fn tail(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix)
        .is_some_and(|tail| !tail.is_empty() && tail.bytes().all(|b| b.is_ascii_alphanumeric()))
}

id!(
    /// An AMI.
    ImageId, "an image id", "it looks like ami-0123456789abcdef0", |t| tail(t, "ami-")
);
id!(
    /// An EC2 instance.
    InstanceId, "an instance id", "it looks like i-0123456789abcdef0", |t| tail(t, "i-")
);
id!(
    /// An EBS snapshot.
    SnapshotId, "a snapshot id", "it looks like snap-0123456789abcdef0", |t| tail(t, "snap-")
);
id!(
    /// A security group.
    SecurityGroupId, "a security group id", "it looks like sg-0123456789abcdef0", |t| tail(t, "sg-")
);
id!(
    /// A subnet.
    SubnetId, "a subnet id", "it looks like subnet-0123456789abcdef0", |t| tail(t, "subnet-")
);
id!(
    /// A VPC.
    VpcId, "a VPC id", "it looks like vpc-0123456789abcdef0", |t| tail(t, "vpc-")
);
id!(
    /// An EBS volume.
    VolumeId, "a volume id", "it looks like vol-0123456789abcdef0", |t| tail(t, "vol-")
);
id!(
    /// A network interface.
    NetworkInterfaceId, "a network interface id", "it looks like eni-0123456789abcdef0", |t| tail(t, "eni-")
);
id!(
    /// A key pair; its name can be used again, its id cannot.
    KeyPairId, "a key pair id", "it looks like key-0123456789abcdef0", |t| tail(t, "key-")
);
id!(
    /// An AWS account.
    AccountId, "an account id", "it has twelve digits",
    |t| t.len() == 12 && t.bytes().all(|b| b.is_ascii_digit())
);
id!(
    /// A channel that carries releases of the agent.
    ChannelName, "a channel's name", "use 1 to 32 of a-z, 0-9, `-`, beginning with a letter",
    |t| {
        (1..=32).contains(&t.len())
            && t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && t.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
    }
);

impl ChannelName {
    /// The channel that an image follows by default.
    pub fn stable() -> Self {
        Self("stable".to_owned())
    }
}

id!(
    /// An image's name in the configuration; part of parameter names and AMI names.
    ImageName, "an image name", "use 1 to 64 of a-z, 0-9, `-`, `_`, `.`, beginning with a letter or digit",
    |t| {
        (1..=64).contains(&t.len())
            && t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
            && t.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
    }
);
id!(
    /// A service's name in the configuration.
    ServiceName, "a service name", "use 1 to 64 of a-z, 0-9, `-`, `_`, beginning with a letter or digit",
    |t| {
        (1..=64).contains(&t.len())
            && t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
            && t.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
    }
);
id!(
    /// An Auto Scaling group's name.
    GroupName, "an Auto Scaling group name", "use 1 to 255 printable characters without `:`",
    |t| (1..=255).contains(&t.chars().count()) && !t.chars().any(|c| c.is_control() || c == ':')
);
id!(
    /// A launch template's name.
    TemplateName, "a launch template name", "use 3 to 128 of letters, digits and `().-/_`",
    |t| {
        (3..=128).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"().-/_".contains(&b))
    }
);
id!(
    /// A run of `imagebuilder bake` or `roll`: the folder in `.imagebuilder/runs/` and the value of the run tag.
    RunId, "a run id", "it looks like 20260102T030405Z-bake-1a2b3c",
    |t| (1..=64).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
);
id!(
    /// A SHA-256 in lower-case hex.
    Digest, "a SHA-256 digest", "it has 64 characters of 0-9 and a-f",
    |t| t.len() == 64 && t.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_checked_at_the_border() {
        for good in ["ami-1", "ami-0123456789abcdef0"] {
            assert!(ImageId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "ami-", "i-1", "ami-1 ", "ami-1;rm"] {
            assert!(ImageId::parse(bad).is_err(), "{bad}");
        }
        assert!(ImageName::parse("shop").is_ok());
        for bad in ["", "Shop", "shop/web", "-shop", "a b"] {
            assert!(ImageName::parse(bad).is_err(), "{bad}");
        }
        assert!(AccountId::parse("136693071363").is_ok());
        assert!(AccountId::parse("self").is_err());
        assert!(GroupName::parse("shop web").is_ok());
        assert!(GroupName::parse("a:b").is_err());
    }

    #[test]
    fn the_refusal_names_the_text_and_the_shape() {
        assert_eq!(
            ImageId::parse("shop").unwrap_err().to_string(),
            "`shop` is not an image id: it looks like ami-0123456789abcdef0"
        );
    }
}
