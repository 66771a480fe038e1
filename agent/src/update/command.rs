//! `imagebuilder-agent update …`: what systemd runs, and what an operator says.
//!
//! Arguments only; the verbs are elsewhere: `run` and `repair` in [`super::attempt`], the operator's in here.

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
    /// Find everything of the updater's below this directory.
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
    /// Look at the channel now, and follow what comes of it.
    ///
    /// Starts the updater as its timer does: hold, pin, windows and waves count as ever, pauses after
    /// attempts that failed do not.
    Now(ConfiguredArgs),
    /// Take no update until released; only the channel's floor overrides it.
    Hold {
        /// End by itself after this long: 90m, 8h, 2d.
        #[arg(long = "for", value_name = "DURATION", value_parser = overrides::duration)]
        period: Option<SignedDuration>,
        /// Why, for whoever asks for the status.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
        #[command(flatten)]
        place: ConfiguredArgs,
    },
    /// End hold and pin.
    Release(ConfiguredArgs),
    /// Take exactly this version, older or newer, and stay with it.
    Pin {
        /// The version.
        version: Version,
        #[command(flatten)]
        place: ConfiguredArgs,
    },
    /// Forget what failed on this host with this version, and try it again.
    Forgive {
        /// The version.
        version: Version,
        #[command(flatten)]
        place: ConfiguredArgs,
    },
    /// Run one attempt, from a look at the channel to the commit. What the timer starts.
    Run(RunArgs),
    /// Re-establish a stable version that can run. What systemd starts when the agent keeps failing.
    Repair(RunArgs),
    /// Test whether this very binary could update this instance again. What an attempt runs.
    Probe(RunArgs),
}

/// Where the verbs that act find what they go by.
#[derive(Args, Debug)]
struct RunArgs {
    #[command(flatten)]
    sources: SourceArgs,
    #[command(flatten)]
    place: ConfiguredArgs,
    /// Where the daemon keeps status.json.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/run/imagebuilder-agent",
        env = "IMAGEBUILDER_AGENT_STATUS_DIR"
    )]
    daemon_dir: PathBuf,
}

impl UpdateArgs {
    /// Runs the verb.
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

/// The instance is root's; a tree elsewhere is whoever's it is.
fn must_be_root(root: &Path, verb: &str) -> Result<()> {
    if root != Path::new("/") || rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!("update {verb} is root's\nhint: sudo imagebuilder-agent update {verb}")
}
