//! The load generator of the order service: `run` places orders, `check` audits them.
//!
//! `run` places orders open-loop and writes every response into a ledger before it counts it; `check` looks
//! up each accepted order in the store. Together they show that no order failed, was lost or stored twice,
//! for any service with this contract. Must not depend on the service's internals, only on its HTTP contract
//! and its stores. No part of an image: the service does not depend on this crate.

mod args;
mod arrivals;
mod audit;
mod client;
mod commands;
mod drive;
mod exit;
mod ledger;
mod plan;
mod report;
mod view;

use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use args::{CheckArgs, RunArgs};
use exit::Failure;

/// musl's own allocator takes one lock for all threads.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(
    name = "orders-load",
    version = orders::VERSION,
    about = "Place orders at an order service, and verify that each accepted one is stored exactly once",
    after_help = "Exit codes: 0 every order was placed, and none is lost or stored twice, if a store was \
                  checked; 1 orders failed, or the store could not be checked; 2 usage or settings; 3 an \
                  accepted order is lost, or an order is stored twice. See docs/orders.md."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Place orders at a given rate and record the answers in a ledger
    Run(RunArgs),
    /// Verify that every accepted order of a ledger is stored exactly once
    Check(CheckArgs),
}

fn main() -> ExitCode {
    match execute(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Reported) => ExitCode::from(1),
        Err(Failure::Lost) => ExitCode::from(3),
        Err(Failure::Usage(error)) => print_error(&error, 2),
        Err(Failure::Unexpected(error)) => print_error(&error, 1),
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the one place that prints why the program fails"
)]
fn print_error(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("{}", support::Report::of(error));
    ExitCode::from(code)
}

fn execute(command: Command) -> Result<(), Failure> {
    let environment = orders::settings::environment();
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    let ended = match command {
        Command::Run(args) => runtime.block_on(commands::run(args, &environment)),
        Command::Check(args) => runtime.block_on(commands::check(args, &environment)),
    };
    // A thread that is stuck on a failed disk must not keep the process from ending.
    runtime.shutdown_background();
    ended
}
