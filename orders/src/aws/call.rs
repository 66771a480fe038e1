//! Signed calls to AWS services other than S3, with retries and parsing of errors.
//!
//! Owns what these services have in common; request and response bodies are the caller's. Signed by
//! `object_store`, which signs S3 requests as well: see `docs/decisions/0012`.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpRequest, HttpRequestBody, HttpService};
use reqwest::StatusCode;
use serde_json::Value;
use tokio::time::Instant;

use super::{Aws, Backoff};

/// No attempt starts after this time: it would not end within the caller's time limit.
const RETRY_BUDGET: Duration = Duration::from_secs(8);
/// Longest part of a service's error message to keep, in characters.
const MESSAGE_LIMIT: usize = 300;

/// A host with a wrong clock gets every request refused, with messages that are mostly about signatures.
pub(crate) const WRONG_CLOCK: &str = "this host's clock is too far from AWS's; \
    hint: set it, and have chrony or systemd-timesyncd keep it (`timedatectl` shows whether one does)";
/// The clock was set, or the host was suspended, if it moved this much more or less than the time waited.
const CLOCK_JUMP: SignedDuration = SignedDuration::from_mins(1);

/// The media type of the query protocol.
pub(crate) const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// A service and how to call it.
#[derive(Debug)]
pub(crate) struct Service {
    /// The service's name in host names and signatures.
    name: &'static str,
    /// The service's name in `AWS_ENDPOINT_URL_…`.
    variable: &'static str,
    /// Attempts for a call that gets no response.
    tries: u32,
    /// Whether a call that the service throttles is retried until the time limit; if not, as often as one
    /// without a response.
    retry_until_timeout: bool,
}

/// Tables.
pub(crate) const DYNAMODB: Service = Service {
    name: "dynamodb",
    variable: "DYNAMODB",
    tries: 4,
    retry_until_timeout: true,
};
/// Topics.
pub(crate) const SNS: Service = Service {
    name: "sns",
    variable: "SNS",
    tries: 3,
    retry_until_timeout: false,
};
/// Metrics. A single attempt: the publisher calls again soon, and a point must not count twice.
pub(crate) const CLOUDWATCH: Service = Service {
    name: "monitoring",
    variable: "CLOUDWATCH",
    tries: 1,
    retry_until_timeout: false,
};

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The service responded with an error.
    Refused(Refusal),
    /// There was no response; the service may have acted.
    Unreachable(anyhow::Error),
}

/// A service's error response.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    /// The name of the exception.
    pub(crate) code: String,
    message: String,
    /// The whole response body.
    pub(crate) body: Bytes,
}

impl CallError {
    /// The name of the exception, if the service responded with one.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Refused(refusal) => &refusal.code,
            Self::Unreachable(_) => "",
        }
    }

    /// Whether the call was refused because of its time. Services other than S3 use the code for all invalid
    /// signatures; two prefixes of its message identify the clock.
    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html>
    pub(crate) fn is_clock_error(&self) -> bool {
        let Self::Refused(refusal) = self else {
            return false;
        };
        let starts = |start| refusal.message.starts_with(start);
        let signature = ["InvalidSignatureException", "SignatureDoesNotMatch"];
        let codes = [
            "RequestTimeTooSkewed",
            "RequestExpired",
            "RequestInTheFuture",
        ];
        codes.contains(&&*refusal.code)
            || signature.contains(&&*refusal.code)
                && (starts("Signature expired") || starts("Signature not yet current"))
    }

    /// Whether the same call may succeed a moment later.
    fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Refused(refusal) => {
                refusal.status.is_server_error()
                    || refusal.status == StatusCode::TOO_MANY_REQUESTS
                    || TRANSIENT.contains(&refusal.code.as_str())
            }
        }
    }
}

