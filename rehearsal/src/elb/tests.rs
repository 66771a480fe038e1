//! ELB's rules as tables, over machines and a clock in memory.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use jiff::{SignedDuration, Timestamp};

use super::{Ec2View, InstanceState, InstanceView, State, handle, tick};
use crate::balancer_source::CheckOutcome::{self, Pass, Refused, Timeout, WrongStatus};
use crate::ids::{InstanceId, SubnetId, VpcId};
use crate::request::RequestContext;
use crate::wire::{ApiError, Params};

struct Grounds {
    vpc: VpcId,
    machines: BTreeMap<String, InstanceState>,
    balancers: u8,
}

impl Default for Grounds {
    fn default() -> Self {
        Self {
            vpc: "vpc-1".into(),
            machines: BTreeMap::new(),
            balancers: 0,
        }
    }
}

impl Ec2View for Grounds {
    fn instance_view(&self, id: &InstanceId) -> Option<InstanceView> {
        self.machines.get(id.as_str()).map(|state| InstanceView {
            address: Ipv4Addr::new(127, 64, 0, 9),
            state: *state,
        })
    }

    fn vpc(&self) -> &VpcId {
        &self.vpc
    }

    fn subnet_zone(&self, subnet: &SubnetId) -> Option<String> {
        subnet
            .as_str()
            .strip_prefix("subnet-")
            .map(|zone| format!("us-east-1{zone}"))
    }

    fn balancer_address(&mut self) -> Ipv4Addr {
        self.balancers += 1;
        Ipv4Addr::new(127, 64, 240, self.balancers)
    }
}

/// A region with a clock.
struct Bench {
    state: State,
    grounds: Grounds,
    now: Timestamp,
}

impl Bench {
    /// A group of port 8080, two failures for bad and three passes for good, drained for 30 s, behind
    /// a listener; and a running machine `i-1`.
    fn served() -> (Self, String) {
        let mut bench = Self::new();
        let group = bench.group("shop");
        let balancer = bench.balancer("shop");
        bench.ok(&format!(
            "Action=CreateListener&LoadBalancerArn={balancer}&Protocol=HTTP&Port=80\
             &DefaultActions.member.1.Type=forward&DefaultActions.member.1.TargetGroupArn={group}"
        ));
        (bench, group)
    }

    fn new() -> Self {
        Self {
            state: State::default(),
            grounds: Grounds {
                machines: [("i-1".to_owned(), InstanceState::Running)].into(),
                ..Grounds::default()
            },
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
        }
    }

    fn group(&mut self, name: &str) -> String {
        let text = self.ok(&format!(
            "Action=CreateTargetGroup&Name={name}&Protocol=HTTP&Port=8080&VpcId=vpc-1\
             &HealthCheckPath=/gtg&HealthCheckIntervalSeconds=5&HealthCheckTimeoutSeconds=2\
             &HealthyThresholdCount=3&UnhealthyThresholdCount=2"
        ));
        let arn = between(&text, "<TargetGroupArn>", "</TargetGroupArn>");
        self.ok(&format!(
            "Action=ModifyTargetGroupAttributes&TargetGroupArn={arn}\
             &Attributes.member.1.Key=deregistration_delay.timeout_seconds&Attributes.member.1.Value=30"
        ));
        arn
    }

    fn balancer(&mut self, name: &str) -> String {
        let text = self.ok(&format!(
            "Action=CreateLoadBalancer&Name={name}&Subnets.member.1=subnet-a&Subnets.member.2=subnet-b"
        ));
        between(&text, "<LoadBalancerArn>", "</LoadBalancerArn>")
    }

    fn call(&mut self, form: &str) -> Result<String, ApiError> {
        let params = Params::parse(form.as_bytes());
        let ctx = RequestContext { now: self.now };
        let action = params.text("Action").unwrap().to_owned();
        handle(&mut self.state, &mut self.grounds, &ctx, &action, &params)
            .map(crate::wire::Xml::into_string)
    }

    fn ok(&mut self, form: &str) -> String {
        self.call(form).unwrap()
    }

    fn refusal(&mut self, form: &str) -> (String, String) {
        let error = self.call(form).unwrap_err();
        (error.code.into_owned(), error.message)
    }

    fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
        tick(&mut self.state, &self.grounds, self.now);
    }

    /// State and reason of `i-1`.
    fn health(&mut self, group: &str) -> String {
        let text = self.ok(&format!(
            "Action=DescribeTargetHealth&TargetGroupArn={group}&Targets.member.1.Id=i-1"
        ));
        let state = between(&text, "<State>", "</State>");
        match text.split_once("<Reason>") {
            None => state,
            Some((_, rest)) => format!("{state} {}", rest.split_once('<').unwrap().0),
        }
    }

    fn in_rotation(&self) -> Vec<bool> {
        self.state.checked_groups(&self.grounds, self.now)[0]
            .targets
            .iter()
            .map(|target| target.in_rotation)
            .collect()
    }
}

fn between(text: &str, from: &str, to: &str) -> String {
    let (_, rest) = text.split_once(from).unwrap();
    rest.split_once(to).unwrap().0.to_owned()
}

#[test]
fn health_checks_are_counted_to_the_thresholds() {
    let table: [(&str, &[CheckOutcome], &str); 9] = [
        ("nothing yet", &[], "initial Elb.RegistrationInProgress"),
        ("a new target needs one pass", &[Pass], "healthy"),
        (
            "one failure decides nothing",
            &[Refused],
            "initial Elb.InitialHealthChecking",
        ),
        ("a pass after a failure", &[Refused, Pass], "healthy"),
        (
            "failures in a row",
            &[Refused, Refused],
            "unhealthy Target.FailedHealthChecks",
        ),
        (
            "failures not in a row",
            &[Pass, Refused, Pass, Refused],
            "healthy",
        ),
        (
            "the last failure is reported",
            &[Pass, Timeout, WrongStatus(503)],
            "unhealthy Target.ResponseCodeMismatch",
        ),
        (
            "the way back is longer",
            &[Timeout, Timeout, Pass, Pass],
            "unhealthy Target.Timeout",
        ),
        ("and ends", &[Timeout, Timeout, Pass, Pass, Pass], "healthy"),
    ];
    for (what, outcomes, expected) in table {
        let (mut bench, group) = Bench::served();
        bench.state.register(&group.as_str().into(), &"i-1".into());
        for outcome in outcomes {
            bench
                .state
                .report(&group.as_str().into(), &"i-1".into(), *outcome);
        }
        assert_eq!(bench.health(&group), expected, "{what}");
    }
}

#[test]
fn a_target_drains_for_the_delay_and_is_removed() {
    let (mut bench, group) = Bench::served();
    bench.state.register(&group.as_str().into(), &"i-1".into());
    bench
        .state
        .report(&group.as_str().into(), &"i-1".into(), Pass);
    assert_eq!(bench.in_rotation(), [true]);
    bench
        .state
        .deregister(&group.as_str().into(), &"i-1".into(), bench.now);
    assert_eq!(
        bench.health(&group),
        "draining Target.DeregistrationInProgress"
    );
    assert_eq!(bench.in_rotation(), [false]);
    // Checks still on their way change nothing.
    bench
        .state
        .report(&group.as_str().into(), &"i-1".into(), Pass);
    bench.pass(29);
    bench
        .state
        .deregister(&group.as_str().into(), &"i-1".into(), bench.now);
    assert_eq!(
        bench.state.health(
            &group.as_str().into(),
            &"i-1".into(),
            &bench.grounds,
            bench.now
        ),
        Some("draining")
    );
    bench.now += SignedDuration::from_secs(1);
    assert_eq!(
        bench.state.health(
            &group.as_str().into(),
            &"i-1".into(),
            &bench.grounds,
            bench.now
        ),
        None
    );
    assert_eq!(bench.health(&group), "unused Target.NotRegistered");
}

#[test]
fn a_draining_target_registered_again_starts_anew() {
    let (mut bench, group) = Bench::served();
    bench.state.register(&group.as_str().into(), &"i-1".into());
    bench
        .state
        .report(&group.as_str().into(), &"i-1".into(), Pass);
    // Registering twice changes nothing.
    bench.state.register(&group.as_str().into(), &"i-1".into());
    assert_eq!(bench.health(&group), "healthy");
    bench
        .state
        .deregister(&group.as_str().into(), &"i-1".into(), bench.now);
    bench.state.register(&group.as_str().into(), &"i-1".into());
    assert_eq!(bench.health(&group), "initial Elb.RegistrationInProgress");
}

#[test]
fn without_a_listener_targets_are_unused_and_do_not_drain() {
    let mut bench = Bench::new();
    let group = bench.group("shop");
    bench.state.register(&group.as_str().into(), &"i-1".into());
    assert_eq!(bench.health(&group), "unused Target.NotInUse");
    assert!(
        bench
            .state
            .checked_groups(&bench.grounds, bench.now)
            .is_empty()
    );
    bench
        .state
        .deregister(&group.as_str().into(), &"i-1".into(), bench.now);
    assert_eq!(bench.health(&group), "unused Target.NotRegistered");
}

