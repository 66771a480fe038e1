//! An environment in memory with a clock that tests advance, for the engine's tests.

use std::collections::{BTreeMap, BTreeSet};

use instance_refresh::{AlarmState, Refresh, RefreshStatus, TemplateRef};
use jiff::{SignedDuration, Timestamp};

use super::super::environment::{Environment, InstanceView, LaunchRequest, Place, TemplateView};
use super::super::groups::Group;
use super::super::members::{LifecycleState, Member};
use super::super::{State, handle, tick};
use crate::ids::{InstanceId, SubnetId, TargetGroupArn};
use crate::request::RequestContext;
use crate::wire::{ApiError, Params};

/// The name of the group most tests use.
pub(super) const GROUP: &str = "shop";
/// A target group.
pub(super) const TARGETS: &str =
    "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/t/1";

/// The environment in memory.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Instances and their states.
    pub(super) instances: BTreeMap<String, InstanceView>,
    /// Template number by instance, for the scripted agents.
    pub(super) versions: BTreeMap<String, u64>,
    /// Targets and their states.
    pub(super) targets: BTreeMap<(String, String), String>,
    /// Alarms that exist.
    pub(super) alarms: BTreeMap<String, AlarmState>,
    /// Versions that a group is refused.
    pub(super) malformed: BTreeSet<u64>,
    /// Versions that cannot be launched.
    pub(super) unlaunchable: BTreeSet<u64>,
    /// Template versions whose targets become unhealthy.
    pub(super) sick: BTreeSet<u64>,
    /// Versions whose AMI is a parameter.
    pub(super) by_parameter: BTreeSet<u64>,
    /// What `$Latest` is.
    pub(super) latest: u64,
    /// Launches refused so far.
    pub(super) refused: usize,
    /// Registrations so far.
    pub(super) registrations: u32,
    /// Instances start as `pending` and stay so until a test changes that.
    pub(super) slow_boot: bool,
    made: u32,
}

impl Memory {
    /// Ends an instance for a reason of EC2's.
    pub(super) fn die(&mut self, id: &str, reason: &str) {
        if let Some(instance) = self.instances.get_mut(id) {
            instance.state = "terminated".to_owned();
            instance.reason = (!reason.is_empty()).then(|| reason.to_owned());
        }
    }
}

impl Environment for Memory {
    fn template(&self, wanted: &TemplateRef) -> Result<(TemplateRef, TemplateView), String> {
        let number = match wanted.version.as_str() {
            "$Latest" => self.latest,
            "$Default" => 1,
            text => text.parse().map_err(|_| format!("no version {text}"))?,
        };
        if number > self.latest {
            return Err(format!("Could not find launch template version {number}."));
        }
        let image = if self.by_parameter.contains(&number) {
            format!("resolve:ssm:/image/{number}")
        } else {
            format!("ami-{number}")
        };
        Ok((
            TemplateRef {
                id: "lt-1".to_owned(),
                name: "shop".to_owned(),
                version: wanted.version.clone(),
            },
            TemplateView {
                number,
                image_id: Some(image),
                instance_type: Some("t3.micro".to_owned()),
            },
        ))
    }

    fn launch(&mut self, request: &LaunchRequest) -> Result<InstanceId, String> {
        let version: u64 = request
            .template
            .version
            .parse()
            .expect("a numbered version");
        if self.unlaunchable.contains(&version) {
            self.refused += 1;
            return Err("The image id '[ami-x]' does not exist".to_owned());
        }
        self.made += 1;
        let id = format!("i-{:05}", self.made);
        let zone = match &request.place {
            Place::Subnet(subnet) => self.subnet_zone(subnet).expect("a subnet"),
            Place::Zone(zone) => zone.clone(),
        };
        self.instances.insert(
            id.clone(),
            InstanceView {
                state: if self.slow_boot { "pending" } else { "running" }.to_owned(),
                zone,
                instance_type: "t3.micro".to_owned(),
                image_id: format!("ami-{version}").as_str().into(),
                impaired: false,
                reason: None,
            },
        );
        self.versions.insert(id.clone(), version);
        Ok(id.as_str().into())
    }

    fn terminate(&mut self, instance_id: &InstanceId) {
        if let Some(instance) = self.instances.get_mut(instance_id.as_str()) {
            instance.state = "terminated".to_owned();
        }
    }

    fn instance(&self, instance_id: &InstanceId) -> Option<InstanceView> {
        self.instances.get(instance_id.as_str()).cloned()
    }

    fn register_target(&mut self, arn: &TargetGroupArn, id: &InstanceId) {
        self.registrations += 1;
        let sick = self
            .versions
            .get(id.as_str())
            .is_some_and(|v| self.sick.contains(v));
        let health = if sick { "unhealthy" } else { "healthy" };
        self.targets
            .insert((arn.to_string(), id.to_string()), health.to_owned());
    }

