//! EC2 Auto Scaling: groups and their refreshes.

use async_trait::async_trait;
use aws_sdk_autoscaling::types as sdk;
use jiff::Timestamp;

use super::error::{failed, incomplete};
use crate::ids::{GroupName, InstanceId};
use crate::{
    Action, Activities, Activity, ActivityOutcome, Answer, Fleet, Group, GroupLaunches,
    GroupMember, HealthSource, Hook, HookMoment, Lifecycle, MixedFeature, Preferences, Refresh,
    RefreshStatus, SavedVersion, Size, TemplateRef,
};

/// Activities in a page, the most there may be.
const ACTIVITIES: i32 = 100;

pub(super) struct AutoScaling(pub(super) aws_sdk_autoscaling::Client);

/// A count as the SDK has it.
fn count(number: Option<i32>) -> u32 {
    number
        .and_then(|number| u32::try_from(number).ok())
        .unwrap_or(0)
}

/// A count for the SDK; the ones we send are percentages and seconds well below the limit.
fn int(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn time(at: Option<&aws_sdk_autoscaling::primitives::DateTime>) -> Option<Timestamp> {
    at.and_then(|at| Timestamp::new(at.secs(), i32::try_from(at.subsec_nanos()).unwrap_or(0)).ok())
}

/// A template version, if it is given by its number.
fn template_ref(given: Option<&sdk::LaunchTemplateSpecification>) -> Option<TemplateRef> {
    let given = given?;
    Some(TemplateRef {
        id: given.launch_template_id()?.to_owned(),
        version: given.version()?.parse().ok()?,
    })
}

fn specification(version: &TemplateRef) -> sdk::LaunchTemplateSpecification {
    sdk::LaunchTemplateSpecification::builder()
        .launch_template_id(&version.id)
        .version(version.version.to_string())
        .build()
}

fn mixed_feature(policy: &sdk::MixedInstancesPolicy) -> MixedFeature {
    let overrides = policy
        .launch_template()
        .map(sdk::LaunchTemplate::overrides)
        .unwrap_or_default();
    if overrides
        .iter()
        .any(|one| one.instance_requirements().is_some())
    {
        MixedFeature::Attributes
    } else if overrides
        .iter()
        .any(|one| one.weighted_capacity().is_some())
    {
        MixedFeature::Weights
    } else if overrides
        .iter()
        .any(|one| one.launch_template_specification().is_some() || one.image_id().is_some())
    {
        MixedFeature::OwnTemplates
    } else {
        MixedFeature::Plain
    }
}

/// Whether a group launches from this template, by itself or in a mixed instances policy.
fn launches_from(answer: &sdk::AutoScalingGroup, template_id: &str) -> bool {
    let mixed = answer
        .mixed_instances_policy()
        .and_then(sdk::MixedInstancesPolicy::launch_template);
    let overrides = mixed
        .map(sdk::LaunchTemplate::overrides)
        .unwrap_or_default();
    answer
        .launch_template()
        .into_iter()
        .chain(mixed.and_then(sdk::LaunchTemplate::launch_template_specification))
        .chain(
            overrides
                .iter()
                .filter_map(|one| one.launch_template_specification()),
        )
        .any(|given| given.launch_template_id() == Some(template_id))
}

fn launches(answer: &sdk::AutoScalingGroup) -> Option<GroupLaunches> {
    if let Some(policy) = answer.mixed_instances_policy() {
        return Some(GroupLaunches::Mixed {
            feature: mixed_feature(policy),
        });
    }
    if let Some(template) = answer.launch_template() {
        return Some(GroupLaunches::Template {
            id: template.launch_template_id()?.to_owned(),
            name: template
                .launch_template_name()
                .unwrap_or_default()
                .to_owned(),
            // Left out, it means the default version.
            saved: SavedVersion::parse(template.version().unwrap_or("$Default"))?,
        });
    }
    Some(GroupLaunches::Configuration {
        name: answer.launch_configuration_name()?.to_owned(),
    })
}

fn member(answer: &sdk::Instance) -> Option<GroupMember> {
    Some(GroupMember {
        instance: InstanceId::parse(answer.instance_id()?).ok()?,
        lifecycle: Lifecycle::parse(answer.lifecycle_state().map_or("", |state| state.as_str())),
        healthy: answer
            .health_status()
            .is_some_and(|status| status.eq_ignore_ascii_case("Healthy")),
        template: template_ref(answer.launch_template()),
        protected: answer.protected_from_scale_in().unwrap_or(false),
    })
}

fn group(name: &GroupName, answer: &sdk::AutoScalingGroup) -> Option<Group> {
    // The only other type is `EBS`, which is not of a load balancer.
    let elb = |kind: &str| {
        kind.split(',')
            .any(|one| matches!(one.trim(), "ELB" | "VPC_LATTICE"))
    };
    Some(Group {
        name: name.clone(),
        size: Size {
            min: count(answer.min_size()),
            max: count(answer.max_size()),
            desired: count(answer.desired_capacity()),
        },
        launches: launches(answer)?,
        health: if answer.health_check_type().is_some_and(elb) {
            HealthSource::LoadBalancer
        } else {
            HealthSource::Ec2
        },
        grace_seconds: count(answer.health_check_grace_period()),
        // The service spells "removed again" as -1.
        default_warmup_seconds: answer
            .default_instance_warmup()
            .and_then(|seconds| u32::try_from(seconds).ok()),
        suspended: answer
            .suspended_processes()
            .iter()
            .filter_map(|process| process.process_name().map(ToOwned::to_owned))
            .collect(),
        target_groups: answer.target_group_arns().to_vec(),
        has_traffic_source: !answer.target_group_arns().is_empty()
            || !answer.load_balancer_names().is_empty()
            || !answer.traffic_sources().is_empty(),
        warm_pool: answer.warm_pool_configuration().is_some(),
        members: answer.instances().iter().filter_map(member).collect(),
    })
}

fn hook(answer: &sdk::LifecycleHook) -> Option<Hook> {
    Some(Hook {
        name: answer.lifecycle_hook_name()?.to_owned(),
        moment: match answer.lifecycle_transition()? {
            "autoscaling:EC2_INSTANCE_LAUNCHING" => HookMoment::Launching,
            _ => HookMoment::Terminating,
        },
        // The API's default, although the guide's overview differs.
        default_result: answer.default_result().unwrap_or("ABANDON").to_owned(),
        heartbeat_seconds: count(answer.heartbeat_timeout()),
    })
}

fn refresh(answer: &sdk::InstanceRefresh) -> Option<Refresh> {
    let preferences = answer.preferences();
    Some(Refresh {
        id: answer.instance_refresh_id()?.to_owned(),
        status: RefreshStatus::parse(answer.status().map_or("", |status| status.as_str())),
        reason: answer.status_reason().unwrap_or_default().to_owned(),
        percent: count(answer.percentage_complete()),
        to_update: count(answer.instances_to_update()),
        started: time(answer.start_time()),
        desired: template_ref(
            answer
                .desired_configuration()
                .and_then(sdk::DesiredConfiguration::launch_template),
        ),
        checkpoints: preferences
            .map(sdk::RefreshPreferences::checkpoint_percentages)
            .unwrap_or_default()
            .iter()
            .map(|percent| count(Some(*percent)))
            .collect(),
        auto_rollback: preferences
            .and_then(sdk::RefreshPreferences::auto_rollback)
            .unwrap_or(false),
        rollback_reason: answer
            .rollback_details()
            .map(|details| details.rollback_reason().unwrap_or_default().to_owned()),
    })
}

fn activity(answer: &sdk::Activity) -> Option<Activity> {
    let description = answer.description().unwrap_or_default();
    let (action, instance) = Action::read(description);
    Some(Activity {
        id: answer.activity_id()?.to_owned(),
        action,
        instance,
        description: description.to_owned(),
        cause: answer.cause().unwrap_or_default().to_owned(),
        outcome: match answer.status_code().map_or("", |code| code.as_str()) {
            "Successful" => ActivityOutcome::Done,
            "Failed" | "Cancelled" => ActivityOutcome::Failed,
            _ => ActivityOutcome::Running,
        },
        message: answer.status_message().unwrap_or_default().to_owned(),
        started: time(answer.start_time()),
    })
}

fn preferences(wanted: &Preferences) -> sdk::RefreshPreferences {
    let mut builder = sdk::RefreshPreferences::builder()
        .min_healthy_percentage(int(wanted.min_percent))
        .max_healthy_percentage(int(wanted.max_percent))
        .instance_warmup(int(wanted.warmup_seconds))
        .skip_matching(true)
        .auto_rollback(wanted.auto_rollback)
        .scale_in_protected_instances(sdk::ScaleInProtectedInstances::Ignore)
        .standby_instances(sdk::StandbyInstances::Ignore);
    // An empty list that is sent keeps the refresh in Pending for ever.
    if !wanted.checkpoints.is_empty() {
        builder = builder
            .set_checkpoint_percentages(Some(
                wanted
                    .checkpoints
                    .iter()
                    .map(|percent| int(*percent))
                    .collect(),
            ))
            .checkpoint_delay(int(wanted.checkpoint_delay_seconds));
    }
    if wanted.bake_seconds > 0 {
        builder = builder.bake_time(int(wanted.bake_seconds));
    }
    if !wanted.alarms.is_empty() {
        builder = builder.alarm_specification(
            sdk::AlarmSpecification::builder()
                .set_alarms(Some(wanted.alarms.clone()))
                .build(),
        );
    }
    builder.build()
}

#[async_trait]
impl Fleet for AutoScaling {
    async fn groups_from(&self, template_id: &str) -> Answer<Vec<GroupName>> {
        let mut groups = self
            .0
            .describe_auto_scaling_groups()
            .into_paginator()
            .items()
            .send();
        let mut found = Vec::new();
        while let Some(answer) = groups.next().await {
            let answer = answer.map_err(failed("list all groups"))?;
            let name = answer.auto_scaling_group_name().unwrap_or_default();
            if launches_from(&answer, template_id)
                && let Ok(name) = name.parse()
            {
                found.push(name);
            }
        }
        Ok(found)
    }

    async fn group(&self, name: &GroupName) -> Answer<Option<Group>> {
        let operation = format!("describe group {name}");
        let answer = self
            .0
            .describe_auto_scaling_groups()
            .auto_scaling_group_names(name.as_str())
            .send()
            .await
            .map_err(failed(&operation))?;
        match answer.auto_scaling_groups().first() {
            None => Ok(None),
            Some(found) => group(name, found)
                .map(Some)
                .ok_or_else(|| incomplete(&operation, "launch template or configuration")),
        }
    }

    async fn hooks(&self, group: &GroupName) -> Answer<Vec<Hook>> {
        let answer = self
            .0
            .describe_lifecycle_hooks()
            .auto_scaling_group_name(group.as_str())
            .send()
            .await
            .map_err(failed(format!("list lifecycle hooks of group {group}")))?;
        Ok(answer.lifecycle_hooks().iter().filter_map(hook).collect())
    }

    async fn refreshes(&self, group: &GroupName) -> Answer<Vec<Refresh>> {
        let answer = self
            .0
            .describe_instance_refreshes()
            .auto_scaling_group_name(group.as_str())
            .send()
            .await
            .map_err(failed(format!("list refreshes of group {group}")))?;
        Ok(answer
            .instance_refreshes()
            .iter()
            .filter_map(refresh)
            .collect())
    }

    async fn refresh(&self, group: &GroupName, id: &str) -> Answer<Option<Refresh>> {
        let answer = self
            .0
            .describe_instance_refreshes()
            .auto_scaling_group_name(group.as_str())
            .instance_refresh_ids(id)
            .send()
            .await
            .map_err(failed(format!("describe refresh {id} of group {group}")))?;
        Ok(answer.instance_refreshes().first().and_then(refresh))
    }

    async fn activities(&self, group: &GroupName, next: Option<&str>) -> Answer<Activities> {
        let answer = self
            .0
            .describe_scaling_activities()
            .auto_scaling_group_name(group.as_str())
            .max_records(ACTIVITIES)
            .set_next_token(next.map(ToOwned::to_owned))
            .send()
            .await
            .map_err(failed(format!("list scaling activities of group {group}")))?;
        Ok(Activities {
            page: answer.activities().iter().filter_map(activity).collect(),
            next: answer
                .next_token()
                .filter(|token| !token.is_empty())
                .map(ToOwned::to_owned),
        })
    }

    async fn start_refresh(
        &self,
        group: &GroupName,
        desired: &TemplateRef,
        wanted: &Preferences,
    ) -> Answer<String> {
        let operation = format!("start a refresh of group {group}");
        let answer = self
            .0
            .start_instance_refresh()
            .auto_scaling_group_name(group.as_str())
            .strategy(sdk::RefreshStrategy::Rolling)
            .desired_configuration(
                sdk::DesiredConfiguration::builder()
                    .launch_template(specification(desired))
                    .build(),
            )
            .preferences(preferences(wanted))
            .send()
            .await
            .map_err(failed(&operation))?;
        answer
            .instance_refresh_id()
            .map(ToOwned::to_owned)
            .ok_or_else(|| incomplete(&operation, "refresh id"))
    }

    async fn roll_back(&self, group: &GroupName) -> Answer<()> {
        self.0
            .rollback_instance_refresh()
            .auto_scaling_group_name(group.as_str())
            .send()
            .await
            .map_err(failed(format!("roll back the refresh of group {group}")))?;
        Ok(())
    }

    async fn cancel_refresh(&self, group: &GroupName) -> Answer<()> {
        self.0
            .cancel_instance_refresh()
            .auto_scaling_group_name(group.as_str())
            .send()
            .await
            .map_err(failed(format!("cancel the refresh of group {group}")))?;
        Ok(())
    }

    async fn save_version(&self, group: &GroupName, version: &TemplateRef) -> Answer<()> {
        self.0
            .update_auto_scaling_group()
            .auto_scaling_group_name(group.as_str())
            .launch_template(specification(version))
            .send()
            .await
            .map_err(failed(format!(
                "save group {group} on template version {}",
                version.version
            )))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Preferences {
        Preferences {
            min_percent: 100,
            max_percent: 110,
            warmup_seconds: 0,
            checkpoints: Vec::new(),
            checkpoint_delay_seconds: 600,
            bake_seconds: 0,
            alarms: Vec::new(),
            auto_rollback: true,
        }
    }

    #[test]
    fn what_must_be_explicit_is_sent_and_empty_lists_are_not() {
        let sent = preferences(&plain());
        assert_eq!(sent.min_healthy_percentage(), Some(100));
        assert_eq!(sent.max_healthy_percentage(), Some(110));
        assert_eq!(sent.instance_warmup(), Some(0));
        assert_eq!(sent.skip_matching(), Some(true));
        assert_eq!(sent.checkpoint_percentages, None);
        assert_eq!(sent.checkpoint_delay(), None);
        assert!(sent.alarm_specification().is_none());
        let mut paused = plain();
        paused.checkpoints = vec![50, 100];
        let sent = preferences(&paused);
        assert_eq!(sent.checkpoint_percentages(), [50, 100]);
        assert_eq!(sent.checkpoint_delay(), Some(600));
    }

    #[test]
    fn an_answer_with_aliases_is_read_as_what_it_is() {
        let with = |version: Option<&str>| {
            let specification = sdk::LaunchTemplateSpecification::builder()
                .launch_template_id("lt-1")
                .launch_template_name("shop")
                .set_version(version.map(ToOwned::to_owned))
                .build();
            let answer = sdk::AutoScalingGroup::builder()
                .launch_template(specification)
                .build();
            match launches(&answer) {
                Some(GroupLaunches::Template { saved, .. }) => saved,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(with(Some("7")), SavedVersion::Number(7));
        assert_eq!(with(Some("$Latest")), SavedVersion::Latest);
        assert_eq!(with(None), SavedVersion::Default);
    }

    #[test]
    fn a_removed_warm_up_is_absent() {
        let with = |seconds| {
            let answer = sdk::AutoScalingGroup::builder()
                .launch_configuration_name("old")
                .default_instance_warmup(seconds)
                .build();
            group(&GroupName::parse("shop").unwrap(), &answer)
                .unwrap()
                .default_warmup_seconds
        };
        assert_eq!(with(-1), None);
        assert_eq!(with(0), Some(0));
    }
}
