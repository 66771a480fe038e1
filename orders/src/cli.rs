//! The command line: serve, `load`, `check`; exit codes; the start and the stop of the service.
//!
//! Exit codes: 0 done · 1 something failed (orders failed or lost, no port to listen on) · 2 usage
//! or settings · 3 an accepted order is lost, or is there twice.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use prometheus_client::metrics::gauge::Gauge;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::filter::LevelFilter;

use crate::accounts::Desk;
use crate::api::{self, Shop};
use crate::aws::{Aws, InstanceId};
use crate::clock::Clock;
use crate::exit::Failure;
use crate::listen::{self, Handed};
use crate::load::{self, CheckArgs, LoadArgs};
use crate::log::Log;
use crate::metrics::{OrderCount, Publisher};
use crate::notices::{Relay, SnsTopic};
use crate::readiness::{Readiness, State};
use crate::server::{self, Bounds, Drained, Stop};
use crate::settings::{RawSettings, Settings};
use crate::{VERSION, chain, store};

/// Blocking threads wait in the disk, a handful at a time (the file store's own bound); each costs
/// memory.
const BLOCKING_THREADS: usize = 32;
/// Closing the store may take this long (the file store's own limit).
const LAST_CLOSE: Duration = Duration::from_secs(3);
/// The longest that a stop takes by default, from SIGTERM to the end of the process, without the program's own
/// time. The unit's `TimeoutStopSec` must be longer, or orders under way are cut off.
#[must_use]
pub fn longest_stop(settings: &Settings) -> Duration {
    settings.lame_duck + settings.drain + LAST_METRIC + LAST_NOTICES + LAST_CLOSE
}

/// The last metric call may take this long when the service stops.
const LAST_METRIC: Duration = Duration::from_secs(3);
/// And the last notices; the store has what is not sent by then.
const LAST_NOTICES: Duration = Duration::from_secs(3);

#[derive(Debug, Parser)]
#[command(
    name = "orders",
    version = VERSION,
    about = "Takes orders over HTTP; answers once they are durable",
    after_help = "Without a command it serves. Settings: flags, then ORDERS_* variables, then \
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
    /// Place orders at a given rate and write down which were accepted
    Load(LoadArgs),
    /// See that every accepted order of a ledger is kept, once
    Check(CheckArgs),
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// Address to listen on [default: 0.0.0.0:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where orders are kept: file:///folder, s3://bucket/prefix, dynamodb://table, sqlite:///path,
    /// mysql://user@host/database or postgres://user@host/database [default: file:///var/lib/orders, or
    /// ~/.local/state/orders of a user who may not write there]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// CloudWatch namespace of the metric OrderCount; empty: off [default: off]
    #[arg(long, value_name = "NAME")]
    metrics_namespace: Option<String>,
    /// Flowers on sale, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    flowers: Option<Vec<String>>,
    /// Seconds that orders under way get to finish after SIGTERM and the lame-duck time [default: 20]
    #[arg(long, value_name = "SECONDS")]
    drain_seconds: Option<u64>,
    /// Seconds that it goes on serving after SIGTERM, not ready, closing connections with their answers
    /// [default: 5]
    #[arg(long, value_name = "SECONDS")]
    lame_duck_seconds: Option<u64>,
    /// Settings file [default: /etc/orders/orders.toml, if there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Found) => ExitCode::from(1),
        Err(Failure::Lost) => ExitCode::from(3),
        Err(Failure::Usage(error)) => complain(&error, 2),
        Err(Failure::Unexpected(error)) => complain(&error, 1),
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the one place that says why the program ends"
)]
fn complain(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("orders: {}", chain::one_line(error));
    ExitCode::from(code)
}

fn run(cli: Cli) -> Result<(), Failure> {
    // Variables that are not text cannot be ours.
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let handed = Handed::take();
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
            runtime.block_on(serve(settings, handed))
        }
        Some(Command::Load(args)) => runtime.block_on(load::load(args, &environment)),
        Some(Command::Check(args)) => runtime.block_on(load::check(args, &environment)),
    };
    // A thread that is stuck in a dead disk must not keep the process from ending.
    runtime.shutdown_background();
    ended
}

/// From which level on is logged.
fn log_level(environment: &BTreeMap<String, String>) -> Result<LevelFilter, Failure> {
    match environment.get("ORDERS_LOG").filter(|level| !level.is_empty()) {
        None => Ok(LevelFilter::INFO),
        Some(level) => level.parse().map_err(|_| {
            Failure::Usage(anyhow::anyhow!(
                "ORDERS_LOG={level} is no level; hint: choose off, error, warn, info, debug or trace"
            ))
        }),
    }
}

/// The socket that connections come from, and whose it is, for the log.
async fn listen(
    wanted: Option<SocketAddr>,
    handed: Handed,
) -> Result<(TcpListener, &'static str), Failure> {
    if let Some(socket) = handed.socket(wanted).map_err(Failure::Usage)? {
        let socket = TcpListener::from_std(socket).context("use the socket from systemd")?;
        return Ok((socket, "systemd"));
    }
    let address = match wanted {
        Some(address) => address,
        None => listen::DEFAULT
            .parse()
            .context("read the default address")?,
    };
    let socket = listen::bind(address)
        .with_context(|| format!("listen on {address}; hint: is another orders running there?"))?;
    Ok((socket, "own"))
}

