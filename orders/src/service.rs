//! The running service: what it is made of, in which order its parts start, and in which they stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::accounts::AccountService;
use crate::api::{self, Shop};
use crate::aws::{Aws, InstanceId};
use crate::clock::Clock;
use crate::exit::Failure;
use crate::listen::{self, Inherited};
use crate::metrics::{OrderCount, Publisher};
use crate::notices::{Outbox, Relay, SnsTopic};
use crate::readiness::Readiness;
use crate::server::{self, Bounds, Drained, Stop};
use crate::settings::Settings;
use crate::store::{self, Store};
use crate::{VERSION, systemd};

/// Time limit for closing the store (the file store's own limit).
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// Time limit for the last metric call when the service stops.
const FINAL_METRIC_TIMEOUT: Duration = Duration::from_secs(3);
/// Time limit for the last notices when the service stops. The store keeps what is not sent by then.
const FINAL_NOTICES_TIMEOUT: Duration = Duration::from_secs(3);

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

/// Serves until a signal, then stops: requests in progress first, then what is sent in the background, last
/// the store.
pub(crate) async fn serve(settings: Settings, inherited: Inherited) -> Result<(), Failure> {
    let signals = Signals::watch()?;
    let listener = listen_for_customers(&settings, inherited)?;
    let operator_listener = listen_for_operator(settings.operator_listen)?;
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }

    let settings = Arc::new(settings);
    let aws = Aws::new(settings.aws.clone());
    let store = store::open(&settings, &aws)?;
    let readiness = Readiness::default();
    let instance = look_up_instance(&aws);
    tokio::spawn(readiness.clone().probe_forever(Arc::clone(&store)));
    tokio::spawn(systemd::notify_watchdog());
    let store_address = settings.store.to_string();
    tokio::spawn(systemd::report(readiness.clone(), store_address));

    let count = OrderCount::default();
    let (senders, outbox) = Senders::start(&settings, &aws, &store, &count);
    let shop = Shop {
        accounts: accounts(&settings, &*store)?,
        candidates: store::open_candidates(&settings, &*store, &aws)?,
        store: Arc::clone(&store),
        readiness: readiness.clone(),
        clock: Clock::default(),
        settings: Arc::clone(&settings),
        count,
        meter: Arc::default(),
        instance,
        order_permits: Shop::order_permits(),
        bodies: api::Bodies::default(),
        outbox,
    };
    if let Some(listener) = operator_listener {
        tokio::spawn(serve_operator(listener, shop.clone()));
    }
    let stop = signals.stop(readiness, &settings);
    let drained = serve_customers(listener, shop, stop).await;

    senders.finish().await;
    match drained {
        Drained::Fully => tracing::info!("stopped; every request in progress was answered"),
        Drained::OutOfTime => tracing::warn!("stopped; some requests were cut off"),
    }
    store.close().await;
    Ok(())
}

/// The socket that systemd passed, or one of our own.
fn listen_for_customers(settings: &Settings, inherited: Inherited) -> Result<TcpListener, Failure> {
    let wanted = settings.listen;
    let passed = inherited.socket(wanted).map_err(Failure::Usage)?;
    let (listener, socket) = match passed {
        Some(passed) => {
            let listener = TcpListener::from_std(passed).context("use the socket from systemd")?;
            (listener, "systemd")
        }
        None => (bind(wanted)?, "own"),
    };
    let address = listener
        .local_addr()
        .context("read the listener's address")?;
    let store = settings.store.to_string();
    tracing::info!(version = VERSION, %address, socket, store, "listening");
    Ok(listener)
}

fn bind(wanted: Option<SocketAddr>) -> anyhow::Result<TcpListener> {
    let address = match wanted {
        Some(address) => address,
        None => listen::DEFAULT
            .parse()
            .context("read the default address")?,
    };
    listen::bind(address).with_context(|| {
        format!("listen on {address}\nhint: find out what listens there with ss -ltnp")
    })
}

/// The operator's socket, if one is configured.
fn listen_for_operator(wanted: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
    let Some(wanted) = wanted else {
        return Ok(None);
    };
    let listener =
        listen::bind(wanted).with_context(|| format!("listen on {wanted} for operator_listen"))?;
    let address = listener
        .local_addr()
        .context("read the operator listener's address")?;
    tracing::info!(operator_address = %address, "listening for the operator");
    Ok(Some(listener))
}

/// Starts the lookup now, so that the first health check that asks for details has the id.
fn look_up_instance(aws: &Aws) -> InstanceId {
    let instance = InstanceId::new(aws.clone());
    let _ = instance.now_or_unknown();
    instance
}

