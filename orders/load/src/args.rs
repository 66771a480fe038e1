//! The flags of both verbs, and the plan they make.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, ValueEnum};

use crate::arrivals::Arrivals;
use crate::plan::{Plan, Until};

/// Default limit on connections: well below the 1024 files a process may open.
const CONNECTIONS: usize = 256;

/// Flags of `orders-load run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// URL of the service, such as http://127.0.0.1:8080
    #[arg(long)]
    pub(crate) url: String,
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
    pub(crate) ledger: PathBuf,
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
    pub(crate) histogram: Option<PathBuf>,
    /// Store to check this load's orders in afterwards
    #[arg(long, value_name = "URL", conflicts_with = "operator_token_file")]
    pub(crate) store: Option<String>,
    /// File with the operator token, to check this load's orders in the service's list afterwards
    #[arg(long, value_name = "FILE")]
    pub(crate) operator_token_file: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
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

/// Flags of `orders-load check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Ledger that `orders-load run` wrote
    #[arg(long, value_name = "FILE")]
    pub(crate) ledger: PathBuf,
    /// Store to check, as for `orders --store`
    #[arg(
        long,
        value_name = "URL",
        required_unless_present = "url",
        conflicts_with = "url"
    )]
    pub(crate) store: Option<String>,
    /// URL of the service whose list of orders to check
    #[arg(long, value_name = "URL", requires = "operator_token_file")]
    pub(crate) url: Option<String>,
    /// File with the service's operator token
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(crate) operator_token_file: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl RunArgs {
    /// What they ask for, with presets and defaults filled in.
    pub(crate) fn plan(&self) -> Plan {
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
        args: RunArgs,
    }

    fn plan(flags: &[&str]) -> Plan {
        let given = [&["run", "--url", "http://shop", "--ledger", "l"], flags].concat();
        Line::try_parse_from(given).unwrap().args.plan()
    }

    #[test]
    fn flags_override_a_preset() {
        let high = plan(&["--preset", "high-demand"]);
        assert!(high.rate * 60.0 > 30.0, "grows: {high:?}");
        let low = plan(&["--preset", "low-demand"]);
        assert!(low.rate * 60.0 < 15.0, "shrinks: {low:?}");
        for plan in [high, low] {
            let minutes = Until::Elapsed(Duration::from_secs(300));
            assert_eq!(
                (plan.until, plan.arrivals),
                (minutes, Arrivals::Fixed),
                "{plan:?}"
            );
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
