//! The DynamoDB store: one table with the keys `pk` and `sk`, both text.
//!
//! Owns the items and the interpretation of DynamoDB's responses:
//!
//! | `pk` | `sk` | attributes |
//! | --- | --- | --- |
//! | `order#` and the id's last digit | the id | `order`: the order as JSON |
//! | `notice#` and the id's last digit | the id | |
//! | `claim#` and the key's SHA-256 | `claim` | `id`, `fingerprint`, `expires_at` (seconds; for TTL) |
//!
//! The last digit spreads orders over sixteen partitions of a thousand writes a second each; a list reads all
//! sixteen and merges. An order is one JSON text, because DynamoDB's numbers cannot represent all JSON
//! numbers. What belongs together is written in one transaction.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use async_trait::async_trait;
use futures_util::future::try_join_all;
use serde_json::{Value, json};

use super::timed::{self, Poll};
use super::{Claim, CreateError, Entry, FollowError, Followed, Kept, Position, Store};
use crate::aws::table::{Table, text};
use crate::aws::{Aws, Backoff, CallError};
use crate::clock::Clock;
use crate::order::{Order, OrderId};

/// The last digits of ids.
const DIGITS: &str = "0123456789abcdef";
/// Minimum lifetime of a claim; DynamoDB deletes it within days after that.
const CLAIM_LIFETIME: jiff::SignedDuration = jiff::SignedDuration::from_hours(48);
/// A transaction that conflicts or is throttled is not retried after this time: it would not end within the
/// service's time limit.
const TRANSACTION_BUDGET: Duration = Duration::from_secs(8);

/// Orders in a table.
#[derive(Debug)]
pub struct DynamoDbStore {
    table: Table,
    clock: Clock,
    /// Whether a probe was allowed to write since an order could not be written.
    writes: AtomicBool,
}

/// One of the sixteen partitions while it is read.
struct Partition {
    pk: String,
    /// The last id read, or where reading begins.
    after: String,
    items: Vec<Value>,
    at_end: bool,
}

impl DynamoDbStore {
    /// A store in `table`.
    #[must_use]
    pub fn new(table: String, aws: Aws) -> Self {
        Self {
            table: Table::new(table, aws),
            clock: Clock::default(),
            writes: AtomicBool::new(false),
        }
    }

    async fn call(&self, action: &str, body: Value) -> anyhow::Result<Value> {
        let answer = self.table.call(action, body).await;
        answer.map_err(|error| self.table.explain(action, error))
    }

    /// A strongly consistent read of an item.
    async fn item(&self, pk: &str, sk: &str) -> anyhow::Result<Option<Value>> {
        let mut answer = self
            .call(
                "GetItem",
                json!({ "Key": key(pk, sk), "ConsistentRead": true }),
            )
            .await?;
        Ok(answer.get_mut("Item").map(Value::take))
    }

