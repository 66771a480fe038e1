//! Ids as types: parsed once where a request comes in, trusted by the state and the inner code.
//!
//! A type knows its prefix and EC2's error for a text that is not such an id. Whether there is such a resource is the
//! question of the service that keeps it. Stored and sent, an id is its text.

use std::borrow::Borrow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::wire::{ApiError, Params};

/// An id of one kind.
pub(crate) trait Id: Sized {
    /// What the ids of this kind begin with, e.g. `i-`.
    const PREFIX: &'static str;

    /// Takes a text as it is: an id that was read back, or one in a call for which every unknown id, malformed or not,
    /// is the same error.
    fn unchecked(text: impl Into<String>) -> Self;

    /// EC2's error for a text that is not such an id.
    fn malformed(text: &str) -> ApiError;

    /// Parses an id, by its prefix as EC2 does.
    ///
    /// # Errors
    /// [`Id::malformed`].
    fn parse(text: &str) -> Result<Self, ApiError> {
        if text.starts_with(Self::PREFIX) {
            Ok(Self::unchecked(text))
        } else {
            Err(Self::malformed(text))
        }
    }

    /// The required parameter `name`.
    ///
    /// # Errors
    /// `MissingParameter`, and [`Id::malformed`].
    fn required(params: &Params, name: &str) -> Result<Self, ApiError> {
        Self::parse(params.required(name)?)
    }

    /// The list `name.1`, `name.2`…, in its order.
    ///
    /// # Errors
    /// [`Id::malformed`], for the first that is.
    fn list(params: &Params, name: &str) -> Result<Vec<Self>, ApiError> {
        params.list(name).into_iter().map(Self::parse).collect()
    }

    /// A new one.
    fn fresh() -> Self {
        Self::unchecked(crate::wire::ids::resource(
            Self::PREFIX.trim_end_matches('-'),
        ))
    }
}

/// A text with a meaning of its own.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub(crate) struct $name(String);

        impl $name {
            /// The id as text.
            pub(crate) fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        // So that tables by id can be searched for a text that was not parsed.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        #[cfg(test)]
        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                self.0 == *other
            }
        }
    };
}

/// An id with a prefix, and EC2's error for a text without it.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $malformed:expr) => {
        text!($(#[$doc])* $name);

        impl Id for $name {
            const PREFIX: &'static str = $prefix;

            fn unchecked(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            fn malformed(text: &str) -> ApiError {
                let malformed: fn(&str) -> ApiError = $malformed;
                malformed(text)
            }
        }
    };
}

/// A name or an ARN. No shape of it is an error of its own: what is unknown is not found.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        text!($(#[$doc])* $name);

        impl $name {
            /// Takes a text as it is.
            pub(crate) fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }
        }
    };
}

id!(
    /// An EC2 instance.
    InstanceId,
    "i-",
    |text| ApiError::new(
        "InvalidInstanceID.Malformed",
        format!("Invalid id: \"{text}\"")
    )
);

id!(
    /// An Amazon machine image.
    ImageId,
    "ami-",
    |text| ApiError::new(
        "InvalidAMIID.Malformed",
        format!("Invalid id: \"{text}\" (expecting \"ami-...\")")
    )
);
id!(
    /// An EBS snapshot.
    SnapshotId,
    "snap-",
    |text| ApiError::new(
        "InvalidSnapshotID.Malformed",
        format!("Value ({text}) for parameter snapshotId is invalid. Expected: 'snap-...'.")
    )
);
id!(
    /// An EBS volume.
    VolumeId,
    "vol-",
    |text| ApiError::new(
        "InvalidVolume.NotFound",
        format!("The volume '{text}' does not exist.")
    )
);

