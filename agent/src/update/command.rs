//! `imagebuilder-agent update …`: the subcommands of systemd's units and of operators.
//!
//! Arguments only; `run` and `repair` are in [`super::attempt`], the operator's subcommands in the modules below.

mod now;
mod overrides;
mod run;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use contract::layout;
use jiff::{SignedDuration, Timestamp};
use semver::Version;

use self::overrides::OperatorOverride;
use super::slots::Layout;
use crate::arguments::{ConfiguredArgs, SourceArgs};
use crate::exit::Exit;
use crate::runtime::block_on;

/// `update`.
#[derive(Args, Debug)]
pub(crate) struct UpdateArgs {
    /// Directory that contains all files of the updater
    #[arg(
        long,
        global = true,
        hide = true,
        value_name = "DIR",
        default_value = "/",
        env = "IMAGEBUILDER_UPDATE_ROOT"
    )]
    root: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Check the channel now, and report the result
    ///
    /// Starts the updater as its timer does: hold, pin, windows and waves apply, pauses after failed attempts do not.
    Now(ConfiguredArgs),
    /// Take no update until released, except those that the channel's floor requires
    Hold {
        /// End the hold after this time: 90m, 8h or 2d [default: until released]
        #[arg(long = "for", value_name = "DURATION", value_parser = overrides::duration)]
        period: Option<SignedDuration>,
        /// Reason, printed by `status`
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
        #[command(flatten)]
        place: ConfiguredArgs,
    },
    /// End a hold and a pin
    Release(ConfiguredArgs),
    /// Take exactly this version, older or newer, and keep it
    Pin {
        /// The version
        version: Version,
        #[command(flatten)]
        place: ConfiguredArgs,
    },
    /// Forget the failures of this version on this host, and try it again
    Forgive {
        /// The version
        version: Version,
        #[command(flatten)]
        place: ConfiguredArgs,
    },
    /// Run one attempt, from checking the channel to the commit. Started by the timer.
    Run(RunArgs),
    /// Go back to a stable version that can run. Started by systemd when the agent keeps failing.
    Repair(RunArgs),
    /// Test whether this binary could update this instance again. Run by an attempt.
    Probe(RunArgs),
}

/// The files of the subcommands that act.
#[derive(Args, Debug)]
struct RunArgs {
    #[command(flatten)]
    sources: SourceArgs,
    #[command(flatten)]
    place: ConfiguredArgs,
    /// Directory where the daemon writes status.json
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/run/imagebuilder-agent",
        env = "IMAGEBUILDER_AGENT_STATUS_DIR"
    )]
    daemon_dir: PathBuf,
}

impl UpdateArgs {
    /// Runs the subcommand.
    pub(crate) fn dispatch(self) -> Result<Exit> {
        let layout = below(&self.root);
        match self.verb {
            Verb::Now(place) => {
                must_be_root(&self.root, "now")?;
                now::followed(&place.configured_dir)?;
                OperatorOverride::open(&layout, &place.configured_dir)?
                    .request_now(Timestamp::now())?;
                block_on(now::now(&layout.run))
            }
            Verb::Hold {
                period,
                reason,
                place,
            } => {
                must_be_root(&self.root, "hold")?;
                OperatorOverride::open(&layout, &place.configured_dir)?.hold(
                    period,
                    &reason,
                    Timestamp::now(),
                )
            }
            Verb::Release(place) => {
                must_be_root(&self.root, "release")?;
                OperatorOverride::open(&layout, &place.configured_dir)?.release()
            }
            Verb::Pin { version, place } => {
                must_be_root(&self.root, "pin")?;
                OperatorOverride::open(&layout, &place.configured_dir)?.pin(version)
            }
            Verb::Forgive { version, place } => {
                must_be_root(&self.root, "forgive")?;
                OperatorOverride::open(&layout, &place.configured_dir)?
                    .forgive(version, Timestamp::now())
            }
            Verb::Run(args) => block_on(run::run(layout, &self.root, args)),
            Verb::Repair(args) => block_on(run::repair(layout, &self.root, args)),
            Verb::Probe(args) => block_on(run::probe(layout, args)),
        }
    }
}

/// The image's layout below `root`.
fn below(root: &Path) -> Layout {
    let at = |path: &str| root.join(path.trim_start_matches('/'));
    Layout {
        factory: at(layout::FACTORY),
        slots: at(layout::SLOTS),
        channel: at(layout::CHANNEL),
        state: at(layout::STATE),
        run: at(layout::RUN),
    }
}

/// On the instance itself root is required; in another directory tree its permissions decide.
fn must_be_root(root: &Path, verb: &str) -> Result<()> {
    if root != Path::new("/") || rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!("update {verb} requires root\nhint: sudo imagebuilder-agent update {verb}")
}
