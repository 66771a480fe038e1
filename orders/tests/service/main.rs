//! Tests of the built binary over real sockets: contract, failures, kill loops, units, shop page.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in the functions its tests share"
)]

mod accounts;
mod browser;
mod candidates;
mod contract;
mod failures;
mod files;
mod hostile;
mod inherited;
mod kill;
mod moto;
mod notices;
mod page;
#[expect(dead_code, reason = "the tests of the load generator need more of it")]
mod proxy;
mod schemathesis;
#[expect(dead_code, reason = "the tests of the store need more of it")]
#[path = "../../src/store/sql/servers.rs"]
mod servers;
mod sql;
mod support;
mod systemd;
mod unit;