async fn serve(settings: Settings, handed: Handed) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    let (listener, socket) = listen(settings.listen, handed).await?;
    let address = listener.local_addr().context("ask for our address")?;
    let store_address = settings.store.to_string();
    tracing::info!(version = VERSION, %address, socket, store = store_address, "listening");
    let operators = match settings.operator_listen {
        None => None,
        Some(wanted) => {
            let door = listen::bind(wanted)
                .with_context(|| format!("listen on {wanted}, for the operator"))?;
            let address = door.local_addr().context("ask for our address")?;
            tracing::info!(operator_address = %address, "the operator's listener");
            Some(door)
        }
    };
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }

    let settings = Arc::new(settings);
    let aws = Aws::new(settings.aws.clone());
    let store = store::open(&settings, &aws)?;
    let readiness = Readiness::default();
    let count = OrderCount::default();
    let instance = InstanceId::new(aws.clone());
    // Asked for once now, so that the first who wants to see it need not ask twice.
    let _ = instance.now_or_unknown();
    tokio::spawn(readiness.clone().watch(Arc::clone(&store)));
    tokio::spawn(feed_watchdog());
    tokio::spawn(tell_systemd(readiness.clone(), store_address));

    let (stop, stopped) = watch::channel(());
    let publishing = settings.metrics.clone().map(|metrics| {
        let publisher = Publisher::new(count.clone(), metrics, aws.clone());
        let mut stopped = stopped.clone();
        tokio::spawn(publisher.run(async move {
            // An error means that the sender is gone, which means stop as well.
            let _ = stopped.changed().await;
        }))
    });

    let (outbox, relaying) = match &settings.notices_topic {
        None => (None, None),
        Some(arn) => {
            let topic = Arc::new(SnsTopic::new(arn.clone(), aws.clone()));
            let (outbox, relay) = Relay::new(Arc::clone(&store), topic);
            let mut stopped = stopped.clone();
            let relaying = tokio::spawn(relay.run(async move {
                // As above.
                let _ = stopped.changed().await;
            }));
            (Some(outbox), Some(relaying))
        }
    };

    let desk = if settings.accounts {
        let accounts = store.accounts().context(
            "accounts are on, but this store keeps none; hint: write store = \"sqlite:///var/lib/orders/orders.db\"",
        )?;
        Some(Arc::new(Desk::new(accounts)))
    } else {
        None
    };
    let shop = Shop {
        store: Arc::clone(&store),
        readiness: readiness.clone(),
        clock: Clock::default(),
        settings: Arc::clone(&settings),
        count,
        meter: Arc::default(),
        instance,
        places: Shop::places(),
        bodies: api::Bodies::default(),
        desk,
        candidates: store::open_candidates(&settings, &*store, &aws)?,
        outbox,
    };
    let told_to_stop = async {
        let lame_duck = tokio::select! {
            _ = terminate.recv() => settings.lame_duck,
            // Somebody sits and waits.
            _ = interrupt.recv() => Duration::ZERO,
        };
        readiness.drain();
        // Said here and not by the task that tells of changes: with nothing under way the process
        // ends before that task has its turn.
        let status = State::Draining.reason().unwrap_or_default();
        tracing::info!(status, "stopping");
        notify(&[NotifyState::Stopping, NotifyState::Status(&status)]);
        lame_duck
    };
    let bounds = Bounds::default().within_open_files();
    let open = shop.meter.connections.clone();
    if let Some(door) = operators {
        // Until the process ends: what happens during the stop is to be seen, too.
        let never = Stop {
            told: std::future::pending(),
            hurry: std::future::pending(),
            drain: Duration::ZERO,
        };
        let router = api::operator_router(shop.clone());
        let few = Bounds {
            connections: 64,
            speaking: 32,
            ..Bounds::default()
        };
        tokio::spawn(async move {
            server::serve(door, router, few, Gauge::default(), never).await;
        });
    }
    let router = api::router(shop);
    let mut again = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    let hurry = async move {
        let _ = again.recv().await;
    };
    let the_end = Stop {
        told: told_to_stop,
        hurry,
        drain: settings.drain,
    };
    let drained = server::serve(listener, router, bounds, open, the_end).await;

    drop(stop);
    if let Some(publishing) = publishing
        && tokio::time::timeout(LAST_METRIC, publishing).await.is_err()
    {
        tracing::warn!("the last OrderCount was not published");
    }
    if let Some(relaying) = relaying
        && tokio::time::timeout(LAST_NOTICES, relaying).await.is_err()
    {
        tracing::warn!("some notices wait in the store for the next sweep");
    }
    match drained {
        Drained::Fully => tracing::info!("stopped; every order under way was answered"),
        Drained::OutOfTime => tracing::warn!("stopped; some requests were cut off"),
    }
    store.close().await;
    Ok(())
}

/// Tells systemd that we listen, and from then on how the store does, until the stop.
async fn tell_systemd(readiness: Readiness, store: String) {
    let mut changes = readiness.changes();
    let mut message = vec![NotifyState::Ready];
    loop {
        let state = changes.borrow_and_update().clone();
        let status = match state.reason() {
            None => format!("taking orders into {store}"),
            // Told by whoever began the stop.
            Some(_) if state == State::Draining => return,
            Some(reason) => reason,
        };
        if matches!(state, State::Failing(_)) {
            tracing::warn!(status, "readiness");
        } else {
            tracing::info!(status, "readiness");
        }
        message.push(NotifyState::Status(&status));
        notify(&message);
        message = Vec::new();
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Tells systemd's watchdog, if there is one, that the runtime still turns, twice as often as it asks.
async fn feed_watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    loop {
        tokio::time::sleep(limit / 2).await;
        notify(&[NotifyState::Watchdog]);
    }
}

fn notify(message: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(message) {
        tracing::warn!(%error, "systemd was not told");
    }
}
