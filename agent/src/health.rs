//! Checks the services' health: one plain HTTP/1.1 GET each, bounded in time and size.
//!
//! It reports what each service answered; [`crate::lifecycle`] decides what follows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use async_trait::async_trait;
use contract::registry;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, Uri, header};
use hyper_util::rt::TokioIo;
use support::text;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::settings::Service;

/// The result of one round of checks, by service. The registry's own type, since a record contains a round.
pub(crate) type Round = BTreeMap<String, registry::Service>;

/// Checks all services once.
#[async_trait]
pub(crate) trait HealthCheck: Send + Sync {
    /// Checks every service, all at the same time, each within `limit`.
    async fn round(&self, services: Arc<[Service]>, limit: Duration) -> Round;
}

/// Longest time a service may take to answer, however long the interval: a slower health answer counts as none.
const SLOWEST_ANSWER: Duration = Duration::from_secs(5);

/// How long each request of a round may take: well under the interval, so that rounds do not overlap.
pub(crate) fn limit(interval: Duration) -> Duration {
    SLOWEST_ANSWER.min(interval * 3 / 4)
}

/// Longest version answer that is read; a longer one is not a version.
const LONGEST_VERSION: usize = 4096;

/// Checks the services on this instance over HTTP.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Http;

#[async_trait]
impl HealthCheck for Http {
    async fn round(&self, services: Arc<[Service]>, limit: Duration) -> Round {
        let mut asked = JoinSet::new();
        for service in services.iter().cloned() {
            asked.spawn(async move {
                (
                    service.name.as_str().to_owned(),
                    check_service(&service, limit).await,
                )
            });
        }
        // A service whose check was cancelled has not passed: every service starts as unanswered.
        let mut round: Round = services
            .iter()
            .map(|service| {
                (
                    service.name.as_str().to_owned(),
                    failed("the check was cancelled"),
                )
            })
            .collect();
        while let Some(answer) = asked.join_next().await {
            match answer {
                Ok((name, service)) => {
                    round.insert(name, service);
                }
                Err(error) => tracing::warn!("a check was cancelled: {error}"),
            }
        }
        round
    }
}

fn failed(detail: &str) -> registry::Service {
    registry::Service {
        version: String::new(),
        healthy: false,
        detail: text::line(detail, text::REASON),
    }
}

async fn check_service(service: &Service, limit: Duration) -> registry::Service {
    let health = within(limit, check(&service.health)).await;
    if let Err(error) = health {
        return failed(&format!("{}: {error:#}", service.unit));
    }
    let version = match &service.version {
        Some(uri) => within(limit, version(uri)).await.unwrap_or_else(|error| {
            tracing::debug!("cannot read the version of {}: {error:#}", service.name);
            String::new()
        }),
        None => String::new(),
    };
    registry::Service {
        version: text::line(&version, text::NAME),
        healthy: true,
        detail: String::new(),
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => bail!("no answer within {:.1} s", limit.as_secs_f32()),
    }
}

async fn check(uri: &Uri) -> Result<()> {
    let status = get(uri).await?.status();
    if !status.is_success() {
        bail!("{} answered {status}", uri.path());
    }
    Ok(())
}

async fn version(uri: &Uri) -> Result<String> {
    let answer = get(uri).await?;
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

async fn get(uri: &Uri) -> Result<Response<Incoming>> {
    let host = uri.host().ok_or_else(|| anyhow!("{uri} has no host"))?;
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((address, port))
        .await
        .with_context(|| format!("cannot connect to {host}:{port}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .context("no HTTP")?;
    // It ends once the answer has been read or dropped.
    tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(
            header::HOST,
            uri.authority().map_or(host, |authority| authority.as_str()),
        )
        .header(
            header::USER_AGENT,
            format!("imagebuilder-agent/{}", agent_update::version()),
        )
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .context("cannot form the request")?;
    sender.send_request(request).await.context("no answer")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::settings::ServiceName;

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
            health: uri("/gtg"),
            version: Some(uri("/version")),
            environment: BTreeMap::new(),
        }]);
        Http.round(services, limit).await.remove("orders").unwrap()
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
            health: "http://127.0.0.1:1/gtg".parse().unwrap(),
            version: None,
            environment: BTreeMap::new(),
        };
        let answer = check_service(&service, PATIENCE).await;
        let expected = "orders.service: cannot connect to 127.0.0.1:1: Connection refused";
        assert!(answer.detail.starts_with(expected), "{}", answer.detail);
    }
}
