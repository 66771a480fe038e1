//! The S3 store: one object per order, `<prefix>/<id>.json`, created only if absent.
//!
//! Owns the keys and the interpretation of S3's responses. S3 has no transactions, so what belongs to an
//! order is written before it. A claim (`<prefix>-claims/<key>.json`) has the id, time and receipt that the
//! order will have; a later request with the same claim completes that order. A notice
//! (`<prefix>-notices/<id>`) is listed once its order exists, and dropped if none came. A note
//! (`<prefix>-late/<id made now>.<order id>`) leads followers to an order that is completed long after its
//! claim (`timed.rs`). These are outside the orders' folder, so that listing it returns orders only.
//!
//! The client is created at first use, because it needs the region, which may come from the instance
//! metadata.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use async_trait::async_trait;
use axum::http::Extensions;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::SignedDuration;
use object_store::aws::AmazonS3;
use object_store::client::{HttpError, HttpErrorKind};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, Error, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::timed::{self, Poll};
use super::{Claim, CreateError, Entry, FollowError, Followed, Kept, Position, Store};
use crate::aws::{self, Aws, Backoff, RetryUntil};
use crate::clock::Clock;
use crate::order::{Order, OrderId};
use crate::receipt::Receipt;

/// The object that the probe reads: any response, even "no such key", shows that name, network, credentials
/// and bucket work, and costs a read, not a write. If it is uncertain whether writing is allowed, the probe
/// creates the object if absent.
const PROBE: &str = ".probe";
/// No put is started after this time: it would not end within the service's time limit.
const PUT_BUDGET: Duration = Duration::from_secs(8);
/// Objects read concurrently for a list: hides latency and keeps memory small.
const READS: usize = 32;
/// How long a notice waits for its order, from S3's time to this host's time. The service refuses orders
/// after seconds, but S3 accepts clocks that are 15 minutes ahead: with a shorter wait a notice written just
/// now could be dropped.
const NOTICE_WAIT: SignedDuration = SignedDuration::from_mins(30);
/// Metadata name of the attempt that put an object.
const ATTEMPT: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("attempt"));

/// Orders in a bucket.
#[derive(Debug)]
pub struct S3Store {
    bucket: String,
    orders: Path,
    claims: Path,
    notices: Path,
    late: Path,
    aws: Aws,
    clock: Clock,
    client: OnceCell<AmazonS3>,
    /// Whether a probe has written since an order could not be written.
    writes: AtomicBool,
}

/// The content of a claim's object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Claimed {
    id: OrderId,
    received_at: jiff::Timestamp,
    fingerprint: String,
    /// The order's receipt; absent in claims of releases before receipts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    receipt_secret: Option<String>,
}

/// The outcome of a put.
enum Put {
    /// This call created the object.
    Made,
    /// The object exists. It may be from this call, if the response to an earlier attempt was lost.
    Found(Object),
}

/// An object that was read.
struct Object {
    content: Bytes,
    attempt: Option<String>,
}

impl S3Store {
    /// A store in `bucket`, under `prefix`.
    #[must_use]
    pub fn new(bucket: String, prefix: &str, aws: Aws) -> Self {
        let parts: Vec<&str> = prefix.split('/').filter(|part| !part.is_empty()).collect();
        let beside = |name: &str| match parts.split_last() {
            None => Path::from(name),
            Some((last, parts)) => {
                let last = format!("{last}-{name}");
                Path::from_iter(parts.iter().copied().chain([last.as_str()]))
            }
        };
        Self {
            bucket,
            orders: Path::from_iter(parts.iter().copied()),
            claims: beside("claims"),
            notices: beside("notices"),
            late: beside("late"),
            aws,
            clock: Clock::default(),
            client: OnceCell::new(),
            writes: AtomicBool::new(false),
        }
    }

    async fn client(&self) -> anyhow::Result<&AmazonS3> {
        self.client
            .get_or_try_init(|| async {
                let builder = self.aws.s3().await?.with_bucket_name(&self.bucket);
                builder.build().context("prepare the S3 client")
            })
            .await
    }

    fn order_key(&self, id: OrderId) -> Path {
        self.orders.clone().join(format!("{id}.json"))
    }

