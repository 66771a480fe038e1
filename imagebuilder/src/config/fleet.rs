//! `[fleet]` and `[roll]`: which group is rolled, and how carefully.
//!
//! Shapes only; whether the group exists is the plan's business.

use serde::Deserialize;

use crate::ids::{GroupName, TemplateName};

/// `[fleet]`: what is rolled.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fleet {
    /// The Auto Scaling group.
    pub(crate) group: GroupName,
    /// The launch template, by name; the group's own when left out.
    pub(crate) launch_template: Option<TemplateName>,
    /// The target group, by name; the group's own when left out.
    pub(crate) target_group: Option<String>,
}

/// `[roll]`: how carefully.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Roll {}
