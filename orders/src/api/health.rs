//! `/gtg` and `/version`, which balancers and the agent poll. Never waits.

use axum::Json;
use axum::extract::{RawQuery, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::Shop;
use super::operator::may_see_details;
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
        // The empty body has a type because the seeds' clients expect one.
        let html = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
        return (status, no_store, html).into_response();
    }
    // "connected" is a string because the seeds' clients compare it with one.
    let mut details = json!({
        "connected": if ready { "true" } else { "false" },
        "instance-id": shop.instance.now_or_unknown(),
    });
    // The reason may name folders, buckets and addresses.
    if let Some(reason) = state.reason()
        && may_see_details(&shop.settings, &parts)
    {
        details["detail"] = reason.into();
    }
    (status, no_store, Json(details)).into_response()
}
