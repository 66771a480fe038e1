//! `GET /order/{id}`.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::{STORE_TIMEOUT, Shop, within};
use crate::order::OrderId;
use crate::problem::Problem;

pub(super) async fn look_up_order(
    State(shop): State<Shop>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let unknown = || Problem::new(StatusCode::NOT_FOUND, "there is no order with this id");
    let id: OrderId = id.parse().map_err(|_| unknown())?;
    let found = within(STORE_TIMEOUT, shop.store.get(id))
        .await
        .map_err(|error| {
            tracing::error!(order = %id, error = format!("{error:#}"), "look-up failed");
            shop.readiness.doubt();
            Problem::try_again(2, "the order could not be looked up just now")
        })?;
    let order = found.ok_or_else(unknown)?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(order)).into_response())
}
