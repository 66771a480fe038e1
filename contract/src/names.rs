//! Names of SSM parameters.
//!
//! Everything lives below `/imagebuilder/<image>/`, so that one IAM statement scopes one image.

use std::fmt;

/// One of an image's three pointers.
///
/// A pointer is an SSM parameter of data type `aws:ec2:image` that contains one AMI id. It is for operators
/// and the CLI; a launch template always contains the literal id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pointer {
    /// Baked and gated, not yet rolled out.
    Candidate,
    /// What the fleet runs, as verified by the last finished roll.
    Current,
    /// What the fleet ran before `Current`: the target of a rollback.
    Previous,
}

impl Pointer {
    /// All pointers, in the order in which an image moves through them.
    pub const ALL: [Self; 3] = [Self::Candidate, Self::Current, Self::Previous];

    /// The full parameter name, `/imagebuilder/<image>/<pointer>`; with an architecture, which an image that is released for
    /// several has, `/imagebuilder/<image>/<arch>/<pointer>`.
    #[must_use]
    pub fn parameter(self, image: &str, arch: Option<&str>) -> String {
        match arch {
            None => format!("/imagebuilder/{image}/{self}"),
            Some(arch) => format!("/imagebuilder/{image}/{arch}/{self}"),
        }
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Candidate => "candidate",
            Self::Current => "current",
            Self::Previous => "previous",
        })
    }
}

/// The parameter with the last [`ImageRelease`](crate::image_release::ImageRelease) of an image for several architectures.
#[must_use]
pub fn release_parameter(image: &str) -> String {
    format!("/imagebuilder/{image}/release")
}

/// The path of the registry records of all instances of `image`, with a trailing slash.
#[must_use]
pub fn registry_path(image: &str) -> String {
    format!("/imagebuilder/{image}/instances/")
}

/// The parameter with an instance's [`Record`](crate::registry::Record).
#[must_use]
pub fn registry_parameter(image: &str, instance_id: &str) -> String {
    format!("{}{instance_id}", registry_path(image))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_below_its_image() {
        assert_eq!(
            Pointer::Candidate.parameter("shop", None),
            "/imagebuilder/shop/candidate"
        );
        assert_eq!(
            Pointer::Current.parameter("shop", None),
            "/imagebuilder/shop/current"
        );
        assert_eq!(
            Pointer::Previous.parameter("shop", None),
            "/imagebuilder/shop/previous"
        );
        assert_eq!(
            Pointer::Candidate.parameter("shop", Some("arm64")),
            "/imagebuilder/shop/arm64/candidate"
        );
        assert_eq!(release_parameter("shop"), "/imagebuilder/shop/release");
        assert_eq!(
            registry_parameter("shop", "i-0abc"),
            "/imagebuilder/shop/instances/i-0abc"
        );
    }
}
