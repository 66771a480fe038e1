//! The query protocol of Auto Scaling (2011-01-01): reads requests, checks them, writes answers.
//!
//! Owns the wire: names, shapes, paging and the texts of refusals. Must not decide what groups do; it
//! changes settings and lets `tick` do the rest.

use super::State;
use super::groups::Group;
use super::world::World;
use crate::cloud::RequestContext;
use crate::wire::{ApiError, Params, Xml};

mod groups;
mod hooks;
mod instances;
mod records;
mod refreshes;
mod shapes;

/// One request with all it may touch.
struct Call<'a> {
    state: &'a mut State,
    world: &'a mut dyn World,
    now: jiff::Timestamp,
    params: &'a Params,
}

/// Answers one Auto Scaling request; see [`crate::cloud`] for the convention.
///
/// # Errors
/// What Auto Scaling itself would say.
pub(crate) fn handle(
    state: &mut State,
    world: &mut dyn World,
    ctx: &RequestContext,
    action: &str,
    params: &Params,
) -> Result<Xml, ApiError> {
    let mut call = Call {
        state,
        world,
        now: ctx.now,
        params,
    };
    let call = &mut call;
    match action {
        "CreateAutoScalingGroup" => groups::create(call),
        "UpdateAutoScalingGroup" => groups::update(call),
        "DeleteAutoScalingGroup" => groups::delete(call),
        "DescribeAutoScalingGroups" => groups::describe(call),
        "SetDesiredCapacity" => groups::set_desired(call),
        "SuspendProcesses" => groups::suspend(call, true),
        "ResumeProcesses" => groups::suspend(call, false),
        "AttachLoadBalancerTargetGroups" => groups::attach_targets(call),
        "DetachLoadBalancerTargetGroups" => groups::detach_targets(call),
        "DescribeLoadBalancerTargetGroups" => groups::describe_targets(call),
        "PutLifecycleHook" => hooks::put(call),
        "DeleteLifecycleHook" => hooks::delete(call),
        "DescribeLifecycleHooks" => hooks::describe(call),
        "DescribeLifecycleHookTypes" => Ok(hooks::types()),
        "CompleteLifecycleAction" => hooks::complete(call),
        "RecordLifecycleActionHeartbeat" => hooks::beat(call),
        "DescribeAutoScalingInstances" => instances::describe(call),
        "SetInstanceHealth" => instances::set_health(call),
        "SetInstanceProtection" => instances::set_protection(call),
        "EnterStandby" => instances::enter_standby(call),
        "ExitStandby" => instances::exit_standby(call),
        "DetachInstances" => instances::detach(call),
        "TerminateInstanceInAutoScalingGroup" => instances::terminate(call),
        "DescribeScalingActivities" => records::activities(call),
        "CreateOrUpdateTags" => records::put_tags(call),
        "DeleteTags" => records::delete_tags(call),
        "DescribeTags" => records::tags(call),
        "DescribeScalingProcessTypes" => Ok(records::process_types()),
        "StartInstanceRefresh" => refreshes::start(call),
        "CancelInstanceRefresh" => refreshes::cancel(call),
        "RollbackInstanceRefresh" => refreshes::roll_back(call),
        "DescribeInstanceRefreshes" => refreshes::describe(call),
        _ => Err(ApiError::invalid_action(action)),
    }
}

impl Call<'_> {
    /// A text the call cannot do without.
    fn need(&self, name: &str) -> Result<String, ApiError> {
        self.params
            .string(name)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| {
                let mut field = name.to_owned();
                field[..1].make_ascii_lowercase();
                ApiError::validation(format!(
                    "1 validation error detected: Value null at '{field}' failed to satisfy constraint: Member must not be null"
                ))
            })
    }

    /// The group named by AutoScalingGroupName (a name or an ARN), to change it.
    fn group(&mut self) -> Result<&mut Group, ApiError> {
        let name = self.need("AutoScalingGroupName")?;
        find(self.state, &name)
    }

    /// The group with the world, for what needs both.
    fn group_and_world(&mut self) -> Result<(&mut Group, &mut dyn World), ApiError> {
        let name = self.need("AutoScalingGroupName")?;
        Ok((find(self.state, &name)?, &mut *self.world))
    }
}

/// How Auto Scaling says that there is no such group.
const UNKNOWN: &str = "AutoScalingGroup name not found";

fn find<'a>(state: &'a mut State, name: &str) -> Result<&'a mut Group, ApiError> {
    let bare = name
        .rsplit_once("autoScalingGroupName/")
        .map_or(name, |(_, bare)| bare);
    state.groups.get_mut(bare).ok_or_else(|| {
        ApiError::validation(format!("{UNKNOWN} - AutoScalingGroup '{bare}' not found"))
    })
}

/// A whole number that is not negative.
fn number(params: &Params, name: &str) -> Result<Option<u32>, ApiError> {
    params
        .text(name)
        .map(|text| {
            text.parse().map_err(|_| {
                ApiError::validation(format!(
                    "{name} must be a whole number from 0, not '{text}'"
                ))
            })
        })
        .transpose()
}

/// `true` or `false`.
fn flag(params: &Params, name: &str) -> Result<Option<bool>, ApiError> {
    params
        .boolean(name)
        .map_err(|error| ApiError::validation(error.message))
}

/// Refuses parameters that name a part of AWS left out here.
fn refuse_left_out(params: &Params, names: &[&str]) -> Result<(), ApiError> {
    match names.iter().find(|name| params.has(name)) {
        Some(name) => Err(ApiError::validation(format!(
            "{name} is not part of the rehearsal cloud; see docs/fidelity.md"
        ))),
        None => Ok(()),
    }
}

/// The page of `items` that NextToken and MaxRecords ask for, with the token of the next one.
fn page<T>(
    params: &Params,
    items: Vec<T>,
    usual: u32,
    most: u32,
) -> Result<(Vec<T>, Option<String>), ApiError> {
    let size = number(params, "MaxRecords")?.unwrap_or(usual);
    if size == 0 || size > most {
        return Err(ApiError::validation(format!(
            "MaxRecords must be between 1 and {most}"
        )));
    }
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let from = match params.text("NextToken").filter(|token| !token.is_empty()) {
        None => 0,
        Some(token) => token
            .strip_prefix("from-")
            .and_then(|offset| offset.parse::<usize>().ok())
            .filter(|offset| *offset <= items.len())
            .ok_or_else(|| {
                ApiError::new(
                    "InvalidNextToken",
                    format!("The token '{token}' is invalid."),
                )
            })?,
    };
    let next = (items.len() > from + size).then(|| format!("from-{}", from + size));
    Ok((items.into_iter().skip(from).take(size).collect(), next))
}
