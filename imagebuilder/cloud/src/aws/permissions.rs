//! IAM, which is global, and CloudWatch's alarms.

use std::collections::BTreeMap;

use async_trait::async_trait;
use aws_sdk_cloudwatch::types::AlarmType;
use aws_sdk_iam::types::{ContextEntry, ContextKeyTypeEnum, PolicyEvaluationDecisionType};

use super::error::failed;
use crate::{Alarms, Answer, InstanceProfile, Kind, Permissions, Simulated, Simulation};

pub(super) struct Iam(pub(super) aws_sdk_iam::Client);

/// The decision for one resource, with the missing condition keys.
fn decided(decision: &PolicyEvaluationDecisionType, missing: &[String]) -> Simulated {
    match decision {
        PolicyEvaluationDecisionType::Allowed => Simulated::Allowed,
        _ if !missing.is_empty() => Simulated::Depends(missing.to_vec()),
        PolicyEvaluationDecisionType::ExplicitDeny => Simulated::Denied,
        _ => Simulated::NotAllowed,
    }
}

/// The decision for all of them: the worst one.
fn worst(of: impl Iterator<Item = Simulated>) -> Option<Simulated> {
    of.max_by_key(|one| match one {
        Simulated::Allowed => 0,
        Simulated::Depends(_) => 1,
        Simulated::NotAllowed => 2,
        Simulated::Denied => 3,
    })
}

#[async_trait]
impl Permissions for Iam {
    async fn role(&self, name: &str) -> Answer<Option<String>> {
        let answer = self.0.get_role().role_name(name).send().await;
        match answer.map_err(failed(format!("describe role {name}"))) {
            Ok(answer) => Ok(answer.role().map(|role| role.arn().to_owned())),
            Err(error) if error.kind == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn simulate(
        &self,
        principal: &str,
        simulation: &Simulation,
    ) -> Answer<BTreeMap<String, Simulated>> {
        let mut call = self
            .0
            .simulate_principal_policy()
            .policy_source_arn(principal);
        for action in &simulation.actions {
            call = call.action_names(*action);
        }
        for resource in &simulation.resources {
            call = call.resource_arns(resource);
        }
        for (key, value) in &simulation.context {
            let entry = ContextEntry::builder()
                .context_key_name(*key)
                .context_key_type(ContextKeyTypeEnum::String)
                .context_key_values(value)
                .build();
            call = call.context_entries(entry);
        }
        let mut results = call.into_paginator().items().send();
        let mut found = BTreeMap::new();
        while let Some(result) = results.next().await {
            let result = result.map_err(failed(format!("simulate policies of {principal}")))?;
            let of_resources = result
                .resource_specific_results()
                .iter()
                .map(|one| decided(one.eval_resource_decision(), one.missing_context_values()));
            let of_all = decided(result.eval_decision(), result.missing_context_values());
            found.insert(
                result.eval_action_name().to_owned(),
                worst(of_resources).unwrap_or(of_all),
            );
        }
        Ok(found)
    }

    async fn instance_profile(&self, name: &str) -> Answer<Option<InstanceProfile>> {
        let answer = self.0.get_instance_profile().instance_profile_name(name);
        let answer = answer.send().await;
        match answer.map_err(failed(format!("describe instance profile {name}"))) {
            Ok(answer) => Ok(answer.instance_profile().map(|profile| InstanceProfile {
                role: profile.roles().first().map(|role| role.arn().to_owned()),
            })),
            Err(error) if error.kind == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

pub(super) struct CloudWatch(pub(super) aws_sdk_cloudwatch::Client);

#[async_trait]
impl Alarms for CloudWatch {
    async fn states(&self, names: &[String]) -> Answer<BTreeMap<String, String>> {
        // At most ten, by the service's own limit on alarms of a refresh: one page lists all.
        let answer = self
            .0
            .describe_alarms()
            .set_alarm_names(Some(names.to_vec()))
            .alarm_types(AlarmType::MetricAlarm)
            .alarm_types(AlarmType::CompositeAlarm)
            .send()
            .await
            .map_err(failed("describe alarms"))?;
        let metric = answer
            .metric_alarms()
            .iter()
            .map(|alarm| (alarm.alarm_name(), alarm.state_value()));
        let composite = answer
            .composite_alarms()
            .iter()
            .map(|alarm| (alarm.alarm_name(), alarm.state_value()));
        Ok(metric
            .chain(composite)
            .filter_map(|(name, state)| Some((name?.to_owned(), state?.as_str().to_owned())))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_that_lacks_context_is_unknown() {
        use PolicyEvaluationDecisionType::{Allowed, ExplicitDeny, ImplicitDeny};
        let missing = ["ec2:ResourceTag/team".to_owned()];
        assert_eq!(decided(&Allowed, &missing), Simulated::Allowed);
        assert_eq!(decided(&ImplicitDeny, &[]), Simulated::NotAllowed);
        assert_eq!(decided(&ExplicitDeny, &[]), Simulated::Denied);
        for decision in [ImplicitDeny, ExplicitDeny] {
            let depends = Simulated::Depends(missing.to_vec());
            assert_eq!(decided(&decision, &missing), depends, "{decision}");
        }
        let all = [Simulated::Allowed, Simulated::Denied, Simulated::NotAllowed];
        assert_eq!(worst(all.into_iter()), Some(Simulated::Denied));
    }
}
