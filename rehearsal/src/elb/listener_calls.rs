//! The calls on listeners.

use super::balancer_calls;
use super::call::{Call, arn, left_out, need, number, page};
use super::group_calls;
use super::listeners::Listener;
use super::state::State;
use super::tags;
use crate::ids::{BalancerArn, ListenerArn, TargetGroupArn};
use crate::wire::{ApiError, Params, Xml, ids};

fn not_found() -> ApiError {
    ApiError::new("ListenerNotFound", "One or more listeners not found")
}

pub(super) fn create(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let params = call.params;
    let balancer = BalancerArn::new(call.need("LoadBalancerArn")?);
    let path = balancer_calls::find(call.state, balancer.as_str())?
        .path()
        .to_owned();
    check_protocol(call.need("Protocol")?)?;
    let port = number(params, "Port", 1, u16::MAX)?
        .ok_or_else(|| ApiError::validation("A port must be specified"))?;
    let target_group = action(params)?
        .ok_or_else(|| ApiError::validation("A default action must be specified"))?;
    check_target_group(call.state, &target_group, &balancer)?;
    let tags = tags::read(params)?;
    check_free(call.state, &balancer, port, None)?;
    let listener = Listener {
        arn: ListenerArn::new(arn(format_args!("listener/{path}/{}", ids::hex(16)))),
        balancer,
        port,
        target_group,
    };
    let answer = shown(&[&listener], None);
    call.state.tags.insert(listener.arn.to_string(), tags);
    call.state.listeners.insert(listener.arn.clone(), listener);
    Ok(answer)
}

pub(super) fn modify(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let params = call.params;
    let arn = ListenerArn::new(call.need("ListenerArn")?);
    let was = call.state.listeners.get(&arn).ok_or_else(not_found)?;
    if let Some(protocol) = params.text("Protocol") {
        check_protocol(protocol)?;
    }
    let listener = Listener {
        port: number(params, "Port", 1, u16::MAX)?.unwrap_or(was.port),
        target_group: action(params)?.unwrap_or_else(|| was.target_group.clone()),
        ..was.clone()
    };
    check_target_group(call.state, &listener.target_group, &listener.balancer)?;
    check_free(call.state, &listener.balancer, listener.port, Some(&arn))?;
    let answer = shown(&[&listener], None);
    call.state.listeners.insert(arn, listener);
    Ok(answer)
}

pub(super) fn delete(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let arn = ListenerArn::new(call.need("ListenerArn")?);
    call.state.listeners.remove(&arn).ok_or_else(not_found)?;
    call.state.tags.remove(arn.as_str());
    Ok(Xml::new())
}

pub(super) fn describe(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let params = call.params;
    let arns = params.list("ListenerArns");
    let balancer = params.text("LoadBalancerArn");
    let state = &*call.state;
    match balancer {
        None if arns.is_empty() => {
            return Err(ApiError::validation(
                "You must specify either listener ARNs or a load balancer ARN",
            ));
        }
        None => {}
        Some(balancer) => {
            balancer_calls::find(state, balancer)?;
        }
    }
    for wanted in &arns {
        state.listeners.get(*wanted).ok_or_else(not_found)?;
    }
    let mut found: Vec<&Listener> = state
        .listeners
        .values()
        .filter(|listener| arns.is_empty() || arns.contains(&listener.arn.as_str()))
        .filter(|listener| balancer.is_none_or(|balancer| listener.balancer == balancer))
        .collect();
    found.sort_by_key(|listener| listener.port);
    let (found, next) = page(params, found)?;
    Ok(shown(&found, next))
}

/// DescribeRules: every listener has its default rule, and no other.
pub(super) fn describe_rules(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let asked = call.params.list("RuleArns");
    let of = call.params.text("ListenerArn");
    if asked.is_empty() == of.is_none() {
        return Err(ApiError::validation(
            "You must specify either rule ARNs or a listener ARN",
        ));
    }
    let mut rules = Vec::new();
    for listener in call.state.listeners.values() {
        let rule = format!(
            "{}/{}",
            listener
                .arn
                .as_str()
                .replacen(":listener/", ":listener-rule/", 1),
            listener.arn.as_str().rsplit('/').next().unwrap_or_default()
        );
        if of == Some(listener.arn.as_str()) || asked.contains(&rule.as_str()) {
            rules.push((rule, listener));
        }
    }
    if of.is_some() && rules.is_empty() {
        return Err(not_found());
    }
    if rules.len() < asked.len() {
        return Err(ApiError::new("RuleNotFound", "One or more rules not found"));
    }
    let mut xml = Xml::new();
    xml.list("Rules", "member", rules, |x, (rule, listener)| {
        x.text("RuleArn", rule)
            .text("Priority", "default")
            .text("Conditions", "");
        write_actions(x, "Actions", listener);
        x.text("IsDefault", true);
    });
    Ok(xml)
}

