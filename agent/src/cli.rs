//! The command line: the faces, their flags, and the exit codes.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use contract::layout;
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};

use crate::aws::Aws;
use crate::configure::configure;
use crate::health::Http;
use crate::host::Systemctl;
use crate::identity::Imds;
use crate::metrics::Meter;
use crate::notify::Systemd;
use crate::restart;
use crate::run::{self, World};
use crate::settings::{Refused, Sources};
use crate::status::{self, Form, Places};
use crate::update::board;
use crate::update::command::UpdateArgs;

/// Decides whether this instance may serve, and says so.
#[derive(Debug, Parser)]
#[command(name = "imagebuilder-agent", version = crate::version(), about)]
#[command(
    after_help = "Exit codes: 0 done (status: fit), 1 unexpected, 2 usage or settings refused, \
    3 status: not fit, or not running, 4 update run: came to nothing, tried again, 5 update run: a release \
    failed here."
)]
pub(crate) struct Cli {
    /// How much goes to the log on stderr.
    #[arg(long, global = true, value_enum, default_value_t = Log::Info, env = "IMAGEBUILDER_AGENT_LOG")]
    log: Log,
    #[command(subcommand)]
    face: Face,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Log {
    Error,
    Warn,
    Info,
    Debug,
}

#[derive(Debug, Subcommand)]
enum Face {
    /// Write each service's environment from the image's settings and the instance's user data.
    ///
    /// Runs as root, once per boot, before the services.
    Configure {
        #[command(flatten)]
        sources: SourceArgs,
        /// Where the environment files go, as <service>.env.
        #[arg(
            long,
            value_name = "DIR",
            default_value = "/run/imagebuilder",
            env = "IMAGEBUILDER_AGENT_RUN_DIR"
        )]
        run_dir: PathBuf,
        /// How long to wait for the metadata service before going on without user data.
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        patience: u64,
    },
    /// Judge the services, answer the group's lifecycle hooks, keep the registry record. The daemon.
    Run {
        #[command(flatten)]
        sources: SourceArgs,
        #[command(flatten)]
        standing: StandingArgs,
    },
    /// Restart the services whose restart the daemon has requested. Started by systemd.
    #[command(hide = true)]
    RestartRequested {
        #[command(flatten)]
        sources: SourceArgs,
        #[command(flatten)]
        standing: StandingArgs,
        /// Where this face keeps what it did.
        #[arg(long, value_name = "DIR", default_value = "/run/imagebuilder-restart")]
        state: PathBuf,
        /// The systemctl to use.
        #[arg(long, value_name = "FILE", default_value = "systemctl")]
        systemctl: PathBuf,
    },
    /// Show what the daemon thinks and what it waits for, and how the agent keeps itself current.
    Status {
        #[command(flatten)]
        standing: StandingArgs,
        /// Where the updater keeps status.json.
        #[arg(
            long,
            value_name = "DIR",
            default_value = layout::RUN,
            env = "IMAGEBUILDER_UPDATE_STATUS_DIR"
        )]
        updater_dir: PathBuf,
        /// Where `configure` left update.json.
        #[arg(
            long,
            hide = true,
            value_name = "DIR",
            default_value = "/run/imagebuilder",
            env = "IMAGEBUILDER_AGENT_RUN_DIR"
        )]
        configured: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Keep the agent itself current from its signed channel.
    Update(UpdateArgs),
}

#[derive(Args, Debug)]
pub(crate) struct SourceArgs {
    /// The image's settings.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/imagebuilder/agent.toml",
        env = "IMAGEBUILDER_AGENT_SETTINGS"
    )]
    settings: PathBuf,
    /// Directory of drop-ins that win over the image's settings, in the order of their names.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/etc/imagebuilder/agent.d",
        env = "IMAGEBUILDER_AGENT_DROP_INS"
    )]
    drop_ins: PathBuf,
}

