//! One signed call, for the services without an SDK client here, in AWS's query protocol (a form out, XML in) or in its JSON 1.1
//! (<https://smithy.io/2.0/aws/protocols/aws-json-1_1-protocol.html>).
//!
//! An SDK's client of a service would be larger than all our code for its one to three calls. Signature, HTTP and XML
//! are the SDK's own crates, which are linked anyway, and connections are those of all clients. A call is sent once.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;

use anyhow::{Result, anyhow};
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_autoscaling::config::http::{HttpRequest, HttpResponse};
use aws_smithy_runtime::client::orchestrator::operation::Operation;
use aws_smithy_xml::decode::{Document, try_data};
use support::text;

use super::Aws;
use super::signature::{Content, Signed, signed};
use crate::metrics::Fault;

/// A service that is called by hand.
pub(crate) struct Service {
    /// Its name in a signature's scope and in the endpoint's host.
    pub(crate) name: &'static str,
    /// The variable that names another endpoint for it, before `AWS_ENDPOINT_URL`.
    pub(crate) variable: &'static str,
    /// How it is spoken to.
    pub(crate) protocol: Protocol,
}

/// The form of requests and answers.
pub(crate) enum Protocol {
    /// A form with the action in it; XML.
    Query,
    /// JSON both ways, with `PREFIX.ACTION` in a header.
    Json {
        /// What stands before the action.
        prefix: &'static str,
    },
}

impl Protocol {
    fn content(&self, action: &str, body: String) -> Content {
        let headers = match self {
            Self::Query => vec![(
                "content-type",
                "application/x-www-form-urlencoded; charset=utf-8".to_owned(),
            )],
            Self::Json { prefix } => vec![
                ("content-type", "application/x-amz-json-1.1".to_owned()),
                ("x-amz-target", format!("{prefix}.{action}")),
            ],
        };
        Content { headers, body }
    }

    /// Code and message of an error; empty in documents of another form, such as a proxy's.
    fn read_error(&self, body: &str) -> (String, String) {
        match self {
            Self::Query => read_xml_error(body),
            Self::Json { .. } => read_json_error(body),
        }
    }
}

impl Service {
    /// `https://SERVICE.REGION.amazonaws.com`, unless a variable names another.
    fn endpoint(&self, config: &SdkConfig, region: &Region) -> String {
        let own = std::env::var(self.variable)
            .ok()
            .filter(|url| !url.is_empty());
        self.endpoint_with(own, config, region)
    }

    fn endpoint_with(&self, own: Option<String>, config: &SdkConfig, region: &Region) -> String {
        let given = own.or_else(|| config.endpoint_url().map(str::to_owned));
        given.unwrap_or_else(|| {
            let suffix = if region.as_ref().starts_with("cn-") {
                ".cn"
            } else {
                ""
            };
            format!("https://{}.{region}.amazonaws.com{suffix}", self.name)
        })
    }
}

impl Aws {
    /// Sends the body of `action`, and counts the call. Returns the answer's body.
    ///
    /// # Errors
    /// [`CallError`]: not sent, no answer in time, or refused.
    pub(crate) async fn call(
        &self,
        service: &Service,
        action: &'static str,
        body: String,
    ) -> Result<String, CallError> {
        let answer = match self.clients().await {
            Ok(clients) => send(&clients.config, service, action, body).await,
            Err(error) => Err(CallError::NotSent(error)),
        };
        self.meter
            .called(action, answer.as_ref().err().map(CallError::fault));
        answer
    }
}

/// Why a call failed. Distinguished by the API's code, never by its message, which may contain a target group's name.
#[derive(Debug)]
pub(crate) enum CallError {
    /// It was never sent: no region, no credentials, nothing to sign with.
    NotSent(anyhow::Error),
    /// It was sent, and nothing came back, or not in time.
    NoAnswer(anyhow::Error),
    /// The API refused it.
    Refused {
        status: u16,
        code: String,
        message: String,
    },
}

