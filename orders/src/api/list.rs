//! `GET /orders`: every order since a time or an id, page by page, for the operator.

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::operator::require_operator;
use super::{STORE_TIMEOUT, Shop, within};
use crate::chain::one_line;
use crate::order::{Order, OrderId};
use crate::problem::Problem;
use crate::store::Store;

/// Orders on a page when the caller does not say.
const DEFAULT_LIMIT: usize = 100;
/// Orders on a page at most.
const LARGEST_LIMIT: usize = 1000;
/// Orders taken from the store at once: at their limits they are 2 MB together.
const AT_ONCE: usize = 100;
/// A page ends early past this many bytes; `next` tells that there is more. Otherwise a thousand
/// orders at their limits would cost 20 MB of memory.
const PAGE_BYTES: usize = 1024 * 1024;

/// What part of the list is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    /// Where it begins: above this id.
    pub(super) after: OrderId,
    /// How many orders at most.
    pub(super) limit: usize,
}

impl Page {
    /// The page that a query asks for. Parameters it does not know are left alone.
    ///
    /// # Errors
    /// 400 with the name of the parameter and what would be right.
    pub(super) fn parse(query: Option<&str>) -> Result<Self, Problem> {
        let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, detail);
        let mut after = None;
        let mut limit = None;
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let twice = match &*name {
                "since" => after
                    .replace(beginning(&value).ok_or_else(|| {
                        bad("since is neither a time (RFC 3339) nor an order's id".to_owned())
                    })?)
                    .is_some(),
                "limit" => limit
                    .replace(
                        value
                            .parse()
                            .ok()
                            .filter(|limit| (1..=LARGEST_LIMIT).contains(limit))
                            .ok_or_else(|| {
                                bad(format!("limit is not a number from 1 to {LARGEST_LIMIT}"))
                            })?,
                    )
                    .is_some(),
                _ => false,
            };
            if twice {
                return Err(bad(format!("{name} is there twice")));
            }
        }
        Ok(Self {
            after: after.unwrap_or(OrderId::from_bytes([0; 16])),
            limit: limit.unwrap_or(DEFAULT_LIMIT),
        })
    }
}

/// Where a list since `text` begins: above an order's id, or at a time.
fn beginning(text: &str) -> Option<OrderId> {
    text.parse().ok().or_else(|| {
        // A plus that was not escaped (in +02:00) comes as a space.
        let time: jiff::Timestamp = text.replace(' ', "+").parse().ok()?;
        Some(OrderId::floor(time))
    })
}

pub(super) async fn list_orders(
    State(shop): State<Shop>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    require_operator(&shop.settings, &headers)?;
    let page = Page::parse(query.as_deref())?;
    let body = within(STORE_TIMEOUT, written(&*shop.store, page)).await;
    let body = body.map_err(|error| {
        tracing::error!(error = one_line(&error), "orders not listed");
        shop.readiness.doubt();
        Problem::try_again(2, "the orders could not be listed just now")
    })?;
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, body).into_response())
}

/// The page as it is answered: `{"orders":[…],"next":"…"}`, where `next` is the `since` of the page
/// after it and absent on the last.
async fn written(store: &dyn Store, page: Page) -> anyhow::Result<Vec<u8>> {
    let mut body = br#"{"orders":["#.to_vec();
    let Page { mut after, limit } = page;
    let mut count = 0;
    let more = 'page: loop {
        // One more than fits tells whether there is a next page.
        let asked = (limit - count + 1).min(AT_ONCE);
        let orders: Vec<Order> = store.list(after, asked).await?;
        let last = orders.len() < asked;
        for order in orders {
            if count == limit || body.len() > PAGE_BYTES {
                break 'page true;
            }
            if count > 0 {
                body.push(b',');
            }
            serde_json::to_writer(&mut body, &order)?;
            after = order.id;
            count += 1;
        }
        if last {
            break false;
        }
    };
    body.push(b']');
    if more {
        body.extend_from_slice(format!(r#","next":"{after}""#).as_bytes());
    }
    body.push(b'}');
    Ok(body)
}
