//! Every service of one region of one account, behind its trait.

use std::fmt;
use std::sync::Arc;

use super::{
    Alarms, Fleet, Identity, Images, Instances, LaunchTemplates, Parameters, Permissions,
    TargetGroups,
};

/// A connection to one region of one account. Cheap to clone.
#[derive(Clone)]
pub struct Cloud {
    /// The region's name.
    pub region: String,
    /// The endpoint of EC2, when it is not the region's own.
    pub ec2_endpoint: Option<String>,
    /// The caller's identity.
    pub identity: Arc<dyn Identity>,
    /// AMIs and snapshots.
    pub images: Arc<dyn Images>,
    /// Instances, and what is created for them.
    pub instances: Arc<dyn Instances>,
    /// SSM parameters: pointers and the registry.
    pub parameters: Arc<dyn Parameters>,
    /// Groups and their refreshes.
    pub fleet: Arc<dyn Fleet>,
    /// Launch templates.
    pub templates: Arc<dyn LaunchTemplates>,
    /// Target groups.
    pub targets: Arc<dyn TargetGroups>,
    /// What the caller may do.
    pub permissions: Arc<dyn Permissions>,
    /// Alarms.
    pub alarms: Arc<dyn Alarms>,
}

impl fmt::Debug for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cloud")
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}
