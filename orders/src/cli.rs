//! The command line: `serve` (the default), `load` and `check`; starting and stopping the service.
//!
//! Exit codes: 0 success · 1 failure (orders failed or were lost, the port is taken) · 2 usage or settings ·
//! 3 an accepted order is lost or stored twice.

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

use crate::accounts::AccountService;
use crate::api::{self, Shop};
use crate::aws::{Aws, InstanceId};
use crate::clock::Clock;
use crate::exit::Failure;
use crate::listen::{self, Inherited};
use crate::load::{self, CheckArgs, LoadArgs};
use crate::log::Log;
use crate::metrics::{OrderCount, Publisher};
use crate::notices::{Relay, SnsTopic};
use crate::readiness::{Readiness, State};
use crate::server::{self, Bounds, Drained, Stop};
use crate::settings::{RawSettings, Settings};
use crate::{VERSION, store};

/// Blocking threads wait for the disk, a few at a time (the file store has its own limit); each costs memory.
const BLOCKING_THREADS: usize = 32;
/// Time limit for closing the store (the file store's own limit).
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest a stop takes with these settings, from SIGTERM to the end of the process, not counting the
/// program's own time. The unit's `TimeoutStopSec` must be longer, or systemd cuts off orders in progress.
#[must_use]
pub fn longest_stop(settings: &Settings) -> Duration {
    settings.lame_duck
        + settings.drain
        + FINAL_METRIC_TIMEOUT
        + FINAL_NOTICES_TIMEOUT
        + CLOSE_TIMEOUT
}

/// Time limit for the last metric call when the service stops.
const FINAL_METRIC_TIMEOUT: Duration = Duration::from_secs(3);
/// Time limit for the last notices when the service stops. The store keeps what is not sent by then.
const FINAL_NOTICES_TIMEOUT: Duration = Duration::from_secs(3);

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
            runtime.block_on(serve(settings, inherited))
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

/// The listening socket and, for the log, who opened it.
async fn listen(
    wanted: Option<SocketAddr>,
    inherited: Inherited,
) -> Result<(TcpListener, &'static str), Failure> {
    if let Some(socket) = inherited.socket(wanted).map_err(Failure::Usage)? {
        let socket = TcpListener::from_std(socket).context("use the socket from systemd")?;
        return Ok((socket, "systemd"));
    }
    let address = match wanted {
        Some(address) => address,
        None => listen::DEFAULT
            .parse()
            .context("read the default address")?,
    };
    let socket = listen::bind(address).with_context(|| {
        format!("listen on {address}\nhint: find out what listens there with ss -ltnp")
    })?;
    Ok((socket, "own"))
}

async fn serve(settings: Settings, inherited: Inherited) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    let (listener, socket) = listen(settings.listen, inherited).await?;
    let address = listener
        .local_addr()
        .context("read the listener's address")?;
    let store_address = settings.store.to_string();
    tracing::info!(version = VERSION, %address, socket, store = store_address, "listening");
    let operator_listener = match settings.operator_listen {
        None => None,
        Some(wanted) => {
            let listener = listen::bind(wanted)
                .with_context(|| format!("listen on {wanted} for operator_listen"))?;
            let address = listener
                .local_addr()
                .context("read the operator listener's address")?;
            tracing::info!(operator_address = %address, "listening for the operator");
            Some(listener)
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
    // Start the lookup now, so that the first health check that asks for details has the id.
    let _ = instance.now_or_unknown();
    tokio::spawn(readiness.clone().probe_forever(Arc::clone(&store)));
    tokio::spawn(notify_watchdog());
    tokio::spawn(report_to_systemd(readiness.clone(), store_address));

    let (stop, stopped) = watch::channel(());
    let publishing = settings.metrics.clone().map(|metrics| {
        let publisher = Publisher::new(count.clone(), metrics, aws.clone());
        let mut stopped = stopped.clone();
        tokio::spawn(publisher.run(async move {
            // An error means that the sender was dropped, which also means stop.
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

    let accounts = if settings.accounts {
        let accounts = store.accounts().context(
            "accounts are on, but this store does not support them\nhint: write store = \"sqlite:///var/lib/orders/orders.db\"",
        )?;
        Some(Arc::new(AccountService::new(accounts)))
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
        order_permits: Shop::order_permits(),
        bodies: api::Bodies::default(),
        accounts,
        candidates: store::open_candidates(&settings, &*store, &aws)?,
        outbox,
    };
    let stop_requested = async {
        let lame_duck = tokio::select! {
            _ = terminate.recv() => settings.lame_duck,
            // A person at a terminal is waiting.
            _ = interrupt.recv() => Duration::ZERO,
        };
        readiness.drain();
        // Reported here and not by `report_to_systemd`: with no request in progress the process ends before
        // that task runs again.
        let status = State::Draining.reason().unwrap_or_default();
        tracing::info!(status, "stopping");
        notify(&[NotifyState::Stopping, NotifyState::Status(&status)]);
        lame_duck
    };
    let bounds = Bounds::default().within_open_files();
    let open = shop.meter.connections.clone();
    if let Some(listener) = operator_listener {
        // Serves until the process ends, so that metrics stay readable during the stop.
        let never = Stop {
            requested: std::future::pending(),
            skip_lame_duck: std::future::pending(),
            drain: Duration::ZERO,
        };
        let router = api::operator_router(shop.clone());
        let few = Bounds {
            connections: 64,
            active: 32,
            ..Bounds::default()
        };
        tokio::spawn(async move {
            server::serve(listener, router, few, Gauge::default(), never).await;
        });
    }
    let router = api::router(shop);
    let mut second_interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    let skip_lame_duck = async move {
        let _ = second_interrupt.recv().await;
    };
    let stop_plan = Stop {
        requested: stop_requested,
        skip_lame_duck,
        drain: settings.drain,
    };
    let drained = server::serve(listener, router, bounds, open, stop_plan).await;

    drop(stop);
    if let Some(publishing) = publishing
        && tokio::time::timeout(FINAL_METRIC_TIMEOUT, publishing)
            .await
            .is_err()
    {
        tracing::warn!("the last OrderCount was not published in time");
    }
    if let Some(relaying) = relaying
        && tokio::time::timeout(FINAL_NOTICES_TIMEOUT, relaying)
            .await
            .is_err()
    {
        tracing::warn!("some notices were not sent; they wait in the store");
    }
    match drained {
        Drained::Fully => tracing::info!("stopped; every request in progress was answered"),
        Drained::OutOfTime => tracing::warn!("stopped; some requests were cut off"),
    }
    store.close().await;
    Ok(())
}

/// Reports to systemd that the service listens and then, until the stop, whether the store works.
async fn report_to_systemd(readiness: Readiness, store: String) {
    let mut changes = readiness.changes();
    let mut message = vec![NotifyState::Ready];
    loop {
        let state = changes.borrow_and_update().clone();
        let status = match state.reason() {
            None => format!("taking orders into {store}"),
            // Already reported by the code that began the stop.
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

/// Notifies systemd's watchdog, if one is configured, at twice the required rate while the runtime makes
/// progress.
async fn notify_watchdog() {
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
        tracing::warn!(%error, "could not notify systemd");
    }
}
