//! The open loop: an order is due every `1/rate` seconds, whether or not earlier ones are
//! answered, and its latency counts from when it was due. A service that stalls is thus charged
//! with every order that came due meanwhile, as its customers would.

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::ledger::{Answer, Ledger};
use super::report::Report;
use crate::aws;

/// Orders under way at once. When the service is so far behind, further ones count as failed
/// without being sent, so that the generator's memory stays bounded.
const UNDER_WAY: usize = 10_000;
/// Answers written to the ledger in one go.
const BATCH: usize = 1000;
/// Time between two status lines on a terminal, and in a pipe.
const LIVE: Duration = Duration::from_secs(1);
const PLAIN: Duration = Duration::from_secs(10);

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// After this long.
    Elapsed(Duration),
    /// When told by a signal.
    Stopped,
}

/// A load about to be driven.
#[derive(Debug)]
pub(crate) struct Drive {
    client: Client,
    url: String,
    rate: f64,
    until: Until,
    flower: String,
}

/// One answer and how long it took from when the order was due.
struct Answered {
    answer: Answer,
    latency: Duration,
}

impl Drive {
    /// A load of `rate` orders a second on the service at `url`.
    pub(crate) fn new(
        url: &str,
        rate: f64,
        until: Until,
        timeout: Duration,
        flower: &str,
    ) -> anyhow::Result<Self> {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            bail!("the URL {url:?} has no scheme; hint: write http://127.0.0.1:8080");
        }
        let base = url.trim_end_matches('/').trim_end_matches("/order");
        let url = format!("{base}/order");
        reqwest::Url::parse(&url).with_context(|| format!("the URL {url:?} cannot be read"))?;
        Ok(Self {
            client: aws::client(&url, timeout)?,
            url,
            rate,
            until,
            flower: flower.to_owned(),
        })
    }

    /// Drives until time is up or a signal comes; then waits for the answers still under way.
    pub(crate) async fn run(self, mut ledger: Ledger) -> anyhow::Result<Report> {
        let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
        let (answers, mut answered) = mpsc::unbounded_channel();
        let start = Instant::now();
        let schedule = async {
            tokio::select! {
                () = self.schedule(start, answers) => {}
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let record = async {
            let mut report = Report::default();
            let mut status = Status::new(start);
            let mut batch = Vec::new();
            loop {
                tokio::select! {
                    count = answered.recv_many(&mut batch, BATCH) => {
                        if count == 0 {
                            break;
                        }
                        ledger = enter(ledger, batch.drain(..), &mut report).await?;
                    }
                    () = status.due() => status.show(&report),
                }
            }
            status.show(&report);
            status.end();
            anyhow::Ok(report)
        };
        // `schedule` drops its sender when it ends, and each order its own when it is answered, so
        // `record` ends exactly when every answer is written down.
        let ((), report) = tokio::join!(schedule, record);
        report
    }

    async fn schedule(&self, start: Instant, answers: mpsc::UnboundedSender<Answered>) {
        let places = Arc::new(Semaphore::new(UNDER_WAY));
        for number in 0_u64.. {
            let offset = Duration::from_secs_f64(number as f64 / self.rate);
            if matches!(self.until, Until::Elapsed(limit) if offset >= limit) {
                return;
            }
            let due = start + offset;
            sleep_until(due).await;
            let answers = answers.clone();
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                let answer = Err(format!("more than {UNDER_WAY} orders under way; not sent"));
                // The receiver outlives the senders, unless the ledger failed, which ends the run.
                let _ = answers.send(Answered {
                    answer,
                    latency: due.elapsed(),
                });
                continue;
            };
            let request = self.order(number);
            tokio::spawn(async move {
                let answer = place_order(request).await;
                let _ = answers.send(Answered {
                    answer,
                    latency: due.elapsed(),
                });
                drop(place);
            });
        }
    }

    /// An order as the shop's own page sends it.
    fn order(&self, number: u64) -> reqwest::RequestBuilder {
        let order = serde_json::json!({
            "name": format!("Load {number}"),
            "address": format!("{number} Generator Lane"),
            "flower": self.flower,
        });
        let request = self.client.post(&self.url);
        request
            .header("content-type", "application/json")
            .body(order.to_string())
    }
}

/// Writes answers down, then counts them. The disk is waited for on a thread of its own, so that
/// the schedule does not wait for it.
async fn enter(
    mut ledger: Ledger,
    answered: impl Iterator<Item = Answered>,
    report: &mut Report,
) -> anyhow::Result<Ledger> {
    let mut answers = Vec::new();
    for Answered { answer, latency } in answered {
        report.took(latency);
        answers.push(answer);
    }
    let (ledger, answers) = tokio::task::spawn_blocking(move || {
        ledger.write(&answers)?;
        anyhow::Ok((ledger, answers))
    })
    .await??;
    for answer in answers {
        match answer {
            Ok(_) => report.place(),
            Err(reason) => report.fail(reason),
        }
    }
    Ok(ledger)
}

/// Sends one order; success is a 200 with an id, nothing else.
async fn place_order(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.map_err(|error| reason(&error))?;
    let status = response.status();
    if status != reqwest::StatusCode::OK {
        return Err(format!("status {}", status.as_u16()));
    }
    let body = response.bytes().await.map_err(|error| reason(&error))?;
    serde_json::from_slice::<serde_json::Value>(&body)
        .ok()
        .and_then(|body| body.get("id")?.as_str().map(str::to_owned))
        .ok_or_else(|| "status 200 without an id".to_owned())
}

/// Why a request failed: the last cause, which names it, without the URL and the port, which
/// would make every reason a different one.
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "timed out".to_owned();
    }
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let step = if error.is_connect() {
        "connect"
    } else {
        "request"
    };
    format!("{step}: {cause}")
}

/// The status line: rewritten in place on a terminal, a plain line now and then elsewhere.
struct Status {
    start: Instant,
    ticks: tokio::time::Interval,
    live: bool,
}

impl Status {
    fn new(start: Instant) -> Self {
        let live = std::io::stderr().is_terminal();
        let mut ticks = interval(if live { LIVE } else { PLAIN });
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        ticks.reset();
        Self { start, ticks, live }
    }

    async fn due(&mut self) {
        self.ticks.tick().await;
    }

    fn show(&self, report: &Report) {
        let line = format!(
            "{:>5.0} s  placed {}  failed {}  p50 {:.1} ms  p99 {:.1} ms",
            self.start.elapsed().as_secs_f64(),
            report.placed,
            report.failed(),
            report.millis(0.5),
            report.millis(0.99),
        );
        // A closed stderr must not end the load.
        let _ = if self.live {
            write!(std::io::stderr(), "\r\x1b[K{line}")
        } else {
            writeln!(std::io::stderr(), "{line}")
        };
    }

    fn end(&self) {
        if self.live {
            let _ = writeln!(std::io::stderr());
        }
    }
}
