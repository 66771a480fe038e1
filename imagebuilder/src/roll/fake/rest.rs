//! The parts of the fake service that a roll uses beside the fleet: parameters, images, instances.

use super::*;

#[async_trait]
impl Parameters for Service {
    async fn parameter(&self, name: &str) -> Answer<Option<Parameter>> {
        self.call("parameter", |state| {
            Ok(state.parameters.get(name).map(|value| Parameter {
                name: name.into(),
                value: value.clone(),
                version: 1,
            }))
        })
        .await
    }

    async fn named(&self, names: &[String]) -> Answer<Vec<Parameter>> {
        self.call("named", |state| {
            Ok(names
                .iter()
                .filter_map(|name| {
                    Some(Parameter {
                        name: name.clone(),
                        value: state.parameters.get(name)?.clone(),
                        version: 1,
                    })
                })
                .collect())
        })
        .await
    }

    async fn point(&self, name: &str, image: &ImageId) -> Answer<()> {
        self.call("point", |state| {
            state.parameters.insert(name.into(), image.to_string());
            Ok(())
        })
        .await
    }

    async fn delete(&self, name: &Owned<String>) -> Answer<()> {
        self.call("delete", |state| {
            state.parameters.remove(name.id());
            Ok(())
        })
        .await
    }
}

/// An instance outside the group, launched from this version of the template.
fn elsewhere(version: &u64) -> Instance {
    Instance {
        id: InstanceId::parse(format!("i-e{version}")).unwrap(),
        image: None,
        state: InstanceState::Running,
        launched: None,
        reason: String::new(),
        reason_code: String::new(),
        tags: BTreeMap::from([(
            "aws:ec2launchtemplate:version".to_owned(),
            version.to_string(),
        )]),
    }
}

/// A call that a roll must not make.
fn foreign<T>(name: &'static str) -> Answer<T> {
    panic!("rolling called {name}")
}

#[async_trait]
impl Identity for Service {
    async fn caller(&self) -> Answer<Caller> {
        Ok(Caller {
            account: AccountId::parse("123456789012").unwrap(),
            arn: "arn:aws:iam::123456789012:user/test".to_owned(),
        })
    }
    async fn credentials(&self) -> Answer<Option<Credentials>> {
        foreign("credentials")
    }
}

#[async_trait]
impl Images for Service {
    async fn image(&self, id: &ImageId) -> Answer<Option<Image>> {
        self.call("image", |state| Ok(state.images.get(id).cloned()))
            .await
    }
    async fn search(&self, _search: &Search) -> Answer<Vec<Image>> {
        foreign("search")
    }
    async fn tag(&self, _ids: &[Owned<String>], _tags: &Tags) -> Answer<()> {
        foreign("tag")
    }
    async fn share(&self, _image: &Image, _accounts: &[AccountId]) -> Answer<()> {
        foreign("share")
    }
    async fn shared_with(&self, _id: &ImageId) -> Answer<Vec<AccountId>> {
        foreign("shared_with")
    }
    async fn deregister(&self, _id: &Owned<ImageId>) -> Answer<()> {
        foreign("deregister")
    }
    async fn snapshots_tagged(&self, _key: &str, _value: Option<&str>) -> Answer<Vec<Snapshot>> {
        foreign("snapshots_tagged")
    }
    async fn snapshots_of(&self, _volumes: &[VolumeId]) -> Answer<Vec<Snapshot>> {
        foreign("snapshots_of")
    }
    async fn delete_snapshot(&self, _id: &Owned<SnapshotId>) -> Answer<()> {
        foreign("delete_snapshot")
    }
}

