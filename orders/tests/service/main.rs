//! The built binary, over real sockets: its contract, its faults, its load generator, its unit.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in the functions its tests share"
)]

mod contract;
mod faults;
mod handed;
mod load;
mod support;
mod unit;