impl SourceArgs {
    /// The flags that name the same settings to another program of ours.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        vec![
            "--settings".into(),
            self.settings.clone().into(),
            "--drop-ins".into(),
            self.drop_ins.clone().into(),
        ]
    }

    /// As the settings have them.
    pub(crate) fn into_sources(self) -> Sources {
        Sources {
            file: self.settings,
            drop_ins: self.drop_ins,
        }
    }
}

#[derive(Args, Debug)]
struct StandingArgs {
    /// Where the daemon keeps status.json.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/run/imagebuilder-agent",
        env = "IMAGEBUILDER_AGENT_STATUS_DIR"
    )]
    run_dir: PathBuf,
    /// Where the updater keeps its own status.json.
    #[arg(
        long,
        value_name = "DIR",
        default_value = contract::layout::RUN,
        env = "IMAGEBUILDER_AGENT_UPDATE_DIR"
    )]
    update_dir: PathBuf,
}

/// How the agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done; for `status`: fit.
    Done,
    /// Something unexpected, told in the log.
    Unexpected,
    /// The settings must be mended.
    Refused,
    /// `status`: not fit, or not running.
    NotFit,
    /// `update run`: nothing changed, since the channel, the disk or systemd failed; tried again.
    Postponed,
    /// `update run`: a release failed here; the box is on its stable agent.
    Skipped,
}

impl Exit {
    /// The code an error ends with.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        if error.is::<Refused>() {
            Self::Refused
        } else {
            Self::Unexpected
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Unexpected => 1,
            Exit::Refused => 2,
            Exit::NotFit => 3,
            Exit::Postponed => 4,
            Exit::Skipped => 5,
        })
    }
}

impl Cli {
    /// The log's threshold.
    pub(crate) fn log_level(&self) -> tracing::Level {
        match self.log {
            Log::Error => tracing::Level::ERROR,
            Log::Warn => tracing::Level::WARN,
            Log::Info => tracing::Level::INFO,
            Log::Debug => tracing::Level::DEBUG,
        }
    }

    /// Runs the face that was asked for.
    pub(crate) fn dispatch(self) -> Result<Exit> {
        match self.face {
            Face::Configure {
                sources,
                run_dir,
                patience,
            } => block_on(async {
                let patience = Duration::from_secs(patience);
                configure(&sources.into_sources(), &run_dir, &Imds::new(), patience).await?;
                Ok(Exit::Done)
            }),
            Face::Run { sources, standing } => block_on(async {
                let mut term =
                    signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
                let mut int = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
                let stop = async move {
                    tokio::select! {
                        _ = term.recv() => {}
                        _ = int.recv() => {}
                    }
                };
                let imds = Imds::new();
                let meter = Meter::default();
                let aws = Arc::new(Aws::new(imds.client(), meter.clone()));
                let world = World {
                    metadata: Arc::new(imds),
                    group: aws.clone(),
                    sink: aws.clone(),
                    registry: aws.clone(),
                    balancer: aws,
                    host: Arc::new(Systemctl),
                    probe: Arc::new(Http),
                    sources: sources.into_sources(),
                    updater: standing.update_dir.join(board::FILE),
                    clock: Arc::new(Timestamp::now),
                    meter,
                };
                run::run(world, Box::new(Systemd), &standing.run_dir, stop).await?;
                Ok(Exit::Done)
            }),
            Face::Update(update) => update.dispatch(),
            Face::RestartRequested {
                sources,
                standing,
                state,
                systemctl,
            } => {
                restart::carry_out(
                    &sources.into_sources(),
                    &standing.run_dir,
                    &state,
                    &systemctl,
                )?;
                Ok(Exit::Done)
            }
            Face::Status {
                standing,
                updater_dir,
                configured,
                json,
            } => status::show(
                Places {
                    daemon: &standing.run_dir,
                    updater: &updater_dir,
                    configure: &configured,
                },
                if json { Form::Json } else { Form::Screen },
            ),
        }
    }
}

/// One thread is plenty: everything the agent does is waiting.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(work)
}