#[async_trait]
impl Instances for Service {
    async fn instances_tagged(&self, key: &str, _value: Option<&str>) -> Answer<Vec<Instance>> {
        let by_template = key == "aws:ec2launchtemplate:id";
        self.call("instances_tagged", |state| {
            if by_template {
                return Ok(state.launched_elsewhere.iter().map(elsewhere).collect());
            }
            Ok(state
                .running
                .iter()
                .map(|(id, image)| Instance {
                    id: id.clone(),
                    image: Some(image.clone()),
                    state: InstanceState::Running,
                    launched: None,
                    reason: String::new(),
                    reason_code: String::new(),
                    tags: BTreeMap::new(),
                })
                .collect())
        })
        .await
    }
    async fn ever_tagged(&self, _key: &str, _value: &str) -> Answer<Vec<Instance>> {
        foreign("ever_tagged")
    }
    async fn status_checks(&self, _id: &InstanceId) -> Answer<Option<StatusChecks>> {
        foreign("status_checks")
    }
    async fn console(&self, _id: &InstanceId) -> Answer<String> {
        self.call("console", |_| Ok(String::new())).await
    }
    async fn launch(&self, _launch: &Launch) -> Answer<Owned<InstanceId>> {
        foreign("launch")
    }
    async fn instance(&self, _id: &InstanceId) -> Answer<Option<Instance>> {
        self.call("instance", |_| Ok(None)).await
    }
    async fn instances_of(&self, _image: &ImageId) -> Answer<Vec<Instance>> {
        foreign("instances_of")
    }
    async fn terminate(&self, _id: &Owned<InstanceId>) -> Answer<()> {
        foreign("terminate")
    }
    async fn import_key_pair(
        &self,
        _name: &str,
        _public_key: &str,
        _tags: &Tags,
    ) -> Answer<Owned<KeyPairId>> {
        foreign("import_key_pair")
    }
    async fn key_pairs_tagged(&self, _key: &str, _value: Option<&str>) -> Answer<Vec<KeyPair>> {
        foreign("key_pairs_tagged")
    }
    async fn delete_key_pair(&self, _id: &Owned<KeyPairId>) -> Answer<()> {
        foreign("delete_key_pair")
    }
    async fn vpc_of(&self, _subnet: &SubnetId) -> Answer<Option<VpcId>> {
        foreign("vpc_of")
    }
    async fn create_security_group(
        &self,
        _name: &str,
        _vpc: Option<&VpcId>,
        _tags: &Tags,
    ) -> Answer<Owned<SecurityGroupId>> {
        foreign("create_security_group")
    }
    async fn allow(&self, _group: &Owned<SecurityGroupId>, _ingress: &Ingress) -> Answer<()> {
        foreign("allow")
    }
    async fn security_groups_tagged(
        &self,
        _key: &str,
        _value: Option<&str>,
    ) -> Answer<Vec<SecurityGroup>> {
        foreign("security_groups_tagged")
    }
    async fn delete_security_group(&self, _id: &Owned<SecurityGroupId>) -> Answer<()> {
        foreign("delete_security_group")
    }
    async fn volumes_tagged(&self, _key: &str, _value: Option<&str>) -> Answer<Vec<Volume>> {
        foreign("volumes_tagged")
    }
    async fn delete_volume(&self, _id: &Owned<VolumeId>) -> Answer<()> {
        foreign("delete_volume")
    }
    async fn network_interfaces_tagged(
        &self,
        _key: &str,
        _value: Option<&str>,
    ) -> Answer<Vec<NetworkInterface>> {
        foreign("network_interfaces_tagged")
    }
    async fn delete_network_interface(&self, _id: &Owned<NetworkInterfaceId>) -> Answer<()> {
        foreign("delete_network_interface")
    }
    async fn vpcs_of(
        &self,
        _groups: &[SecurityGroupId],
    ) -> Answer<Vec<(SecurityGroupId, Option<VpcId>)>> {
        foreign("vpcs_of")
    }
    async fn architectures(&self, _instance_type: &str) -> Answer<Option<Vec<String>>> {
        foreign("architectures")
    }
    async fn may_launch(&self, _launch: &Launch) -> Answer<()> {
        foreign("may_launch")
    }
    async fn may_launch_from(&self, _template_id: &str, _version: &str) -> Answer<()> {
        self.state().policy.launch()
    }
    async fn permitted(&self, permission: Permission, _template: Option<&str>) -> Answer<()> {
        self.state().policy.check(&format!("ec2:{permission:?}"))
    }
}

/// The calls of a preflight are not counted: none of them changes anything.
#[async_trait]
impl Permissions for Service {
    async fn role(&self, _name: &str) -> Answer<Option<String>> {
        foreign("role")
    }
    async fn simulate(
        &self,
        _principal: &str,
        simulation: &Simulation,
    ) -> Answer<BTreeMap<String, Simulated>> {
        self.state().policy.simulate(simulation)
    }
    async fn instance_profile(&self, _name: &str) -> Answer<Option<InstanceProfile>> {
        foreign("instance_profile")
    }
}

#[async_trait]
impl Alarms for Service {
    async fn states(&self, names: &[String]) -> Answer<BTreeMap<String, String>> {
        let mut state = self.state();
        state.policy.check("cloudwatch:DescribeAlarms")?;
        let mut found = state.alarms.clone();
        found.retain(|name, _| names.contains(name));
        Ok(found)
    }
}
