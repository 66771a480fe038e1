//! Errors of Parameter Store.

use crate::wire::ApiError;

pub(super) fn not_found() -> ApiError {
    ApiError::new("ParameterNotFound", "")
}

/// Invalid input.
pub(super) fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new("ValidationException", message)
}

/// Input that violates a constraint of the API.
pub(super) fn constraint(value: impl std::fmt::Display, field: &str, bound: &str) -> ApiError {
    invalid(format!(
        "1 validation error detected: Value '{value}' at '{field}' failed to satisfy constraint: Member must {bound}"
    ))
}

/// The error for a feature that is not supported here.
pub(super) fn left_out(what: &str) -> ApiError {
    invalid(format!(
        "{what} is not part of the rehearsal cloud; see docs/fidelity.md"
    ))
}