    fn notice_key(&self, id: OrderId) -> Path {
        self.notices.clone().join(id.to_string())
    }

    /// Creates an object if absent. `made` is an id that must have been made just now, checked at each
    /// attempt.
    async fn put_new(
        &self,
        key: &Path,
        content: impl Into<Bytes>,
        attempt: Option<&str>,
        made: Option<OrderId>,
    ) -> anyhow::Result<Put> {
        let content = content.into();
        let deadline = Instant::now() + PUT_BUDGET;
        let mut backoff = Backoff::until(deadline);
        loop {
            if let Some(id) = made {
                timed::check(id, self.clock.now())?;
            }
            let mut attributes =
                Attributes::from_iter([(Attribute::ContentType, "application/json")]);
            if let Some(attempt) = attempt {
                attributes.insert(ATTEMPT, attempt.to_owned().into());
            }
            let mut extensions = Extensions::new();
            extensions.insert(RetryUntil(deadline));
            let options = PutOptions {
                mode: PutMode::Create,
                attributes,
                extensions,
                ..PutOptions::default()
            };
            let client = self.client().await?;
            let error = match client.put_opts(key, content.clone().into(), options).await {
                Ok(_) => return Ok(Put::Made),
                Err(error @ Error::AlreadyExists { .. }) => {
                    if let Some(found) = self.read(key).await? {
                        return Ok(Put::Found(found));
                    }
                    // S3 also responds this while another put to the key is in progress, which may fail.
                    error
                }
                Err(error) if may_have_arrived(&error) => error,
                Err(error) => return Err(self.explain(error, "create", key)),
            };
            if !backoff.pause().await {
                return Err(self.explain(error, "create", key));
            }
        }
    }

    async fn read(&self, key: &Path) -> anyhow::Result<Option<Object>> {
        let found = match self.client().await?.get(key).await {
            Ok(found) => found,
            Err(error @ Error::NotFound { .. })
                if Refusal::in_error(&error) != Some(Refusal::NoBucket) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(self.explain(error, "read", key)),
        };
        let attempt = found
            .attributes
            .get(&ATTEMPT)
            .map(|by| by.as_ref().to_owned());
        let content = found.bytes().await;
        let content = content.map_err(|error| self.explain(error, "read", key))?;
        Ok(Some(Object { content, attempt }))
    }

    fn explain(&self, error: Error, operation: &str, key: &Path) -> anyhow::Error {
        let wrong = if Refusal::in_error(&error) == Some(Refusal::WrongClock) {
            format!(": {}", aws::WRONG_CLOCK)
        } else {
            String::new()
        };
        anyhow::Error::new(error).context(format!("{operation} s3://{}/{key}{wrong}", self.bucket))
    }

    fn order(&self, key: &Path, content: &[u8]) -> anyhow::Result<Order> {
        Order::from_row(content)
            .with_context(|| format!("s3://{}/{key} is not an order", self.bucket))
    }

    async fn keep_entry(&self, entry: &Entry) -> Result<Kept, CreateError> {
        // Nothing is sent without it.
        self.client().await.map_err(CreateError::NotKept)?;
        match &entry.claim {
            Some(claim) => self.keep_claimed(entry, claim).await,
            None => self.keep(&entry.order, entry.notice).await,
        }
    }

    /// Stores the notice, then the order.
    async fn keep(&self, order: &Order, notice: bool) -> Result<Kept, CreateError> {
        if !notice {
            return match self.put_order(order, None, Some(order.id)).await? {
                Some((found, _)) if found != *order => Err(CreateError::Exists),
                _ => Ok(Kept::Now),
            };
        }
        let attempt = format!("{:016x}", fastrand::u64(..));
        let notice = self.notice_key(order.id);
        let announced = matches!(self.put_new(&notice, "", None, None).await?, Put::Made);
        let put = self.put_order(order, Some(&attempt), Some(order.id));
        let Some((found, by)) = put.await? else {
            return Ok(Kept::Now);
        };
        let by_us = by.as_ref() == Some(&attempt);
        if announced && !by_us {
            // The order existed, with its own notice, which was settled since.
            self.delete(&notice).await?;
        }
        if by_us || found == *order {
            Ok(Kept::Now)
        } else {
            Err(CreateError::Exists)
        }
    }

