//! The release record: which images, one for each architecture, were published together.
//!
//! Stored as JSON in the SSM parameter [`release_parameter`](crate::names::release_parameter). It is written in one call, after every
//! image passed its gate, so that its reader sees the images of one release and never a mixture of two.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The one schema number this crate reads and writes.
pub const SCHEMA: u32 = 1;

/// The images of one release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRelease {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The AMI id by architecture, as EC2 spells it: `x86_64`, `arm64`.
    pub images: BTreeMap<String, String>,
}

impl ImageRelease {
    /// A release of these images.
    #[must_use]
    pub fn new(images: BTreeMap<String, String>) -> Self {
        Self {
            schema: SCHEMA,
            images,
        }
    }

    /// Whether this reader supports the record's schema.
    #[must_use]
    pub fn readable(&self) -> bool {
        self.schema == SCHEMA
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_fixed() {
        let images = [("arm64", "ami-2"), ("x86_64", "ami-1")];
        let images = images.map(|(arch, id)| (arch.to_owned(), id.to_owned()));
        let text = serde_json::to_string(&ImageRelease::new(images.into())).unwrap();
        assert_eq!(
            text,
            r#"{"schema":1,"images":{"arm64":"ami-2","x86_64":"ami-1"}}"#
        );
        let newer = text.replace(":1,", ":2,");
        let newer: ImageRelease = serde_json::from_str(&newer).unwrap();
        assert!(!newer.readable());
    }
}
