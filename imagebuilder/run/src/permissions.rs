//! Every API action that a command needs, in one table. The rule: *whatever a command will call is checked before its
//! first change* ([`preflight`](crate::preflight)), so nothing may be called that is not in here.
//!
//! `docs/operating.md`, `docs/roll.md` and `docs/channel.md` list the same; a test compares them. The tests
//! over the wire deny every row in turn.

use cloud::Permission;

/// Who makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `bake`.
    Bake,
    /// Packer, in a `bake`.
    Packer,
    /// `roll` to another image.
    Roll,
    /// A refresh back to the version before: `roll rollback` after the end of a refresh, and after a smoke test that fails at the end.
    RollbackRefresh,
    /// `roll` of a group that is on its target: it is verified, and its pointers are moved.
    Verify,
    /// `roll watch`, and `roll --adopt`.
    Watch,
    /// `roll rollback` of an active refresh.
    Rollback,
    /// `reap`.
    Reap,
    /// `channel init`, `publish`, `promote`, `withdraw`, `refresh` and `rotate-root`.
    Channel,
}

/// The effect of a denied action that the command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// Exit code 3, and nothing was changed.
    Refuses,
    /// The action is named, and the command continues.
    Warns,
}

impl Verb {
    /// What starts something is refused. What continues something that runs, brings it back or cleans it up is not: half of
    /// it is better than none.
    pub fn denial(self) -> Denial {
        match self {
            Self::Bake | Self::Packer | Self::Roll | Self::Channel => Denial::Refuses,
            Self::RollbackRefresh | Self::Verify | Self::Watch | Self::Rollback | Self::Reap => {
                Denial::Warns
            }
        }
    }
}

/// When a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// In every run, or to undo one.
    Always,
    /// The command works without it: it explains a failure, or only checks something earlier.
    Optional,
    /// With accounts in `[bake] share`.
    Shares,
    /// With `[bake] kms_key`.
    Key,
    /// With an instance profile.
    Profile,
    /// When a group is behind target groups.
    Targets,
    /// With `--pin-first`.
    Pin,
    /// When a version of the launch template has to be made.
    Version,
    /// When the channel's repository is a bucket.
    Bucket,
    /// With signing keys in KMS.
    SigningKey,
}

/// What an action's resource is, as far as policies can name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// It has no resource in IAM: `*`.
    Any,
    /// An EC2 resource that does not exist yet: `arn:aws:ec2:REGION:ACCOUNT:KIND/…`.
    Ec2(&'static str),
    /// The parameters `/imagebuilder/IMAGE/…`; for reading, also the one that names the source image.
    Parameters,
    /// The Auto Scaling group.
    Group,
    /// The role of an instance profile.
    Role,
    /// The instance profile.
    Profile,
    /// The key of `[bake] kms_key`, or the channel's signing keys.
    Key,
    /// The channel's bucket.
    Bucket,
    /// The objects of the channel.
    Objects,
}

impl Resource {
    /// Whether its own policy can allow what no policy of the caller does.
    pub fn has_own_policy(self) -> bool {
        matches!(self, Self::Key | Self::Bucket | Self::Objects)
    }
}

/// How a permission is checked. Where that gives no answer, IAM's simulation is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// By the call's own dry run.
    DryRun(Permission),
    /// By the dry run of a whole launch, which needs several.
    Launch,
    /// By IAM's simulation alone.
    Simulation,
}

/// One API action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// Its name in IAM, e.g. `ec2:RunInstances`.
    pub name: &'static str,
    /// Who calls it.
    pub verbs: &'static [Verb],
    /// When.
    pub need: Need,
    /// Its resource.
    pub resource: Resource,
    /// How its permission is checked.
    pub asked: Asked,
}

const fn action(
    name: &'static str,
    verbs: &'static [Verb],
    need: Need,
    resource: Resource,
    asked: Asked,
) -> Action {
    Action {
        name,
        verbs,
        need,
        resource,
        asked,
    }
}

use Need::{Always, Bucket, Key, Optional, Pin, Profile, Shares, SigningKey, Targets, Version};
use Permission as P;
use Resource::{Any, Ec2, Group, Parameters, Role};
use Verb::{Bake, Channel, Packer, Reap, Roll, Rollback, RollbackRefresh, Verify, Watch};

