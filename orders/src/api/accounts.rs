//! Customers' accounts over HTTP: who asks.
//!
//! A customer is known by a session: its token comes in a cookie (browsers) or as a bearer token
//! (programs). A cookie goes along by itself, so it counts only for requests that our own page made;
//! a bearer token is sent on purpose and needs no such proof.

use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};

use super::{STORE_TIMEOUT, Shop, within};
use crate::accounts::SessionToken;
use crate::order::AccountId;
use crate::problem::Problem;

/// The cookie's name over TLS: the prefix makes browsers refuse it from anybody but this host.
const SECURE_COOKIE: &str = "__Host-shop_session";
/// The cookie's name over plain HTTP, where browsers take no `__Host-` ones.
const PLAIN_COOKIE: &str = "shop_session";

/// Who asks: the account whose session comes with the request, if one does. `None` is everybody
/// else, and everybody while accounts are off; bearer tokens of other kinds are not judged here.
///
/// # Errors
/// 401 when the session has ended: whoever believes to be logged in must not be served as a
/// stranger. 403 when another site made the request. 503 when the sessions cannot be read.
pub(super) async fn customer(shop: &Shop, parts: &Parts) -> Result<Option<AccountId>, Problem> {
    let Some(desk) = &shop.desk else {
        return Ok(None);
    };
    let token = if let Some(token) = bearer(&parts.headers) {
        token
    } else if let Some(token) = cookie(&parts.headers) {
        if !matches!(parts.method, Method::GET | Method::HEAD) {
            from_our_page(&parts.headers)?;
        }
        token
    } else {
        return Ok(None);
    };
    let session = match SessionToken::parse(token) {
        None => None,
        Some(token) => within(STORE_TIMEOUT, desk.session(&token))
            .await
            .map_err(|error| {
                tracing::error!(error = format!("{error:#}"), "session not read");
                shop.readiness.doubt();
                Problem::try_again(2, "your session could not be looked up just now")
            })?,
    };
    session.map(Some).ok_or_else(|| {
        Problem::new(
            StatusCode::UNAUTHORIZED,
            "your session has ended; log in again",
        )
    })
}

/// A bearer token that means to be a session's.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && token.starts_with(SessionToken::PREFIX))
        .then_some(token)
}

/// The session's cookie. Over TLS only the one that no neighbouring host can have set.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let wanted = cookie_name(headers);
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, value)| (name == wanted && !value.is_empty()).then_some(value))
}

/// The cookie's name for how this request came. What a balancer says of TLS is believed: one who
/// lies about it changes the name of his own cookie.
fn cookie_name(headers: &HeaderMap) -> &'static str {
    let proto = headers
        .get("x-forwarded-proto")
        .map(|value| value.as_bytes());
    if proto.is_some_and(|proto| proto.eq_ignore_ascii_case(b"https")) {
        SECURE_COOKIE
    } else {
        PLAIN_COOKIE
    }
}

/// Refuses what another site made a browser send. Browsers say where a request comes from in
/// `Sec-Fetch-Site`, old ones in `Origin`; programs say neither, and nobody can be tricked into
/// running one. The cookie's `SameSite=Strict` stands before this; it knows sites, not hosts.
fn from_our_page(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let ours = match (text("sec-fetch-site"), text("origin")) {
        (Some(site), _) => site == "same-origin" || site == "none",
        (None, Some(origin)) => {
            let host = origin.split_once("://").map(|(_, host)| host);
            host.is_some() && host == text("host")
        }
        (None, None) => true,
    };
    if ours {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "this request came from another site",
    ))
}
