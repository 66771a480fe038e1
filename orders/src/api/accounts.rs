//! Customers' accounts over HTTP: register, log in, log out, list one's orders; and authentication of
//! requests.
//!
//! A customer is identified by a session token, in a cookie (browsers) or as a bearer token (programs).
//! Browsers send cookies with requests of any site, so a cookie is accepted only for requests that our own
//! page made; a bearer token is always sent on purpose. Must never log a login, a password or a token.

use std::time::Duration;

use axum::extract::{RawQuery, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::Form;
use super::shop::{STORE_TIMEOUT, Shop, within};
use crate::accounts::{
    AccountService, DEVICE_LIFETIME, DeviceToken, Origin, Refusal, SESSION_LIFETIME, Session,
    SessionToken,
};
use crate::caller::Caller;
use crate::order::{AccountId, OrderId};
use crate::problem::Problem;
use support::one_line;

/// Orders per page by default.
const DEFAULT_LIMIT: usize = 20;
/// Most orders per page: 2 MB if all their fields have the maximum length.
const LARGEST_LIMIT: usize = 100;

/// The module's routes; none if accounts are off.
pub(super) fn router(shop: &Shop) -> Router<Shop> {
    if shop.accounts.is_none() {
        return Router::new();
    }
    Router::new()
        .route("/account", post(register))
        .route("/account/orders", get(own_orders))
        .route("/session", get(who_am_i).post(log_in).delete(log_out))
}

/// The body of a request to register or log in.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Credentials {
    login: String,
    password: String,
    /// Whether to return the token in the body instead of setting a cookie.
    #[serde(default)]
    bearer: bool,
}

async fn register(State(shop): State<Shop>, request: Request) -> Result<Response, Problem> {
    let (parts, given) = credentials(&shop, request).await?;
    let accounts = account_service(&shop)?;
    let origin = origin(&shop, &parts);
    let session = with_timeout(
        &shop,
        accounts.register(&given.login, &given.password, &origin),
    )
    .await?;
    tracing::info!("account registered");
    Ok(session_response(
        &shop,
        StatusCode::CREATED,
        &parts.headers,
        &session,
        given.bearer,
    ))
}

async fn log_in(State(shop): State<Shop>, request: Request) -> Result<Response, Problem> {
    let (parts, given) = credentials(&shop, request).await?;
    let accounts = account_service(&shop)?;
    let origin = origin(&shop, &parts);
    let session = with_timeout(
        &shop,
        accounts.log_in(&given.login, &given.password, &origin),
    )
    .await?;
    Ok(session_response(
        &shop,
        StatusCode::OK,
        &parts.headers,
        &session,
        given.bearer,
    ))
}

/// Ends the request's session. Without a session there is nothing to do.
async fn log_out(State(shop): State<Shop>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    if let Some(token) = token(&shop, &parts)?.and_then(SessionToken::parse) {
        let accounts = account_service(&shop)?;
        with_timeout(&shop, async { Ok(accounts.log_out(&token).await?) }).await?;
    }
    let expired = SESSION_COOKIE.set(&shop, &parts.headers, "", Duration::ZERO);
    Ok((
        StatusCode::NO_CONTENT,
        private(),
        [(header::SET_COOKIE, expired)],
    )
        .into_response())
}

/// The login of the request's session, or null. Not an error without one: the page requests this for every
/// visitor.
async fn who_am_i(State(shop): State<Shop>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let login = match customer(&shop, &parts).await {
        Ok(Some(account)) => {
            let accounts = account_service(&shop)?;
            with_timeout(&shop, async { Ok(accounts.login(account).await?) }).await?
        }
        Ok(None) => None,
        Err(problem) if problem.status() == StatusCode::UNAUTHORIZED => {
            // If the browser kept the cookie, every order would be refused.
            let expired = [(
                header::SET_COOKIE,
                SESSION_COOKIE.set(&shop, &parts.headers, "", Duration::ZERO),
            )];
            return Ok((private(), expired, Json(json!({ "login": null }))).into_response());
        }
        Err(problem) => return Err(problem),
    };
    Ok((private(), Json(json!({ "login": login }))).into_response())
}

/// The customer's own orders, newest first, page by page.
async fn own_orders(
    State(shop): State<Shop>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let account = customer(&shop, &parts)
        .await?
        .ok_or_else(|| Problem::unauthorized("log in to see your orders"))?;
    let (before, limit) = history(query.as_deref())?;
    let accounts = account_service(&shop)?;
    // One more than requested shows whether there is another page.
    let found = async { Ok(accounts.orders(account, before, limit + 1).await?) };
    let mut orders = with_timeout(&shop, found).await?;
    let more = orders.len() > limit;
    orders.truncate(limit);
    for order in &mut orders {
        order.account = None;
    }
    let mut answer = json!({ "orders": orders });
    if let (true, Some(last)) = (more, orders.last()) {
        answer["next"] = Value::from(last.id.to_string());
    }
    Ok((private(), Json(answer)).into_response())
}

