//! Auto Scaling: groups, hooks, activities and instance refreshes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cloud::RequestContext;
use crate::wire::{ApiError, Params, Xml};

pub(crate) mod world;

use world::World;

/// Everything Auto Scaling remembers.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct State {}

/// Answers one Auto Scaling request; see [`crate::cloud`] for the convention.
///
/// # Errors
/// What Auto Scaling itself would say.
pub(crate) fn handle(
    _state: &mut State,
    _world: &mut dyn World,
    _ctx: &RequestContext,
    action: &str,
    _params: &Params,
) -> Result<Xml, ApiError> {
    Err(ApiError::invalid_action(action))
}

/// Moves every group and refresh as far as it can go now.
pub(crate) fn tick(_state: &mut State, _world: &mut dyn World, _now: Timestamp) {}

/// What IMDS shows as `autoscaling/target-lifecycle-state`.
pub(crate) fn target_lifecycle_state(_state: &State, _instance_id: &str) -> Option<String> {
    None
}