fn accounts(settings: &Settings, store: &dyn Store) -> anyhow::Result<Option<Arc<AccountService>>> {
    if !settings.accounts {
        return Ok(None);
    }
    let accounts = store.accounts().context(
        "accounts are on, but this store does not support them\nhint: write store = \"sqlite:///var/lib/orders/orders.db\"",
    )?;
    Ok(Some(Arc::new(AccountService::new(accounts))))
}

/// Serves customers until `stop`.
async fn serve_customers(
    listener: TcpListener,
    shop: Shop,
    stop: Stop<impl Future<Output = Duration>, impl Future<Output = ()>>,
) -> Drained {
    let bounds = Bounds::default().within_open_files();
    let open = shop.meter.connections.clone();
    server::serve(listener, api::router(shop), bounds, open, stop).await
}

/// Serves the operator until the process ends, so that metrics stay readable during the stop.
async fn serve_operator(listener: TcpListener, shop: Shop) {
    let never = Stop {
        requested: std::future::pending(),
        skip_lame_duck: std::future::pending(),
        drain: Duration::ZERO,
    };
    let few = Bounds {
        connections: 64,
        active: 32,
        ..Bounds::default()
    };
    let router = api::operator_router(shop);
    server::serve(listener, router, few, Gauge::default(), never).await;
}

/// The signals that stop the service.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    second_interrupt: Signal,
}

impl Signals {
    fn watch() -> anyhow::Result<Self> {
        let interrupt = || signal(SignalKind::interrupt()).context("watch for SIGINT");
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("watch for SIGTERM")?,
            interrupt: interrupt()?,
            second_interrupt: interrupt()?,
        })
    }

    /// How the service stops: at SIGTERM with a lame-duck time, which SIGINT ends or leaves out.
    fn stop(
        self,
        readiness: Readiness,
        settings: &Settings,
    ) -> Stop<impl Future<Output = Duration> + use<>, impl Future<Output = ()> + use<>> {
        let Self {
            mut terminate,
            mut interrupt,
            mut second_interrupt,
        } = self;
        let lame_duck = settings.lame_duck;
        Stop {
            requested: async move {
                let lame_duck = tokio::select! {
                    _ = terminate.recv() => lame_duck,
                    // A person at a terminal is waiting.
                    _ = interrupt.recv() => Duration::ZERO,
                };
                readiness.drain();
                // Reported here and not by `systemd::report`: with no request in progress the process ends
                // before that task runs again.
                systemd::report_stop();
                lame_duck
            },
            skip_lame_duck: async move {
                let _ = second_interrupt.recv().await;
            },
            drain: settings.drain,
        }
    }
}

/// What is sent in the background, without delaying an order: the metric and the notices.
struct Senders {
    /// Dropped to stop them.
    stop: watch::Sender<()>,
    publishing: Option<JoinHandle<()>>,
    relaying: Option<JoinHandle<()>>,
}

impl Senders {
    /// Starts those that are configured. The outbox takes the notices.
    fn start(
        settings: &Settings,
        aws: &Aws,
        store: &Arc<dyn Store>,
        count: &OrderCount,
    ) -> (Self, Option<Outbox>) {
        let (stop, stopped) = watch::channel(());
        let stopped = || {
            let mut stopped = stopped.clone();
            async move {
                // An error means that the sender was dropped, which also means stop.
                let _ = stopped.changed().await;
            }
        };
        let publishing = settings.metrics.clone().map(|metrics| {
            let publisher = Publisher::new(count.clone(), metrics, aws.clone());
            tokio::spawn(publisher.run(stopped()))
        });
        let (outbox, relaying) = settings
            .notices_topic
            .clone()
            .map(|arn| {
                let topic = Arc::new(SnsTopic::new(arn, aws.clone()));
                let (outbox, relay) = Relay::new(Arc::clone(store), topic);
                (outbox, tokio::spawn(relay.run(stopped())))
            })
            .unzip();
        let senders = Self {
            stop,
            publishing,
            relaying,
        };
        (senders, outbox)
    }

    /// Stops them and gives them time to send the last point and the last notices.
    async fn finish(self) {
        drop(self.stop);
        if let Some(publishing) = self.publishing
            && tokio::time::timeout(FINAL_METRIC_TIMEOUT, publishing)
                .await
                .is_err()
        {
            tracing::warn!("the last OrderCount was not published in time");
        }
        if let Some(relaying) = self.relaying
            && tokio::time::timeout(FINAL_NOTICES_TIMEOUT, relaying)
                .await
                .is_err()
        {
            tracing::warn!("some notices were not sent; they wait in the store");
        }
    }
}
