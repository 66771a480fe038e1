//! Three calls of Elastic Load Balancing (API version 2015-12-01), implemented here: signed query parameters in, a
//! little XML out.
//!
//! `aws-sdk-elasticloadbalancingv2` would be larger than all other code for these calls together. Signing, HTTP and
//! XML are the SDK's own crates, which are linked anyway. It does not retry; [`crate::lifecycle`] decides when to
//! call again.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;

use anyhow::{Context, Result, anyhow, bail};
use async_trait::async_trait;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_ssm::config::http::{HttpRequest, HttpResponse};
use aws_smithy_runtime::client::orchestrator::operation::Operation;
use aws_smithy_xml::decode::{Document, ScopedDecoder, try_data};

use crate::aws::Aws;
use crate::aws::signature::{SignedForm, signed};
use crate::balancer::{Balancer, TargetHealth};
use crate::metrics::Fault;
use crate::text;

/// The name in a signature's scope and in the endpoint.
const SERVICE: &str = "elasticloadbalancing";

/// The code for a target group that is not there.
const NOT_FOUND: &str = "TargetGroupNotFound";

/// The only version of this API.
const VERSION: &str = "2015-12-01";

#[async_trait]
impl Balancer for Aws {
    async fn register(&self, target_group: &str, instance: &str) -> Result<()> {
        self.ask_elb("RegisterTargets", target_group, instance)
            .await
            .with_context(|| format!("cannot register with {target_group}"))?;
        Ok(())
    }

    async fn deregister(&self, target_group: &str, instance: &str) -> Result<()> {
        let asked = self
            .ask_elb("DeregisterTargets", target_group, instance)
            .await;
        match asked {
            // A deleted target group has no targets.
            Err(error) if error.is(NOT_FOUND) => Ok(()),
            asked => asked
                .map(|_| ())
                .with_context(|| format!("cannot deregister from {target_group}")),
        }
    }

    async fn health(&self, target_group: &str, instance: &str) -> Result<TargetHealth> {
        let asked = self
            .ask_elb("DescribeTargetHealth", target_group, instance)
            .await;
        let found = match asked {
            Err(error) if error.is(NOT_FOUND) => Ok(TargetHealth {
                state: "unused".to_owned(),
                reason: "Target.NotRegistered".to_owned(),
                ..TargetHealth::default()
            }),
            Err(error) => Err(error.into()),
            Ok(xml) => read_health(&xml),
        };
        let found = found.with_context(|| format!("cannot read the health of {target_group}"))?;
        Ok(TargetHealth {
            target_group: target_group.to_owned(),
            ..found
        })
    }
}

impl Aws {
    async fn ask_elb(
        &self,
        action: &'static str,
        target_group: &str,
        instance: &str,
    ) -> Result<String, CallError> {
        let asked = async {
            let config = self.config().await.map_err(CallError::NotSent)?;
            let body = form_urlencoded::Serializer::new(String::new())
                .append_pair("Action", action)
                .append_pair("Version", VERSION)
                .append_pair("TargetGroupArn", target_group)
                .append_pair("Targets.member.1.Id", instance)
                .finish();
            send(config, action, body).await
        };
        let answer = asked.await;
        self.count(action, answer.as_ref().err().map(CallError::fault));
        answer
    }
}

