//! `GET /order/{id}`.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::accounts::customer;
use super::operator::is_operator;
use super::{STORE_TIMEOUT, Shop, within};
use crate::chain::one_line;
use crate::order::OrderId;
use crate::problem::Problem;

/// The id is the capability: who knows it may see the order. An order placed from an account is its
/// owner's and the operator's alone; to others it is not there.
pub(super) async fn look_up_order(
    State(shop): State<Shop>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let unknown = || Problem::new(StatusCode::NOT_FOUND, "there is no order with this id");
    // What is not even text is no id.
    let Path(id) = id.map_err(|_| unknown())?;
    let id: OrderId = id.parse().map_err(|_| unknown())?;
    let found = within(STORE_TIMEOUT, shop.store.get(id))
        .await
        .map_err(|error| {
            tracing::error!(order = %id, error = one_line(&error), "look-up failed");
            shop.readiness.doubt();
            Problem::try_again(2, "the order could not be looked up just now")
        })?;
    let mut order = found.ok_or_else(unknown)?;
    // Taken out: whose it is, is told to nobody.
    if let Some(owner) = order.account.take() {
        let (parts, _) = request.into_parts();
        if !is_operator(&shop.settings, &parts.headers)
            && customer(&shop, &parts).await? != Some(owner)
        {
            return Err(unknown());
        }
    }
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(order)).into_response())
}
