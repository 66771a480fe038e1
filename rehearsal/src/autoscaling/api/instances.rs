//! The calls on single instances: health, protection, standby, detaching and termination.

use super::super::activities::{Activity, ActivityStatus, moment};
use super::super::environment::Environment;
use super::super::groups::Group;
use super::super::lifecycle::{self, Removal};
use super::super::members::{Health, LifecycleState, Member};
use super::call::{Call, flag, page};
use super::shapes;
use crate::ids::{Id as _, InstanceId};
use crate::wire::{ApiError, Xml};

pub(super) fn describe(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let ids = call.params.strings("InstanceIds");
    let mut found: Vec<(&str, &Member)> = call
        .state
        .groups
        .values()
        .flat_map(|group| group.members.iter().map(|m| (group.name.as_str(), m)))
        .filter(|(_, member)| ids.is_empty() || ids.iter().any(|id| member.id == id.as_str()))
        .collect();
    found.sort_by_key(|(_, member)| &member.id);
    let (found, next) = page(call.params, found, 50, 50)?;
    let mut xml = Xml::new();
    xml.list(
        "AutoScalingInstances",
        "member",
        found,
        |x, (group, member)| {
            shapes::instance_details(x, group, member);
        },
    )
    .maybe("NextToken", next);
    Ok(xml)
}

fn unknown(id: &InstanceId) -> ApiError {
    ApiError::validation(format!(
        "Instance Id not found - No managed instance found for instance ID: {id}"
    ))
}

/// The instances that the request names. One that is malformed is no member, as one that is unknown.
fn named(call: &Call<'_>) -> Vec<InstanceId> {
    let ids = call.params.strings("InstanceIds");
    ids.into_iter().map(InstanceId::unchecked).collect()
}

/// The group of an instance, and its position in it.
fn owner<'a>(
    call: &'a mut Call<'_>,
    id: &InstanceId,
) -> Result<(&'a mut Group, usize, &'a mut dyn Environment), ApiError> {
    let groups = &mut call.state.groups;
    let found = groups
        .iter()
        .find_map(|(name, group)| Some((name.clone(), group.position(id)?)));
    let Some((name, position)) = found else {
        return Err(unknown(id));
    };
    let group = groups.get_mut(&name).ok_or_else(|| unknown(id))?;
    Ok((group, position, &mut *call.environment))
}

pub(super) fn set_health(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let id = InstanceId::unchecked(call.need("InstanceId")?);
    let health = match call.need("HealthStatus")?.as_str() {
        "Healthy" => Health::Healthy,
        "Unhealthy" => Health::Reported,
        other => {
            return Err(ApiError::validation(format!(
                "Invalid health status: {other}. It must be Healthy or Unhealthy"
            )));
        }
    };
    let respect = flag(call.params, "ShouldRespectGracePeriod")?.unwrap_or(true);
    let now = call.now;
    let (group, position, _) = owner(call, &id)?;
    let grace = group.grace;
    let member = &mut group.members[position];
    if !(respect && health != Health::Healthy && member.in_grace(grace, now)) {
        member.health = health;
    }
    Ok(Xml::new())
}

/// The positions of the named instances in the group, which must all be members.
fn positions(group: &Group, ids: &[InstanceId]) -> Result<Vec<usize>, ApiError> {
    ids.iter()
        .map(|id| {
            group.position(id).ok_or_else(|| {
                ApiError::validation(format!(
                    "The instance {id} is not part of Auto Scaling group {}.",
                    group.name
                ))
            })
        })
        .collect()
}

fn must_be(group: &Group, positions: &[usize], wanted: &[LifecycleState]) -> Result<(), ApiError> {
    for member in positions.iter().map(|&position| &group.members[position]) {
        if !wanted.contains(&member.state) {
            let words: Vec<&str> = wanted.iter().map(|state| state.as_str()).collect();
            return Err(ApiError::validation(format!(
                "The instance {} is not in {}.",
                member.id,
                words.join(" or ")
            )));
        }
    }
    Ok(())
}

pub(super) fn set_protection(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let ids = named(call);
    call.need("ProtectedFromScaleIn")?;
    let protected = flag(call.params, "ProtectedFromScaleIn")?.unwrap_or_default();
    let group = call.group()?;
    let positions = positions(group, &ids)?;
    must_be(
        group,
        &positions,
        &[LifecycleState::InService, LifecycleState::Standby],
    )?;
    for position in positions {
        group.members[position].protected = protected;
    }
    Ok(Xml::new())
}

/// Lowers desired capacity by the number of removed instances, if requested and allowed by MinSize.
fn decrement(group: &mut Group, by: usize) -> Result<(), ApiError> {
    let by = u32::try_from(by).unwrap_or(u32::MAX);
    let lower = group.desired.saturating_sub(by);
    if lower < group.min_size {
        return Err(ApiError::validation(format!(
            "AutoScalingGroup {} has min-size={}, max-size={}, and desired-size={}. To place into standby, detach or terminate {by} instance(s), update the AutoScalingGroup sizes appropriately.",
            group.name, group.min_size, group.max_size, group.desired
        )));
    }
    group.desired = lower;
    Ok(())
}

