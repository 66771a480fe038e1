//! Attempts over a real tree of slots, with the channel, systemd, the daemon and the clock played.

mod clones;
mod deadlines;
mod fakes;
mod faults;
mod killed;
mod permission;
mod repairs;
mod soak;
