//! EC2 instances, and what is made for one.

use async_trait::async_trait;
use aws_sdk_ec2::primitives::Blob;
use aws_sdk_ec2::types::{
    AttributeValue, HttpTokensState, IamInstanceProfileSpecification, ImageAttributeName,
    InstanceMetadataEndpointState, InstanceMetadataOptionsRequest, InstanceType, IpPermission,
    IpRange, Ipv6Range, LaunchTemplateSpecification, OperationType, RequestLaunchTemplateData,
    ResourceType, ShutdownBehavior, SnapshotAttributeName, SummaryStatus, TagSpecification,
};

use super::disks;
use super::error::{failed, incomplete};
use super::images::{ec2_tags, every, filter, ignore_not_found, tag_filter, tags};
use crate::ids::{
    ImageId, InstanceId, KeyPairId, NetworkInterfaceId, SecurityGroupId, SubnetId, VolumeId, VpcId,
};
use crate::{
    Answer, CloudError, Ingress, Instance, InstanceState, Instances, KeyPair, Kind, Launch,
    NetworkInterface, Owned, Permission, SecurityGroup, StatusChecks, Tags, Tokens, Volume,
};

/// Every state but `terminated`.
const ALIVE: [&str; 5] = ["pending", "running", "shutting-down", "stopping", "stopped"];

pub(super) struct Ec2Instances(pub(super) aws_sdk_ec2::Client);

fn instance(answer: &aws_sdk_ec2::types::Instance) -> Option<Instance> {
    let state = answer
        .state()
        .and_then(|state| state.name())
        .map_or("", |name| name.as_str());
    Some(Instance {
        id: InstanceId::parse(answer.instance_id()?).ok()?,
        image: answer.image_id().and_then(|id| ImageId::parse(id).ok()),
        state: match state {
            "pending" => InstanceState::Pending,
            "running" => InstanceState::Running,
            "shutting-down" => InstanceState::ShuttingDown,
            "terminated" => InstanceState::Terminated,
            "stopping" | "stopped" => InstanceState::Stopped,
            other => InstanceState::Other(other.to_owned()),
        },
        launched: answer
            .launch_time()
            .map(aws_sdk_ec2::primitives::DateTime::secs),
        reason: answer
            .state_reason()
            .and_then(|reason| reason.message())
            .unwrap_or_default()
            .to_owned(),
        reason_code: answer
            .state_reason()
            .and_then(|reason| reason.code())
            .unwrap_or_default()
            .to_owned(),
        tags: tags(answer.tags()),
    })
}

fn security_group(answer: &aws_sdk_ec2::types::SecurityGroup) -> Option<SecurityGroup> {
    Some(SecurityGroup {
        id: SecurityGroupId::parse(answer.group_id()?).ok()?,
        name: answer.group_name().unwrap_or_default().to_owned(),
        tags: tags(answer.tags()),
    })
}

fn volume(answer: &aws_sdk_ec2::types::Volume) -> Option<Volume> {
    Some(Volume {
        id: VolumeId::parse(answer.volume_id()?).ok()?,
        tags: tags(answer.tags()),
    })
}

fn network_interface(answer: &aws_sdk_ec2::types::NetworkInterface) -> Option<NetworkInterface> {
    Some(NetworkInterface {
        id: NetworkInterfaceId::parse(answer.network_interface_id()?).ok()?,
        tags: tags(answer.tag_set()),
    })
}

/// Tags for a kind of resource in the call that creates it.
fn specification(resource: ResourceType, tags: &Tags) -> TagSpecification {
    TagSpecification::builder()
        .resource_type(resource)
        .set_tags(Some(ec2_tags(tags)))
        .build()
}

impl Ec2Instances {
    /// Instances that meet a condition and are not terminated.
    async fn alive(&self, condition: aws_sdk_ec2::types::Filter) -> Answer<Vec<Instance>> {
        let alive = aws_sdk_ec2::types::Filter::builder()
            .name("instance-state-name")
            .set_values(Some(ALIVE.map(ToOwned::to_owned).to_vec()))
            .build();
        self.matching(vec![condition, alive]).await
    }

