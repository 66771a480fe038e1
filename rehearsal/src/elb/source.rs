//! The part of the state that the load balancer reads, and the results of its health checks.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::time::Duration;

use jiff::Timestamp;

use super::ec2_view::Ec2View;
use super::groups::TargetGroup;
use super::state::State;
use super::targets::{Health, Target};
use crate::balancer_source::{CheckOutcome, ListenerView, TargetGroupView, TargetView};
use crate::ids::{InstanceId, TargetGroupArn};

impl State {
    /// Listeners to keep open.
    pub(crate) fn open_listeners(&self) -> Vec<ListenerView> {
        self.listeners
            .values()
            .filter_map(|listener| {
                let balancer = self.balancers.get(&listener.balancer)?;
                Some(ListenerView {
                    arn: listener.arn.clone(),
                    bind: SocketAddrV4::new(balancer.address, listener.port),
                    target_group_arn: listener.target_group.clone(),
                })
            })
            .collect()
    }

    /// Target groups that a listener forwards to.
    pub(crate) fn checked_groups(&self, ec2: &dyn Ec2View, now: Timestamp) -> Vec<TargetGroupView> {
        self.used_groups()
            .iter()
            .filter_map(|arn| self.groups.get(arn))
            .map(|group| view(group, ec2, now))
            .collect()
    }

    /// Ports on which targets receive requests or health checks.
    pub(crate) fn ports(&self) -> BTreeSet<u16> {
        self.groups
            .values()
            .flat_map(|group| std::iter::once(group.port).chain(group.check_port))
            .collect()
    }

    /// Counts one health check of an instance.
    pub(crate) fn report(
        &mut self,
        arn: &TargetGroupArn,
        instance_id: &InstanceId,
        outcome: CheckOutcome,
    ) {
        let Some(group) = self.groups.get(arn) else {
            // Deleted while the check ran.
            return;
        };
        let (up, down) = (group.check.healthy_after, group.check.unhealthy_after);
        let counted = |target: &Target| {
            let mut counted = target.clone();
            counted.count(outcome, up, down);
            counted
        };
        // Most checks change nothing: a healthy target stays healthy.
        let changed = |target: &Target| target.id == *instance_id && counted(target) != *target;
        if group.targets.iter().any(changed)
            && let Some(group) = self.groups.get_mut(arn)
        {
            group
                .targets
                .update_where(changed, |target| *target = counted(target));
        }
    }
}

fn view(group: &TargetGroup, ec2: &dyn Ec2View, now: Timestamp) -> TargetGroupView {
    let healths: Vec<_> = group
        .targets
        .iter()
        .filter_map(|target| Some((target, group.health(target, true, ec2, now)?)))
        .collect();
    // When every target in the group is unhealthy, requests go to all of them: AWS fails open.
    let registered = || {
        healths
            .iter()
            .filter(|(_, health)| *health != Health::Draining)
    };
    let fails_open = registered().all(|(_, health)| matches!(health, Health::Unhealthy(_)));
    let targets = healths
        .iter()
        .filter_map(|(target, health)| {
            let checked = matches!(
                health,
                Health::Healthy | Health::Registering | Health::Checking | Health::Unhealthy(_)
            );
            Some(TargetView {
                instance_id: target.id.clone(),
                address: ec2.instance_view(&target.id)?.address,
                port: target.port,
                in_rotation: *health == Health::Healthy || (fails_open && checked),
                checked,
            })
        })
        .collect();
    TargetGroupView {
        arn: group.arn.clone(),
        path: group.check.path.clone(),
        port: group.check_port,
        interval: Duration::from_secs(group.check.interval.into()),
        timeout: Duration::from_secs(group.check.timeout.into()),
        matcher: group.check.matcher.clone(),
        targets,
    }
}
