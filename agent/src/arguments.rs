//! Flags that several subcommands share.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::settings::Sources;

#[derive(Args, Debug)]
pub(crate) struct SourceArgs {
    /// The image's settings file
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/imagebuilder/agent.toml",
        env = "IMAGEBUILDER_AGENT_SETTINGS"
    )]
    settings: PathBuf,
    /// Directory of drop-in files that override the image's settings, read in the order of their names
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/etc/imagebuilder/agent.d",
        env = "IMAGEBUILDER_AGENT_DROP_INS"
    )]
    drop_ins: PathBuf,
}

impl SourceArgs {
    /// The flags that pass the same settings to another invocation of this program.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        vec![
            "--settings".into(),
            self.settings.clone().into(),
            "--drop-ins".into(),
            self.drop_ins.clone().into(),
        ]
    }

    /// The paths as the settings module takes them.
    pub(crate) fn into_sources(self) -> Sources {
        Sources {
            file: self.settings,
            drop_ins: self.drop_ins,
        }
    }
}

/// The directory that `configure` writes. One directory has one flag in every subcommand; `--run-dir`, which named
/// two directories, is still accepted where it was.
#[derive(Args, Debug)]
pub(crate) struct ConfiguredArgs {
    /// Directory where `configure` writes the services' environment files and update.json
    #[arg(
        long,
        alias = "run-dir",
        value_name = "DIR",
        default_value = "/run/imagebuilder",
        env = "IMAGEBUILDER_AGENT_RUN_DIR"
    )]
    pub(crate) configured_dir: PathBuf,
}
