//! Moving a fleet onto an image: look, plan, start, watch, verify.
//!
//! [`plan`], [`watch`] and [`verify`] decide and are pure; [`look`] asks and judges nothing.

pub(crate) mod look;
pub(crate) mod plan;
#[cfg(test)]
mod sample;
pub(crate) mod verify;
pub(crate) mod view;
pub(crate) mod watch;
