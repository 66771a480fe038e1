//! An in-memory cloud for tests, with faults: the n-th changing call can fail, or never return as if the caller had
//! been killed before or after the service did it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use contract::registry::{Record, SCHEMA, Verdict};
use tokio::sync::Notify;

use super::*;
use crate::ids::{
    AccountId, ImageId, InstanceId, KeyPairId, NetworkInterfaceId, SecurityGroupId, SnapshotId,
    SubnetId, VolumeId, VpcId,
};

/// The fault of the n-th changing call, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails and nothing was done.
    Fails(u32),
    /// The caller is killed before the service does it.
    KilledBefore(u32),
    /// The caller is killed after the service did it, before the answer is received.
    KilledAfter(u32),
}

/// Everything there is.
#[derive(Debug, Default)]
pub struct FakeAws {
    /// EC2 instances.
    pub instances: BTreeMap<InstanceId, Instance>,
    /// AMIs.
    pub images: BTreeMap<ImageId, Image>,
    /// EBS snapshots.
    pub snapshots: BTreeMap<SnapshotId, Snapshot>,
    /// Key pairs.
    pub key_pairs: BTreeMap<KeyPairId, KeyPair>,
    /// EBS volumes.
    pub volumes: BTreeMap<VolumeId, Volume>,
    /// The volumes that go with an instance.
    pub attached: BTreeMap<InstanceId, Vec<VolumeId>>,
    /// Network interfaces.
    pub interfaces: BTreeMap<NetworkInterfaceId, NetworkInterface>,
    /// Security groups.
    pub groups: BTreeMap<SecurityGroupId, SecurityGroup>,
    /// Parameters of the parameter store and their values.
    pub parameters: BTreeMap<String, String>,
    /// The accounts that an image is shared with.
    pub shares: BTreeMap<ImageId, Vec<AccountId>>,
    /// The verdict of the agent of a gate's instance, and its reason.
    pub verdict: Option<(Verdict, String)>,
    /// After how many reads a pointer has its new value; at once when none.
    pub validation: Option<u32>,
    /// What is being validated.
    awaited: Option<(String, String)>,
    /// Whether lists by tag, source or volume contain everything there is, as if the service did not filter.
    pub unfiltered: bool,
    /// Whether the caller may not list volumes and network interfaces.
    pub denied: bool,
    /// Whether the caller may not list images.
    pub images_denied: bool,
    /// What the caller may do.
    pub policy: Policy,
    /// What instance profiles there are.
    pub profiles: BTreeSet<String>,
    /// Subnets, security groups and instance types that there are not.
    pub missing: BTreeSet<String>,
    /// How many changing calls came.
    pub changes: u32,
    /// The injected fault.
    pub fault: Option<Fault>,
    next: u32,
}

/// The caller's permissions in the fake: everything, but for what is in `denied`.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Actions by their names in IAM.
    pub denied: BTreeSet<&'static str>,
    /// Actions that are allowed for what carries a run's tag, and so denied for whatever a dry run names.
    pub by_tag: BTreeSet<&'static str>,
    /// Whether IAM may not be asked either.
    pub silent: bool,
    /// Every action that was asked for.
    pub asked: BTreeSet<String>,
}

impl Policy {
    /// The error of a call that is denied.
    pub fn check(&mut self, action: &str) -> Answer<()> {
        self.asked.insert(action.to_owned());
        if !self.denied.contains(action) && !self.by_tag.contains(action) {
            return Ok(());
        }
        let code = "UnauthorizedOperation";
        Err(CloudError::new(Kind::Denied, action, code, "as arranged"))
    }

    /// IAM's simulation.
    pub fn simulate(&mut self, simulation: &Simulation) -> Answer<BTreeMap<String, Simulated>> {
        if self.silent {
            return Err(CloudError::new(
                Kind::Denied,
                "simulate",
                "AccessDenied",
                "",
            ));
        }
        let mut found = BTreeMap::new();
        for action in &simulation.actions {
            let simulated = match self.check(action) {
                Ok(()) => Simulated::Allowed,
                Err(_) if self.by_tag.contains(action) => Simulated::NotAllowed,
                Err(_) => Simulated::Denied,
            };
            found.insert((*action).to_owned(), simulated);
        }
        Ok(found)
    }

