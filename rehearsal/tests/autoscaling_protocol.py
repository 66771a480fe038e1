"""Auto Scaling as boto3 sees it: every call the rehearsal cloud answers, over the real wire.

Usage: AWS_ENDPOINT_URL=... python autoscaling_protocol.py [IMAGE_ID]
Without an image it takes the first one the cloud has.
Prints nothing and exits 0 when all is well.
"""

import sys
import time

import boto3
from botocore.exceptions import ClientError

GROUP = "protocol"
autoscaling = boto3.client("autoscaling")
ec2 = boto3.client("ec2")
IMAGE = sys.argv[1] if len(sys.argv) > 1 else ec2.describe_images()["Images"][0]["ImageId"]


def refused(code, text, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        found = error.response["Error"]
        assert found["Code"] == code, found
        assert text in found["Message"], found
        return
    raise AssertionError(f"{call.__name__} was not refused")


def wait_for(what, check, seconds=600):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = check()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {what}; {group()}")


def group():
    groups = autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[GROUP])
    return groups["AutoScalingGroups"][0]


def members(state):
    return [m for m in group()["Instances"] if m["LifecycleState"] == state]


def refresh():
    return autoscaling.describe_instance_refreshes(AutoScalingGroupName=GROUP)["InstanceRefreshes"][0]


def complete(instance, result="CONTINUE"):
    autoscaling.complete_lifecycle_action(
        AutoScalingGroupName=GROUP,
        LifecycleHookName="gate",
        InstanceId=instance,
        LifecycleActionResult=result,
    )


def launch_templates():
    data = {"ImageId": IMAGE, "InstanceType": "t3.micro"}
    template = ec2.create_launch_template(LaunchTemplateName="protocol", LaunchTemplateData=data)
    identity = template["LaunchTemplate"]["LaunchTemplateId"]
    ec2.create_launch_template_version(
        LaunchTemplateId=identity, SourceVersion="1", LaunchTemplateData={"ImageId": IMAGE}
    )
    return identity


def founding(template):
    refused(
        "ValidationError",
        "",
        autoscaling.create_auto_scaling_group,
        AutoScalingGroupName=GROUP,
        MinSize=0,
        MaxSize=1,
        AvailabilityZones=["us-east-1a"],
    )
    settings = dict(
        AutoScalingGroupName=GROUP,
        LaunchTemplate={"LaunchTemplateId": template, "Version": "1"},
        MinSize=1,
        MaxSize=4,
        DesiredCapacity=2,
        AvailabilityZones=["us-east-1a"],
        HealthCheckType="EC2",
        HealthCheckGracePeriod=5,
        DefaultInstanceWarmup=1,
        LifecycleHookSpecificationList=[
            {
                "LifecycleHookName": "gate",
                "LifecycleTransition": "autoscaling:EC2_INSTANCE_LAUNCHING",
                "HeartbeatTimeout": 300,
            }
        ],
        Tags=[{"Key": "app", "Value": "shop & sons", "PropagateAtLaunch": True}],
    )
    autoscaling.create_auto_scaling_group(**settings)
    refused("AlreadyExists", GROUP, autoscaling.create_auto_scaling_group, **settings)
    waiting = wait_for("two at the gate", lambda: len(members("Pending:Wait")) == 2 and members("Pending:Wait"))
    found = group()
    assert found["LaunchTemplate"]["LaunchTemplateId"] == template, found
    assert found["CreatedTime"].year > 2000 and found["Tags"][0]["Value"] == "shop & sons", found
    first, second = (m["InstanceId"] for m in waiting)
    autoscaling.record_lifecycle_action_heartbeat(
        AutoScalingGroupName=GROUP, LifecycleHookName="gate", InstanceId=first
    )
    complete(first)
    complete(second, "ABANDON")
    wait_for("one in service", lambda: len(members("InService")) == 1)
    refused("ValidationError", f"No active Lifecycle Action found with instance ID {first}", complete, instance=first)
    third = wait_for("another try", lambda: [m for m in members("Pending:Wait") if m["InstanceId"] != second])
    third = third[0]["InstanceId"]
    complete(third)
    wait_for("two in service", lambda: len(members("InService")) == 2)
    assert second not in {m["InstanceId"] for m in members("InService")}
    details = autoscaling.describe_auto_scaling_instances(InstanceIds=[first])["AutoScalingInstances"]
    assert details[0]["AutoScalingGroupName"] == GROUP and details[0]["HealthStatus"] == "HEALTHY", details
    assert not autoscaling.describe_auto_scaling_instances(InstanceIds=["i-unknown"])["AutoScalingInstances"]


