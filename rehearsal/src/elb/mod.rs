//! Elastic Load Balancing v2: target groups, load balancers and listeners, and what they know of
//! their targets.
//!
//! Owns the books and the query protocol (2015-12-01). It carries no traffic and sends no health
//! check: `balancer.rs` does both, told by [`BalancerSource`](crate::balancer_source::BalancerSource)
//! (in `source`), and reports what it saw. Reaches EC2 only through [`Estate`].
//!
//! `targets` holds the rules of one target, `groups`, `balancers` and `listeners` the things and
//! their calls, `tags` what all three share.
//!
//! # Not as on AWS
//!
//! - Application load balancers, HTTP listeners and target groups of HTTP and type `instance` only. A
//!   listener forwards to one target group; there are no rules beside its default. What else is asked
//!   is refused by name.
//! - A load balancer has one address, and its DNSName is that address as text. Security groups are
//!   shown and filter nothing.
//! - Stickiness, slow start and algorithms other than `round_robin` are refused.
//! - A health check's outcome counts for every port its instance is registered on in the group.

use std::collections::BTreeMap;

use anyhow::Context as _;
use jiff::Timestamp;

use crate::cloud::{ACCOUNT, REGION, RequestContext};
use crate::table::{Changes, Series, Table, place, read};
use crate::wire::{ApiError, Params, Xml};

mod balancers;
mod estate;
mod groups;
mod listeners;
mod source;
mod tags;
mod targets;
#[cfg(test)]
mod tests;

pub(crate) use estate::{Estate, Machine, MachineState};

/// Everything ELB remembers.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Target groups by ARN.
    groups: Table<String, groups::TargetGroup>,
    /// Load balancers by ARN.
    balancers: Table<String, balancers::LoadBalancer>,
    /// Listeners by ARN.
    listeners: Table<String, listeners::Listener>,
    /// Tags by ARN.
    tags: Table<String, BTreeMap<String, String>>,
}

/// One request with all it may touch.
struct Call<'a> {
    state: &'a mut State,
    estate: &'a mut dyn Estate,
    now: Timestamp,
    params: &'a Params,
}

/// Answers one ELB request; see [`crate::cloud`] for the convention.
///
/// # Errors
/// What ELB itself would say.
pub(crate) fn handle(
    state: &mut State,
    estate: &mut dyn Estate,
    ctx: &RequestContext,
    action: &str,
    params: &Params,
) -> Result<Xml, ApiError> {
    if params.text("Version") == Some(CLASSIC) {
        return classic(action, params);
    }
    tick(state, estate, ctx.now);
    let call = &mut Call {
        state,
        estate,
        now: ctx.now,
        params,
    };
    match action {
        "CreateTargetGroup" => groups::create(call),
        "ModifyTargetGroup" => groups::modify(call),
        "DeleteTargetGroup" => groups::delete(call),
        "DescribeTargetGroups" => groups::describe(call),
        "DescribeTargetGroupAttributes" => groups::describe_attributes(call),
        "ModifyTargetGroupAttributes" => groups::modify_attributes(call),
        "RegisterTargets" => targets::register(call),
        "DeregisterTargets" => targets::deregister(call),
        "DescribeTargetHealth" => targets::describe(call),
        "CreateLoadBalancer" => balancers::create(call),
        "DeleteLoadBalancer" => balancers::delete(call),
        "DescribeLoadBalancers" => balancers::describe(call),
        "DescribeLoadBalancerAttributes" => balancers::describe_attributes(call),
        "ModifyLoadBalancerAttributes" => balancers::modify_attributes(call),
        "CreateListener" => listeners::create(call),
        "ModifyListener" => listeners::modify(call),
        "DeleteListener" => listeners::delete(call),
        "DescribeListeners" => listeners::describe(call),
        "DescribeRules" => listeners::describe_rules(call),
        "AddTags" => tags::add(call),
        "RemoveTags" => tags::remove(call),
        "DescribeTags" => tags::describe(call),
        _ => Err(ApiError::invalid_action(action)),
    }
}

/// Lets time pass: targets of instances that are gone leave, and those that have drained are forgotten.
pub(crate) fn tick(state: &mut State, estate: &dyn Estate, now: Timestamp) {
    let used = state.used_groups();
    state.groups.update_where(
        |_, group| group.has_departed(estate, now),
        |arn, group| group.forget_departed(used.contains(arn), estate, now),
    );
}

impl State {
    /// What changed since `before`.
    pub(crate) fn changes(&self, before: &Self, changes: &mut Changes) {
        for (arn, was, now) in before.groups.changes(&self.groups) {
            // Copies that share everything.
            let targets = |group: Option<&groups::TargetGroup>| {
                group.map_or_else(Series::default, |group| group.targets.clone())
            };
            if was.map(groups::TargetGroup::settings) != now.map(groups::TargetGroup::settings) {
                changes.put("elb.groups", arn.clone(), now);
            }
            changes.series("elb.targets", arn, &targets(was), &targets(now));
        }
        changes.table("elb.balancers", &before.balancers, &self.balancers);
        changes.table("elb.listeners", &before.listeners, &self.listeners);
        changes.table("elb.tags", &before.tags, &self.tags);
    }

