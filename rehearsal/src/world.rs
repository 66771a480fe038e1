//! The region as Auto Scaling may see and change it: [`World`] over EC2 and load balancing.

use jiff::Timestamp;

use crate::autoscaling::world::{
    AlarmState, InstanceView, LaunchRequest, TemplateRef, TemplateView, World,
};
use crate::cloud::Region;
use crate::ec2::run;
use crate::ec2::templates::{Data, Template};
use crate::elb::Estate as _;
use crate::wire::{ApiError, Params, ids};

/// The tag by which an instance tells its group.
const GROUP_TAG: &str = "aws:autoscaling:groupName";

/// The region at a moment.
pub(crate) struct RegionAt<'a> {
    /// The region.
    pub(crate) region: &'a mut Region,
    /// The moment.
    pub(crate) now: Timestamp,
}

impl RegionAt<'_> {
    fn find(&self, wanted: &TemplateRef) -> Result<&Template, ApiError> {
        let ec2 = &self.region.ec2;
        if wanted.id.is_empty() {
            ec2.template_by_name(&wanted.name)
        } else {
            ec2.template_by_id(&wanted.id)
        }
    }

    fn run(&mut self, request: &LaunchRequest) -> Result<String, ApiError> {
        let template = self.find(&request.template)?;
        let (number, version) = template.resolve(&request.template.version)?;
        let mut data = run::merged(&version.data, &Data::default());
        if let Some(subnet) = &request.subnet {
            // The group's subnet goes where the template describes the interface.
            let has_interface = Params::from(data.0.clone()).has("NetworkInterface");
            let field = if has_interface {
                "NetworkInterface.1.SubnetId"
            } else {
                "SubnetId"
            };
            data.0.insert(field.to_owned(), subnet.clone());
        }
        let mut marks = run::template_tags(&template.id, number);
        marks.extend(request.tags.clone());
        marks.insert(GROUP_TAG.to_owned(), request.group.clone());
        let launched = run::launch(&mut self.region.ec2, self.now, &data, &marks, 1)?;
        launched
            .into_iter()
            .next()
            .ok_or_else(|| ApiError::internal("nothing was launched"))
    }
}

/// A failed call as an activity's status message tells it.
fn told(error: &ApiError) -> String {
    format!("{} ({})", error.message, error.code)
}

impl World for RegionAt<'_> {
    fn template(&self, wanted: &TemplateRef) -> Result<(TemplateRef, TemplateView), String> {
        let template = self.find(wanted).map_err(|error| error.message)?;
        let (number, version) = template
            .resolve(&wanted.version)
            .map_err(|error| error.message)?;
        let resolved = TemplateRef {
            id: template.id.clone(),
            name: template.name.clone(),
            version: wanted.version.clone(),
        };
        let view = TemplateView {
            number,
            image_id: version.data.text("ImageId").map(str::to_owned),
            instance_type: version.data.text("InstanceType").map(str::to_owned),
        };
        Ok((resolved, view))
    }

    fn launch(&mut self, request: &LaunchRequest) -> Result<String, String> {
        self.run(request).map_err(|error| told(&error))
    }

    fn terminate(&mut self, instance_id: &str) {
        self.region.ec2.terminate(instance_id, self.now);
    }

    fn instance(&self, instance_id: &str) -> Option<InstanceView> {
        let instance = self.region.ec2.instances.get(instance_id)?;
        Some(InstanceView {
            state: instance.phase.name().to_owned(),
            zone: instance.zone.clone(),
            instance_type: instance.kind.clone(),
            image_id: instance.image.clone(),
            // A full disk is the host's: what is launched instead meets it as well.
            impaired: instance
                .impairment()
                .is_some_and(|fault| !fault.failure.kind.may_pass()),
        })
    }

    fn register_target(&mut self, target_group_arn: &str, instance_id: &str) {
        self.region.elb.register(target_group_arn, instance_id);
    }

    fn deregister_target(&mut self, target_group_arn: &str, instance_id: &str) {
        let elb = &mut self.region.elb;
        elb.deregister(target_group_arn, instance_id, self.now);
    }

    fn target_health(&self, target_group_arn: &str, instance_id: &str) -> Option<String> {
        let Region { ec2, elb, .. } = &*self.region;
        elb.health(target_group_arn, instance_id, ec2, self.now)
            .map(str::to_owned)
    }

    fn target_group_exists(&self, target_group_arn: &str) -> bool {
        self.region.elb.group_exists(target_group_arn)
    }

    fn alarm(&self, name: &str) -> AlarmState {
        self.region.dials.alarm(name)
    }

    fn subnet_zone(&self, subnet_id: &str) -> Option<String> {
        self.region.ec2.subnet_zone(subnet_id)
    }

    fn fresh_uuid(&mut self) -> String {
        ids::uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_is_what_was_dialled() {
        let mut region = Region::default();
        region.dials.set_alarm("sick", AlarmState::Alarm);
        let world = RegionAt {
            region: &mut region,
            now: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(world.alarm("sick"), AlarmState::Alarm);
        assert_eq!(world.alarm("unheard of"), AlarmState::InsufficientData);
    }
}
