//! The operator: who runs the shop, known by the token of `operator_token_file`.

use axum::http::{HeaderMap, StatusCode, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::problem::Problem;
use crate::settings::Settings;

/// Whether the request proves to be the operator's.
pub(super) fn is_operator(settings: &Settings, headers: &HeaderMap) -> bool {
    let (Some(token), Some(shown)) = (&settings.operator_token, bearer(headers)) else {
        return false;
    };
    // Of equal length and compared whole: the time it takes says nothing about the token.
    let digest = |text: &[u8]| Sha256::digest(text);
    digest(token.reveal().as_bytes())
        .ct_eq(&digest(shown))
        .into()
}

/// Lets nobody by but the operator.
///
/// # Errors
/// 401 when the request does not prove to be the operator's; 403 while there is no token, so that
/// nobody can be.
pub(super) fn require_operator(settings: &Settings, headers: &HeaderMap) -> Result<(), Problem> {
    if settings.operator_token.is_none() {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "the list of orders is off; it is switched on by the setting operator_token_file",
        ));
    }
    if is_operator(settings, headers) {
        return Ok(());
    }
    Err(Problem::unauthorized(
        "show the operator's token: Authorization: Bearer …",
    ))
}

/// The bearer token of the request, if it has exactly one.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else {
        return None;
    };
    let (scheme, token) = value.as_bytes().split_at_checked("bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii())
}