/// Exceptions that come with status 400 and are temporary.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html>
const TRANSIENT: [&str; 7] = [
    "ProvisionedThroughputExceededException",
    "ThrottlingException",
    "Throttling",
    "ThrottledException",
    "RequestLimitExceeded",
    "TransactionConflictException",
    "TransactionInProgressException",
];

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => {
                write!(f, "answered {}", refusal.status.as_u16())?;
                if !refusal.code.is_empty() {
                    write!(f, " {}", refusal.code)?;
                }
                if !refusal.message.is_empty() {
                    write!(f, ": {}", refusal.message)?;
                }
                if self.is_clock_error() {
                    write!(f, ": {WRONG_CLOCK}")?;
                }
                Ok(())
            }
            Self::Unreachable(error) => write!(f, "no response: {error:#}"),
        }
    }
}

impl std::error::Error for CallError {}

impl Refusal {
    fn new(status: StatusCode, body: Bytes) -> Self {
        let (code, message) = match serde_json::from_slice::<Value>(&body) {
            Ok(answer) => {
                let text = |name: &str| answer[name].as_str().unwrap_or_default();
                // The name is preceded by its model.
                let code = text("__type").rsplit('#').next().unwrap_or_default();
                let message = text("message");
                let message = if message.is_empty() {
                    text("Message")
                } else {
                    message
                };
                (code.to_owned(), message.to_owned())
            }
            Err(_) => {
                let text = String::from_utf8_lossy(&body);
                (element(&text, "Code"), element(&text, "Message"))
            }
        };
        Self {
            status,
            code,
            message: message.chars().take(MESSAGE_LIMIT).collect(),
            body,
        }
    }
}

/// The text of the first element with this name; empty if there is none.
pub(crate) fn element(xml: &str, name: &str) -> String {
    xml.split_once(&format!("<{name}>"))
        .and_then(|(_, rest)| rest.split_once('<'))
        .map_or_else(String::new, |(text, _)| text.to_owned())
}

