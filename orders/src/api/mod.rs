//! The HTTP contract: routes, request bodies, responses.
//!
//! Rule: every response is data, except the parts of the shop page. Data may contain what users sent, in
//! whatever media type its clients expect, so every response gets a policy under which a browser runs, loads
//! and shows nothing of it ([`DATA_POLICY`]), in the one layer that all responses pass. Only [`pages`] sets
//! its own policy.
//!
//! Must not depend on which store is used, nor wait for anything but the store. The contract is documented in
//! `docs/orders.md`.

mod accounts;
mod bodies;
mod body;
mod candidates;
mod cursor;
#[cfg(test)]
mod fuzz;
mod health;
mod idempotency;
mod list;
mod look_up;
mod openapi;
mod operator;
mod place;
mod scrape;
mod shop;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

pub use bodies::Bodies;
pub use shop::Shop;

use crate::metrics::prometheus::{Meter, Route};
use crate::pages;
use crate::problem::Problem;

/// For every response except the shop page's parts. `sandbox` gives a document an opaque origin, without
/// scripts and forms. <https://www.w3.org/TR/CSP3/#directive-sandbox>
const DATA_POLICY: HeaderValue = HeaderValue::from_static("sandbox; default-src 'none'");

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The whole service as one router.
pub fn router(shop: Shop) -> Router {
    let page = pages::Pages::new(&shop.settings.flowers, shop.accounts.is_some());
    let meter = Arc::clone(&shop.meter);
    let document = openapi::Document::of(&shop);
    let candidates = shop.candidates.clone().map(candidates::router);
    Router::new()
        .route(
            "/order",
            post(place::place_order).get(place::order_endpoint),
        )
        .route("/order/{id}", get(look_up::look_up_order))
        .route("/orders", get(list::list_orders))
        .route("/gtg", get(health::good_to_go))
        .route("/version", get(health::version))
        .route("/metrics", get(scrape::metrics))
        .route(
            "/openapi.json",
            get(move || std::future::ready(document.answer())),
        )
        .merge(accounts::router(&shop))
        .with_state(shop)
        .merge(page.router())
        .merge(candidates.unwrap_or_default())
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(meter, log_request))
}

/// The router of the operator's listener: health with details, version, metrics.
pub fn operator_router(shop: Shop) -> Router {
    let meter = Arc::clone(&shop.meter);
    Router::new()
        .route("/gtg", get(health::good_to_go))
        .route("/version", get(health::version))
        .route("/metrics", get(scrape::metrics))
        .with_state(shop)
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(axum::Extension(operator::OperatorListener))
        .layer(middleware::from_fn_with_state(meter, log_request))
}

async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no such path")
}

async fn method_not_allowed(method: Method) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} is not allowed for this path; see the header Allow"),
    )
}

/// Wraps every request: assigns an id, logs the request without the customer's data, sets the headers that
/// every response has.
async fn log_request(State(meter): State<Arc<Meter>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    // A copy, like the id: a slice of the head would keep its read buffer alive while the order waits for the
    // store.
    let path = request.uri().path().to_owned();
    let path = path.as_str();
    let span = tracing::info_span!("request", request = id.to_str().unwrap_or_default());
    let answering = async {
        // RFC 9112 §3.2: two readers could take two Host headers for different hosts.
        if request.headers().get_all(header::HOST).iter().count() > 1 {
            return Problem::new(StatusCode::BAD_REQUEST, "duplicate Host header").into_response();
        }
        next.run(request).await
    };
    let mut response = tracing::Instrument::instrument(answering, span.clone()).await;
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID.clone(), id);
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(DATA_POLICY);
    let status = response.status().as_u16();
    let taken = started.elapsed();
    let route = Route::of(&method, path);
    meter.answer(route, status, taken);
    let micros = u64::try_from(taken.as_micros()).unwrap_or(u64::MAX);
    let _in_span = span.enter();
    // Health checks arrive every few seconds from every balancer and would hide the rest.
    if path == "/gtg" {
        tracing::debug!(%method, path, status, micros, "answered");
        return response;
    }
    // Only our own paths are logged: others are arbitrary input, and a candidate's path contains a name.
    let path = match route {
        Route::Candidates => "(candidates)",
        _ if status == 404 => "(unknown)",
        _ => path,
    };
    // One line per order, with the id it was stored under.
    match response.extensions().get() {
        Some(place::Placed { id, replayed }) => {
            tracing::info!(%method, path, status, micros, order = %id, replayed, "answered");
        }
        None => tracing::info!(%method, path, status, micros, "answered"),
    }
    response
}

/// The caller's own id if it is acceptable, so that a request can be traced through the balancer; else a new
/// one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let usable = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=64).contains(&bytes.len())
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || b"-_=.".contains(b))
    };
    headers
        .get(&REQUEST_ID)
        .filter(usable)
        .and_then(|id| HeaderValue::from_bytes(id.as_bytes()).ok())
        .unwrap_or_else(|| {
            // It identifies a log line and grants no access, so it may be guessable.
            let id = format!("{:032x}", fastrand::u128(..));
            HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("none"))
        })
}

#[cfg(test)]
mod tests;
