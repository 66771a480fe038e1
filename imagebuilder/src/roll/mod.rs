//! Rolling a fleet onto an image: observe, plan, start, watch, verify. Each command is a file in [`verbs`].
//!
//! [`plan`], [`watch`] and [`verify`] decide and are pure; [`observe`] reads the cloud and judges nothing; [`start`] starts
//! the refresh; [`drive`] contains the only loop; [`show`] formats the text.

pub(crate) mod before;
pub(crate) mod blame;
mod context;
pub(crate) mod drive;
mod history;
mod journals;
pub(crate) mod limits;
pub(crate) mod observe;
pub(crate) mod plan;
pub(crate) mod preflight;
mod run;
pub(crate) mod show;
pub(crate) mod smoke;
pub(crate) mod start;
pub(crate) mod status;
#[cfg(test)]
mod tests;
pub(crate) mod verbs;
pub(crate) mod verify;
mod versions;
pub(crate) mod view;
pub(crate) mod watch;

pub(crate) use self::context::RollContext;
#[cfg(test)]
use self::tests::sample;
