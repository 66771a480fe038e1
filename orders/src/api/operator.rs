//! The operator, identified by the token of `operator_token_file` or by the operator's own listener.
//!
//! Rule: what reveals this host, its store or its load is for the operator only. The customers' port requires
//! the operator's token; `operator_listen`, which only the operator's network reaches, does not.

use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::problem::Problem;
use crate::settings::Settings;

/// Whether the request has the operator's token.
pub(super) fn is_operator(settings: &Settings, headers: &HeaderMap) -> bool {
    let (Some(token), Some(shown)) = (&settings.operator_token, bearer(headers)) else {
        return false;
    };
    // Digests have equal length and are compared in constant time, so timing reveals nothing about the token.
    let digest = |text: &[u8]| Sha256::digest(text);
    digest(token.reveal().as_bytes())
        .ct_eq(&digest(shown))
        .into()
}

/// Request extension: the request came through the operator's listener.
#[derive(Debug, Clone, Copy)]
pub(super) struct OperatorListener;

/// Whether the request may see metrics and details.
pub(super) fn may_see_details(settings: &Settings, parts: &Parts) -> bool {
    parts.extensions.get::<OperatorListener>().is_some() || is_operator(settings, &parts.headers)
}

/// Refuses a request that may not see metrics and details.
///
/// # Errors
/// 401 without the operator's token; 403 if no token is configured.
pub(super) fn require_details_access(settings: &Settings, parts: &Parts) -> Result<(), Problem> {
    if may_see_details(settings, parts) {
        return Ok(());
    }
    if settings.operator_token.is_none() {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "metrics are for the operator: served on operator_listen, and here with the \
             token of operator_token_file",
        ));
    }
    Err(Problem::unauthorized(
        "send the operator's token: Authorization: Bearer …",
    ))
}

/// Refuses a request that is not the operator's.
///
/// # Errors
/// 401 without the operator's token; 403 if no token is configured.
pub(super) fn require_operator(settings: &Settings, headers: &HeaderMap) -> Result<(), Problem> {
    if settings.operator_token.is_none() {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "the list of orders is off; the setting operator_token_file turns it on",
        ));
    }
    if is_operator(settings, headers) {
        return Ok(());
    }
    Err(Problem::unauthorized(
        "send the operator's token: Authorization: Bearer …",
    ))
}

/// The request's bearer token, if it has exactly one Authorization header.
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