    /// What a launch needs.
    pub fn launch(&mut self) -> Answer<()> {
        for action in ["ec2:RunInstances", "ec2:CreateTags", "iam:PassRole"] {
            self.check(action)?;
        }
        Ok(())
    }
}

impl FakeAws {
    fn id(&mut self, prefix: &str) -> String {
        self.next += 1;
        format!("{prefix}-{:04x}", self.next)
    }

    /// Adds an image with one snapshot, made from nothing that is here.
    pub fn add_image(&mut self, owner: &str, name: &str, tags: Tags) -> ImageId {
        self.image_of(owner, name, tags, None)
    }

    /// Adds an image with one snapshot, made from an instance.
    pub fn create_image(&mut self, source: &InstanceId, name: &str, tags: Tags) -> ImageId {
        self.image_of(OWNER, name, tags, Some(source))
    }

    fn image_of(
        &mut self,
        owner: &str,
        name: &str,
        tags: Tags,
        source: Option<&InstanceId>,
    ) -> ImageId {
        let id = ImageId::parse(self.id("ami")).unwrap();
        let by = source.map_or("i-1", InstanceId::as_str);
        let volume = source.and_then(|source| self.attached.get(source)?.first().cloned());
        let description = format!("Created by CreateImage({by}) for {id}");
        let snapshot = self.add_snapshot(volume, &description, tags.clone());
        self.images.insert(
            id.clone(),
            Image {
                id: id.clone(),
                name: name.to_owned(),
                created: format!("2026-01-01T00:00:{:02}.000Z", self.next % 60),
                state: ImageState::Available,
                architecture: "x86_64".to_owned(),
                owner: owner.to_owned(),
                source_instance: source.cloned(),
                devices: vec!["/dev/xvda".to_owned()],
                snapshots: vec![snapshot],
                tags,
            },
        );
        id
    }

    /// Adds a snapshot.
    pub fn add_snapshot(
        &mut self,
        volume: Option<VolumeId>,
        description: &str,
        tags: Tags,
    ) -> SnapshotId {
        let id = SnapshotId::parse(self.id("snap")).unwrap();
        let snapshot = Snapshot {
            id: id.clone(),
            description: description.to_owned(),
            volume,
            tags,
        };
        self.snapshots.insert(id.clone(), snapshot);
        id
    }

    /// Adds a running instance with one volume, which is deleted when it is terminated.
    pub fn add_instance(&mut self, image: &ImageId, tags: Tags) -> InstanceId {
        let id = InstanceId::parse(self.id("i")).unwrap();
        let volume = self.add_volume(tags.clone());
        self.attached.insert(id.clone(), vec![volume]);
        self.instances.insert(
            id.clone(),
            Instance {
                id: id.clone(),
                image: Some(image.clone()),
                state: InstanceState::Running,
                launched: None,
                reason: String::new(),
                reason_code: String::new(),
                tags,
            },
        );
        id
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

    fn may(&self, operation: &str) -> Answer<()> {
        if !self.denied {
            return Ok(());
        }
        let code = "UnauthorizedOperation";
        Err(CloudError::new(Kind::Denied, operation, code, "not you"))
    }

    /// Adds a security group.
    pub fn add_group(&mut self, name: &str, tags: Tags) -> SecurityGroupId {
        let id = SecurityGroupId::parse(self.id("sg")).unwrap();
        let group = SecurityGroup {
            id: id.clone(),
            name: name.to_owned(),
            tags,
        };
        self.groups.insert(id.clone(), group);
        id
    }

    /// Everything that costs money or confuses operators, but for images and snapshots of others.
    pub fn inventory(&self) -> Vec<String> {
        let mut all = Vec::new();
        let alive = self
            .instances
            .values()
            .filter(|instance| !instance.state.is_going());
        all.extend(alive.map(|instance| instance.id.to_string()));
        let own: Vec<&Image> = self
            .images
            .values()
            .filter(|image| image.owner == OWNER)
            .collect();
        let others = self.images.values().filter(|image| image.owner != OWNER);
        let foreign: Vec<&SnapshotId> = others.flat_map(|image| &image.snapshots).collect();
        all.extend(own.iter().map(|image| image.id.to_string()));
        all.extend(
            self.snapshots
                .keys()
                .filter(|id| !foreign.contains(id))
                .map(ToString::to_string),
        );
        all.extend(self.key_pairs.keys().map(ToString::to_string));
        all.extend(self.volumes.keys().map(ToString::to_string));
        all.extend(self.interfaces.keys().map(ToString::to_string));
        all.extend(self.groups.keys().map(ToString::to_string));
        all.extend(self.parameters.keys().cloned());
        all
    }
}

/// The account the fake belongs to.
pub const OWNER: &str = "123456789012";

/// The service. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Fake {
    aws: Arc<Mutex<FakeAws>>,
    killed: Arc<Notify>,
}