/// An action that EC2 answers a dry run of.
const fn ec2(
    name: &'static str,
    verbs: &'static [Verb],
    need: Need,
    resource: Resource,
    permission: Permission,
) -> Action {
    action(name, verbs, need, resource, Asked::DryRun(permission))
}

/// An action that only IAM's simulation answers for.
const fn other(
    name: &'static str,
    verbs: &'static [Verb],
    need: Need,
    resource: Resource,
) -> Action {
    action(name, verbs, need, resource, Asked::Simulation)
}

/// Reading a fleet.
const FLEET: &[Verb] = &[Roll, RollbackRefresh, Verify, Watch, Rollback];
/// Beginning a refresh.
const START: &[Verb] = &[Roll, RollbackRefresh];
/// Stopping one.
const STOP: &[Verb] = &[Roll, Watch, Rollback];
/// All that read images and instances.
const ALL: &[Verb] = &[
    Bake,
    Packer,
    Roll,
    RollbackRefresh,
    Verify,
    Watch,
    Rollback,
    Reap,
];
/// The resources of a bake are removed by it, and by `reap`.
const OURS: &[Verb] = &[Bake, Reap];
/// This program's and Packer's.
const BOTH: &[Verb] = &[Bake, Packer, Reap];

/// All of them.
#[rustfmt::skip]
pub const ACTIONS: &[Action] = &[
    ec2("ec2:DescribeImages", ALL, Always, Any, P::DescribeImages),
    ec2("ec2:DescribeImageAttribute", &[Bake], Shares, Ec2("image"), P::DescribeImageAttribute),
    ec2("ec2:DescribeInstances", ALL, Always, Any, P::DescribeInstances),
    ec2("ec2:DescribeInstanceStatus", &[Packer], Always, Any, P::DescribeInstanceStatus),
    ec2("ec2:DescribeInstanceTypes", &[Bake], Optional, Any, P::DescribeInstanceTypes),
    ec2("ec2:DescribeSnapshots", BOTH, Always, Any, P::DescribeSnapshots),
    ec2("ec2:DescribeKeyPairs", OURS, Always, Any, P::DescribeKeyPairs),
    ec2("ec2:DescribeSecurityGroups", BOTH, Always, Any, P::DescribeSecurityGroups),
    ec2("ec2:DescribeSubnets", &[Bake, Packer], Always, Any, P::DescribeSubnets),
    ec2("ec2:DescribeVolumes", BOTH, Always, Any, P::DescribeVolumes),
    ec2("ec2:DescribeNetworkInterfaces", OURS, Always, Any, P::DescribeNetworkInterfaces),
    ec2("ec2:DescribeVpcs", &[Packer], Always, Any, P::DescribeVpcs),
    ec2("ec2:DescribeRegions", &[Packer], Always, Any, P::DescribeRegions),
    ec2("ec2:DescribeLaunchTemplateVersions", FLEET, Always, Any, P::DescribeLaunchTemplateVersions),
    ec2("ec2:GetConsoleOutput", &[Bake, Roll, RollbackRefresh, Watch, Rollback], Optional, Ec2("instance"), P::GetConsoleOutput),
    ec2("ec2:ImportKeyPair", &[Bake], Always, Ec2("key-pair"), P::ImportKeyPair),
    ec2("ec2:DeleteKeyPair", OURS, Always, Ec2("key-pair"), P::DeleteKeyPair),
    ec2("ec2:CreateSecurityGroup", &[Bake], Always, Ec2("security-group"), P::CreateSecurityGroup),
    ec2("ec2:AuthorizeSecurityGroupIngress", &[Bake], Always, Ec2("security-group"), P::AuthorizeSecurityGroupIngress),
    ec2("ec2:DeleteSecurityGroup", OURS, Always, Ec2("security-group"), P::DeleteSecurityGroup),
    action("ec2:RunInstances", &[Bake, Packer, Roll, RollbackRefresh], Always, Ec2("instance"), Asked::Launch),
    ec2("ec2:StopInstances", &[Packer], Always, Ec2("instance"), P::StopInstances),
    ec2("ec2:TerminateInstances", BOTH, Always, Ec2("instance"), P::TerminateInstances),
    ec2("ec2:CreateTags", &[Bake, Packer], Always, Ec2("instance"), P::CreateTags),
    ec2("ec2:CreateImage", &[Packer], Always, Ec2("image"), P::CreateImage),
    ec2("ec2:ModifyImageAttribute", &[Bake, Packer], Always, Ec2("image"), P::ModifyImageAttribute),
    ec2("ec2:ModifySnapshotAttribute", &[Bake], Shares, Ec2("snapshot"), P::ModifySnapshotAttribute),
    ec2("ec2:DeregisterImage", OURS, Always, Ec2("image"), P::DeregisterImage),
    ec2("ec2:DeleteSnapshot", OURS, Always, Ec2("snapshot"), P::DeleteSnapshot),
    ec2("ec2:DeleteVolume", BOTH, Always, Ec2("volume"), P::DeleteVolume),
    ec2("ec2:DeleteNetworkInterface", OURS, Always, Ec2("network-interface"), P::DeleteNetworkInterface),
    ec2("ec2:CreateLaunchTemplateVersion", START, Version, Ec2("launch-template"), P::CreateLaunchTemplateVersion),
    ec2("ec2:DeleteLaunchTemplateVersions", &[Roll, Watch], Optional, Ec2("launch-template"), P::DeleteLaunchTemplateVersions),
    action("iam:PassRole", &[Bake, Roll, RollbackRefresh], Profile, Role, Asked::Launch),
    other("iam:GetInstanceProfile", &[Bake], Optional, Resource::Profile),
    other("ssm:GetParameter", &[Bake, Roll, RollbackRefresh, Verify, Watch, Reap], Always, Parameters),
    other("ssm:PutParameter", &[Bake, Roll, RollbackRefresh, Verify, Watch], Always, Parameters),
    other("ssm:DeleteParameter", OURS, Always, Parameters),
    other("ssm:GetParameters", FLEET, Optional, Parameters),
    other("autoscaling:DescribeAutoScalingGroups", FLEET, Always, Any),
    other("autoscaling:DescribeLifecycleHooks", FLEET, Always, Any),
    other("autoscaling:DescribeInstanceRefreshes", FLEET, Always, Any),
    other("autoscaling:DescribeScalingActivities", &[Roll, RollbackRefresh, Watch, Rollback], Always, Any),
    other("autoscaling:StartInstanceRefresh", START, Always, Group),
    other("autoscaling:RollbackInstanceRefresh", STOP, Always, Group),
    other("autoscaling:CancelInstanceRefresh", STOP, Always, Group),
    other("autoscaling:UpdateAutoScalingGroup", START, Pin, Group),
    other("elasticloadbalancing:DescribeTargetHealth", FLEET, Targets, Any),
    other("elasticloadbalancing:DescribeTargetGroupAttributes", FLEET, Optional, Any),
    other("cloudwatch:DescribeAlarms", &[Roll], Optional, Any),
    other("kms:CreateGrant", &[Packer], Key, Resource::Key),
    other("kms:Decrypt", &[Packer], Key, Resource::Key),
    other("kms:DescribeKey", &[Packer], Key, Resource::Key),
    other("kms:GenerateDataKeyWithoutPlaintext", &[Packer], Key, Resource::Key),
    other("kms:ReEncryptFrom", &[Packer], Key, Resource::Key),
    other("kms:ReEncryptTo", &[Packer], Key, Resource::Key),
    other("kms:GetPublicKey", &[Channel], SigningKey, Resource::Key),
    other("kms:Sign", &[Channel], SigningKey, Resource::Key),
    other("s3:ListBucket", &[Channel], Bucket, Resource::Bucket),
    other("s3:GetObject", &[Channel], Bucket, Resource::Objects),
    other("s3:PutObject", &[Channel], Bucket, Resource::Objects),
];

/// What `verbs` need where `needs` apply, besides what is always needed.
pub fn needed(verbs: &[Verb], needs: &[Need]) -> Vec<&'static Action> {
    ACTIONS
        .iter()
        .filter(|action| action.verbs.iter().any(|verb| verbs.contains(verb)))
        .filter(|action| matches!(action.need, Always | Optional) || needs.contains(&action.need))
        .collect()
}
