//! Checks the services' health: each check bounded in time and size, in the services' order.
//!
//! It reports what each service answered; [`crate::lifecycle`] decides what follows. [`kinds`] makes the checks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use async_trait::async_trait;
use contract::registry;
use http_body_util::BodyExt;
use hyper::Uri;
use support::text;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::image_tests;
use crate::settings::{Check, DrainCheck, HttpCheck, Purpose, Service};

mod drain;
pub(crate) mod exec;
mod http;
mod kinds;

pub(crate) use drain::{DrainAnswer, Unclear};

/// The reports of one round of checks, by service. The registry's own type, since a record contains a round.
pub(crate) type Round = BTreeMap<String, registry::Service>;

/// The result of one round of checks.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    /// What each service reported, which decides whether the instance is fit.
    pub(crate) round: Round,
    /// The services whose liveness checks failed: a restart may help.
    pub(crate) dead: BTreeSet<String>,
    /// Whether one failed for good: no later round can pass.
    pub(crate) hopeless: bool,
}

/// As of services whose checks have both purposes, such as `health_url`.
#[cfg(test)]
impl From<Round> for Checked {
    fn from(round: Round) -> Self {
        let failing = round.iter().filter(|(_, service)| !service.healthy);
        let dead = failing.map(|(name, _)| name.clone()).collect();
        Self {
            round,
            dead,
            hopeless: false,
        }
    }
}

/// Checks all services once.
#[async_trait]
pub(crate) trait HealthCheck: Send + Sync {
    /// Checks every service, all at the same time unless one waits for another, each check within `limit` or its own.
    async fn round(&self, services: Arc<[Service]>, limit: Duration) -> Checked;

    /// Asks the services whether they are still busy.
    async fn still_busy(&self, check: Arc<DrainCheck>) -> DrainAnswer;

    /// A service is known to have started: its startup checks are not made.
    fn started(&self, _service: &str) {}

    /// A service is about to be restarted: its startup checks count again.
    fn restarting(&self, _service: &str) {}
}

/// Longest time a service may take to answer, however long the interval: a slower health answer counts as none.
const SLOWEST_ANSWER: Duration = Duration::from_secs(5);

/// How long each request of a round may take: well under the interval, so that rounds do not overlap.
pub(crate) fn limit(interval: Duration) -> Duration {
    SLOWEST_ANSWER.min(interval * 3 / 4)
}

/// Longest version answer that is read; a longer one is not a version.
const LONGEST_VERSION: usize = 4096;

/// Makes the checks of the services on this instance.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// The services whose startup checks have passed.
    started: Arc<Mutex<BTreeSet<String>>>,
}

/// The result of a service's checks.
struct Outcome {
    report: registry::Service,
    dead: bool,
    hopeless: bool,
}

impl Outcome {
    fn unfit(detail: &str) -> Self {
        Self {
            report: failed(detail),
            dead: false,
            hopeless: false,
        }
    }
}

/// Whether each service passed, once that is known.
type Results = BTreeMap<String, watch::Receiver<Option<bool>>>;

#[async_trait]
impl HealthCheck for Checks {
    async fn round(&self, services: Arc<[Service]>, limit: Duration) -> Checked {
        let mut results = Results::new();
        let mut senders = BTreeMap::new();
        for service in services.iter() {
            let (sender, receiver) = watch::channel(None);
            results.insert(service.name.to_string(), receiver);
            senders.insert(service.name.to_string(), sender);
        }
        let mut asked = JoinSet::new();
        for service in services.iter().cloned() {
            let (results, started) = (results.clone(), self.started.clone());
            let sender = senders.remove(service.name.as_str());
            asked.spawn(async move {
                let outcome = match waits_for(&service.after, results).await {
                    Some(other) => Outcome::unfit(&format!("{}: waits for {other}", service.unit)),
                    None => check_service(&service, &started, limit).await,
                };
                if let Some(sender) = sender {
                    sender.send_replace(Some(outcome.report.healthy));
                }
                (service.name.to_string(), outcome)
            });
        }
        // A service whose check was cancelled has not passed: every service starts as unanswered.
        let mut round: Round = services
            .iter()
            .map(|service| (service.name.to_string(), failed("the check was cancelled")))
            .collect();
        let (mut dead, mut hopeless) = (BTreeSet::new(), false);
        while let Some(answer) = asked.join_next().await {
            match answer {
                Ok((name, outcome)) => {
                    hopeless |= outcome.hopeless;
                    if outcome.dead {
                        dead.insert(name.clone());
                    }
                    round.insert(name, outcome.report);
                }
                Err(error) => tracing::warn!("a check was cancelled: {error}"),
            }
        }
        Checked {
            round,
            dead,
            hopeless,
        }
    }