/// Parses where a page of the customer's orders begins and how many it has.
fn history(query: Option<&str>) -> Result<(Option<OrderId>, usize), Problem> {
    let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, detail);
    let (mut before, mut limit) = (None, None);
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        let twice = match &*name {
            "before" => {
                let id = value.parse();
                let id = id.map_err(|_| bad("before is not an order's id".to_owned()))?;
                before.replace(id).is_some()
            }
            "limit" => {
                let number = value.parse().ok();
                let number = number.filter(|number| (1..=LARGEST_LIMIT).contains(number));
                let number = number.ok_or_else(|| {
                    bad(format!("limit is not a number from 1 to {LARGEST_LIMIT}"))
                })?;
                limit.replace(number).is_some()
            }
            _ => false,
        };
        if twice {
            return Err(bad(format!("duplicate parameter {name}")));
        }
    }
    Ok((before, limit.unwrap_or(DEFAULT_LIMIT)))
}

/// Reads login and password. JSON only: a form of another site cannot send JSON without a preflight request,
/// which is never granted.
async fn credentials(shop: &Shop, request: Request) -> Result<(Parts, Credentials), Problem> {
    let (parts, body) = request.into_parts();
    require_same_origin(shop, &parts.headers)?;
    if !matches!(Form::of(&parts.headers), Ok(Form::Json)) {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "send application/json",
        ));
    }
    let body = shop.bodies.read(body).await?;
    // Without the parser's message, which quotes the input.
    let given = serde_json::from_slice(&body).map_err(|error| {
        if error.is_data() {
            Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "the body must be a JSON object with login and password, and bearer (true or false) at most",
            )
        } else {
            Problem::new(StatusCode::BAD_REQUEST, "the body is not JSON")
        }
    })?;
    Ok((parts, given))
}

/// The account service, which exists whenever these routes do.
fn account_service(shop: &Shop) -> Result<&AccountService, Problem> {
    shop.accounts
        .as_deref()
        .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "accounts are off"))
}

/// Runs an account operation within its time limit and turns a refusal into a response.
async fn with_timeout<T>(
    shop: &Shop,
    work: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Problem> {
    let done = tokio::time::timeout(STORE_TIMEOUT, work).await;
    let refusal = match done {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(refusal)) => refusal,
        Err(_) => Refusal::Unavailable(anyhow::anyhow!(
            "no answer within {} s",
            STORE_TIMEOUT.as_secs()
        )),
    };
    Err(match refusal {
        Refusal::WrongCredentials => Problem::unauthorized("the login or the password is wrong"),
        Refusal::Taken => Problem::new(StatusCode::CONFLICT, "this login is taken"),
        Refusal::Invalid(errors) => {
            Problem::invalid("the login or the password is not acceptable", errors)
        }
        Refusal::TooMany(wait) => {
            let seconds = u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
            Problem::too_many(
                seconds,
                format!("too many attempts; try again in {seconds} s"),
            )
        }
        Refusal::Busy => Problem::try_again(1, "too many log-ins at once"),
        Refusal::Unavailable(error) => {
            tracing::error!(error = one_line(&error), "accounts do not work");
            shop.readiness.report_failure();
            Problem::try_again(2, "accounts are temporarily unavailable")
        }
    })
}

/// The response that opens a session: its token in a cookie that scripts cannot read, or, for programs, in
/// the body.
fn session_response(
    shop: &Shop,
    status: StatusCode,
    asked: &HeaderMap,
    session: &Session,
    bearer: bool,
) -> Response {
    let mut body = json!({ "login": session.login, "expires_at": session.expires_at });
    if bearer {
        body["token"] = Value::from(session.token.reveal());
        return (status, private(), Json(body)).into_response();
    }
    let device = session.device.reveal();
    let cookies = AppendHeaders([
        (
            header::SET_COOKIE,
            SESSION_COOKIE.set(shop, asked, session.token.reveal(), SESSION_LIFETIME),
        ),
        (
            header::SET_COOKIE,
            DEVICE_COOKIE.set(shop, asked, device, DEVICE_LIFETIME),
        ),
    ]);
    (status, private(), cookies, Json(body)).into_response()
}