#[test]
fn stopped_and_terminated_instances_change_target_health() {
    let (mut bench, group) = Bench::served();
    bench.state.register(&group.as_str().into(), &"i-1".into());
    bench
        .state
        .report(&group.as_str().into(), &"i-1".into(), Pass);
    bench
        .grounds
        .machines
        .insert("i-1".to_owned(), InstanceState::Stopped);
    bench.pass(1);
    assert_eq!(bench.health(&group), "unused Target.InvalidState");
    bench
        .grounds
        .machines
        .insert("i-1".to_owned(), InstanceState::Running);
    assert_eq!(bench.health(&group), "initial Elb.RegistrationInProgress");
    bench
        .grounds
        .machines
        .insert("i-1".to_owned(), InstanceState::Terminated);
    bench.pass(1);
    assert_eq!(
        bench.health(&group),
        "draining Target.DeregistrationInProgress"
    );
    bench.grounds.machines.clear();
    bench.pass(30);
    assert_eq!(bench.health(&group), "unused Target.NotRegistered");
}

#[test]
fn a_group_of_unhealthy_targets_fails_open() {
    let (mut bench, group) = Bench::served();
    bench
        .grounds
        .machines
        .insert("i-2".to_owned(), InstanceState::Running);
    for id in ["i-1", "i-2"] {
        bench.state.register(&group.as_str().into(), &id.into());
        bench
            .state
            .report(&group.as_str().into(), &id.into(), Timeout);
        bench
            .state
            .report(&group.as_str().into(), &id.into(), Timeout);
    }
    assert_eq!(bench.in_rotation(), [true, true]);
    for _ in 0..3 {
        bench
            .state
            .report(&group.as_str().into(), &"i-2".into(), Pass);
    }
    assert_eq!(bench.in_rotation(), [false, true]);
}

#[test]
fn invalid_requests_get_elbs_errors() {
    let (mut bench, group) = Bench::served();
    let balancer = bench.state.balancers.keys().next().unwrap().clone();
    let other = bench.balancer("other");
    let listener = format!(
        "Protocol=HTTP&DefaultActions.member.1.Type=forward&DefaultActions.member.1.TargetGroupArn={group}"
    );
    bench
        .grounds
        .machines
        .insert("i-2".to_owned(), InstanceState::Stopped);
    let nothing = "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/no/0";
    let table = [
        ("Action=CreateRule".to_owned(), "InvalidAction"),
        ("Action=CreateTargetGroup&Name=shop&Protocol=HTTP&Port=81&VpcId=vpc-1".to_owned(), "DuplicateTargetGroupName"),
        ("Action=CreateTargetGroup&Name=-shop&Protocol=HTTP&Port=81&VpcId=vpc-1".to_owned(), "ValidationError"),
        ("Action=CreateTargetGroup&Name=shop2&Protocol=HTTP&Port=0&VpcId=vpc-1".to_owned(), "ValidationError"),
        ("Action=CreateTargetGroup&Name=shop2&Protocol=HTTP&Port=81&VpcId=vpc-2".to_owned(), "ValidationError"),
        ("Action=CreateTargetGroup&Name=shop2&Protocol=TCP&Port=81&VpcId=vpc-1".to_owned(), "UnsupportedOperation"),
        ("Action=CreateTargetGroup&Name=a&Protocol=HTTP&Port=81&VpcId=vpc-1&HealthCheckIntervalSeconds=5&HealthCheckTimeoutSeconds=5".to_owned(), "ValidationError"),
        ("Action=CreateTargetGroup&Name=a&Protocol=HTTP&Port=81&VpcId=vpc-1&Matcher.HttpCode=200-x".to_owned(), "ValidationError"),
        (format!("Action=DescribeTargetHealth&TargetGroupArn={nothing}"), "TargetGroupNotFound"),
        ("Action=DescribeTargetGroups&Names.member.1=no".to_owned(), "TargetGroupNotFound"),
        ("Action=DescribeTargetGroups&PageSize=0".to_owned(), "ValidationError"),
        (format!("Action=DeleteTargetGroup&TargetGroupArn={group}"), "ResourceInUse"),
        (format!("Action=RegisterTargets&TargetGroupArn={group}&Targets.member.1.Id=i-9"), "InvalidTarget"),
        (format!("Action=RegisterTargets&TargetGroupArn={group}&Targets.member.1.Id=i-2"), "InvalidTarget"),
        (format!("Action=RegisterTargets&TargetGroupArn={group}"), "ValidationError"),
        (format!("Action=ModifyTargetGroupAttributes&TargetGroupArn={group}&Attributes.member.1.Key=no&Attributes.member.1.Value=1"), "ValidationError"),
        (format!("Action=ModifyTargetGroupAttributes&TargetGroupArn={group}&Attributes.member.1.Key=stickiness.enabled&Attributes.member.1.Value=true"), "UnsupportedOperation"),
        (format!("Action=ModifyTargetGroupAttributes&TargetGroupArn={group}&Attributes.member.1.Key=deregistration_delay.timeout_seconds&Attributes.member.1.Value=3601"), "ValidationError"),
        ("Action=CreateLoadBalancer&Name=x&Subnets.member.1=subnet-a".to_owned(), "ValidationError"),
        ("Action=CreateLoadBalancer&Name=x&Subnets.member.1=subnet-a&Subnets.member.2=no".to_owned(), "SubnetNotFound"),
        ("Action=CreateLoadBalancer&Name=shop&Scheme=internal&Subnets.member.1=subnet-a&Subnets.member.2=subnet-b".to_owned(), "DuplicateLoadBalancerName"),
        ("Action=DescribeLoadBalancers&Names.member.1=no".to_owned(), "LoadBalancerNotFound"),
        (format!("Action=CreateListener&LoadBalancerArn={balancer}&Port=80&{listener}"), "DuplicateListener"),
        (format!("Action=CreateListener&LoadBalancerArn={other}&Port=80&{listener}"), "TargetGroupAssociationLimit"),
        (format!("Action=CreateListener&LoadBalancerArn={balancer}&Port=81&Protocol=HTTP&DefaultActions.member.1.Type=redirect"), "UnsupportedOperation"),
        ("Action=DeleteListener&ListenerArn=no".to_owned(), "ListenerNotFound"),
        (format!("Action=DescribeTags&ResourceArns.member.1={nothing}"), "TargetGroupNotFound"),
    ];
    for (form, code) in table {
        let (found, message) = bench.refusal(&form);
        assert_eq!(found, code, "{form}: {message}");
    }
}

