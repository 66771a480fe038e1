//! The S3 store: one object an order, `<prefix>/<id>.json`, created only if absent.
//!
//! Owns the keys and the reading of S3's answers. S3 has no transactions, so what is kept beside an
//! order is written before it: a claim (`<prefix>-claims/<key>.json`) says which id, time and receipt the
//! order will have, and whoever comes with the same claim finishes that order; a notice
//! (`<prefix>-notices/<id>`) is given out once its order is there, and dropped when none came; a note
//! (`<prefix>-late/<id made now>.<order id>`) leads followers to an order that is finished long after its claim
//! (`timed.rs`). They lie beside the folder of orders, so that a list of it holds orders only.
//!
//! The client is made at first use, because it needs the region, which may have to come from the
//! instance.

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
use super::{Claim, CreateError, Entry, FollowError, Followed, Kept, NothingKept, Position, Store};
use crate::aws::{self, Aws, Backoff, Patience};
use crate::clock::Clock;
use crate::order::{Order, OrderId};
use crate::receipt::Receipt;

/// The object the probe asks for: the answer, also "no such key", has been through name, network,
/// credentials and bucket, and costs a read, not a write. Where the right to write is in doubt, it is
/// created if absent, as orders are.
const PROBE: &str = ".probe";
/// After this long no further put is begun: it would not end before the customer is told.
const PUTTING: Duration = Duration::from_secs(8);
/// Objects read at once for a list: their latencies overlap, and memory stays small.
const READS: usize = 32;
/// How long a notice waits for its order, from the time that S3 gave it to this host's. Orders that take longer than seconds were
/// refused, and S3 takes clocks that are 15 minutes ahead: a shorter patience would drop what was announced just now.
const NOTICE_PATIENCE: SignedDuration = SignedDuration::from_mins(30);
/// The name, among an object's metadata, of the attempt that put it.
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
    /// Whether a probe has written since an order could not be.
    writes: AtomicBool,
}

/// What a claim's object says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Claimed {
    id: OrderId,
    received_at: jiff::Timestamp,
    fingerprint: String,
    /// The order's receipt; none in claims of releases before receipts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    receipt_secret: Option<String>,
}

/// How a put ended.
enum Put {
    /// This call made the object.
    Made,
    /// An object is there; whose it is must be looked at, as it may be this call's, made by a put
    /// whose answer was lost.
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

