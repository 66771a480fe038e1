//! Parameter Store, the part of Systems Manager that images and fleets meet.
//!
//! Owns parameters with their versions and tags, and the calls on them (`AmazonSSM`, JSON 1.1). It
//! knows of EC2 only whether an image is there, through [`Images`].
//!
//! `names` holds the rules of names, `put` writes, `read` answers, `tags` labels.
//!
//! # Not as on AWS
//!
//! - Parameter policies, allowed patterns, labels, sharing and the data type `aws:ssm:integration` are
//!   refused by name. What else Systems Manager does is `UnknownOperationException`.
//! - A SecureString is not encrypted; without decryption its value is shown scrambled.
//! - Nobody is told of changes: there are no events.

use jiff::Timestamp;
use serde_json::Value;

use crate::request::RequestContext;
use crate::wire::ApiError;

mod call;
mod errors;
mod names;
mod put;
mod read;
mod state;
mod tags;
#[cfg(test)]
mod tests;

use call::Call;
use state::Kind;
pub(crate) use state::State;

/// What Parameter Store may ask of EC2.
pub(crate) trait Images {
    /// Whether there is such an image, and it is available.
    fn is_available(&self, image_id: &str) -> bool;
}

/// Answers one Systems Manager request; see [`crate::cloud`] for the convention. The answer is the
/// whole body.
///
/// # Errors
/// What Systems Manager itself would say.
pub(crate) fn handle(
    state: &mut State,
    images: &dyn Images,
    ctx: &RequestContext,
    action: &str,
    body: &Value,
) -> Result<Value, ApiError> {
    tick(state, images, ctx.now);
    let call = &mut Call {
        state,
        now: ctx.now,
        body,
    };
    match action {
        "PutParameter" => put::put(call),
        "DeleteParameter" => put::delete(call),
        "DeleteParameters" => put::delete_several(call),
        "GetParameter" => read::get(call),
        "GetParameters" => read::get_several(call),
        "GetParametersByPath" => read::by_path(call),
        "GetParameterHistory" => read::history(call),
        "DescribeParameters" => read::describe(call),
        "AddTagsToResource" => tags::add(call),
        "ListTagsForResource" => tags::list(call),
        "RemoveTagsFromResource" => tags::remove(call),
        _ => Err(ApiError::new(
            "UnknownOperationException",
            format!("The action {action} is not part of the rehearsal cloud; see docs/fidelity.md"),
        )),
    }
}

/// Lets time pass: images whose validation is over become the value, or are dropped.
pub(crate) fn tick(state: &mut State, images: &dyn Images, now: Timestamp) {
    while state
        .awaited
        .first()
        .is_some_and(|awaited| awaited.due <= now)
    {
        let awaited = state.awaited.remove(0);
        if images.is_available(&awaited.version.value) {
            state.write(&awaited.name, Kind::String, awaited.version, awaited.tags);
        } else {
            // On AWS an EventBridge event says so; here the log does.
            tracing::warn!(
                parameter = awaited.name,
                image = awaited.version.value,
                "the image is not there or not available: the parameter keeps its old value"
            );
        }
    }
}
