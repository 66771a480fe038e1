//! The region as Auto Scaling reads and changes it: [`Environment`] over EC2 and load balancing.

use std::collections::BTreeMap;

use instance_refresh::{AlarmState, TemplateRef};
use jiff::Timestamp;

use crate::autoscaling::environment::{
    Environment, InstanceView, LaunchRequest, Place, TemplateView,
};
use crate::cloud::Region;
use crate::ec2::run;
use crate::ec2::tags::Tags;
use crate::ec2::templates::{Data, Template};
use crate::elb::Ec2View as _;
use crate::ids::{Id as _, InstanceId, SubnetId, TargetGroupArn, TemplateId};
use crate::launch_error::Attempt;
use crate::request::RequestContext;
use crate::ssm;
use crate::wire::{ApiError, Params, ids};

/// The tag with an instance's group.
const GROUP_TAG: &str = "aws:autoscaling:groupName";
/// The parameter with a launch's image.
const IMAGE: &str = "ImageId";
/// The parameter with a launch's zone.
const ZONE: &str = "Placement.AvailabilityZone";

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
            ec2.template_by_id(&TemplateId::parse(&wanted.id)?)
        }
    }

    fn instance_type(&self, template: &TemplateRef) -> String {
        let named = Environment::template(self, template).ok();
        named
            .and_then(|(_, view)| view.instance_type)
            .unwrap_or_else(|| run::DEFAULT_TYPE.to_owned())
    }

    fn run(&mut self, request: &LaunchRequest) -> Result<InstanceId, ApiError> {
        let (mut marks, data) = self.launch_data(&request.template, &request.place)?;
        marks.extend(request.tags.clone());
        marks.insert(GROUP_TAG.to_owned(), request.group.to_string());
        let launched = run::launch(&mut self.region.ec2, self.now, &data, &marks, 1)?;
        launched
            .into_iter()
            .next()
            .ok_or_else(|| ApiError::internal("nothing was launched"))
    }

    /// The launch data of a template in a place, and the tags that record the template.
    fn launch_data(&self, template: &TemplateRef, place: &Place) -> Result<(Tags, Data), ApiError> {
        let found = self.find(template)?;
        let (number, version) = found.resolve(&template.version)?;
        let mut data = run::merged(&version.data, &Data::default());
        // The group's subnet belongs where the template describes the interface.
        let has_interface = Params::from(data.0.clone()).has("NetworkInterface");
        let subnet = if has_interface {
            "NetworkInterface.1.SubnetId"
        } else {
            "SubnetId"
        };
        data.0.remove(subnet);
        data.0.remove(ZONE);
        match place {
            Place::Subnet(id) => data.0.insert(subnet.to_owned(), id.to_string()),
            Place::Zone(zone) => data.0.insert(ZONE.to_owned(), zone.clone()),
        };
        let marks = run::template_tags(&found.id, number);
        let image = data.0.get(IMAGE).map(|image| resolved(self.region, image));
        if let Some(image) = image {
            data.0.insert(IMAGE.to_owned(), image?);
        }
        Ok((marks, data))
    }
}

/// The image that `image` stands for: itself, or the value of the parameter that `resolve:ssm:<name>[:<version>]`
/// names.
///
/// # Errors
/// `InvalidParameterValue` when there is no such parameter.
fn resolved(region: &Region, image: &str) -> Result<String, ApiError> {
    let Some(name) = image.strip_prefix("resolve:ssm:") else {
        return Ok(image.to_owned());
    };
    let ctx = RequestContext {
        now: Timestamp::UNIX_EPOCH,
    };
    // On a copy, which is cheap: reading changes no parameter.
    let (mut ssm, asked) = (region.ssm.clone(), serde_json::json!({ "Name": name }));
    let found = ssm::handle(&mut ssm, &region.ec2, &ctx, "GetParameter", &asked);
    let value = found
        .ok()
        .and_then(|found| Some(found["Parameter"]["Value"].as_str()?.to_owned()));
    value.ok_or_else(|| ApiError::invalid_value("ImageId", image, "there is no such parameter"))
}

