//! `imagebuilder-agent update …`: the subcommands of systemd's units and of operators.
//!
//! Arguments and output only: [`Updater`] does the work.

mod now;
mod run;

use std::path::{Path, PathBuf};

use agent_update::Updater;
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use semver::Version;

use crate::arguments::{ConfiguredArgs, SourceArgs};
use crate::exit::Exit;
use crate::output;
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
        #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
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
        let updater = Updater::new(&self.root);
        let overrides = |verb: &str, place: &ConfiguredArgs| {
            must_be_root(&self.root, verb)?;
            updater.overrides(&place.configured_dir, output::line)
        };
        match self.verb {
            Verb::Now(place) => {
                let overrides = overrides("now", &place)?;
                now::followed(&place.configured_dir)?;
                overrides.request_now(Timestamp::now())?;
                return block_on(now::now(&updater));
            }
            Verb::Hold {
                period,
                reason,
                place,
            } => overrides("hold", &place)?.hold(period, &reason, Timestamp::now())?,
            Verb::Release(place) => overrides("release", &place)?.release()?,
            Verb::Pin { version, place } => overrides("pin", &place)?.pin(version)?,
            Verb::Forgive { version, place } => {
                overrides("forgive", &place)?.forgive(version, Timestamp::now())?;
            }
            Verb::Run(args) => return block_on(run::run(&updater, args)),
            Verb::Repair(args) => return block_on(run::repair(&updater, args)),
            Verb::Probe(args) => return block_on(run::probe(&updater, args)),
        }
        Ok(Exit::Done)
    }
}

/// On the instance itself root is required; in another directory tree its permissions decide.
fn must_be_root(root: &Path, verb: &str) -> Result<()> {
    if root != Path::new("/") || rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!("update {verb} requires root\nhint: sudo imagebuilder-agent update {verb}")
}

/// `90m`, `8h`, `2d`.
fn duration(text: &str) -> Result<SignedDuration, String> {
    let wrong = || "use a whole number followed by m, h or d, such as 8h".to_owned();
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let minutes = match unit {
        'm' => 1,
        'h' => 60,
        'd' => 24 * 60,
        _ => return Err(wrong()),
    };
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|c| c.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u32 = digits.parse().map_err(|_| wrong())?;
    if number == 0 {
        return Err(wrong());
    }
    Ok(SignedDuration::from_mins(i64::from(number) * minutes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_whole_numbers_with_a_unit() {
        for (text, minutes) in [("90m", 90), ("8h", 480), ("2d", 2880)] {
            assert_eq!(
                duration(text),
                Ok(SignedDuration::from_mins(minutes)),
                "{text}"
            );
        }
        for text in [
            "",
            "8",
            "h",
            "0h",
            "-1h",
            "+1h",
            "1.5h",
            "8 h",
            "8s",
            "8ħ",
            "99999999999h",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
