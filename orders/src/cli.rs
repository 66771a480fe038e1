//! The command line. There are no verbs: the program serves.
//!
//! Exit codes: 0 success · 1 failure (such as a port that is taken) · 2 usage or settings.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tracing_subscriber::filter::LevelFilter;

use crate::exit::Failure;
use crate::listen::Inherited;
use crate::log::Log;
use crate::settings::{self, RawSettings, Settings};
use crate::{VERSION, service};

/// Blocking threads wait for the disk, a few at a time (the file store has its own limit); each costs memory.
const BLOCKING_THREADS: usize = 32;

/// Verbs of earlier releases, and the commands that do the same.
const MOVED_VERBS: [(&str, &str); 2] =
    [("load", "orders-load run"), ("check", "orders-load check")];

#[derive(Debug, Parser)]
#[command(
    name = "orders",
    version = VERSION,
    about = "Take orders over HTTP and answer once they are durable",
    after_help = "Settings come from flags, then ORDERS_* variables, then /etc/orders/orders.toml, then \
                  defaults; see docs/orders.md. To place orders and to verify that none is lost, use orders-load."
)]
struct Cli {
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
    let first = std::env::args_os().nth(1);
    let done = refuse_moved_verb(first.as_deref()).and_then(|()| run(Cli::parse()));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(error)) => print_error(&error, 2),
        Err(Failure::Unexpected(error)) => print_error(&error, 1),
    }
}

/// Refuses a verb of an earlier release by name; clap would call it an unexpected argument.
fn refuse_moved_verb(first: Option<&OsStr>) -> Result<(), Failure> {
    for (verb, command) in MOVED_VERBS {
        if first == Some(OsStr::new(verb)) {
            return Err(Failure::Usage(anyhow::anyhow!(
                "`orders {verb}` is not part of the service any more\n\
                 hint: run `{command}` with the same flags"
            )));
        }
    }
    Ok(())
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
    let environment = settings::environment();
    let flags = RawSettings {
        listen: cli.listen,
        store: cli.store,
        metrics_namespace: cli.metrics_namespace,
        flowers: cli.flowers,
        drain_seconds: cli.drain_seconds,
        lame_duck_seconds: cli.lame_duck_seconds,
        ..RawSettings::default()
    };
    let inherited = Inherited::take();
    let settings = Settings::load(flags, cli.config, &environment).map_err(Failure::Usage)?;
    let _log = Log::to_stderr(log_level(&environment)?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .context("start the runtime")?;
    let ended = runtime.block_on(service::serve(settings, inherited));
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