    async fn still_busy(&self, check: Arc<DrainCheck>) -> DrainAnswer {
        drain::ask(&check).await
    }

    fn started(&self, service: &str) {
        lock(&self.started).insert(service.to_owned());
    }

    fn restarting(&self, service: &str) {
        lock(&self.started).remove(service);
    }
}

fn lock(started: &Mutex<BTreeSet<String>>) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
    started.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first of the services before this one that did not pass.
async fn waits_for(after: &[String], mut results: Results) -> Option<String> {
    for name in after {
        let Some(result) = results.get_mut(name) else {
            return Some(name.clone());
        };
        // An error: its check was cancelled.
        let passed = match result.wait_for(Option::is_some).await {
            Ok(known) => *known == Some(true),
            Err(_) => false,
        };
        if !passed {
            return Some(name.clone());
        }
    }
    None
}

fn failed(detail: &str) -> registry::Service {
    registry::Service {
        version: String::new(),
        healthy: false,
        detail: text::line(detail, text::REASON),
    }
}

async fn check_service(
    service: &Service,
    started: &Mutex<BTreeSet<String>>,
    limit: Duration,
) -> Outcome {
    let name = service.name.as_str();
    let has_started = lock(started).contains(name);
    if !has_started {
        let startup = of(service, &[Purpose::Startup]);
        let failures = failures(&make(startup, limit).await, None);
        if !failures.is_empty() {
            return Outcome::unfit(&format!("{}: starting: {failures}", service.unit));
        }
        lock(started).insert(name.to_owned());
    }
    let made = make(of(service, &[Purpose::Readiness, Purpose::Liveness]), limit).await;
    let ready = failures(&made, Some(Purpose::Readiness));
    let alive = failures(&made, Some(Purpose::Liveness));
    if !ready.is_empty() {
        return Outcome {
            report: failed(&format!("{}: {ready}", service.unit)),
            dead: !alive.is_empty(),
            hopeless: made.iter().any(|made| made.failed_for_good()),
        };
    }
    if !alive.is_empty() {
        tracing::warn!("{}: {}", service.unit, text::line(&alive, text::REASON));
    }
    let version = match &service.version {
        Some(uri) => within(limit, version(uri)).await.unwrap_or_else(|error| {
            tracing::debug!("cannot read the version of {}: {error:#}", service.name);
            String::new()
        }),
        None => String::new(),
    };
    Outcome {
        report: registry::Service {
            version: text::line(&version, text::NAME),
            healthy: true,
            detail: String::new(),
        },
        dead: !alive.is_empty(),
        hopeless: false,
    }
}

/// The checks with one of these purposes.
fn of(service: &Service, purposes: &[Purpose]) -> Vec<Check> {
    let wanted = |check: &&Check| purposes.iter().any(|it| check.purposes.contains(it));
    service.checks.iter().filter(wanted).cloned().collect()
}

/// A check that was made, and why it failed.
struct Made {
    check: Check,
    failure: Option<anyhow::Error>,
}

impl Made {
    fn failed_for_good(&self) -> bool {
        let failure = self.failure.as_ref();
        failure.is_some_and(|failure| failure.is::<image_tests::Failed>())
    }
}

