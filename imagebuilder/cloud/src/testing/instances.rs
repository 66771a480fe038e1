//! EC2 instances and what is made for them: key pairs, security groups, volumes, network interfaces.

use super::*;

impl AwsState {
    /// Adds a running instance with one volume, which is deleted when it is terminated.
    pub fn add_instance(&mut self, image: &ImageId, tags: Tags) -> InstanceId {
        let id = InstanceId::parse(self.id("i")).unwrap();
        let volume = self.add_volume(tags.clone());
        self.attached.insert(id.clone(), vec![volume]);
        self.insert_instance(id.clone(), Some(image.clone()), tags);
        id
    }

    /// Adds a running instance without a volume.
    pub(super) fn insert_instance(&mut self, id: InstanceId, image: Option<ImageId>, tags: Tags) {
        let instance = Instance {
            id: id.clone(),
            image,
            state: InstanceState::Running,
            launched: None,
            reason: String::new(),
            reason_code: String::new(),
            tags,
        };
        self.instances.insert(id, instance);
    }

    /// Terminates an instance.
    pub(super) fn end_instance(&mut self, id: &InstanceId) {
        if let Some(instance) = self.instances.get_mut(id) {
            instance.state = InstanceState::Terminated;
        }
        for volume in self.attached.remove(id).unwrap_or_default() {
            self.volumes.remove(&volume);
        }
    }

    /// Instances that are not terminated.
    fn not_terminated(&self) -> impl Iterator<Item = &Instance> {
        let all = self.instances.values();
        all.filter(|instance| instance.state != InstanceState::Terminated)
    }

    /// Adds a volume that is attached to nothing.
    pub fn add_volume(&mut self, tags: Tags) -> VolumeId {
        let id = VolumeId::parse(self.id("vol")).unwrap();
        let volume = Volume {
            id: id.clone(),
            tags,
        };
        self.volumes.insert(id.clone(), volume);
        id
    }

    /// Adds a network interface that is attached to nothing.
    pub fn add_interface(&mut self, tags: Tags) -> NetworkInterfaceId {
        let id = NetworkInterfaceId::parse(self.id("eni")).unwrap();
        let interface = NetworkInterface {
            id: id.clone(),
            tags,
        };
        self.interfaces.insert(id.clone(), interface);
        id
    }

    /// Adds a key pair.
    pub fn add_key_pair(&mut self, name: &str, tags: Tags) -> KeyPairId {
        let id = KeyPairId::parse(self.id("key")).unwrap();
        let pair = KeyPair {
            id: id.clone(),
            name: name.to_owned(),
            tags,
        };
        self.key_pairs.insert(id.clone(), pair);
        id
    }

    /// Adds a security group.
    pub fn add_security_group(&mut self, name: &str, tags: Tags) -> SecurityGroupId {
        let id = SecurityGroupId::parse(self.id("sg")).unwrap();
        let group = SecurityGroup {
            id: id.clone(),
            name: name.to_owned(),
            tags,
        };
        self.security_groups.insert(id.clone(), group);
        id
    }
}

#[async_trait]
impl Instances for InMemoryAws {
    async fn launch(&self, launch: &Launch) -> Answer<Owned<InstanceId>> {
        self.change("launch", |aws| {
            if !aws.images.contains_key(&launch.image) {
                return Err(not_found("launch"));
            }
            aws.launches.push(launch.clone());
            let id = aws.add_instance(&launch.image, launch.tags.clone());
            if let Some((verdict, reason)) = aws.verdict.clone() {
                let image_name = &launch.tags[contract::tags::IMAGE];
                aws.record(image_name, &id, &launch.image, verdict, &reason);
            }
            Ok(Owned::returned(id))
        })
        .await
    }

    async fn instance(&self, id: &InstanceId) -> Answer<Option<Instance>> {
        self.read("instance", |aws| Ok(aws.instances.get(id).cloned()))
            .await
    }

    async fn instances_tagged(&self, key: &str, value: Option<&str>) -> Answer<Vec<Instance>> {
        self.read("instances_tagged", |aws| {
            Ok(aws.tagged(aws.not_terminated(), |one| &one.tags, key, value))
        })
        .await
    }

    async fn ever_tagged(&self, key: &str, value: &str) -> Answer<Vec<Instance>> {
        self.read("ever_tagged", |aws| {
            Ok(aws.tagged(aws.instances.values(), |one| &one.tags, key, Some(value)))
        })
        .await
    }

    async fn instances_of(&self, image: &ImageId) -> Answer<Vec<Instance>> {
        self.read("instances_of", |aws| {
            let of = |instance: &&Instance| instance.image.as_ref() == Some(image);
            Ok(aws.not_terminated().filter(of).cloned().collect())
        })
        .await
    }

    async fn terminate(&self, id: &Owned<InstanceId>) -> Answer<()> {
        self.change("terminate", |aws| {
            aws.end_instance(id.id());
            Ok(())
        })
        .await
    }

    async fn status_checks(&self, _id: &InstanceId) -> Answer<Option<StatusChecks>> {
        self.read("status_checks", |_| Ok(Some(StatusChecks::default())))
            .await
    }

    async fn console(&self, id: &InstanceId) -> Answer<String> {
        self.read("console", |aws| {
            Ok(match aws.instances.contains_key(id) {
                true => "booting\nimagebuilder-agent: unfit\n".to_owned(),
                false => String::new(),
            })
        })
        .await
    }

