//! The two verbs: what each does with its flags, and the result it prints.

use std::collections::BTreeMap;
use std::path::Path;

use orders::settings::{RawSettings, Secret, Settings};

use crate::args::{CheckArgs, RunArgs};
use crate::audit::Source;
use crate::drive::Drive;
use crate::exit::Failure;
use crate::ledger::{self, Entries, Ledger, Run};
use crate::report::Report;

/// Places orders until time is up or a signal arrives.
pub(crate) async fn run(
    args: RunArgs,
    environment: &BTreeMap<String, String>,
) -> Result<(), Failure> {
    let plan = args.plan();
    let url = args.operator_token_file.is_some().then_some(&*args.url);
    let source = source(
        args.store,
        url,
        args.operator_token_file.as_deref(),
        environment,
    )?;
    let run = Run::new();
    let drive = Drive::new(plan, run.clone()).map_err(Failure::Usage)?;
    let ledger = Ledger::append_to(&args.ledger, &run).map_err(Failure::Usage)?;
    let report = drive.run(ledger).await?;
    if let Some(path) = &args.histogram {
        report.latency.write_to(path)?;
    }
    let Some(source) = source else {
        return conclude(&report, args.json);
    };
    let entries = ledger::read(&args.ledger)?.last_run();
    check_source(&source, &entries, report, args.json).await
}

/// Looks up every accepted order of a ledger.
pub(crate) async fn check(
    args: CheckArgs,
    environment: &BTreeMap<String, String>,
) -> Result<(), Failure> {
    let token = args.operator_token_file.as_deref();
    let source = source(args.store, args.url.as_deref(), token, environment)?;
    let entries = ledger::read(&args.ledger).map_err(Failure::Usage)?;
    let mut report = Report::default();
    report.placed = entries.acked.len() as u64;
    for reason in &entries.failed {
        report.fail(reason);
    }
    let Some(source) = source else {
        return conclude(&report, args.json);
    };
    check_source(&source, &entries, report, args.json).await
}

/// The source of orders that the flags name.
fn source(
    store: Option<String>,
    url: Option<&str>,
    token: Option<&Path>,
    environment: &BTreeMap<String, String>,
) -> Result<Option<Source>, Failure> {
    let source = match (store, url, token) {
        (Some(store), _, _) => store_settings(store, environment)
            .and_then(|settings| Source::store(&settings))
            .map_err(Failure::Usage)?,
        (None, Some(url), Some(token)) => {
            Secret::read("--operator-token-file", &token.to_string_lossy())
                .and_then(|token| Source::service(url, token))
                .map_err(Failure::Usage)?
        }
        _ => return Ok(None),
    };
    Ok(Some(source))
}

/// Checks the source and prints the result. The counts are printed even if the source does not respond.
async fn check_source(
    source: &Source,
    entries: &Entries,
    mut report: Report,
    json: bool,
) -> Result<(), Failure> {
    match source.check(entries).await {
        Ok(found) => {
            report.found = Some(found);
            conclude(&report, json)
        }
        Err(error) => {
            report.store_unavailable = true;
            report.print(json)?;
            Err(error.into())
        }
    }
}

fn conclude(report: &Report, json: bool) -> Result<(), Failure> {
    report.print(json)?;
    if !report.is_kept_once() {
        Err(Failure::Lost)
    } else if report.failed() > 0 {
        Err(Failure::Reported)
    } else {
        Ok(())
    }
}

fn store_settings(url: String, environment: &BTreeMap<String, String>) -> anyhow::Result<Settings> {
    let flags = RawSettings {
        store: Some(url),
        ..RawSettings::default()
    };
    Settings::load(flags, None, environment)
}
