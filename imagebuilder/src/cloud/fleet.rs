//! The view of groups, launch templates, refreshes and targets that rolling needs.

/// Groups, launch templates, refreshes and targets.
pub(crate) trait Fleet: Send + Sync {}
