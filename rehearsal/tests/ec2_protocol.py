"""EC2 as boto3 sees it: machines, images, disks, launch templates and their network over the real wire.

Usage: AWS_ENDPOINT_URL=... python ec2_protocol.py
Prints nothing and exits 0 when all is well.
"""

import base64

import boto3
from botocore.exceptions import ClientError

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


def wait(waiter, **arguments):
    ec2.get_waiter(waiter).wait(WaiterConfig={"Delay": 0.05, "MaxAttempts": 6000}, **arguments)


def tagged(kind, **tags):
    return {"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}


def tags_of(resource):
    return {tag["Key"]: tag["Value"] for tag in resource.get("Tags", [])}


def instance(instance_id):
    return ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]


def base_image():
    found = ec2.describe_images(
        Owners=["136693071363"],
        Filters=[
            {"Name": "name", "Values": ["debian-*-amd64-*"]},
            {"Name": "root-device-type", "Values": ["ebs"]},
            {"Name": "virtualization-type", "Values": ["hvm"]},
            {"Name": "architecture", "Values": ["x86_64"]},
            {"Name": "state", "Values": ["available"]},
            {"Name": "is-public", "Values": ["true"]},
            {"Name": "boot-mode", "Values": ["uefi-preferred"]},
        ],
    )["Images"]
    assert len(found) == 1, found
    image = found[0]
    assert image["RootDeviceName"] == "/dev/xvda" and image["EnaSupport"] and image["Public"], image
    assert image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"].startswith("snap-"), image
    assert ec2.describe_images(Owners=["self"])["Images"] == []
    assert ec2.describe_images(Owners=["amazon"])["Images"] == []
    refused("AuthFailure", image["ImageId"], ec2.deregister_image, ImageId=image["ImageId"])
    refused("InvalidParameterValue", "colour", ec2.describe_images, Filters=[{"Name": "colour", "Values": ["red"]}])
    refused("InvalidAMIID.NotFound", "ami-0123", ec2.describe_images, ImageIds=["ami-0123"])
    several = "The image ids '[ami-0123, ami-4567]' do not exist"
    refused("InvalidAMIID.NotFound", several, ec2.describe_images, ImageIds=["ami-0123", image["ImageId"], "ami-4567"])
    refused("InvalidAMIID.Malformed", "nonsense", ec2.describe_images, ImageIds=["nonsense"])
    assert "Tags" not in image, image
    # What there is nothing of has no unknown filters either.
    refused("InvalidParameterValue", "colour", ec2.describe_volumes, Filters=[{"Name": "colour", "Values": ["red"]}])
    return image["ImageId"]


def network():
    vpc = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
    subnets = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
    assert len({subnet["AvailabilityZone"] for subnet in subnets}) == 6, subnets
    assert ec2.describe_subnets(SubnetIds=[subnets[3]["SubnetId"]])["Subnets"] == [subnets[3]], subnets
    asked = dict(GroupName="web", Description="web", VpcId=vpc, TagSpecifications=[tagged("security-group", of="shop")])
    made = ec2.create_security_group(**asked)
    group = made["GroupId"]
    assert tags_of(made) == tags_of(ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]) == {"of": "shop"}
    refused("InvalidGroup.Duplicate", "web", ec2.create_security_group, GroupName="web", Description="again")
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
    refused(
        "InvalidPermission.Duplicate",
        "already exists",
        ec2.authorize_security_group_ingress,
        GroupId=group,
        IpPermissions=[rule],
    )
    found = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    assert found[0]["FromPort"] == 22 and found[0]["IpRanges"][0]["CidrIp"] == "0.0.0.0/0", found
    key = ec2.create_key_pair(KeyName="ops", KeyType="ed25519")
    assert "OPENSSH PRIVATE KEY" in key["KeyMaterial"], key
    refused("InvalidKeyPair.Duplicate", "ops", ec2.create_key_pair, KeyName="ops")
    blob = ec2.describe_key_pairs(KeyNames=["ops"], IncludePublicKey=True)["KeyPairs"][0]["PublicKey"].split()[1]
    framed = f'---- BEGIN SSH2 PUBLIC KEY ----\nComment: "me"\n{blob}\n---- END SSH2 PUBLIC KEY ----\n'
    ec2.import_key_pair(KeyName="framed", PublicKeyMaterial=framed.encode())
    found = ec2.describe_key_pairs(KeyNames=["framed"], IncludePublicKey=True)["KeyPairs"][0]
    assert (found["PublicKey"], found["Tags"]) == (f"ssh-ed25519 {blob}", []), found
    ec2.delete_key_pair(KeyName="framed")
    return group, subnets[0]


