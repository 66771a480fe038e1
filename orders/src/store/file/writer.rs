//! The writer: one thread that makes changes durable, many with one fsync.
//!
//! Implements group commit. While one batch is written the next one accumulates; each caller gets its result
//! after the commit of its change, never before. A batch is durable as a whole or refused as a whole.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use jiff::Timestamp;
use redb::{ReadableTable, Table, WriteTransaction};
use tokio::sync::oneshot;

use super::database::{
    CANDIDATES, CLAIMS, CLAIMS_BY_AGE, Database, DatabaseHandle, FACTS, NOTICES, ORDERS, SEQUENCE,
    decode, last_in,
};
use crate::clock::Sweeps;
use crate::order::OrderId;
use crate::store::{Claim, CreateError};

/// Changes per commit: limits memory, and how long the first waits for the last.
const BATCH: usize = 256;
/// Bytes of orders per commit; well below the free space that is required.
const BATCH_BYTES: usize = 2 * 1024 * 1024;
/// Lifetime of a claim. Clients retry for minutes, queues for days.
const CLAIMS_KEPT: Duration = Duration::from_secs(72 * 3600);
/// How often old claims are deleted.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
/// Claims deleted per commit, so that no order waits for a large deletion.
const SWEEP: usize = 512;
/// A failed attempt to open the database that takes longer is not repeated at once.
const LONG_ATTEMPT: Duration = Duration::from_millis(250);
/// Longest pause between two commits.
const MAX_PAUSE: Duration = Duration::from_millis(1);
/// With so few changes per commit the disk has time to spare.
const FEW_CHANGES: usize = 4;
/// A probe this soon after a successful commit succeeds without one of its own.
const FRESH: Duration = Duration::from_millis(1500);

/// A change and the caller that waits for it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) change: Change,
    pub(super) reply: oneshot::Sender<Result<Outcome, Failed>>,
}

/// Why a change was not confirmed.
#[derive(Debug)]
pub(super) enum Failed {
    /// It failed before anything was written: certainly nothing was stored.
    NotWritten(anyhow::Error),
    /// It failed while writing; the change may have been stored.
    Unknown(anyhow::Error),
}

impl Failed {
    /// A copy, for another job of the batch.
    fn again(&self) -> Self {
        match self {
            Self::NotWritten(error) => Self::NotWritten(anyhow!("{error:#}")),
            Self::Unknown(error) => Self::Unknown(anyhow!("{error:#}")),
        }
    }
}

impl From<Failed> for anyhow::Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::NotWritten(error) | Failed::Unknown(error) => error,
        }
    }
}

impl From<Failed> for CreateError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::NotWritten(error) => Self::NotKept(error),
            Failed::Unknown(error) => Self::Unavailable(error),
        }
    }
}

/// A change to make durable.
#[derive(Debug)]
pub(super) enum Change {
    /// An order, with its claim and notice.
    Order {
        id: OrderId,
        row: Vec<u8>,
        claim: Option<Claim>,
        notice: bool,
    },
    /// The notice of this order was sent.
    Settled(OrderId),
    /// A candidate.
    Candidate(String),
    /// Tests whether a change would succeed.
    Probe,
    /// No change; opens the database.
    None,
    /// No more changes; closes the database.
    Close,
}

/// The result of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is durable.
    Done,
    /// An earlier order has the same claim.
    Before(OrderId),
    /// A different order has the id.
    Exists,
    /// The claim's key was used for other fields.
    KeyReused,
}

/// Serves `queue` until all senders are dropped, then closes the database.
#[expect(
    clippy::disallowed_methods,
    reason = "the writer pauses on its own thread, where nothing else runs"
)]
pub(super) fn run(handle: &DatabaseHandle, queue: &Receiver<Job>) {
    let mut writer = Writer {
        handle,
        committed: None,
        sweeps: Sweeps::every(SWEEP_INTERVAL),
        refused: None,
        pause: Duration::ZERO,
        closed: false,
    };
    let mut batch = Vec::with_capacity(BATCH);
    while let Ok(first) = queue.recv() {
        std::thread::sleep(writer.pause);
        gather(queue, first, &mut batch);
        writer.serve(&mut batch);
    }
    handle.close();
}

/// Collects `first` and the waiting jobs, up to the limits.
fn gather(queue: &Receiver<Job>, first: Job, batch: &mut Vec<Job>) {
    let mut bytes = 0;
    let mut next = Some(first);
    while let Some(job) = next {
        if let Change::Order { row, .. } = &job.change {
            bytes += row.len();
        }
        // A caller that gave up has reported an unknown outcome; storing the order now could make the
        // customer's second attempt a second order.
        if !job.reply.is_closed() {
            batch.push(job);
        }
        if batch.len() >= BATCH || bytes >= BATCH_BYTES {
            return;
        }
        next = queue.try_recv().ok();
    }
}