impl CallError {
    /// Whether the API refused it with this code.
    pub(crate) fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { code, .. } if code == wanted)
    }

    fn fault(&self) -> Fault {
        match self {
            Self::NotSent(_) => Fault::Other,
            Self::NoAnswer(_) => Fault::Unreachable,
            Self::Refused { code, .. } => Fault::of_code(code),
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(_) => f.write_str("not sent"),
            Self::NoAnswer(_) => f.write_str("no answer"),
            Self::Refused {
                status,
                code,
                message,
            } => write!(f, "answered {status} {code}: {message}"),
        }
    }
}

impl Error for CallError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::NotSent(error) | Self::NoAnswer(error) => Some(error.as_ref()),
            Self::Refused { .. } => None,
        }
    }
}

/// Signs and sends a body, once, within the configuration's time limits.
pub(super) async fn send(
    config: &SdkConfig,
    service: &Service,
    action: &'static str,
    body: String,
) -> Result<String, CallError> {
    let region = config
        .region()
        .ok_or_else(|| CallError::NotSent(anyhow!("no region is known")))?;
    let endpoint = service.endpoint(config, region);
    let url = format!("{}/", endpoint.trim_end_matches('/'));
    let content = service.protocol.content(action, body);
    let signed = signed(config, service.name, &url, content).await;
    let signed = signed.map_err(CallError::NotSent)?;
    let limits = config
        .timeout_config()
        .cloned()
        .unwrap_or_else(TimeoutConfig::disabled);
    let mut operation = Operation::builder()
        .service_name(service.name)
        .operation_name(action)
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(&endpoint)
        .no_auth()
        .no_retry()
        .timeout_config(limits);
    if let Some(client) = config.http_client() {
        operation = operation.http_client(client);
    }
    let operation = operation
        .serializer(|signed: Signed| Ok(request(signed)?))
        .deserializer::<Answer, Infallible>(|response: &HttpResponse| {
            let body = response.body().bytes().unwrap_or_default();
            Ok(Answer {
                status: response.status().as_u16(),
                body: String::from_utf8_lossy(body).into_owned(),
            })
        })
        .build();
    let answer = operation.invoke(signed).await;
    let answer = answer.map_err(|error| CallError::NoAnswer(error.into()))?;
    if answer.status == 200 {
        return Ok(answer.body);
    }
    let (code, message) = service.protocol.read_error(&answer.body);
    Err(CallError::Refused {
        status: answer.status,
        code: text::line(&code, text::NAME),
        message: text::line(&message, text::REASON),
    })
}

#[derive(Debug)]
struct Answer {
    status: u16,
    body: String,
}

/// As the SDK sends it, to the root of the endpoint.
fn request(signed: Signed) -> Result<HttpRequest> {
    let mut request = HttpRequest::new(signed.body.into());
    request.set_method("POST")?;
    request.set_uri("/")?;
    for (name, value) in signed.headers {
        request.headers_mut().try_insert(name, value)?;
    }
    Ok(request)
}

/// `ErrorResponse / Error / Code, Message`; other documents have neither.
fn read_xml_error(xml: &str) -> (String, String) {
    let mut found = (String::new(), String::new());
    let mut document = Document::new(xml);
    let Ok(mut root) = document.root_element() else {
        return found;
    };
    while let Some(mut error) = root.next_tag() {
        while let Some(mut leaf) = error.next_tag() {
            let name = leaf.start_el().local().to_owned();
            let text = try_data(&mut leaf).unwrap_or_default().into_owned();
            match name.as_str() {
                "Code" => found.0 = text,
                "Message" => found.1 = text,
                _ => {}
            }
        }
    }
    found
}