def launches(image, group, subnet):
    asked = dict(
        ImageId=image,
        InstanceType="t3.micro",
        MinCount=1,
        MaxCount=1,
        ClientToken="once",
        KeyName="ops",
        SecurityGroupIds=[group],
        SubnetId=subnet["SubnetId"],
        UserData="#imagebuilder-agent\n",
        IamInstanceProfile={"Name": "shop"},
        InstanceInitiatedShutdownBehavior="terminate",
        MetadataOptions={"HttpTokens": "required", "InstanceMetadataTags": "enabled"},
        BlockDeviceMappings=[{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 10, "VolumeType": "gp3"}}],
        TagSpecifications=[tagged("instance", Name="shop & sons", empty=""), tagged("volume", of="shop"), tagged("network-interface", of="shop")],
    )
    refused("DryRunOperation", "DryRun", ec2.run_instances, DryRun=True, **asked)
    run = ec2.run_instances(**asked)
    first = run["Instances"][0]
    assert first["State"] == {"Code": 0, "Name": "pending"} and run["OwnerId"] == "123456789012", run
    assert ec2.run_instances(**asked)["Instances"][0]["InstanceId"] == first["InstanceId"]
    refused("IdempotentParameterMismatch", "", ec2.run_instances, **{**asked, "KeyName": ""})
    machine = first["InstanceId"]
    wait("instance_running", InstanceIds=[machine])
    wait("instance_status_ok", InstanceIds=[machine])
    found = instance(machine)
    assert tags_of(found) == {"Name": "shop & sons", "empty": ""}, found
    assert found["Placement"]["AvailabilityZone"] == subnet["AvailabilityZone"], found
    assert found["SubnetId"] == subnet["SubnetId"] and found["VpcId"] == subnet["VpcId"], found
    assert found["PrivateIpAddress"].startswith("127."), found
    assert found["SecurityGroups"] == [{"GroupId": group, "GroupName": "web"}], found
    assert found["IamInstanceProfile"]["Arn"].endswith(":instance-profile/shop"), found
    assert found["MetadataOptions"]["HttpTokens"] == "required", found
    (interface,) = found["NetworkInterfaces"]
    assert interface["Association"]["PublicIp"] == found["PublicIpAddress"] == found["PrivateIpAddress"], found
    by_instance = [{"Name": "attachment.instance-id", "Values": [machine]}]
    (described,) = ec2.describe_network_interfaces(Filters=by_instance)["NetworkInterfaces"]
    assert described["NetworkInterfaceId"] == interface["NetworkInterfaceId"], described
    assert described["Groups"] == found["SecurityGroups"] and described["Attachment"]["DeleteOnTermination"], described
    assert {tag["Key"]: tag["Value"] for tag in described["TagSet"]} == {"of": "shop"}, described
    volume = found["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    disk = ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]
    assert (disk["Size"], disk["VolumeType"], disk["State"], tags_of(disk)) == (10, "gp3", "in-use", {"of": "shop"}), disk
    refused("VolumeInUse", machine, ec2.delete_volume, VolumeId=volume)
    refused("DependencyViolation", group, ec2.delete_security_group, GroupId=group)

    data = ec2.describe_instance_attribute(InstanceId=machine, Attribute="userData")["UserData"]["Value"]
    assert base64.b64decode(data) == b"#imagebuilder-agent\n", data
    ec2.modify_instance_attribute(InstanceId=machine, InstanceInitiatedShutdownBehavior={"Value": "stop"})
    behaviour = ec2.describe_instance_attribute(InstanceId=machine, Attribute="instanceInitiatedShutdownBehavior")
    assert behaviour["InstanceInitiatedShutdownBehavior"]["Value"] == "stop", behaviour
    changed = ec2.modify_instance_metadata_options(InstanceId=machine, HttpTokens="optional")
    assert changed["InstanceMetadataOptions"]["HttpTokens"] == "optional", changed
    profiles = ec2.describe_iam_instance_profile_associations()["IamInstanceProfileAssociations"]
    assert [profile["InstanceId"] for profile in profiles] == [machine], profiles

    ec2.modify_instance_attribute(InstanceId=machine, DisableApiTermination={"Value": True})
    refused("OperationNotPermitted", machine, ec2.terminate_instances, InstanceIds=[machine])
    ec2.modify_instance_attribute(InstanceId=machine, DisableApiTermination={"Value": False})
    ec2.modify_instance_attribute(InstanceId=machine, DisableApiStop={"Value": True})
    refused("OperationNotPermitted", "disableApiStop", ec2.stop_instances, InstanceIds=[machine])
    stays = ec2.describe_instance_attribute(InstanceId=machine, Attribute="disableApiStop")["DisableApiStop"]
    assert stays["Value"] is True, stays
    ec2.modify_instance_attribute(InstanceId=machine, DisableApiStop={"Value": False})
    kept = [{"DeviceName": "/dev/xvda", "Ebs": {"DeleteOnTermination": False}}]
    ec2.modify_instance_attribute(InstanceId=machine, BlockDeviceMappings=kept)
    assert not instance(machine)["BlockDeviceMappings"][0]["Ebs"]["DeleteOnTermination"]
    kept[0]["Ebs"]["DeleteOnTermination"] = True
    ec2.modify_instance_attribute(InstanceId=machine, BlockDeviceMappings=kept)
    # What would be forgotten is refused by name.
    plain = dict(ImageId=image, MinCount=1, MaxCount=1)
    for more, name in (
        ({"PrivateIpAddress": "10.0.0.7"}, "PrivateIpAddress"),
        ({"Placement": {"Tenancy": "dedicated"}}, "Placement.Tenancy"),
        ({"HibernationOptions": {"Configured": True}}, "HibernationOptions"),
        ({"LicenseSpecifications": [{"LicenseConfigurationArn": "arn"}]}, "LicenseSpecification"),
    ):
        refused("UnsupportedOperation", name, ec2.run_instances, **plain, **more)
    output = ec2.get_console_output(InstanceId=machine)
    assert output["Output"] == "" and output["InstanceId"] == machine, output
    assert ec2.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": 5}).build_full_result()
    refused("InvalidParameterValue", "Expecting a value greater than 5", ec2.describe_instances, MaxResults=1)
    alone = "instancesSet cannot be used"
    refused("InvalidParameterCombination", alone, ec2.describe_instances, InstanceIds=[machine], MaxResults=5)
    several = "The instance IDs 'i-0123, i-4567' do not exist"
    for call in (ec2.describe_instances, ec2.stop_instances, ec2.terminate_instances):
        refused("InvalidInstanceID.NotFound", several, call, InstanceIds=["i-0123", machine, "i-4567"])
    refused("InvalidInstanceID.NotFound", "i-0123", ec2.describe_instances, InstanceIds=["i-0123"])
    refused("InvalidInstanceID.Malformed", "nonsense", ec2.stop_instances, InstanceIds=["nonsense"])
    return machine


def images(machine, base):
    stopping = ec2.stop_instances(InstanceIds=[machine])["StoppingInstances"][0]
    assert stopping["CurrentState"]["Name"] == "stopping" and stopping["PreviousState"]["Name"] == "running", stopping
    wait("instance_stopped", InstanceIds=[machine])
    assert instance(machine)["StateReason"]["Code"] == "Client.UserInitiatedShutdown", instance(machine)
    image = ec2.create_image(
        InstanceId=machine,
        Name="shop-1",
        Description="first",
        TagSpecifications=[tagged("image", app="shop"), tagged("snapshot", app="shop")],
    )["ImageId"]
    refused("InvalidAMIName.Duplicate", image, ec2.create_image, InstanceId=machine, Name="shop-1")
    wait("image_available", ImageIds=[image])
    found = ec2.describe_images(Owners=["self"], Filters=[{"Name": "tag:app", "Values": ["sh*p"]}])["Images"][0]
    assert (found["ImageId"], found["Name"], found["Public"]) == (image, "shop-1", False), found
    assert found["SourceInstanceId"] == machine and found["RootDeviceType"] == "ebs", found
    snapshot = found["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    wait("snapshot_completed", SnapshotIds=[snapshot])
    shown = ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
    assert [(s["SnapshotId"], s["Progress"], tags_of(s)) for s in shown] == [(snapshot, "100%", {"app": "shop"})], shown
    refused("InvalidSnapshot.InUse", image, ec2.delete_snapshot, SnapshotId=snapshot)

    ec2.create_tags(Resources=[image, snapshot], Tags=[{"Key": "fit", "Value": "yes"}])
    ec2.delete_tags(Resources=[image], Tags=[{"Key": "app"}])
    assert tags_of(ec2.describe_images(ImageIds=[image])["Images"][0]) == {"fit": "yes"}
    ec2.modify_image_attribute(ImageId=image, LaunchPermission={"Add": [{"UserId": "111122223333"}]})
    ec2.modify_image_attribute(ImageId=image, Description={"Value": "second"})
    for organisation in ({"OrganizationArn": "arn:aws:organizations::1"}, {"OrganizationalUnitArn": "arn:aws:organizations::2"}):
        permission = dict(ImageId=image, LaunchPermission={"Add": [organisation]})
        refused("UnsupportedOperation", *organisation, ec2.modify_image_attribute, **permission)
    shared = ec2.describe_image_attribute(ImageId=image, Attribute="launchPermission")["LaunchPermissions"]
    assert shared == [{"UserId": "111122223333"}], shared
    ec2.modify_image_attribute(ImageId=image, ImdsSupport={"Value": "v2.0"})
    assert ec2.describe_images(ImageIds=[image])["Images"][0]["ImdsSupport"] == "v2.0"
    ec2.reset_image_attribute(ImageId=image, Attribute="launchPermission")
    assert ec2.describe_image_attribute(ImageId=image, Attribute="launchPermission")["LaunchPermissions"] == []

    registered = ec2.register_image(
        Name="shop-2",
        RootDeviceName="/dev/xvda",
        EnaSupport=True,
        BootMode="uefi",
        BlockDeviceMappings=[{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot}}],
    )["ImageId"]
    # The default architecture of an image is i386, which no type here runs.
    assert ec2.describe_images(ImageIds=[registered])["Images"][0]["Architecture"] == "i386"
    refused("InvalidParameterValue", "'i386'", ec2.run_instances, ImageId=registered, MinCount=1, MaxCount=1)
    gone = ec2.deregister_image(ImageId=registered, DeleteAssociatedSnapshots=True)
    assert gone["DeleteSnapshotResults"] == [{"SnapshotId": snapshot, "ReturnCode": "skipped"}], gone
    mapped = [{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot}}]
    asked = dict(Name="shop-3", RootDeviceName="/dev/xvda", BlockDeviceMappings=mapped)
    refused("UnsupportedOperation", "TpmSupport", ec2.register_image, TpmSupport="v2.0", **asked)
    chosen = [{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot, "Encrypted": False}}]
    refused("InvalidBlockDeviceMapping", "encrypted flag", ec2.register_image, **{**asked, "BlockDeviceMappings": chosen})
    pages = list(ec2.get_paginator("describe_images").paginate(PaginationConfig={"PageSize": 1}))
    assert [len(page["Images"]) for page in pages] == [1, 1], pages
    by_source = [{"Name": "source-instance-id", "Values": [machine]}, {"Name": "source-image-id", "Values": [base]}]
    assert [found["ImageId"] for found in ec2.describe_images(Filters=by_source)["Images"]] == [image]
    assert (found["SourceImageId"], found["SourceImageRegion"]) == (base, "us-east-1"), found
    return image


