//! Parameter Store, the part of Systems Manager that images and fleets use.
//!
//! Owns parameters with their versions and tags, and the calls on them (`AmazonSSM`, JSON 1.1). Of EC2 it reads only
//! whether an image exists, and which base image is the newest, through [`Images`].
//!
//! `names` holds the rules of names, `put` writes, `read` answers, `public` has the public parameters, `tags` handles tags.
//!
//! # Not as on AWS
//!
//! - Parameter policies, allowed patterns, labels, sharing and the data type `aws:ssm:integration` are refused by name.
//!   The rest of Systems Manager is `UnknownOperationException`.
//! - A SecureString is not encrypted; without decryption its value is shown scrambled.
//! - There are no events about changes.
//! - Of the public parameters there are only Debian's, `/aws/service/debian/release/<release>/latest/amd64`, for the base images
//!   that were imported; GetParameter and GetParameters answer them, lists do not contain them.

use jiff::Timestamp;
use serde_json::Value;

use crate::ids::{Id as _, ImageId};
use crate::request::RequestContext;
use crate::wire::ApiError;

mod call;
mod errors;
mod images;
mod names;
mod public;
mod put;
mod read;
mod state;
mod tags;
#[cfg(test)]
mod tests;

use call::Call;
pub(crate) use images::Images;
use state::Kind;
pub(crate) use state::State;

/// Answers one Systems Manager request; see [`crate::cloud`] for the convention. The answer is the
/// whole body.
///
/// # Errors
/// Systems Manager's own errors.
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
        images,
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

/// Ends due validations of images: the image becomes the parameter's value, or is dropped.
pub(crate) fn tick(state: &mut State, images: &dyn Images, now: Timestamp) {
    while state
        .awaited
        .first()
        .is_some_and(|awaited| awaited.due <= now)
    {
        let awaited = state.awaited.remove(0);
        if images.is_available(&ImageId::unchecked(&*awaited.version.value)) {
            state.write(&awaited.name, Kind::String, awaited.version, awaited.tags);
        } else {
            // On AWS this is an EventBridge event; here it is logged.
            tracing::warn!(
                parameter = %awaited.name,
                image = awaited.version.value,
                "the image does not exist or is not available: the parameter keeps its old value"
            );
        }
    }
}
