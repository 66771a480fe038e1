//! The load generator and the check that follows it.
//!
//! `load` places orders open-loop and writes every accepted id into a ledger before it counts it;
//! `check` looks each of them up in the store. Together they prove "none failed, none lost, none
//! twice" about any service with this contract. Must not know the service's insides, only its HTTP and its
//! stores.

mod arrivals;
mod audit;
mod client;
mod drive;
mod ledger;
mod plan;
mod report;
mod view;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use clap::{Args, ValueEnum};

use crate::exit::Failure;
use crate::settings::{RawSettings, Secret, Settings};

use arrivals::Arrivals;
use audit::Source;
use drive::Drive;
use ledger::{Entries, Ledger, Run};
use plan::{Plan, Until};
use report::Report;

/// Connections at most, unless told otherwise: well below the 1024 files a process may have open.
const CONNECTIONS: usize = 256;

/// What `orders load` takes.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// Where the service is, for instance http://127.0.0.1:8080
    #[arg(long)]
    url: String,
    /// Rate and duration of a known load; each flag given wins
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// Orders per second, or per minute like 30/min, due at this rate however slowly the service
    /// answers [default: 5]
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// How orders come: fixed, poisson, or burst=N for N at once [default: fixed]
    #[arg(long, value_name = "HOW")]
    arrivals: Option<Arrivals>,
    /// How long: 90s, 5m, 1h, or until-stopped (by SIGINT or SIGTERM) [default: 60s]
    #[arg(long, value_parser = until)]
    duration: Option<Until>,
    /// File that every answer is appended to
    #[arg(long, value_name = "FILE")]
    ledger: PathBuf,
    /// How long one try of an order may take
    #[arg(long, default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Tries of an order beyond the first, under one Idempotency-Key
    #[arg(long, value_name = "N", default_value = "0")]
    retries: u32,
    /// Connections at most, and as many made beforehand [default: at most 256, made as needed]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    connections: Option<u16>,
    /// Flower to order
    #[arg(long, default_value = "spring_tulips")]
    flower: String,
    /// Write the distribution of latencies there, as HdrHistogram's plotter reads it
    #[arg(long, value_name = "FILE")]
    histogram: Option<PathBuf>,
    /// Check this load's orders against this store at the end
    #[arg(long, value_name = "URL", conflicts_with = "operator_token_file")]
    store: Option<String>,
    /// Check this load's orders by the service's own list at the end, as the operator whose token is
    /// in this file
    #[arg(long, value_name = "FILE")]
    operator_token_file: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// The loads by which the seed's flower shop was seen to grow and to shrink: it adds boxes above 30
/// orders a minute and removes them at 15 or fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Preset {
    /// 240 orders a minute for 5 minutes: above the 30 a minute at which the fleet grows
    HighDemand,
    /// 7.5 orders a minute for 5 minutes: below the 15 a minute at which it shrinks
    LowDemand,
}

impl Preset {
    /// Orders a second: what was measured of the seed's own load test, which paces itself.
    fn rate(self) -> f64 {
        match self {
            Self::HighDemand => 4.0,
            Self::LowDemand => 0.125,
        }
    }

    /// Several of the alarms' periods of 60 s.
    fn duration(self) -> Duration {
        Duration::from_secs(300)
    }
}

/// What `orders check` takes.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Ledger that `orders load` has written
    #[arg(long, value_name = "FILE")]
    ledger: PathBuf,
    /// Store that should have the orders, as `orders --store` has it
    #[arg(
        long,
        value_name = "URL",
        required_unless_present = "url",
        conflicts_with = "url"
    )]
    store: Option<String>,
    /// Service that should have the orders; its own list is read
    #[arg(long, value_name = "URL", requires = "operator_token_file")]
    url: Option<String>,
    /// File with the service's operator token
    #[arg(long, value_name = "FILE", requires = "url")]
    operator_token_file: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl LoadArgs {
    fn plan(&self) -> Plan {
        let preset = self.preset;
        Plan {
            url: self.url.clone(),
            rate: self.rate.or(preset.map(Preset::rate)).unwrap_or(5.0),
            arrivals: self.arrivals.unwrap_or(Arrivals::Fixed),
            until: self.duration.unwrap_or_else(|| {
                let duration = preset.map_or(Duration::from_secs(60), Preset::duration);
                Until::Elapsed(duration)
            }),
            timeout: self.timeout,
            flower: self.flower.clone(),
            retries: self.retries,
            connections: self.connections.map_or(CONNECTIONS, usize::from),
            warm: self.connections.is_some(),
        }
    }
}

/// Places orders until time is up or it is told to stop.
pub(crate) async fn load(
    args: LoadArgs,
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
    ask(&source, &entries, report, args.json).await
}

/// Looks every accepted order of the ledger up in the store.
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
    ask(&source, &entries, report, args.json).await
}

/// Where the flags say that orders are to be looked up.
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

/// Asks the store for the ledger's orders and concludes. What was counted before is told although
/// the store does not answer.
async fn ask(
    source: &Source,
    entries: &Entries,
    mut report: Report,
    json: bool,
) -> Result<(), Failure> {
    match source.look_for(entries).await {
        Ok(found) => {
            report.found = Some(found);
            conclude(&report, json)
        }
        Err(error) => {
            report.asked_in_vain = true;
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
        Err(Failure::Found)
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

fn rate(text: &str) -> anyhow::Result<f64> {
    let (number, seconds) = match text.split_once('/') {
        None | Some((_, "s")) => (text.trim_end_matches("/s"), 1.0),
        Some((number, "m" | "min")) => (number, 60.0),
        Some((number, "h")) => (number, 3600.0),
        Some(_) => bail!("a rate is per s, min or h, like 5/s or 30/min"),
    };
    match number.parse::<f64>() {
        Ok(number) if number > 0.0 && number / seconds <= 100_000.0 => Ok(number / seconds),
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
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: LoadArgs,
    }

    fn plan(flags: &[&str]) -> Plan {
        let given = [&["load", "--url", "http://shop", "--ledger", "l"], flags].concat();
        Line::try_parse_from(given).unwrap().args.plan()
    }

    #[test]
    fn a_preset_is_a_load_of_which_every_flag_changes_a_part() {
        let high = plan(&["--preset", "high-demand"]);
        assert!(high.rate * 60.0 > 30.0, "grows: {high:?}");
        let low = plan(&["--preset", "low-demand"]);
        assert!(low.rate * 60.0 < 15.0, "shrinks: {low:?}");
        for plan in [high, low] {
            assert_eq!(plan.until, Until::Elapsed(Duration::from_secs(300)));
            assert_eq!(plan.arrivals, Arrivals::Fixed);
        }
        let flags = ["--rate", "45/min", "--arrivals", "poisson", "--duration"];
        let changed = plan(&[&flags[..], &["2m", "--preset", "high-demand"]].concat());
        assert_eq!(changed.rate, 0.75);
        assert_eq!(changed.arrivals, Arrivals::Poisson);
        assert_eq!(changed.until, Until::Elapsed(Duration::from_secs(120)));

        let plain = plan(&[]);
        assert_eq!(
            (plain.rate, plain.connections, plain.warm),
            (5.0, 256, false)
        );
        let warm = plan(&["--connections", "8"]);
        assert_eq!((warm.connections, warm.warm), (8, true));
    }

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
        for (text, expected) in [("0.5", 0.5), ("5/s", 5.0), ("30/min", 0.5), ("1800/h", 0.5)] {
            assert_eq!(rate(text).unwrap(), expected, "{text}");
        }
        assert!(rate("5/day").is_err());
    }
}