def copies(image):
    """A copy has snapshots of its own, encrypted as asked, and outlives its source."""
    source = ec2.describe_images(ImageIds=[image])["Images"][0]
    asked = dict(
        Name="copy",
        SourceImageId=image,
        SourceRegion="us-east-1",
        Encrypted=True,
        KmsKeyId="alias/shop",
        CopyImageTags=True,
        ClientToken="copy",
        TagSpecifications=[tagged("image", of="copy"), tagged("snapshot", of="copy")],
    )
    refused("DryRunOperation", "DryRun", ec2.copy_image, DryRun=True, **asked)
    copy = ec2.copy_image(**asked)["ImageId"]
    assert ec2.copy_image(**asked)["ImageId"] == copy
    refused("IdempotentParameterMismatch", "", ec2.copy_image, **{**asked, "Name": "other"})
    refused("InvalidAMIName.Duplicate", copy, ec2.copy_image, **{**asked, "ClientToken": "again"})
    wait("image_available", ImageIds=[copy])
    found = ec2.describe_images(ImageIds=[copy])["Images"][0]
    assert (found["SourceImageId"], found["SourceImageRegion"]) == (image, "us-east-1"), found
    assert "SourceInstanceId" not in found and found["BootMode"] == source["BootMode"], found
    assert tags_of(found) == {"fit": "yes", "of": "copy"}, found
    by_source = [{"Name": "source-image-id", "Values": [image]}, {"Name": "source-image-region", "Values": ["us-*"]}]
    assert [one["ImageId"] for one in ec2.describe_images(Filters=by_source)["Images"]] == [copy]
    device = found["BlockDeviceMappings"][0]["Ebs"]
    assert device["Encrypted"] and device["SnapshotId"] != source["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"], device
    snapshot = ec2.describe_snapshots(SnapshotIds=[device["SnapshotId"]])["Snapshots"][0]
    assert snapshot["Encrypted"] and snapshot["KmsKeyId"].endswith(":alias/shop"), snapshot
    assert tags_of(snapshot) == {"of": "copy"} and snapshot["VolumeId"] == "vol-ffffffff", snapshot

    # Encryption stays, with its key, and is not taken away.
    plain = dict(Name="second", SourceImageId=copy, SourceRegion="us-east-1")
    refused("InvalidParameterValue", "unencrypted copy", ec2.copy_image, Encrypted=False, **plain)
    second = ec2.copy_image(**plain)["ImageId"]
    wait("image_available", ImageIds=[second])
    mapped = ec2.describe_images(ImageIds=[second])["Images"][0]["BlockDeviceMappings"][0]["Ebs"]
    again = ec2.describe_snapshots(SnapshotIds=[mapped["SnapshotId"]])["Snapshots"][0]
    assert again["KmsKeyId"] == snapshot["KmsKeyId"], again
    assert tags_of(ec2.describe_images(ImageIds=[second])["Images"][0]) == {}

    other = dict(Name="third", SourceImageId=image)
    refused("UnsupportedOperation", "eu-west-1", ec2.copy_image, SourceRegion="eu-west-1", **other)
    other["SourceRegion"] = "us-east-1"
    refused("InvalidParameterDependency", "KmsKeyId", ec2.copy_image, KmsKeyId="alias/shop", **other)
    refused("InvalidParameterValue", "instance", ec2.copy_image, TagSpecifications=[tagged("instance", a="b")], **other)
    refused("UnsupportedOperation", "Outposts", ec2.copy_image, DestinationOutpostArn="arn:aws:outposts", **other)
    for gone in (copy, second):
        results = ec2.deregister_image(ImageId=gone, DeleteAssociatedSnapshots=True)["DeleteSnapshotResults"]
        assert [result["ReturnCode"] for result in results] == ["success"], results