def looking():
    hooks = autoscaling.describe_lifecycle_hooks(AutoScalingGroupName=GROUP)["LifecycleHooks"]
    assert hooks[0]["HeartbeatTimeout"] == 300 and hooks[0]["GlobalTimeout"] == 30000, hooks
    autoscaling.put_lifecycle_hook(
        AutoScalingGroupName=GROUP,
        LifecycleHookName="drain",
        LifecycleTransition="autoscaling:EC2_INSTANCE_TERMINATING",
        HeartbeatTimeout=30,
        DefaultResult="CONTINUE",
    )
    autoscaling.delete_lifecycle_hook(AutoScalingGroupName=GROUP, LifecycleHookName="drain")
    pages = autoscaling.get_paginator("describe_scaling_activities").paginate(
        AutoScalingGroupName=GROUP, PaginationConfig={"PageSize": 2}
    )
    activities = [activity for one in pages for activity in one["Activities"]]
    assert {a["StatusCode"] for a in activities} >= {"Successful", "Cancelled"}, activities
    assert all(a["Cause"].startswith("At 2") for a in activities), activities
    autoscaling.create_or_update_tags(
        Tags=[
            {
                "ResourceId": GROUP,
                "ResourceType": "auto-scaling-group",
                "Key": "release",
                "Value": "7",
                "PropagateAtLaunch": False,
            }
        ]
    )
    tags = autoscaling.describe_tags(Filters=[{"Name": "auto-scaling-group", "Values": [GROUP]}])["Tags"]
    assert {t["Key"] for t in tags} == {"app", "release"}, tags
    by_tag = autoscaling.describe_auto_scaling_groups(Filters=[{"Name": "tag:release", "Values": ["7"]}])
    assert len(by_tag["AutoScalingGroups"]) == 1, by_tag
    targets = autoscaling.describe_load_balancer_target_groups(AutoScalingGroupName=GROUP)
    assert targets["LoadBalancerTargetGroups"] == [], targets


def handling():
    refused(
        "ValidationError",
        "is above max value 4",
        autoscaling.set_desired_capacity,
        AutoScalingGroupName=GROUP,
        DesiredCapacity=9,
    )
    autoscaling.suspend_processes(AutoScalingGroupName=GROUP, ScalingProcesses=["AZRebalance"])
    assert group()["SuspendedProcesses"][0]["ProcessName"] == "AZRebalance"
    autoscaling.resume_processes(AutoScalingGroupName=GROUP)
    assert group()["SuspendedProcesses"] == []
    one = members("InService")[0]["InstanceId"]
    autoscaling.set_instance_protection(AutoScalingGroupName=GROUP, InstanceIds=[one], ProtectedFromScaleIn=True)
    autoscaling.set_instance_protection(AutoScalingGroupName=GROUP, InstanceIds=[one], ProtectedFromScaleIn=False)
    moved = autoscaling.enter_standby(
        AutoScalingGroupName=GROUP, InstanceIds=[one], ShouldDecrementDesiredCapacity=True
    )["Activities"]
    assert moved[0]["Description"] == f"Moving EC2 instance to Standby: {one}", moved
    wait_for("standby", lambda: members("Standby"))
    autoscaling.exit_standby(AutoScalingGroupName=GROUP, InstanceIds=[one])
    wait_for("back from standby", lambda: len(members("InService")) == 2)
    refused(
        "ValidationError",
        "No managed instance found for instance ID: i-unknown",
        autoscaling.set_instance_health,
        InstanceId="i-unknown",
        HealthStatus="Unhealthy",
    )