    fn deregister_target(&mut self, arn: &TargetGroupArn, id: &InstanceId) {
        if let Some(state) = self.targets.get_mut(&(arn.to_string(), id.to_string())) {
            *state = "draining".to_owned();
        }
    }

    fn target_health(&self, arn: &TargetGroupArn, id: &InstanceId) -> Option<String> {
        self.targets
            .get(&(arn.to_string(), id.to_string()))
            .cloned()
    }

    fn target_group_exists(&self, arn: &TargetGroupArn) -> bool {
        *arn == TARGETS
    }

    fn alarm(&self, name: &str) -> AlarmState {
        self.alarms
            .get(name)
            .copied()
            .unwrap_or(AlarmState::InsufficientData)
    }

    fn check_launch(&self, template: &TemplateRef, _place: &Place) -> Result<(), String> {
        match template.version.parse() {
            Ok(version) if self.malformed.contains(&version) => {
                Err("The key pair 'x' does not exist".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn has_zone(&self, zone: &str) -> bool {
        ["us-east-1a", "us-east-1b", "us-east-1c"].contains(&zone)
    }

    fn subnet_zone(&self, subnet_id: &SubnetId) -> Option<String> {
        match subnet_id.as_str() {
            "subnet-a" => Some("us-east-1a".to_owned()),
            "subnet-b" => Some("us-east-1b".to_owned()),
            _ => None,
        }
    }

    fn fresh_uuid(&mut self) -> String {
        self.made += 1;
        format!("00000000-0000-4000-8000-{:012}", self.made)
    }
}

/// What the agent on an instance of some template version answers its launch hook.
pub(super) type Agent = fn(version: u64, id: &str) -> Option<&'static str>;

/// The engine, its environment and the clock.
pub(super) struct Bench {
    /// The engine's state.
    pub(super) state: State,
    /// The environment.
    pub(super) environment: Memory,
    /// The clock.
    pub(super) now: Timestamp,
    /// When it started.
    pub(super) start: Timestamp,
    /// The agents.
    pub(super) agent: Agent,
}

impl Bench {
    /// An empty cloud with two template versions.
    pub(super) fn new() -> Self {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a timestamp");
        Self {
            state: State::default(),
            environment: Memory {
                latest: 2,
                ..Memory::default()
            },
            now: start,
            start,
            agent: |_, _| Some("CONTINUE"),
        }
    }

    /// A cloud with one settled group on version 1.
    pub(super) fn group(desired: u32, more: &[(&str, &str)]) -> Self {
        let mut bench = Self::new();
        bench.create(desired, more);
        bench.settle();
        bench.run(1);
        bench.start = bench.now;
        let settled = bench.members(|m| m.state == LifecycleState::InService);
        assert_eq!(settled, desired, "the group is not settled");
        bench
    }

    /// CreateAutoScalingGroup with usual values, which `more` overrides.
    pub(super) fn create(&mut self, desired: u32, more: &[(&str, &str)]) {
        let (desired, max) = (desired.to_string(), (2 * desired + 10).to_string());
        let mut form = vec![
            ("AutoScalingGroupName", GROUP),
            ("MinSize", "0"),
            ("MaxSize", &max),
            ("DesiredCapacity", &desired),
            ("LaunchTemplate.LaunchTemplateId", "lt-1"),
            ("LaunchTemplate.Version", "1"),
            ("AvailabilityZones.member.1", "us-east-1a"),
        ];
        form.retain(|(name, _)| more.iter().all(|(other, _)| name != other));
        form.extend_from_slice(more);
        self.call("CreateAutoScalingGroup", &form).expect("create");
    }

    /// One request; the answer's inside.
    pub(super) fn call(&mut self, action: &str, form: &[(&str, &str)]) -> Result<String, ApiError> {
        let body = form
            .iter()
            .map(|(name, value)| {
                let value = value
                    .replace('%', "%25")
                    .replace('&', "%26")
                    .replace('+', "%2B");
                format!("{name}={value}")
            })
            .collect::<Vec<_>>()
            .join("&");
        let ctx = RequestContext { now: self.now };
        handle(
            &mut self.state,
            &mut self.environment,
            &ctx,
            action,
            &Params::parse(body.as_bytes()),
        )
        .map(crate::wire::Xml::into_string)
    }

    /// A request about the group.
    pub(super) fn ask(&mut self, action: &str, form: &[(&str, &str)]) -> Result<String, ApiError> {
        let mut all = vec![("AutoScalingGroupName", GROUP)];
        all.extend_from_slice(form);
        self.call(action, &all)
    }

    /// SetInstanceProtection of one member.
    pub(super) fn protect(&mut self, id: &str, on: &str) {
        let form = [("InstanceIds.member.1", id), ("ProtectedFromScaleIn", on)];
        self.ask("SetInstanceProtection", &form)
            .expect("in service");
    }

    /// StartInstanceRefresh to version 2; `more` are preferences without their prefix.
    pub(super) fn roll(&mut self, preferences: &[(&str, &str)]) -> Result<String, ApiError> {
        let named: Vec<(String, &str)> = preferences
            .iter()
            .map(|(name, value)| (format!("Preferences.{name}"), *value))
            .collect();
        let mut form = vec![
            (
                "DesiredConfiguration.LaunchTemplate.LaunchTemplateId",
                "lt-1",
            ),
            ("DesiredConfiguration.LaunchTemplate.Version", "2"),
        ];
        form.extend(named.iter().map(|(name, value)| (name.as_str(), *value)));
        self.ask("StartInstanceRefresh", &form)
    }

    /// One tick of the engine, then the agents answer.
    pub(super) fn tick(&mut self) {
        tick(&mut self.state, &mut self.environment, self.now);
        let waiting: Vec<(String, String)> = self
            .group_ref()
            .map(|group| {
                group
                    .members
                    .iter()
                    .filter(|m| m.state == LifecycleState::PendingWait)
                    .flat_map(|m| m.actions.iter().map(|a| (m.id.to_string(), a.hook.clone())))
                    .collect()
            })
            .unwrap_or_default();
        for (id, hook) in waiting {
            if let Some(answer) = (self.agent)(self.environment.versions[&id], &id) {
                // The second hook of an abandoned launch is closed already.
                let _ = self.ask(
                    "CompleteLifecycleAction",
                    &[
                        ("LifecycleHookName", &hook),
                        ("InstanceId", &id),
                        ("LifecycleActionResult", answer),
                    ],
                );
            }
        }
    }

    /// Ticks at this instant until nothing changes any more.
    pub(super) fn settle(&mut self) {
        for _ in 0..60 {
            let before = self.state.groups.clone();
            self.tick();
            if self.state.groups == before {
                return;
            }
        }
        panic!("the engine does not come to rest:\n{:#?}", self.refresh());
    }

    /// Lets whole seconds pass.
    pub(super) fn run(&mut self, seconds: u32) {
        for _ in 0..seconds {
            self.now += SignedDuration::from_secs(1);
            self.settle();
        }
    }

    /// Lets time pass until `done`, at most `seconds`.
    pub(super) fn run_until(&mut self, seconds: u32, done: impl Fn(&Self) -> bool) {
        for _ in 0..seconds {
            if done(self) {
                return;
            }
            self.run(1);
        }
        assert!(done(self), "not within {seconds} s:\n{:#?}", self.refresh());
    }

    /// Lets time pass until the refresh is over.
    pub(super) fn finish(&mut self, seconds: u32) -> RefreshStatus {
        self.run_until(seconds, |b| !b.refresh().status.is_active());
        self.refresh().status
    }

    fn group_ref(&self) -> Option<&Group> {
        self.state.groups.get(GROUP)
    }

    /// The group.
    pub(super) fn of(&self) -> &Group {
        self.group_ref().expect("the group")
    }

    /// Its newest refresh.
    pub(super) fn refresh(&self) -> &Refresh {
        self.of().refreshes.last().expect("a refresh")
    }

    /// The events of the newest refresh so far, with minutes since the start.
    pub(super) fn events(&self) -> Vec<String> {
        self.refresh()
            .events
            .iter()
            .map(|e| format!("{}s {}", e.at.duration_since(self.start).as_secs(), e.what))
            .collect()
    }

    /// Members in service on a version.
    pub(super) fn in_service(&self, version: u64) -> u32 {
        self.members(|m| {
            m.state == LifecycleState::InService && m.template.version == version.to_string()
        })
    }

    /// Members that count.
    pub(super) fn members(&self, which: impl Fn(&Member) -> bool) -> u32 {
        let found = self.of().members.iter().filter(|m| which(m)).count();
        u32::try_from(found).expect("few")
    }

    /// Ids of members that count, oldest first.
    pub(super) fn ids(&self) -> Vec<String> {
        self.of()
            .members
            .iter()
            .filter(|m| m.state.is_counted())
            .map(|m| m.id.to_string())
            .collect()
    }
}

/// A launch hook with a heartbeat, as CreateAutoScalingGroup takes it.
pub(super) fn launch_hook(heartbeat: &'static str) -> [(&'static str, &'static str); 3] {
    [
        (
            "LifecycleHookSpecificationList.member.1.LifecycleHookName",
            "gate",
        ),
        (
            "LifecycleHookSpecificationList.member.1.LifecycleTransition",
            "autoscaling:EC2_INSTANCE_LAUNCHING",
        ),
        (
            "LifecycleHookSpecificationList.member.1.HeartbeatTimeout",
            heartbeat,
        ),
    ]
}
