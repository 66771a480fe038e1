//! One signed call to an AWS service that is not S3: made, tried again while that may help, and its
//! refusal taken apart.
//!
//! Owns what all such services have in common on the wire; what is asked and answered is the caller's.
//! Signed by `object_store`, which does it for S3 anyway: see `docs/decisions/0012`.

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

/// After this long no further try is begun: it would not end before whoever waits gives up.
const TRYING: Duration = Duration::from_secs(8);
/// How much of a service's own words is kept.
const WORDS: usize = 300;

/// A host whose clock is off is refused everything, in words that are mostly about signatures.
pub(crate) const WRONG_CLOCK: &str = "this host's clock is too far from AWS's; \
    hint: set it, and have chrony or systemd-timesyncd keep it (`timedatectl` shows whether one does)";
/// The clock was set, or the host slept, when it moved by so much more or less than the time that was waited.
const CLOCK_WAS_SET: SignedDuration = SignedDuration::from_mins(1);

/// The media type of the query protocol.
pub(crate) const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// A service and how it is called.
#[derive(Debug)]
pub(crate) struct Service {
    /// Its name in host names and signatures.
    name: &'static str,
    /// Its name in `AWS_ENDPOINT_URL_…`.
    variable: &'static str,
    /// How often a call is tried that got no answer.
    tries: u32,
    /// Whether a call that the service refuses for now is tried as long as there is time; else as often
    /// as one without an answer.
    waits: bool,
}

/// Tables.
pub(crate) const DYNAMODB: Service = Service {
    name: "dynamodb",
    variable: "DYNAMODB",
    tries: 4,
    waits: true,
};
/// Topics.
pub(crate) const SNS: Service = Service {
    name: "sns",
    variable: "SNS",
    tries: 3,
    waits: false,
};
/// Metrics. Tried once: whoever publishes comes again soon, and a point must not count twice.
pub(crate) const CLOUDWATCH: Service = Service {
    name: "monitoring",
    variable: "CLOUDWATCH",
    tries: 1,
    waits: false,
};

/// Why a call did not succeed.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The service answered, and said no.
    Refused(Refusal),
    /// There was no answer; the service may have acted.
    Unreachable(anyhow::Error),
}

/// A service's no.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    /// The name of the exception.
    pub(crate) code: String,
    message: String,
    /// The whole answer.
    pub(crate) body: Bytes,
}

impl CallError {
    /// The name of the exception, when the service answered with one.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Refused(refusal) => &refusal.code,
            Self::Unreachable(_) => "",
        }
    }

    /// Whether the call was refused for its time. Services other than S3 say so by the code for every wrong
    /// signature, and two beginnings of its message.
    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html>
    pub(crate) fn is_of_the_clock(&self) -> bool {
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

    /// Whether the same call may succeed in a moment.
    fn passes(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Refused(refusal) => {
                refusal.status.is_server_error()
                    || refusal.status == StatusCode::TOO_MANY_REQUESTS
                    || PASSING.contains(&refusal.code.as_str())
            }
        }
    }
}

/// Exceptions that come with status 400 and pass.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html>
const PASSING: [&str; 7] = [
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
                if self.is_of_the_clock() {
                    write!(f, ": {WRONG_CLOCK}")?;
                }
                Ok(())
            }
            Self::Unreachable(error) => write!(f, "no answer: {error:#}"),
        }
    }
}

impl std::error::Error for CallError {}

impl Refusal {
    fn new(status: StatusCode, body: Bytes) -> Self {
        let (code, message) = match serde_json::from_slice::<Value>(&body) {
            Ok(answer) => {
                let text = |name: &str| answer[name].as_str().unwrap_or_default();
                // Before the name stands the model it is from.
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
            message: message.chars().take(WORDS).collect(),
            body,
        }
    }
}

/// The text of the first element of this name.
fn element(xml: &str, name: &str) -> String {
    xml.split_once(&format!("<{name}>"))
        .and_then(|(_, rest)| rest.split_once('<'))
        .map_or_else(String::new, |(text, _)| text.to_owned())
}

impl Aws {
    /// Posts `body`, and tries again while that may help. As an answer can be lost, the service may
    /// have acted more than once, and may have acted though this fails.
    ///
    /// # Errors
    /// When the service refuses or does not answer, in the end.
    pub(crate) async fn call(
        &self,
        service: &Service,
        region: Option<&str>,
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> Result<Bytes, CallError> {
        let mut backoff = Backoff::within(TRYING);
        let begun = (Instant::now(), Timestamp::now());
        let mut try_ = 1;
        loop {
            let outcome = self.call_once(service, region, headers, body.clone()).await;
            let Err(error) = outcome else { return outcome };
            // Who is refused for now is asked to come again; who hears nothing soon has to say so.
            let again = match error {
                CallError::Refused(_) => service.waits && error.passes(),
                CallError::Unreachable(_) => false,
            };
            let again = again || (error.passes() && try_ < service.tries);
            // What was right to send by the clock then may not be by the clock now.
            let (waited, by_clock) = (begun.0.elapsed(), Timestamp::now().duration_since(begun.1));
            let again = again && !was_set(waited, by_clock);
            if !again || !backoff.pause().await {
                return Err(error);
            }
            tracing::debug!(service = service.name, %error, "trying again");
            try_ += 1;
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

/// Whether the clock was set while so much time went by.
fn was_set(waited: Duration, by_clock: SignedDuration) -> bool {
    let waited = SignedDuration::try_from(waited).unwrap_or(SignedDuration::MAX);
    by_clock.saturating_sub(waited).abs() > CLOCK_WAS_SET
}

/// Where a region's services are.
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
            assert!(error.passes());
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
            assert_eq!(error.passes(), passes, "{error}");
        }
        assert!(CallError::Unreachable(anyhow::anyhow!("reset")).passes());
    }

    #[test]
    fn a_wrong_clock_is_named_and_a_wrong_key_is_not_taken_for_it() {
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
            let said = crate::chain::one_line(&error.into());
            let named = said.contains("this host's clock is too far from AWS's; hint: set it");
            assert_eq!(named, expected, "{said}");
        }
    }

    #[test]
    fn a_clock_that_was_set_is_told_from_one_that_runs() {
        let second = SignedDuration::from_secs(1);
        for (waited, by_clock, expected) in [
            (8, second * 8, false),
            (8, second * 40, false),
            (1, second * 400 * 86_400, true),
            (1, second * -400 * 86_400, true),
            (0, second * -90, true),
        ] {
            let set = was_set(Duration::from_secs(waited), by_clock);
            assert_eq!(set, expected, "{waited} {by_clock:?}");
        }
    }

    #[test]
    fn chinese_regions_have_a_domain_of_their_own() {
        assert_eq!(domain("cn-north-1"), "amazonaws.com.cn");
        assert_eq!(domain("ca-central-1"), "amazonaws.com");
    }
}