    /// Puts an object where none is. `made` is the id that must have been made just now, at each try.
    async fn put_new(
        &self,
        key: &Path,
        content: impl Into<Bytes>,
        attempt: Option<&str>,
        made: Option<OrderId>,
    ) -> anyhow::Result<Put> {
        let content = content.into();
        let deadline = Instant::now() + PUTTING;
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
            extensions.insert(Patience(deadline));
            let options = PutOptions {
                mode: PutMode::Create,
                attributes,
                extensions,
                ..PutOptions::default()
            };
            let client = self.client().await.context(NothingKept)?;
            let error = match client.put_opts(key, content.clone().into(), options).await {
                Ok(_) => return Ok(Put::Made),
                Err(error @ Error::AlreadyExists { .. }) => {
                    if let Some(found) = self.read(key).await? {
                        return Ok(Put::Found(found));
                    }
                    // S3 says so too while another put to this key is under way, which may fail.
                    error
                }
                Err(error) if may_have_arrived(&error) => error,
                Err(error) => return Err(self.on_key(error, "create", key)),
            };
            if !backoff.pause().await {
                return Err(self.on_key(error, "create", key));
            }
        }
    }

    async fn read(&self, key: &Path) -> anyhow::Result<Option<Object>> {
        let found = match self.client().await?.get(key).await {
            Ok(found) => found,
            Err(Error::NotFound { source, .. }) if !says_no_bucket(&source.to_string()) => {
                return Ok(None);
            }
            Err(error) => return Err(self.on_key(error, "read", key)),
        };
        let attempt = found
            .attributes
            .get(&ATTEMPT)
            .map(|by| by.as_ref().to_owned());
        let content = found.bytes().await;
        let content = content.map_err(|error| self.on_key(error, "read", key))?;
        Ok(Some(Object { content, attempt }))
    }

    fn on_key(&self, error: Error, operation: &str, key: &Path) -> anyhow::Error {
        let wrong = if is_of_the_clock(&error) {
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

    /// Keeps the order and, before it, its notice. `false` when another order has its id.
    async fn keep(&self, order: &Order, notice: bool) -> anyhow::Result<bool> {
        if !notice {
            return match self.put_order(order, None, Some(order.id)).await? {
                None => Ok(true),
                Some((found, _)) => Ok(found == *order),
            };
        }
        let attempt = format!("{:016x}", fastrand::u64(..));
        let notice = self.notice_key(order.id);
        let announced = matches!(self.put_new(&notice, "", None, None).await?, Put::Made);
        let put = self.put_order(order, Some(&attempt), Some(order.id));
        let Some((found, by)) = put.await? else {
            return Ok(true);
        };
        let by_us = by.as_ref() == Some(&attempt);
        if announced && !by_us {
            // The order was there before, with its own notice, which was settled since.
            self.delete(&notice).await?;
        }
        Ok(by_us || found == *order)
    }

    /// The order that was there already, and the attempt that put it; `None` when there was none.
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

    /// Keeps the order under its claim: the first to come with a claim decides its id, time and receipt.
    async fn keep_claimed(&self, entry: &Entry, claim: &Claim) -> Result<Kept, CreateError> {
        let receipt = entry.order.receipt.as_ref();
        let ours = Claimed {
            id: entry.order.id,
            received_at: entry.order.received_at,
            fingerprint: hex(&claim.fingerprint),
            receipt_secret: receipt.map(|receipt| receipt.reveal().to_owned()),
        };
        let kept = self.claim(claim, &ours).await;
        let kept = kept.map_err(CreateError::from)?;
        if kept.fingerprint != ours.fingerprint {
            return Err(CreateError::KeyReused);
        }
        if kept == ours {
            return match self.keep(&entry.order, entry.notice).await {
                Ok(true) => Ok(Kept::Now),
                Ok(false) => Err(CreateError::Exists),
                Err(error) => Err(error.into()),
            };
        }
        self.finish(entry, &kept).await.map_err(CreateError::from)
    }

    /// What is claimed: `ours`, unless somebody was first.
    async fn claim(&self, claim: &Claim, ours: &Claimed) -> anyhow::Result<Claimed> {
        let key = self
            .claims
            .clone()
            .join(format!("{}.json", hex(&claim.key)));
        match self
            .put_new(&key, serde_json::to_vec(ours)?, None, Some(ours.id))
            .await?
        {
            Put::Made => Ok(ours.clone()),
            Put::Found(found) => serde_json::from_slice(&found.content)
                .with_context(|| format!("s3://{}/{key} is not a claim", self.bucket)),
        }
    }

    /// Sees to it that the order of an earlier claim is there: who made the claim may have died, or be
    /// about to write it.
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
                // Made anew, so that it is not taken for one that has waited too long.
                self.put_again(&notice).await?;
            }
            let now = self.clock.now();
            let mut made = Some(claimed.id);
            if !timed::is_current(claimed.id, now) {
                // Before the order, so that it is never there without its note.
                let note = format!("{}.{}", OrderId::at(now), claimed.id);
                self.put_again(&self.late.clone().join(note)).await?;
                made = None;
            }
            self.put_order(&order, None, made).await?;
            if entry.notice {
                // Once more, should it have been dropped in between, when the claim is an old one. A
                // notice too many is better than none.
                self.put_again(&notice).await?;
            }
        }
        Ok(Kept::Before(claimed.id))
    }

    async fn put_again(&self, key: &Path) -> anyhow::Result<()> {
        let put = self.client().await?.put(key, Bytes::new().into()).await;
        put.map_err(|error| self.on_key(error, "write", key))?;
        Ok(())
    }

    async fn delete(&self, key: &Path) -> anyhow::Result<()> {
        match self.client().await?.delete(key).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.on_key(error, "delete", key)),
        }
    }

    /// One page of a folder, in the order of its keys, with the token of the next.
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
            // A page goes on from its token.
            offset: after.filter(|_| token.is_none()).map(ToString::to_string),
            // Only what lies in this very folder.
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
                let cause = if is_of_the_clock(&error) {
                    format!(": {}", aws::WRONG_CLOCK)
                } else {
                    "; hint: the role needs s3:ListBucket".to_owned()
                };
                let place = format!("list s3://{}/{start}{cause}", self.bucket);
                anyhow::Error::new(error).context(place)
            })?;
        Ok((page.result.objects, page.page_token))
    }

    /// Notes after this one, each with the order it leads to, at most `limit`; and whether there may be more.
    async fn notes(
        &self,
        after: OrderId,
        limit: usize,
    ) -> anyhow::Result<(Vec<(OrderId, OrderId)>, bool)> {
        // Sorts after this note, whichever order it leads to: ids have no g.
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

    /// What the answer to a probe says of the bucket.
    fn understand<T>(&self, doing: &str, answer: Result<T, Error>) -> anyhow::Result<()> {
        match answer {
            Ok(_) | Err(Error::AlreadyExists { .. }) => Ok(()),
            Err(Error::NotFound { source, .. }) => {
                if says_no_bucket(&source.to_string()) {
                    bail!("the bucket {} does not exist", self.bucket);
                }
                Ok(())
            }
            Err(error) if is_of_the_clock(&error) => bail!(
                "{doing} s3://{}/{} is refused: {}",
                self.bucket,
                self.orders,
                aws::WRONG_CLOCK
            ),
            Err(Error::PermissionDenied { source, .. }) => bail!(
                "{doing} s3://{}/{} is not allowed: {source}; hint: the role needs s3:PutObject, \
                 s3:GetObject and s3:ListBucket",
                self.bucket,
                self.orders
            ),
            Err(error) => Err(error).with_context(|| format!("reach the bucket {}", self.bucket)),
        }
    }

    /// Whether the notice's order is there. One that has waited too long for it is dropped.
    async fn is_due(&self, id: OrderId, since: jiff::Timestamp) -> anyhow::Result<bool> {
        let key = self.order_key(id);
        match self.client().await?.head(&key).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => {
                if self.clock.now().duration_since(since) > NOTICE_PATIENCE {
                    self.delete(&self.notice_key(id)).await?;
                }
                Ok(false)
            }
            Err(error) => Err(self.on_key(error, "look for", &key)),
        }
    }
}