def encrypted_launch(image, subnet):
    """An encrypted root over an unencrypted snapshot: so are the volume, and the snapshots of what is made of it."""
    root = {"DeviceName": "/dev/xvda", "Ebs": {"Encrypted": True}}
    run = ec2.run_instances(
        ImageId=image,
        MinCount=1,
        MaxCount=1,
        BlockDeviceMappings=[root],
        NetworkInterfaces=[
            {"DeviceIndex": 0, "SubnetId": subnet["SubnetId"], "AssociatePublicIpAddress": False, "DeleteOnTermination": False}
        ],
        TagSpecifications=[tagged("network-interface", of="left")],
    )
    machine = run["Instances"][0]["InstanceId"]
    wait("instance_running", InstanceIds=[machine])
    found = instance(machine)
    assert "PublicIpAddress" not in found and "Association" not in found["NetworkInterfaces"][0], found
    volume = ec2.describe_volumes(VolumeIds=[found["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]])["Volumes"][0]
    assert volume["Encrypted"] and ":key/" in volume["KmsKeyId"], volume
    made = ec2.create_image(InstanceId=machine, Name="encrypted")["ImageId"]
    wait("image_available", ImageIds=[made])
    device = ec2.describe_images(ImageIds=[made])["Images"][0]["BlockDeviceMappings"][0]["Ebs"]
    snapshot = ec2.describe_snapshots(SnapshotIds=[device["SnapshotId"]])["Snapshots"][0]
    assert device["Encrypted"] and snapshot["Encrypted"], (device, snapshot)
    assert (snapshot["KmsKeyId"], snapshot["VolumeId"]) == (volume["KmsKeyId"], volume["VolumeId"]), snapshot
    ec2.deregister_image(ImageId=made, DeleteAssociatedSnapshots=True)

    # What asks for the impossible is refused.
    asked = dict(ImageId=image, MinCount=1, MaxCount=1)
    interface = {"DeviceIndex": 0, "SubnetId": subnet["SubnetId"]}
    both = dict(SubnetId=subnet["SubnetId"], NetworkInterfaces=[interface], **asked)
    refused("InvalidParameterCombination", "subnet ID", ec2.run_instances, **both)
    two = [interface, {"DeviceIndex": 1}]
    refused("UnsupportedOperation", "one network interface", ec2.run_instances, NetworkInterfaces=two, **asked)
    old = [{"DeviceIndex": 0, "NetworkInterfaceId": "eni-1"}]
    refused("UnsupportedOperation", "NetworkInterfaceId", ec2.run_instances, NetworkInterfaces=old, **asked)

    # The interface that was to stay does, and is deleted by its id.
    (attached,) = ec2.describe_network_interfaces(Filters=[{"Name": "tag:of", "Values": ["left"]}])["NetworkInterfaces"]
    interface = attached["NetworkInterfaceId"]
    assert attached["Attachment"]["InstanceId"] == machine and not attached["Attachment"]["DeleteOnTermination"], attached
    refused("InvalidParameterValue", "in use", ec2.delete_network_interface, NetworkInterfaceId=interface)
    ec2.terminate_instances(InstanceIds=[machine])
    wait("instance_terminated", InstanceIds=[machine])
    (left,) = ec2.describe_network_interfaces(NetworkInterfaceIds=[interface])["NetworkInterfaces"]
    assert left["Status"] == "available" and "Attachment" not in left, left
    assert {tag["Key"]: tag["Value"] for tag in left["TagSet"]} == {"of": "left"}, left
    ec2.delete_network_interface(NetworkInterfaceId=interface)
    missing = "InvalidNetworkInterfaceID.NotFound"
    refused(missing, interface, ec2.describe_network_interfaces, NetworkInterfaceIds=[interface])
    refused(missing, interface, ec2.delete_network_interface, NetworkInterfaceId=interface)


def boot_modes(base, snapshot):
    """An image that prefers UEFI boots on every type; one that demands it does not on types without."""
    for kind, expected in (("t2.micro", "legacy-bios"), ("t2.medium", "legacy-bios"), ("m5.large", "uefi")):
        run = ec2.run_instances(ImageId=base, InstanceType=kind, MinCount=1, MaxCount=1)
        machine = run["Instances"][0]["InstanceId"]
        wait("instance_running", InstanceIds=[machine])
        found = instance(machine)
        assert (found["BootMode"], found["CurrentInstanceBootMode"]) == ("uefi-preferred", expected), found
        ec2.terminate_instances(InstanceIds=[machine])
        wait("instance_terminated", InstanceIds=[machine])
    mapped = [{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot}}]
    for mode, on_t2, on_t3 in ((None, "legacy-bios", "legacy-bios"), ("uefi", None, "uefi"), ("legacy-bios",) * 3):
        asked = dict(Name=f"boots {mode}", RootDeviceName="/dev/xvda", BlockDeviceMappings=mapped, Architecture="x86_64")
        if mode:
            asked["BootMode"] = mode
        image = ec2.register_image(EnaSupport=True, **asked)["ImageId"]
        for kind, expected in (("t2.micro", on_t2), ("t3.micro", on_t3)):
            launch = dict(ImageId=image, InstanceType=kind, MinCount=1, MaxCount=1)
            if expected is None:
                refused("InvalidParameterValue", "boot mode 'uefi'", ec2.run_instances, **launch)
                continue
            found = ec2.run_instances(**launch)["Instances"][0]
            assert found["CurrentInstanceBootMode"] == expected, (mode, kind, found)
            ec2.terminate_instances(InstanceIds=[found["InstanceId"]])
            wait("instance_terminated", InstanceIds=[found["InstanceId"]])
        ec2.deregister_image(ImageId=image)


def spot(image):
    """A one-time Spot Instance is shown as one, and its request with it; what cannot be had is refused by name."""
    asked = dict(ImageId=image, InstanceType="t3.micro", MinCount=1, MaxCount=1)

    def market(**options):
        return {"MarketType": "spot", "SpotOptions": options} if options else {"MarketType": "spot"}

    refused("MissingParameter", "MarketType", ec2.run_instances, InstanceMarketOptions={"SpotOptions": {"MaxPrice": "1"}}, **asked)
    for options, code, text in (
        ({"BlockDurationMinutes": 60}, "InvalidParameterValue", "BlockDurationMinutes is not a valid parameter."),
        ({"ValidUntil": "2030-01-01T00:00:00Z"}, "InvalidParameterCombination", "validUntil cannot be specified"),
        ({"InstanceInterruptionBehavior": "stop"}, "InvalidParameterCombination", "type 'one-time' is not supported"),
        ({"SpotInstanceType": "persistent"}, "InvalidParameterCombination", "not supported when requestType is set to persistent"),
        (
            {"SpotInstanceType": "persistent", "InstanceInterruptionBehavior": "stop"},
            "UnsupportedOperation",
            "SpotInstanceType (persistent)",
        ),
        ({"MaxPrice": "0.0001"}, "InvalidParameterValue", "maxPrice"),
    ):
        refused(code, text, ec2.run_instances, InstanceMarketOptions=market(**options), **asked)
    one = dict(InstanceMarketOptions=market(), **asked)
    refused("UnsupportedOperation", "termination protection", ec2.run_instances, DisableApiTermination=True, **one)
    refused("UnsupportedOperation", "(stop)", ec2.run_instances, InstanceInitiatedShutdownBehavior="stop", **one)
    tagged_spot = [tagged("spot-instances-request", of="shop")]
    refused("InvalidParameterValue", "spot-instances-request", ec2.run_instances, TagSpecifications=tagged_spot, **asked)

    options = market(MaxPrice="0.0031", SpotInstanceType="one-time", InstanceInterruptionBehavior="terminate")
    both = {**asked, "MaxCount": 2, "InstanceMarketOptions": options, "TagSpecifications": tagged_spot}
    machines = [machine["InstanceId"] for machine in ec2.run_instances(**both)["Instances"]]
    wait("instance_running", InstanceIds=machines)
    first, second = (instance(machine) for machine in machines)
    assert first["InstanceLifecycle"] == second["InstanceLifecycle"] == "spot", first
    request, other = first["SpotInstanceRequestId"], second["SpotInstanceRequestId"]
    assert request.startswith("sir-") and request != other, (request, other)
    plain = ec2.run_instances(InstanceMarketOptions={"MarketType": "on-demand"}, **asked)["Instances"][0]
    assert "InstanceLifecycle" not in plain and "SpotInstanceRequestId" not in plain, plain
    by_lifecycle = [{"Name": "instance-lifecycle", "Values": ["spot"]}]
    found = ec2.describe_instances(Filters=by_lifecycle)["Reservations"]
    assert [len(reservation["Instances"]) for reservation in found] == [2], found
    by_request = [{"Name": "spot-instance-request-id", "Values": [other]}]
    found = ec2.describe_instances(Filters=by_request)["Reservations"][0]["Instances"]
    assert [machine["InstanceId"] for machine in found] == machines[1:], found

    def shown(*ids):
        return ec2.describe_spot_instance_requests(SpotInstanceRequestIds=list(ids))["SpotInstanceRequests"]

    # What Terraform's aws_instance reads.
    (found,) = shown(request)
    assert (found["SpotPrice"], found["Type"], found["InstanceInterruptionBehavior"]) == ("0.0031", "one-time", "terminate"), found
    assert (found["State"], found["Status"]["Code"], found["InstanceId"]) == ("active", "fulfilled", machines[0]), found
    assert found["LaunchSpecification"]["ImageId"] == image and found["Tags"] == [{"Key": "of", "Value": "shop"}], found
    assert "ValidUntil" not in found and found["LaunchedAvailabilityZone"] == first["Placement"]["AvailabilityZone"], found
    by_tag = [{"Name": "tag:of", "Values": ["shop"]}, {"Name": "state", "Values": ["active"]}]
    assert len(ec2.describe_spot_instance_requests(Filters=by_tag)["SpotInstanceRequests"]) == 2
    ec2.create_tags(Resources=[request], Tags=[{"Key": "tier", "Value": "web"}])
    of_kind = [{"Name": "resource-type", "Values": ["spot-instances-request"]}, {"Name": "key", "Values": ["tier"]}]
    assert [tag["ResourceId"] for tag in ec2.describe_tags(Filters=of_kind)["Tags"]] == [request]
    missing = "InvalidSpotInstanceRequestID.NotFound"
    refused(missing, "sir-0123", ec2.describe_spot_instance_requests, SpotInstanceRequestIds=["sir-0123"])
    refused(missing, "sir-0123", ec2.create_tags, Resources=["sir-0123"], Tags=[{"Key": "a", "Value": "b"}])
    refused("InvalidSpotInstanceRequestID.Malformed", "i-1", ec2.describe_spot_instance_requests, SpotInstanceRequestIds=["i-1"])

    one_time = "because it is associated with a one-time Spot Instance request"
    refused("UnsupportedOperation", one_time, ec2.stop_instances, InstanceIds=machines)
    protect = dict(InstanceId=machines[0], DisableApiTermination={"Value": True})
    refused("UnsupportedOperation", "termination protection", ec2.modify_instance_attribute, **protect)
    behaviour = ec2.describe_instance_attribute(InstanceId=machines[0], Attribute="instanceInitiatedShutdownBehavior")
    assert behaviour["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate", behaviour

    cancelled = ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=[other])["CancelledSpotInstanceRequests"]
    assert cancelled == [{"SpotInstanceRequestId": other, "State": "cancelled"}], cancelled
    assert shown(other)[0]["Status"]["Code"] == "request-canceled-and-instance-running", shown(other)
    ec2.terminate_instances(InstanceIds=[*machines, plain["InstanceId"]])
    wait("instance_terminated", InstanceIds=[*machines, plain["InstanceId"]])
    states = {found["SpotInstanceRequestId"]: (found["State"], found["Status"]["Code"]) for found in shown(request, other)}
    by_user = "instance-terminated-by-user"
    assert states == {request: ("closed", by_user), other: ("cancelled", by_user)}, states
    closed = ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=[request])["CancelledSpotInstanceRequests"]
    assert closed == [{"SpotInstanceRequestId": request, "State": "closed"}], closed


def processors(image):
    """CPU options are the type's own or refused; credits are kept, shown and changed."""
    asked = dict(ImageId=image, MinCount=1, MaxCount=1)
    t3, m5 = (dict(InstanceType=kind, **asked) for kind in ("t3.micro", "m5.large"))
    options = {"CoreCount": 1, "ThreadsPerCore": 1}
    refused("UnsupportedOperation", "ThreadsPerCore (1)", ec2.run_instances, CpuOptions=options, **t3)
    refused("MissingParameter", "both CoreCount and ThreadsPerCore", ec2.run_instances, CpuOptions={"CoreCount": 1}, **t3)
    refused("UnsupportedOperation", "AmdSevSnp (enabled)", ec2.run_instances, CpuOptions={"AmdSevSnp": "enabled"}, **m5)
    wrong = {"CpuCredits": "plenty"}
    refused("InvalidParameterValue", "plenty", ec2.run_instances, CreditSpecification=wrong, **t3)
    unlimited = {"CpuCredits": "unlimited"}
    not_burstable = "InstanceCreditSpecification.NotSupported"
    refused(not_burstable, "m5.large", ec2.run_instances, CreditSpecification=unlimited, **m5)

    options = {"CoreCount": 1, "ThreadsPerCore": 2}
    standard = dict(CpuOptions=options, CreditSpecification={"CpuCredits": "standard"}, **t3)
    machines = {
        name: ec2.run_instances(**launch)["Instances"][0]["InstanceId"]
        for name, launch in {
            "asked": standard,
            "t3": t3,
            "t2": dict(InstanceType="t2.micro", **asked),
            "burst": dict(InstanceType="t2.micro", CreditSpecification=unlimited, **asked),
            "m5": m5,
        }.items()
    }
    wait("instance_running", InstanceIds=list(machines.values()))
    names = {machine: name for name, machine in machines.items()}

    def credits(**which):
        found = ec2.describe_instance_credit_specifications(**which)["InstanceCreditSpecifications"]
        return {names[one["InstanceId"]]: one["CpuCredits"] for one in found if one["InstanceId"] in names}

    all_of = dict(InstanceIds=list(machines.values()))
    expected = {"asked": "standard", "t3": "unlimited", "t2": "standard", "burst": "unlimited", "m5": "standard"}
    assert credits(**all_of) == expected, credits(**all_of)
    assert credits() == {"t3": "unlimited", "burst": "unlimited"}, credits()
    refused("InvalidInstanceID.NotFound", "i-0123", ec2.describe_instance_credit_specifications, InstanceIds=["i-0123"])
    assert instance(machines["asked"])["CpuOptions"] == options, instance(machines["asked"])

    changes = [{"InstanceId": machine, "CpuCredits": "unlimited"} for machine in (machines["asked"], machines["m5"], "i-0123")]
    changed = ec2.modify_instance_credit_specification(InstanceCreditSpecifications=changes)
    assert changed["SuccessfulInstanceCreditSpecifications"] == [{"InstanceId": machines["asked"]}], changed
    failed = [(one["InstanceId"], one["Error"]["Code"]) for one in changed["UnsuccessfulInstanceCreditSpecifications"]]
    assert failed == [(machines["m5"], not_burstable), ("i-0123", "InvalidInstanceID.NotFound")], failed
    # A type's own credits come with the type, and stay.
    ec2.stop_instances(InstanceIds=[machines["m5"], machines["asked"]])
    wait("instance_stopped", InstanceIds=[machines["m5"], machines["asked"]])
    ec2.modify_instance_attribute(InstanceId=machines["m5"], InstanceType={"Value": "t3.small"})
    ec2.modify_instance_attribute(InstanceId=machines["asked"], InstanceType={"Value": "m5.large"})
    assert credits() == {"asked": "unlimited", "t3": "unlimited", "burst": "unlimited", "m5": "unlimited"}, credits()
    ec2.terminate_instances(InstanceIds=list(names))
    wait("instance_terminated", InstanceIds=list(names))


def templates(image, subnet):
    template = ec2.create_launch_template(
        LaunchTemplateName="shop",
        LaunchTemplateData={
            "ImageId": image,
            "InstanceType": "t3.micro",
            "TagSpecifications": [tagged("instance", app="shop", tier="web")],
            "UserData": base64.b64encode(b"one").decode(),
        },
    )["LaunchTemplate"]
    name = template["LaunchTemplateName"]
    version = ec2.create_launch_template_version(
        LaunchTemplateName=name, SourceVersion="1", LaunchTemplateData={"InstanceType": "t3.small"}
    )["LaunchTemplateVersion"]
    assert version["VersionNumber"] == 2 and version["LaunchTemplateData"]["ImageId"] == image, version
    run = ec2.run_instances(
        MinCount=2,
        MaxCount=2,
        SubnetId=subnet["SubnetId"],
        LaunchTemplate={"LaunchTemplateName": name, "Version": "$Latest"},
        TagSpecifications=[tagged("instance", tier="canary")],
    )
    machines = [machine["InstanceId"] for machine in run["Instances"]]
    found = instance(machines[0])
    marks = {"aws:ec2launchtemplate:id": template["LaunchTemplateId"], "aws:ec2launchtemplate:version": "2"}
    assert tags_of(found) == {"app": "shop", "tier": "canary", **marks}, found
    # The image requires IMDSv2 of its instances.
    assert found["InstanceType"] == "t3.small" and found["MetadataOptions"]["HttpTokens"] == "required", found
    addresses = {machine["PrivateIpAddress"] for machine in run["Instances"]}
    assert len(addresses) == 2, addresses
    wait("instance_running", InstanceIds=machines)
    by_tag = [{"Name": "tag:tier", "Values": ["canary"]}, {"Name": "instance-state-name", "Values": ["running"]}]
    reservations = ec2.describe_instances(Filters=by_tag)["Reservations"]
    assert [len(reservation["Instances"]) for reservation in reservations] == [2], reservations
    refused(
        "InvalidLaunchTemplateId.VersionNotFound",
        "7",
        ec2.run_instances,
        MinCount=1,
        MaxCount=1,
        LaunchTemplate={"LaunchTemplateName": name, "Version": "7"},
    )
    latest = [{"Name": "is-default-version", "Values": ["false"]}]
    found = ec2.describe_launch_template_versions(LaunchTemplateName=name, Filters=latest)["LaunchTemplateVersions"]
    assert [version["VersionNumber"] for version in found] == [2], found
    refused("MissingParameter", "To describe the launch template data", ec2.describe_launch_template_versions)
    refused("InvalidParameterValue", "To describe", ec2.describe_launch_template_versions, Versions=["1"])
    both = dict(LaunchTemplateName=name, LaunchTemplateId=template["LaunchTemplateId"], DefaultVersion="2")
    refused("InvalidParameterCombination", "Either provide launch template ID", ec2.modify_launch_template, **both)
    refused(
        "InvalidLaunchTemplateId.VersionNotFound",
        "The launch template version 7 is not found for the specified launch template.",
        ec2.modify_launch_template,
        LaunchTemplateName=name,
        DefaultVersion="7",
    )
    missing = "At least one of the launch templates specified in the request does not exist."
    refused(
        "InvalidLaunchTemplateName.NotFoundException", missing, ec2.describe_launch_templates, LaunchTemplateNames=["none"]
    )
    ec2.delete_launch_template(LaunchTemplateName=name)
    return machines


def the_end(machines, image, group):
    ec2.start_instances(InstanceIds=machines[:1])
    wait("instance_running", InstanceIds=machines)
    ec2.reboot_instances(InstanceIds=machines[:1])
    ec2.terminate_instances(InstanceIds=machines)
    wait("instance_terminated", InstanceIds=machines)
    assert ec2.describe_volumes()["Volumes"] == []
    gone = ec2.deregister_image(ImageId=image, DeleteAssociatedSnapshots=True)
    assert [result["ReturnCode"] for result in gone["DeleteSnapshotResults"]] == ["success"], gone
    assert ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"] == []
    refused("InvalidAMIID.NotFound", image, ec2.run_instances, ImageId=image, MinCount=1, MaxCount=1)
    ec2.delete_security_group(GroupId=group)
    ec2.delete_key_pair(KeyName="ops")
    refused("InvalidAction", "RunScheduledInstances", ec2.run_scheduled_instances, LaunchSpecification={"ImageId": image}, ScheduledInstanceId="x")


base = base_image()
group, subnet = network()
machine = launches(base, group, subnet)
image = images(machine, base)
copies(image)
encrypted_launch(image, subnet)
snapshot = ec2.describe_images(ImageIds=[base])["Images"][0]["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
boot_modes(base, snapshot)
spot(image)
processors(image)
machines = templates(image, subnet)
the_end([machine, *machines], image, group)