    /// The order that existed, and the attempt that put it; `None` if this call created it.
    async fn put_order(
        &self,
        order: &Order,
        attempt: Option<&str>,
        made: Option<OrderId>,
    ) -> anyhow::Result<Option<(Order, Option<String>)>> {
        let key = self.order_key(order.id);
        let content = order.to_row()?;
        match self.put_new(&key, content, attempt, made).await? {
            Put::Made => Ok(None),
            Put::Found(found) => Ok(Some((self.order(&key, &found.content)?, found.attempt))),
        }
    }

    /// Stores the order under its claim: the first request with a claim determines id, time and receipt.
    async fn keep_claimed(&self, entry: &Entry, claim: &Claim) -> Result<Kept, CreateError> {
        let receipt = entry.order.receipt.as_ref();
        let ours = Claimed {
            id: entry.order.id,
            received_at: entry.order.received_at,
            fingerprint: hex::encode(claim.fingerprint),
            receipt_secret: receipt.map(|receipt| receipt.reveal().to_owned()),
        };
        let kept = self.claim(claim, &ours).await?;
        if kept.fingerprint != ours.fingerprint {
            return Err(CreateError::KeyReused);
        }
        if kept == ours {
            return self.keep(&entry.order, entry.notice).await;
        }
        Ok(self.finish(entry, &kept).await?)
    }

    /// The stored claim: `ours`, unless another request was first.
    async fn claim(&self, claim: &Claim, ours: &Claimed) -> anyhow::Result<Claimed> {
        let key = self
            .claims
            .clone()
            .join(format!("{}.json", hex::encode(claim.key)));
        match self
            .put_new(&key, serde_json::to_vec(ours)?, None, Some(ours.id))
            .await?
        {
            Put::Made => Ok(ours.clone()),
            Put::Found(found) => serde_json::from_slice(&found.content)
                .with_context(|| format!("s3://{}/{key} is not a claim", self.bucket)),
        }
    }

    /// Completes the order of an earlier claim: the request that made it may have died, or be about to write
    /// it.
    async fn finish(&self, entry: &Entry, claimed: &Claimed) -> anyhow::Result<Kept> {
        let key = self.order_key(claimed.id);
        if self.read(&key).await?.is_none() {
            let order = Order {
                id: claimed.id,
                received_at: claimed.received_at,
                receipt: claimed.receipt_secret.as_deref().and_then(Receipt::parse),
                ..entry.order.clone()
            };
            let notice = self.notice_key(claimed.id);
            if entry.notice {
                // Written again, so that it does not count as one that has waited too long.
                self.put_again(&notice).await?;
            }
            let now = self.clock.now();
            let mut made = Some(claimed.id);
            if !timed::is_current(claimed.id, now) {
                // Before the order, which must not exist without its note.
                let note = format!("{}.{}", OrderId::at(now), claimed.id);
                self.put_again(&self.late.clone().join(note)).await?;
                made = None;
            }
            self.put_order(&order, None, made).await?;
            if entry.notice {
                // Once more, in case it was dropped in between because the claim is old. A duplicate notice
                // is better than none.
                self.put_again(&notice).await?;
            }
        }
        Ok(Kept::Before(claimed.id))
    }

    async fn put_again(&self, key: &Path) -> anyhow::Result<()> {
        let put = self.client().await?.put(key, Bytes::new().into()).await;
        put.map_err(|error| self.explain(error, "write", key))?;
        Ok(())
    }

