//! The check after a load: is every acknowledged order stored exactly once?
//!
//! Reads all orders since the load began, from the store itself or from the service's `GET /orders`, and
//! compares them with the ledger. Orders of a load contain its run and their number, so an order stored under
//! two ids is detected, and so is an id given to two orders.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::SignedDuration;
use orders::aws::{self, Aws};
use orders::order::{Order, OrderId};
use orders::settings::{Secret, Settings};
use orders::store::{self, Store};
use reqwest::{Client, StatusCode, Url};

use crate::client::base;
use crate::ledger::{Entries, Mark};
use crate::report::Found;

/// Orders per page; the service's maximum.
const PAGE: usize = 1000;
/// Concurrent look-ups: enough to hide a store's latency, too few to put load on it.
const LOOKUPS: usize = 16;
/// How far an instance's clock may be behind this machine's. Ids come from instances' clocks.
const SKEW: SignedDuration = SignedDuration::from_mins(10);
/// A page of a large store may take a while.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Names of the extra fields of a load's orders.
pub(crate) const RUN_FIELD: &str = "load_run";
pub(crate) const NUMBER_FIELD: &str = "load_number";

/// Stands in the ledger for the id if a response had none.
pub(crate) const NO_ID: &str = "-";

/// Where orders are read.
pub(crate) enum Source {
    /// The store itself.
    Store(DirectStore),
    /// The service, as its operator.
    Service(Service),
}

/// A store that is read directly.
pub(crate) struct DirectStore {
    store: Arc<dyn Store>,
    address: String,
    /// The store's file, if it is one.
    file: Option<PathBuf>,
}

/// A service that is read with the operator's token.
pub(crate) struct Service {
    client: Client,
    base: String,
    token: Secret,
}

#[derive(serde::Deserialize)]
struct Page {
    orders: Vec<Order>,
    /// The `since` of the next page: an id or a cursor.
    next: Option<String>,
}

/// An error response of the service.
#[derive(serde::Deserialize)]
struct Refused {
    detail: String,
}

impl Source {
    /// The store that the settings name.
    pub(crate) fn store(settings: &Settings) -> anyhow::Result<Self> {
        Ok(Self::Store(DirectStore {
            store: store::open(settings, &Aws::new(settings.aws.clone()))?,
            address: settings.store.to_string(),
            file: settings.store.file(),
        }))
    }

    /// The service at `url`, with its operator token.
    pub(crate) fn service(url: &str, token: Secret) -> anyhow::Result<Self> {
        let base = base(url)?.to_owned();
        Url::parse(&base).with_context(|| format!("the URL {base:?} is invalid"))?;
        Ok(Self::Service(Service {
            client: aws::client(&base, TIMEOUT)?,
            base,
            token,
        }))
    }

    /// Compares the ledger with the stored orders.
    pub(crate) async fn check(&self, entries: &Entries) -> anyhow::Result<Found> {
        let checked = self.compare(entries).await;
        if let Self::Store(direct) = self {
            direct.store.close().await;
        }
        checked
    }

    async fn compare(&self, entries: &Entries) -> anyhow::Result<Found> {
        if let Self::Store(direct) = self {
            direct.require_existing().await?;
        }
        let mut kept = Kept::of(entries);
        let Some(beginning) = beginning(entries) else {
            return Ok(Found::default());
        };
        let mut since = beginning.to_string();
        loop {
            let page = self.page(&since).await?;
            for order in &page.orders {
                kept.note(order);
            }
            match page.next {
                // A list that does not advance would be read forever.
                Some(next) if next == since || page.orders.is_empty() => {
                    bail!("the list of orders does not advance past {since}")
                }
                Some(next) => since = next,
                None => break,
            }
        }
        // An unlisted order may be from a clock that is off by more than the allowed skew; look it up by id
        // before it counts as lost.
        let unlisted: Vec<OrderId> = kept.unlisted(entries);
        let found: Vec<Option<Order>> = stream::iter(unlisted)
            .map(|id| self.get(id))
            .buffer_unordered(LOOKUPS)
            .try_collect()
            .await?;
        for order in found.iter().flatten() {
            kept.note(order);
        }
        Ok(kept.result(entries))
    }

