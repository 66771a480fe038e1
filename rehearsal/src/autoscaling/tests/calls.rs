//! Answers of the calls: formats, paging, filters and errors.

use super::bench::{Bench, GROUP, TARGETS};

#[test]
fn a_group_is_described_as_sdks_expect() {
    let mut bench = Bench::group(
        1,
        &[
            ("TargetGroupARNs.member.1", TARGETS),
            ("Tags.member.1.Key", "app"),
            ("Tags.member.1.Value", "shop"),
            ("Tags.member.1.PropagateAtLaunch", "true"),
        ],
    );
    let id = bench.ids()[0].clone();
    let message = bench
        .call("DescribeAutoScalingGroups", &[])
        .expect("describe");
    for part in [
        "<AutoScalingGroups><member><AutoScalingGroupName>shop</AutoScalingGroupName>".to_owned(),
        "<LaunchTemplate><LaunchTemplateId>lt-1</LaunchTemplateId><LaunchTemplateName>shop</LaunchTemplateName><Version>1</Version></LaunchTemplate>".to_owned(),
        format!("<Instances><member><InstanceId>{id}</InstanceId>"),
        "<LifecycleState>InService</LifecycleState><HealthStatus>Healthy</HealthStatus>".to_owned(),
        format!("<TargetGroupARNs><member>{TARGETS}</member></TargetGroupARNs>"),
        "<CreatedTime>2026-01-01T00:00:00.000Z</CreatedTime>".to_owned(),
        "<Key>app</Key><Value>shop</Value><PropagateAtLaunch>true</PropagateAtLaunch>".to_owned(),
    ] {
        assert!(message.contains(&part), "{part} is not in {message}");
    }
    let bare = bench
        .call(
            "DescribeAutoScalingGroups",
            &[("IncludeInstances", "false")],
        )
        .expect("describe");
    assert!(bare.contains("<Instances></Instances>"), "{bare}");
    for (filter, value, found) in [
        ("tag:app", "shop", true),
        ("tag:app", "x", false),
        ("tag-key", "app", true),
        ("tag-value", "no", false),
    ] {
        let message = bench
            .call(
                "DescribeAutoScalingGroups",
                &[
                    ("Filters.member.1.Name", filter),
                    ("Filters.member.1.Values.member.1", value),
                ],
            )
            .expect("describe");
        assert_eq!(message.contains(GROUP), found, "{filter}={value}");
    }
    let none = bench
        .call(
            "DescribeAutoScalingGroups",
            &[("AutoScalingGroupNames.member.1", "other")],
        )
        .expect("an unknown name is no error");
    assert_eq!(none, "<AutoScalingGroups></AutoScalingGroups>");
    let details = bench
        .call(
            "DescribeAutoScalingInstances",
            &[("InstanceIds.member.1", &id)],
        )
        .expect("describe");
    assert!(
        details.contains("<HealthStatus>HEALTHY</HealthStatus>"),
        "{details}"
    );
}