/// Why a call failed. Distinguished by the API's code, never by its message, which may contain a target group's name.
#[derive(Debug)]
enum CallError {
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
    fn is(&self, wanted: &str) -> bool {
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

/// Where a region's load balancers are asked.
fn endpoint(config: &SdkConfig, region: &Region) -> String {
    let suffix = if region.as_ref().starts_with("cn-") {
        ".cn"
    } else {
        ""
    };
    config.endpoint_url().map_or_else(
        || format!("https://{SERVICE}.{region}.amazonaws.com{suffix}"),
        str::to_owned,
    )
}

async fn send(config: &SdkConfig, action: &'static str, body: String) -> Result<String, CallError> {
    let region = config
        .region()
        .ok_or_else(|| CallError::NotSent(anyhow!("no region is known")))?;
    let endpoint = endpoint(config, region);
    let url = format!("{}/", endpoint.trim_end_matches('/'));
    let signed = signed(config, SERVICE, &url, body).await;
    let form = signed.map_err(CallError::NotSent)?;
    let limits = config
        .timeout_config()
        .cloned()
        .unwrap_or_else(TimeoutConfig::disabled);
    let operation = Operation::builder()
        .service_name(SERVICE)
        .operation_name(action)
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(&endpoint)
        .no_auth()
        .no_retry()
        .timeout_config(limits)
        .serializer(|form: SignedForm| Ok(request(form)?))
        .deserializer::<Answer, Infallible>(|response: &HttpResponse| {
            let body = response.body().bytes().unwrap_or_default();
            Ok(Answer {
                status: response.status().as_u16(),
                body: String::from_utf8_lossy(body).into_owned(),
            })
        })
        .build();
    let answer = operation.invoke(form).await;
    let answer = answer.map_err(|error| CallError::NoAnswer(error.into()))?;
    if answer.status == 200 {
        return Ok(answer.body);
    }
    let (code, message) = read_error(&answer.body);
    Err(CallError::Refused {
        status: answer.status,
        code,
        message: text::line(&message, text::REASON),
    })
}

#[derive(Debug)]
struct Answer {
    status: u16,
    body: String,
}

/// As the SDK sends it, to the root of the endpoint.
fn request(form: SignedForm) -> Result<HttpRequest> {
    let mut request = HttpRequest::new(form.body.into());
    request.set_method("POST")?;
    request.set_uri("/")?;
    for (name, value) in form.headers {
        request.headers_mut().try_insert(name, value)?;
    }
    Ok(request)
}

/// `DescribeTargetHealthResult / TargetHealthDescriptions / member / TargetHealth / State, Reason`. Where the
/// instance is registered more than once, by its ports, the first unhealthy one counts.
fn read_health(xml: &str) -> Result<TargetHealth> {
    let mut document = Document::new(xml);
    let mut root = document.root_element()?;
    let mut found = Vec::new();
    while let Some(mut result) = root.next_tag() {
        while let Some(mut list) = result.next_tag() {
            while let Some(mut member) = list.next_tag() {
                found.extend(read_member(&mut member)?);
            }
        }
    }
    let worst = found.iter().position(|health| !health.is_well());
    if found.is_empty() {
        bail!("the response contains no target");
    }
    Ok(found.swap_remove(worst.unwrap_or(0)))
}

fn read_member(member: &mut ScopedDecoder<'_, '_>) -> Result<Option<TargetHealth>> {
    let mut health = None;
    while let Some(mut tag) = member.next_tag() {
        if !tag.start_el().matches("TargetHealth") {
            continue;
        }
        let found = health.insert(TargetHealth::default());
        while let Some(mut leaf) = tag.next_tag() {
            let name = leaf.start_el().local().to_owned();
            let text = try_data(&mut leaf)?.into_owned();
            match name.as_str() {
                "State" => found.state = text,
                "Reason" => found.reason = text,
                _ => {}
            }
        }
    }
    Ok(health)
}

/// `ErrorResponse / Error / Code, Message`; other documents have neither.
fn read_error(xml: &str) -> (String, String) {
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

#[cfg(test)]
mod tests {
    use super::*;

    const HEALTH: &str = r#"<DescribeTargetHealthResponse
        xmlns="http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/"><DescribeTargetHealthResult>
        <TargetHealthDescriptions><member><HealthCheckPort>80</HealthCheckPort><TargetHealth>
        <State>unhealthy</State><Reason>Target.FailedHealthChecks</Reason><Description>x</Description>
        </TargetHealth><Target><Port>80</Port><Id>i-1</Id></Target></member></TargetHealthDescriptions>
        </DescribeTargetHealthResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata>
        </DescribeTargetHealthResponse>"#;

    #[test]
    fn health_is_read_as_aws_writes_it() {
        let health = read_health(HEALTH).unwrap();
        assert_eq!(health.state, "unhealthy");
        assert_eq!(health.reason, "Target.FailedHealthChecks");
        assert!(!health.is_well() && !health.is_not_registered());
        let missing = HEALTH
            .replace("unhealthy", "unused")
            .replace("Target.FailedHealthChecks", "Target.NotRegistered");
        assert!(read_health(&missing).unwrap().is_not_registered());
        let idle = missing.replace("Target.NotRegistered", "Target.NotInUse");
        assert!(read_health(&idle).unwrap().is_well());
        for text in ["", "<html>", "<DescribeTargetHealthResponse/>"] {
            assert!(read_health(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_error_is_read_or_is_nothing() {
        let text = "<ErrorResponse><Error><Type>Sender</Type><Code>TargetGroupNotFound</Code>\
            <Message>no such group</Message></Error><RequestId>r</RequestId></ErrorResponse>";
        assert_eq!(
            read_error(text),
            ("TargetGroupNotFound".into(), "no such group".into())
        );
        assert_eq!(read_error("Bad Gateway"), (String::new(), String::new()));
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
                error.is(NOT_FOUND),
                matches!(&error, CallError::Refused { code, .. } if code == NOT_FOUND)
            );
        }
    }

    #[test]
    fn every_region_has_its_endpoint_unless_one_is_given() {
        let config = SdkConfig::builder().build();
        let at = |name: &'static str| endpoint(&config, &Region::new(name));
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
        assert_eq!(
            endpoint(&given, &Region::new("eu-west-3")),
            "http://127.0.0.1:1"
        );
    }
}