impl Aws {
    /// Posts `body`, with retries. As a response can be lost, the service may have acted more than once, and
    /// may have acted although this fails.
    ///
    /// # Errors
    /// If the service refuses or does not respond, after all retries.
    pub(crate) async fn call(
        &self,
        service: &Service,
        region: Option<&str>,
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> Result<Bytes, CallError> {
        let mut backoff = Backoff::within(RETRY_BUDGET);
        let begun = (Instant::now(), Timestamp::now());
        let mut attempt = 1;
        loop {
            let outcome = self.call_once(service, region, headers, body.clone()).await;
            let Err(error) = outcome else { return outcome };
            // A throttled call is retried until the time limit; a call without a response must be reported
            // soon.
            let again = match error {
                CallError::Refused(_) => service.retry_until_timeout && error.is_transient(),
                CallError::Unreachable(_) => false,
            };
            let again = again || (error.is_transient() && attempt < service.tries);
            // What was valid to send by the earlier clock may be invalid now.
            let (waited, by_clock) = (begun.0.elapsed(), Timestamp::now().duration_since(begun.1));
            let again = again && !clock_was_set(waited, by_clock);
            if !again || !backoff.pause().await {
                return Err(error);
            }
            tracing::debug!(service = service.name, %error, "trying again");
            attempt += 1;
        }
    }

    async fn call_once(
        &self,
        service: &Service,
        region: Option<&str>,
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> Result<Bytes, CallError> {
        let answer = async {
            let region = match region {
                Some(region) => region,
                None => self.region().await?,
            };
            let url = match self.endpoint(service.variable) {
                Some(endpoint) => format!("{endpoint}/"),
                None => format!("https://{}.{region}.{}/", service.name, domain(region)),
            };
            let credential = self.credentials().await?.get_credential().await?;
            let mut request = axum::http::Request::post(url);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let mut request: HttpRequest = request.body(HttpRequestBody::from(body))?;
            AwsAuthorizer::new(&credential, service.name, region)
                .try_authorize(&mut request, None)?;
            let answer = self.wire.call(request).await?;
            let status = answer.status();
            anyhow::Ok((status, answer.into_body().bytes().await?))
        };
        match answer.await {
            Ok((status, body)) if status.is_success() => Ok(body),
            Ok((status, body)) => Err(CallError::Refused(Refusal::new(status, body))),
            Err(error) => Err(CallError::Unreachable(error)),
        }
    }
}

/// Whether the clock was set during the wait.
fn clock_was_set(waited: Duration, by_clock: SignedDuration) -> bool {
    let waited = SignedDuration::try_from(waited).unwrap_or(SignedDuration::MAX);
    by_clock.saturating_sub(waited).abs() > CLOCK_JUMP
}

/// The domain of a region's services.
fn domain(region: &str) -> &'static str {
    if region.starts_with("cn-") {
        "amazonaws.com.cn"
    } else {
        "amazonaws.com"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_exception_in_either_protocol() {
        let json =
            r#"{"__type":"com.amazonaws.dynamodb.v20120810#ThrottlingException","message":"slow"}"#;
        let xml = "<ErrorResponse><Error><Type>Sender</Type><Code>Throttling</Code>\
                   <Message>slow</Message></Error></ErrorResponse>";
        for (body, code) in [(json, "ThrottlingException"), (xml, "Throttling")] {
            let error =
                CallError::Refused(Refusal::new(StatusCode::BAD_REQUEST, Bytes::from(body)));
            assert_eq!(error.to_string(), format!("answered 400 {code}: slow"));
            assert!(error.is_transient(), "{error}");
        }
        let table = [
            (400, "no", false),
            (403, "", false),
            (429, "", true),
            (500, "<x>", true),
        ];
        for (status, body, passes) in table {
            let status = StatusCode::from_u16(status).unwrap();
            let error = CallError::Refused(Refusal::new(status, Bytes::from(body)));
            assert_eq!(error.is_transient(), passes, "{error}");
        }
        assert!(CallError::Unreachable(anyhow::anyhow!("reset")).is_transient());
    }

    #[test]
    fn a_wrong_clock_is_distinguished_from_a_wrong_key() {
        let late = "Signature expired: 20261130T100000Z is now earlier than 20261130T101500Z (20261130T102000Z - 5 min.)";
        let early =
            "Signature not yet current: 20261130T103000Z is still later than 20261130T102500Z";
        let key = "The request signature we calculated does not match the signature you provided.";
        let table = [
            ("InvalidSignatureException", late, true),
            ("InvalidSignatureException", early, true),
            ("InvalidSignatureException", key, false),
            ("SignatureDoesNotMatch", late, true),
            ("RequestExpired", "Request has expired.", true),
            ("AccessDeniedException", late, false),
        ];
        for (code, message, expected) in table {
            let body = serde_json::json!({"__type": format!("com.amazon.coral.service#{code}"), "message": message});
            let error = CallError::Refused(Refusal::new(
                StatusCode::BAD_REQUEST,
                Bytes::from(body.to_string()),
            ));
            let message = support::one_line(&error.into());
            let named = message.contains("this host's clock is too far from AWS's; hint: set it");
            assert_eq!(named, expected, "{message}");
        }
    }

    #[test]
    fn a_clock_that_was_set_is_detected() {
        let second = SignedDuration::from_secs(1);
        for (waited, by_clock, expected) in [
            (8, second * 8, false),
            (8, second * 40, false),
            (1, second * 400 * 86_400, true),
            (1, second * -400 * 86_400, true),
            (0, second * -90, true),
        ] {
            let set = clock_was_set(Duration::from_secs(waited), by_clock);
            assert_eq!(set, expected, "{waited} {by_clock:?}");
        }
    }

    #[test]
    fn chinese_regions_have_a_domain_of_their_own() {
        assert_eq!(domain("cn-north-1"), "amazonaws.com.cn");
        assert_eq!(domain("ca-central-1"), "amazonaws.com");
    }
}
