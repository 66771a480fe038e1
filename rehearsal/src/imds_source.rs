//! The data that the instance metadata service serves.

use std::collections::BTreeMap;

use crate::ids::{ImageId, InstanceId};

/// The data of an instance's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImdsFacts {
    /// Its id.
    pub(crate) instance_id: InstanceId,
    /// The AMI it runs.
    pub(crate) image_id: ImageId,
    /// e.g. `t3.micro`
    pub(crate) instance_type: String,
    /// e.g. `us-east-1`
    pub(crate) region: String,
    /// e.g. `us-east-1a`
    pub(crate) zone: String,
    /// 12 digits.
    pub(crate) account_id: String,
    /// Its address as text.
    pub(crate) private_ip: String,
    /// `x86_64` or `arm64`.
    pub(crate) architecture: String,
    /// RFC 3339 launch time.
    pub(crate) pending_time: String,
    /// Raw user data, decoded from base64; empty answers 404.
    pub(crate) user_data: Vec<u8>,
    /// OpenSSH public keys by key-pair name.
    pub(crate) public_keys: BTreeMap<String, String>,
    /// The instance profile's role name and its temporary credentials; `None` answers 404.
    pub(crate) role: Option<RoleCredentials>,
    /// `autoscaling/target-lifecycle-state`; `None` (not in a group, or not set yet) answers 404.
    pub(crate) target_lifecycle_state: Option<String>,
    /// Whether it is a Spot Instance.
    pub(crate) spot: bool,
    /// What is announced for it.
    pub(crate) notices: Notices,
    /// Tags, when InstanceMetadataTags is enabled; `None` answers 404.
    pub(crate) tags: Option<BTreeMap<String, String>>,
    /// Whether a token is required (HttpTokens=required).
    pub(crate) tokens_required: bool,
    /// The port of the cloud's endpoint, for the guest's first-boot script: not part of real IMDS
    /// (`meta-data/services/rehearsal-port`), see docs/fidelity.md.
    pub(crate) endpoint_port: u16,
}

/// What EC2 announces for an instance ahead of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Notices {
    /// `spot/instance-action`: the action and its time, RFC 3339; `None` answers 404.
    pub(crate) spot: Option<(String, String)>,
    /// `events/recommendations/rebalance`: since when, RFC 3339; `None` answers 404.
    pub(crate) rebalance: Option<String>,
    /// `events/maintenance/scheduled`: an event's code, id, and when it begins and ends, as IMDS spells it.
    pub(crate) event: Option<[String; 4]>,
}

/// Temporary credentials of an instance profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RoleCredentials {
    /// The role's name.
    pub(crate) role: String,
    /// `ASIA…`
    pub(crate) access_key_id: String,
    /// The secret.
    pub(crate) secret_access_key: String,
    /// The session token.
    pub(crate) token: String,
    /// RFC 3339.
    pub(crate) expiration: String,
}

/// The cloud, for IMDS.
pub(crate) trait ImdsSource: Send + Sync {
    /// The instance's data, or `None` when it is terminated.
    fn facts(&self, instance_id: &InstanceId) -> Option<ImdsFacts>;
}
