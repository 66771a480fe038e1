//! Flags that several subcommands share.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::settings::Sources;

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

/// Where `configure` leaves what it makes. One directory has one flag, whatever the verb; `--run-dir`, which named
/// two of them, is still read where it was.
#[derive(Args, Debug)]
pub(crate) struct ConfiguredArgs {
    /// Where `configure` leaves the services' environments and update.json.
    #[arg(
        long,
        alias = "run-dir",
        value_name = "DIR",
        default_value = "/run/imagebuilder",
        env = "IMAGEBUILDER_AGENT_RUN_DIR"
    )]
    pub(crate) configured_dir: PathBuf,
}
