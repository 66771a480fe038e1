//! The command line: the subcommands, their flags, and what each runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_update::status as updater_status;
use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use contract::{image_tests, layout};
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::{ConfiguredArgs, SourceArgs};
use crate::aws::{Aws, Proxies};
use crate::balancer::Balancer;
use crate::configure::configure;
use crate::exit::Exit;
use crate::health::Checks;
use crate::hooks::Group;
use crate::host::Systemctl;
use crate::identity::{Imds, Metadata};
use crate::image_tests::RESULTS;
use crate::machine::Machine;
use crate::metrics::Meter;
use crate::metrics::cloudwatch::Sink;
use crate::notify::Systemd;
use crate::registry::Registry;
use crate::restart;
use crate::run::{self, Adapters};
use crate::runtime::block_on;
use crate::settings::Sources;
use crate::status::{self, Form, Places};
use crate::test_runner;
use crate::update::UpdateArgs;

/// Instance agent: gates boot health, completes lifecycle hooks, updates itself
#[derive(Debug, Parser)]
#[command(name = "imagebuilder-agent", version = agent_update::version(), about)]
#[command(
    after_help = "Exit codes: 0 done (status: fit), 1 unexpected error, 2 usage or settings refused, \
    3 status: not fit, or not running, 4 update run: nothing changed, retried later, 5 update run: a release \
    failed on this instance."
)]
pub(crate) struct Cli {
    /// Lowest severity that is logged to stderr
    #[arg(long, global = true, value_enum, default_value_t = Log::Info, env = "IMAGEBUILDER_AGENT_LOG")]
    log: Log,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Log {
    Error,
    Warn,
    Info,
    Debug,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write each service's environment file from the image's settings and the instance's user data
    ///
    /// Runs as root, once per boot, before the services start.
    Configure {
        #[command(flatten)]
        sources: SourceArgs,
        #[command(flatten)]
        configured: ConfiguredArgs,
        /// Seconds to wait for the metadata service before continuing without user data
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        patience: u64,
    },
    /// Run the daemon: check the services, answer lifecycle hooks, write the registry record
    Run {
        #[command(flatten)]
        sources: SourceArgs,
        #[command(flatten)]
        daemon: DaemonArgs,
        #[command(flatten)]
        updater: UpdaterArgs,
    },
    /// Restart the services whose restart the daemon has requested. Started by systemd.
    #[command(hide = true)]
    RestartRequested {
        #[command(flatten)]
        sources: SourceArgs,
        #[command(flatten)]
        daemon: DaemonArgs,
        /// Directory where this subcommand records the restarts it has done
        #[arg(long, value_name = "DIR", default_value = "/run/imagebuilder-restart")]
        state: PathBuf,
        /// The systemctl to run
        #[arg(long, value_name = "FILE", default_value = "systemctl")]
        systemctl: PathBuf,
    },
    /// Run the image's own tests once its services pass. Started by systemd, at the gate of a bake only.
    #[command(hide = true)]
    RunImageTests {
        #[command(flatten)]
        daemon: DaemonArgs,
        /// The list of the tests
        #[arg(long, value_name = "FILE", default_value = image_tests::LIST)]
        list: PathBuf,
        /// File where this subcommand writes the results
        #[arg(long, value_name = "FILE", default_value = RESULTS)]
        results: PathBuf,
    },
    /// Show the status of the daemon and of the updater
    Status {
        #[command(flatten)]
        daemon: DaemonArgs,
        #[command(flatten)]
        updater: UpdaterArgs,
        /// Directory where `configure` wrote update.json
        #[arg(
            long = "configured-dir",
            alias = "configured",
            value_name = "DIR",
            default_value = "/run/imagebuilder",
            env = "IMAGEBUILDER_AGENT_RUN_DIR"
        )]
        configured: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Update the agent from its signed channel
    Update(UpdateArgs),
}

#[derive(Args, Debug)]
struct DaemonArgs {
    /// Directory where the daemon writes status.json
    #[arg(
        long,
        alias = "run-dir",
        value_name = "DIR",
        default_value = "/run/imagebuilder-agent",
        env = "IMAGEBUILDER_AGENT_STATUS_DIR"
    )]
    daemon_dir: PathBuf,
}

#[derive(Args, Debug)]
struct UpdaterArgs {
    /// Directory where the updater writes status.json
    #[arg(
        long,
        alias = "update-dir",
        value_name = "DIR",
        default_value = layout::RUN,
        env = "IMAGEBUILDER_UPDATE_STATUS_DIR"
    )]
    updater_dir: PathBuf,
}

impl UpdaterArgs {
    /// The directory. The environment variable of earlier releases is read where the current one is not set.
    fn dir(self) -> PathBuf {
        match std::env::var_os("IMAGEBUILDER_AGENT_UPDATE_DIR") {
            Some(dir) if self.updater_dir == Path::new(layout::RUN) => dir.into(),
            _ => self.updater_dir,
        }
    }
}

impl Cli {
    /// The lowest severity that is logged.
    pub(crate) fn log_level(&self) -> tracing::Level {
        match self.log {
            Log::Error => tracing::Level::ERROR,
            Log::Warn => tracing::Level::WARN,
            Log::Info => tracing::Level::INFO,
            Log::Debug => tracing::Level::DEBUG,
        }
    }

