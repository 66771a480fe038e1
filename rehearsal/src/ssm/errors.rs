//! What Parameter Store refuses with.

use crate::wire::ApiError;

pub(super) fn not_found() -> ApiError {
    ApiError::new("ParameterNotFound", "")
}

/// Input that does not fit.
pub(super) fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new("ValidationException", message)
}

/// Input that breaks a bound of the API.
pub(super) fn constraint(value: impl std::fmt::Display, field: &str, bound: &str) -> ApiError {
    invalid(format!(
        "1 validation error detected: Value '{value}' at '{field}' failed to satisfy constraint: Member must {bound}"
    ))
}

/// What the rehearsal leaves out is refused by name.
pub(super) fn left_out(what: &str) -> ApiError {
    invalid(format!(
        "{what} is not part of the rehearsal cloud; see docs/fidelity.md"
    ))
}
