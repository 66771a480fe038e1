//! Client tokens: a request that is repeated with the same token gets the first answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::wire::{ApiError, Params};

/// A ClientToken that was used before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UsedToken {
    /// The parameters of the request.
    asked: BTreeMap<String, String>,
    /// The ids of what it created: instances, or an image.
    pub(crate) made: Vec<String>,
}

impl UsedToken {
    /// A token of a request with the parameters `asked` that created `made`.
    pub(crate) fn new(asked: BTreeMap<String, String>, made: &[impl ToString]) -> Self {
        Self {
            asked,
            made: made.iter().map(ToString::to_string).collect(),
        }
    }

    /// The result of a repeated request.
    ///
    /// # Errors
    /// `IdempotentParameterMismatch` when its parameters differ.
    pub(crate) fn repeat(&self, asked: &BTreeMap<String, String>) -> Result<&[String], ApiError> {
        if self.asked == *asked {
            return Ok(&self.made);
        }
        Err(ApiError::new(
            "IdempotentParameterMismatch",
            "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
        ))
    }
}

/// All parameters of a request, to compare it with a repeated one.
pub(crate) fn request_parameters(params: &Params) -> BTreeMap<String, String> {
    params
        .iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
