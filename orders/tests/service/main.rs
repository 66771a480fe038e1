//! The built binary, over real sockets: its contract, its faults, its load generator, its unit, its page.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in the functions its tests share"
)]

mod accounts;
mod browser;
mod candidates;
mod contract;
mod faults;
mod files;
mod front;
mod handed;
mod hostile;
mod kill;
mod load;
mod moto;
mod notices;
mod page;
mod schemathesis;
#[expect(dead_code, reason = "the tests of the store need more of it")]
#[path = "../../src/store/sql/servers.rs"]
mod servers;
mod sql;
mod support;
mod systemd;
mod unit;