/// Makes checks, all at the same time; each with why it failed, in their order.
async fn make(checks: Vec<Check>, limit: Duration) -> Vec<Made> {
    let mut made: Vec<Made> = checks
        .into_iter()
        .map(|check| Made {
            check,
            failure: Some(anyhow!("the check was cancelled")),
        })
        .collect();
    let mut running = JoinSet::new();
    for (at, one) in made.iter().enumerate() {
        let check = one.check.clone();
        running.spawn(async move {
            let limit = check.timeout.unwrap_or(limit);
            (at, within(limit, kinds::make(&check.kind)).await)
        });
    }
    while let Some(done) = running.join_next().await {
        match done {
            Ok((at, result)) => {
                if let Some(made) = made.get_mut(at) {
                    made.failure = result.err();
                }
            }
            Err(error) => tracing::warn!("a check was cancelled: {error}"),
        }
    }
    made
}

/// What failed among the checks with this purpose, in one line; empty when all passed.
fn failures(made: &[Made], purpose: Option<Purpose>) -> String {
    let counts = |check: &Check| purpose.is_none_or(|purpose| check.purposes.contains(&purpose));
    let failed = made.iter().filter(|made| counts(&made.check));
    let lines = failed.filter_map(|made| {
        let failure = made.failure.as_ref()?;
        Some(match made.check.name.as_str() {
            "" => format!("{failure:#}"),
            name => format!("check {name}: {failure:#}"),
        })
    });
    lines.collect::<Vec<_>>().join("; ")
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => bail!("no answer within {:.1} s", limit.as_secs_f32()),
    }
}

async fn version(uri: &Uri) -> Result<String> {
    let answer = http::get(&HttpCheck::plain(uri.clone())).await?;
    if !answer.status().is_success() {
        bail!("{} answered {}", uri.path(), answer.status());
    }
    let mut body = answer.into_body();
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            text.extend_from_slice(data);
        }
        if text.len() > LONGEST_VERSION {
            bail!("{} answered more than a version", uri.path());
        }
    }
    read_version(&String::from_utf8(text).context("the version is not text")?)
}

