//! Self-update: the root face of the agent. It reads the signed channel and writes the slots; it holds
//! no AWS credentials, and the daemon, which does, can only ask it to look.
//!
//! Look, decide, act: [`channel`] and [`slots`] look, [`plan`] and [`machine`] are pure, [`attempt`] is
//! the only part that acts. [`state`] is written before every effect, so that the power may go at any
//! moment; the one commit point is the rename of the link `stable`.

pub mod attempt;
pub mod board;
pub mod channel;
pub(crate) mod command;
pub mod durable;
pub mod machine;
pub mod plan;
pub mod probe;
pub mod refusal;
pub mod slots;
pub mod state;
pub mod subscription;
pub mod systemd;
