//! What every command is given: its configuration, where to print, how to connect to the cloud, when to stop.
//!
//! Nothing is read or connected before a command needs it, so `init` works in an empty folder and `render` offline.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::config::Config;
use cloud::Cloud;
use run::advice::DEFAULT_FILE;
use run::cancel::Cancel;
use run::output::Output;

/// The folder beside the configuration that contains the runs.
const STATE: &str = ".imagebuilder";

/// Global options.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Configuration file.
    #[arg(
        long,
        short,
        global = true,
        value_name = "FILE",
        default_value = DEFAULT_FILE
    )]
    pub(crate) config: PathBuf,
    /// Print data as JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Append progress events to FILE, one JSON object per line.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) events: Option<PathBuf>,
}

/// What every command is given.
#[derive(Debug)]
pub(crate) struct Context {
    config_path: PathBuf,
    /// Where data and progress are printed.
    pub(crate) output: Output,
    /// When to stop.
    pub(crate) cancel: Cancel,
}

impl Context {
    /// Prepares streams and signal handling.
    pub(crate) fn new(global: &Global) -> anyhow::Result<Self> {
        Ok(Self {
            config_path: global.config.clone(),
            output: Output::new(global.json, global.events.as_deref())?,
            cancel: Cancel::on_signals()?,
        })
    }

    /// The path of the configuration.
    pub(crate) fn config_path(&self) -> &Path {
        &self.config_path
    }

    /// Reads and validates the configuration, for verbs to which the architecture does not matter.
    pub(crate) fn config(&self) -> anyhow::Result<Config> {
        Ok(self.configs()?.swap_remove(0))
    }

    /// Reads and validates the configuration: one for each architecture of the image, at least one.
    pub(crate) fn configs(&self) -> anyhow::Result<Vec<Config>> {
        Config::load(&self.config_path)
    }

    /// The folder the configuration's relative paths start from.
    pub(crate) fn root(&self) -> PathBuf {
        match self.config_path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        }
    }

    /// The folder of all runs, `.imagebuilder/runs` beside the configuration.
    pub(crate) fn runs(&self) -> PathBuf {
        self.state().join("runs")
    }

    /// The folder of this program's state beside the configuration.
    pub(crate) fn state(&self) -> PathBuf {
        self.root().join(STATE)
    }

    /// Connects to the cloud the configuration and the SDK's standard places name.
    pub(crate) async fn cloud(&self, config: &Config) -> anyhow::Result<Cloud> {
        let region = config.bake.region.as_deref();
        Ok(cloud::aws::connect(region)
            .await
            .map_err(run::exit::not_connected)?)
    }
}
