//! The load generator and the check that follows it.
//!
//! `load` places orders open-loop and writes every accepted id into a ledger before it counts it;
//! `check` looks each of them up in the store. Together they prove "none failed, none lost" about
//! any service with this contract. Must not know the service's insides, only its HTTP and its
//! stores.

mod drive;
mod ledger;
mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::cli::Failure;
use crate::order::OrderId;
use crate::settings::{RawSettings, Settings};
use crate::store;

use drive::{Drive, Until};
use ledger::Ledger;
use report::{Found, Report};

/// Look-ups at once: enough to hide a store's latency, too few to be a load of their own.
const LOOKUPS: usize = 16;

/// What `orders load` takes.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// Where the service is, for instance http://127.0.0.1:8080
    #[arg(long)]
    url: String,
    /// Orders per second, placed at this rate however slowly the service answers
    #[arg(long, default_value = "5", value_parser = rate)]
    rate: f64,
    /// How long: 90s, 5m, 1h, or until-stopped (by SIGINT or SIGTERM)
    #[arg(long, default_value = "60s", value_parser = until)]
    duration: Until,
    /// File that every answer is appended to
    #[arg(long, value_name = "FILE")]
    ledger: PathBuf,
    /// How long one order may take
    #[arg(long, default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Flower to order
    #[arg(long, default_value = "spring_tulips")]
    flower: String,
    /// Check the ledger against this store at the end
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What `orders check` takes.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Ledger that `orders load` has written
    #[arg(long, value_name = "FILE")]
    ledger: PathBuf,
    /// Store that should have the orders: file:///folder or s3://bucket/prefix
    #[arg(long, value_name = "URL")]
    store: String,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Places orders until time is up or it is told to stop.
pub(crate) async fn load(
    args: LoadArgs,
    environment: &BTreeMap<String, String>,
) -> Result<(), Failure> {
    let settings = args
        .store
        .map(|url| store_settings(url, environment))
        .transpose()?;
    let drive = Drive::new(
        &args.url,
        args.rate,
        args.duration,
        args.timeout,
        &args.flower,
    )
    .map_err(Failure::Usage)?;
    let ledger = Ledger::append_to(&args.ledger).map_err(Failure::Usage)?;
    let mut report = drive.run(ledger).await?;
    if let Some(settings) = settings {
        report.found = Some(look_up(&args.ledger, &settings).await?);
    }
    conclude(&report, args.json)
}

/// Looks every accepted order of the ledger up in the store.
pub(crate) async fn check(
    args: CheckArgs,
    environment: &BTreeMap<String, String>,
) -> Result<(), Failure> {
    let settings = store_settings(args.store, environment)?;
    let entries = ledger::read(&args.ledger).map_err(Failure::Usage)?;
    let mut report = Report::default();
    report.placed = entries.acked.len() as u64;
    for reason in entries.failed {
        report.fail(reason);
    }
    report.found = Some(look_up(&args.ledger, &settings).await?);
    conclude(&report, args.json)
}

fn conclude(report: &Report, json: bool) -> Result<(), Failure> {
    report.print(json)?;
    if report.is_good() {
        Ok(())
    } else {
        Err(Failure::Found)
    }
}

fn store_settings(
    url: String,
    environment: &BTreeMap<String, String>,
) -> Result<Settings, Failure> {
    let flags = RawSettings {
        store: Some(url),
        ..RawSettings::default()
    };
    Settings::load(flags, None, environment).map_err(Failure::Usage)
}

/// How many of the ledger's orders the store has. Two answers with one id are one order: the
/// second is lost.
async fn look_up(ledger: &Path, settings: &Settings) -> anyhow::Result<Found> {
    let acked = ledger::read(ledger)?.acked;
    let mut distinct = acked.clone();
    distinct.sort();
    distinct.dedup();
    let store = store::open(settings)?;
    store
        .probe()
        .await
        .with_context(|| format!("the store {} does not answer", settings.store))?;
    let missing: Vec<Option<String>> = stream::iter(distinct.iter().cloned())
        .map(|text| async {
            let Ok(id) = text.parse::<OrderId>() else {
                return Ok(Some(text));
            };
            let order = store
                .get(id)
                .await
                .with_context(|| format!("look up order {id}"))?;
            anyhow::Ok(order.is_none().then_some(text))
        })
        .buffer_unordered(LOOKUPS)
        .try_collect()
        .await?;
    store.close().await;
    let missing: Vec<String> = missing.into_iter().flatten().collect();
    let found = (distinct.len() - missing.len()) as u64;
    Ok(Found {
        found,
        lost: acked.len() as u64 - found,
        missing,
    })
}

fn rate(text: &str) -> anyhow::Result<f64> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 100_000.0 => Ok(rate),
        _ => bail!("the rate is a number of orders per second, above 0, at most 100000"),
    }
}

fn until(text: &str) -> anyhow::Result<Until> {
    if text == "until-stopped" {
        return Ok(Until::Stopped);
    }
    duration(text).map(Until::Elapsed)
}

fn duration(text: &str) -> anyhow::Result<Duration> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let seconds = match &text[digits.len()..] {
        "s" => 1.0,
        "ms" => 0.001,
        "m" => 60.0,
        "h" => 3600.0,
        _ => bail!("a time is a number with its unit, like 500ms, 90s, 5m or 1h"),
    };
    match digits.parse::<f64>() {
        Ok(number) if number > 0.0 && number * seconds <= 1e9 => {
            Ok(Duration::from_secs_f64(number * seconds))
        }
        _ => bail!("a time is a number above 0 with its unit, like 500ms, 90s, 5m or 1h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_times_and_rates() {
        assert_eq!(duration("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("1.5m").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(until("until-stopped").unwrap(), Until::Stopped);
        for wrong in ["", "s", "90", "-1s", "0s", "1d", "1e99h", "ns"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        for wrong in ["0", "-1", "NaN", "inf", "x"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
        assert!(rate("0.5").is_ok());
    }
}
