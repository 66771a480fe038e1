"""Parameter Store, load balancing, STS and what moto answers, as boto3 sees them over the real wire.

Usage: AWS_ENDPOINT_URL=... python services_protocol.py SECTION...
Prints nothing and exits 0 when all is well.
"""

import io
import sys
import time

import boto3
import botocore.config
from botocore.exceptions import ClientError

ssm = boto3.client("ssm")
elb = boto3.client("elbv2")
ec2 = boto3.client("ec2")


def refused(code, text, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        found = error.response["Error"]
        assert found["Code"] == code, found
        assert text in found["Message"], found
        return
    raise AssertionError(f"{call.__name__} was not refused")


def parameters():
    answer = ssm.put_parameter(Name="/shop/a", Value="1", Type="String", Tags=[{"Key": "app", "Value": "shop & sons"}])
    assert (answer["Version"], answer["Tier"]) == (1, "Standard"), answer
    assert ssm.put_parameter(Name="/shop/a", Value="<2>", Overwrite=True)["Version"] == 2
    found = ssm.get_parameter(Name="/shop/a")["Parameter"]
    assert found["Value"] == "<2>" and found["LastModifiedDate"].year > 2000, found
    assert found["ARN"].endswith(":parameter/shop/a"), found
    assert ssm.get_parameter(Name="/shop/a:1")["Parameter"]["Selector"] == ":1"
    for number in range(12):
        ssm.put_parameter(Name=f"/shop/n/{number:02}", Value="x", Type="String")
    several = ssm.get_parameters(Names=["/shop/a", "/no"])
    assert several["InvalidParameters"] == ["/no"] and len(several["Parameters"]) == 1, several
    pages = list(ssm.get_paginator("get_parameters_by_path").paginate(Path="/shop", Recursive=True))
    assert [len(page["Parameters"]) for page in pages] == [10, 3], pages
    listed = ssm.describe_parameters(ParameterFilters=[{"Key": "tag:app", "Values": ["shop & sons"]}])["Parameters"]
    assert [p["Name"] for p in listed] == ["/shop/a"], listed
    history = ssm.get_parameter_history(Name="/shop/a")["Parameters"]
    assert [p["Value"] for p in history] == ["1", "<2>"], history
    ssm.add_tags_to_resource(ResourceType="Parameter", ResourceId="/shop/a", Tags=[{"Key": "k", "Value": "v"}])
    ssm.remove_tags_from_resource(ResourceType="Parameter", ResourceId="/shop/a", TagKeys=["app"])
    tags = ssm.list_tags_for_resource(ResourceType="Parameter", ResourceId="/shop/a")["TagList"]
    assert tags == [{"Key": "k", "Value": "v"}], tags
    refused("ParameterAlreadyExists", "overwrite", ssm.put_parameter, Name="/shop/a", Value="3", Type="String")
    refused("ValidationException", "4096", ssm.put_parameter, Name="/b", Value="x" * 4097, Type="String")
    refused("UnknownOperationException", "SendCommand", ssm.send_command, DocumentName="AWS-RunShellScript")
    # Accepted, checked, and dropped: there is no such image.
    pointer = dict(Name="/shop/current", Type="String", DataType="aws:ec2:image", Overwrite=True)
    assert ssm.put_parameter(Value="ami-0000000000000bad0", **pointer)["Version"] == 1
    refused("ValidationException", "ami-no", ssm.put_parameter, Value="ami-no", **pointer)
    assert ssm.delete_parameters(Names=["/shop/a", "/no"])["InvalidParameters"] == ["/no"]
    try:
        ssm.get_parameter(Name="/shop/a")
        raise AssertionError("it is still there")
    except ssm.exceptions.ParameterNotFound:
        pass


def network():
    """The default VPC and two of its subnets."""
    subnets = ec2.describe_subnets()["Subnets"]
    return subnets[0]["VpcId"], [subnet["SubnetId"] for subnet in subnets[:2]]


def balancers():
    vpc, subnets = network()
    settings = dict(
        Name="protocol",
        Protocol="HTTP",
        Port=8080,
        VpcId=vpc,
        HealthCheckPath="/gtg",
        HealthCheckIntervalSeconds=5,
        HealthCheckTimeoutSeconds=2,
        HealthyThresholdCount=2,
        Matcher={"HttpCode": "200-299"},
        Tags=[{"Key": "app", "Value": "shop"}],
    )
    group = elb.create_target_group(**settings)["TargetGroups"][0]
    arn = group["TargetGroupArn"]
    assert group["HealthCheckPort"] == "traffic-port" and group["LoadBalancerArns"] == [], group
    assert elb.create_target_group(**settings)["TargetGroups"][0]["TargetGroupArn"] == arn
    refused("DuplicateTargetGroupName", "protocol", elb.create_target_group, **{**settings, "Port": 81})
    delay = {"Key": "deregistration_delay.timeout_seconds", "Value": "7"}
    assert delay in elb.modify_target_group_attributes(TargetGroupArn=arn, Attributes=[delay])["Attributes"]
    assert delay in elb.describe_target_group_attributes(TargetGroupArn=arn)["Attributes"]
    changed = elb.modify_target_group(TargetGroupArn=arn, HealthCheckIntervalSeconds=6)["TargetGroups"][0]
    assert changed["HealthCheckIntervalSeconds"] == 6 and changed["HealthCheckPath"] == "/gtg", changed

    balancer = elb.create_load_balancer(Name="protocol", Subnets=subnets)["LoadBalancers"][0]
    assert balancer["DNSName"].startswith("127.") and balancer["State"]["Code"] == "provisioning", balancer
    owner = balancer["LoadBalancerArn"]
    elb.get_waiter("load_balancer_available").wait(LoadBalancerArns=[owner])
    protection = {"Key": "deletion_protection.enabled", "Value": "false"}
    assert protection in elb.describe_load_balancer_attributes(LoadBalancerArn=owner)["Attributes"]
    listener = elb.create_listener(
        LoadBalancerArn=owner,
        Protocol="HTTP",
        Port=8099,
        DefaultActions=[{"Type": "forward", "TargetGroupArn": arn}],
    )["Listeners"][0]
    assert listener["DefaultActions"][0]["TargetGroupArn"] == arn, listener
    listeners = elb.describe_listeners(LoadBalancerArn=owner)["Listeners"]
    assert [one["Port"] for one in listeners] == [8099], listeners
    rules = elb.describe_rules(ListenerArn=listener["ListenerArn"])["Rules"]
    assert rules[0]["IsDefault"] and rules[0]["Priority"] == "default", rules
    found = elb.describe_target_groups(LoadBalancerArn=owner)["TargetGroups"]
    assert [one["LoadBalancerArns"] for one in found] == [[owner]], found
    refused("ResourceInUse", arn, elb.delete_target_group, TargetGroupArn=arn)

    health = elb.describe_target_health(TargetGroupArn=arn, Targets=[{"Id": "i-0123456789abcdef0"}])
    health = health["TargetHealthDescriptions"][0]["TargetHealth"]
    assert (health["State"], health["Reason"]) == ("unused", "Target.NotRegistered"), health
    no_instance = [{"Id": "i-0123456789abcdef0"}]
    refused("InvalidTarget", "i-0123456789abcdef0", elb.register_targets, TargetGroupArn=arn, Targets=no_instance)
    elb.deregister_targets(TargetGroupArn=arn, Targets=no_instance)

    elb.add_tags(ResourceArns=[arn, owner], Tags=[{"Key": "run", "Value": "1"}])
    tags = elb.describe_tags(ResourceArns=[arn])["TagDescriptions"][0]["Tags"]
    assert {tag["Key"] for tag in tags} == {"app", "run"}, tags
    elb.delete_load_balancer(LoadBalancerArn=owner)
    refused("ListenerNotFound", "", elb.delete_listener, ListenerArn=listener["ListenerArn"])
    classic = boto3.client("elb")
    assert classic.describe_load_balancers()["LoadBalancerDescriptions"] == []
    refused("LoadBalancerNotFound", "old", classic.describe_load_balancers, LoadBalancerNames=["old"])
    refused("UnsupportedOperation", "Classic", classic.describe_instance_health, LoadBalancerName="old")
    elb.delete_target_group(TargetGroupArn=arn)
    refused("TargetGroupNotFound", "", elb.describe_target_groups, TargetGroupArns=[arn])


def identity():
    found = boto3.client("sts").get_caller_identity()
    assert found["Account"] == "123456789012" and found["Arn"].startswith("arn:aws:iam::"), found
    refused("InvalidAction", "GetSessionToken", boto3.client("sts").get_session_token)


def objects():
    path_style = botocore.config.Config(s3={"addressing_style": "path"})
    s3 = boto3.client("s3", config=path_style)
    s3.create_bucket(Bucket="orders")
    s3.put_object(Bucket="orders", Key="orders/1.json", Body=b"{}", IfNoneMatch="*")
    again = dict(Bucket="orders", Key="orders/1.json", Body=b"[]", IfNoneMatch="*")
    refused("PreconditionFailed", "", s3.put_object, **again)
    assert s3.get_object(Bucket="orders", Key="orders/1.json")["Body"].read() == b"{}"
    assert s3.head_object(Bucket="orders", Key="orders/1.json")["ContentLength"] == 2
    # Larger than the limit for the cloud's own services: it must be streamed.
    large = bytes(range(256)) * 20_000
    s3.upload_fileobj(io.BytesIO(large), "orders", "large")
    assert s3.get_object(Bucket="orders", Key="large")["Body"].read() == large
    names = [one["Key"] for one in s3.list_objects_v2(Bucket="orders")["Contents"]]
    assert names == ["large", "orders/1.json"], names
    refused("NoSuchKey", "", s3.get_object, Bucket="orders", Key="no")


def metrics():
    watch = boto3.client("cloudwatch")
    watch.put_metric_data(Namespace="Shop", MetricData=[{"MetricName": "OrderCount", "Value": 1, "Unit": "Count"}])
    end = time.monotonic() + 300
    while not watch.list_metrics(Namespace="Shop")["Metrics"]:
        assert time.monotonic() < end, "the metric is not there"


def denied():
    """Each service refuses a denied action with its own error, and IAM's simulation reports it."""
    who = "User: arn:aws:iam::123456789012:user/rehearsal is not authorized to perform: "
    image = ec2.describe_images()["Images"][0]["ImageId"]
    run = dict(ImageId=image, MinCount=1, MaxCount=1)
    for more in ({}, {"DryRun": True}):
        refused("UnauthorizedOperation", who + "ec2:RunInstances", ec2.run_instances, **run, **more)
    tagged = [{"ResourceType": "security-group", "Tags": [{"Key": "a", "Value": "b"}]}]
    group = dict(GroupName="denied", Description="x")
    refused("UnauthorizedOperation", who + "ec2:CreateTags", ec2.create_security_group, TagSpecifications=tagged, **group)
    ec2.create_security_group(**group)
    autoscaling = boto3.client("autoscaling")
    refused("AccessDenied", who + "autoscaling:DescribePolicies", autoscaling.describe_policies)
    refused("AccessDenied", who + "elasticloadbalancing:DescribeLoadBalancers", elb.describe_load_balancers)
    refused("AccessDenied", who + "sts:GetCallerIdentity", boto3.client("sts").get_caller_identity)
    refused("AccessDeniedException", who + "ssm:PutParameter", ssm.put_parameter, Name="/a", Value="1", Type="String")
    refused("AccessDenied", who + "s3:PutObject", boto3.client("s3").put_object, Bucket="b", Key="k", Body=b"")
    refused("AccessDeniedException", who + "dynamodb:PutItem", boto3.client("dynamodb").put_item, TableName="t", Item={})
    refused("AccessDenied", who + "iam:CreateRole", boto3.client("iam").create_role, RoleName="r", AssumeRolePolicyDocument="{}")
    watch = boto3.client("cloudwatch")
    data = [{"MetricName": "OrderCount", "Value": 1}]
    refused("AccessDeniedException", who + "cloudwatch:PutMetricData", watch.put_metric_data, Namespace="S", MetricData=data)

    iam = boto3.client("iam")
    actions = ["ec2:RunInstances", "ec2:DescribeImages", "iam:PassRole"] + [f"ssm:Get{n}" for n in range(200)]
    asked = dict(PolicySourceArn="arn:aws:iam::123456789012:role/shop", ActionNames=actions, ResourceArns=["*"])
    pages = list(iam.get_paginator("simulate_principal_policy").paginate(**asked))
    assert [len(page["EvaluationResults"]) for page in pages] == [100, 100, 3], pages
    decisions = {one["EvalActionName"]: one["EvalDecision"] for page in pages for one in page["EvaluationResults"]}
    assert decisions.pop("ec2:RunInstances") == "explicitDeny" and set(decisions.values()) == {"allowed"}, decisions
    one = pages[0]["EvaluationResults"][0]
    assert one["ResourceSpecificResults"][0]["EvalResourceDecision"] == "explicitDeny", one
    session = "arn:aws:sts::123456789012:assumed-role/shop/me"
    refused("InvalidInput", "entity type", iam.simulate_principal_policy, **{**asked, "PolicySourceArn": session})


def refusals():
    """What is not done is refused by name, and in the protocol of each service."""
    stack = dict(StackName="shop", TemplateBody="{}")
    refused("NotImplemented", "cloudformation", boto3.client("cloudformation").create_stack, **stack)
    refused("NotImplemented", "organizations", boto3.client("organizations").list_roots)
    refused("NotImplemented", "ebs", boto3.client("ebs").list_snapshot_blocks, SnapshotId="snap-0123")
    refused("NotImplemented", "route53", boto3.client("route53").list_hosted_zones)
    refused("NotImplemented", "lambda", boto3.client("lambda").list_functions)
    refused("NotImplemented", "events", boto3.client("events").list_rules)
    watch = boto3.client("cloudwatch")
    alarm = dict(
        AlarmName="busy", Namespace="Shop", MetricName="OrderCount", Statistic="Sum", Period=60, EvaluationPeriods=1,
        Threshold=1.0, ComparisonOperator="GreaterThanThreshold",
    )
    watch.put_metric_alarm(**alarm)
    scaling = ["arn:aws:autoscaling:us-east-1:123456789012:scalingPolicy:1"]
    refused("NotImplemented", "alarm with actions", watch.put_metric_alarm, AlarmActions=scaling, **alarm)
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="refusals")
    rule = {"ReplicationConfiguration": {"Role": "arn:aws:iam::123456789012:role/r", "Rules": []}}
    refused("NotImplemented", "replication", s3.put_bucket_replication, Bucket="refusals", **rule)
    # A request for another region is refused, whatever the call.
    elsewhere = dict(region_name="eu-west-1")
    for client, call, arguments in (
        ("ec2", "describe_images", {}),
        ("autoscaling", "describe_auto_scaling_groups", {}),
        ("ssm", "get_parameter", {"Name": "/a"}),
        ("s3", "put_object", {"Bucket": "refusals", "Key": "k", "Body": b""}),
        ("dynamodb", "list_tables", {}),
        ("cloudwatch", "list_metrics", {}),
    ):
        refused("UnsupportedOperation", "for eu-west-1", getattr(boto3.client(client, **elsewhere), call), **arguments)


for section in sys.argv[1:]:
    globals()[section]()
