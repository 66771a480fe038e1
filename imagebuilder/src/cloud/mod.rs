//! The cloud as this program sees it: small traits over plain views.
//!
//! `aws/` is the only folder that names `aws_sdk_*`; `fake.rs` is an in-memory cloud for tests. Nothing here decides.

pub(crate) mod aws;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod fleet;
mod images;
mod instances;
mod keys;
mod owned;
mod parameters;
mod permissions;
mod targets;
mod templates;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

pub(crate) use self::error::{CloudError, Kind};
pub(crate) use self::fleet::{
    Action, Activities, Activity, ActivityOutcome, Fleet, Group, GroupLaunches, GroupMember,
    HealthSource, Hook, HookMoment, IRREVERSIBLE, Lifecycle, MixedFeature, NO_ACTIVE_REFRESH,
    Preferences, REFRESH_IN_PROGRESS, Refresh, RefreshStatus, Size,
};
pub(crate) use self::images::{Image, ImageState, Images, Search, Snapshot};
pub(crate) use self::instances::{
    Ingress, Instance, InstanceState, Instances, KeyPair, Launch, NetworkInterface, Permission,
    SecurityGroup, StatusChecks, Volume,
};
pub(crate) use self::keys::{PublicKey, SigningAlgorithm, SigningKeys};
pub(crate) use self::owned::Owned;
pub(crate) use self::parameters::{Parameter, Parameters};
pub(crate) use self::permissions::{Alarms, InstanceProfile, Permissions, Simulated, Simulation};
pub(crate) use self::targets::{DEFAULT_DRAIN_SECONDS, TargetGroups, TargetHealth};
pub(crate) use self::templates::{
    LaunchTemplates, NewVersion, SavedVersion, Template, TemplateImage, TemplateRef,
    TemplateVersion,
};
use crate::ids::AccountId;

/// What every call answers.
pub(crate) type Answer<T> = Result<T, CloudError>;

/// Tags of a resource.
pub(crate) type Tags = BTreeMap<String, String>;

/// A connection to one region of one account. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Cloud {
    /// The region's name.
    pub(crate) region: String,
    /// The endpoint EC2 is spoken to at, when it is not the region's own.
    pub(crate) ec2_endpoint: Option<String>,
    /// Who we are.
    pub(crate) identity: Arc<dyn Identity>,
    /// AMIs and snapshots.
    pub(crate) images: Arc<dyn Images>,
    /// Instances, and what comes with them.
    pub(crate) instances: Arc<dyn Instances>,
    /// SSM parameters: pointers and the registry.
    pub(crate) parameters: Arc<dyn Parameters>,
    /// Groups and their refreshes.
    pub(crate) fleet: Arc<dyn Fleet>,
    /// Launch templates.
    pub(crate) templates: Arc<dyn LaunchTemplates>,
    /// Target groups.
    pub(crate) targets: Arc<dyn TargetGroups>,
    /// What the caller may do.
    pub(crate) permissions: Arc<dyn Permissions>,
    /// Alarms.
    pub(crate) alarms: Arc<dyn Alarms>,
}

impl fmt::Debug for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cloud")
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

/// Who is calling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The account.
    pub(crate) account: AccountId,
    /// The principal.
    pub(crate) arn: String,
}

/// Keys for a while. Never shown, never written.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// The access key's id.
    pub(crate) access_key_id: String,
    /// The secret.
    pub(crate) secret_access_key: String,
    /// The token of a session, if they are of one.
    pub(crate) session_token: Option<String>,
    /// When they end, if they do.
    pub(crate) expires: Option<jiff::Timestamp>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// Asks who is calling.
#[async_trait]
pub(crate) trait Identity: Send + Sync {
    /// The caller, by STS.
    async fn caller(&self) -> Answer<Caller>;
    /// The caller's keys, for a program that this one starts; `None` when calls are not signed.
    async fn credentials(&self) -> Answer<Option<Credentials>>;
}
