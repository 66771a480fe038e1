//! The agent's units on real systemd: containers are booted, agents crash, hang and starve in them, the power
//! goes. Every row of the failure table in `docs/agent.md` is tested here.
//!
//! The agents in the slots are scripts (`agent.pl`) with configured behaviour; units, layout, `systemctl`
//! and the updater are the real ones.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../rendered/mod.rs"]
mod rendered;

#[expect(
    dead_code,
    reason = "what no honest publisher does is other tests' business"
)]
#[path = "../../update/tests/channel/repository.rs"]
mod repository;

mod checks;
mod container;
mod remedy;
mod repair;
mod sandbox;
mod trial;
mod update;
