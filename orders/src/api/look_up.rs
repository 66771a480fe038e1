//! `GET /order/{id}`: the status for everyone who has the id, the whole order for its customer and the
//! operator.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::accounts::customer;
use super::operator::{bearer, is_operator};
use super::shop::{STORE_TIMEOUT, Shop, within};
use crate::order::OrderId;
use crate::problem::Problem;
use crate::receipt::Receipt;
use support::one_line;

/// What the id alone shows: nothing that a customer wrote.
#[derive(Debug, Serialize)]
struct Status {
    id: OrderId,
    received_at: jiff::Timestamp,
    status: &'static str,
}

/// The id alone shows the status. The operator's token, the order's receipt and, for an order of an account,
/// its owner's session show the order. Without one of these an account's order is not found.
pub(super) async fn look_up_order(
    State(shop): State<Shop>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let unknown = || Problem::new(StatusCode::NOT_FOUND, "there is no order with this id");
    // A path that is not UTF-8 is not an id.
    let Path(id) = id.map_err(|_| unknown())?;
    let id: OrderId = id.parse().map_err(|_| unknown())?;
    let found = within(STORE_TIMEOUT, shop.store.get(id))
        .await
        .map_err(|error| {
            tracing::error!(order = %id, error = one_line(&error), "look-up failed");
            shop.readiness.report_failure();
            Problem::try_again(2, "the order could not be read; try again")
        })?;
    let mut order = found.ok_or_else(unknown)?;
    let (parts, _) = request.into_parts();
    // Removed from the response: nobody is shown whose order it is.
    let owner = order.account.take();
    if is_operator(&shop.settings, &parts.headers) {
        return Ok(shown(order));
    }
    let receipt = bearer(&parts.headers).filter(|token| token.starts_with(PREFIX));
    if let Some(receipt) = receipt {
        return match &order.receipt {
            Some(right) if right.is(receipt) => Ok(shown(order)),
            _ if owner.is_some() => Err(unknown()),
            _ => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "this is not the receipt of this order",
            )),
        };
    }
    let Some(owner) = owner else {
        return Ok(shown(Status {
            id: order.id,
            received_at: order.received_at,
            status: "received",
        }));
    };
    if customer(&shop, &parts).await? != Some(owner) {
        return Err(unknown());
    }
    Ok(shown(order))
}

const PREFIX: &[u8] = Receipt::PREFIX.as_bytes();

fn shown(what: impl Serialize) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(what)).into_response()
}