#[test]
fn long_answers_come_in_pages() {
    let mut bench = Bench::group(7, &[]);
    let mut seen = 0;
    let mut token = String::new();
    loop {
        let message = bench
            .call(
                "DescribeAutoScalingInstances",
                &[("MaxRecords", "3"), ("NextToken", &token)],
            )
            .expect("a page");
        seen += message.matches("<InstanceId>").count();
        match message.split_once("<NextToken>") {
            Some((_, rest)) => token = rest.trim_end_matches("</NextToken>").to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, 7);
    for token in ["rubbish", "from-8"] {
        let refused = bench
            .call("DescribeAutoScalingInstances", &[("NextToken", token)])
            .expect_err(token);
        assert_eq!(refused.code, "InvalidNextToken", "{token}");
    }
}

#[test]
fn a_refresh_is_described_with_what_is_in_force() {
    let mut bench = Bench::group(2, &[("HealthCheckGracePeriod", "33")]);
    let message = bench
        .roll(&[("CheckpointPercentages.member.1", "50")])
        .expect("start");
    assert!(message.starts_with("<InstanceRefreshId>"), "{message}");
    bench.tick();
    let message = bench
        .ask("DescribeInstanceRefreshes", &[])
        .expect("describe");
    for part in [
        "<Status>InProgress</Status>",
        "<PercentageComplete>0</PercentageComplete><InstancesToUpdate>2</InstancesToUpdate>",
        "<Preferences><MinHealthyPercentage>90</MinHealthyPercentage><InstanceWarmup>33</InstanceWarmup><CheckpointPercentages><member>50</member></CheckpointPercentages><CheckpointDelay>3600</CheckpointDelay><SkipMatching>false</SkipMatching>",
        "<DesiredConfiguration><LaunchTemplate><LaunchTemplateId>lt-1</LaunchTemplateId>",
        "<ScaleInProtectedInstances>Wait</ScaleInProtectedInstances><StandbyInstances>Wait</StandbyInstances>",
    ] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    assert!(
        !message.contains("MaxHealthyPercentage"),
        "omitted is not 100: {message}"
    );
    bench.run(1);
    let message = bench
        .ask("DescribeInstanceRefreshes", &[])
        .expect("describe");
    assert!(
        message.contains("Waiting for instances to warm up before continuing. For example: i-"),
        "{message}"
    );
    let other = bench
        .ask(
            "DescribeInstanceRefreshes",
            &[("InstanceRefreshIds.member.1", "other")],
        )
        .expect("describe");
    assert_eq!(other, "<InstanceRefreshes></InstanceRefreshes>");
}

#[test]
fn the_maintenance_policy_and_warm_up_of_the_group_are_defaults() {
    let mut bench = Bench::group(
        2,
        &[
            ("InstanceMaintenancePolicy.MinHealthyPercentage", "100"),
            ("InstanceMaintenancePolicy.MaxHealthyPercentage", "150"),
            ("DefaultInstanceWarmup", "12"),
            ("HealthCheckGracePeriod", "33"),
        ],
    );
    bench.roll(&[]).expect("start");
    let preferences = &bench.refresh().preferences;
    assert_eq!(
        (preferences.min, preferences.max, preferences.warmup),
        (100, Some(150), 12)
    );
}

#[test]
fn invalid_groups_are_refused() {
    let base = [
        ("AutoScalingGroupName", "other"),
        ("MinSize", "0"),
        ("MaxSize", "1"),
        ("LaunchTemplate.LaunchTemplateId", "lt-1"),
        ("LaunchTemplate.Version", "1"),
        ("AvailabilityZones.member.1", "us-east-1a"),
    ];
    for (name, value, code, text) in [
        (
            "AutoScalingGroupName",
            GROUP,
            "AlreadyExists",
            "already exists",
        ),
        ("MinSize", "2", "ValidationError", "Max bound"),
        (
            "DesiredCapacity",
            "2",
            "ValidationError",
            "Desired capacity must be between",
        ),
        (
            "LaunchTemplate.Version",
            "9",
            "ValidationError",
            "version 9",
        ),
        ("AvailabilityZones.member.1", "us-east-1c", "", ""),
        (
            "AvailabilityZones.member.1",
            "us-east-1x",
            "ValidationError",
            "Invalid Availability Zone(s): us-east-1x",
        ),
        (
            "AvailabilityZones.member.1",
            "",
            "ValidationError",
            "At least one Availability Zone",
        ),
        (
            "VPCZoneIdentifier",
            "subnet-a,subnet-b",
            "ValidationError",
            "do not match",
        ),
        (
            "LaunchTemplate.Version",
            "2",
            "ValidationError",
            "You must use a valid fully-formed launch template. The key pair 'x' does not exist",
        ),
        (
            "VPCZoneIdentifier",
            "subnet-x",
            "ValidationError",
            "subnet-x",
        ),
        (
            "TargetGroupARNs.member.1",
            "arn:x",
            "ValidationError",
            "Target Groups may not be valid",
        ),
        (
            "MixedInstancesPolicy.LaunchTemplate.LaunchTemplateSpecification.Version",
            "1",
            "ValidationError",
            "MixedInstancesPolicy",
        ),
        (
            "LaunchConfigurationName",
            "lc",
            "ValidationError",
            "LaunchConfigurationName",
        ),
    ] {
        let mut bench = Bench::group(0, &[]);
        bench.environment.malformed.insert(2);
        let mut form: Vec<(&str, &str)> =
            base.iter().copied().filter(|(n, _)| *n != name).collect();
        form.push((name, value));
        let answer = bench.call("CreateAutoScalingGroup", &form);
        if code.is_empty() {
            answer.expect("the others are as they should be");
            continue;
        }
        let refused = answer.expect_err(text);
        assert_eq!(refused.code, code, "{name}");
        assert!(refused.message.contains(text), "{}", refused.message);
    }
}

#[test]
fn a_group_keeps_its_template_when_the_new_one_is_malformed() {
    let mut bench = Bench::group(1, &[]);
    bench.environment.malformed.insert(2);
    let update = [
        ("LaunchTemplate.LaunchTemplateId", "lt-1"),
        ("LaunchTemplate.Version", "2"),
        ("MaxSize", "7"),
    ];
    let refused = bench.ask("UpdateAutoScalingGroup", &update);
    let message = refused.expect_err("malformed").message;
    assert!(message.contains("valid fully-formed"), "{message}");
    let group = &bench.state.groups[GROUP];
    assert_eq!((&*group.template.version, group.max_size), ("1", 12));
    // What does not name a template asks nothing of it.
    bench.environment.malformed.insert(1);
    bench
        .ask("UpdateAutoScalingGroup", &update[2..])
        .expect("no template");
}

proptest::proptest! {
    /// Members are in the group's zones only, and no zone has two more than another, whatever the group is given.
    #[test]
    fn zones_are_honoured_and_balanced(
        zones in proptest::sample::subsequence(vec!["us-east-1a", "us-east-1b", "us-east-1c"], 1..=3),
        sizes in proptest::collection::vec(0_u32..12, 1..5),
    ) {
        let names: Vec<String> = (1..=zones.len())
            .map(|number| format!("AvailabilityZones.member.{number}"))
            .collect();
        let form: Vec<(&str, &str)> = names
            .iter()
            .map(String::as_str)
            .zip(zones.iter().copied())
            .collect();
        let mut bench = Bench::new();
        bench.create(12, &form);
        for size in sizes {
            bench
                .ask("SetDesiredCapacity", &[("DesiredCapacity", &size.to_string())])
                .expect("within bounds");
            bench.settle();
            bench.run(5);
            let counted: Vec<u32> = zones
                .iter()
                .map(|zone| bench.members(|m| m.state.is_counted() && m.zone == *zone))
                .collect();
            proptest::prop_assert_eq!(counted.iter().sum::<u32>(), size);
            let spread = counted.iter().max().unwrap_or(&0) - counted.iter().min().unwrap_or(&0);
            proptest::prop_assert!(spread <= 1, "{:?}", counted);
        }
    }
}

#[test]
fn tags_are_put_listed_and_deleted() {
    let mut bench = Bench::group(0, &[]);
    let tag = [
        ("Tags.member.1.ResourceId", GROUP),
        ("Tags.member.1.ResourceType", "auto-scaling-group"),
        ("Tags.member.1.Key", "release"),
        ("Tags.member.1.Value", "7"),
        ("Tags.member.1.PropagateAtLaunch", "false"),
    ];
    bench.call("CreateOrUpdateTags", &tag).expect("put");
    let filter = [
        ("Filters.member.1.Name", "key"),
        ("Filters.member.1.Values.member.1", "release"),
    ];
    let message = bench.call("DescribeTags", &filter).expect("list");
    assert!(
        message.contains("<ResourceId>shop</ResourceId>") && message.contains("<Value>7</Value>"),
        "{message}"
    );
    bench.call("DeleteTags", &tag).expect("delete");
    assert_eq!(
        bench.call("DescribeTags", &filter).expect("list"),
        "<Tags></Tags>"
    );
}

#[test]
fn unknown_groups_actions_and_processes_are_refused() {
    let mut bench = Bench::group(0, &[]);
    let refused = bench
        .call(
            "SetDesiredCapacity",
            &[("AutoScalingGroupName", "nope"), ("DesiredCapacity", "1")],
        )
        .expect_err("no such group");
    assert_eq!(
        refused.message,
        "AutoScalingGroup name not found - AutoScalingGroup 'nope' not found"
    );
    assert_eq!(
        bench.call("PutWarmPool", &[]).expect_err("left out").code,
        "InvalidAction"
    );
    let refused = bench
        .ask(
            "SuspendProcesses",
            &[("ScalingProcesses.member.1", "Lanch")],
        )
        .expect_err("a typo");
    assert!(refused.message.contains("Lanch"));
    let refused = bench
        .call("SetDesiredCapacity", &[])
        .expect_err("nothing named");
    assert!(
        refused.message.contains("'desiredCapacity'"),
        "{}",
        refused.message
    );
}