    async fn matching(&self, conditions: Vec<aws_sdk_ec2::types::Filter>) -> Answer<Vec<Instance>> {
        let mut pages = self
            .0
            .describe_instances()
            .set_filters(Some(conditions))
            .into_paginator()
            .items()
            .send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            found.extend(
                page.map_err(failed("list instances"))?
                    .instances()
                    .iter()
                    .filter_map(instance),
            );
        }
        Ok(found)
    }

    /// RunInstances of a launch.
    fn launching(
        &self,
        launch: &Launch,
    ) -> aws_sdk_ec2::operation::run_instances::builders::RunInstancesFluentBuilder {
        let specification = |resource| specification(resource, &launch.tags);
        let mut call = self
            .0
            .run_instances()
            .image_id(launch.image.as_str())
            .instance_type(InstanceType::from(launch.instance_type.as_str()))
            .min_count(1)
            .max_count(1)
            .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
            .metadata_options(
                InstanceMetadataOptionsRequest::builder()
                    .http_endpoint(InstanceMetadataEndpointState::Enabled)
                    .http_tokens(match launch.tokens {
                        Tokens::Required => HttpTokensState::Required,
                        Tokens::Optional => HttpTokensState::Optional,
                    })
                    .set_http_put_response_hop_limit(launch.hops.map(i32::from))
                    .build(),
            )
            .tag_specifications(specification(ResourceType::Instance))
            .tag_specifications(specification(ResourceType::Volume))
            .tag_specifications(specification(ResourceType::NetworkInterface));
        if let Some(profile) = &launch.instance_profile {
            call = call.iam_instance_profile(
                IamInstanceProfileSpecification::builder()
                    .name(profile)
                    .build(),
            );
        }
        if let Some(subnet) = &launch.subnet {
            call = call.subnet_id(subnet.as_str());
        }
        for group in &launch.security_groups {
            call = call.security_group_ids(group.as_str());
        }
        if let Some(user_data) = &launch.user_data {
            call = call.user_data(aws_smithy_types::base64::encode(user_data));
        }
        for disk in &launch.disks {
            call = call.block_device_mappings(disks::launched(disk));
        }
        call
    }
}

#[async_trait]
impl Instances for Ec2Instances {
    async fn launch(&self, launch: &Launch) -> Answer<Owned<InstanceId>> {
        let call = self.launching(launch).client_token(&launch.client_token);
        let operation = format!("launch an instance of {}", launch.image);
        let answer = call.send().await.map_err(failed(operation.as_str()))?;
        answer
            .instances()
            .iter()
            .find_map(|instance| InstanceId::parse(instance.instance_id()?).ok())
            .map(Owned::returned)
            .ok_or_else(|| incomplete(&operation, "instance"))
    }