#[test]
fn creating_a_group_twice_with_equal_settings_is_idempotent() {
    let mut bench = Bench::new();
    let (one, two) = (bench.group("shop"), bench.group("shop"));
    assert_eq!(one, two);
    assert_eq!(bench.balancer("shop"), bench.balancer("shop"));
    assert_eq!(bench.grounds.balancers, 1);
}

#[test]
fn deletion_protection_holds_and_deletion_removes_listeners() {
    let (mut bench, group) = Bench::served();
    let balancer = bench.state.balancers.keys().next().unwrap().clone();
    for protected in ["true", "false"] {
        bench.ok(&format!(
            "Action=ModifyLoadBalancerAttributes&LoadBalancerArn={balancer}\
             &Attributes.member.1.Key=deletion_protection.enabled&Attributes.member.1.Value={protected}"
        ));
        let delete = format!("Action=DeleteLoadBalancer&LoadBalancerArn={balancer}");
        if protected == "true" {
            assert_eq!(
                bench.refusal(&delete).0,
                "OperationNotPermitted",
                "{protected}"
            );
            assert_eq!(bench.state.open_listeners().len(), 1, "{protected}");
        } else {
            bench.ok(&delete);
        }
    }
    assert!(bench.state.open_listeners().is_empty());
    bench.ok(&format!("Action=DeleteTargetGroup&TargetGroupArn={group}"));
    assert!(!bench.state.group_exists(&group.as_str().into()));
}

#[test]
fn pages_have_the_requested_size() {
    let mut bench = Bench::new();
    for name in ["a", "b", "c"] {
        bench.group(name);
    }
    let first = bench.ok("Action=DescribeTargetGroups&PageSize=2");
    let marker = between(&first, "<NextMarker>", "</NextMarker>");
    let second = bench.ok(&format!(
        "Action=DescribeTargetGroups&PageSize=2&Marker={marker}"
    ));
    assert_eq!(first.matches("<TargetGroupName>").count(), 2);
    assert_eq!(between(&second, "<TargetGroupName>", "<"), "c");
    assert!(!second.contains("NextMarker"));
}
