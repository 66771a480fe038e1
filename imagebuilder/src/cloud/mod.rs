//! The cloud as this program sees it: small traits over plain views.
//!
//! `aws/` is the only folder that names `aws_sdk_*`; `fake.rs` is an in-memory cloud for tests. Nothing here decides.

pub(crate) mod aws;
mod clients;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod fleet;
mod identity;
mod images;
mod instances;
mod keys;
mod owned;
mod ownership;
mod parameters;
mod permission;
mod permissions;
mod tags;
mod targets;
mod templates;

pub(crate) use self::clients::Cloud;
pub(crate) use self::error::{Answer, CloudError, ConnectError, Kind};
pub(crate) use self::fleet::{
    Action, Activities, Activity, ActivityOutcome, Fleet, Group, GroupLaunches, GroupMember,
    HealthSource, Hook, HookMoment, IRREVERSIBLE, Lifecycle, MixedFeature, NO_ACTIVE_REFRESH,
    Preferences, REFRESH_IN_PROGRESS, Refresh, RefreshStatus, Size,
};
pub(crate) use self::identity::{Caller, Credentials, Identity};
pub(crate) use self::images::{Image, ImageState, Images, Search, Snapshot};
pub(crate) use self::instances::{
    Ingress, Instance, InstanceState, Instances, KeyPair, Launch, NetworkInterface, SecurityGroup,
    StatusChecks, Volume,
};
pub(crate) use self::keys::{PublicKey, SigningAlgorithm, SigningKeys};
pub(crate) use self::owned::Owned;
pub(crate) use self::parameters::{Parameter, Parameters};
pub(crate) use self::permission::Permission;
pub(crate) use self::permissions::{Alarms, InstanceProfile, Permissions, Simulated, Simulation};
pub(crate) use self::tags::Tags;
pub(crate) use self::targets::{DEFAULT_DRAIN_SECONDS, TargetGroups, TargetHealth};
pub(crate) use self::templates::{
    LaunchTemplates, NewVersion, SavedVersion, Template, TemplateImage, TemplateRef,
    TemplateVersion,
};
