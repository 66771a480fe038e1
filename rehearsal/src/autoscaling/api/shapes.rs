//! The XML of groups, members, activities and refreshes.

use instance_refresh::{InStandby, Preferences, Protected, Refresh, TemplateRef};

use super::super::activities::Activity;
use super::super::groups::{Group, GroupTag, HealthType, Hook};
use super::super::members::Member;
use crate::ids::SubnetId;
use crate::wire::{Xml, iso};

/// A LaunchTemplateSpecification.
pub(super) fn template(xml: &mut Xml, template: &TemplateRef) {
    xml.text("LaunchTemplateId", &template.id)
        .text("LaunchTemplateName", &template.name)
        .maybe(
            "Version",
            (!template.version.is_empty()).then_some(&template.version),
        );
}

/// An AutoScalingGroup.
pub(super) fn group(xml: &mut Xml, group: &Group, with_instances: bool) {
    xml.text("AutoScalingGroupName", &group.name)
        .text("AutoScalingGroupARN", &group.arn)
        .node("LaunchTemplate", |x| template(x, &group.template))
        .text("MinSize", group.min_size)
        .text("MaxSize", group.max_size)
        .text("DesiredCapacity", group.desired)
        .text("DefaultCooldown", group.cooldown)
        .texts("AvailabilityZones", "member", &group.zones)
        .texts("LoadBalancerNames", "member", [""; 0])
        .texts("TargetGroupARNs", "member", &group.target_groups)
        .text(
            "HealthCheckType",
            match group.health_type {
                HealthType::Ec2 => "EC2",
                HealthType::Elb => "ELB",
            },
        )
        .text("HealthCheckGracePeriod", group.grace);
    xml.list(
        "Instances",
        "member",
        group.members.iter().filter(|_| with_instances),
        member,
    );
    xml.text("CreatedTime", iso(group.created))
        .list("SuspendedProcesses", "member", &group.suspended, |x, name| {
            x.text("ProcessName", name)
                .text("SuspensionReason", "User suspended");
        })
        .text("VPCZoneIdentifier", group.subnets.iter().map(SubnetId::as_str).collect::<Vec<_>>().join(","))
        .list("EnabledMetrics", "member", [""; 0], |_, _| {})
        .maybe("Status", group.deleting.then_some("Delete in progress"))
        .list("Tags", "member", &group.tags, |x, (key, value)| {
            tag(x, group.name.as_str(), key, value);
        })
        .texts("TerminationPolicies", "member", &group.termination_policies)
        .text("NewInstancesProtectedFromScaleIn", group.protect_new)
        .text(
            "ServiceLinkedRoleARN",
            format!(
                "arn:aws:iam::{}:role/aws-service-role/autoscaling.amazonaws.com/AWSServiceRoleForAutoScaling",
                crate::account::ACCOUNT
            ),
        )
        .text("CapacityRebalance", group.capacity_rebalance)
        .maybe("DefaultInstanceWarmup", group.default_warmup)
        .list("TrafficSources", "member", &group.target_groups, |x, arn| {
            x.text("Identifier", arn).text("Type", "elbv2");
        });
    if let Some(policy) = group.maintenance {
        xml.node("InstanceMaintenancePolicy", |x| {
            x.text("MinHealthyPercentage", policy.min)
                .text("MaxHealthyPercentage", policy.max);
        });
    }
    if group.retain_abandoned {
        xml.node("InstanceLifecyclePolicy", |x| {
            x.node("RetentionTriggers", |x| {
                x.text("TerminateHookAbandon", "retain");
            });
        });
    }
}

/// A TagDescription.
pub(super) fn tag(xml: &mut Xml, group: &str, key: &str, tag: &GroupTag) {
    xml.text("ResourceId", group)
        .text("ResourceType", "auto-scaling-group")
        .text("Key", key)
        .text("Value", &tag.value)
        .text("PropagateAtLaunch", tag.propagate);
}

/// An Instance of a group.
pub(super) fn member(xml: &mut Xml, member: &Member) {
    xml.text("InstanceId", &member.id)
        .text("InstanceType", &member.instance_type)
        .text("AvailabilityZone", &member.zone)
        .text("LifecycleState", member.state.as_str())
        .text("HealthStatus", member.health.as_str())
        .node("LaunchTemplate", |x| template(x, &member.template))
        .text("ProtectedFromScaleIn", member.protected);
}

