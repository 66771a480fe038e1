//! The calls on groups: create, update, delete, describe, capacity, processes and target groups.

use std::collections::BTreeMap;

use instance_refresh::{RefreshStatus, TemplateRef};

use super::super::activities::moment;
use super::super::environment::Environment;
use super::super::groups::{Group, HealthType, MaintenancePolicy, PROCESSES};
use super::super::lifecycle::{self, Removal};
use super::super::members::{LifecycleState, Member};
use super::call::{Call, UNKNOWN, flag, number, page, refuse_left_out};
use super::hooks;
use super::records;
use super::shapes;
use crate::account::{ACCOUNT, REGION};
use crate::ids::{GroupName, Id as _, SubnetId, TargetGroupArn};
use crate::table::Series;
use crate::wire::{ApiError, Params, Xml};

/// Features of groups that are not supported here.
const LEFT_OUT: [&str; 6] = [
    "LaunchConfigurationName",
    "MixedInstancesPolicy",
    "InstanceId",
    "LoadBalancerNames",
    "MaxInstanceLifetime",
    "CapacityReservationSpecification",
];

pub(super) fn create(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let name = GroupName::new(call.need("AutoScalingGroupName")?);
    let params = call.params;
    if call.state.groups.contains_key(&name) {
        return Err(ApiError::new(
            "AlreadyExists",
            format!(
                "AutoScalingGroup by this name already exists - A group with the name {name} already exists"
            ),
        ));
    }
    refuse_left_out(params, &LEFT_OUT)?;
    let template = params.structure("LaunchTemplate");
    if template.is_empty() {
        return Err(ApiError::validation(
            "Valid requests must contain either LaunchTemplate, LaunchConfigurationName, InstanceId or MixedInstancesPolicy parameter.",
        ));
    }
    let (template, _) = call
        .environment
        .template(&read_template(&template)?)
        .map_err(ApiError::validation)?;
    let mut group = Group {
        arn: format!(
            "arn:aws:autoscaling:{REGION}:{ACCOUNT}:autoScalingGroup:{}:autoScalingGroupName/{name}",
            call.environment.fresh_uuid()
        ),
        name: name.clone(),
        created: call.now,
        template,
        min_size: 0,
        max_size: 0,
        desired: 0,
        cooldown: 300,
        zones: Vec::new(),
        subnets: Vec::new(),
        target_groups: Vec::new(),
        health_type: HealthType::Ec2,
        grace: 0,
        default_warmup: None,
        termination_policies: vec!["Default".to_owned()],
        protect_new: false,
        capacity_rebalance: false,
        maintenance: None,
        retain_abandoned: false,
        tags: BTreeMap::new(),
        hooks: BTreeMap::new(),
        suspended: std::collections::BTreeSet::new(),
        members: Series::default(),
        activity_log: super::super::activities::ActivityLog::default(),
        refreshes: Series::default(),
        deleting: false,
        capacity_cause: None,
        launch_failures: 0,
        launch_not_before: None,
        unreplaced: 0,
    };
    for size in ["MinSize", "MaxSize"] {
        call.need(size)?;
    }
    settings(&mut group, params, call.environment)?;
    group.desired = number(params, "DesiredCapacity")?.unwrap_or(group.min_size);
    check_sizes(&group)?;
    if group.zones.is_empty() {
        return Err(ApiError::validation(
            "At least one Availability Zone or VPC Subnet is required.",
        ));
    }
    check_template(&group, call.environment)?;
    let mut arns = arns(params);
    for source in params.structs("TrafficSources") {
        arns.extend(source.string("Identifier").map(TargetGroupArn::new));
    }
    check_targets(&arns, call.environment)?;
    group.target_groups = arns;
    for spec in params.structs("LifecycleHookSpecificationList") {
        let hook = spec
            .string("LifecycleHookName")
            .ok_or_else(|| ApiError::validation("A lifecycle hook needs a LifecycleHookName."))?;
        group
            .hooks
            .insert(hook.clone(), hooks::read(&spec, &hook, None)?);
    }
    for (_, key, tag) in records::read_tags(params, Some(name.as_str()))? {
        group.tags.insert(key, tag);
    }
    if group.desired > 0 {
        group.capacity_cause = Some(format!(
            "At {} a user request created an AutoScalingGroup changing the desired capacity from 0 to {}.",
            moment(call.now),
            group.desired
        ));
    }
    call.state.groups.insert(name, group);
    Ok(Xml::new())
}

/// Reads a LaunchTemplateSpecification; without a version it means `$Default`, and is shown without one.
pub(super) fn read_template(spec: &Params) -> Result<TemplateRef, ApiError> {
    let text = |name: &str| spec.string(name).unwrap_or_default();
    let (id, name) = (text("LaunchTemplateId"), text("LaunchTemplateName"));
    if id.is_empty() == name.is_empty() {
        return Err(ApiError::validation(
            "Valid requests must contain either launchTemplateId or LaunchTemplateName",
        ));
    }
    let version = text("Version");
    Ok(TemplateRef { id, name, version })
}

