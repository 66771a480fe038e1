//! `GET /orders`: every order since a time or an id, page by page, and then what is new, for the operator.
//!
//! A list that begins at a time or an id goes by ids, oldest first, and remembers where the store's sequence was when
//! it began; from there its last page is followed (see `store/position.rs` for the rule). What is ahead of the
//! clock is refused: an empty page would be taken for news.

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::{SignedDuration, Timestamp};

use super::cursor::{Cursor, PREFIX};
use super::operator::require_operator;
use super::shop::{STORE_TIMEOUT, Shop, within};
use crate::chain::one_line;
use crate::order::{Order, OrderId};
use crate::problem::Problem;
use crate::store::{FollowError, Position, Store};

/// Orders on a page when the caller does not say.
const DEFAULT_LIMIT: usize = 100;
/// Orders on a page at most.
const LARGEST_LIMIT: usize = 1000;
/// Orders taken from the store at once: at their limits they are 2 MB together.
const AT_ONCE: usize = 100;
/// A page ends early past this many bytes; `next` tells that there is more. Otherwise a thousand
/// orders at their limits would cost 20 MB of memory.
const PAGE_BYTES: usize = 1024 * 1024;

/// How far ahead of this host's clock `since` may be. Clocks that are kept differ by seconds, and AWS takes
/// none that is off by more than 15 minutes; a time in a wrong time zone is off by an hour at least.
const AHEAD: SignedDuration = SignedDuration::from_hours(1);

/// What part of the list is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    /// Where it begins.
    since: Since,
    /// How many orders at most.
    pub(super) limit: usize,
}

/// Where a page begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    /// Above this id, in a list that begins.
    Id(OrderId),
    /// Where an earlier answer said.
    Cursor(Cursor),
}

impl Page {
    /// The page that a query asks for, at a host whose clock says `now`. Parameters it does not know are left alone.
    ///
    /// # Errors
    /// 400 with the name of the parameter and what would be right.
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
                return Err(bad(format!("{name} is there twice")));
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
                bad("since is a damaged cursor; send next or follow as they were, or a time (RFC 3339)")
            })?;
            return Ok(Self::Cursor(cursor));
        }
        let (kind, id, time) = if let Ok(id) = text.parse::<OrderId>() {
            ("an id made at", id, id.time())
        } else {
            // A plus that was not escaped (in +02:00) comes as a space.
            let time: Timestamp = text.replace(' ', "+").parse().map_err(|_| {
                bad("since is neither a time (RFC 3339), an order's id, nor next or follow of an earlier answer")
            })?;
            ("the time", OrderId::floor(time), time)
        };
        if time.duration_since(now) > AHEAD {
            return Err(bad(format!(
                "since is {kind} {time}, and this host's clock says {now}: one of them is wrong, and orders that \
                 come now would be missed; send follow of the last answer, or an earlier time"
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
    let written = async { anyhow::Ok(written(&*shop.store, page).await) };
    let body = within(STORE_TIMEOUT, written)
        .await
        .unwrap_or_else(|late| Err(late.into()));
    let body = body.map_err(|error| match error {
        FollowError::NotHere(reason) => bad(format!(
            "since is a cursor that this store cannot read on from: {reason}; list again from a time (RFC 3339) \
             before the last order that you have"
        )),
        FollowError::Failed(error) => {
            tracing::error!(error = one_line(&error), "orders not listed");
            shop.readiness.doubt();
            Problem::try_again(2, "the orders could not be listed just now")
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

/// The page as it is answered: `{"orders":[…],"next":"…"}`, where `next` is the `since` of the page after it, or,
/// on the last page, `{"orders":[…],"follow":"…"}`, where `follow` is the `since` of the next poll.
async fn written(store: &dyn Store, page: Page) -> Result<Vec<u8>, FollowError> {
    let mut writing = Writing {
        body: br#"{"orders":["#.to_vec(),
        count: 0,
        limit: page.limit,
    };
    let (more, cursor) = match page.since {
        Since::Id(after) => {
            // Before the first order is read: what comes in meanwhile is followed.
            let then = store.end().await?;
            writing.walk(store, after, then).await?
        }
        Since::Cursor(Cursor::Walk { after, then }) => writing.walk(store, after, then).await?,
        Since::Cursor(Cursor::Follow(from)) => writing.follow(store, from).await?,
    };
    let Writing { mut body, .. } = writing;
    let name = if more { "next" } else { "follow" };
    body.extend_from_slice(format!(r#"],"{name}":"{}"}}"#, cursor.text()).as_bytes());
    Ok(body)
}

/// A page while it is written.
struct Writing {
    body: Vec<u8>,
    count: usize,
    limit: usize,
}

impl Writing {
    /// How many orders to take from the store now. One more than fits tells whether there is a next page.
    fn wanted(&self) -> usize {
        (self.limit - self.count + 1).min(AT_ONCE)
    }

    /// Writes the order, unless the page is full.
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

    /// Writes orders by their ids. Whether there are more, and the cursor that goes on.
    async fn walk(
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
                    return Ok((true, Cursor::Walk { after, then }));
                }
                after = order.id;
            }
            if last {
                return Ok((false, Cursor::Follow(then)));
            }
        }
    }

    /// Writes orders by the store's sequence. Whether there are more, and the cursor that goes on.
    async fn follow(
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