id!(
    /// A security group.
    SecurityGroupId,
    "sg-",
    |text| ApiError::new(
        "InvalidGroupId.Malformed",
        format!("Invalid id: \"{text}\" (expecting \"sg-...\")")
    )
);
id!(
    /// A subnet.
    SubnetId,
    "subnet-",
    |text| ApiError::new(
        "InvalidSubnetID.NotFound",
        format!("The subnet ID '{text}' does not exist")
    )
);
id!(
    /// A VPC.
    VpcId,
    "vpc-",
    |text| ApiError::new(
        "InvalidVpcID.NotFound",
        format!("The vpc ID '{text}' does not exist")
    )
);
id!(
    /// A network interface.
    InterfaceId,
    "eni-",
    |text| ApiError::new(
        "InvalidNetworkInterfaceId.Malformed",
        format!("Invalid id: \"{text}\" (expecting \"eni-...\")")
    )
);
id!(
    /// A launch template.
    TemplateId,
    "lt-",
    |text| ApiError::new(
        "InvalidLaunchTemplateId.Malformed",
        format!("The launch template ID '{text}' is malformed.")
    )
);
id!(
    /// A Spot Instance request.
    SpotRequestId,
    "sir-",
    |text| ApiError::new(
        "InvalidSpotInstanceRequestID.Malformed",
        format!("Invalid id: \"{text}\" (expecting \"sir-...\")")
    )
);
id!(
    /// A key pair; its name can be used again, its id cannot.
    KeyPairId,
    "key-",
    |text| ApiError::new(
        "InvalidKeyPair.NotFound",
        format!("The key pair '{text}' does not exist")
    )
);

name!(
    /// An Auto Scaling group, by its name.
    GroupName
);
name!(
    /// A parameter of Parameter Store, as it was written: with or without a leading slash, never as an ARN.
    ParameterName
);
name!(
    /// A target group, by its ARN.
    TargetGroupArn
);
name!(
    /// A load balancer, by its ARN.
    BalancerArn
);
name!(
    /// A listener of a load balancer, by its ARN.
    ListenerArn
);

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Id + Serialize + for<'a> Deserialize<'a>>(code: &str, message: &str) {
        let refused = T::parse("nonsense").err().expect(code);
        assert_eq!((&*refused.code, &*refused.message), (code, message));
        let fresh = serde_json::to_value(T::fresh()).expect(code);
        let text = fresh.as_str().expect("an id is a text").to_owned();
        assert!(T::parse(&text).is_ok(), "{text}");
        assert!(serde_json::from_value::<T>(fresh).is_ok(), "{text}");
    }

    #[test]
    fn a_malformed_id_has_the_error_of_its_kind() {
        check::<InstanceId>("InvalidInstanceID.Malformed", "Invalid id: \"nonsense\"");
        check::<ImageId>(
            "InvalidAMIID.Malformed",
            "Invalid id: \"nonsense\" (expecting \"ami-...\")",
        );
        check::<SnapshotId>(
            "InvalidSnapshotID.Malformed",
            "Value (nonsense) for parameter snapshotId is invalid. Expected: 'snap-...'.",
        );
        check::<VolumeId>(
            "InvalidVolume.NotFound",
            "The volume 'nonsense' does not exist.",
        );
        check::<SecurityGroupId>(
            "InvalidGroupId.Malformed",
            "Invalid id: \"nonsense\" (expecting \"sg-...\")",
        );
        check::<SubnetId>(
            "InvalidSubnetID.NotFound",
            "The subnet ID 'nonsense' does not exist",
        );
        check::<VpcId>(
            "InvalidVpcID.NotFound",
            "The vpc ID 'nonsense' does not exist",
        );
        check::<InterfaceId>(
            "InvalidNetworkInterfaceId.Malformed",
            "Invalid id: \"nonsense\" (expecting \"eni-...\")",
        );
        check::<TemplateId>(
            "InvalidLaunchTemplateId.Malformed",
            "The launch template ID 'nonsense' is malformed.",
        );
        check::<SpotRequestId>(
            "InvalidSpotInstanceRequestID.Malformed",
            "Invalid id: \"nonsense\" (expecting \"sir-...\")",
        );
        check::<KeyPairId>(
            "InvalidKeyPair.NotFound",
            "The key pair 'nonsense' does not exist",
        );
    }
}