/// Keeps a customer's responses out of caches.
fn private() -> [(header::HeaderName, &'static str); 1] {
    [(header::CACHE_CONTROL, "no-store")]
}

/// A cookie by its two names.
struct Cookie {
    /// Over TLS: browsers accept the prefix only from this very host.
    secure: &'static str,
    /// Over plain HTTP, where browsers refuse `__Host-` cookies.
    plain: &'static str,
}

const SESSION_COOKIE: Cookie = Cookie {
    secure: "__Host-shop_session",
    plain: "shop_session",
};
const DEVICE_COOKIE: Cookie = Cookie {
    secure: "__Host-shop_device",
    plain: "shop_device",
};

impl Cookie {
    fn set(&self, shop: &Shop, asked: &HeaderMap, value: &str, age: Duration) -> HeaderValue {
        let (name, secure) = if is_secure(shop, asked) {
            (self.secure, "; Secure")
        } else {
            (self.plain, "")
        };
        let age = age.as_secs();
        let text =
            format!("{name}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}");
        let mut cookie = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
        cookie.set_sensitive(true);
        cookie
    }

    /// The cookie's value in the request. Over TLS only the one that no other host can have set.
    fn of<'a>(&self, shop: &Shop, headers: &'a HeaderMap) -> Option<&'a str> {
        let wanted = if is_secure(shop, headers) {
            self.secure
        } else {
            self.plain
        };
        headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .find_map(|(name, value)| (name == wanted && !value.is_empty()).then_some(value))
    }
}

/// Where a request to register or log in comes from.
fn origin(shop: &Shop, parts: &Parts) -> Origin {
    Origin {
        caller: Caller::of(parts, shop.settings.forwarded_hops),
        device: DEVICE_COOKIE
            .of(shop, &parts.headers)
            .and_then(DeviceToken::parse),
    }
}

/// The account whose session the request carries; `None` without one, and always while accounts are off.
/// Other kinds of bearer tokens are ignored.
///
/// # Errors
/// 401 if the session has expired: a user who believes to be logged in must not be treated as anonymous. 403
/// if another site made the request. 503 if the sessions cannot be read.
pub(super) async fn customer(shop: &Shop, parts: &Parts) -> Result<Option<AccountId>, Problem> {
    let Some(accounts) = &shop.accounts else {
        return Ok(None);
    };
    let Some(token) = token(shop, parts)? else {
        return Ok(None);
    };
    let session = match SessionToken::parse(token) {
        None => None,
        Some(token) => within(STORE_TIMEOUT, accounts.session(&token))
            .await
            .map_err(|error| {
                tracing::error!(error = one_line(&error), "session not read");
                shop.readiness.report_failure();
                Problem::try_again(2, "your session could not be read; try again")
            })?,
    };
    let ended = || Problem::unauthorized("your session has ended; log in again");
    session.map(Some).ok_or_else(ended)
}

/// The text of the request's session token.
///
/// # Errors
/// 403 if it is a cookie, the request changes something, and another site made it.
fn token<'a>(shop: &Shop, parts: &'a Parts) -> Result<Option<&'a str>, Problem> {
    if let Some(token) = bearer(&parts.headers) {
        return Ok(Some(token));
    }
    let token = SESSION_COOKIE.of(shop, &parts.headers);
    if token.is_some() && !matches!(parts.method, Method::GET | Method::HEAD) {
        require_same_origin(shop, &parts.headers)?;
    }
    Ok(token)
}

/// A bearer token with the prefix of a session's.
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

/// Whether customers reach the shop over TLS: as `public_url` says, if set; else as `X-Forwarded-Proto` says.
/// It need not be trusted: a client that lies about it only changes the name of its own cookie.
fn is_secure(shop: &Shop, headers: &HeaderMap) -> bool {
    if let Some(public) = &shop.settings.public_url {
        return public.secure;
    }
    let proto = headers
        .get("x-forwarded-proto")
        .map(|value| value.as_bytes());
    proto.is_some_and(|proto| proto.eq_ignore_ascii_case(b"https"))
}

/// Refuses requests that another site made a browser send. Browsers report the initiator in `Sec-Fetch-Site`,
/// older ones in `Origin`; programs send neither, and cannot be tricked into a request. The cookie's
/// `SameSite=Strict` also applies, but to sites, not hosts.
fn require_same_origin(shop: &Shop, headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let same_origin = match (text("sec-fetch-site"), text("origin")) {
        (Some(site), _) => site == "same-origin" || site == "none",
        (None, Some(origin)) if shop.settings.public_url.is_some() => {
            let public = shop.settings.public_url.as_ref();
            public.is_some_and(|public| public.origin == origin)
        }
        (None, Some(origin)) => {
            let host = origin.split_once("://").map(|(_, host)| host);
            host.is_some() && host == text("host")
        }
        (None, None) => true,
    };
    if same_origin {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "this request came from another site",
    ))
}