struct Writer<'a> {
    handle: &'a DatabaseHandle,
    /// When the last commit succeeded.
    committed: Option<Instant>,
    /// Schedule for deleting old claims.
    sweeps: Sweeps,
    /// Until when the database is not opened again, and why.
    refused: Option<(Instant, String)>,
    /// Pause before the next commit. Callers that just got their result come back one after the other;
    /// without a pause the first of them would start a commit, and the rest would wait for two fsyncs. An
    /// eighth of a commit's duration halves the number of fsyncs under load; a single caller does not wait.
    pause: Duration,
    /// Whether the store was closed.
    closed: bool,
}

impl Writer<'_> {
    /// Makes the batch durable and sends every result.
    fn serve(&mut self, batch: &mut Vec<Job>) {
        if self.closed || batch.iter().any(|job| matches!(job.change, Change::Close)) {
            self.handle.close();
            // Stays closed: a late change must not open the database again.
            self.closed = true;
            for job in batch.drain(..) {
                let answer = match job.change {
                    Change::Close => Ok(Outcome::Done),
                    _ => Err(Failed::NotWritten(anyhow!("the store is closed"))),
                };
                let _ = job.reply.send(answer);
            }
            return;
        }
        let outcomes = self.commit(batch);
        match outcomes {
            Ok(outcomes) => {
                for (job, outcome) in batch.drain(..).zip(outcomes) {
                    // If the caller has gone, the order is stored all the same, as after any lost response.
                    let _ = job.reply.send(Ok(outcome));
                }
            }
            Err(failed) => {
                for job in batch.drain(..) {
                    let _ = job.reply.send(Err(failed.again()));
                }
            }
        }
    }

    fn commit(&mut self, batch: &[Job]) -> Result<Vec<Outcome>, Failed> {
        self.make_ready().map_err(Failed::NotWritten)?;
        let writes = batch
            .iter()
            .any(|job| !matches!(job.change, Change::None | Change::Probe));
        let probed = batch.iter().any(|job| matches!(job.change, Change::Probe));
        let fresh = self.committed.is_some_and(|at| at.elapsed() < FRESH);
        if !writes && (!probed || fresh) {
            return Ok(vec![Outcome::Done; batch.len()]);
        }
        let committed = self.handle.read(|database| self.transact(database, batch));
        if committed.is_err() {
            // Whatever failed, the next batch starts with the database reopened from disk.
            self.handle.mark_failed();
            self.committed = None;
        }
        committed.map_err(Failed::Unknown)
    }

    /// Opens the database if necessary. After a long attempt that failed, waits as long as the attempt took:
    /// checking a large file again and again would keep a failing disk busy.
    fn make_ready(&mut self) -> anyhow::Result<()> {
        if let Some((until, reason)) = &self.refused
            && Instant::now() < *until
        {
            bail!("{reason}");
        }
        let began = Instant::now();
        let ready = self.handle.make_ready();
        let took = began.elapsed();
        self.refused = match &ready {
            Err(error) if took > LONG_ATTEMPT => {
                Some((Instant::now() + took, format!("{error:#}")))
            }
            _ => None,
        };
        ready
    }

    fn transact(&mut self, database: &Database, batch: &[Job]) -> anyhow::Result<Vec<Outcome>> {
        let context = || format!("write to {}", self.handle.file().display());
        let transaction = database
            .write(batch.len() <= FEW_CHANGES)
            .with_context(context)?;
        let (outcomes, changed) = {
            let mut tables = Tables::open(&transaction).with_context(context)?;
            let mut outcomes = Vec::with_capacity(batch.len());
            let mut changed = false;
            for job in batch {
                let (outcome, did) = tables.apply(&job.change).with_context(context)?;
                outcomes.push(outcome);
                changed |= did;
            }
            tables.number_created().with_context(context)?;
            if let Some(now) = self.sweeps.due(Instant::now(), Timestamp::now()) {
                changed |= tables.sweep_claims(now).with_context(context)?;
            }
            (outcomes, changed)
        };
        if changed {
            let began = Instant::now();
            transaction.commit().with_context(context)?;
            let ended = Instant::now();
            self.committed = Some(ended);
            self.pause = match batch.len() {
                0 | 1 => Duration::ZERO,
                _ => ((ended - began) / 8).min(MAX_PAUSE),
            };
        } else {
            transaction.abort().with_context(context)?;
        }
        Ok(outcomes)
    }
}