    async fn delete(&self, key: &Path) -> anyhow::Result<()> {
        match self.client().await?.delete(key).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.explain(error, "delete", key)),
        }
    }

    /// One page of a folder, sorted by key, with the token of the next.
    async fn page(
        &self,
        folder: &Path,
        after: Option<&Path>,
        token: Option<String>,
        limit: usize,
    ) -> anyhow::Result<(Vec<ObjectMeta>, Option<String>)> {
        let mut start = folder.to_string();
        if !start.is_empty() {
            start.push('/');
        }
        let options = PaginatedListOptions {
            // A page continues from its token.
            offset: after.filter(|_| token.is_none()).map(ToString::to_string),
            // Only objects directly in this folder.
            delimiter: Some("/".into()),
            max_keys: Some(limit.min(1000)),
            page_token: token,
            ..PaginatedListOptions::default()
        };
        let page = self
            .client()
            .await?
            .list_paginated(
                Some(start.as_str()).filter(|start| !start.is_empty()),
                options,
            )
            .await
            .map_err(|error| {
                let cause = if Refusal::in_error(&error) == Some(Refusal::WrongClock) {
                    format!(": {}", aws::WRONG_CLOCK)
                } else {
                    "\nhint: allow the role s3:ListBucket".to_owned()
                };
                let context = format!("list s3://{}/{start}{cause}", self.bucket);
                anyhow::Error::new(error).context(context)
            })?;
        Ok((page.result.objects, page.page_token))
    }

    /// Notes after this one, each with its order, at most `limit`; and whether there may be more.
    async fn notes(
        &self,
        after: OrderId,
        limit: usize,
    ) -> anyhow::Result<(Vec<(OrderId, OrderId)>, bool)> {
        // Sorts after every note with this id: hexadecimal ids have no g.
        let after = self.late.clone().join(format!("{after}.g"));
        let mut token = None;
        loop {
            let (objects, next) = self.page(&self.late, Some(&after), token, limit).await?;
            let note = |object: &ObjectMeta| -> Option<(OrderId, OrderId)> {
                let (note, id) = object.location.filename()?.split_once('.')?;
                Some((note.parse().ok()?, id.parse().ok()?))
            };
            let notes: Vec<_> = objects.iter().filter_map(note).collect();
            if !notes.is_empty() || next.is_none() {
                return Ok((notes, next.is_some()));
            }
            token = next;
        }
    }

    /// Interprets the response to a probe.
    fn understand<T>(&self, doing: &str, answer: Result<T, Error>) -> anyhow::Result<()> {
        match answer {
            Ok(_) | Err(Error::AlreadyExists { .. }) => Ok(()),
            Err(error @ Error::NotFound { .. }) => {
                if Refusal::in_error(&error) == Some(Refusal::NoBucket) {
                    bail!("the bucket {} does not exist", self.bucket);
                }
                Ok(())
            }
            Err(error) if Refusal::in_error(&error) == Some(Refusal::WrongClock) => bail!(
                "{doing} s3://{}/{} is refused: {}",
                self.bucket,
                self.orders,
                aws::WRONG_CLOCK
            ),
            Err(Error::PermissionDenied { source, .. }) => bail!(
                "{doing} s3://{}/{} is not allowed: {source}\nhint: allow the role s3:PutObject, \
                 s3:GetObject and s3:ListBucket",
                self.bucket,
                self.orders
            ),
            Err(error) => Err(error).with_context(|| format!("reach the bucket {}", self.bucket)),
        }
    }

    /// Whether the notice's order exists. A notice that has waited too long is dropped.
    async fn is_due(&self, id: OrderId, since: jiff::Timestamp) -> anyhow::Result<bool> {
        let key = self.order_key(id);
        match self.client().await?.head(&key).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => {
                if self.clock.now().duration_since(since) > NOTICE_WAIT {
                    self.delete(&self.notice_key(id)).await?;
                }
                Ok(false)
            }
            Err(error) => Err(self.explain(error, "find", &key)),
        }
    }
}

/// Refusals that share their status with others: 404 is also a missing key, 403 a missing permission.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// The bucket does not exist.
    NoBucket,
    /// The request's time is too far from S3's.
    WrongClock,
}

impl Refusal {
    /// The refusal in an error, whose text is all that `object_store` keeps of the response.
    fn in_error(error: &Error) -> Option<Self> {
        match &*aws::element(&error.to_string(), "Code") {
            "NoSuchBucket" => Some(Self::NoBucket),
            "RequestTimeTooSkewed" => Some(Self::WrongClock),
            _ => None,
        }
    }
}

/// Whether the server may have acted without a response, so that the caller must find out.
fn may_have_arrived(error: &Error) -> bool {
    let mut source = Some(error as &dyn std::error::Error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<HttpError>() {
            return matches!(
                error.kind(),
                HttpErrorKind::Timeout | HttpErrorKind::Interrupted
            );
        }
        source = error.source();
    }
    false
}

