//! The one part that acts: runs an update attempt from check to commit, each step persisted before its effect.

mod world;

pub use world::{Active, Clock, Daemon, Health, Probe, System, Unit, UnitState, Units};
