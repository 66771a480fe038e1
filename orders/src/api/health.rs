//! `/gtg` and `/version`: what balancers and the agent ask. Waits for nothing.

use axum::Json;
use axum::extract::{RawQuery, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::Shop;
use super::operator::may_look;
use crate::VERSION;
use crate::readiness;

pub(super) async fn version() -> Json<Value> {
    Json(json!({ "version": VERSION }))
}

pub(super) async fn good_to_go(
    State(shop): State<Shop>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    let state = shop.readiness.now();
    let ready = state == readiness::State::Ready;
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let detailed = query.is_some_and(|query| {
        query
            .split('&')
            .any(|pair| pair.split('=').next() == Some("details"))
    });
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    if !detailed {
        // Typed though it is empty, as the seeds' clients know it.
        let html = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
        return (status, no_store, html).into_response();
    }
    // "connected" is a string because the seeds' clients compare it with one.
    let mut details = json!({
        "connected": if ready { "true" } else { "false" },
        "instance-id": shop.instance.now_or_unknown(),
    });
    // Why not names folders, buckets and addresses.
    if let Some(reason) = state.reason()
        && may_look(&shop.settings, &parts)
    {
        details["detail"] = reason.into();
    }
    (status, no_store, Json(details)).into_response()
}
