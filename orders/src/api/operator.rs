//! The operator: who runs the shop, known by the token of `operator_token_file`, or by the listener of their own.
//!
//! Rule: what names this host, its store or its load is for the operator. On the port that customers reach, it takes the
//! operator's token; on `operator_listen`, which only the operator's network reaches, nothing.

use axum::http::request::Parts;
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

/// Among a request's extensions: it came by the operator's own listener.
#[derive(Debug, Clone, Copy)]
pub(super) struct OperatorsDoor;

/// Whether the request may see metrics and details.
pub(super) fn may_look(settings: &Settings, parts: &Parts) -> bool {
    parts.extensions.get::<OperatorsDoor>().is_some() || is_operator(settings, &parts.headers)
}

/// Lets nobody by but who may see metrics and details.
///
/// # Errors
/// 401 when the request does not prove to be the operator's; 403 while nobody can be.
pub(super) fn require_look(settings: &Settings, parts: &Parts) -> Result<(), Problem> {
    if may_look(settings, parts) {
        return Ok(());
    }
    if settings.operator_token.is_none() {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "metrics are for the operator; they are shown on the setting operator_listen, and here with the \
             token of operator_token_file",
        ));
    }
    Err(Problem::unauthorized(
        "show the operator's token: Authorization: Bearer …",
    ))
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
