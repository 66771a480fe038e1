//! `update run | repair | probe`: the subcommands that systemd and an attempt start.

use agent_update::{RunResult, Updater, VerbInputs};
use anyhow::Result;

use super::RunArgs;
use crate::exit::Exit;
use crate::output;
use crate::restart;
use crate::status_file::StatusReader;

/// `update run`.
pub(super) async fn run(updater: &Updater, args: RunArgs) -> Result<Exit> {
    let flags = args.sources.arguments();
    let sources = args.sources.into_sources();
    let subject = sources.subject(&args.place.configured_dir)?;
    // If the settings cannot be read now, the verbs fail by themselves.
    let unit = sources
        .image_units()
        .ok()
        .and_then(|units| units.into_iter().next());
    let verbs = VerbInputs {
        flags,
        restart_request: unit.map(|unit| restart::request_file(&unit)),
    };
    let daemon = Box::new(StatusReader::new(&args.daemon_dir));
    Ok(match updater.run(subject, daemon, verbs).await? {
        RunResult::Done => Exit::Done,
        RunResult::Postponed => Exit::Postponed,
        RunResult::Failed => Exit::Skipped,
    })
}

/// `update repair`.
pub(super) async fn repair(updater: &Updater, args: RunArgs) -> Result<Exit> {
    let daemon = Box::new(StatusReader::new(&args.daemon_dir));
    let repaired = updater.repair(&args.place.configured_dir, daemon).await?;
    output::line(&format!("stable is {repaired}"));
    Ok(Exit::Done)
}

/// `update probe`.
pub(super) async fn probe(updater: &Updater, args: RunArgs) -> Result<Exit> {
    let sources = args.sources.into_sources();
    let subject = sources.subject(&args.place.configured_dir)?;
    output::line(&updater.probe(subject).await?);
    Ok(Exit::Done)
}
