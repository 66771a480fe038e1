//! The cloud as imagebuilder sees it: small traits over plain views.
//!
//! `aws/` is the only folder that names `aws_sdk_*`; feature `testing` adds an in-memory AWS. Nothing here decides.

mod arch;
pub mod aws;
mod clients;
mod error;
mod fleet;
mod identity;
pub mod ids;
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
#[cfg(any(test, feature = "testing"))]
#[expect(
    clippy::unwrap_used,
    reason = "its callers are tests, which fail by panicking"
)]
pub mod testing;

pub use self::arch::Arch;
pub use self::clients::Cloud;
pub use self::error::{Answer, CloudError, ConnectError, Kind};
pub use self::fleet::{
    Action, Activities, Activity, ActivityOutcome, Fleet, Group, GroupLaunches, GroupMember,
    HealthSource, Hook, HookMoment, IRREVERSIBLE, Lifecycle, MixedFeature, NO_ACTIVE_REFRESH,
    Preferences, REFRESH_IN_PROGRESS, Refresh, RefreshStatus, Size,
};
pub use self::identity::{Caller, Credentials, Identity};
pub use self::images::{Disk, Image, ImageState, Images, Search, Snapshot};
pub use self::instances::{
    Ingress, Instance, InstanceState, Instances, KeyPair, Launch, LaunchDisk, NetworkInterface,
    SecurityGroup, StatusChecks, Tokens, Volume,
};
pub use self::keys::{PublicKey, SigningAlgorithm, SigningKeys};
pub use self::owned::Owned;
pub use self::parameters::{Parameter, Parameters};
pub use self::permission::Permission;
pub use self::permissions::{Alarms, InstanceProfile, Permissions, Simulated, Simulation};
pub use self::tags::Tags;
pub use self::targets::{DEFAULT_DRAIN_SECONDS, TargetGroups, TargetHealth};
pub use self::templates::{
    LaunchTemplates, NewVersion, SavedVersion, Template, TemplateImage, TemplateRef,
    TemplateVersion,
};
