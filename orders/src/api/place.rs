//! `POST /order`: read, judge, keep, answer.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::accounts::customer;
use super::body::{Form, read_body};
use super::{STORE_TIMEOUT, Shop, within};
use crate::order::{Draft, OrderId};
use crate::problem::Problem;
use crate::store::{CreateError, Entry};

pub(super) async fn order_endpoint() -> &'static str {
    "Order endpoint OK"
}

pub(super) async fn place_order(
    State(shop): State<Shop>,
    request: Request,
) -> Result<Response, Problem> {
    let Ok(_place) = shop.places.try_acquire() else {
        return Err(Problem::try_again(1, "too many orders at once"));
    };
    let (parts, body) = request.into_parts();
    let form = Form::of(&parts.headers)?;
    let account = customer(&shop, &parts).await?;
    let body = read_body(body).await?;
    let fields = form.fields(&body)?;
    let draft = Draft::judge(fields, &shop.settings.flowers).map_err(Problem::faults)?;
    let mut order = draft.take(OrderId::new(), jiff::Timestamp::now());
    order.account = account;
    let entry = Entry::from(order.clone());
    let created = within(STORE_TIMEOUT, async {
        match shop.store.create(&entry).await {
            Ok(_) => Ok(()),
            Err(CreateError::Exists | CreateError::KeyReused) => {
                anyhow::bail!("its new id is taken")
            }
            Err(CreateError::Unavailable(error)) => Err(error),
        }
    });
    created.await.map_err(|error| {
        tracing::error!(order = %order.id, error = format!("{error:#}"), "order not stored");
        shop.readiness.doubt();
        Problem::try_again(
            2,
            "the order could not be stored just now, and was not accepted",
        )
    })?;
    shop.count.add_one();
    tracing::info!(order = %order.id, "order stored");
    let answer = json!({ "message": "Order received", "id": order.id });
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}
