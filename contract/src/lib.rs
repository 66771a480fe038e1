//! What `imagebuilder` and `imagebuilder-agent` must agree on, and nothing else: the names of tags
//! and parameters, and the record an agent leaves in the registry.
//!
//! Types only. This crate must not know files, the network, AWS or any runtime.

pub mod names;
pub mod registry;
pub mod tags;