/// Settings that create and update have in common.
fn settings(
    group: &mut Group,
    params: &Params,
    environment: &dyn Environment,
) -> Result<(), ApiError> {
    if let Some(size) = number(params, "MinSize")? {
        group.min_size = size;
    }
    if let Some(size) = number(params, "MaxSize")? {
        group.max_size = size;
    }
    if let Some(cooldown) = number(params, "DefaultCooldown")? {
        group.cooldown = cooldown;
    }
    if let Some(grace) = number(params, "HealthCheckGracePeriod")? {
        group.grace = grace;
    }
    match params.text("DefaultInstanceWarmup") {
        None => {}
        Some("-1") => group.default_warmup = None,
        Some(_) => group.default_warmup = number(params, "DefaultInstanceWarmup")?,
    }
    match params.text("HealthCheckType") {
        None => {}
        Some("EC2") => group.health_type = HealthType::Ec2,
        Some("ELB" | "EC2,ELB" | "ELB,EC2") => group.health_type = HealthType::Elb,
        Some(other) => {
            return Err(ApiError::validation(format!(
                "Invalid HealthCheckType: {other}. The rehearsal cloud supports EC2 and ELB."
            )));
        }
    }
    if let Some(protect) = flag(params, "NewInstancesProtectedFromScaleIn")? {
        group.protect_new = protect;
    }
    if let Some(rebalance) = flag(params, "CapacityRebalance")? {
        group.capacity_rebalance = rebalance;
    }
    let policies = params.strings("TerminationPolicies");
    if !policies.is_empty() {
        group.termination_policies = policies;
    }
    places(group, params, environment)?;
    let policy = params.structure("InstanceMaintenancePolicy");
    if !policy.is_empty() {
        group.maintenance = match (
            policy.text("MinHealthyPercentage"),
            policy.text("MaxHealthyPercentage"),
        ) {
            (Some("-1"), _) | (_, Some("-1")) => None,
            _ => match (
                number(&policy, "MinHealthyPercentage")?,
                number(&policy, "MaxHealthyPercentage")?,
            ) {
                (Some(min), Some(max))
                    if min <= 100 && (100..=200).contains(&max) && max - min <= 100 =>
                {
                    Some(MaintenancePolicy { min, max })
                }
                _ => {
                    return Err(ApiError::validation(
                        "InstanceMaintenancePolicy needs a MinHealthyPercentage from 0 to 100 and a MaxHealthyPercentage from 100 to 200 that differ by at most 100.",
                    ));
                }
            },
        };
    }
    match params
        .structure("InstanceLifecyclePolicy")
        .structure("RetentionTriggers")
        .text("TerminateHookAbandon")
    {
        None => {}
        Some(trigger) => group.retain_abandoned = trigger == "retain",
    }
    Ok(())
}

/// Reads the places where a group may have instances. Subnets take precedence; zones given with them must match.
fn places(
    group: &mut Group,
    params: &Params,
    environment: &dyn Environment,
) -> Result<(), ApiError> {
    if let Some(subnets) = params.text("VPCZoneIdentifier") {
        group.subnets = subnets
            .split(',')
            .map(str::trim)
            .filter(|subnet| !subnet.is_empty())
            .map(SubnetId::unchecked)
            .collect();
    }
    let mut of_subnets = Vec::new();
    for subnet in &group.subnets {
        let zone = environment.subnet_zone(subnet).ok_or_else(|| {
            ApiError::validation(format!("The subnet ID '{subnet}' does not exist"))
        })?;
        if !of_subnets.contains(&zone) {
            of_subnets.push(zone);
        }
    }
    let mut zones = params.strings("AvailabilityZones");
    zones.retain(|zone| !zone.is_empty());
    if let Some(zone) = zones.iter().find(|zone| !environment.has_zone(zone)) {
        return Err(ApiError::validation(format!(
            "Invalid Availability Zone(s): {zone}"
        )));
    }
    if of_subnets.is_empty() {
        if !zones.is_empty() {
            group.zones = zones;
        }
        return Ok(());
    }
    let is_same = zones.iter().all(|zone| of_subnets.contains(zone))
        && of_subnets.iter().all(|zone| zones.contains(zone));
    if !zones.is_empty() && !is_same {
        return Err(ApiError::validation(
            "The availability zones of the specified subnets and the AutoScalingGroup do not match",
        ));
    }
    group.zones = of_subnets;
    Ok(())
}