def rolling(template):
    desired = {"LaunchTemplate": {"LaunchTemplateId": template, "Version": "2"}}
    preferences = {"MinHealthyPercentage": 100, "MaxHealthyPercentage": 150, "InstanceWarmup": 0, "AutoRollback": True}
    refused(
        "ValidationError",
        "DesiredConfiguration parameter is empty",
        autoscaling.start_instance_refresh,
        AutoScalingGroupName=GROUP,
        Preferences=preferences,
    )
    refused(
        "ActiveInstanceRefreshNotFound",
        GROUP,
        autoscaling.rollback_instance_refresh,
        AutoScalingGroupName=GROUP,
    )
    start = dict(AutoScalingGroupName=GROUP, DesiredConfiguration=desired, Preferences=preferences)
    identity = autoscaling.start_instance_refresh(**start)["InstanceRefreshId"]
    refused("InstanceRefreshInProgress", "already in progress", autoscaling.start_instance_refresh, **start)
    wait_for("one at the gate", lambda: members("Pending:Wait"))
    found = refresh()
    assert found["InstanceRefreshId"] == identity and found["Status"] == "InProgress", found
    assert found["Preferences"]["MaxHealthyPercentage"] == 150, found
    assert found["DesiredConfiguration"]["LaunchTemplate"]["Version"] == "2", found
    assert "has insufficient data" in wait_for("a reason", lambda: refresh().get("StatusReason"))
    refused(
        "ValidationError",
        "An active instance refresh with a desired configuration exists.",
        autoscaling.update_auto_scaling_group,
        AutoScalingGroupName=GROUP,
        LaunchTemplate=desired["LaunchTemplate"],
    )
    assert autoscaling.rollback_instance_refresh(AutoScalingGroupName=GROUP)["InstanceRefreshId"] == identity
    wait_for("rolled back", lambda: refresh()["Status"] == "RollbackSuccessful")
    found = refresh()
    assert found["RollbackDetails"]["RollbackStartTime"].year > 2000, found
    assert {m["LaunchTemplate"]["Version"] for m in members("InService")} == {"1"}

    autoscaling.start_instance_refresh(**start)
    wait_for("one at the gate", lambda: members("Pending:Wait"))
    autoscaling.cancel_instance_refresh(AutoScalingGroupName=GROUP, WaitForTransitioningInstances=False)
    wait_for("cancelled", lambda: refresh()["Status"] == "Cancelled")
    wait_for("settled", lambda: len(group()["Instances"]) == 2)

    autoscaling.start_instance_refresh(**start)

    def pass_gate():
        for member in members("Pending:Wait"):
            complete(member["InstanceId"])
        return refresh()["Status"] == "Successful"

    wait_for("rolled", pass_gate)
    found = refresh()
    assert found["PercentageComplete"] == 100 and found["InstancesToUpdate"] == 0, found
    assert found["EndTime"] >= found["StartTime"], found
    assert group()["LaunchTemplate"]["Version"] == "2"
    assert {m["LaunchTemplate"]["Version"] for m in members("InService")} == {"2"}
    everything = autoscaling.describe_instance_refreshes(AutoScalingGroupName=GROUP, MaxRecords=2)
    assert len(everything["InstanceRefreshes"]) == 2 and everything["NextToken"], everything


def unnamed_versions(template):
    """A group whose template has no version is shown without one; a group that is not there is `null`."""
    other = dict(AutoScalingGroupName="unnamed", MinSize=0, MaxSize=0, AvailabilityZones=["us-east-1b"])
    autoscaling.create_auto_scaling_group(LaunchTemplate={"LaunchTemplateId": template}, **other)
    found = autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=["unnamed"])["AutoScalingGroups"][0]
    assert "Version" not in found["LaunchTemplate"] and found["AvailabilityZones"] == ["us-east-1b"], found
    autoscaling.delete_auto_scaling_group(AutoScalingGroupName="unnamed")
    refused("ValidationError", "name not found - null", autoscaling.update_auto_scaling_group, **other)
    bad = dict(LaunchTemplateName="bad", LaunchTemplateData={"InstanceType": "t3.micro"})
    bad = ec2.create_launch_template(**bad)["LaunchTemplate"]["LaunchTemplateId"]
    formed = "You must use a valid fully-formed launch template."
    refused("ValidationError", formed, autoscaling.create_auto_scaling_group, LaunchTemplate={"LaunchTemplateId": bad}, **other)


def ending():
    gone = members("InService")[0]["InstanceId"]
    activity = autoscaling.terminate_instance_in_auto_scaling_group(
        InstanceId=gone, ShouldDecrementDesiredCapacity=True
    )["Activity"]
    assert activity["Description"] == f"Terminating EC2 instance: {gone}", activity
    wait_for("it is terminated", lambda: len(group()["Instances"]) == 1)
    refused("ResourceInUse", "still in the group", autoscaling.delete_auto_scaling_group, AutoScalingGroupName=GROUP)
    refused("InvalidAction", "PutWarmPool", autoscaling.put_warm_pool, AutoScalingGroupName=GROUP)
    autoscaling.delete_auto_scaling_group(AutoScalingGroupName=GROUP, ForceDelete=True)
    everything = autoscaling.describe_auto_scaling_groups
    end = time.monotonic() + 600
    while everything(AutoScalingGroupNames=[GROUP])["AutoScalingGroups"]:
        assert time.monotonic() < end, "the group is still there"
        time.sleep(0.1)


template = launch_templates()
founding(template)
looking()
handling()
rolling(template)
unnamed_versions(template)
ending()
