//! Instances, and what is made for one instance: key pairs, security groups, volumes, network interfaces.

use async_trait::async_trait;

use super::Permission;
use super::{Answer, Owned, Tags};
use crate::ids::{
    ImageId, InstanceId, KeyPairId, NetworkInterfaceId, SecurityGroupId, SubnetId, VolumeId, VpcId,
};

/// A device of a launch, besides or instead of its image's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaunchDisk {
    /// Its device name.
    pub device: String,
    /// Its size in GiB; its snapshot's when left out.
    pub size_gib: Option<u32>,
    /// Its volume type; the image's when left out.
    pub kind: Option<String>,
    /// IOPS.
    pub iops: Option<u32>,
    /// MiB/s.
    pub throughput: Option<u32>,
    /// Whether it is deleted with its instance.
    pub delete_on_termination: bool,
}

/// Whether an instance requires IMDSv2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// It does.
    Required,
    /// IMDSv1 works too.
    Optional,
}

/// What an instance is launched with. A shutdown always terminates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// From which image.
    pub image: ImageId,
    /// Its type.
    pub instance_type: String,
    /// Its instance profile, by name.
    pub instance_profile: Option<String>,
    /// Its subnet.
    pub subnet: Option<SubnetId>,
    /// Its security groups.
    pub security_groups: Vec<SecurityGroupId>,
    /// Its user data, not yet encoded.
    pub user_data: Option<Vec<u8>>,
    /// Whether it requires IMDSv2.
    pub tokens: Tokens,
    /// How many hops an answer of its metadata service may go; the image's or the account's default when left out.
    pub hops: Option<u8>,
    /// Its devices, where they are not its image's.
    pub disks: Vec<LaunchDisk>,
    /// Its tags, its volumes' and its network interface's.
    pub tags: Tags,
    /// The client token: a repeated launch returns the first one's instance.
    pub client_token: String,
}

/// An instance's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstanceState {
    /// Starting.
    Pending,
    /// Running.
    Running,
    /// Shutting down: it will be terminated.
    ShuttingDown,
    /// Terminated.
    Terminated,
    /// Stopping or stopped.
    Stopped,
    /// A state this program does not know.
    Other(String),
}

impl InstanceState {
    /// Whether it is terminated or shutting down.
    pub fn is_going(&self) -> bool {
        matches!(self, Self::ShuttingDown | Self::Terminated)
    }
}

/// An instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Its image.
    pub image: Option<ImageId>,
    /// Its state.
    pub state: InstanceState,
    /// When it was launched, seconds since the epoch.
    pub launched: Option<i64>,
    /// Why it is in this state, as EC2 reports it.
    pub reason: String,
    /// The code of that reason, such as `Client.InstanceInitiatedShutdown`
    /// (<https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html>).
    pub reason_code: String,
    /// Its tags.
    pub tags: Tags,
}

/// EC2's two status checks of a running instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusChecks {
    /// Whether its host is impaired.
    pub system_impaired: bool,
    /// Whether its operating system is impaired.
    pub instance_impaired: bool,
    /// Scheduled events, e.g. that its host is degraded; past ones omitted.
    pub events: Vec<String>,
}

/// A key pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    /// Its id.
    pub id: KeyPairId,
    /// Its name.
    pub name: String,
    /// Its tags.
    pub tags: Tags,
}

/// A security group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityGroup {
    /// Its id.
    pub id: SecurityGroupId,
    /// Its name.
    pub name: String,
    /// Its tags.
    pub tags: Tags,
}

/// Who may reach a new security group, by TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// The port.
    pub port: u16,
    /// From these networks, in CIDR notation, of IPv4 or IPv6.
    pub cidrs: Vec<String>,
}

/// An EBS volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its id.
    pub id: VolumeId,
    /// Its tags.
    pub tags: Tags,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkInterface {
    /// Its id.
    pub id: NetworkInterfaceId,
    /// Its tags.
    pub tags: Tags,
}