    /// Takes a row back in; whether it is one of ELB's.
    ///
    /// # Errors
    /// When it is of another release.
    pub(crate) fn restore(&mut self, table: &str, key: &str, value: &[u8]) -> anyhow::Result<bool> {
        match table {
            "elb.groups" => drop(self.groups.insert(key.to_owned(), read(value)?)),
            "elb.balancers" => drop(self.balancers.insert(key.to_owned(), read(value)?)),
            "elb.listeners" => drop(self.listeners.insert(key.to_owned(), read(value)?)),
            "elb.tags" => drop(self.tags.insert(key.to_owned(), read(value)?)),
            "elb.targets" => {
                let (arn, place) = place(key)?;
                let group = self.groups.get_mut(arn).context("a target of no group")?;
                group.targets.put(place, read(value)?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Registers one instance on the group's own port, as Auto Scaling does.
    pub(crate) fn register(&mut self, arn: &str, instance_id: &str) {
        if let Some(group) = self.groups.get_mut(arn) {
            group.register(instance_id, group.port);
        }
    }

    /// Deregisters one instance from every port, as Auto Scaling does.
    pub(crate) fn deregister(&mut self, arn: &str, instance_id: &str, now: Timestamp) {
        let in_use = self.used_groups().contains(arn);
        if let Some(group) = self.groups.get_mut(arn) {
            group.deregister(instance_id, None, in_use, now);
        }
    }

    /// ELB's state of an instance on the group's own port; `None` when it is not registered.
    pub(crate) fn health(
        &self,
        arn: &str,
        instance_id: &str,
        estate: &dyn Estate,
        now: Timestamp,
    ) -> Option<&'static str> {
        let group = self.groups.get(arn)?;
        let target = group.target(instance_id, group.port)?;
        let in_use = self.used_groups().contains(arn);
        Some(group.health(target, in_use, estate, now)?.state())
    }

    /// Whether there is such a target group.
    pub(crate) fn group_exists(&self, arn: &str) -> bool {
        self.groups.contains_key(arn)
    }

    fn used_groups(&self) -> std::collections::BTreeSet<String> {
        self.listeners
            .values()
            .map(|listener| listener.target_group.clone())
            .collect()
    }
}

/// The version of the API of Classic Load Balancers, which are asked for under the same service name.
const CLASSIC: &str = "2012-06-01";

/// Answers for Classic Load Balancers: there are none, and none can be made.
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

/// An ARN of ours.
fn arn(rest: std::fmt::Arguments<'_>) -> String {
    format!("arn:aws:elasticloadbalancing:{REGION}:{ACCOUNT}:{rest}")
}

/// What the rehearsal leaves out is refused by name.
fn left_out(what: &str) -> ApiError {
    ApiError::new(
        "UnsupportedOperation",
        format!("{what} is not part of the rehearsal cloud; see docs/fidelity.md"),
    )
}

/// A name of a load balancer or target group.
fn check_name(kind: &str, name: &str) -> Result<(), ApiError> {
    if name.len() > 32 {
        return Err(ApiError::validation(format!(
            "{kind} name '{name}' cannot be longer than '32' characters"
        )));
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Err(ApiError::validation(format!(
            "{kind} name '{name}' can only contain characters that are alphanumeric characters and hyphens(-)"
        )));
    }
    if name.starts_with('-') || name.ends_with('-') {
        return Err(ApiError::validation(format!(
            "{kind} name '{name}' cannot begin or end with a hyphen(-)"
        )));
    }
    Ok(())
}

impl Call<'_> {
    /// A text the call cannot do without.
    fn need(&self, name: &str) -> Result<&str, ApiError> {
        need(self.params, name)
    }
}

fn need<'a>(params: &'a Params, name: &str) -> Result<&'a str, ApiError> {
    params
        .text(name)
        .filter(|value| !value.is_empty())
        .ok_or_else(|| ApiError::validation(format!("A value for {name} must be specified")))
}

/// A whole number within the bounds of the API.
fn number<T>(params: &Params, name: &str, least: T, most: T) -> Result<Option<T>, ApiError>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    params
        .text(name)
        .map(|text| {
            text.parse::<T>()
                .ok()
                .filter(|number| *number >= least && *number <= most)
                .ok_or_else(|| {
                    ApiError::validation(format!(
                        "{name} '{text}' must be between '{least}' and '{most}'"
                    ))
                })
        })
        .transpose()
}

/// The page of `items` that Marker and PageSize ask for, with the marker of the next one.
fn page<T>(params: &Params, items: Vec<T>) -> Result<(Vec<T>, Option<String>), ApiError> {
    let size = number(params, "PageSize", 1, 400)?.unwrap_or(400_usize);
    let from = match params.text("Marker").filter(|marker| !marker.is_empty()) {
        None => 0,
        Some(marker) => marker
            .parse::<usize>()
            .ok()
            .filter(|from| *from <= items.len())
            .ok_or_else(|| ApiError::validation(format!("Marker '{marker}' is invalid")))?,
    };
    let next = (items.len() > from + size).then(|| (from + size).to_string());
    Ok((items.into_iter().skip(from).take(size).collect(), next))
}