/// S3 answers 404 for a missing bucket as for a missing key; only the text tells.
fn says_no_bucket(answer: &str) -> bool {
    answer.contains("NoSuchBucket")
}

/// Whether S3 refused a request for its time. Only the text tells: it is a 403 as others are.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>
fn is_of_the_clock(error: &Error) -> bool {
    error.to_string().contains("RequestTimeTooSkewed")
}

/// Whether the server may have acted though no answer came: it must be asked again, for it must be
/// known.
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        use std::fmt::Write as _;
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The id in the last part of a key, when there is one.
fn id_in(key: &Path, end: &str) -> Option<OrderId> {
    key.filename()?.strip_suffix(end)?.parse().ok()
}

#[async_trait]
impl Store for S3Store {
    async fn create(&self, entry: &Entry) -> Result<Kept, CreateError> {
        timed::check(entry.order.id, self.clock.now()).map_err(CreateError::NotKept)?;
        let kept = match &entry.claim {
            Some(claim) => self.keep_claimed(entry, claim).await,
            None => match self.keep(&entry.order, entry.notice).await {
                Ok(true) => Ok(Kept::Now),
                Ok(false) => Err(CreateError::Exists),
                Err(error) => Err(error.into()),
            },
        };
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
        // A note whose order never came leads to none, and is read all the same.
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
