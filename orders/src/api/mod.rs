//! The HTTP contract: routes, reading of bodies, answers.
//!
//! Rule: an answer is data unless it is a part of the shop page. Data may hold what users sent, under
//! whatever media type its clients know; so every answer gets a policy under which a browser runs,
//! loads and shows nothing of it ([`DATA_POLICY`]), in the one layer that all answers pass. Only
//! [`pages`] sets a policy of its own.
//!
//! Knows orders, a store and the readiness; must not know which store it is, nor wait for anything
//! but the store. The contract is written down in `docs/orders.md`.

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

/// For every answer but the shop page's parts. `sandbox` gives a document an origin of its own, without
/// scripts and forms. <https://www.w3.org/TR/CSP3/#directive-sandbox>
const DATA_POLICY: HeaderValue = HeaderValue::from_static("sandbox; default-src 'none'");

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The whole service as one router.
pub fn router(shop: Shop) -> Router {
    let page = pages::Pages::new(&shop.settings.flowers, shop.desk.is_some());
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
        .layer(middleware::from_fn_with_state(meter, accompany))
}

/// What the operator's own listener serves: health with its details, the version, metrics.
pub fn operator_router(shop: Shop) -> Router {
    let meter = Arc::clone(&shop.meter);
    Router::new()
        .route("/gtg", get(health::good_to_go))
        .route("/version", get(health::version))
        .route("/metrics", get(scrape::metrics))
        .with_state(shop)
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(axum::Extension(operator::OperatorsDoor))
        .layer(middleware::from_fn_with_state(meter, accompany))
}

async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path")
}

async fn method_not_allowed(method: Method) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("this path does not answer to {method}; see the header Allow"),
    )
}

/// Goes with every request: gives it an id, logs it without the customer's data, sets the headers
/// that every answer has.
async fn accompany(State(meter): State<Arc<Meter>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    // A copy, as the id is: what is cut out of the head would hold the buffer it was read into, and
    // the order may wait for its store for long.
    let path = request.uri().path().to_owned();
    let path = path.as_str();
    let span = tracing::info_span!("request", request = id.to_str().unwrap_or_default());
    let answering = async {
        // RFC 9112 §3.2: two hosts are two requests to two readers.
        if request.headers().get_all(header::HOST).iter().count() > 1 {
            return Problem::new(StatusCode::BAD_REQUEST, "Host is there twice").into_response();
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
    // Health checks come every few seconds from every balancer; they would drown the rest.
    if path == "/gtg" {
        tracing::debug!(%method, path, status, micros, "answered");
        return response;
    }
    // Only our own paths are logged as they are: others are whatever a stranger typed, and a
    // candidate's is a name.
    let path = match route {
        Route::Candidates => "(candidates)",
        _ if status == 404 => "(unknown)",
        _ => path,
    };
    // One line an order: the id that it was kept under stands with the answer.
    match response.extensions().get() {
        Some(place::Placed { id, replayed }) => {
            tracing::info!(%method, path, status, micros, order = %id, replayed, "answered");
        }
        None => tracing::info!(%method, path, status, micros, "answered"),
    }
    response
}

/// The caller's own id when it is a decent one, so that a request can be followed through the
/// balancer; else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let decent = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=64).contains(&bytes.len())
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || b"-_=.".contains(b))
    };
    headers
        .get(&REQUEST_ID)
        .filter(decent)
        .and_then(|id| HeaderValue::from_bytes(id.as_bytes()).ok())
        .unwrap_or_else(|| {
            // It names a line in a log and opens nothing, so it need not be hard to guess.
            let id = format!("{:032x}", fastrand::u128(..));
            HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("none"))
        })
}

#[cfg(test)]
mod tests;
