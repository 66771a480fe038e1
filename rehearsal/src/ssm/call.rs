//! One request, and what all calls share.

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::errors::constraint;
use super::images::Images;
use super::state::State;
use crate::account::{ACCOUNT, REGION};
use crate::wire::ApiError;

/// One request, and everything it may read or change.
pub(super) struct Call<'a> {
    pub(super) state: &'a mut State,
    pub(super) images: &'a dyn Images,
    pub(super) now: Timestamp,
    pub(super) body: &'a Value,
}

impl Call<'_> {
    /// The request, deserialized.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        T::deserialize(self.body)
            .map_err(|error| ApiError::new("SerializationException", error.to_string()))
    }
}

pub(super) fn arn(name: &str) -> String {
    let slash = if name.starts_with('/') { "" } else { "/" };
    format!("arn:aws:ssm:{REGION}:{ACCOUNT}:parameter{slash}{name}")
}

/// A timestamp in the JSON protocol: seconds since the epoch.
pub(super) fn seconds(at: Timestamp) -> Value {
    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds since 1970 fit a double for 285,000 years"
    )]
    let seconds = at.as_millisecond() as f64 / 1000.0;
    json!(seconds)
}

/// The page of `items` by NextToken and MaxResults, with the token of the next page.
pub(super) fn page<T>(
    items: Vec<T>,
    asked: Option<usize>,
    most: usize,
    token: Option<&str>,
) -> Result<(Vec<T>, Option<String>), ApiError> {
    let size = asked.unwrap_or(most);
    if size == 0 {
        return Err(constraint(
            size,
            "maxResults",
            "have value greater than or equal to 1",
        ));
    }
    if size > most {
        let bound = format!("have value less than or equal to {most}");
        return Err(constraint(size, "maxResults", &bound));
    }
    let from = match token.filter(|token| !token.is_empty()) {
        None => 0,
        Some(token) => token
            .strip_prefix("from-")
            .and_then(|from| from.parse::<usize>().ok())
            .filter(|from| *from <= items.len())
            .ok_or_else(|| {
                ApiError::new("InvalidNextToken", "The specified token is not valid.")
            })?,
    };
    let next = (items.len() > from + size).then(|| format!("from-{}", from + size));
    Ok((items.into_iter().skip(from).take(size).collect(), next))
}
