//! Every API action that a command needs, in one table. The rule: *whatever a command will call is asked for before its
//! first change* ([`preflight`](crate::preflight)), so nothing may be called that is not in here.
//!
//! `docs/operating.md` and `docs/roll.md` list the same for people; a test holds them together.

use crate::cloud::Permission;

/// Who makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// `bake`.
    Bake,
    /// Packer, in a `bake`.
    Packer,
    /// `roll`, and with it `roll rollback` after the end of a refresh.
    Roll,
    /// `roll watch`.
    Watch,
    /// `roll rollback` of an active refresh.
    Rollback,
    /// `reap`.
    Reap,
}

/// When a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// In every run, or to undo one.
    Always,
    /// The command does without: it explains a failure, or only checks something earlier.
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
}

/// What an action's resource is, as far as policies can name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    /// IAM knows no resource of it: `*`.
    Any,
    /// Something of EC2 that is not there yet: `arn:aws:ec2:REGION:ACCOUNT:KIND/…`.
    Ec2(&'static str),
    /// The parameters `/imagebuilder/IMAGE/…`.
    Parameters,
    /// The Auto Scaling group.
    Group,
    /// The role of an instance profile.
    Role,
    /// The instance profile.
    Profile,
    /// The key of `[bake] kms_key`.
    Key,
}

/// How a permission is asked for. Where that gives no answer, IAM's simulation is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// By the call's own dry run.
    DryRun(Permission),
    /// By the dry run of a whole launch, which needs several.
    Launch,
    /// By IAM's simulation alone.
    Simulation,
}

/// One API action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Action {
    /// Its name in IAM, e.g. `ec2:RunInstances`.
    pub(crate) name: &'static str,
    /// Who calls it.
    pub(crate) verbs: &'static [Verb],
    /// When.
    pub(crate) need: Need,
    /// Of what.
    pub(crate) resource: Resource,
    /// How its permission is asked for.
    pub(crate) asked: Asked,
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

use Need::{Always, Key, Optional, Pin, Profile, Shares, Targets};
use Permission as P;
use Resource::{Any, Ec2, Group, Parameters, Role};
use Verb::{Bake, Packer, Reap, Roll, Rollback, Watch};

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

/// Looking at a fleet.
const FLEET: &[Verb] = &[Roll, Watch, Rollback];
/// All that look at images and instances.
const ALL: &[Verb] = &[Bake, Packer, Roll, Watch, Rollback, Reap];
/// What a bake makes is removed by it, and by `reap`.
const OURS: &[Verb] = &[Bake, Reap];
/// Ours and Packer's.
const BOTH: &[Verb] = &[Bake, Packer, Reap];

/// All of them.
#[rustfmt::skip]
pub(crate) const ACTIONS: &[Action] = &[
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
    ec2("ec2:GetConsoleOutput", &[Bake, Roll, Watch, Rollback], Optional, Ec2("instance"), P::GetConsoleOutput),
    ec2("ec2:ImportKeyPair", &[Bake], Always, Ec2("key-pair"), P::ImportKeyPair),
    ec2("ec2:DeleteKeyPair", OURS, Always, Ec2("key-pair"), P::DeleteKeyPair),
    ec2("ec2:CreateSecurityGroup", &[Bake], Always, Ec2("security-group"), P::CreateSecurityGroup),
    ec2("ec2:AuthorizeSecurityGroupIngress", &[Bake], Always, Ec2("security-group"), P::AuthorizeSecurityGroupIngress),
    ec2("ec2:DeleteSecurityGroup", OURS, Always, Ec2("security-group"), P::DeleteSecurityGroup),
    action("ec2:RunInstances", &[Bake, Packer, Roll], Always, Ec2("instance"), Asked::Launch),
    ec2("ec2:StopInstances", &[Packer], Always, Ec2("instance"), P::StopInstances),
    ec2("ec2:TerminateInstances", BOTH, Always, Ec2("instance"), P::TerminateInstances),
    ec2("ec2:CreateTags", &[Bake, Packer], Always, Ec2("instance"), P::CreateTags),
    ec2("ec2:CreateImage", &[Packer], Always, Ec2("image"), P::CreateImage),
    ec2("ec2:ModifyImageAttribute", &[Bake, Packer], Shares, Ec2("image"), P::ModifyImageAttribute),
    ec2("ec2:DeregisterImage", OURS, Always, Ec2("image"), P::DeregisterImage),
    ec2("ec2:DeleteSnapshot", OURS, Always, Ec2("snapshot"), P::DeleteSnapshot),
    ec2("ec2:DeleteVolume", BOTH, Always, Ec2("volume"), P::DeleteVolume),
    ec2("ec2:DeleteNetworkInterface", OURS, Always, Ec2("network-interface"), P::DeleteNetworkInterface),
    ec2("ec2:CreateLaunchTemplateVersion", &[Roll], Always, Ec2("launch-template"), P::CreateLaunchTemplateVersion),
    ec2("ec2:DeleteLaunchTemplateVersions", &[Roll, Watch], Optional, Ec2("launch-template"), P::DeleteLaunchTemplateVersions),
    action("iam:PassRole", &[Bake, Roll], Profile, Role, Asked::Launch),
    other("iam:GetInstanceProfile", &[Bake], Optional, Resource::Profile),
    other("ssm:GetParameter", &[Bake, Roll, Watch, Rollback, Reap], Always, Parameters),
    other("ssm:PutParameter", &[Bake, Roll, Watch], Always, Parameters),
    other("ssm:DeleteParameter", OURS, Always, Parameters),
    other("ssm:GetParameters", FLEET, Optional, Parameters),
    other("autoscaling:DescribeAutoScalingGroups", FLEET, Always, Any),
    other("autoscaling:DescribeLifecycleHooks", FLEET, Always, Any),
    other("autoscaling:DescribeInstanceRefreshes", FLEET, Always, Any),
    other("autoscaling:DescribeScalingActivities", FLEET, Always, Any),
    other("autoscaling:StartInstanceRefresh", &[Roll], Always, Group),
    other("autoscaling:RollbackInstanceRefresh", FLEET, Always, Group),
    other("autoscaling:CancelInstanceRefresh", FLEET, Always, Group),
    other("autoscaling:UpdateAutoScalingGroup", &[Roll], Pin, Group),
    other("elasticloadbalancing:DescribeTargetHealth", FLEET, Targets, Any),
    other("elasticloadbalancing:DescribeTargetGroupAttributes", FLEET, Optional, Any),
    other("cloudwatch:DescribeAlarms", &[Roll], Optional, Any),
    other("kms:CreateGrant", &[Packer], Key, Resource::Key),
    other("kms:Decrypt", &[Packer], Key, Resource::Key),
    other("kms:DescribeKey", &[Packer], Key, Resource::Key),
    other("kms:GenerateDataKeyWithoutPlaintext", &[Packer], Key, Resource::Key),
    other("kms:ReEncryptFrom", &[Packer], Key, Resource::Key),
    other("kms:ReEncryptTo", &[Packer], Key, Resource::Key),
];

