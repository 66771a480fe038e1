//! The command line: `serve` (the default), `load` and `check`.
//!
//! Exit codes: 0 success · 1 failure (orders failed or were lost, the port is taken) · 2 usage or settings ·
//! 3 an accepted order is lost or stored twice.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tracing_subscriber::filter::LevelFilter;

use crate::exit::Failure;
use crate::listen::Inherited;
use crate::load::{self, CheckArgs, LoadArgs};
use crate::log::Log;
use crate::settings::{RawSettings, Settings};
use crate::{VERSION, service};

/// Blocking threads wait for the disk, a few at a time (the file store has its own limit); each costs memory.
const BLOCKING_THREADS: usize = 32;

#[derive(Debug, Parser)]
#[command(
    name = "orders",
    version = VERSION,
    about = "Take orders over HTTP and answer once they are durable",
    after_help = "Without a command, serve. Settings come from flags, then ORDERS_* variables, then \
                  /etc/orders/orders.toml, then defaults; see docs/orders.md.",
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Place orders at a given rate and record the answers in a ledger
    Load(LoadArgs),
    /// Verify that every accepted order of a ledger is stored exactly once
    Check(CheckArgs),
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// Address to listen on [default: 0.0.0.0:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where to store orders: file:///folder, s3://bucket/prefix, dynamodb://table, sqlite:///path,
    /// mysql://user@host/database or postgres://user@host/database [default: file:///var/lib/orders, or
    /// ~/.local/state/orders if that is not writable]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// CloudWatch namespace for the metric OrderCount; empty turns it off [default: off]
    #[arg(long, value_name = "NAME")]
    metrics_namespace: Option<String>,
    /// Flowers on sale, separated by commas [default: romantic_roses,spring_tulips,blossom_mix]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    flowers: Option<Vec<String>>,
    /// Seconds to wait for requests in progress after the lame-duck time [default: 20]
    #[arg(long, value_name = "SECONDS")]
    drain_seconds: Option<u64>,
    /// Seconds to keep serving after SIGTERM while reporting not ready and closing each connection after its
    /// response [default: 5]
    #[arg(long, value_name = "SECONDS")]
    lame_duck_seconds: Option<u64>,
    /// Settings file [default: /etc/orders/orders.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Run the program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
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

fn run(cli: Cli) -> Result<(), Failure> {
    // Variables that are not UTF-8 cannot be ours.
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let inherited = Inherited::take();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .context("start the runtime")?;
    let ended = match cli.command {
        None => {
            let args = cli.serve;
            let flags = RawSettings {
                listen: args.listen,
                store: args.store,
                metrics_namespace: args.metrics_namespace,
                flowers: args.flowers,
                drain_seconds: args.drain_seconds,
                lame_duck_seconds: args.lame_duck_seconds,
                ..RawSettings::default()
            };
            let settings =
                Settings::load(flags, args.config, &environment).map_err(Failure::Usage)?;
            let _log = Log::to_stderr(log_level(&environment)?)?;
            runtime.block_on(service::serve(settings, inherited))
        }
        Some(Command::Load(args)) => runtime.block_on(load::load(args, &environment)),
        Some(Command::Check(args)) => runtime.block_on(load::check(args, &environment)),
    };
    // A thread that is stuck on a failed disk must not keep the process from ending.
    runtime.shutdown_background();
    ended
}

/// The least severe level that is logged.
fn log_level(environment: &BTreeMap<String, String>) -> Result<LevelFilter, Failure> {
    match environment.get("ORDERS_LOG").filter(|level| !level.is_empty()) {
        None => Ok(LevelFilter::INFO),
        Some(level) => level.parse().map_err(|_| {
            Failure::Usage(anyhow::anyhow!(
                "ORDERS_LOG={level} is not a log level\nhint: choose off, error, warn, info, debug or trace"
            ))
        }),
    }
}