pub(super) fn enter_standby(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    step_aside(call, LifecycleState::EnteringStandby)
}

pub(super) fn detach(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    step_aside(call, LifecycleState::Detaching)
}

/// EnterStandby and DetachInstances: deregisters targets; the instances stay in EC2.
fn step_aside(call: &mut Call<'_>, towards: LifecycleState) -> Result<Xml, ApiError> {
    let now = call.now;
    let ids = named(call);
    call.need("ShouldDecrementDesiredCapacity")?;
    let shrink = flag(call.params, "ShouldDecrementDesiredCapacity")?.unwrap_or_default();
    let (group, environment) = call.group_and_environment()?;
    let positions = positions(group, &ids)?;
    let may = if towards == LifecycleState::Detaching {
        &[LifecycleState::InService, LifecycleState::Standby][..]
    } else {
        &[LifecycleState::InService][..]
    };
    must_be(group, &positions, may)?;
    let before = group.desired;
    if shrink {
        decrement(group, positions.len())?;
    }
    let mut activities = Vec::new();
    for position in positions {
        let id = environment.fresh_uuid();
        let member = &mut group.members[position];
        for arn in &member.registered {
            environment.deregister_target(arn, &member.id);
        }
        member.state = towards;
        member.activity = id.clone();
        let (verb, how) = if towards == LifecycleState::Detaching {
            ("Detaching EC2 instance", "was detached")
        } else {
            ("Moving EC2 instance to Standby", "was moved to standby")
        };
        let shrinking = if shrink {
            format!(
                ", shrinking the capacity from {before} to {}",
                group.desired
            )
        } else {
            String::new()
        };
        let cause = format!(
            "At {} instance {} {how} in response to a user request{shrinking}.",
            moment(now),
            member.id
        );
        activities.push(Activity::begin(
            id,
            format!("{verb}: {}", member.id),
            cause,
            ActivityStatus::InProgress,
            details(member),
            now,
        ));
    }
    Ok(record(group, activities))
}

pub(super) fn exit_standby(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let now = call.now;
    let ids = named(call);
    let (group, environment) = call.group_and_environment()?;
    let positions = positions(group, &ids)?;
    must_be(group, &positions, &[LifecycleState::Standby])?;
    let before = group.desired;
    let more = u32::try_from(positions.len()).unwrap_or(u32::MAX);
    if before.saturating_add(more) > group.max_size {
        return Err(ApiError::validation(format!(
            "AutoScalingGroup {} has min-size={}, max-size={}, and desired-size={before}. To take {more} instance(s) out of standby, update the AutoScalingGroup sizes appropriately.",
            group.name, group.min_size, group.max_size
        )));
    }
    group.desired += more;
    let mut activities = Vec::new();
    for position in positions {
        let id = environment.fresh_uuid();
        let member = &mut group.members[position];
        member.state = LifecycleState::PendingProceed;
        member.health = Health::Healthy;
        member.activity = id.clone();
        let cause = format!(
            "At {} instance {} was moved out of standby in response to a user request, increasing the capacity from {before} to {}.",
            moment(now),
            member.id,
            group.desired
        );
        activities.push(Activity::begin(
            id,
            format!("Moving EC2 instance out of Standby: {}", member.id),
            cause,
            ActivityStatus::PreInService,
            details(member),
            now,
        ));
    }
    Ok(record(group, activities))
}

pub(super) fn terminate(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let now = call.now;
    let id = InstanceId::unchecked(call.need("InstanceId")?);
    call.need("ShouldDecrementDesiredCapacity")?;
    let shrink = flag(call.params, "ShouldDecrementDesiredCapacity")?.unwrap_or_default();
    let (group, position, environment) = owner(call, &id)?;
    let state = group.members[position].state;
    if state.is_being_removed() {
        return Err(ApiError::new(
            "ScalingActivityInProgress",
            format!("The instance {id} is already being terminated or detached."),
        ));
    }
    let before = group.desired;
    if shrink && state.is_counted() {
        decrement(group, 1)?;
    }
    if state == LifecycleState::TerminatingRetained {
        // Its termination hooks have run already.
        group.members[position].state = LifecycleState::TerminatingProceed;
        environment.terminate(&id);
    } else {
        let shrinking = (group.desired < before).then_some((before, group.desired));
        let why = Removal::Request(shrinking);
        lifecycle::remove(group, position, why, environment, now);
    }
    let activity = group.members[position].activity.clone();
    let mut xml = Xml::new();
    if let Some(activity) = group.activity_log.get(&activity) {
        xml.node("Activity", |x| {
            shapes::activity(x, group, activity);
        });
    }
    Ok(xml)
}

fn details(member: &Member) -> String {
    format!("{{\"Availability Zone\":\"{}\"}}", member.zone)
}

fn record(group: &mut Group, activities: Vec<Activity>) -> Xml {
    let mut xml = Xml::new();
    xml.list("Activities", "member", &activities, |x, activity| {
        shapes::activity(x, group, activity);
    });
    for activity in activities {
        group.activity_log.add(activity);
    }
    xml
}