impl Fake {
    /// The state, to read and to arrange.
    pub fn aws(&self) -> MutexGuard<'_, FakeAws> {
        self.aws.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notified when the caller is killed.
    pub fn killed(&self) -> Arc<Notify> {
        self.killed.clone()
    }

    /// A connection to the fake.
    pub fn cloud(&self) -> Cloud {
        Cloud {
            identity: Arc::new(self.clone()),
            images: Arc::new(self.clone()),
            instances: Arc::new(self.clone()),
            parameters: Arc::new(self.clone()),
            permissions: Arc::new(self.clone()),
            ..aws::disconnected()
        }
    }

    /// One changing call.
    pub async fn change<T>(
        &self,
        operation: &str,
        act: impl FnOnce(&mut FakeAws) -> Answer<T>,
    ) -> Answer<T> {
        let (now, fault) = {
            let mut aws = self.aws();
            aws.changes += 1;
            (aws.changes, aws.fault)
        };
        match fault {
            Some(Fault::Fails(at)) if at == now => Err(CloudError::new(
                Kind::Other,
                operation,
                "InternalError",
                "as arranged",
            )),
            Some(Fault::KilledBefore(at)) if at == now => self.hang().await,
            Some(Fault::KilledAfter(at)) if at == now => {
                act(&mut self.aws())?;
                self.hang().await
            }
            _ => act(&mut self.aws()),
        }
    }

    async fn hang<T>(&self) -> T {
        self.killed.notify_one();
        std::future::pending().await
    }
}

fn not_found(operation: &str) -> CloudError {
    CloudError::new(Kind::NotFound, operation, "NotFound", "")
}

fn carries(tags: &Tags, key: &str, value: Option<&str>) -> bool {
    tags.get(key)
        .is_some_and(|found| value.is_none_or(|value| value == found))
}

/// EC2's filters as far as we send them: `tag:<key>`, `tag-key`, and plain attributes with globs.
fn passes(
    filter: &str,
    values: &[String],
    tags: &Tags,
    attribute: impl Fn(&str) -> Option<String>,
) -> bool {
    if let Some(key) = filter.strip_prefix("tag:") {
        return values.iter().any(|value| carries(tags, key, Some(value)));
    }
    if filter == "tag-key" {
        return values.iter().any(|key| tags.contains_key(key));
    }
    attribute(filter).is_none_or(|found| values.iter().any(|value| glob(value, &found)))
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => {
            let Some(rest) = text.strip_prefix(head) else {
                return false;
            };
            (0..=rest.len()).any(|at| rest.is_char_boundary(at) && glob(tail, &rest[at..]))
        }
    }
}

#[async_trait]
impl Identity for Fake {
    async fn caller(&self) -> Answer<Caller> {
        Ok(Caller {
            account: AccountId::parse(OWNER).unwrap(),
            arn: format!("arn:aws:iam::{OWNER}:user/test"),
        })
    }

    async fn credentials(&self) -> Answer<Option<Credentials>> {
        Ok(None)
    }
}

