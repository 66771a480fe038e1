//! The load generator `orders load` and the check `orders check`.
//!
//! `load` places orders open-loop and writes every response into a ledger before it counts it; `check` looks
//! up each accepted order in the store. Together they show that no order failed, was lost or stored twice,
//! for any service with this contract. Must not depend on the service's internals, only on its HTTP contract
//! and its stores.

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

/// Default limit on connections: well below the 1024 files a process may open.
const CONNECTIONS: usize = 256;

/// Flags of `orders load`.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// URL of the service, such as http://127.0.0.1:8080
    #[arg(long)]
    url: String,
    /// Rate and duration of a predefined load; other flags override it
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// Orders per second, or per minute as in 30/min; the rate does not depend on responses [default: 5]
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// Distribution of orders: fixed, poisson, or burst=N for N at once [default: fixed]
    #[arg(long, value_name = "HOW")]
    arrivals: Option<Arrivals>,
    /// Duration: 90s, 5m, 1h, or until-stopped to run until SIGINT or SIGTERM [default: 60s]
    #[arg(long, value_parser = until)]
    duration: Option<Until>,
    /// File to append every response to
    #[arg(long, value_name = "FILE")]
    ledger: PathBuf,
    /// Time limit for each attempt of an order
    #[arg(long, default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Attempts after the first, all with one Idempotency-Key
    #[arg(long, value_name = "N", default_value = "0")]
    retries: u32,
    /// Connections to open in advance and at most [default: at most 256, opened when needed]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    connections: Option<u16>,
    /// Flower to order
    #[arg(long, default_value = "spring_tulips")]
    flower: String,
    /// File to write the latency distribution to, in HdrHistogram's plotter format
    #[arg(long, value_name = "FILE")]
    histogram: Option<PathBuf>,
    /// Store to check this load's orders in afterwards
    #[arg(long, value_name = "URL", conflicts_with = "operator_token_file")]
    store: Option<String>,
    /// File with the operator token, to check this load's orders in the service's list afterwards
    #[arg(long, value_name = "FILE")]
    operator_token_file: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// The loads that made the seed's flower shop grow and shrink: it adds instances above 30 orders a minute and
/// removes them at 15 or fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Preset {
    /// 240 orders a minute for 5 minutes: above the 30 a minute at which the fleet grows
    HighDemand,
    /// 7.5 orders a minute for 5 minutes: below the 15 a minute at which the fleet shrinks
    LowDemand,
}

impl Preset {
    /// Orders per second, measured on the seed's own load test, which sets its own pace.
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

/// Flags of `orders check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Ledger that `orders load` wrote
    #[arg(long, value_name = "FILE")]
    ledger: PathBuf,
    /// Store to check, as for `orders --store`
    #[arg(
        long,
        value_name = "URL",
        required_unless_present = "url",
        conflicts_with = "url"
    )]
    store: Option<String>,
    /// URL of the service whose list of orders to check
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

/// Places orders until time is up or a signal arrives.
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

fn rate(text: &str) -> anyhow::Result<f64> {
    let (number, seconds) = match text.split_once('/') {
        None | Some((_, "s")) => (text.trim_end_matches("/s"), 1.0),
        Some((number, "m" | "min")) => (number, 60.0),
        Some((number, "h")) => (number, 3600.0),
        Some(_) => bail!("unknown unit of the rate\nhint: use s, min or h, as in 5/s or 30/min"),
    };
    match number.parse::<f64>() {
        Ok(number) if number > 0.0 && number / seconds <= 100_000.0 => Ok(number / seconds),
        _ => bail!("the rate must be above 0 and at most 100000 orders per second"),
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
        _ => bail!("the time needs a unit\nhint: use ms, s, m or h, as in 90s"),
    };
    match digits.parse::<f64>() {
        Ok(number) if number > 0.0 && number * seconds <= 1e9 => {
            Ok(Duration::from_secs_f64(number * seconds))
        }
        _ => bail!("the time must be above 0\nhint: write it as in 500ms, 90s, 5m or 1h"),
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
    fn flags_override_a_preset() {
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
    fn times_and_rates_are_parsed() {
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