/// What `verbs` need where each of `needs` is the case, besides what is always needed.
pub(crate) fn needed(verbs: &[Verb], needs: &[Need]) -> Vec<&'static Action> {
    ACTIONS
        .iter()
        .filter(|action| action.verbs.iter().any(|verb| verbs.contains(verb)))
        .filter(|action| matches!(action.need, Always | Optional) || needs.contains(&action.need))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The actions that a table's row names: `service:Action`, then further ones of the same service.
    fn named(row: &str) -> BTreeSet<String> {
        let mut service = "";
        let mut found = BTreeSet::new();
        for text in row.split('`').skip(1).step_by(2) {
            let name = match text.split_once(':') {
                Some((before, name)) => {
                    service = before;
                    name
                }
                None => text,
            };
            let is_action = name.starts_with(|c: char| c.is_ascii_uppercase())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '*');
            if is_action && !service.is_empty() {
                found.insert(format!("{service}:{name}"));
            }
        }
        found
    }

    fn documented(page: &str, rows: &[&str]) -> BTreeSet<String> {
        let (_, section) = page.split_once("## Permissions").unwrap();
        let section = section.split("\n## ").next().unwrap();
        let mut found = BTreeSet::new();
        for row in rows {
            let start = format!("| {row}");
            let mut lines = section.lines().filter(|line| line.starts_with(&start));
            let line = lines.next().unwrap_or_else(|| panic!("no row {row}"));
            found.extend(named(line.split_once(" | ").unwrap().1));
        }
        found
    }

    fn of(verbs: &[Verb]) -> BTreeSet<String> {
        let all = ACTIONS.iter();
        all.filter(|action| action.verbs.iter().any(|verb| verbs.contains(verb)))
            .map(|action| match action.name {
                "kms:ReEncryptFrom" | "kms:ReEncryptTo" => "kms:ReEncrypt*".to_owned(),
                name => name.to_owned(),
            })
            .collect()
    }

    #[test]
    fn the_documented_permissions_are_those_of_the_table() {
        let operating = include_str!("../../docs/operating.md");
        let roll = include_str!("../../docs/roll.md");
        assert_eq!(documented(operating, &["`bake`: ours"]), of(&[Bake]));
        assert_eq!(documented(operating, &["`bake`: Packer"]), of(&[Packer]));
        let rows = [
            "looking",
            "rolling",
            "`--pin-first`",
            "alarms",
            "what lost instances",
        ];
        assert_eq!(documented(roll, &rows), of(&[Roll, Watch, Rollback]));
        assert!(of(&[Reap]).is_subset(&of(&[Bake])));
    }

    #[test]
    fn a_dry_run_is_of_the_action_that_it_answers_for() {
        let mut names = BTreeSet::new();
        for action in ACTIONS {
            assert!(names.insert(action.name), "{} twice", action.name);
            if let Asked::DryRun(permission) = action.asked {
                assert_eq!(action.name, format!("ec2:{permission:?}"));
            }
        }
    }
}
