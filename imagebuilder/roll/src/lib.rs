//! Rolling a fleet onto an image: observe, plan, start, watch, verify. Each command is a function of [`verbs`].
//!
//! `plan`, `watch` and `verify` decide and are pure; [`observe`] reads the cloud and judges nothing; `start` starts the refresh;
//! `drive` contains the only loop; [`show`] formats the text. A caller gives a [`RollContext`]: the cloud, which group and how
//! ([`settings`]), where to print, when to stop. Nothing here reads a configuration file or a command line.

pub mod architecture;
mod before;
mod blame;
mod context;
mod drive;
mod history;
mod journals;
mod limits;
pub mod observe;
pub mod plan;
pub mod preflight;
mod refresh_run;
pub mod settings;
pub mod show;
pub mod smoke;
mod start;
pub mod status;
#[cfg(test)]
mod tests;
pub mod verbs;
mod verify;
mod versions;
pub mod view;
mod watch;

pub use self::context::RollContext;
#[cfg(test)]
use self::tests::sample;
