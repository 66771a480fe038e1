//! `GET /orders`: all orders since a time or an id, page by page, and then new ones, for the operator.
//!
//! A list that begins at a time or an id is sorted by id, oldest first, and remembers the position of the
//! store's sequence when it began; after its last page the list continues from there (see `store/position.rs`
//! for the rule). Starting points ahead of the clock are refused: an empty page would look like there are no
//! new orders.

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::{SignedDuration, Timestamp};

use super::cursor::{Cursor, PREFIX};
use super::operator::require_operator;
use super::shop::{STORE_TIMEOUT, Shop, within};
use crate::order::{Order, OrderId};
use crate::problem::Problem;
use crate::store::{FollowError, Position, Store};
use support::one_line;

/// Orders per page by default.
const DEFAULT_LIMIT: usize = 100;
/// Most orders per page.
const LARGEST_LIMIT: usize = 1000;
/// Orders read from the store at once: 2 MB if all their fields have the maximum length.
const AT_ONCE: usize = 100;
/// A page ends early past this many bytes; `next` shows that there is more. Otherwise a thousand orders with
/// fields at their limits would take 20 MB of memory.
const PAGE_BYTES: usize = 1024 * 1024;

/// How far `since` may be ahead of this host's clock. Synchronised clocks differ by seconds, and AWS refuses
/// requests from clocks that are off by more than 15 minutes; a wrong time zone is off by at least an hour.
const MAX_AHEAD: SignedDuration = SignedDuration::from_hours(1);

/// The part of the list that was requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    /// Where it begins.
    since: Since,
    /// Most orders to return.
    pub(super) limit: usize,
}

/// Where a page begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    /// Above this id, on the first page of a list.
    Id(OrderId),
    /// At the cursor of an earlier page.
    Cursor(Cursor),
}

impl Page {
    /// Parses a query at the host's time `now`. Unknown parameters are ignored.
    ///
    /// # Errors
    /// 400 with the name of the parameter and what it should be.
    pub(super) fn parse(query: Option<&str>, now: Timestamp) -> Result<Self, Problem> {
        let mut since = None;
        let mut limit = None;
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let twice = match &*name {
                "since" => since.replace(Since::parse(&value, now)?).is_some(),
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
                return Err(bad(format!("duplicate parameter {name}")));
            }
        }
        Ok(Self {
            since: since.unwrap_or(Since::Id(OrderId::from_bytes([0; 16]))),
            limit: limit.unwrap_or(DEFAULT_LIMIT),
        })
    }
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

impl Since {
    fn parse(text: &str, now: Timestamp) -> Result<Self, Problem> {
        if text.starts_with(PREFIX) {
            let cursor = Cursor::parse(text).ok_or_else(|| {
                bad("since is a damaged cursor; send next or follow unchanged, or a time (RFC 3339)")
            })?;
            return Ok(Self::Cursor(cursor));
        }
        let (kind, id, time) = if let Ok(id) = text.parse::<OrderId>() {
            ("an id made at", id, id.time())
        } else {
            // An unescaped plus sign (in +02:00) arrives as a space.
            let time: Timestamp = text.replace(' ', "+").parse().map_err(|_| {
                bad("since is neither a time (RFC 3339), an order's id, nor next or follow of an earlier answer")
            })?;
            ("the time", OrderId::floor(time), time)
        };
        if time.duration_since(now) > MAX_AHEAD {
            return Err(bad(format!(
                "since is {kind} {time}, ahead of this host's clock ({now}): one of them is wrong, and new orders \
                 would be missed; send follow of the last response, or an earlier time"
            )));
        }
        Ok(Self::Id(id))
    }
}

pub(super) async fn list_orders(
    State(shop): State<Shop>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    require_operator(&shop.settings, &headers)?;
    let page = Page::parse(query.as_deref(), shop.clock.now())?;
    let writing = async { anyhow::Ok(write_page(&*shop.store, page).await) };
    let body = within(STORE_TIMEOUT, writing)
        .await
        .unwrap_or_else(|late| Err(late.into()));
    let body = body.map_err(|error| match error {
        FollowError::NotHere(reason) => bad(format!(
            "since is a cursor that is not valid for this store: {reason}; list again from a time (RFC 3339) \
             before the last order that you have"
        )),
        FollowError::Failed(error) => {
            tracing::error!(error = one_line(&error), "orders not listed");
            shop.readiness.report_failure();
            Problem::try_again(2, "the orders could not be listed; try again")
        }
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

/// Writes a page: `{"orders":[…],"next":"…"}`, where `next` is the `since` of the next page, or, on the last
/// page, `{"orders":[…],"follow":"…"}`, where `follow` is the `since` of the next poll.
async fn write_page(store: &dyn Store, page: Page) -> Result<Vec<u8>, FollowError> {
    let mut writer = PageWriter {
        body: br#"{"orders":["#.to_vec(),
        count: 0,
        limit: page.limit,
    };
    let (more, cursor) = match page.since {
        Since::Id(after) => {
            // Read before the first order: orders that arrive from now on are found by following.
            let then = store.end().await?;
            writer.write_by_id(store, after, then).await?
        }
        Since::Cursor(Cursor::ById { after, then }) => {
            writer.write_by_id(store, after, then).await?
        }
        Since::Cursor(Cursor::Follow(from)) => writer.write_by_sequence(store, from).await?,
    };
    let PageWriter { mut body, .. } = writer;
    let name = if more { "next" } else { "follow" };
    body.extend_from_slice(format!(r#"],"{name}":"{}"}}"#, cursor.text()).as_bytes());
    Ok(body)
}

/// A page being written.
struct PageWriter {
    body: Vec<u8>,
    count: usize,
    limit: usize,
}

impl PageWriter {
    /// How many orders to read now. One more than fits shows whether there is a next page.
    fn wanted(&self) -> usize {
        (self.limit - self.count + 1).min(AT_ONCE)
    }

    /// Writes the order; false if the page is full.
    fn write(&mut self, order: &Order) -> anyhow::Result<bool> {
        if self.count == self.limit || self.body.len() > PAGE_BYTES {
            return Ok(false);
        }
        if self.count > 0 {
            self.body.push(b',');
        }
        serde_json::to_writer(&mut self.body, order)?;
        self.count += 1;
        Ok(true)
    }

    /// Writes orders by id. Returns whether there are more, and the next cursor.
    async fn write_by_id(
        &mut self,
        store: &dyn Store,
        mut after: OrderId,
        then: Position,
    ) -> anyhow::Result<(bool, Cursor)> {
        loop {
            let asked = self.wanted();
            let orders = store.list(after, asked).await?;
            let last = orders.len() < asked;
            for order in orders {
                if !self.write(&order)? {
                    return Ok((true, Cursor::ById { after, then }));
                }
                after = order.id;
            }
            if last {
                return Ok((false, Cursor::Follow(then)));
            }
        }
    }

    /// Writes orders by the store's sequence. Returns whether there are more, and the next cursor.
    async fn write_by_sequence(
        &mut self,
        store: &dyn Store,
        mut from: Position,
    ) -> Result<(bool, Cursor), FollowError> {
        loop {
            let followed = store.follow(&from, self.wanted()).await?;
            for (order, behind) in followed.orders {
                if !self.write(&order)? {
                    return Ok((true, Cursor::Follow(from)));
                }
                from = behind;
            }
            if let Some(end) = followed.end {
                return Ok((false, Cursor::Follow(end)));
            }
        }
    }
}