/// Plain text, or JSON with a `version`.
pub(crate) fn read_version(text: &str) -> Result<String> {
    #[derive(serde::Deserialize)]
    struct Answer {
        version: String,
    }
    let text = text.trim();
    if text.starts_with('{') {
        let answer: Answer = serde_json::from_str(text).context("no version in the JSON")?;
        return Ok(answer.version);
    }
    text.lines()
        .next()
        .map(str::to_owned)
        .ok_or_else(|| anyhow!("an empty version"))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::settings::{CheckKind, ServiceName};

    mod order;

    /// The check of `health_url`.
    fn plain(uri: Uri) -> Check {
        check(
            "",
            CheckKind::Http(HttpCheck::plain(uri)),
            &[Purpose::Readiness, Purpose::Liveness],
        )
    }

    fn check(name: &str, kind: CheckKind, purposes: &[Purpose]) -> Check {
        Check {
            name: name.to_owned(),
            kind,
            timeout: None,
            purposes: purposes.iter().copied().collect(),
        }
    }

    #[test]
    fn a_version_is_a_line_or_a_json_field() {
        assert_eq!(read_version("1.2.3\n").unwrap(), "1.2.3");
        assert_eq!(
            read_version(r#"{"version":"1.2.3","git":"x"}"#).unwrap(),
            "1.2.3"
        );
        assert!(read_version(r#"{"release":"1"}"#).is_err());
        assert!(read_version(" \n").is_err());
    }

    #[test]
    fn a_request_never_takes_as_long_as_the_interval() {
        assert_eq!(limit(Duration::from_secs(2)), Duration::from_millis(1500));
        assert_eq!(limit(Duration::from_secs(60)), Duration::from_secs(5));
    }

    /// A service's raw answer.
    #[derive(Clone, Copy)]
    enum Reply {
        /// This, and the end.
        Once(&'static str),
        /// This, and then more and more.
        ForEver(&'static str),
        /// Nothing at all, with the connection held open.
        Nothing,
    }

    /// Far more than an answer takes, also on a busy host.
    const PATIENCE: Duration = Duration::from_secs(60);

    async fn asked(reply: Reply, limit: Duration) -> registry::Service {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let length = stream.read(&mut request).await.unwrap();
                let request = std::str::from_utf8(&request[..length]).unwrap();
                assert!(
                    request.contains(&format!("host: 127.0.0.1:{port}\r\n")),
                    "{request}"
                );
                match reply {
                    Reply::Once(words) => stream.write_all(words.as_bytes()).await.unwrap(),
                    Reply::ForEver(words) => {
                        while stream.write_all(words.as_bytes()).await.is_ok() {}
                    }
                    Reply::Nothing => std::future::pending().await,
                }
            }
        });
        let uri = |path: &str| format!("http://127.0.0.1:{port}{path}").parse().unwrap();
        let services: Arc<[Service]> = Arc::new([Service {
            name: ServiceName::parse("orders").unwrap(),
            unit: "orders.service".to_owned(),
            checks: vec![plain(uri("/gtg"))],
            after: Vec::new(),
            version: Some(uri("/version")),
            environment: BTreeMap::new(),
        }]);
        let checked = Checks::default().round(services, limit).await;
        checked.round["orders"].clone()
    }

    /// It can neither begin a line of the console nor move its cursor, nor fill a record.
    #[tokio::test]
    async fn a_services_answer_becomes_one_printable_bounded_line() {
        let forged = "HTTP/1.1 200 OK\r\n\r\n{\"version\":\"1.2\\n\\u001b[2Kimagebuilder-agent: unfit i-1: x\\u202e\"}";
        let answer = asked(Reply::Once(forged), PATIENCE).await;
        assert_eq!(answer.version, "1.2 [2Kimagebuilder-agent: unfit i-1: x");
        let long = "HTTP/1.1 200 OK\r\n\r\n0123456789012345678901234567890123456789012345678901234567890123456789";
        let answer = asked(Reply::Once(long), PATIENCE).await;
        assert_eq!(answer.version.chars().count(), text::NAME);
        let reason = "HTTP/1.1 503 \u{1b}[2K\r\n\r\n";
        let answer = asked(Reply::Once(reason), PATIENCE).await;
        assert!(!answer.detail.contains('\u{1b}'), "{}", answer.detail);
    }

    #[tokio::test]
    async fn only_a_2xx_is_a_pass() {
        let answer = asked(Reply::Once("HTTP/1.1 204 No Content\r\n\r\n"), PATIENCE).await;
        assert!(answer.healthy, "{answer:?}");
        for (words, detail) in [
            (
                "HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n",
                "/gtg answered 302 Found",
            ),
            (
                "HTTP/1.1 503 X\r\n\r\n",
                "/gtg answered 503 Service Unavailable",
            ),
            ("SSH-2.0-OpenSSH_9.2\r\n", "no answer: "),
            ("", "no answer: "),
        ] {
            let answer = asked(Reply::Once(words), PATIENCE).await;
            assert!(!answer.healthy, "{words:?}");
            let expected = format!("orders.service: {detail}");
            assert!(
                answer.detail.starts_with(&expected),
                "{words:?}: {}",
                answer.detail
            );
        }
    }

    #[tokio::test]
    async fn a_service_that_never_answers_or_never_ends_times_out() {
        let answer = asked(Reply::Nothing, Duration::from_millis(300)).await;
        assert_eq!(answer.detail, "orders.service: no answer within 0.3 s");
        // Headers without end are no health; a body without end is, but it is no version.
        let answer = asked(Reply::ForEver("x: y\r\n"), PATIENCE).await;
        assert!(!answer.healthy);
        let endless = "HTTP/1.1 200 OK\r\n\r\n0123456789";
        let answer = asked(Reply::ForEver(endless), PATIENCE).await;
        assert_eq!((answer.healthy, answer.version.as_str()), (true, ""));
    }

    #[tokio::test]
    async fn a_missing_service_fails_with_its_address() {
        let service = Service {
            name: ServiceName::parse("orders").unwrap(),
            unit: "orders.service".to_owned(),
            checks: vec![plain("http://127.0.0.1:1/gtg".parse().unwrap())],
            after: Vec::new(),
            version: None,
            environment: BTreeMap::new(),
        };
        let answer = check_service(&service, &Mutex::default(), PATIENCE)
            .await
            .report;
        let expected = "orders.service: cannot connect to 127.0.0.1:1: Connection refused";
        assert!(answer.detail.starts_with(expected), "{}", answer.detail);
    }
}
