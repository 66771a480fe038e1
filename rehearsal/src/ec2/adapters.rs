//! EC2 as Parameter Store and Elastic Load Balancing read it.

use std::net::Ipv4Addr;

use jiff::Timestamp;

use super::State;
use super::image_lifecycle::DEBIAN;
use super::images::ImageState;
use super::instances::Phase;
use crate::elb::{Ec2View, InstanceState, InstanceView};
use crate::ids::{ImageId, InstanceId, SubnetId, VpcId};
use crate::ssm::Images;

impl Images for State {
    fn is_available(&self, image_id: &ImageId) -> bool {
        self.images
            .get(image_id)
            .is_some_and(|image| image.state == ImageState::Available)
    }

    fn newest_of_debian(&self, stem: &str) -> Option<(ImageId, Timestamp)> {
        let all = self.images.values().filter(|image| {
            image.owner == DEBIAN
                && image.state == ImageState::Available
                && image.name.starts_with(stem)
        });
        let newest = all.max_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)))?;
        Some((newest.id.clone(), newest.created))
    }
}

impl Ec2View for State {
    fn instance_view(&self, instance_id: &InstanceId) -> Option<InstanceView> {
        let instance = self.instances.get(instance_id)?;
        Some(InstanceView {
            address: instance.address,
            state: match instance.phase {
                Phase::Pending => InstanceState::Pending,
                Phase::Running => InstanceState::Running,
                Phase::Stopping | Phase::Stopped => InstanceState::Stopped,
                Phase::ShuttingDown | Phase::Terminated => InstanceState::Terminated,
            },
        })
    }

    fn vpc(&self) -> &VpcId {
        &self.network.vpc
    }

    fn subnet_zone(&self, subnet_id: &SubnetId) -> Option<String> {
        self.network
            .subnet(subnet_id)
            .ok()
            .map(|subnet| subnet.zone.clone())
    }

    fn balancer_address(&mut self) -> Ipv4Addr {
        self.network.allocate_balancer()
    }
}
