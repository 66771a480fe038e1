//! Elastic Load Balancing v2: target groups, load balancers and listeners, and the health of their targets.
//!
//! Owns the state and the query protocol (2015-12-01). It carries no traffic and makes no health check: `balancer.rs`
//! does both, reads the state through [`BalancerSource`](crate::balancer_source::BalancerSource) (see `source`), and
//! reports results. Reaches EC2 only through [`Ec2View`].
//!
//! `targets`, `groups`, `balancers` and `listeners` are the types and their rules, `…_calls` the calls on them, `tags`
//! the tags of all three.
//!
//! # Not as on AWS
//!
//! - Application load balancers, HTTP listeners and target groups of HTTP and type `instance` only. A listener forwards
//!   to one target group; there are no rules beside its default. Everything else is refused by name.
//! - A load balancer has one address, and its DNSName is that address as text. Security groups are shown and filter
//!   nothing.
//! - Stickiness, slow start and algorithms other than `round_robin` are refused.
//! - A health check's outcome counts for every port its instance is registered on in the group.

use jiff::Timestamp;

use crate::request::RequestContext;
use crate::wire::{ApiError, Params, Xml};

mod balancer_calls;
mod balancers;
mod call;
mod ec2_view;
mod group_calls;
mod groups;
mod listener_calls;
mod listeners;
mod source;
mod state;
mod tags;
mod target_calls;
mod targets;
#[cfg(test)]
mod tests;

use call::Call;
pub(crate) use ec2_view::{Ec2View, InstanceState, InstanceView};
pub(crate) use state::State;

/// Answers one ELB request; see [`crate::cloud`] for the convention.
///
/// # Errors
/// ELB's own errors.
pub(crate) fn handle(
    state: &mut State,
    ec2: &mut dyn Ec2View,
    ctx: &RequestContext,
    action: &str,
    params: &Params,
) -> Result<Xml, ApiError> {
    if params.text("Version") == Some(CLASSIC) {
        return classic(action, params);
    }
    tick(state, ec2, ctx.now);
    let call = &mut Call {
        state,
        ec2,
        now: ctx.now,
        params,
    };
    match action {
        "CreateTargetGroup" => group_calls::create(call),
        "ModifyTargetGroup" => group_calls::modify(call),
        "DeleteTargetGroup" => group_calls::delete(call),
        "DescribeTargetGroups" => group_calls::describe(call),
        "DescribeTargetGroupAttributes" => group_calls::describe_attributes(call),
        "ModifyTargetGroupAttributes" => group_calls::modify_attributes(call),
        "RegisterTargets" => target_calls::register(call),
        "DeregisterTargets" => target_calls::deregister(call),
        "DescribeTargetHealth" => target_calls::describe(call),
        "CreateLoadBalancer" => balancer_calls::create(call),
        "DeleteLoadBalancer" => balancer_calls::delete(call),
        "DescribeLoadBalancers" => balancer_calls::describe(call),
        "DescribeLoadBalancerAttributes" => balancer_calls::describe_attributes(call),
        "ModifyLoadBalancerAttributes" => balancer_calls::modify_attributes(call),
        "CreateListener" => listener_calls::create(call),
        "ModifyListener" => listener_calls::modify(call),
        "DeleteListener" => listener_calls::delete(call),
        "DescribeListeners" => listener_calls::describe(call),
        "DescribeRules" => listener_calls::describe_rules(call),
        "AddTags" => tags::add(call),
        "RemoveTags" => tags::remove(call),
        "DescribeTags" => tags::describe(call),
        _ => Err(ApiError::invalid_action(action)),
    }
}

/// Updates targets over time: those of terminated instances are deregistered, and drained ones are removed.
pub(crate) fn tick(state: &mut State, ec2: &dyn Ec2View, now: Timestamp) {
    let used = state.used_groups();
    state.groups.update_where(
        |_, group| group.has_departed(ec2, now),
        |arn, group| group.forget_departed(used.contains(arn), ec2, now),
    );
}

/// The API version of Classic Load Balancers, which have the same service name.
const CLASSIC: &str = "2012-06-01";

/// Answers for Classic Load Balancers: there are none, and none can be created.
fn classic(action: &str, params: &Params) -> Result<Xml, ApiError> {
    if action != "DescribeLoadBalancers" {
        return Err(ApiError::new(
            "UnsupportedOperation",
            format!(
                "{action} of Classic Load Balancers (API {CLASSIC}) is not part of the rehearsal cloud; see docs/fidelity.md"
            ),
        ));
    }
    if let Some(name) = params.list("LoadBalancerNames").first() {
        return Err(ApiError::new(
            "LoadBalancerNotFound",
            format!("There is no ACTIVE Load Balancer named '{name}'"),
        ));
    }
    let mut xml = Xml::new();
    xml.node("LoadBalancerDescriptions", |_| {});
    Ok(xml)
}
