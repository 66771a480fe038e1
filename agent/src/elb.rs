//! Three calls of Elastic Load Balancing (API version 2015-12-01), implemented here: query parameters in, a little XML
//! out.
//!
//! `aws-sdk-elasticloadbalancingv2` would be larger than all other code for these calls together. [`crate::aws::call`]
//! signs and sends them, once; [`crate::lifecycle`] decides when to call again.

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use aws_smithy_xml::decode::{Document, ScopedDecoder, try_data};

use crate::aws::Aws;
use crate::aws::call::{CallError, Protocol, Service};
use crate::balancer::{Balancer, TargetHealth};

/// Its name in a signature's scope, in the endpoint's host and in the variable.
const SERVICE: Service = Service {
    name: "elasticloadbalancing",
    variable: "AWS_ENDPOINT_URL_ELASTIC_LOAD_BALANCING_V2",
    protocol: Protocol::Query,
};

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
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("Action", action)
            .append_pair("Version", VERSION)
            .append_pair("TargetGroupArn", target_group)
            .append_pair("Targets.member.1.Id", instance)
            .finish();
        self.call(&SERVICE, action, form).await
    }
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
}
