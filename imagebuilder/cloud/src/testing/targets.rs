//! The group's target group.

use super::*;

#[async_trait]
impl TargetGroups for InMemoryAws {
    async fn health(&self, _arn: &str) -> Answer<Vec<(InstanceId, TargetHealth)>> {
        self.read("health", |aws| {
            let health = |instance: &Instance| {
                let image = instance.image.as_ref();
                let limps = image.is_some_and(|image| aws.limping.contains(image));
                let (state, reason) = match limps {
                    true => ("unhealthy", "Target.Timeout"),
                    false => ("healthy", ""),
                };
                TargetHealth {
                    state: state.to_owned(),
                    reason: reason.to_owned(),
                }
            };
            let running = aws.members_running();
            Ok(running
                .map(|instance| (instance.id.clone(), health(instance)))
                .collect())
        })
        .await
    }

    async fn drain_seconds(&self, _arn: &str) -> Answer<u32> {
        self.read("drain_seconds", |_| Ok(DEFAULT_DRAIN_SECONDS))
            .await
    }
}