    async fn instance(&self, id: &InstanceId) -> Answer<Option<Instance>> {
        let answer = self
            .0
            .describe_instances()
            .instance_ids(id.as_str())
            .send()
            .await
            .map_err(failed(format!("describe {id}")));
        match answer {
            Ok(answer) => Ok(answer
                .reservations()
                .iter()
                .flat_map(|r| r.instances())
                .find_map(instance)),
            Err(error) if error.kind == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn instances_tagged(&self, key: &str, value: Option<&str>) -> Answer<Vec<Instance>> {
        self.alive(tag_filter(key, value)).await
    }

    async fn ever_tagged(&self, key: &str, value: &str) -> Answer<Vec<Instance>> {
        self.matching(vec![tag_filter(key, Some(value))]).await
    }

    async fn instances_of(&self, image: &ImageId) -> Answer<Vec<Instance>> {
        self.alive(filter("image-id", image.as_str())).await
    }

    async fn terminate(&self, id: &Owned<InstanceId>) -> Answer<()> {
        let answer = self
            .0
            .terminate_instances()
            .instance_ids(id.id().as_str())
            .send()
            .await
            .map_err(failed(format!("terminate {id}")));
        ignore_not_found(answer.map(|_| ()))
    }

    async fn status_checks(&self, id: &InstanceId) -> Answer<Option<StatusChecks>> {
        let answer = self
            .0
            .describe_instance_status()
            .instance_ids(id.as_str())
            .send()
            .await
            .map_err(failed(format!("describe the status of {id}")))?;
        let impaired = |summary: Option<&aws_sdk_ec2::types::InstanceStatusSummary>| {
            summary.and_then(|summary| summary.status()) == Some(&SummaryStatus::Impaired)
        };
        Ok(answer.instance_statuses().first().map(|status| {
            let events = status.events().iter();
            StatusChecks {
                system_impaired: impaired(status.system_status()),
                instance_impaired: impaired(status.instance_status()),
                // EC2 keeps showing past events for a week, and marks them so.
                events: events
                    .filter_map(|event| event.description())
                    .filter(|text| {
                        !text.starts_with("[Completed]") && !text.starts_with("[Canceled]")
                    })
                    .map(ToOwned::to_owned)
                    .collect(),
            }
        }))
    }

    async fn console(&self, id: &InstanceId) -> Answer<String> {
        let operation = format!("read the console of {id}");
        let call = || self.0.get_console_output().instance_id(id.as_str());
        let answer = match call()
            .latest(true)
            .send()
            .await
            .map_err(failed(operation.as_str()))
        {
            // For an instance on Xen, such as a t2, EC2 has only the output at its last start or stop.
            Err(error) if error.code() == "UnsupportedOperation" => {
                call().send().await.map_err(failed(operation.as_str()))?
            }
            answer => answer?,
        };
        let encoded = answer.output().unwrap_or_default();
        let bytes = aws_smithy_types::base64::decode(encoded)
            .map_err(|error| CloudError::new(Kind::Other, operation, "", error.to_string()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    async fn import_key_pair(
        &self,
        name: &str,
        public_key: &str,
        tags: &Tags,
    ) -> Answer<Owned<KeyPairId>> {
        let operation = format!("import key pair {name}");
        let answer = self
            .0
            .import_key_pair()
            .key_name(name)
            .public_key_material(Blob::new(public_key))
            .tag_specifications(specification(ResourceType::KeyPair, tags))
            .send()
            .await
            .map_err(failed(operation.as_str()))?;
        answer
            .key_pair_id()
            .and_then(|id| KeyPairId::parse(id).ok())
            .map(Owned::returned)
            .ok_or_else(|| incomplete(&operation, "id"))
    }

    async fn key_pairs_tagged(&self, key: &str, value: Option<&str>) -> Answer<Vec<KeyPair>> {
        let answer = self
            .0
            .describe_key_pairs()
            .filters(tag_filter(key, value))
            .send()
            .await
            .map_err(failed("list key pairs"))?;
        Ok(answer
            .key_pairs()
            .iter()
            .filter_map(|pair| {
                Some(KeyPair {
                    id: KeyPairId::parse(pair.key_pair_id()?).ok()?,
                    name: pair.key_name()?.to_owned(),
                    tags: tags(pair.tags()),
                })
            })
            .collect())
    }

    async fn delete_key_pair(&self, id: &Owned<KeyPairId>) -> Answer<()> {
        let answer = self
            .0
            .delete_key_pair()
            .key_pair_id(id.id().as_str())
            .send()
            .await
            .map_err(failed(format!("delete {id}")));
        ignore_not_found(answer.map(|_| ()))
    }

    async fn vpc_of(&self, subnet: &SubnetId) -> Answer<Option<VpcId>> {
        let answer = self
            .0
            .describe_subnets()
            .subnet_ids(subnet.as_str())
            .send()
            .await
            .map_err(failed(format!("describe {subnet}")));
        match answer {
            Ok(answer) => Ok(answer
                .subnets()
                .iter()
                .find_map(|subnet| VpcId::parse(subnet.vpc_id()?).ok())),
            Err(error) if error.kind == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn create_security_group(
        &self,
        name: &str,
        vpc: Option<&VpcId>,
        tags: &Tags,
    ) -> Answer<Owned<SecurityGroupId>> {
        let operation = format!("create security group {name}");
        let answer = self
            .0
            .create_security_group()
            .group_name(name)
            .description("imagebuilder: SSH to a builder")
            .set_vpc_id(vpc.map(ToString::to_string))
            .tag_specifications(specification(ResourceType::SecurityGroup, tags))
            .send()
            .await
            .map_err(failed(operation.as_str()))?;
        answer
            .group_id()
            .and_then(|id| SecurityGroupId::parse(id).ok())
            .map(Owned::returned)
            .ok_or_else(|| incomplete(&operation, "id"))
    }

    async fn allow(&self, group: &Owned<SecurityGroupId>, ingress: &Ingress) -> Answer<()> {
        let (six, four): (Vec<&String>, Vec<&String>) =
            ingress.cidrs.iter().partition(|cidr| cidr.contains(':'));
        let ranges = |cidr: &&String| IpRange::builder().cidr_ip(*cidr).build();
        let ranges_6 = |cidr: &&String| Ipv6Range::builder().cidr_ipv6(*cidr).build();
        let port = i32::from(ingress.port);
        let permission = IpPermission::builder()
            .ip_protocol("tcp")
            .from_port(port)
            .to_port(port)
            .set_ip_ranges(
                Some(four.iter().map(ranges).collect()).filter(|all: &Vec<_>| !all.is_empty()),
            )
            .set_ipv6_ranges(
                Some(six.iter().map(ranges_6).collect()).filter(|all: &Vec<_>| !all.is_empty()),
            )
            .build();
        self.0
            .authorize_security_group_ingress()
            .group_id(group.id().as_str())
            .ip_permissions(permission)
            .send()
            .await
            .map_err(failed(format!("allow SSH to {group}")))?;
        Ok(())
    }

    async fn security_groups_tagged(
        &self,
        key: &str,
        value: Option<&str>,
    ) -> Answer<Vec<SecurityGroup>> {
        let call = self.0.describe_security_groups();
        let call = call.filters(tag_filter(key, value));
        every!(call, "list security groups", security_group)
    }

    async fn delete_security_group(&self, id: &Owned<SecurityGroupId>) -> Answer<()> {
        let answer = self
            .0
            .delete_security_group()
            .group_id(id.id().as_str())
            .send()
            .await
            .map_err(failed(format!("delete {id}")));
        ignore_not_found(answer.map(|_| ()))
    }

    async fn volumes_tagged(&self, key: &str, value: Option<&str>) -> Answer<Vec<Volume>> {
        let call = self.0.describe_volumes();
        let call = call.filters(tag_filter(key, value));
        every!(call, "list volumes", volume)
    }

    async fn delete_volume(&self, id: &Owned<VolumeId>) -> Answer<()> {
        let answer = self
            .0
            .delete_volume()
            .volume_id(id.id().as_str())
            .send()
            .await
            .map_err(failed(format!("delete {id}")));
        ignore_not_found(answer.map(|_| ()))
    }

    async fn network_interfaces_tagged(
        &self,
        key: &str,
        value: Option<&str>,
    ) -> Answer<Vec<NetworkInterface>> {
        let call = self.0.describe_network_interfaces();
        let call = call.filters(tag_filter(key, value));
        every!(call, "list network interfaces", network_interface)
    }

    async fn delete_network_interface(&self, id: &Owned<NetworkInterfaceId>) -> Answer<()> {
        let answer = self
            .0
            .delete_network_interface()
            .network_interface_id(id.id().as_str())
            .send()
            .await
            .map_err(failed(format!("delete {id}")));
        ignore_not_found(answer.map(|_| ()))
    }

    async fn vpcs_of(
        &self,
        groups: &[SecurityGroupId],
    ) -> Answer<Vec<(SecurityGroupId, Option<VpcId>)>> {
        let filter = aws_sdk_ec2::types::Filter::builder()
            .name("group-id")
            .set_values(Some(groups.iter().map(ToString::to_string).collect()))
            .build();
        let answer = self
            .0
            .describe_security_groups()
            .filters(filter)
            .send()
            .await
            .map_err(failed("describe security groups"))?;
        Ok(answer
            .security_groups()
            .iter()
            .filter_map(|group| {
                let id = SecurityGroupId::parse(group.group_id()?).ok()?;
                let vpc = group.vpc_id().and_then(|id| VpcId::parse(id).ok());
                Some((id, vpc))
            })
            .collect())
    }

    async fn architectures(&self, instance_type: &str) -> Answer<Option<Vec<String>>> {
        let answer = self
            .0
            .describe_instance_types()
            .instance_types(InstanceType::from(instance_type))
            .send()
            .await
            .map_err(failed(format!("describe instance type {instance_type}")));
        match answer {
            Ok(answer) => Ok(answer.instance_types().first().map(|found| {
                let info = found.processor_info();
                let all = info.map(|info| info.supported_architectures());
                let all = all.unwrap_or_default().iter();
                all.map(|arch| arch.as_str().to_owned()).collect()
            })),
            Err(error) if error.code() == "InvalidInstanceType" => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn may_launch(&self, launch: &Launch) -> Answer<()> {
        let operation = format!("ask for a launch of {}", launch.image);
        dried(
            self.launching(launch)
                .dry_run(true)
                .send()
                .await
                .map(|_| ())
                .map_err(failed(operation)),
        )
    }

    async fn may_launch_from(&self, template_id: &str, version: &str) -> Answer<()> {
        let template = LaunchTemplateSpecification::builder()
            .launch_template_id(template_id)
            .version(version)
            .build();
        let operation = format!("ask for a launch of version {version} of template {template_id}");
        dried(
            self.0
                .run_instances()
                .dry_run(true)
                .launch_template(template)
                .min_count(1)
                .max_count(1)
                .send()
                .await
                .map(|_| ())
                .map_err(failed(operation)),
        )
    }

    async fn permitted(&self, permission: Permission, template_id: Option<&str>) -> Answer<()> {
        const PROBE: &str = "imagebuilder-preflight";
        // A well-formed key that belongs to no one: EC2 may validate it before it checks permissions.
        const PROBE_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA imagebuilder-preflight";
        // Ids that do not exist.
        const INSTANCE: &str = "i-00000000000000000";
        const IMAGE: &str = "ami-00000000000000000";
        const GROUP: &str = "sg-00000000000000000";
        const SNAPSHOT: &str = "snap-00000000000000000";
        const ACCOUNT: &str = "000000000000";
        macro_rules! dry {
            ($call:expr) => {
                $call
                    .dry_run(true)
                    .send()
                    .await
                    .map(|_| ())
                    .map_err(failed(format!("ask for {permission:?}")))
            };
        }
        let ssh = || {
            IpPermission::builder()
                .ip_protocol("tcp")
                .from_port(22)
                .to_port(22)
                .ip_ranges(IpRange::builder().cidr_ip("192.0.2.1/32").build())
                .build()
        };
        let tag = || {
            aws_sdk_ec2::types::Tag::builder()
                .key(contract::tags::RUN)
                .value(PROBE)
                .build()
        };
        dried(match permission {
            Permission::DescribeImages => dry!(self.0.describe_images()),
            Permission::DescribeImageAttribute => dry!(
                self.0
                    .describe_image_attribute()
                    .image_id(IMAGE)
                    .attribute(ImageAttributeName::LaunchPermission)
            ),
            Permission::DescribeInstances => dry!(self.0.describe_instances()),
            Permission::DescribeInstanceStatus => dry!(self.0.describe_instance_status()),
            Permission::DescribeInstanceTypes => dry!(self.0.describe_instance_types()),
            Permission::DescribeSnapshots => dry!(self.0.describe_snapshots()),
            Permission::DescribeKeyPairs => dry!(self.0.describe_key_pairs()),
            Permission::DescribeSecurityGroups => dry!(self.0.describe_security_groups()),
            Permission::DescribeSubnets => dry!(self.0.describe_subnets()),
            Permission::DescribeVolumes => dry!(self.0.describe_volumes()),
            Permission::DescribeNetworkInterfaces => dry!(self.0.describe_network_interfaces()),
            Permission::DescribeVpcs => dry!(self.0.describe_vpcs()),
            Permission::DescribeRegions => dry!(self.0.describe_regions()),
            Permission::DescribeLaunchTemplateVersions => dry!(
                self.0
                    .describe_launch_template_versions()
                    .launch_template_id(template_id.unwrap_or("lt-00000000000000000"))
            ),
            Permission::GetConsoleOutput => dry!(self.0.get_console_output().instance_id(INSTANCE)),
            Permission::ImportKeyPair => dry!(
                self.0
                    .import_key_pair()
                    .key_name(PROBE)
                    .public_key_material(Blob::new(PROBE_KEY))
            ),
            Permission::DeleteKeyPair => dry!(self.0.delete_key_pair().key_name(PROBE)),
            Permission::CreateSecurityGroup => dry!(
                self.0
                    .create_security_group()
                    .group_name(PROBE)
                    .description(PROBE)
            ),
            Permission::AuthorizeSecurityGroupIngress => dry!(
                self.0
                    .authorize_security_group_ingress()
                    .group_id(GROUP)
                    .ip_permissions(ssh())
            ),
            Permission::DeleteSecurityGroup => dry!(self.0.delete_security_group().group_id(GROUP)),
            Permission::StopInstances => dry!(self.0.stop_instances().instance_ids(INSTANCE)),
            Permission::TerminateInstances => {
                dry!(self.0.terminate_instances().instance_ids(INSTANCE))
            }
            Permission::CreateTags => dry!(self.0.create_tags().resources(INSTANCE).tags(tag())),
            Permission::CreateImage => {
                dry!(self.0.create_image().instance_id(INSTANCE).name(PROBE))
            }
            Permission::ModifyImageAttribute => dry!(
                self.0
                    .modify_image_attribute()
                    .image_id(IMAGE)
                    .description(AttributeValue::builder().value(PROBE).build())
            ),
            Permission::ModifySnapshotAttribute => dry!(
                self.0
                    .modify_snapshot_attribute()
                    .snapshot_id(SNAPSHOT)
                    .attribute(SnapshotAttributeName::CreateVolumePermission)
                    .operation_type(OperationType::Add)
                    .user_ids(ACCOUNT)
            ),
            Permission::DeregisterImage => dry!(self.0.deregister_image().image_id(IMAGE)),
            Permission::DeleteSnapshot => dry!(self.0.delete_snapshot().snapshot_id(SNAPSHOT)),
            Permission::DeleteVolume => {
                dry!(self.0.delete_volume().volume_id("vol-00000000000000000"))
            }
            Permission::DeleteNetworkInterface => dry!(
                self.0
                    .delete_network_interface()
                    .network_interface_id("eni-00000000000000000")
            ),
            Permission::CreateLaunchTemplateVersion => dry!(
                self.0
                    .create_launch_template_version()
                    .launch_template_id(template_id.unwrap_or("lt-00000000000000000"))
                    .launch_template_data(
                        RequestLaunchTemplateData::builder().image_id(IMAGE).build()
                    )
            ),
            Permission::DeleteLaunchTemplateVersions => dry!(
                self.0
                    .delete_launch_template_versions()
                    .launch_template_id(template_id.unwrap_or("lt-00000000000000000"))
                    .versions("1")
            ),
        })
    }
}

/// EC2 answers a permitted dry run with an error.
fn dried(result: Answer<()>) -> Answer<()> {
    match result {
        Err(error) if error.code() == "DryRunOperation" => Ok(()),
        other => other,
    }
}
