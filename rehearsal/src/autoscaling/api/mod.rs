//! The query protocol of Auto Scaling (2011-01-01): reads and checks requests, and writes answers.
//!
//! Owns names, formats, paging and the texts of errors. Must not decide what groups do; it changes settings, and `tick`
//! does the rest.

use super::State;
use super::environment::Environment;
use crate::request::RequestContext;
use crate::wire::{ApiError, Params, Xml};

mod call;
mod groups;
mod hooks;
mod instances;
mod records;
mod refreshes;
mod shapes;

use call::Call;

/// Answers one Auto Scaling request; see [`crate::cloud`] for the convention.
///
/// # Errors
/// Auto Scaling's own errors.
pub(crate) fn handle(
    state: &mut State,
    environment: &mut dyn Environment,
    ctx: &RequestContext,
    action: &str,
    params: &Params,
) -> Result<Xml, ApiError> {
    let mut call = Call {
        state,
        environment,
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