    async fn page(&self, since: &str) -> anyhow::Result<Page> {
        match self {
            Self::Store(direct) => {
                let listed = direct.store.list(since.parse()?, PAGE).await;
                let orders = listed.with_context(|| {
                    format!("list the orders in {} after {since}", direct.address)
                })?;
                let next = orders.last().map(|order| order.id.to_string());
                Ok(Page { orders, next })
            }
            Self::Service(service) => service.page(since).await,
        }
    }

    async fn get(&self, id: OrderId) -> anyhow::Result<Option<Order>> {
        match self {
            Self::Store(direct) => direct.store.get(id).await,
            Self::Service(service) => service.get(id).await,
        }
        .with_context(|| format!("look up order {id}"))
    }
}

impl DirectStore {
    /// Fails if nothing exists at the address, which would look like a store that lost everything: stores
    /// that are a file create it if it is missing.
    async fn require_existing(&self) -> anyhow::Result<()> {
        let address = &self.address;
        if let Some(file) = &self.file
            && matches!(file.try_exists(), Ok(false))
        {
            bail!(
                "there is no store at {address}\nhint: use the service's store, as its log reports it \
                 does in the line `listening`"
            );
        }
        // A list instead of a probe, which may write: read permission must suffice.
        let none = OrderId::from_bytes([0xff; 16]);
        let listed = self.store.list(none, 1).await;
        listed.with_context(|| format!("the store {address} does not respond"))?;
        Ok(())
    }
}

impl Service {
    async fn page(&self, since: &str) -> anyhow::Result<Page> {
        let url = format!("{}/orders?since={since}&limit={PAGE}", self.base);
        let (status, body) = self.get_text(&url).await?;
        match status {
            StatusCode::OK => serde_json::from_slice(&body)
                .with_context(|| format!("{url} did not return a list of orders")),
            StatusCode::UNAUTHORIZED => bail!(
                "{} refuses the operator token\nhint: use the one in the service's \
                 operator_token_file",
                self.base
            ),
            StatusCode::FORBIDDEN => bail!(
                "{} has no operator token\nhint: start it with operator_token_file set",
                self.base
            ),
            // For instance if clocks differ by more than an hour.
            StatusCode::BAD_REQUEST => {
                let refused = serde_json::from_slice(&body);
                let why = refused.map_or_else(|_| String::new(), |Refused { detail }| detail);
                bail!("{url} returned status 400: {why}")
            }
            _ => bail!("{url} returned status {}", status.as_u16()),
        }
    }

    async fn get(&self, id: OrderId) -> anyhow::Result<Option<Order>> {
        let url = format!("{}/order/{id}", self.base);
        let (status, body) = self.get_text(&url).await?;
        match status {
            StatusCode::OK => {
                Ok(Some(serde_json::from_slice(&body).with_context(|| {
                    format!("{url} did not return an order")
                })?))
            }
            StatusCode::NOT_FOUND => Ok(None),
            _ => bail!("{url} returned status {}", status.as_u16()),
        }
    }

    async fn get_text(&self, url: &str) -> anyhow::Result<(StatusCode, Vec<u8>)> {
        let request = self.client.get(url).bearer_auth(self.token.reveal());
        let response = request.send().await.with_context(|| format!("ask {url}"))?;
        let status = response.status();
        let body = response
            .bytes()
            .await
            .with_context(|| format!("get {url}"))?;
        Ok((status, body.to_vec()))
    }
}

/// A lower bound for the ids of the ledger's loads; `None` without loads.
fn beginning(entries: &Entries) -> Option<OrderId> {
    let began = entries.runs.iter().map(|run| run.began).min()?;
    let early = began.checked_sub(SKEW).unwrap_or(jiff::Timestamp::MIN);
    Some(OrderId::floor(early))
}

/// The stored orders of the ledger's loads.
struct Kept {
    runs: HashMap<String, usize>,
    ids: HashMap<Mark, Vec<OrderId>>,
}

impl Kept {
    /// Nothing read yet.
    fn of(entries: &Entries) -> Self {
        let runs = entries.runs.iter().enumerate();
        Self {
            runs: runs.map(|(index, run)| (run.id.clone(), index)).collect(),
            ids: HashMap::new(),
        }
    }

    fn note(&mut self, order: &Order) {
        let Some(mark) = self.mark(order) else {
            return;
        };
        let ids = self.ids.entry(mark).or_default();
        if !ids.contains(&order.id) {
            ids.push(order.id);
        }
    }