#[async_trait]
impl Images for Fake {
    async fn search(&self, search: &Search) -> Answer<Vec<Image>> {
        let owners: Vec<&str> = search
            .owners
            .iter()
            .map(|owner| if owner == "self" { OWNER } else { owner })
            .collect();
        let aws = self.aws();
        if aws.images_denied {
            let code = "UnauthorizedOperation";
            return Err(CloudError::new(Kind::Denied, "list images", code, ""));
        }
        let matching = aws.images.values().filter(|image| {
            (owners.is_empty() || owners.contains(&image.owner.as_str()))
                && search.filters.iter().all(|(name, values)| {
                    let by_run = name.starts_with("tag") || name == "source-instance-id";
                    aws.unfiltered && by_run
                        || passes(name, values, &image.tags, |attribute| match attribute {
                            "name" => Some(image.name.clone()),
                            "architecture" => Some(image.architecture.clone()),
                            "source-instance-id" => Some(
                                image
                                    .source_instance
                                    .as_ref()
                                    .map_or_else(String::new, ToString::to_string),
                            ),
                            _ => None,
                        })
                })
        });
        Ok(matching.cloned().collect())
    }

    async fn image(&self, id: &ImageId) -> Answer<Option<Image>> {
        Ok(self.aws().images.get(id).cloned())
    }

    async fn tag(&self, ids: &[Owned<String>], tags: &Tags) -> Answer<()> {
        self.change("tag", |aws| {
            for id in ids.iter().map(Owned::id) {
                if let Some(image) = ImageId::parse(id.as_str())
                    .ok()
                    .and_then(|id| aws.images.get_mut(&id))
                {
                    image.tags.extend(tags.clone());
                }
                if let Some(snapshot) = SnapshotId::parse(id.as_str())
                    .ok()
                    .and_then(|id| aws.snapshots.get_mut(&id))
                {
                    snapshot.tags.extend(tags.clone());
                }
            }
            Ok(())
        })
        .await
    }

    async fn share(&self, image: &Image, accounts: &[AccountId]) -> Answer<()> {
        self.change("share", |aws| {
            aws.shares
                .entry(image.id.clone())
                .or_default()
                .extend(accounts.iter().cloned());
            Ok(())
        })
        .await
    }

    async fn shared_with(&self, id: &ImageId) -> Answer<Vec<AccountId>> {
        Ok(self.aws().shares.get(id).cloned().unwrap_or_default())
    }

    async fn deregister(&self, id: &Owned<ImageId>) -> Answer<()> {
        self.change("deregister", |aws| {
            aws.images.remove(id.id());
            Ok(())
        })
        .await
    }

    async fn snapshots_tagged(&self, key: &str, value: Option<&str>) -> Answer<Vec<Snapshot>> {
        let aws = self.aws();
        Ok(aws
            .snapshots
            .values()
            .filter(|snapshot| aws.unfiltered || carries(&snapshot.tags, key, value))
            .cloned()
            .collect())
    }

    async fn snapshots_of(&self, volumes: &[VolumeId]) -> Answer<Vec<Snapshot>> {
        let aws = self.aws();
        let of = |snapshot: &&Snapshot| {
            let volume = snapshot.volume.as_ref();
            aws.unfiltered || volume.is_some_and(|volume| volumes.contains(volume))
        };
        Ok(aws.snapshots.values().filter(of).cloned().collect())
    }