/// A RunInstances request whose image is resolved when it or its template names it by a parameter.
///
/// # Errors
/// `InvalidParameterValue` when there is no such parameter.
pub(crate) fn with_image(region: &Region, params: &Params) -> Result<Params, ApiError> {
    let image = params.string(IMAGE).or_else(|| {
        let spec = params.structure("LaunchTemplate");
        let template = region.ec2.template_named(&spec).ok()?;
        let version = spec.text("Version").unwrap_or("$Default");
        let (_, version) = template.resolve(version).ok()?;
        version.data.text(IMAGE).map(str::to_owned)
    });
    match image {
        Some(image) if image.starts_with("resolve:ssm:") => {
            let mut own = Params::from(BTreeMap::from([(
                IMAGE.to_owned(),
                resolved(region, &image)?,
            )]));
            own.merge(params.clone());
            Ok(own)
        }
        _ => Ok(params.clone()),
    }
}

impl Environment for RegionAt<'_> {
    fn template(&self, wanted: &TemplateRef) -> Result<(TemplateRef, TemplateView), String> {
        let template = self.find(wanted).map_err(|error| error.message)?;
        let (number, version) = template
            .resolve(&wanted.version)
            .map_err(|error| error.message)?;
        let resolved = TemplateRef {
            id: template.id.to_string(),
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

    fn check_launch(&self, template: &TemplateRef, place: &Place) -> Result<(), String> {
        let tried = self.launch_data(template, place).and_then(|(marks, data)| {
            // A trial launch on a copy of the state, which is discarded.
            run::launch(&mut self.region.ec2.clone(), self.now, &data, &marks, 1)
        });
        tried.map(drop).map_err(|error| error.message)
    }

    fn launch(&mut self, request: &LaunchRequest) -> Result<InstanceId, String> {
        if let Some(error) = self.region.faults.launch_error(&request.group) {
            return Err(error.reason(Attempt {
                instance_type: &self.instance_type(&request.template),
                zone: &match &request.place {
                    Place::Subnet(subnet) => self.subnet_zone(subnet).unwrap_or_default(),
                    Place::Zone(zone) => zone.clone(),
                },
                subnet: match &request.place {
                    Place::Subnet(subnet) => subnet.as_str(),
                    Place::Zone(_) => "",
                },
            }));
        }
        self.run(request).map_err(|error| error.message)
    }

    fn terminate(&mut self, instance_id: &InstanceId) {
        self.region.ec2.terminate(instance_id, self.now);
    }

    fn instance(&self, instance_id: &InstanceId) -> Option<InstanceView> {
        let instance = self.region.ec2.instances.get(instance_id)?;
        Some(InstanceView {
            state: instance.phase.name().to_owned(),
            zone: instance.zone.clone(),
            instance_type: instance.kind.clone(),
            image_id: instance.image.clone(),
            // A full disk is the host's problem: a replacement would have it as well.
            impaired: instance
                .impairment()
                .is_some_and(|fault| !fault.failure.kind.may_pass()),
            reason: instance.reason.as_ref().map(|why| why.message.clone()),
        })
    }

    fn register_target(&mut self, target_group_arn: &TargetGroupArn, instance_id: &InstanceId) {
        self.region.elb.register(target_group_arn, instance_id);
    }

    fn deregister_target(&mut self, target_group_arn: &TargetGroupArn, instance_id: &InstanceId) {
        let elb = &mut self.region.elb;
        elb.deregister(target_group_arn, instance_id, self.now);
    }

    fn target_health(
        &self,
        target_group_arn: &TargetGroupArn,
        instance_id: &InstanceId,
    ) -> Option<String> {
        let Region { ec2, elb, .. } = &*self.region;
        elb.health(target_group_arn, instance_id, ec2, self.now)
            .map(str::to_owned)
    }

    fn target_group_exists(&self, target_group_arn: &TargetGroupArn) -> bool {
        self.region.elb.group_exists(target_group_arn)
    }

    fn alarm(&self, name: &str) -> AlarmState {
        self.region.faults.alarm(name)
    }

    fn has_zone(&self, zone: &str) -> bool {
        self.region.ec2.network.subnet_of_zone(zone).is_ok()
    }

    fn subnet_zone(&self, subnet_id: &SubnetId) -> Option<String> {
        self.region.ec2.subnet_zone(subnet_id)
    }

    fn fresh_uuid(&mut self) -> String {
        ids::uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autoscaling;
    use crate::launch_error::LaunchError;

    #[test]
    fn an_alarm_has_the_state_that_was_set() {
        let mut region = Region::default();
        region.faults.set_alarm("sick", AlarmState::Alarm);
        let environment = RegionAt {
            region: &mut region,
            now: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(environment.alarm("sick"), AlarmState::Alarm);
        assert_eq!(
            environment.alarm("unheard of"),
            AlarmState::InsufficientData
        );
    }

    /// A region with an image that can be launched, and a template of it.
    fn region(template: &str) -> Region {
        let mut region = Region::default();
        let now = Timestamp::UNIX_EPOCH;
        region
            .ec2
            .register_base_image(12, None, "uefi-preferred", now);
        let snapshot = region.ec2.snapshots.keys().next().unwrap().clone();
        assert!(region.ec2.finish_copy(&snapshot, Ok(()), now));
        let image = region.ec2.images.keys().next().unwrap().clone();
        let template = template.replace("IMAGE", image.as_str());
        let put = serde_json::json!({ "Name": "/image", "Value": image, "Type": "String" });
        let ctx = RequestContext { now };
        ssm::handle(&mut region.ssm, &region.ec2, &ctx, "PutParameter", &put).unwrap();
        let form = format!("LaunchTemplateName=shop{template}");
        let params = Params::parse(form.as_bytes());
        crate::ec2::handle(&mut region.ec2, &ctx, "CreateLaunchTemplate", &params).unwrap();
        region
    }

    fn group(region: &mut Region, more: &str) -> (autoscaling::State, Result<(), ApiError>) {
        let mut state = autoscaling::State::default();
        let now = Timestamp::UNIX_EPOCH;
        let mut environment = RegionAt { region, now };
        let form = format!(
            "AutoScalingGroupName=shop&MinSize=0&MaxSize=9&DesiredCapacity=4&LaunchTemplate.LaunchTemplateName=shop{more}"
        );
        let (params, ctx) = (Params::parse(form.as_bytes()), RequestContext { now });
        let action = "CreateAutoScalingGroup";
        let made = autoscaling::handle(&mut state, &mut environment, &ctx, action, &params);
        autoscaling::tick(&mut state, &mut environment, now);
        (state, made.map(drop))
    }

    fn zones(region: &Region) -> Vec<&str> {
        let instances = region.ec2.instances.values();
        let mut zones: Vec<&str> = instances.map(|one| one.zone.as_str()).collect();
        zones.sort_unstable();
        zones
    }

    #[test]
    fn a_groups_zones_are_honoured() {
        let of_template = "&LaunchTemplateData.ImageId=IMAGE";
        let two = "&AvailabilityZones.member.1=us-east-1c&AvailabilityZones.member.2=us-east-1e";
        let interface = "&LaunchTemplateData.NetworkInterface.1.DeviceIndex=0\
                         &LaunchTemplateData.NetworkInterface.1.DeleteOnTermination=true";
        let placed = "&LaunchTemplateData.Placement.AvailabilityZone=us-east-1a";
        for more in ["", interface, placed] {
            let mut region = region(&format!("{of_template}{more}"));
            group(&mut region, two).1.unwrap();
            let expected = ["us-east-1c", "us-east-1c", "us-east-1e", "us-east-1e"];
            assert_eq!(zones(&region), expected, "{more}");
        }
        let mut region = region(&format!("{of_template}{interface}"));
        let subnet = region.ec2.network.subnets[3].clone();
        let in_it = format!("&VPCZoneIdentifier={}", subnet.id);
        group(&mut region, &in_it).1.unwrap();
        assert_eq!(zones(&region), vec![subnet.zone.as_str(); 4]);
    }

    #[test]
    fn a_template_that_ec2_would_refuse_is_refused_at_once() {
        let zone = "&AvailabilityZones.member.1=us-east-1c";
        for (template, why) in [
            (
                "&LaunchTemplateData.InstanceType=t3.micro",
                "parameter ImageId",
            ),
            (
                "&LaunchTemplateData.ImageId=ami-00000000000000bad",
                "'[ami-00000000000000bad]' does not exist",
            ),
            (
                "&LaunchTemplateData.ImageId=IMAGE&LaunchTemplateData.KeyName=none",
                "key pair 'none' does not exist",
            ),
            (
                "&LaunchTemplateData.ImageId=IMAGE&LaunchTemplateData.SecurityGroupId.1=sg-0bad",
                "'sg-0bad' does not exist",
            ),
            (
                "&LaunchTemplateData.ImageId=resolve:ssm:/none",
                "no such parameter",
            ),
            (
                "&LaunchTemplateData.ImageId=IMAGE&LaunchTemplateData.InstanceMarketOptions.SpotOptions.MaxPrice=1",
                "must contain the parameter MarketType",
            ),
            (
                "&LaunchTemplateData.ImageId=IMAGE&LaunchTemplateData.InstanceMarketOptions.MarketType=spot\
                 &LaunchTemplateData.InstanceMarketOptions.SpotOptions.SpotInstanceType=persistent\
                 &LaunchTemplateData.InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior=stop",
                "SpotInstanceType (persistent)",
            ),
            (
                "&LaunchTemplateData.ImageId=IMAGE&LaunchTemplateData.InstanceType=m5.large\
                 &LaunchTemplateData.CreditSpecification.CpuCredits=standard",
                "m5.large instance type does not support",
            ),
            (
                "&LaunchTemplateData.ImageId=IMAGE&LaunchTemplateData.CpuOptions.CoreCount=2\
                 &LaunchTemplateData.CpuOptions.ThreadsPerCore=2",
                "CpuOptions.CoreCount (2)",
            ),
        ] {
            let mut region = region(template);
            let refused = group(&mut region, zone).1.expect_err(why);
            let start = "You must use a valid fully-formed launch template. ";
            let message = refused.message.strip_prefix(start);
            assert!(
                message.is_some_and(|message| message.contains(why)),
                "{refused:?}"
            );
            assert!(region.ec2.instances.is_empty(), "{why}");
        }
    }

    /// R9: a resource of a group's template is removed, or EC2 has no capacity; each attempt is one failed activity
    /// that reports so.
    #[test]
    fn launches_that_ec2_refuses_give_its_reason() {
        let whole = "&LaunchTemplateData.ImageId=IMAGE&LaunchTemplateData.InstanceType=t3.micro&LaunchTemplateData.KeyName=key\
                     &LaunchTemplateData.SecurityGroupId.1=GROUP";
        let ec2 = |region: &mut Region, action: &str, form: &str| {
            let ctx = RequestContext {
                now: Timestamp::UNIX_EPOCH,
            };
            let params = Params::parse(form.as_bytes());
            crate::ec2::handle(&mut region.ec2, &ctx, action, &params)
                .unwrap()
                .into_string()
        };
        type Act<'a> = Box<dyn Fn(&mut Region, &Named) + 'a>;
        struct Named {
            image: String,
            group: String,
            template: String,
        }
        let gone: Vec<(Act<'_>, &str)> = vec![
            (
                // Another account's: it is its owner who deregisters it.
                Box::new(|region, named| drop(region.ec2.images.remove(named.image.as_str()))),
                "The image id '[IMAGE]' does not exist",
            ),
            (
                Box::new(|region, _| drop(ec2(region, "DeleteKeyPair", "KeyName=key"))),
                "The key pair 'key' does not exist",
            ),
            (
                Box::new(|region, named| {
                    let form = format!("GroupId={}", named.group);
                    ec2(region, "DeleteSecurityGroup", &form);
                }),
                "The security group 'GROUP' does not exist",
            ),
            (
                Box::new(|region, _| {
                    drop(ec2(
                        region,
                        "DeleteLaunchTemplate",
                        "LaunchTemplateName=shop",
                    ));
                }),
                "The specified launch template, with template ID TEMPLATE, does not exist",
            ),
            (
                Box::new(|region, _| {
                    let error = Some(LaunchError::InsufficientInstanceCapacity);
                    region.faults.set_launch_error(&"shop".into(), error);
                }),
                "We currently do not have sufficient t3.micro capacity in the Availability Zone you requested (us-east-1c). \
                 Our system will be working on provisioning additional capacity. You can currently get t3.micro capacity by \
                 not specifying an Availability Zone in your request",
            ),
            (
                Box::new(|region, _| {
                    let error = Some(LaunchError::UnfulfillableCapacity);
                    region.faults.set_launch_error(&"shop".into(), error);
                }),
                "Could not launch Spot Instances. UnfulfillableCapacity - Unable to fulfill capacity due to your request \
                 configuration. Please adjust your request and try again",
            ),
        ];
        for (take, reason) in gone {
            let mut region = region("&LaunchTemplateData.ImageId=IMAGE");
            ec2(&mut region, "CreateKeyPair", "KeyName=key");
            let made = ec2(
                &mut region,
                "CreateSecurityGroup",
                "GroupName=web&GroupDescription=web",
            );
            let group_id = made.split_once("<groupId>").unwrap().1;
            let image = region.ec2.images.keys().next().unwrap().clone();
            let named = Named {
                image: image.to_string(),
                group: group_id.split_once('<').unwrap().0.to_owned(),
                template: region.ec2.template_by_name("shop").unwrap().id.to_string(),
            };
            let data = whole
                .replace("IMAGE", image.as_str())
                .replace("GROUP", &named.group);
            ec2(
                &mut region,
                "CreateLaunchTemplateVersion",
                &format!("LaunchTemplateName=shop{data}"),
            );
            let (mut state, made) = group(&mut region, "&AvailabilityZones.member.1=us-east-1c");
            made.unwrap();
            assert_eq!(region.ec2.instances.len(), 4, "{reason}");
            let now = Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(60);
            let ctx = RequestContext { now };
            let mut ask = |region: &mut Region, action: &str, more: &str| {
                let form = format!("AutoScalingGroupName=shop{more}");
                let params = Params::parse(form.as_bytes());
                let mut environment = RegionAt { region, now };
                let answer =
                    autoscaling::handle(&mut state, &mut environment, &ctx, action, &params);
                autoscaling::tick(&mut state, &mut environment, now);
                answer.unwrap().into_string()
            };
            ask(
                &mut region,
                "UpdateAutoScalingGroup",
                "&LaunchTemplate.LaunchTemplateName=shop&LaunchTemplate.Version=2",
            );
            take(&mut region, &named);
            ask(&mut region, "SetDesiredCapacity", "&DesiredCapacity=6");
            let message = ask(&mut region, "DescribeScalingActivities", "");
            let reason = reason
                .replace("IMAGE", &named.image)
                .replace("GROUP", &named.group)
                .replace("TEMPLATE", &named.template);
            let mut expected = format!(
                "<Description>Launching a new EC2 instance.  Status Reason: {reason}. Launching EC2 instance failed.</Description>"
            );
            assert_eq!(
                message.matches(&expected).count(),
                1,
                "{expected} in {message}"
            );
            expected = format!(
                "<StatusCode>Failed</StatusCode><StatusMessage>{reason}. Launching EC2 instance failed.</StatusMessage>"
            );
            assert_eq!(
                message.matches(&expected).count(),
                1,
                "{expected} in {message}"
            );
        }
    }

    #[test]
    fn a_group_launches_spot_as_its_template_asks() {
        let zone = "&AvailabilityZones.member.1=us-east-1c";
        let mut region = region(
            "&LaunchTemplateData.ImageId=IMAGE&LaunchTemplateData.InstanceMarketOptions.MarketType=spot\
             &LaunchTemplateData.InstanceMarketOptions.SpotOptions.MaxPrice=0.02\
             &LaunchTemplateData.CreditSpecification.CpuCredits=standard",
        );
        group(&mut region, zone).1.unwrap();
        let ask = |region: &mut Region, action: &str, form: &str| {
            let ctx = RequestContext {
                now: Timestamp::UNIX_EPOCH,
            };
            let params = Params::parse(form.as_bytes());
            crate::ec2::handle(&mut region.ec2, &ctx, action, &params)
                .unwrap()
                .into_string()
        };
        let described = ask(&mut region, "DescribeInstances", "");
        let of_spot = "<instanceLifecycle>spot</instanceLifecycle><spotInstanceRequestId>sir-";
        assert_eq!(described.matches(of_spot).count(), 4, "{described}");
        let requests = ask(&mut region, "DescribeSpotInstanceRequests", "");
        let price = "<spotPrice>0.02</spotPrice>";
        assert_eq!(requests.matches(price).count(), 4, "{requests}");
        let versions = "LaunchTemplateName=shop";
        let template = ask(&mut region, "DescribeLaunchTemplateVersions", versions);
        let shown = "<instanceMarketOptions><marketType>spot</marketType><spotOptions><maxPrice>0.02</maxPrice></spotOptions>";
        assert!(template.contains(shown), "{template}");
        // None goes beyond its credits.
        let unlimited = ask(&mut region, "DescribeInstanceCreditSpecifications", "");
        assert!(!unlimited.contains("<item>"), "{unlimited}");

        let id = region.ec2.instances.keys().next().unwrap().clone();
        region.ec2.reclaim(&id, Timestamp::UNIX_EPOCH);
        let of_it = format!("Filter.1.Name=instance-id&Filter.1.Value.1={id}");
        let request = ask(&mut region, "DescribeSpotInstanceRequests", &of_it);
        let taken = "<state>closed</state><status><code>instance-terminated-no-capacity</code>";
        assert!(request.contains(taken), "{request}");
    }

    #[test]
    fn spot_reclaim_sets_the_state_reason() {
        let mut region = region("&LaunchTemplateData.ImageId=IMAGE");
        group(&mut region, "&AvailabilityZones.member.1=us-east-1c")
            .1
            .unwrap();
        let now = Timestamp::UNIX_EPOCH;
        let id = region.ec2.instances.keys().next().unwrap().clone();
        region.ec2.reclaim(&id, now);
        // The group then takes it out as well, which changes nothing.
        region.ec2.terminate(&id, now);
        let environment = RegionAt {
            region: &mut region,
            now,
        };
        let reason = environment.instance(&id).unwrap().reason.unwrap();
        assert_eq!(
            reason,
            "Server.SpotInstanceTermination: Spot instance termination"
        );
    }

    #[test]
    fn an_image_may_be_named_by_a_parameter() {
        let mut region = region("&LaunchTemplateData.ImageId=resolve:ssm:/image");
        group(&mut region, "&AvailabilityZones.member.1=us-east-1a")
            .1
            .unwrap();
        let image = region.ec2.images.keys().next().unwrap().clone();
        assert!(region.ec2.instances.values().all(|one| one.image == image));
        for (form, found) in [
            ("ImageId=resolve:ssm:/image", Ok(image.as_str())),
            ("ImageId=resolve:ssm:/image:1", Ok(image.as_str())),
            ("ImageId=resolve:ssm:/none", Err("InvalidParameterValue")),
            ("LaunchTemplate.LaunchTemplateName=shop", Ok(image.as_str())),
            ("ImageId=ami-1", Ok("ami-1")),
        ] {
            let asked = with_image(&region, &Params::parse(form.as_bytes()));
            let asked = asked.as_ref().map(|params| params.text("ImageId").unwrap());
            assert_eq!(asked.map_err(|error| &*error.code), found, "{form}");
        }
    }
}
