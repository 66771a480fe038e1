//! The order service: takes orders over HTTP and answers once they are durable.
//!
//! Does not depend on the agent, Packer or the fleet. Its contract is documented in `docs/orders.md`.

pub mod accounts;
pub mod api;
pub mod aws;
pub mod caller;
pub mod candidates;
pub mod cli;
pub mod clock;
mod exit;
#[cfg(test)]
mod flaky;
pub mod listen;
pub mod log;
pub mod metrics;
#[cfg(test)]
mod moto;
pub mod notices;
pub mod order;
pub mod pages;
pub mod problem;
pub mod readiness;
pub mod receipt;
mod secret;
pub mod server;
pub mod service;
pub mod settings;
pub mod store;
mod systemd;
#[cfg(test)]
mod versitygw;

/// The version the service reports: `ORDERS_VERSION` at build time, else the crate's.
pub const VERSION: &str = match option_env!("ORDERS_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};
