//! The open loop: orders are due by a schedule, whether or not earlier ones were answered, and each latency
//! counts from the due time. So a service that stalls is charged with every order that came due meanwhile, as
//! its customers would be.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, sleep_until};

use crate::audit::{NO_ID, NUMBER_FIELD, RUN_FIELD};
use crate::client::{Client, Reply, RequestError};
use crate::ledger::{Answer, Ledger, Run};
use crate::plan::{Plan, Until};
use crate::report::Report;
use crate::view::View;

/// Orders in progress. When the service is this far behind, further ones count as failed without being sent,
/// which limits the generator's memory.
const UNDER_WAY: usize = 10_000;
/// Responses written to the ledger at once.
const BATCH: usize = 10_000;
/// Responses that arrive within this time are written and counted together, at a fraction of the cost.
const GATHER: Duration = Duration::from_millis(20);
/// Connections opened in advance by default: enough for the orders due in this time, in seconds.
const WARM: f64 = 0.05;
/// The wait before the second attempt; doubles with each further one, up to the maximum.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A load that is ready to run.
pub(crate) struct Drive {
    plan: Plan,
    run: Run,
    client: Arc<Client>,
    /// The flower as JSON.
    flower: String,
}

/// The outcome of one order.
struct Answered {
    number: u64,
    answer: Answer,
    /// Time since the order was due.
    latency: Duration,
    /// Time since it was last sent; `None` if it never was.
    service: Option<Duration>,
    retried: u32,
    replayed: bool,
}

impl Drive {
    /// A load with this plan; its orders contain the run's id.
    pub(crate) fn new(plan: Plan, run: Run) -> anyhow::Result<Self> {
        Ok(Self {
            client: Arc::new(Client::new(&plan.url, plan.connections, plan.timeout)?),
            flower: serde_json::to_string(&plan.flower)?,
            plan,
            run,
        })
    }