/// An AutoScalingInstanceDetails, whose health is in capitals.
pub(super) fn instance_details(xml: &mut Xml, group: &str, member: &Member) {
    xml.text("InstanceId", &member.id)
        .text("InstanceType", &member.instance_type)
        .text("AutoScalingGroupName", group)
        .text("AvailabilityZone", &member.zone)
        .text("LifecycleState", member.state.as_str())
        .text("HealthStatus", member.health.as_str().to_uppercase())
        .node("LaunchTemplate", |x| template(x, &member.template))
        .text("ProtectedFromScaleIn", member.protected);
}

/// A LifecycleHook.
pub(super) fn hook(xml: &mut Xml, group: &str, hook: &Hook) {
    xml.text("LifecycleHookName", &hook.name)
        .text("AutoScalingGroupName", group)
        .text("LifecycleTransition", hook.transition.as_str())
        .maybe("NotificationTargetARN", hook.notify.as_ref())
        .maybe("RoleARN", hook.role.as_ref())
        .maybe("NotificationMetadata", hook.metadata.as_ref())
        .text("HeartbeatTimeout", hook.heartbeat)
        .text("GlobalTimeout", hook.global_timeout())
        .text("DefaultResult", hook.default_result.as_str());
}

/// An Activity.
pub(super) fn activity(xml: &mut Xml, group: &Group, activity: &Activity) {
    xml.text("ActivityId", &activity.id)
        .text("AutoScalingGroupName", &group.name)
        .text("Description", activity.description())
        .text("Cause", &activity.cause)
        .text("StartTime", iso(activity.started))
        .maybe("EndTime", activity.ended.map(iso))
        .text("StatusCode", activity.status.code())
        .maybe("StatusMessage", activity.status.message())
        .text("Progress", activity.status.progress())
        .text("Details", &activity.details)
        .text("AutoScalingGroupARN", &group.arn);
}

/// An InstanceRefresh.
pub(super) fn refresh(xml: &mut Xml, group: &str, refresh: &Refresh) {
    xml.text("InstanceRefreshId", &refresh.id)
        .text("AutoScalingGroupName", group)
        .text("Status", refresh.status.as_str())
        .maybe("StatusReason", refresh.reason.as_ref())
        .text("StartTime", iso(refresh.started))
        .maybe("EndTime", refresh.ended.map(iso))
        .text("PercentageComplete", refresh.percent)
        .text("InstancesToUpdate", refresh.to_update)
        .node("Preferences", |x| preferences(x, &refresh.preferences));
    if let Some(desired) = &refresh.desired {
        xml.node("DesiredConfiguration", |x| {
            x.node("LaunchTemplate", |x| template(x, desired));
        });
    }
    if let Some(rollback) = &refresh.rollback {
        xml.node("RollbackDetails", |x| {
            x.text("RollbackReason", &rollback.reason)
                .text("RollbackStartTime", iso(rollback.started))
                .text("PercentageCompleteOnRollback", rollback.percent)
                .text("InstancesToUpdateOnRollback", rollback.to_update);
        });
    }
    xml.text("Strategy", "Rolling");
}

fn preferences(xml: &mut Xml, preferences: &Preferences) {
    xml.text("MinHealthyPercentage", preferences.min)
        .maybe("MaxHealthyPercentage", preferences.max)
        .text("InstanceWarmup", preferences.warmup);
    if !preferences.checkpoints.is_empty() {
        xml.texts("CheckpointPercentages", "member", &preferences.checkpoints)
            .text("CheckpointDelay", preferences.checkpoint_delay);
    }
    xml.text("SkipMatching", preferences.skip_matching)
        .text("AutoRollback", preferences.auto_rollback)
        .text(
            "ScaleInProtectedInstances",
            match preferences.protected {
                Protected::Refresh => "Refresh",
                Protected::Ignore => "Ignore",
                Protected::Wait => "Wait",
            },
        )
        .text(
            "StandbyInstances",
            match preferences.standby {
                InStandby::Terminate => "Terminate",
                InStandby::Ignore => "Ignore",
                InStandby::Wait => "Wait",
            },
        );
    if !preferences.alarms.is_empty() {
        xml.node("AlarmSpecification", |x| {
            x.texts("Alarms", "member", &preferences.alarms);
        });
    }
    if preferences.bake > 0 {
        xml.text("BakeTime", preferences.bake);
    }
}