fn check_protocol(protocol: &str) -> Result<(), ApiError> {
    match protocol {
        "HTTP" => Ok(()),
        _ => Err(left_out(&format!("Protocol {protocol} of a listener"))),
    }
}

fn check_free(
    state: &State,
    balancer: &BalancerArn,
    port: u16,
    but: Option<&ListenerArn>,
) -> Result<(), ApiError> {
    let taken = state.listeners.values().any(|listener| {
        listener.balancer == *balancer && listener.port == port && Some(&listener.arn) != but
    });
    if taken {
        return Err(ApiError::new(
            "DuplicateListener",
            format!("A listener already exists on this port for this load balancer '{balancer}'"),
        ));
    }
    Ok(())
}

/// A target group serves one load balancer only.
fn check_target_group(
    state: &mut State,
    target_group: &TargetGroupArn,
    balancer: &BalancerArn,
) -> Result<(), ApiError> {
    group_calls::find(state, target_group)?;
    let elsewhere = state
        .listeners
        .values()
        .any(|listener| listener.target_group == *target_group && listener.balancer != *balancer);
    if elsewhere {
        return Err(ApiError::new(
            "TargetGroupAssociationLimit",
            format!(
                "The following target groups cannot be associated with more than one load balancer: {target_group}"
            ),
        ));
    }
    Ok(())
}

/// The target group that the one default action forwards to; `None` when there is no action.
fn action(params: &Params) -> Result<Option<TargetGroupArn>, ApiError> {
    let actions = params.structs("DefaultActions");
    let action = match actions.as_slice() {
        [] => return Ok(None),
        [action] => action,
        _ => return Err(left_out("A listener with several default actions")),
    };
    match need(action, "Type")? {
        "forward" => {}
        kind => return Err(left_out(&format!("A default action of type {kind}"))),
    }
    if action.text("ForwardConfig.TargetGroupStickinessConfig.Enabled") == Some("true") {
        return Err(left_out("Target group stickiness"));
    }
    let weighted = action.structs("ForwardConfig.TargetGroups");
    let of_config = match weighted.as_slice() {
        [] => None,
        [one] => one.text("TargetGroupArn"),
        _ => return Err(left_out("Forwarding to several target groups")),
    };
    let named = action.text("TargetGroupArn");
    match (named, of_config) {
        (Some(a), Some(b)) if a != b => Err(ApiError::validation(
            "The target group of an action must be the one of its ForwardConfig",
        )),
        (Some(arn), _) | (None, Some(arn)) => Ok(Some(TargetGroupArn::new(arn))),
        (None, None) => Err(ApiError::validation(
            "A target group ARN must be specified for actions of type 'forward'",
        )),
    }
}

fn write_actions(xml: &mut Xml, name: &str, listener: &Listener) {
    xml.list(name, "member", [listener], |x, listener| {
        x.text("Type", "forward")
            .text("TargetGroupArn", &listener.target_group)
            .text("Order", 1)
            .node("ForwardConfig", |x| {
                x.list("TargetGroups", "member", [listener], |x, listener| {
                    x.text("TargetGroupArn", &listener.target_group)
                        .text("Weight", 1);
                })
                .node("TargetGroupStickinessConfig", |x| {
                    x.text("Enabled", false);
                });
            });
    });
}

fn shown(listeners: &[&Listener], next: Option<String>) -> Xml {
    let mut xml = Xml::new();
    xml.list("Listeners", "member", listeners, |x, listener| {
        x.text("ListenerArn", &listener.arn)
            .text("LoadBalancerArn", &listener.balancer)
            .text("Port", listener.port)
            .text("Protocol", "HTTP");
        write_actions(x, "DefaultActions", listener);
    })
    .maybe("NextMarker", next);
    xml
}