/// Refuses a template that EC2 would not launch from, as AWS does when a group is given one.
fn check_template(group: &Group, environment: &dyn Environment) -> Result<(), ApiError> {
    let Some(place) = group.places().into_iter().next() else {
        return Ok(());
    };
    environment
        .check_launch(&group.template, &place)
        .map_err(|why| {
            ApiError::validation(format!(
                "You must use a valid fully-formed launch template. {why}"
            ))
        })
}

fn check_sizes(group: &Group) -> Result<(), ApiError> {
    if group.min_size > group.max_size {
        return Err(ApiError::validation(format!(
            "Max bound, {}, must be greater than or equal to min bound, {}",
            group.max_size, group.min_size
        )));
    }
    if group.desired < group.min_size || group.desired > group.max_size {
        return Err(ApiError::validation(
            "Desired capacity must be between the specified min size and max size",
        ));
    }
    Ok(())
}

/// `TargetGroupARNs` of a request.
fn arns(params: &Params) -> Vec<TargetGroupArn> {
    let arns = params.strings("TargetGroupARNs");
    arns.into_iter().map(TargetGroupArn::new).collect()
}

fn check_targets(arns: &[TargetGroupArn], environment: &dyn Environment) -> Result<(), ApiError> {
    match arns
        .iter()
        .find(|arn| !environment.target_group_exists(arn))
    {
        Some(_) => Err(ApiError::validation(
            "Provided Target Groups may not be valid. Please ensure they exist and try again.",
        )),
        None => Ok(()),
    }
}

pub(super) fn update(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let (params, now) = (call.params, call.now);
    let (group, environment) = call.group_and_environment().map_err(|error| {
        // Only this call has a different message.
        let unknown = error.message.starts_with(UNKNOWN);
        if unknown {
            ApiError::validation(format!("{UNKNOWN} - null"))
        } else {
            error
        }
    })?;
    refuse_left_out(params, &LEFT_OUT)?;
    let mut changed = group.clone();
    let template = params.structure("LaunchTemplate");
    if !template.is_empty() {
        if group
            .active_refresh()
            .is_some_and(|refresh| refresh.desired.is_some())
        {
            return Err(ApiError::validation(
                "An active instance refresh with a desired configuration exists. All configuration options derived from the desired configuration are not available for update while the instance refresh is active.",
            ));
        }
        let (template, _) = environment
            .template(&read_template(&template)?)
            .map_err(ApiError::validation)?;
        changed.template = template.clone();
        // A refresh without a desired configuration follows the group.
        if let Some(refresh) = changed
            .active_refresh_mut()
            .filter(|refresh| refresh.status != RefreshStatus::RollbackInProgress)
        {
            refresh.target = template;
        }
    }
    settings(&mut changed, params, environment)?;
    if !template.is_empty() {
        check_template(&changed, environment)?;
    }
    changed.desired = match number(params, "DesiredCapacity")? {
        Some(desired) => desired,
        None if changed.min_size <= changed.max_size => {
            group.desired.clamp(changed.min_size, changed.max_size)
        }
        None => group.desired,
    };
    check_sizes(&changed)?;
    if changed.desired != group.desired {
        changed.capacity_cause = Some(format!(
            "At {} a user request update of AutoScalingGroup constraints to min: {}, max: {}, desired: {} changing the desired capacity from {} to {}.",
            moment(now),
            changed.min_size,
            changed.max_size,
            changed.desired,
            group.desired,
            changed.desired
        ));
    }
    *group = changed;
    Ok(Xml::new())
}

pub(super) fn set_desired(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let now = call.now;
    call.need("DesiredCapacity")?;
    let wanted = number(call.params, "DesiredCapacity")?.unwrap_or_default();
    let group = call.group()?;
    let refuse = |side: &str, bound: u32| {
        Err(ApiError::validation(format!(
            "New SetDesiredCapacity value {wanted} is {side} value {bound} for the AutoScalingGroup."
        )))
    };
    if wanted < group.min_size {
        return refuse("below min", group.min_size);
    }
    if wanted > group.max_size {
        return refuse("above max", group.max_size);
    }
    if wanted != group.desired {
        group.capacity_cause = Some(format!(
            "At {} a user request explicitly set group desired capacity changing the desired capacity from {} to {wanted}.",
            moment(now),
            group.desired
        ));
        group.desired = wanted;
    }
    Ok(Xml::new())
}