/// Instances and what is made for one instance.
#[async_trait]
pub trait Instances: Send + Sync {
    /// Launches one instance.
    async fn launch(&self, launch: &Launch) -> Answer<Owned<InstanceId>>;
    /// One instance; `None` when there is none.
    async fn instance(&self, id: &InstanceId) -> Answer<Option<Instance>>;
    /// Instances that carry a tag and are not terminated; with no value, whatever its value.
    async fn instances_tagged(&self, key: &str, value: Option<&str>) -> Answer<Vec<Instance>>;
    /// Instances that carry a tag's value, terminated ones too while EC2 shows them (about an hour).
    async fn ever_tagged(&self, key: &str, value: &str) -> Answer<Vec<Instance>>;
    /// Instances not terminated that run an image.
    async fn instances_of(&self, image: &ImageId) -> Answer<Vec<Instance>>;
    /// Terminates an instance; not an error when it is terminated already.
    async fn terminate(&self, id: &Owned<InstanceId>) -> Answer<()>;
    /// EC2's status checks of a running instance; `None` when it has none, as while it starts.
    async fn status_checks(&self, id: &InstanceId) -> Answer<Option<StatusChecks>>;
    /// The instance's console output: up to now where EC2 can read it (Nitro), else as of its last start or stop.
    async fn console(&self, id: &InstanceId) -> Answer<String>;
    /// Imports a public key (OpenSSH format) as a key pair.
    async fn import_key_pair(
        &self,
        name: &str,
        public_key: &str,
        tags: &Tags,
    ) -> Answer<Owned<KeyPairId>>;
    /// Key pairs that carry a tag; with no value, whatever its value.
    async fn key_pairs_tagged(&self, key: &str, value: Option<&str>) -> Answer<Vec<KeyPair>>;
    /// Deletes a key pair; not an error when it is deleted already.
    async fn delete_key_pair(&self, id: &Owned<KeyPairId>) -> Answer<()>;
    /// The VPC of a subnet; `None` when there is no such subnet.
    async fn vpc_of(&self, subnet: &SubnetId) -> Answer<Option<VpcId>>;
    /// Creates a security group with its tags, in a VPC or the default one, without any ingress rule.
    async fn create_security_group(
        &self,
        name: &str,
        vpc: Option<&VpcId>,
        tags: &Tags,
    ) -> Answer<Owned<SecurityGroupId>>;
    /// Allows networks to reach a security group.
    async fn allow(&self, group: &Owned<SecurityGroupId>, ingress: &Ingress) -> Answer<()>;
    /// Security groups that carry a tag; with no value, whatever its value.
    async fn security_groups_tagged(
        &self,
        key: &str,
        value: Option<&str>,
    ) -> Answer<Vec<SecurityGroup>>;
    /// Deletes a security group; not an error when it is deleted already.
    async fn delete_security_group(&self, id: &Owned<SecurityGroupId>) -> Answer<()>;
    /// Volumes that carry a tag; with no value, whatever its value.
    async fn volumes_tagged(&self, key: &str, value: Option<&str>) -> Answer<Vec<Volume>>;
    /// Deletes a volume; not an error when it is deleted already.
    async fn delete_volume(&self, id: &Owned<VolumeId>) -> Answer<()>;
    /// Network interfaces that carry a tag; with no value, whatever its value.
    async fn network_interfaces_tagged(
        &self,
        key: &str,
        value: Option<&str>,
    ) -> Answer<Vec<NetworkInterface>>;
    /// Deletes a network interface; not an error when it is deleted already.
    async fn delete_network_interface(&self, id: &Owned<NetworkInterfaceId>) -> Answer<()>;
    /// The VPCs of security groups; those that do not exist are left out.
    async fn vpcs_of(
        &self,
        groups: &[SecurityGroupId],
    ) -> Answer<Vec<(SecurityGroupId, Option<VpcId>)>>;
    /// The architectures of an instance type as EC2 names them; `None` when the region has no such type.
    async fn architectures(&self, instance_type: &str) -> Answer<Option<Vec<String>>>;
    /// Asks by dry run whether a launch would be done: permissions, and what it names.
    async fn may_launch(&self, launch: &Launch) -> Answer<()>;
    /// Asks by dry run whether a launch from a template's version would be done.
    async fn may_launch_from(&self, template_id: &str, version: &str) -> Answer<()>;
    /// Asks by dry run whether a call would be permitted. An error of kind `Denied` means no, any other leaves it unknown.
    /// `template_id` is the template of a launch-template call.
    async fn permitted(&self, permission: Permission, template_id: Option<&str>) -> Answer<()>;
}