/// The id in the last part of a key.
fn id_in(key: &Path, end: &str) -> Option<OrderId> {
    key.filename()?.strip_suffix(end)?.parse().ok()
}

#[async_trait]
impl Store for S3Store {
    async fn create(&self, entry: &Entry) -> Result<Kept, CreateError> {
        timed::check(entry.order.id, self.clock.now()).map_err(CreateError::NotKept)?;
        let kept = self.keep_entry(entry).await;
        if matches!(
            kept,
            Err(CreateError::Unavailable(_) | CreateError::NotKept(_))
        ) {
            self.writes.store(false, Ordering::Relaxed);
        }
        kept
    }

    async fn get(&self, id: OrderId) -> anyhow::Result<Option<Order>> {
        let key = self.order_key(id);
        let found = self.read(&key).await?;
        found
            .map(|found| self.order(&key, &found.content))
            .transpose()
    }

    async fn list(&self, after: OrderId, limit: usize) -> anyhow::Result<Vec<Order>> {
        let after = self.order_key(after);
        let mut orders = Vec::new();
        let mut token = None;
        while orders.len() < limit {
            let wanted = limit - orders.len();
            let (objects, next) = self.page(&self.orders, Some(&after), token, wanted).await?;
            let found: Vec<Option<Order>> = stream::iter(objects)
                .filter_map(|object| std::future::ready(id_in(&object.location, ".json")))
                .map(|id| self.get(id))
                .buffered(READS)
                .try_collect()
                .await?;
            orders.extend(found.into_iter().flatten());
            token = next;
            if token.is_none() {
                break;
            }
        }
        Ok(orders)
    }

    async fn end(&self) -> anyhow::Result<Position> {
        Ok(timed::end(self.clock.now()))
    }

    async fn follow(&self, from: &Position, limit: usize) -> Result<Followed, FollowError> {
        let mut poll = Poll::at(from, self.clock.now())?;
        let mut orders = Vec::new();
        // A note whose order never came counts as read.
        let (notes, more_notes) = self.notes(poll.late, limit).await?;
        let ids: Vec<OrderId> = notes.iter().map(|(_, id)| *id).collect();
        let noted: Vec<Option<Order>> = stream::iter(ids)
            .map(|id| self.get(id))
            .buffered(READS)
            .try_collect()
            .await?;
        for ((note, _), order) in notes.iter().zip(noted) {
            poll.late = *note;
            orders.extend(order.map(|order| (order, poll.position())));
        }
        if more_notes {
            return Ok(Followed { orders, end: None });
        }
        let wanted = limit.saturating_sub(notes.len());
        let listed = match wanted {
            0 => Vec::new(),
            wanted => self.list(poll.read, wanted).await?,
        };
        let at_end = listed.len() < wanted;
        Ok(poll.show(orders, listed, at_end))
    }

    async fn notices(&self, limit: usize) -> anyhow::Result<Vec<OrderId>> {
        let mut due = Vec::new();
        let mut token = None;
        while due.len() < limit {
            let (objects, next) = self.page(&self.notices, None, token, 1000).await?;
            let waiting = objects.into_iter().filter_map(|object| {
                let since = object.last_modified.timestamp();
                Some((
                    id_in(&object.location, "")?,
                    jiff::Timestamp::from_second(since).ok()?,
                ))
            });
            let mut looked_at = stream::iter(waiting)
                .map(|(id, since)| async move { anyhow::Ok((id, self.is_due(id, since).await?)) })
                .buffered(READS);
            while due.len() < limit
                && let Some((id, is_due)) = looked_at.try_next().await?
            {
                if is_due {
                    due.push(id);
                }
            }
            token = next;
            if token.is_none() {
                break;
            }
        }
        Ok(due)
    }

    async fn settle_notice(&self, id: OrderId) -> anyhow::Result<()> {
        self.delete(&self.notice_key(id)).await
    }

    async fn probe(&self) -> anyhow::Result<()> {
        let key = self.orders.clone().join(PROBE);
        let client = self.client().await?;
        self.understand("reading", client.get(&key).await)?;
        if !self.writes.load(Ordering::Relaxed) {
            let made = client.put_opts(&key, Bytes::new().into(), PutMode::Create.into());
            self.understand("writing", made.await)?;
            self.writes.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