pub(super) fn delete(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let now = call.now;
    let force = flag(call.params, "ForceDelete")?.unwrap_or(false);
    let (group, environment) = call.group_and_environment()?;
    if !force {
        let staying = |state: LifecycleState| !state.is_being_removed();
        if group.members.iter().any(|m| staying(m.state)) {
            return Err(ApiError::new(
                "ResourceInUse",
                "You cannot delete an AutoScalingGroup while there are instances or pending Spot instance request(s) still in the group.",
            ));
        }
        if !group.members.is_empty() {
            return Err(ApiError::new(
                "ScalingActivityInProgress",
                "You cannot delete an AutoScalingGroup while there are scaling activities in progress for that group.",
            ));
        }
    }
    group.deleting = true;
    group.min_size = 0;
    group.desired = 0;
    for position in group.members.places() {
        if group.members[position].state.is_being_removed() {
            group.members[position].skip_hooks = true;
            for action in &mut group.members[position].actions {
                action
                    .result
                    .get_or_insert(super::super::groups::HookResult::Continue);
            }
        } else {
            lifecycle::remove(group, position, Removal::ForceDelete, environment, now);
        }
    }
    if group.members.is_empty() {
        let name = group.name.clone();
        call.state.groups.remove(&name);
    }
    Ok(Xml::new())
}

pub(super) fn describe(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let params = call.params;
    let names = params.strings("AutoScalingGroupNames");
    let filters = params.structs("Filters");
    let with_instances = flag(params, "IncludeInstances")?.unwrap_or(true);
    let found: Vec<&Group> = call
        .state
        .groups
        .values()
        .filter(|group| {
            names.is_empty()
                || names
                    .iter()
                    .any(|n| group.name == n.as_str() || *n == group.arn)
        })
        .filter(|group| filters.iter().all(|filter| passes(filter, group)))
        .collect();
    let (found, next) = page(params, found, 50, 100)?;
    let mut xml = Xml::new();
    xml.list("AutoScalingGroups", "member", found, |x, group| {
        shapes::group(x, group, with_instances);
    })
    .maybe("NextToken", next);
    Ok(xml)
}

fn passes(filter: &Params, group: &Group) -> bool {
    let values = filter.list("Values");
    match filter.text("Name").unwrap_or_default() {
        "tag-key" => values.iter().any(|key| group.tags.contains_key(*key)),
        "tag-value" => group
            .tags
            .values()
            .any(|tag| values.contains(&tag.value.as_str())),
        name => match name.strip_prefix("tag:") {
            Some(key) => group
                .tags
                .get(key)
                .is_some_and(|tag| values.contains(&tag.value.as_str())),
            None => true,
        },
    }
}

/// Suspends (or resumes) the named processes, or all when none is named.
pub(super) fn suspend(call: &mut Call<'_>, suspend: bool) -> Result<Xml, ApiError> {
    let mut named = call.params.strings("ScalingProcesses");
    if let Some(unknown) = named
        .iter()
        .find(|name| !PROCESSES.contains(&name.as_str()))
    {
        return Err(ApiError::validation(format!(
            "Invalid process name: {unknown}. It must be one of {}",
            PROCESSES.join(", ")
        )));
    }
    if named.is_empty() {
        named = PROCESSES.iter().map(|&name| name.to_owned()).collect();
    }
    let group = call.group()?;
    for name in named {
        if suspend {
            group.suspended.insert(name);
        } else {
            group.suspended.remove(&name);
        }
    }
    Ok(Xml::new())
}

pub(super) fn attach_targets(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let arns = arns(call.params);
    let (group, environment) = call.group_and_environment()?;
    check_targets(&arns, environment)?;
    for arn in arns {
        if group.target_groups.contains(&arn) {
            continue;
        }
        if !group.is_suspended("AddToLoadBalancer") {
            let serves = |member: &Member| member.state == LifecycleState::InService;
            group.members.update_where(serves, |member| {
                environment.register_target(&arn, &member.id);
                member.registered.push(arn.clone());
            });
        }
        group.target_groups.push(arn);
    }
    Ok(Xml::new())
}

pub(super) fn detach_targets(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let arns = arns(call.params);
    let (group, environment) = call.group_and_environment()?;
    if arns.iter().any(|arn| !group.target_groups.contains(arn)) {
        return Err(ApiError::validation(
            "Trying to remove Target Groups that are not part of the group",
        ));
    }
    for arn in &arns {
        group.target_groups.retain(|known| known != arn);
        let registered = |member: &Member| {
            member.state == LifecycleState::InService && member.registered.contains(arn)
        };
        group.members.update_where(registered, |member| {
            environment.deregister_target(arn, &member.id);
            member.registered.retain(|known| known != arn);
        });
    }
    Ok(Xml::new())
}

pub(super) fn describe_targets(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let params = call.params;
    let (group, environment) = call.group_and_environment()?;
    let (arns, next) = page(params, group.target_groups.clone(), 100, 100)?;
    let mut xml = Xml::new();
    xml.list("LoadBalancerTargetGroups", "member", arns, |x, arn| {
        let in_service = group.members.iter().any(|member| {
            member.registered.contains(&arn)
                && environment.target_health(&arn, &member.id).as_deref() == Some("healthy")
        });
        x.text("LoadBalancerTargetGroupARN", &arn)
            .text("State", if in_service { "InService" } else { "Added" });
    })
    .maybe("NextToken", next);
    Ok(xml)
}