    /// Places orders until time is up or a signal arrives, then waits for outstanding responses.
    pub(crate) async fn run(self, mut ledger: Ledger) -> anyhow::Result<Report> {
        let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
        self.client.warm_up(self.warm_connections()).await;
        let (answers, mut answered) = mpsc::unbounded_channel();
        let start = Instant::now();
        let mut view = View::new(&self.plan, &self.run, start);
        let due = view.due_counter();
        let schedule = async {
            tokio::select! {
                () = self.schedule(start, answers, &due) => {}
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let record = async {
            let mut report = Report::default();
            let mut batch = Vec::new();
            loop {
                tokio::select! {
                    count = answered.recv_many(&mut batch, BATCH) => {
                        if count == 0 {
                            break;
                        }
                        (ledger, batch) = record_batch(ledger, batch).await?;
                        for answered in batch.drain(..) {
                            view.record(answered.latency);
                            count_in(&mut report, answered);
                        }
                        sleep(GATHER).await;
                    }
                    () = view.next() => view.show(&report),
                }
            }
            view.show(&report);
            view.end();
            tokio::task::spawn_blocking(move || ledger.sync()).await??;
            anyhow::Ok(report)
        };
        // `schedule` drops its sender when it ends, and each order its own when it is answered, so `record`
        // ends exactly when every response is recorded.
        let ((), report) = tokio::join!(schedule, record);
        report
    }

    fn warm_connections(&self) -> usize {
        let connections = self.plan.connections;
        if self.plan.warm {
            return connections;
        }
        ((self.plan.rate * WARM).ceil() as usize).clamp(1, connections)
    }

    async fn schedule(
        &self,
        start: Instant,
        answers: mpsc::UnboundedSender<Answered>,
        due_so_far: &std::sync::atomic::AtomicU64,
    ) {
        let permits = Arc::new(Semaphore::new(UNDER_WAY));
        let schedule = self.plan.arrivals.at(self.plan.rate, fastrand::Rng::new());
        for (number, offset) in (0_u64..).zip(schedule) {
            if matches!(self.plan.until, Until::Elapsed(limit) if offset >= limit) {
                return;
            }
            let due = start + offset;
            // The timer has a resolution of a millisecond; orders due in the same one need no wait.
            if due > Instant::now() {
                sleep_until(due).await;
            }
            due_so_far.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let answers = answers.clone();
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                let answer = Err(format!(
                    "more than {UNDER_WAY} orders in progress; not sent"
                ));
                // The receiver outlives the senders, unless the ledger failed, which ends the run.
                let _ = answers.send(Answered {
                    number,
                    answer,
                    latency: due.elapsed(),
                    service: None,
                    retried: 0,
                    replayed: false,
                });
                continue;
            };
            let order = Order {
                number,
                body: self.order(number),
                key: (self.plan.retries > 0).then(|| format!("{}-{number}", self.run.id)),
                tries_left: self.plan.retries,
            };
            let client = Arc::clone(&self.client);
            tokio::spawn(async move {
                let _ = answers.send(order.place(&client, due).await);
                drop(permit);
            });
        }
    }

    /// An order like those of the shop page, plus the marks for the check.
    fn order(&self, number: u64) -> Bytes {
        let (flower, run) = (&self.flower, &self.run.id);
        format!(
            r#"{{"name":"Load {number}","address":"{number} Generator Lane","flower":{flower},"{RUN_FIELD}":"{run}","{NUMBER_FIELD}":{number}}}"#
        )
        .into()
    }
}

/// An order to be placed.
struct Order {
    number: u64,
    body: Bytes,
    key: Option<String>,
    tries_left: u32,
}

impl Order {
    async fn place(self, client: &Client, due: Instant) -> Answered {
        let mut sent = due;
        let mut retried = 0;
        let mut wait = FIRST_WAIT;
        loop {
            let reply = client
                .post(self.body.clone(), self.key.as_deref(), &mut sent)
                .await;
            let again = retried < self.tries_left && is_worth_a_retry(&reply);
            if !again {
                let never_sent = matches!(reply, Err(RequestError::Busy));
                return Answered {
                    number: self.number,
                    replayed: reply.as_ref().is_ok_and(|reply| reply.replayed),
                    answer: answer_of(reply),
                    latency: due.elapsed(),
                    service: (!never_sent).then(|| sent.elapsed()),
                    retried,
                };
            }
            retried += 1;
            let requested = reply.ok().and_then(|reply| reply.retry_after);
            // Randomised, so that orders that failed together do not return together.
            let spread = wait.mul_f64(0.5 + fastrand::f64() / 2.0);
            sleep(requested.unwrap_or(spread).min(LONGEST_WAIT)).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }
}

/// Whether another attempt may succeed: the service reported so, or did not respond.
fn is_worth_a_retry(reply: &Result<Reply, RequestError>) -> bool {
    match reply {
        Err(_) => true,
        Ok(reply) => matches!(reply.status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504),
    }
}

/// Any 2xx status is success, whichever service returns it. Without an id in the response it is [`NO_ID`],
/// and the check recognises the order by its marks.
fn answer_of(reply: Result<Reply, RequestError>) -> Answer {
    let reply = reply.map_err(|error| error.to_string())?;
    if !reply.status.is_success() {
        return Err(format!("status {}", reply.status.as_u16()));
    }
    #[derive(serde::Deserialize)]
    struct Received {
        id: String,
    }
    let received = serde_json::from_slice(&reply.body);
    Ok(received.map_or_else(|_| NO_ID.to_owned(), |Received { id }| id))
}

/// Writes responses to the ledger, on a blocking thread so that the schedule does not wait for the disk.
async fn record_batch(
    mut ledger: Ledger,
    batch: Vec<Answered>,
) -> anyhow::Result<(Ledger, Vec<Answered>)> {
    tokio::task::spawn_blocking(move || {
        ledger.write(
            batch
                .iter()
                .map(|answered| (answered.number, &answered.answer)),
        )?;
        Ok((ledger, batch))
    })
    .await?
}

fn count_in(report: &mut Report, answered: Answered) {
    report.latency.add(answered.latency);
    if let Some(service) = answered.service {
        report.service.add(service);
    }
    report.retried += u64::from(answered.retried);
    report.replayed += u64::from(answered.replayed);
    match answered.answer {
        Ok(_) => report.place(),
        Err(reason) => report.fail(&reason),
    }
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;

    use super::*;

    fn reply(status: u16, body: &'static str) -> Reply {
        Reply {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: None,
            replayed: false,
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn only_temporary_failures_are_retried() {
        for status in [408, 429, 500, 502, 503, 504] {
            assert!(is_worth_a_retry(&Ok(reply(status, ""))), "{status}");
        }
        // Another attempt would get the same response, or the first one succeeded.
        for status in [200, 201, 301, 400, 404, 409, 413, 422] {
            assert!(!is_worth_a_retry(&Ok(reply(status, ""))), "{status}");
        }
        assert!(is_worth_a_retry(&Err(RequestError::TimedOut)));
        assert!(is_worth_a_retry(&Err(RequestError::Request(String::new()))));
        assert!(is_worth_a_retry(&Err(RequestError::Busy)));
    }

    #[test]
    fn every_2xx_status_counts_as_placed() {
        assert_eq!(
            answer_of(Ok(reply(200, r#"{"message":"m","id":"x"}"#))),
            Ok("x".to_owned())
        );
        for (status, body, reason) in [
            (302, "", "status 302"),
            (404, r#"{"id":"x"}"#, "status 404"),
            (503, "", "status 503"),
        ] {
            let answer = answer_of(Ok(reply(status, body)));
            assert_eq!(answer, Err(reason.to_owned()), "{status} {body}");
        }
        for (status, body) in [
            (200, "{}"),
            (200, r#"{"id":7}"#),
            (200, "Order received"),
            (201, ""),
        ] {
            let answer = answer_of(Ok(reply(status, body)));
            assert_eq!(answer, Ok(NO_ID.to_owned()), "{status} {body}");
        }
        assert_eq!(
            answer_of(Ok(reply(201, r#"{"id":"x"}"#))),
            Ok("x".to_owned())
        );
        assert_eq!(
            answer_of(Err(RequestError::TimedOut)),
            Err("timed out".to_owned())
        );
    }
}