/// `{"__type": "NAMESPACE#CODE", "message": …}`; some services write `Message`, and some a URL behind the code.
fn read_json_error(json: &str) -> (String, String) {
    let Ok(answer) = serde_json::from_str::<serde_json::Value>(json) else {
        return (String::new(), String::new());
    };
    let text = |keys: [&str; 2]| {
        let found = keys.iter().find_map(|key| answer.get(key)?.as_str());
        found.unwrap_or_default().to_owned()
    };
    let kind = text(["__type", "code"]);
    let code = kind.rsplit('#').next().unwrap_or_default();
    let code = code.split(':').next().unwrap_or_default();
    (code.to_owned(), text(["message", "Message"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MISSING: &str = "TargetGroupNotFound";

    #[test]
    fn an_error_is_read_or_is_nothing() {
        let text = "<ErrorResponse><Error><Type>Sender</Type><Code>TargetGroupNotFound</Code>\
            <Message>no such group</Message></Error><RequestId>r</RequestId></ErrorResponse>";
        assert_eq!(
            Protocol::Query.read_error(text),
            ("TargetGroupNotFound".into(), "no such group".into())
        );
        let json = Protocol::Json {
            prefix: "AmazonSSM",
        };
        for (text, code, message) in [
            (
                r#"{"__type":"ParameterNotFound","message":"x"}"#,
                "ParameterNotFound",
                "x",
            ),
            (
                r#"{"__type":"com.amazonaws.ssm#InternalServerError"}"#,
                "InternalServerError",
                "",
            ),
            (
                r#"{"__type":"Throttling:http://internal/","Message":"Rate exceeded"}"#,
                "Throttling",
                "Rate exceeded",
            ),
            (r#"["__type"]"#, "", ""),
            (r#"{"__type":1}"#, "", ""),
        ] {
            assert_eq!(
                json.read_error(text),
                (code.into(), message.into()),
                "{text}"
            );
        }
        for protocol in [Protocol::Query, json] {
            let nothing = (String::new(), String::new());
            assert_eq!(protocol.read_error("Bad Gateway"), nothing);
        }
    }

    /// A target group may be called anything.
    #[test]
    fn errors_are_distinguished_by_their_code_alone() {
        let refused = |code: &str, message: &str| CallError::Refused {
            status: 400,
            code: code.to_owned(),
            message: message.to_owned(),
        };
        let name = "targetgroup/ThrottlingAccessDeniedTargetGroupNotFound/1 no answer";
        for (error, fault) in [
            (refused("ValidationError", name), Fault::Other),
            (refused("TargetGroupNotFound", name), Fault::Other),
            (refused("Throttling", ""), Fault::Throttled),
            (refused("ThrottlingException", ""), Fault::Throttled),
            (refused("RequestLimitExceeded", ""), Fault::Throttled),
            (refused("AccessDenied", ""), Fault::Denied),
            (refused("AccessDeniedException", ""), Fault::Denied),
            (refused("UnrecognizedClientException", ""), Fault::Denied),
            (
                CallError::NoAnswer(anyhow!("Throttling")),
                Fault::Unreachable,
            ),
            (CallError::NotSent(anyhow!("AccessDenied")), Fault::Other),
        ] {
            assert_eq!(error.fault(), fault, "{error}");
            assert_eq!(
                error.is(MISSING),
                matches!(&error, CallError::Refused { code, .. } if code == MISSING),
                "{error}"
            );
        }
    }

    #[test]
    fn every_region_has_its_endpoint_unless_one_is_given() {
        let config = SdkConfig::builder().build();
        let elb = Service {
            name: "elasticloadbalancing",
            variable: "AWS_ENDPOINT_URL_NONE",
            protocol: Protocol::Query,
        };
        let at = |name: &'static str| elb.endpoint(&config, &Region::new(name));
        assert_eq!(
            at("eu-west-3"),
            "https://elasticloadbalancing.eu-west-3.amazonaws.com"
        );
        assert_eq!(
            at("cn-north-1"),
            "https://elasticloadbalancing.cn-north-1.amazonaws.com.cn"
        );
        let given = SdkConfig::builder()
            .endpoint_url("http://127.0.0.1:1")
            .build();
        let region = Region::new("eu-west-3");
        assert_eq!(elb.endpoint(&given, &region), "http://127.0.0.1:1");
        let own = Some("http://127.0.0.1:2".to_owned());
        assert_eq!(
            elb.endpoint_with(own, &given, &region),
            "http://127.0.0.1:2"
        );
    }
}