    /// Requests a write whose condition never holds: a failed condition shows that writing is allowed.
    async fn may_write(&self) -> anyhow::Result<()> {
        let never = json!({
            "Item": key("probe", "probe"),
            "ConditionExpression": "attribute_exists(pk) AND attribute_not_exists(pk)",
        });
        match self.table.call("PutItem", never).await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == "ConditionalCheckFailedException" => Ok(()),
            Err(error) => Err(self.table.explain("PutItem", error)),
        }
    }

    fn order(&self, item: &Value) -> anyhow::Result<Order> {
        Order::from_row(text(item, "order").as_bytes()).with_context(|| {
            format!(
                "the item {} of table {} is not an order",
                text(item, "sk"),
                self.table.name()
            )
        })
    }

    /// Writes the entry, all or nothing. `false` if part of it exists.
    async fn write(&self, entry: &Entry, order: Value) -> anyhow::Result<bool> {
        if entry.claim.is_none() && !entry.notice {
            return match self.table.call("PutItem", order).await {
                Ok(_) => Ok(true),
                Err(error) if error.code() == "ConditionalCheckFailedException" => Ok(false),
                Err(error) => Err(self.table.explain("PutItem", error)),
            };
        }
        let mut puts = vec![order];
        if let Some(claim) = &entry.claim {
            puts.push(claim_item(claim, &entry.order));
        }
        if entry.notice {
            puts.push(json!({ "Item": key(&pk("notice", entry.order.id), &sk(entry.order.id)) }));
        }
        let puts: Vec<Value> = puts
            .into_iter()
            .map(|mut put| {
                put["TableName"] = json!(self.table.name());
                json!({ "Put": put })
            })
            .collect();
        let body = json!({ "TransactItems": puts });
        let mut backoff = Backoff::within(TRANSACTION_BUDGET);
        loop {
            let error = match self.table.call_on_any("TransactWriteItems", &body).await {
                Ok(_) => return Ok(true),
                Err(error) => error,
            };
            match Cancelled::by(&error) {
                Some(Cancelled::ItemExists) => return Ok(false),
                Some(Cancelled::Temporarily) if backoff.pause().await => {}
                _ => return Err(self.table.explain("TransactWriteItems", error)),
            }
        }
    }

    async fn keep(&self, entry: &Entry) -> Result<Kept, CreateError> {
        timed::check(entry.order.id, self.clock.now()).map_err(CreateError::NotKept)?;
        if self.write(entry, order_item(&entry.order)?).await? {
            return Ok(Kept::Now);
        }
        self.conflict(entry).await
    }

    /// The result for an entry that conflicted with existing items.
    async fn conflict(&self, entry: &Entry) -> Result<Kept, CreateError> {
        if let Some(claim) = &entry.claim
            && let Some(item) = self.item(&claim_pk(claim), "claim").await?
        {
            if text(&item, "fingerprint") != hex::encode(claim.fingerprint) {
                return Err(CreateError::KeyReused);
            }
            let id: OrderId = text(&item, "id")
                .parse()
                .with_context(|| format!("a claim in table {}", self.table.name()))?;
            // Our own claim, if the response to an earlier attempt was lost.
            if id != entry.order.id {
                return Ok(Kept::Before(id));
            }
        }
        match self.get(entry.order.id).await? {
            Some(kept) if kept == entry.order => Ok(Kept::Now),
            Some(_) => Err(CreateError::Exists),
            None => Err(CreateError::Unavailable(anyhow!(
                "the item that conflicted with order {} in table {} was deleted",
                entry.order.id,
                self.table.name()
            ))),
        }
    }

    /// Items of one kind with ids above `after`, sorted by id, at most `limit`.
    async fn in_order(
        &self,
        kind: &str,
        after: OrderId,
        limit: usize,
    ) -> anyhow::Result<Vec<Value>> {
        // Random ids spread the next items about evenly over the partitions.
        let page = (limit / DIGITS.len() * 5 / 4).clamp(4, 1000);
        let mut partitions: Vec<Partition> = DIGITS
            .chars()
            .map(|digit| Partition {
                pk: format!("{kind}#{digit}"),
                after: sk(after),
                items: Vec::new(),
                at_end: false,
            })
            .collect();
        // Every partition has been read up to here, so that no item is missing in between.
        let horizon = loop {
            let unread = partitions.iter().filter(|part| !part.at_end);
            let horizon = unread.map(|part| part.after.clone()).min();
            let Some(reached) = &horizon else {
                break horizon;
            };
            let complete = partitions
                .iter()
                .flat_map(|part| &part.items)
                .filter(|item| text(item, "sk") <= reached.as_str());
            if complete.count() >= limit {
                break horizon;
            }
            let behind = partitions
                .iter_mut()
                .filter(|part| !part.at_end && part.after == *reached);
            try_join_all(behind.map(|part| self.read_on(part, page))).await?;
        };
        let mut items: Vec<Value> = partitions
            .into_iter()
            .flat_map(|part| part.items)
            .filter(|item| {
                horizon
                    .as_ref()
                    .is_none_or(|horizon| text(item, "sk") <= horizon.as_str())
            })
            .collect();
        items.sort_by(|one, other| text(one, "sk").cmp(text(other, "sk")));
        items.truncate(limit);
        Ok(items)
    }

    /// Reads a partition's next page.
    async fn read_on(&self, part: &mut Partition, page: usize) -> anyhow::Result<()> {
        let mut answer = self
            .call(
                "Query",
                json!({
                    "KeyConditionExpression": "pk = :pk AND sk > :after",
                    "ExpressionAttributeValues": {
                        ":pk": { "S": part.pk },
                        ":after": { "S": part.after },
                    },
                    "Limit": page,
                    "ConsistentRead": true,
                }),
            )
            .await?;
        if let Value::Array(items) = answer["Items"].take() {
            part.items.extend(items);
        }
        match answer.get("LastEvaluatedKey") {
            Some(last) if !text(last, "sk").is_empty() => part.after = text(last, "sk").to_owned(),
            _ => part.at_end = true,
        }
        Ok(())
    }
}

fn pk(kind: &str, id: OrderId) -> String {
    let digit = usize::from(id.as_bytes()[15] & 0xf);
    format!("{kind}#{}", &DIGITS[digit..=digit])
}

fn sk(id: OrderId) -> String {
    id.to_string()
}

