//! An instance's data for its metadata service, from the cloud's state.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};

use crate::account::{ACCOUNT, REGION};
use crate::autoscaling;
use crate::cloud::Cloud;
use crate::ec2::instances::Instance;
use crate::ids::InstanceId;
use crate::imds_source::{ImdsFacts, ImdsSource, RoleCredentials};

/// How long role credentials are valid. Nothing here checks them; SDKs renew them in time.
const CREDENTIALS_LAST: SignedDuration = SignedDuration::from_hours(6);

/// The cloud as the source of metadata.
pub(crate) struct Metadata {
    cloud: Arc<Cloud>,
    endpoint_port: u16,
}

impl Metadata {
    /// Metadata of `cloud`, whose endpoint is at port `endpoint_port`.
    pub(crate) fn new(cloud: Arc<Cloud>, endpoint_port: u16) -> Self {
        Self {
            cloud,
            endpoint_port,
        }
    }
}

impl ImdsSource for Metadata {
    fn facts(&self, instance_id: &InstanceId) -> Option<ImdsFacts> {
        self.cloud.read(|state, now| {
            let ec2 = &state.region.ec2;
            let instance = ec2.instances.get(instance_id)?;
            if !instance.is_alive() || instance.metadata.endpoint != "enabled" {
                return None;
            }
            let tags = (instance.metadata.tags == "enabled").then(|| {
                ec2.tags
                    .get(instance_id.as_str())
                    .cloned()
                    .unwrap_or_default()
            });
            let user_data = instance.user_data.as_deref().unwrap_or_default();
            Some(ImdsFacts {
                instance_id: instance.id.clone(),
                image_id: instance.image.clone(),
                instance_type: instance.kind.clone(),
                region: REGION.to_owned(),
                zone: instance.zone.clone(),
                account_id: ACCOUNT.to_owned(),
                private_ip: instance.address.to_string(),
                architecture: instance.architecture.clone(),
                pending_time: instance.launched.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                // Known to be base64: it was checked on arrival.
                user_data: STANDARD.decode(user_data).unwrap_or_default(),
                public_keys: instance
                    .key
                    .clone()
                    .zip(instance.public_key.clone())
                    .into_iter()
                    .collect(),
                role: role(instance, now),
                target_lifecycle_state: autoscaling::target_lifecycle_state(
                    &state.autoscaling,
                    instance_id,
                ),
                spot: instance.spot().is_some(),
                notices: state.region.faults.notices(instance_id),
                tags,
                tokens_required: instance.metadata.tokens == "required",
                endpoint_port: self.endpoint_port,
            })
        })
    }
}

/// Generated credentials: any are accepted here. They change hourly, which reveals clients that never renew theirs.
fn role(instance: &Instance, now: Timestamp) -> Option<RoleCredentials> {
    let role = instance.profile.clone()?;
    let hour = now.as_second() / 3600;
    let issued = Timestamp::from_second(hour * 3600).unwrap_or(now);
    let serial = instance
        .id
        .as_str()
        .trim_start_matches("i-0")
        .to_ascii_uppercase();
    Some(RoleCredentials {
        role,
        access_key_id: format!("ASIA{serial}"),
        secret_access_key: format!("rehearsal/{serial}/{hour}"),
        token: format!("rehearsal-{}-{hour}", instance.id),
        expiration: (issued + CREDENTIALS_LAST)
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string(),
    })
}
