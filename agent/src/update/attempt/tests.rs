//! Attempts over a real tree of slots, with the channel, systemd, the daemon and the clock played.

mod clones;
mod deadlines;
mod faults;
mod killed;
mod leave;
mod played;
mod repairs;
mod soak;