fn key(pk: &str, sk: &str) -> Value {
    json!({ "pk": { "S": pk }, "sk": { "S": sk } })
}

fn claim_pk(claim: &Claim) -> String {
    format!("claim#{}", hex::encode(claim.key))
}

fn order_item(order: &Order) -> anyhow::Result<Value> {
    let mut item = key(&pk("order", order.id), &sk(order.id));
    item["order"] = json!({ "S": String::from_utf8(order.to_row()?)? });
    Ok(json!({ "Item": item, "ConditionExpression": "attribute_not_exists(pk)" }))
}

fn claim_item(claim: &Claim, order: &Order) -> Value {
    let mut item = key(&claim_pk(claim), "claim");
    item["id"] = json!({ "S": sk(order.id) });
    item["fingerprint"] = json!({ "S": hex::encode(claim.fingerprint) });
    let expires_at = jiff::Timestamp::now().as_second() + CLAIM_LIFETIME.as_secs();
    item["expires_at"] = json!({ "N": expires_at.to_string() });
    json!({ "Item": item, "ConditionExpression": "attribute_not_exists(pk)" })
}

/// Why a transaction was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cancelled {
    /// One of its items exists.
    ItemExists,
    /// By another one with the same claim or partition, or by throttling. The retry shows who was first.
    Temporarily,
    /// For another reason.
    Otherwise,
}

impl Cancelled {
    /// The reason in an error; `None` if the transaction was not cancelled. There is one code per item.
    fn by(error: &CallError) -> Option<Self> {
        let CallError::Refused(refusal) = error else {
            return None;
        };
        if refusal.code != "TransactionCanceledException" {
            return None;
        }
        let answer: Value = serde_json::from_slice(&refusal.body).unwrap_or_default();
        let reasons = answer["CancellationReasons"].as_array();
        let codes: Vec<&str> = reasons
            .into_iter()
            .flatten()
            .filter_map(|reason| reason["Code"].as_str())
            .collect();
        let any_of = |wanted: &[&str]| codes.iter().any(|code| wanted.contains(code));
        Some(if any_of(&["ConditionalCheckFailed"]) {
            Self::ItemExists
        } else if any_of(&[
            "TransactionConflict",
            "ThrottlingError",
            "ProvisionedThroughputExceeded",
        ]) {
            Self::Temporarily
        } else {
            Self::Otherwise
        })
    }
}

#[async_trait]
impl Store for DynamoDbStore {
    async fn create(&self, entry: &Entry) -> Result<Kept, CreateError> {
        let kept = self.keep(entry).await;
        if matches!(
            kept,
            Err(CreateError::Unavailable(_) | CreateError::NotKept(_))
        ) {
            self.writes.store(false, Ordering::Relaxed);
        }
        kept
    }

    async fn get(&self, id: OrderId) -> anyhow::Result<Option<Order>> {
        let item = self.item(&pk("order", id), &sk(id)).await?;
        item.map(|item| self.order(&item)).transpose()
    }

    async fn list(&self, after: OrderId, limit: usize) -> anyhow::Result<Vec<Order>> {
        let items = self.in_order("order", after, limit).await?;
        items.iter().map(|item| self.order(item)).collect()
    }

    async fn end(&self) -> anyhow::Result<Position> {
        Ok(timed::end(self.clock.now()))
    }

    async fn follow(&self, from: &Position, limit: usize) -> Result<Followed, FollowError> {
        let poll = Poll::at(from, self.clock.now())?;
        let listed = self.list(poll.read, limit).await?;
        let at_end = listed.len() < limit;
        Ok(poll.show(Vec::new(), listed, at_end))
    }

    async fn notices(&self, limit: usize) -> anyhow::Result<Vec<OrderId>> {
        let beginning = OrderId::from_bytes([0; 16]);
        let items = self.in_order("notice", beginning, limit).await?;
        items
            .iter()
            .map(|item| {
                text(item, "sk")
                    .parse()
                    .with_context(|| format!("a notice in table {}", self.table.name()))
            })
            .collect()
    }

    async fn settle_notice(&self, id: OrderId) -> anyhow::Result<()> {
        self.call(
            "DeleteItem",
            json!({ "Key": key(&pk("notice", id), &sk(id)) }),
        )
        .await?;
        Ok(())
    }

    async fn probe(&self) -> anyhow::Result<()> {
        // A missing item: any response shows that name, network, credentials and table work.
        self.item("probe", "probe").await?;
        // Permission to read does not imply permission to write.
        if !self.writes.load(Ordering::Relaxed) {
            self.may_write().await?;
            self.writes.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
