//! The updater of the instance agent, which runs as root: it reads the signed channel and writes the slots.
//!
//! It has no AWS credentials; the daemon, which has, can only ask it to check the channel. [`Updater`] is the entry
//! point. The daemon and its settings are parameters: this crate knows neither.
//!
//! [`channel`] and `slots` read, `plan` and `phases` are pure, `attempt` is the only part that acts. `state` is written
//! before every effect, so the power may fail at any moment; the one commit point is the rename of the link `stable`.

mod attempt;
mod before;
mod blame;
mod build;
pub mod channel;
#[cfg(test)]
mod fuzz;
mod operator;
mod permission;
mod phases;
mod plan;
mod probe;
pub mod proxy;
mod regression;
mod slots;
mod state;
pub mod status;
pub mod subscription;
mod systemd;
mod updater;
mod version;

pub use attempt::{Daemon, Health};
pub use operator::OperatorOverride;
pub use permission::PermissionAnswer;
pub use probe::VerbInputs;
pub use updater::{RunResult, Updater};
pub use version::version;
