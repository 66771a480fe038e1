//! The state of ELB, and how it is written and read back.

use std::collections::BTreeMap;

use anyhow::Context as _;
use jiff::Timestamp;

use super::balancers::LoadBalancer;
use super::ec2_view::Ec2View;
use super::groups::TargetGroup;
use super::listeners::Listener;
use crate::ids::{BalancerArn, InstanceId, ListenerArn, TargetGroupArn};
use crate::table::{Changes, Series, Table, place, read};

/// The state of ELB.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Target groups by ARN.
    pub(super) groups: Table<TargetGroupArn, TargetGroup>,
    /// Load balancers by ARN.
    pub(super) balancers: Table<BalancerArn, LoadBalancer>,
    /// Listeners by ARN.
    pub(super) listeners: Table<ListenerArn, Listener>,
    /// Tags by ARN.
    pub(super) tags: Table<String, BTreeMap<String, String>>,
}

impl State {
    /// What changed since `before`.
    pub(crate) fn changes(&self, before: &Self, changes: &mut Changes) {
        for (arn, was, now) in before.groups.changes(&self.groups) {
            // Cheap copies, which share the rows.
            let targets = |group: Option<&TargetGroup>| {
                group.map_or_else(Series::default, |group| group.targets.clone())
            };
            if was.map(TargetGroup::settings) != now.map(TargetGroup::settings) {
                changes.put("elb.groups", arn.to_string(), now);
            }
            changes.series("elb.targets", arn, &targets(was), &targets(now));
        }
        changes.table("elb.balancers", &before.balancers, &self.balancers);
        changes.table("elb.listeners", &before.listeners, &self.listeners);
        changes.table("elb.tags", &before.tags, &self.tags);
    }

    /// Reads a row back; returns whether it is one of ELB's.
    ///
    /// # Errors
    /// When it was written by another release.
    pub(crate) fn restore(&mut self, table: &str, key: &str, value: &[u8]) -> anyhow::Result<bool> {
        match table {
            "elb.groups" => {
                drop(self.groups.insert(TargetGroupArn::new(key), read(value)?));
            }
            "elb.balancers" => {
                drop(self.balancers.insert(BalancerArn::new(key), read(value)?));
            }
            "elb.listeners" => {
                drop(self.listeners.insert(ListenerArn::new(key), read(value)?));
            }
            "elb.tags" => drop(self.tags.insert(key.to_owned(), read(value)?)),
            "elb.targets" => {
                let (arn, place) = place(key)?;
                let group = self
                    .groups
                    .get_mut(arn)
                    .context("a target without its group")?;
                group.targets.put(place, read(value)?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Registers one instance on the group's own port, as Auto Scaling does.
    pub(crate) fn register(&mut self, arn: &TargetGroupArn, instance_id: &InstanceId) {
        if let Some(group) = self.groups.get_mut(arn) {
            group.register(instance_id, group.port);
        }
    }

    /// Deregisters one instance from every port, as Auto Scaling does.
    pub(crate) fn deregister(
        &mut self,
        arn: &TargetGroupArn,
        instance_id: &InstanceId,
        now: Timestamp,
    ) {
        let in_use = self.used_groups().contains(arn);
        if let Some(group) = self.groups.get_mut(arn) {
            group.deregister(instance_id, None, in_use, now);
        }
    }

    /// ELB's state of an instance on the group's own port; `None` when it is not registered.
    pub(crate) fn health(
        &self,
        arn: &TargetGroupArn,
        instance_id: &InstanceId,
        ec2: &dyn Ec2View,
        now: Timestamp,
    ) -> Option<&'static str> {
        let group = self.groups.get(arn)?;
        let target = group.target(instance_id, group.port)?;
        let in_use = self.used_groups().contains(arn);
        Some(group.health(target, in_use, ec2, now)?.state())
    }

    /// Whether there is such a target group.
    pub(crate) fn group_exists(&self, arn: &TargetGroupArn) -> bool {
        self.groups.contains_key(arn)
    }

    pub(super) fn used_groups(&self) -> std::collections::BTreeSet<TargetGroupArn> {
        self.listeners
            .values()
            .map(|listener| listener.target_group.clone())
            .collect()
    }
}
