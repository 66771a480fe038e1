//! The calls of EC2 that can be asked for by a dry run.

/// A call of EC2 whose permission its own dry run answers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the calls are")]
pub enum Permission {
    DescribeImages,
    DescribeImageAttribute,
    DescribeInstances,
    DescribeInstanceStatus,
    DescribeInstanceTypes,
    DescribeSnapshots,
    DescribeKeyPairs,
    DescribeSecurityGroups,
    DescribeSubnets,
    DescribeVolumes,
    DescribeNetworkInterfaces,
    DescribeVpcs,
    DescribeRegions,
    DescribeLaunchTemplateVersions,
    GetConsoleOutput,
    ImportKeyPair,
    DeleteKeyPair,
    CreateSecurityGroup,
    AuthorizeSecurityGroupIngress,
    DeleteSecurityGroup,
    StopInstances,
    TerminateInstances,
    CreateTags,
    CreateImage,
    ModifyImageAttribute,
    ModifySnapshotAttribute,
    DeregisterImage,
    DeleteSnapshot,
    DeleteVolume,
    DeleteNetworkInterface,
    CreateLaunchTemplateVersion,
    DeleteLaunchTemplateVersions,
}
