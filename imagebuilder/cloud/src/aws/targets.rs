//! ELBv2 target groups.

use async_trait::async_trait;

use super::error::failed;
use crate::ids::InstanceId;
use crate::{Answer, DEFAULT_DRAIN_SECONDS, TargetGroups, TargetHealth};

pub(super) struct Elb(pub(super) aws_sdk_elasticloadbalancingv2::Client);

#[async_trait]
impl TargetGroups for Elb {
    async fn health(&self, target_group_arn: &str) -> Answer<Vec<(InstanceId, TargetHealth)>> {
        let answer = self
            .0
            .describe_target_health()
            .target_group_arn(target_group_arn)
            .send()
            .await
            .map_err(failed(format!(
                "ask target group {target_group_arn} for its health"
            )))?;
        Ok(answer
            .target_health_descriptions()
            .iter()
            .filter_map(|described| {
                let instance = InstanceId::parse(described.target()?.id()?).ok()?;
                let health = described.target_health()?;
                let reason = [
                    health.reason().map(|reason| reason.as_str()),
                    health.description(),
                ];
                Some((
                    instance,
                    TargetHealth {
                        state: health
                            .state()
                            .map(|state| state.as_str().to_owned())
                            .unwrap_or_default(),
                        reason: reason.into_iter().flatten().collect::<Vec<_>>().join(": "),
                    },
                ))
            })
            .collect())
    }

    async fn drain_seconds(&self, target_group_arn: &str) -> Answer<u32> {
        let answer = self
            .0
            .describe_target_group_attributes()
            .target_group_arn(target_group_arn)
            .send()
            .await
            .map_err(failed(format!(
                "ask target group {target_group_arn} for its attributes"
            )))?;
        let delay = answer
            .attributes()
            .iter()
            .find(|attribute| attribute.key() == Some("deregistration_delay.timeout_seconds"))
            .and_then(|attribute| attribute.value()?.parse().ok());
        Ok(delay.unwrap_or(DEFAULT_DRAIN_SECONDS))
    }
}
