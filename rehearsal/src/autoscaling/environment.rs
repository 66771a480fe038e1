//! What the Auto Scaling engine uses of the rest of the cloud, and nothing more.
//!
//! The engine (groups, hooks, activities, refreshes) decides; this trait is how its decisions reach instances, launch
//! templates, target groups and alarms. The cloud implements it on its own state while that state is locked, so every
//! call is quick and none waits for a machine. Table tests implement it in memory.

use std::collections::BTreeMap;

use instance_refresh::{AlarmState, TemplateRef};

use crate::ids::{GroupName, ImageId, InstanceId, SubnetId, TargetGroupArn};

/// What a template version resolves to now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TemplateView {
    /// The current number of `$Latest` or `$Default`.
    pub(crate) number: u64,
    /// The literal AMI id, or a reference to a parameter (`resolve:ssm:…`).
    pub(crate) image_id: Option<String>,
    /// The instance type the version names.
    pub(crate) instance_type: Option<String>,
}

/// Where a group may have instances: in its subnets, or, when it names none, in the default subnets of its zones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a subnet.
    Subnet(SubnetId),
    /// e.g. `us-east-1a`
    Zone(String),
}

/// One instance to launch for a group.
#[derive(Clone, Debug)]
pub(crate) struct LaunchRequest {
    /// The group it is for: becomes the tag `aws:autoscaling:groupName`.
    pub(crate) group: GroupName,
    /// Which template version; becomes `aws:ec2launchtemplate:id` and `:version`.
    pub(crate) template: TemplateRef,
    /// The place, chosen for zone balance.
    pub(crate) place: Place,
    /// Tags of the group that propagate at launch.
    pub(crate) tags: BTreeMap<String, String>,
}

/// An instance, as EC2 reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InstanceView {
    /// `pending`, `running`, `shutting-down`, `terminated`, `stopping`, `stopped`.
    pub(crate) state: String,
    /// The zone it is in.
    pub(crate) zone: String,
    /// Its type, e.g. `t3.micro`.
    pub(crate) instance_type: String,
    /// The AMI it was launched from.
    pub(crate) image_id: ImageId,
    /// Whether one of its status checks fails, for a reason that would not affect a replacement.
    pub(crate) impaired: bool,
    /// EC2's reason for its state, when there is one (`Client.UserInitiatedShutdown: …`).
    pub(crate) reason: Option<String>,
}

/// The cloud, for the engine.
pub(crate) trait Environment {
    /// Resolves a template by id or name and version; `Err` is EC2's message.
    fn template(&self, wanted: &TemplateRef) -> Result<(TemplateRef, TemplateView), String>;
    /// Whether EC2 would launch from this template version in that place now; `Err` is its message.
    fn check_launch(&self, template: &TemplateRef, place: &Place) -> Result<(), String>;
    /// RunInstances of one; `Err` is EC2's reason, as the failed scaling activity gives it.
    fn launch(&mut self, request: &LaunchRequest) -> Result<InstanceId, String>;
    /// TerminateInstances of one; may be repeated.
    fn terminate(&mut self, instance_id: &InstanceId);
    /// The instance; `None` once EC2 no longer lists it.
    fn instance(&self, instance_id: &InstanceId) -> Option<InstanceView>;
    /// RegisterTargets of one instance on the target group's port.
    fn register_target(&mut self, target_group_arn: &TargetGroupArn, instance_id: &InstanceId);
    /// DeregisterTargets: the target goes `draining` for the group's deregistration delay.
    fn deregister_target(&mut self, target_group_arn: &TargetGroupArn, instance_id: &InstanceId);
    /// ELB's state string: `initial`, `healthy`, `unhealthy`, `unused`, `draining`; `None` when the
    /// target is not registered (draining is over, or it never was).
    fn target_health(
        &self,
        target_group_arn: &TargetGroupArn,
        instance_id: &InstanceId,
    ) -> Option<String>;
    /// Whether such a target group exists.
    fn target_group_exists(&self, target_group_arn: &TargetGroupArn) -> bool;
    /// The alarm's state now.
    fn alarm(&self, name: &str) -> AlarmState;
    /// Whether the region has such a zone.
    fn has_zone(&self, zone: &str) -> bool;
    /// The zone and id of a subnet, when it exists.
    fn subnet_zone(&self, subnet_id: &SubnetId) -> Option<String>;
    /// A new id for an activity or a refresh (a UUID).
    fn fresh_uuid(&mut self) -> String;
}
