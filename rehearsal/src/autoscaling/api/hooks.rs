//! Lifecycle hooks and the actions they open.

use super::super::groups::{Hook, HookResult, Transition};
use super::super::members::{LifecycleAction, Member};
use super::call::{Call, number};
use super::shapes;
use crate::wire::{ApiError, Params, Xml};

/// HeartbeatTimeout when none is given, in seconds.
const DEFAULT_HEARTBEAT: u32 = 3600;
/// Hooks a group may have.
const MOST_HOOKS: usize = 50;

pub(super) fn put(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let name = call.need("LifecycleHookName")?;
    let params = call.params;
    let group = call.group()?;
    let hook = read(params, &name, group.hooks.get(&name))?;
    if group.hooks.len() >= MOST_HOOKS && !group.hooks.contains_key(&name) {
        return Err(ApiError::new(
            "LimitExceeded",
            format!("A group can have up to {MOST_HOOKS} lifecycle hooks."),
        ));
    }
    group.hooks.insert(name, hook);
    Ok(Xml::new())
}

/// Reads a hook; omitted fields keep their values from `before`.
pub(super) fn read(params: &Params, name: &str, before: Option<&Hook>) -> Result<Hook, ApiError> {
    let transition = match params.text("LifecycleTransition") {
        Some("autoscaling:EC2_INSTANCE_LAUNCHING") => Transition::Launching,
        Some("autoscaling:EC2_INSTANCE_TERMINATING") => Transition::Terminating,
        Some(other) => {
            return Err(ApiError::validation(format!(
                "Invalid Lifecycle Transition: {other}. It must be one of [autoscaling:EC2_INSTANCE_LAUNCHING, autoscaling:EC2_INSTANCE_TERMINATING]"
            )));
        }
        None => before.map(|hook| hook.transition).ok_or_else(|| {
            ApiError::validation(
                "You must specify LifecycleTransition when you create a lifecycle hook.",
            )
        })?,
    };
    let default_result = match params.text("DefaultResult") {
        Some(text) => result(text)?,
        None => before.map_or(HookResult::Abandon, |hook| hook.default_result),
    };
    let heartbeat = number(params, "HeartbeatTimeout")?
        .unwrap_or_else(|| before.map_or(DEFAULT_HEARTBEAT, |hook| hook.heartbeat));
    if !(30..=7200).contains(&heartbeat) {
        return Err(ApiError::validation(format!(
            "Heartbeat timeout {heartbeat} is invalid. It must be between 30 and 7200 seconds."
        )));
    }
    let kept = |name: &str, old: fn(&Hook) -> &Option<String>| {
        params
            .string(name)
            .or_else(|| before.and_then(|hook| old(hook).clone()))
            .filter(|text| !text.is_empty())
    };
    Ok(Hook {
        name: name.to_owned(),
        transition,
        heartbeat,
        default_result,
        metadata: kept("NotificationMetadata", |hook| &hook.metadata),
        notify: kept("NotificationTargetARN", |hook| &hook.notify),
        role: kept("RoleARN", |hook| &hook.role),
    })
}

fn result(text: &str) -> Result<HookResult, ApiError> {
    match text {
        "CONTINUE" => Ok(HookResult::Continue),
        "ABANDON" => Ok(HookResult::Abandon),
        _ => Err(ApiError::validation(format!(
            "Invalid Lifecycle Action Result: {text}. It must be one of [CONTINUE, ABANDON]"
        ))),
    }
}

pub(super) fn delete(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let name = call.need("LifecycleHookName")?;
    let group = call.group()?;
    if group.hooks.remove(&name).is_none() {
        return Err(ApiError::validation(format!(
            "No Lifecycle Hook found with the name {name} in the AutoScalingGroup {}",
            group.name
        )));
    }
    // Deleting a hook completes its open actions: ABANDON for launches, CONTINUE for terminations.
    let open = |member: &Member| member.actions.iter().any(|a| a.hook == name);
    group.members.update_where(open, |member| {
        let answer = if member.state.is_pending() {
            HookResult::Abandon
        } else {
            HookResult::Continue
        };
        for action in member.actions.iter_mut().filter(|a| a.hook == name) {
            action.result.get_or_insert(answer);
        }
    });
    Ok(Xml::new())
}

pub(super) fn describe(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let names = call.params.strings("LifecycleHookNames");
    let group = call.group()?;
    let mut xml = Xml::new();
    xml.list(
        "LifecycleHooks",
        "member",
        group
            .hooks
            .values()
            .filter(|hook| names.is_empty() || names.contains(&hook.name)),
        |x, hook| shapes::hook(x, group.name.as_str(), hook),
    );
    Ok(xml)
}

pub(super) fn types() -> Xml {
    let mut xml = Xml::new();
    xml.texts(
        "LifecycleHookTypes",
        "member",
        [
            Transition::Launching.as_str(),
            Transition::Terminating.as_str(),
        ],
    );
    xml
}

pub(super) fn complete(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let answer = result(&call.need("LifecycleActionResult")?)?;
    open_action(call)?.result = Some(answer);
    Ok(Xml::new())
}

pub(super) fn beat(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let now = call.now;
    open_action(call)?.beat(now);
    Ok(Xml::new())
}

/// The open action for a hook's name and an instance id or a token.
fn open_action<'a>(call: &'a mut Call<'_>) -> Result<&'a mut LifecycleAction, ApiError> {
    let now = call.now;
    let hook = call.need("LifecycleHookName")?;
    let instance = call.params.string("InstanceId");
    let token = call.params.string("LifecycleActionToken");
    let refusal = match (&instance, &token) {
        (_, Some(token)) => ApiError::validation(format!(
            "No active Lifecycle Action found with token {token}"
        )),
        (Some(id), None) => ApiError::validation(format!(
            "No active Lifecycle Action found with instance ID {id}"
        )),
        (None, None) => {
            return Err(ApiError::validation(
                "Either the instance ID or the lifecycle action token must be specified.",
            ));
        }
    };
    let group = call.group()?;
    let wanted = |action: &LifecycleAction| {
        action.hook == hook
            && token.as_ref().is_none_or(|t| *t == action.token)
            && action.result.is_none()
            && now < action.deadline
    };
    let place = group.members.first_where(|member| {
        instance.as_ref().is_none_or(|id| member.id == id.as_str())
            && member.actions.iter().any(wanted)
    });
    place
        .and_then(|place| group.members.get_mut(place))
        .and_then(|member| member.actions.iter_mut().find(|action| wanted(action)))
        .ok_or(refusal)
}
