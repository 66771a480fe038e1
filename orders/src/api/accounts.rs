//! Customers' accounts over HTTP: register, log in, log out, one's own orders; and who asks.
//!
//! A customer is known by a session: its token comes in a cookie (browsers) or as a bearer token
//! (programs). A cookie goes along by itself, so it counts only for requests that our own page made;
//! a bearer token is sent on purpose and needs no such proof. Must never log a login, a password or
//! a token.

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
    DEVICE_LIFETIME, Desk, DeviceToken, Origin, Refusal, SESSION_LIFETIME, Session, SessionToken,
};
use crate::caller::Caller;
use crate::chain::one_line;
use crate::order::{AccountId, OrderId};
use crate::problem::Problem;

/// Orders on a page of one's history when the customer does not say.
const DEFAULT_LIMIT: usize = 20;
/// Orders on a page at most: 2 MB at an order's limits.
const LARGEST_LIMIT: usize = 100;

/// The routes of the module; none when accounts are off.
pub(super) fn router(shop: &Shop) -> Router<Shop> {
    if shop.desk.is_none() {
        return Router::new();
    }
    Router::new()
        .route("/account", post(register))
        .route("/account/orders", get(own_orders))
        .route("/session", get(who_am_i).post(log_in).delete(log_out))
}

/// What somebody says who registers or logs in.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Credentials {
    login: String,
    password: String,
    /// Whether the token is wanted in the answer, and no cookie.
    #[serde(default)]
    bearer: bool,
}

async fn register(State(shop): State<Shop>, request: Request) -> Result<Response, Problem> {
    let (parts, said) = credentials(&shop, request).await?;
    let desk = desk(&shop)?;
    let origin = origin(&shop, &parts);
    let session = at_desk(&shop, desk.register(&said.login, &said.password, &origin)).await?;
    tracing::info!("account registered");
    Ok(welcome(
        &shop,
        StatusCode::CREATED,
        &parts.headers,
        &session,
        said.bearer,
    ))
}

async fn log_in(State(shop): State<Shop>, request: Request) -> Result<Response, Problem> {
    let (parts, said) = credentials(&shop, request).await?;
    let desk = desk(&shop)?;
    let origin = origin(&shop, &parts);
    let session = at_desk(&shop, desk.log_in(&said.login, &said.password, &origin)).await?;
    Ok(welcome(
        &shop,
        StatusCode::OK,
        &parts.headers,
        &session,
        said.bearer,
    ))
}

/// Ends the session that comes with the request. Whoever has none is logged out already.
async fn log_out(State(shop): State<Shop>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    if let Some(token) = token(&shop, &parts)?.and_then(SessionToken::parse) {
        let desk = desk(&shop)?;
        at_desk(&shop, async { Ok(desk.log_out(&token).await?) }).await?;
    }
    let gone = SESSION_COOKIE.set(&shop, &parts.headers, "", Duration::ZERO);
    Ok((
        StatusCode::NO_CONTENT,
        private(),
        [(header::SET_COOKIE, gone)],
    )
        .into_response())
}

/// Who the session says one is: the login, or null. Not a refusal: a page asks this of everybody.
async fn who_am_i(State(shop): State<Shop>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let login = match customer(&shop, &parts).await {
        Ok(Some(account)) => {
            let desk = desk(&shop)?;
            at_desk(&shop, async { Ok(desk.login(account).await?) }).await?
        }
        Ok(None) => None,
        Err(problem) if problem.status() == StatusCode::UNAUTHORIZED => {
            // With it in the browser, every order would be refused.
            let gone = [(
                header::SET_COOKIE,
                SESSION_COOKIE.set(&shop, &parts.headers, "", Duration::ZERO),
            )];
            return Ok((private(), gone, Json(json!({ "login": null }))).into_response());
        }
        Err(problem) => return Err(problem),
    };
    Ok((private(), Json(json!({ "login": login }))).into_response())
}

/// One's own orders, newest first, page by page.
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
    let desk = desk(&shop)?;
    // One more than asked for tells whether there is another page.
    let found = async { Ok(desk.orders(account, before, limit + 1).await?) };
    let mut orders = at_desk(&shop, found).await?;
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

/// Where a page of one's history begins, and how long it is.
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
            return Err(bad(format!("{name} is there twice")));
        }
    }
    Ok((before, limit.unwrap_or(DEFAULT_LIMIT)))
}

