//! Tags of a resource.

use std::collections::BTreeMap;

/// Tags of a resource.
pub type Tags = BTreeMap<String, String>;