    /// The order's mark, if it belongs to one of the loads.
    fn mark(&self, order: &Order) -> Option<Mark> {
        let run = order.extra.get(RUN_FIELD)?.as_str()?;
        Some(Mark {
            run: *self.runs.get(run)?,
            number: order.extra.get(NUMBER_FIELD)?.as_u64()?,
        })
    }

    fn has(&self, mark: &Mark, id: &str) -> bool {
        let ids = self.ids.get(mark).map_or(&[][..], Vec::as_slice);
        ids.iter().any(|kept| id == NO_ID || kept.to_string() == id)
    }

    fn unlisted(&self, entries: &Entries) -> Vec<OrderId> {
        let acked = entries.acked.iter();
        acked
            .filter(|(mark, id)| !self.has(mark, id))
            .filter_map(|(_, id)| id.parse().ok())
            .collect()
    }

    fn result(&self, entries: &Entries) -> Found {
        let mut found = Found::default();
        let mut acked = std::collections::HashSet::new();
        for (mark, id) in &entries.acked {
            acked.insert(*mark);
            if self.has(mark, id) {
                found.found += 1;
            } else {
                found.missing.push(if id == NO_ID {
                    let run = &entries.runs[mark.run].id;
                    format!(
                        "order {} of run {run}, whose response had no id",
                        mark.number
                    )
                } else {
                    id.clone()
                });
            }
        }
        let mut marks: Vec<_> = self.ids.iter().collect();
        marks.sort();
        for (mark, ids) in marks {
            if !acked.contains(mark) {
                found.unacknowledged += 1;
            }
            let Mark { run, number } = mark;
            for id in &ids[1..] {
                let first = ids[0];
                let run = &entries.runs[*run].id;
                found
                    .twice
                    .push(format!("{id} and {first}: order {number} of run {run}"));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::Bound;

    use orders::store::{CreateError, Entry, FollowError, Followed, Kept, Position};
    use serde_json::json;

    use super::*;
    use crate::ledger::Run;

    fn run(id: &str) -> Run {
        Run {
            id: id.to_owned(),
            began: jiff::Timestamp::now(),
        }
    }

    fn order(name: &str) -> Order {
        Order {
            id: OrderId::new(),
            received_at: jiff::Timestamp::UNIX_EPOCH,
            account: None,
            name: name.to_owned(),
            address: "1 Rose Row".to_owned(),
            flower: "spring_tulips".to_owned(),
            extra: Default::default(),
            receipt: None,
        }
    }

    fn marked(run: &str, number: u64) -> Order {
        let mut order = order("Load");
        order.extra.insert(RUN_FIELD.to_owned(), json!(run));
        order.extra.insert(NUMBER_FIELD.to_owned(), json!(number));
        order
    }

    fn acked(run: usize, number: u64, order: &Order) -> (Mark, String) {
        (Mark { run, number }, order.id.to_string())
    }

    /// A store with these orders that allows reading only.
    struct ReadOnly(BTreeMap<OrderId, Order>);

    #[async_trait::async_trait]
    impl Store for ReadOnly {
        async fn create(&self, _: &Entry) -> Result<Kept, CreateError> {
            Err(CreateError::Unavailable(anyhow::anyhow!("read only")))
        }
        async fn get(&self, id: OrderId) -> anyhow::Result<Option<Order>> {
            Ok(self.0.get(&id).cloned())
        }
        async fn list(&self, after: OrderId, limit: usize) -> anyhow::Result<Vec<Order>> {
            let later = self.0.range((Bound::Excluded(after), Bound::Unbounded));
            Ok(later.map(|(_, order)| order.clone()).take(limit).collect())
        }
        async fn end(&self) -> anyhow::Result<Position> {
            bail!("not asked for")
        }
        async fn follow(&self, _: &Position, _: usize) -> Result<Followed, FollowError> {
            Err(anyhow::anyhow!("not asked for").into())
        }
        async fn probe(&self) -> anyhow::Result<()> {
            bail!("read only")
        }
        async fn notices(&self, _: usize) -> anyhow::Result<Vec<OrderId>> {
            bail!("not asked for")
        }
        async fn settle_notice(&self, _: OrderId) -> anyhow::Result<()> {
            bail!("read only")
        }
    }

    /// The result of a check if these orders are stored.
    async fn check(orders: &[&Order], entries: &Entries) -> Found {
        let stored = orders.iter().map(|&order| (order.id, order.clone()));
        let source = Source::Store(DirectStore {
            store: Arc::new(ReadOnly(stored.collect())),
            address: "memory".to_owned(),
            file: None,
        });
        source.check(entries).await.unwrap()
    }

    #[tokio::test]
    async fn missing_and_duplicate_orders_are_named() {
        let [first, second, third, unacked] = [0, 1, 2, 3].map(|number| marked("a", number));
        // Whichever was made first.
        let mut pair = [second, marked("a", 1)];
        pair.sort_by_key(|order| order.id);
        let [second, again] = pair;
        let (other_run, foreign) = (marked("b", 0), marked("unknown", 0));
        let unmarked = order("Customer");
        let mut entries = Entries {
            runs: vec![run("a"), run("b")],
            acked: vec![
                acked(0, 0, &first),
                acked(0, 1, &second),
                acked(1, 0, &other_run),
            ],
            failed: vec!["timed out".to_owned()],
        };
        let all = [&first, &second, &other_run, &foreign, &unmarked];
        let good = Found {
            found: 3,
            ..Found::default()
        };
        assert_eq!(check(&all, &entries).await, good);

        // A response without an id: recognised by its marks.
        let without = |number: u64| (Mark { run: 0, number }, NO_ID.to_owned());
        let mut seeds = entries.clone();
        seeds.acked[0] = without(0);
        assert_eq!(check(&all, &seeds).await, good);
        seeds.acked.push(without(9));
        let missing = check(&all, &seeds).await.missing;
        assert_eq!(missing, ["order 9 of run a, whose response had no id"]);

        let kept = [&all[..], &[&unacked]].concat();
        let unacknowledged = 1;
        assert_eq!(
            check(&kept, &entries).await,
            Found {
                unacknowledged,
                ..good.clone()
            },
            "an answer that was lost is no harm"
        );

        let kept = [&all[..], &[&again]].concat();
        let duplicate = format!("{} and {}: order 1 of run a", again.id, second.id);
        assert_eq!(
            check(&kept, &entries).await,
            Found {
                twice: vec![duplicate],
                ..good.clone()
            }
        );

        entries.acked.push(acked(0, 2, &third));
        let missing = vec![third.id.to_string()];
        assert_eq!(
            check(&all, &entries).await,
            Found {
                missing,
                ..good.clone()
            }
        );
        // The id of another order and an unknown id count as lost.
        for (given, other) in [
            (acked(0, 2, &first), &first),
            (acked(0, 2, &unmarked), &unmarked),
        ] {
            entries.acked.pop();
            entries.acked.push(given);
            let missing = vec![other.id.to_string()];
            assert_eq!(
                check(&all, &entries).await,
                Found {
                    missing,
                    ..good.clone()
                }
            );
        }
        entries.acked.pop();
        entries
            .acked
            .push((Mark { run: 0, number: 2 }, "x".to_owned()));
        assert_eq!(check(&all, &entries).await.missing, ["x"]);
    }

    #[tokio::test]
    async fn more_than_one_page_is_read() {
        let orders: Vec<Order> = (0..2 * PAGE as u64 + 1)
            .map(|number| marked("a", number))
            .collect();
        let entries = Entries {
            runs: vec![run("a")],
            acked: (0..)
                .zip(&orders)
                .map(|(number, order)| acked(0, number, order))
                .collect(),
            failed: Vec::new(),
        };
        let all: Vec<&Order> = orders.iter().collect();
        let found = check(&all, &entries).await;
        assert_eq!((found.found, found.missing.len()), (2 * PAGE as u64 + 1, 0));
    }

    #[tokio::test]
    async fn an_order_from_a_clock_far_behind_is_found_by_id() {
        let mut late = marked("a", 0);
        late.id = OrderId::floor("2020-01-01T00:00:00Z".parse().unwrap());
        let entries = Entries {
            runs: vec![run("a")],
            acked: vec![acked(0, 0, &late)],
            failed: Vec::new(),
        };
        assert_eq!(check(&[&late], &entries).await.found, 1);
        assert_eq!(check(&[], &Entries::default()).await, Found::default());
    }
}