    async fn delete_snapshot(&self, id: &Owned<SnapshotId>) -> Answer<()> {
        self.change("delete snapshot", |aws| {
            let id = id.id();
            if aws
                .images
                .values()
                .any(|image| image.snapshots.contains(id))
            {
                return Err(CloudError::new(
                    Kind::InUse,
                    format!("delete {id}"),
                    "InvalidSnapshot.InUse",
                    "",
                ));
            }
            aws.snapshots.remove(id);
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl Instances for Fake {
    async fn launch(&self, launch: &Launch) -> Answer<Owned<InstanceId>> {
        self.change("launch", |aws| {
            if !aws.images.contains_key(&launch.image) {
                return Err(not_found("launch"));
            }
            let id = aws.add_instance(&launch.image, launch.tags.clone());
            if let Some((verdict, reason)) = aws.verdict.clone() {
                let record = Record {
                    schema: SCHEMA,
                    instance_id: id.to_string(),
                    image_id: launch.image.to_string(),
                    verdict,
                    reason,
                    since: "2026-01-01T00:00:00Z".to_owned(),
                    agent: "0.1.0".to_owned(),
                    services: BTreeMap::new(),
                };
                let name = contract::names::registry_parameter(
                    &launch.tags[contract::tags::IMAGE],
                    id.as_str(),
                );
                aws.parameters
                    .insert(name, serde_json::to_string(&record).unwrap());
            }
            Ok(Owned::returned(id))
        })
        .await
    }

    async fn instance(&self, id: &InstanceId) -> Answer<Option<Instance>> {
        Ok(self.aws().instances.get(id).cloned())
    }

    async fn instances_tagged(&self, key: &str, value: Option<&str>) -> Answer<Vec<Instance>> {
        let aws = self.aws();
        let alive = aws
            .instances
            .values()
            .filter(|instance| instance.state != InstanceState::Terminated);
        Ok(alive
            .filter(|instance| aws.unfiltered || carries(&instance.tags, key, value))
            .cloned()
            .collect())
    }

    async fn ever_tagged(&self, key: &str, value: &str) -> Answer<Vec<Instance>> {
        let aws = self.aws();
        let all = aws.instances.values();
        Ok(all
            .filter(|instance| aws.unfiltered || carries(&instance.tags, key, Some(value)))
            .cloned()
            .collect())
    }

    async fn instances_of(&self, image: &ImageId) -> Answer<Vec<Instance>> {
        let aws = self.aws();
        let alive = aws
            .instances
            .values()
            .filter(|instance| instance.state != InstanceState::Terminated);
        Ok(alive
            .filter(|instance| instance.image.as_ref() == Some(image))
            .cloned()
            .collect())
    }

    async fn terminate(&self, id: &Owned<InstanceId>) -> Answer<()> {
        self.change("terminate", |aws| {
            if let Some(instance) = aws.instances.get_mut(id.id()) {
                instance.state = InstanceState::Terminated;
            }
            for volume in aws.attached.remove(id.id()).unwrap_or_default() {
                aws.volumes.remove(&volume);
            }
            Ok(())
        })
        .await
    }

    async fn status_checks(&self, _id: &InstanceId) -> Answer<Option<StatusChecks>> {
        Ok(Some(StatusChecks::default()))
    }

    async fn console(&self, _id: &InstanceId) -> Answer<String> {
        Ok("booting\nimagebuilder-agent: unfit\n".to_owned())
    }

    async fn import_key_pair(
        &self,
        name: &str,
        _public_key: &str,
        tags: &Tags,
    ) -> Answer<Owned<KeyPairId>> {
        self.change("import key pair", |aws| {
            Ok(Owned::returned(aws.add_key_pair(name, tags.clone())))
        })
        .await
    }

    async fn key_pairs_tagged(&self, key: &str, value: Option<&str>) -> Answer<Vec<KeyPair>> {
        let aws = self.aws();
        let matching = aws.key_pairs.values();
        Ok(matching
            .filter(|pair| aws.unfiltered || carries(&pair.tags, key, value))
            .cloned()
            .collect())
    }

    async fn delete_key_pair(&self, id: &Owned<KeyPairId>) -> Answer<()> {
        self.change("delete key pair", |aws| {
            aws.key_pairs.remove(id.id());
            Ok(())
        })
        .await
    }

    async fn vpc_of(&self, subnet: &SubnetId) -> Answer<Option<VpcId>> {
        if self.aws().missing.contains(subnet.as_str()) {
            return Ok(None);
        }
        Ok(VpcId::parse("vpc-1").ok())
    }

    async fn vpcs_of(
        &self,
        groups: &[SecurityGroupId],
    ) -> Answer<Vec<(SecurityGroupId, Option<VpcId>)>> {
        let aws = self.aws();
        // A name with `far` in it is of another VPC.
        let vpc = |id: &SecurityGroupId| {
            if id.as_str().contains("far") {
                "vpc-2"
            } else {
                "vpc-1"
            }
        };
        let found = groups
            .iter()
            .filter(|id| !aws.missing.contains(id.as_str()));
        Ok(found
            .map(|id| (id.clone(), VpcId::parse(vpc(id)).ok()))
            .collect())
    }

    async fn architectures(&self, instance_type: &str) -> Answer<Option<Vec<String>>> {
        if self.aws().missing.contains(instance_type) {
            return Ok(None);
        }
        let arch = if instance_type.starts_with("t4g.") {
            "arm64"
        } else {
            "x86_64"
        };
        Ok(Some(vec![arch.to_owned()]))
    }

    async fn may_launch(&self, launch: &Launch) -> Answer<()> {
        let mut aws = self.aws();
        if !aws.images.contains_key(&launch.image) {
            return Err(not_found("launch"));
        }
        aws.policy.launch()
    }

    async fn may_launch_from(&self, _template_id: &str, _version: &str) -> Answer<()> {
        self.aws().policy.launch()
    }

    async fn create_security_group(
        &self,
        name: &str,
        _vpc: Option<&VpcId>,
        tags: &Tags,
    ) -> Answer<Owned<SecurityGroupId>> {
        self.change("create security group", |aws| {
            Ok(Owned::returned(aws.add_group(name, tags.clone())))
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
        let aws = self.aws();
        let matching = aws.groups.values();
        Ok(matching
            .filter(|group| aws.unfiltered || carries(&group.tags, key, value))
            .cloned()
            .collect())
    }

    async fn delete_security_group(&self, id: &Owned<SecurityGroupId>) -> Answer<()> {
        self.change("delete security group", |aws| {
            aws.groups.remove(id.id());
            Ok(())
        })
        .await
    }

    async fn volumes_tagged(&self, key: &str, value: Option<&str>) -> Answer<Vec<Volume>> {
        let aws = self.aws();
        aws.may("list volumes")?;
        let matching = aws.volumes.values();
        Ok(matching
            .filter(|volume| aws.unfiltered || carries(&volume.tags, key, value))
            .cloned()
            .collect())
    }

    async fn delete_volume(&self, id: &Owned<VolumeId>) -> Answer<()> {
        self.change("delete volume", |aws| {
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
        let aws = self.aws();
        aws.may("list network interfaces")?;
        let matching = aws.interfaces.values();
        Ok(matching
            .filter(|interface| aws.unfiltered || carries(&interface.tags, key, value))
            .cloned()
            .collect())
    }

    async fn delete_network_interface(&self, id: &Owned<NetworkInterfaceId>) -> Answer<()> {
        self.change("delete network interface", |aws| {
            aws.interfaces.remove(id.id());
            Ok(())
        })
        .await
    }

    async fn permitted(&self, permission: Permission, _template: Option<&str>) -> Answer<()> {
        self.aws().policy.check(&format!("ec2:{permission:?}"))
    }
}

#[async_trait]
impl Permissions for Fake {
    async fn role(&self, name: &str) -> Answer<Option<String>> {
        Ok(Some(format!("arn:aws:iam::{OWNER}:role/{name}")))
    }

    async fn simulate(
        &self,
        _principal: &str,
        simulation: &Simulation,
    ) -> Answer<BTreeMap<String, Simulated>> {
        self.aws().policy.simulate(simulation)
    }

    async fn instance_profile(&self, name: &str) -> Answer<Option<InstanceProfile>> {
        let mut aws = self.aws();
        aws.policy.check("iam:GetInstanceProfile")?;
        Ok(aws.profiles.contains(name).then(|| InstanceProfile {
            role: Some(format!("arn:aws:iam::{OWNER}:role/{name}")),
        }))
    }
}

#[async_trait]
impl Parameters for Fake {
    async fn parameter(&self, name: &str) -> Answer<Option<Parameter>> {
        let mut aws = self.aws();
        if let Some(left) = aws.validation {
            aws.validation = left.checked_sub(1);
        } else if let Some((name, value)) = aws.awaited.take() {
            aws.parameters.insert(name, value);
        }
        Ok(aws.parameters.get(name).map(|value| Parameter {
            name: name.to_owned(),
            value: value.clone(),
            version: 1,
        }))
    }

    async fn named(&self, names: &[String]) -> Answer<Vec<Parameter>> {
        let mut found = Vec::new();
        for name in names {
            found.extend(self.parameter(name).await?);
        }
        Ok(found)
    }

    async fn point(&self, name: &str, image: &ImageId) -> Answer<()> {
        self.change("point", |aws| {
            if aws.validation.is_some() {
                aws.awaited = Some((name.to_owned(), image.to_string()));
            } else {
                aws.parameters.insert(name.to_owned(), image.to_string());
            }
            Ok(())
        })
        .await
    }

    async fn delete(&self, name: &Owned<String>) -> Answer<()> {
        self.change("delete parameter", |aws| {
            aws.parameters.remove(name.id());
            Ok(())
        })
        .await
    }
}
