//! `POST /order`: read, validate, store, respond. An order counts as in progress only once its whole body was
//! read (see `bodies.rs`).
//!
//! Rule: report an order as refused only if it is certain that the store does not have it. Otherwise report
//! that the outcome is unknown, and how to find out.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::accounts::customer;
use super::body::Form;
use super::idempotency::{Key, REPLAYED};
use super::shop::{STORE_TIMEOUT, Shop, within};
use crate::metrics::prometheus::Refusal;
use crate::order::{Draft, OrderId};
use crate::problem::Problem;
use crate::receipt::Receipt;
use crate::store::{CreateError, Entry, Kept, Store};
use support::one_line;

pub(super) async fn order_endpoint() -> &'static str {
    "Order endpoint OK"
}

pub(super) async fn place_order(
    State(shop): State<Shop>,
    request: Request,
) -> Result<Response, Problem> {
    let refused = |problem: &Problem| {
        shop.meter.refuse(Refusal::of_status(problem.status()));
    };
    let request = OrderRequest::read(&shop, request)
        .await
        .inspect_err(refused)?;
    let Ok(_permit) = shop.order_permits.try_acquire() else {
        shop.meter.refuse(Refusal::Busy);
        return Err(Problem::try_again(1, "too many orders at once"));
    };
    process(&shop, request).await.inspect_err(refused)
}

/// A request with its whole body.
struct OrderRequest {
    parts: Parts,
    form: Form,
    body: Vec<u8>,
}

impl OrderRequest {
    async fn read(shop: &Shop, request: Request) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let form = Form::of(&parts.headers)?;
        Key::of(&parts.headers)?;
        let body = shop.bodies.read(body).await?;
        Ok(Self { parts, form, body })
    }
}

async fn process(shop: &Shop, request: OrderRequest) -> Result<Response, Problem> {
    let OrderRequest { parts, form, body } = request;
    let key = Key::of(&parts.headers)?;
    let account = customer(shop, &parts).await?;
    let fields = form.fields(&body)?;
    let settings = &shop.settings;
    let draft = Draft::validate(fields, &settings.flowers, settings.unknown_fields)
        .map_err(Problem::invalid_order)?;
    let has_key = key.is_some();
    let claim = key.map(|key| key.claim(account, &draft));
    let receipt = Receipt::new().map_err(|error| {
        tracing::error!(error = one_line(&error), "no receipt");
        Problem::try_again(
            2,
            "the order was not accepted: the system provides no randomness",
        )
    })?;
    let now = shop.clock.now();
    let mut order = draft.into_order(OrderId::at(now), now, receipt);
    order.account = account;
    // They hold the buffer they were read into, and the store may take a while.
    drop((parts, body));
    let entry = Entry {
        order,
        claim,
        notice: shop.outbox.is_some(),
    };
    let id = entry.order.id;
    match keep(&*shop.store, &entry, STORE_TIMEOUT).await {
        Ok(Kept::Now) => {}
        Ok(Kept::Before(first)) => {
            shop.meter.replayed.inc();
            // The response must equal the first one, so it has the receipt of the stored order.
            let kept = within(STORE_TIMEOUT, shop.store.get(first)).await;
            let kept = kept.map_err(|error| {
                tracing::error!(order = %first, error = one_line(&error), "order not read again");
                shop.readiness.report_failure();
                Problem::try_again(2, "the order is stored, but could not be read; try again")
            })?;
            let receipt = kept.and_then(|order| order.receipt);
            return Ok(received(first, receipt.as_ref(), true));
        }
        Err(error) => {
            let (error, detail) = match error {
                CreateError::Unavailable(error) => (one_line(&error), unknown(has_key)),
                CreateError::NotKept(error) => (one_line(&error), NOT_ACCEPTED),
                CreateError::KeyReused => {
                    return Err(Problem::new(
                        StatusCode::CONFLICT,
                        "this Idempotency-Key was used for another order; use a new key for a new order",
                    ));
                }
                CreateError::Exists => ("its new id is taken".to_owned(), NOT_ACCEPTED),
            };
            tracing::error!(order = %id, error, detail, "order not stored");
            shop.readiness.report_failure();
            return Err(Problem::try_again(2, detail));
        }
    }
    if let Some(outbox) = &shop.outbox {
        outbox.enqueue(&entry.order);
    }
    shop.count.add_one();
    shop.meter.placed.inc();
    Ok(received(id, entry.order.receipt.as_ref(), false))
}

const NOT_ACCEPTED: &str = "the order could not be stored just now, and was not accepted";

/// The message if the outcome is unknown: a store may have kept what it did not confirm.
fn unknown(has_key: bool) -> &'static str {
    if has_key {
        "it is unknown whether the order was stored; send it again with the same Idempotency-Key to avoid a second order"
    } else {
        "it is unknown whether the order was stored; sending it again may create a second one; an Idempotency-Key prevents that"
    }
}

/// Stores the entry within `limit`.
async fn keep(store: &dyn Store, entry: &Entry, limit: Duration) -> Result<Kept, CreateError> {
    tokio::time::timeout(limit, store.create(entry))
        .await
        .unwrap_or_else(|_| {
            let late = anyhow::anyhow!("no answer within {} s", limit.as_secs());
            Err(CreateError::Unavailable(late))
        })
}

/// Response extension: the order that a response is about, for the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    pub(super) id: OrderId,
    /// Whether an earlier request stored it.
    pub(super) replayed: bool,
}

/// The response for a stored order; `replayed` if an earlier request stored it.
fn received(id: OrderId, receipt: Option<&Receipt>, replayed: bool) -> Response {
    let receipt = receipt.map_or_else(String::new, |receipt| {
        format!(r#","receipt_secret":"{}""#, receipt.reveal())
    });
    let body = format!(r#"{{"id":"{id}","message":"Order received"{receipt}}}"#);
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    let mut response = (headers, body).into_response();
    response.extensions_mut().insert(Placed { id, replayed });
    if replayed {
        response
            .headers_mut()
            .insert(REPLAYED.clone(), HeaderValue::from_static("true"));
    }
    response
}