    async fn import_key_pair(
        &self,
        name: &str,
        _public_key: &str,
        tags: &Tags,
    ) -> Answer<Owned<KeyPairId>> {
        self.change("import_key_pair", |aws| {
            Ok(Owned::returned(aws.add_key_pair(name, tags.clone())))
        })
        .await
    }

    async fn key_pairs_tagged(&self, key: &str, value: Option<&str>) -> Answer<Vec<KeyPair>> {
        self.read("key_pairs_tagged", |aws| {
            Ok(aws.tagged(aws.key_pairs.values(), |one| &one.tags, key, value))
        })
        .await
    }

    async fn delete_key_pair(&self, id: &Owned<KeyPairId>) -> Answer<()> {
        self.change("delete_key_pair", |aws| {
            aws.key_pairs.remove(id.id());
            Ok(())
        })
        .await
    }

    async fn vpc_of(&self, subnet: &SubnetId) -> Answer<Option<VpcId>> {
        self.read("vpc_of", |aws| {
            let missing = aws.missing.contains(subnet.as_str());
            Ok(VpcId::parse("vpc-1").ok().filter(|_| !missing))
        })
        .await
    }

    async fn vpcs_of(
        &self,
        groups: &[SecurityGroupId],
    ) -> Answer<Vec<(SecurityGroupId, Option<VpcId>)>> {
        // A name with `far` in it is of another VPC.
        let vpc = |id: &SecurityGroupId| match id.as_str().contains("far") {
            true => VpcId::parse("vpc-2").ok(),
            false => VpcId::parse("vpc-1").ok(),
        };
        self.read("vpcs_of", |aws| {
            let exists = |id: &&SecurityGroupId| !aws.missing.contains(id.as_str());
            let found = groups.iter().filter(exists);
            Ok(found.map(|id| (id.clone(), vpc(id))).collect())
        })
        .await
    }

    async fn architectures(&self, instance_type: &str) -> Answer<Option<Vec<String>>> {
        self.read("architectures", |aws| {
            let architecture = match instance_type.starts_with("t4g.") {
                true => "arm64",
                false => "x86_64",
            };
            let exists = !aws.missing.contains(instance_type);
            Ok(exists.then(|| vec![architecture.to_owned()]))
        })
        .await
    }

    async fn may_launch(&self, launch: &Launch) -> Answer<()> {
        let mut aws = self.state();
        if !aws.images.contains_key(&launch.image) {
            return Err(not_found("launch"));
        }
        aws.policy.launch()
    }

    async fn may_launch_from(&self, _template_id: &str, _version: &str) -> Answer<()> {
        self.state().policy.launch()
    }

    async fn permitted(&self, permission: Permission, _template: Option<&str>) -> Answer<()> {
        self.state().policy.check(&format!("ec2:{permission:?}"))
    }

    async fn create_security_group(
        &self,
        name: &str,
        _vpc: Option<&VpcId>,
        tags: &Tags,
    ) -> Answer<Owned<SecurityGroupId>> {
        self.change("create_security_group", |aws| {
            Ok(Owned::returned(aws.add_security_group(name, tags.clone())))
        })
        .await
    }

    async fn allow(&self, _group: &Owned<SecurityGroupId>, _ingress: &Ingress) -> Answer<()> {
        self.change("allow", |_| Ok(())).await
    }

    async fn security_groups_tagged(
        &self,
        key: &str,
        value: Option<&str>,
    ) -> Answer<Vec<SecurityGroup>> {
        self.read("security_groups_tagged", |aws| {
            Ok(aws.tagged(aws.security_groups.values(), |one| &one.tags, key, value))
        })
        .await
    }

    async fn delete_security_group(&self, id: &Owned<SecurityGroupId>) -> Answer<()> {
        self.change("delete_security_group", |aws| {
            aws.security_groups.remove(id.id());
            Ok(())
        })
        .await
    }

    async fn volumes_tagged(&self, key: &str, value: Option<&str>) -> Answer<Vec<Volume>> {
        self.read("volumes_tagged", |aws| {
            Ok(aws.tagged(aws.volumes.values(), |one| &one.tags, key, value))
        })
        .await
    }

    async fn delete_volume(&self, id: &Owned<VolumeId>) -> Answer<()> {
        self.change("delete_volume", |aws| {
            if aws.attached.values().flatten().any(|held| held == id.id()) {
                let operation = format!("delete {id}");
                return Err(CloudError::new(Kind::InUse, operation, "VolumeInUse", ""));
            }
            aws.volumes.remove(id.id());
            Ok(())
        })
        .await
    }

    async fn network_interfaces_tagged(
        &self,
        key: &str,
        value: Option<&str>,
    ) -> Answer<Vec<NetworkInterface>> {
        self.read("network_interfaces_tagged", |aws| {
            Ok(aws.tagged(aws.interfaces.values(), |one| &one.tags, key, value))
        })
        .await
    }

    async fn delete_network_interface(&self, id: &Owned<NetworkInterfaceId>) -> Answer<()> {
        self.change("delete_network_interface", |aws| {
            aws.interfaces.remove(id.id());
            Ok(())
        })
        .await
    }
}