    /// Runs the subcommand.
    pub(crate) fn dispatch(self) -> Result<Exit> {
        match self.command {
            Command::Configure {
                sources,
                configured,
                patience,
            } => block_on(async {
                let patience = Duration::from_secs(patience);
                let (sources, dir) = (sources.into_sources(), configured.configured_dir);
                let metadata: Box<dyn Metadata> = if sources.is_machine() {
                    Box::new(Machine)
                } else {
                    Box::new(Imds::new())
                };
                configure(&sources, &dir, &*metadata, patience).await?;
                Ok(Exit::Done)
            }),
            Command::Run {
                sources,
                daemon,
                updater,
            } => block_on(async {
                let mut term =
                    signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
                let mut int = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
                let stop = async move {
                    tokio::select! {
                        _ = term.recv() => {}
                        _ = int.recv() => {}
                    }
                };
                let updater = updater.dir().join(updater_status::FILE);
                let adapters = adapters(sources.into_sources(), updater);
                run::run(adapters, Box::new(Systemd), &daemon.daemon_dir, stop).await?;
                Ok(Exit::Done)
            }),
            Command::Update(update) => update.dispatch(),
            Command::RestartRequested {
                sources,
                daemon,
                state,
                systemctl,
            } => {
                restart::carry_out(
                    &sources.into_sources(),
                    &daemon.daemon_dir,
                    &state,
                    &systemctl,
                )?;
                Ok(Exit::Done)
            }
            Command::RunImageTests {
                daemon,
                list,
                results,
            } => block_on(async {
                test_runner::run(&list, &daemon.daemon_dir, &results).await?;
                Ok(Exit::Done)
            }),
            Command::Status {
                daemon,
                updater,
                configured,
                json,
            } => status::show(
                Places {
                    daemon: &daemon.daemon_dir,
                    updater: &updater.dir(),
                    configure: &configured,
                },
                if json { Form::Json } else { Form::Screen },
            ),
        }
    }
}

/// The daemon's adapters: AWS, or [`Machine`] where the settings say that there is no metadata service.
fn adapters(sources: Sources, updater: PathBuf) -> Adapters {
    if sources.is_machine() {
        return adapters_of(Arc::new(Machine), &Arc::new(Machine), sources, updater);
    }
    let (imds, meter, proxies) = (Imds::new(), Meter::default(), Proxies::default());
    let aws = Arc::new(Aws::new(imds.client(), proxies.clone(), meter.clone()));
    Adapters {
        proxies,
        meter,
        ..adapters_of(Arc::new(imds), &aws, sources, updater)
    }
}

fn adapters_of<A>(
    metadata: Arc<dyn Metadata>,
    aws: &Arc<A>,
    sources: Sources,
    updater: PathBuf,
) -> Adapters
where
    A: Group + Registry + Balancer + Sink + 'static,
{
    Adapters {
        metadata,
        group: aws.clone(),
        sink: aws.clone(),
        registry: aws.clone(),
        balancer: aws.clone(),
        host: Arc::new(Systemctl),
        health: Arc::new(Checks::default()),
        sources,
        proxies: Proxies::default(),
        updater,
        clock: Arc::new(Timestamp::now),
        meter: Meter::default(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parsed(arguments: &[&str]) -> Command {
        let all = std::iter::once(&"imagebuilder-agent").chain(arguments);
        Cli::try_parse_from(all).unwrap().command
    }

    /// What is accepted counts: a flag has one meaning, and an old name is the same flag.
    #[test]
    fn every_directory_has_one_flag_whatever_the_verb() {
        for flag in ["--updater-dir", "--update-dir"] {
            for verb in ["run", "status"] {
                let (Command::Run { updater, .. } | Command::Status { updater, .. }) =
                    parsed(&[verb, flag, "/x"])
                else {
                    panic!("{verb}");
                };
                assert_eq!(updater.dir(), Path::new("/x"), "{verb} {flag}");
            }
        }
        for flag in ["--daemon-dir", "--run-dir"] {
            for verb in ["run", "status", "restart-requested"] {
                let (Command::Run { daemon, .. }
                | Command::Status { daemon, .. }
                | Command::RestartRequested { daemon, .. }) = parsed(&[verb, flag, "/x"])
                else {
                    panic!("{verb}");
                };
                assert_eq!(daemon.daemon_dir, Path::new("/x"), "{verb} {flag}");
            }
        }
        for flag in ["--configured-dir", "--run-dir"] {
            let Command::Configure { configured, .. } = parsed(&["configure", flag, "/x"]) else {
                panic!("{flag}");
            };
            assert_eq!(configured.configured_dir, Path::new("/x"), "{flag}");
        }
    }

    /// No two flags of a verb for one thing, and no flag with two meanings among the verbs: by what they default to.
    #[test]
    fn a_flag_defaults_to_the_same_in_every_verb() {
        fn walk(
            command: &clap::Command,
            seen: &mut std::collections::BTreeMap<String, Vec<String>>,
        ) {
            for argument in command.get_arguments() {
                let Some(long) = argument.get_long().filter(|long| long.ends_with("-dir")) else {
                    continue;
                };
                let defaults = argument.get_default_values().iter();
                let defaults: Vec<String> = defaults
                    .map(|it| it.to_string_lossy().into_owned())
                    .collect();
                let known = seen
                    .entry(long.to_owned())
                    .or_insert_with(|| defaults.clone());
                assert_eq!(*known, defaults, "{} --{long}", command.get_name());
            }
            for command in command.get_subcommands() {
                walk(command, seen);
            }
        }
        let mut seen = std::collections::BTreeMap::new();
        walk(&Cli::command(), &mut seen);
        let names: Vec<&str> = seen.keys().map(String::as_str).collect();
        assert_eq!(names, ["configured-dir", "daemon-dir", "updater-dir"]);
        let defaults: std::collections::BTreeSet<&Vec<String>> = seen.values().collect();
        assert_eq!(
            defaults.len(),
            seen.len(),
            "two flags for one directory: {seen:?}"
        );
    }
}
