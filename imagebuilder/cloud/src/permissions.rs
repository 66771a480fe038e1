//! The caller's permissions by IAM's simulation, and the states of alarms: read before a command changes anything.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::Answer;

/// The result of IAM's simulation for one action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Simulated {
    /// Allowed.
    Allowed,
    /// A statement denies it.
    Denied,
    /// No statement allows it for these resources.
    NotAllowed,
    /// That depends on these condition keys, which only the real call has.
    Depends(Vec<String>),
}

/// Actions to simulate, with their resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Simulation {
    /// Actions by their names in IAM.
    pub actions: Vec<&'static str>,
    /// ARNs; `*` for an action without resources.
    pub resources: Vec<String>,
    /// Condition keys with their values, all of type string.
    pub context: Vec<(&'static str, String)>,
}

/// An instance profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceProfile {
    /// The ARN of its role; `None` while it has none.
    pub role: Option<String>,
}

/// IAM.
#[async_trait]
pub trait Permissions: Send + Sync {
    /// The ARN of a role, path included; `None` when there is none of this name.
    async fn role(&self, name: &str) -> Answer<Option<String>>;
    /// Simulates actions of a user or role, by its ARN; by action. An error of kind `NotFound`: there is no such principal.
    async fn simulate(
        &self,
        principal: &str,
        simulation: &Simulation,
    ) -> Answer<BTreeMap<String, Simulated>>;
    /// An instance profile; `None` when there is none of this name.
    async fn instance_profile(&self, name: &str) -> Answer<Option<InstanceProfile>>;
}

/// CloudWatch's alarms.
#[async_trait]
pub trait Alarms: Send + Sync {
    /// The states of those that exist, metric and composite: `OK`, `ALARM`, `INSUFFICIENT_DATA`.
    async fn states(&self, names: &[String]) -> Answer<BTreeMap<String, String>>;
}