/// The tables of one transaction.
struct Tables<'t> {
    orders: Table<'t, &'static [u8; 16], &'static [u8]>,
    sequence: Table<'t, u64, &'static [u8]>,
    /// Ids of the orders created in this transaction.
    created: Vec<u8>,
    claims: Table<'t, &'static [u8; 32], super::database::ClaimRow>,
    claims_by_age: Table<'t, &'static [u8; 16], &'static [u8; 32]>,
    notices: Table<'t, &'static [u8; 16], ()>,
    candidates: Table<'t, &'static str, ()>,
    facts: Table<'t, &'static str, u64>,
}

impl<'t> Tables<'t> {
    fn open(transaction: &'t WriteTransaction) -> Result<Self, redb::TableError> {
        Ok(Self {
            orders: transaction.open_table(ORDERS)?,
            sequence: transaction.open_table(SEQUENCE)?,
            created: Vec::new(),
            claims: transaction.open_table(CLAIMS)?,
            claims_by_age: transaction.open_table(CLAIMS_BY_AGE)?,
            notices: transaction.open_table(NOTICES)?,
            candidates: transaction.open_table(CANDIDATES)?,
            facts: transaction.open_table(FACTS)?,
        })
    }

    /// Applies a change; returns its result and whether anything was modified.
    fn apply(&mut self, change: &Change) -> anyhow::Result<(Outcome, bool)> {
        Ok(match change {
            Change::Order {
                id,
                row,
                claim,
                notice,
            } => return self.create(*id, row, claim.as_ref(), *notice),
            Change::Settled(id) => {
                let was = self.notices.remove(id.as_bytes())?.is_some();
                (Outcome::Done, was)
            }
            Change::Candidate(name) => {
                let was = self.candidates.insert(name.as_str(), ())?.is_some();
                (Outcome::Done, !was)
            }
            Change::Probe => {
                let probes = self.facts.get("probes")?.map_or(0, |count| count.value());
                self.facts.insert("probes", probes.wrapping_add(1))?;
                (Outcome::Done, true)
            }
            Change::None | Change::Close => (Outcome::Done, false),
        })
    }

    fn create(
        &mut self,
        id: OrderId,
        row: &[u8],
        claim: Option<&Claim>,
        notice: bool,
    ) -> anyhow::Result<(Outcome, bool)> {
        if let Some(claim) = claim
            && let Some(found) = self.claims.get(&claim.key)?
        {
            let (fingerprint, order) = found.value();
            return Ok(if *fingerprint == claim.fingerprint {
                (Outcome::Before(OrderId::from_bytes(*order)), false)
            } else {
                (Outcome::KeyReused, false)
            });
        }
        if let Some(kept) = self.orders.get(id.as_bytes())? {
            let same = kept.value() == row || decode(id, kept.value())? == decode(id, row)?;
            let outcome = if same { Outcome::Done } else { Outcome::Exists };
            return Ok((outcome, false));
        }
        self.orders.insert(id.as_bytes(), row)?;
        self.created.extend(id.as_bytes());
        if let Some(claim) = claim {
            self.claims
                .insert(&claim.key, (&claim.fingerprint, id.as_bytes()))?;
            self.claims_by_age.insert(id.as_bytes(), &claim.key)?;
        }
        if notice {
            self.notices.insert(id.as_bytes(), ())?;
        }
        Ok((Outcome::Done, true))
    }

    /// Assigns numbers to the orders of this transaction.
    fn number_created(&mut self) -> Result<(), redb::StorageError> {
        if !self.created.is_empty() {
            let last = last_in(&self.sequence)?.map_or(0, |(number, _)| number);
            self.sequence.insert(last + 1, &*self.created)?;
        }
        Ok(())
    }

    /// Deletes claims that are too old for any retry.
    fn sweep_claims(&mut self, now: Timestamp) -> anyhow::Result<bool> {
        let oldest = OrderId::floor(now - CLAIMS_KEPT);
        let old: Vec<([u8; 16], [u8; 32])> = self
            .claims_by_age
            .range::<&[u8; 16]>(..oldest.as_bytes())?
            .take(SWEEP)
            .map(|row| row.map(|(id, key)| (*id.value(), *key.value())))
            .collect::<Result<_, _>>()?;
        for (id, key) in &old {
            self.claims_by_age.remove(id)?;
            self.claims.remove(key)?;
        }
        Ok(!old.is_empty())
    }
}