/// Reads who somebody says to be. JSON only: a form on another site can send no JSON without asking,
/// and nobody is allowed to ask.
async fn credentials(shop: &Shop, request: Request) -> Result<(Parts, Credentials), Problem> {
    let (parts, body) = request.into_parts();
    from_our_page(shop, &parts.headers)?;
    if !matches!(Form::of(&parts.headers), Ok(Form::Json)) {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "send application/json",
        ));
    }
    let body = shop.bodies.read(body).await?;
    // Not with the parser's words: they quote what was sent.
    let said = serde_json::from_slice(&body).map_err(|error| {
        if error.is_data() {
            Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "the body must be a JSON object with login and password, and bearer (true or false) at most",
            )
        } else {
            Problem::new(StatusCode::BAD_REQUEST, "the body is not JSON")
        }
    })?;
    Ok((parts, said))
}

/// The desk; only there where its routes are.
fn desk(shop: &Shop) -> Result<&Desk, Problem> {
    shop.desk
        .as_deref()
        .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "accounts are off"))
}

/// What the desk says, within its time, as the customer is told.
async fn at_desk<T>(
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
        Refusal::Wrong => Problem::unauthorized("the login or the password is wrong"),
        Refusal::Taken => Problem::new(StatusCode::CONFLICT, "this login is taken"),
        Refusal::Unfit(faults) => Problem::unfit("what you chose does not fit", faults),
        Refusal::TooMany(wait) => {
            let seconds = u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
            Problem::too_many(seconds, format!("too many tries; try again in {seconds} s"))
        }
        Refusal::Busy => Problem::try_again(1, "too many are logging in at once"),
        Refusal::Unavailable(error) => {
            tracing::error!(error = one_line(&error), "accounts do not work");
            shop.readiness.doubt();
            Problem::try_again(2, "accounts do not work just now")
        }
    })
}

/// The answer that opens a session: its token in a cookie that scripts cannot read, or, for
/// programs, in the body.
fn welcome(
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

/// One customer's answers are nobody else's, on no cache.
fn private() -> [(header::HeaderName, &'static str); 1] {
    [(header::CACHE_CONTROL, "no-store")]
}

/// A cookie by its two names.
struct Cookie {
    /// Over TLS: the prefix makes browsers refuse it from anybody but this host.
    secure: &'static str,
    /// Over plain HTTP, where browsers take no `__Host-` ones.
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

    /// What the request has of it. Over TLS only the one that no neighbouring host can have set.
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
    let Some(token) = token(shop, parts)? else {
        return Ok(None);
    };
    let session = match SessionToken::parse(token) {
        None => None,
        Some(token) => within(STORE_TIMEOUT, desk.session(&token))
            .await
            .map_err(|error| {
                tracing::error!(error = one_line(&error), "session not read");
                shop.readiness.doubt();
                Problem::try_again(2, "your session could not be looked up just now")
            })?,
    };
    let ended = || Problem::unauthorized("your session has ended; log in again");
    session.map(Some).ok_or_else(ended)
}

/// The text of the session's token that comes with the request.
///
/// # Errors
/// 403 when it is a cookie, the request changes something, and another site made it.
fn token<'a>(shop: &Shop, parts: &'a Parts) -> Result<Option<&'a str>, Problem> {
    if let Some(token) = bearer(&parts.headers) {
        return Ok(Some(token));
    }
    let token = SESSION_COOKIE.of(shop, &parts.headers);
    if token.is_some() && !matches!(parts.method, Method::GET | Method::HEAD) {
        from_our_page(shop, &parts.headers)?;
    }
    Ok(token)
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

/// Whether customers reach the shop over TLS: as `public_url` says, where it is set; else as this request came. What a balancer says of that is believed: one who lies about it changes
/// the name of his own cookie.
fn is_secure(shop: &Shop, headers: &HeaderMap) -> bool {
    if let Some(public) = &shop.settings.public_url {
        return public.secure;
    }
    let proto = headers
        .get("x-forwarded-proto")
        .map(|value| value.as_bytes());
    proto.is_some_and(|proto| proto.eq_ignore_ascii_case(b"https"))
}

/// Refuses what another site made a browser send. Browsers say where a request comes from in
/// `Sec-Fetch-Site`, old ones in `Origin`; programs say neither, and nobody can be tricked into
/// running one. The cookie's `SameSite=Strict` stands before this; it knows sites, not hosts.
fn from_our_page(shop: &Shop, headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let ours = match (text("sec-fetch-site"), text("origin")) {
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
    if ours {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "this request came from another site",
    ))
}
