"""What boto3 finds in the cloud, one JSON object on stdout: the answers `protocol.rs` compares with the Rust SDKs' own.

Usage: AWS_ENDPOINT_URL=... python same.py
"""

import json

import boto3
from botocore.exceptions import ClientError

ec2 = boto3.client("ec2")
autoscaling = boto3.client("autoscaling")
ssm = boto3.client("ssm")
elb = boto3.client("elbv2")


def code(call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return "no error"


image = ec2.describe_images()["Images"][0]
vpc = ec2.describe_vpcs()["Vpcs"][0]
subnets = ec2.describe_subnets()["Subnets"]
kinds = ec2.describe_instance_types(InstanceTypes=["t3.micro"])["InstanceTypes"]
version = ec2.describe_launch_template_versions(LaunchTemplateName="shop", Versions=["$Latest"])
version = version["LaunchTemplateVersions"][0]
group = autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"][0]
parameter = ssm.get_parameter(Name="/shop/a")["Parameter"]
targets = elb.describe_target_groups()["TargetGroups"][0]
identity = boto3.client("sts").get_caller_identity()

print(
    json.dumps(
        {
            "image": [image["ImageId"], image["Name"], image["OwnerId"], image["Architecture"], image["CreationDate"]],
            "image disk": [
                image["RootDeviceName"],
                image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"],
                image["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"],
            ],
            "image switches": [image["Public"], image["EnaSupport"], image["BootMode"], image["State"]],
            "vpc": [vpc["VpcId"], vpc["CidrBlock"], vpc["IsDefault"]],
            "subnets": sorted([s["SubnetId"], s["AvailabilityZone"], s["MapPublicIpOnLaunch"]] for s in subnets),
            "instance type": [[k["InstanceType"], k["VCpuInfo"]["DefaultVCpus"]] for k in kinds],
            "template": [
                version["LaunchTemplateId"],
                version["VersionNumber"],
                version["DefaultVersion"],
                version["LaunchTemplateData"]["ImageId"],
            ],
            "group": [
                group["AutoScalingGroupARN"],
                group["MinSize"],
                group["MaxSize"],
                group["DesiredCapacity"],
                group["HealthCheckType"],
                group["LaunchTemplate"]["Version"],
            ],
            "group time": int(group["CreatedTime"].timestamp()),
            "group tag": group["Tags"][0]["Value"],
            "parameter": [parameter["ARN"], parameter["Value"], parameter["Version"], parameter["Type"]],
            "parameter time": int(parameter["LastModifiedDate"].timestamp()),
            "targets": [
                targets["TargetGroupArn"],
                targets["Port"],
                targets["HealthCheckPath"],
                targets["Matcher"]["HttpCode"],
            ],
            "identity": [identity["Account"], identity["Arn"]],
            "no image": code(ec2.describe_images, ImageIds=["ami-0123456789abcdef0"]),
            "odd image": code(ec2.describe_images, ImageIds=["nonsense"]),
            "no instance": code(ec2.describe_instances, InstanceIds=["i-0123456789abcdef0"]),
            "no snapshot": code(ec2.describe_snapshots, SnapshotIds=["snap-0123456789abcdef0"]),
            "no template": code(ec2.describe_launch_template_versions, LaunchTemplateName="none"),
            "no group": code(autoscaling.start_instance_refresh, AutoScalingGroupName="none"),
            "no refresh": code(autoscaling.cancel_instance_refresh, AutoScalingGroupName="shop"),
            "no parameter": code(ssm.get_parameter, Name="/none"),
            "parameter twice": code(ssm.put_parameter, Name="/shop/a", Value="2", Type="String"),
            "no targets": code(elb.describe_target_groups, Names=["none"]),
        }
    )
)
