//! The writer: one thread that makes changes durable, many with one fsync.
//!
//! Owns group commit. While one batch is on its way to the disk the next one gathers; each caller is
//! answered after the commit that holds its change, never before. One change cannot fail alone: a
//! batch is durable as a whole or refused as a whole.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use jiff::Timestamp;
use redb::{ReadableTable, Table, WriteTransaction};
use tokio::sync::oneshot;

use super::database::{
    CANDIDATES, CLAIMS, CLAIMS_BY_AGE, Database, FACTS, NOTICES, ORDERS, Place, SEQUENCE, decode,
    last_in,
};
use crate::clock::Sweeps;
use crate::order::OrderId;
use crate::store::{Claim, CreateError};

/// Changes in one commit at most: bounds memory, and how long the first of them waits for the last.
const BATCH: usize = 256;
/// Bytes of orders in one commit at most; well below the room that is kept free on the disk.
const BATCH_BYTES: usize = 2 * 1024 * 1024;
/// How long a claim is kept. Clients retry for minutes, queues for days.
const CLAIMS_KEPT: Duration = Duration::from_secs(72 * 3600);
/// Old claims are looked for this often.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
/// How many of them go in one commit at most, so that no order waits for a great clearing.
const SWEEP: usize = 512;
/// An attempt to open the database that takes longer is not repeated at once.
const LONG_ATTEMPT: Duration = Duration::from_millis(250);
/// The longest the writer rests between two commits.
const LONGEST_REST: Duration = Duration::from_millis(1);
/// With so few changes in a commit the disk has time to spare.
const QUIET: usize = 4;
/// A probe that follows a commit this closely has been answered by it.
const FRESH: Duration = Duration::from_millis(1500);

/// A change and who waits for it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) change: Change,
    pub(super) reply: oneshot::Sender<Result<Outcome, Failed>>,
}

/// Why a change was not confirmed.
#[derive(Debug)]
pub(super) enum Failed {
    /// Before anything was written: it is certain that nothing was kept.
    Before(anyhow::Error),
    /// On the way to the disk, which may have taken it.
    OnTheWay(anyhow::Error),
}

impl Failed {
    /// The same, for one more job of the batch.
    fn again(&self) -> Self {
        match self {
            Self::Before(error) => Self::Before(anyhow!("{error:#}")),
            Self::OnTheWay(error) => Self::OnTheWay(anyhow!("{error:#}")),
        }
    }
}

impl From<Failed> for anyhow::Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Before(error) | Failed::OnTheWay(error) => error,
        }
    }
}

impl From<Failed> for CreateError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Before(error) => Self::NotKept(error),
            Failed::OnTheWay(error) => Self::Unavailable(error),
        }
    }
}

/// What is to become durable.
#[derive(Debug)]
pub(super) enum Change {
    /// An order, with what is kept beside it.
    Order {
        id: OrderId,
        row: Vec<u8>,
        claim: Option<Claim>,
        notice: bool,
    },
    /// The notice of this order is sent.
    Settled(OrderId),
    /// A candidate.
    Candidate(String),
    /// Nothing but the proof that a change would be.
    Probe,
    /// Nothing; the database is to be open.
    None,
    /// Nothing more; the database is to be closed.
    Close,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is durable.
    Done,
    /// The claim's order is this one.
    Before(OrderId),
    /// The id belongs to another order.
    Exists,
    /// The claim's key belongs to other fields.
    KeyReused,
}

/// Serves `queue` until nobody can put anything in any more, then closes the database.
#[expect(
    clippy::disallowed_methods,
    reason = "the writer rests on a thread of its own, where nobody else wants to run"
)]
pub(super) fn run(place: &Place, queue: &Receiver<Job>) {
    let mut writer = Writer {
        place,
        committed: None,
        sweeps: Sweeps::every(SWEEP_INTERVAL),
        refused: None,
        rest: Duration::ZERO,
        closed: false,
    };
    let mut batch = Vec::with_capacity(BATCH);
    while let Ok(first) = queue.recv() {
        std::thread::sleep(writer.rest);
        gather(queue, first, &mut batch);
        writer.serve(&mut batch);
    }
    place.close();
}

/// `first` and what waits behind it, up to the bounds.
fn gather(queue: &Receiver<Job>, first: Job, batch: &mut Vec<Job>) {
    let mut bytes = 0;
    let mut next = Some(first);
    while let Some(job) = next {
        if let Change::Order { row, .. } = &job.change {
            bytes += row.len();
        }
        // A caller that gave up does not know whether the order was kept; keeping it now could make the
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
    place: &'a Place,
    /// When the last commit succeeded.
    committed: Option<Instant>,
    /// When old claims are looked for.
    sweeps: Sweeps,
    /// Until when the database is not opened again, and why.
    refused: Option<(Instant, String)>,
    /// How long to rest before the next commit. Those who were just answered come back one after the
    /// other; a writer that left with the first of them would have the rest wait for two fsyncs. An
    /// eighth of a commit halves the number of fsyncs under load; nobody who comes alone waits.
    rest: Duration,
    /// Whether it was told that nothing more comes.
    closed: bool,
}

impl Writer<'_> {
    /// Makes the batch durable and answers everybody in it.
    fn serve(&mut self, batch: &mut Vec<Job>) {
        if self.closed || batch.iter().any(|job| matches!(job.change, Change::Close)) {
            self.place.close();
            // For good: whoever comes late must not open it again behind the one who closed it.
            self.closed = true;
            for job in batch.drain(..) {
                let answer = match job.change {
                    Change::Close => Ok(Outcome::Done),
                    _ => Err(Failed::Before(anyhow!("the store is closed"))),
                };
                let _ = job.reply.send(answer);
            }
            return;
        }
        let outcomes = self.commit(batch);
        match outcomes {
            Ok(outcomes) => {
                for (job, outcome) in batch.drain(..).zip(outcomes) {
                    // Nobody there: the order is kept all the same, as after any lost answer.
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
        self.make_ready().map_err(Failed::Before)?;
        let writes = batch
            .iter()
            .any(|job| !matches!(job.change, Change::None | Change::Probe));
        let probed = batch.iter().any(|job| matches!(job.change, Change::Probe));
        let fresh = self.committed.is_some_and(|at| at.elapsed() < FRESH);
        if !writes && (!probed || fresh) {
            return Ok(vec![Outcome::Done; batch.len()]);
        }
        let committed = self.place.read(|database| self.transact(database, batch));
        if committed.is_err() {
            // Whatever it was, the next batch begins with a database fresh from the disk.
            self.place.distrust();
            self.committed = None;
        }
        committed.map_err(Failed::OnTheWay)
    }

    /// Opens the database when it has to be. After a long attempt that failed the next one waits as long
    /// as this one took: to read and check a large file again and again would keep a sick disk from
    /// anything else.
    fn make_ready(&mut self) -> anyhow::Result<()> {
        if let Some((until, reason)) = &self.refused
            && Instant::now() < *until
        {
            bail!("{reason}");
        }
        let began = Instant::now();
        let ready = self.place.make_ready();
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
        let place = || format!("write to {}", self.place.file().display());
        let transaction = database.write(batch.len() <= QUIET).with_context(place)?;
        let (outcomes, changed) = {
            let mut tables = Tables::open(&transaction).with_context(place)?;
            let mut outcomes = Vec::with_capacity(batch.len());
            let mut changed = false;
            for job in batch {
                let (outcome, did) = tables.apply(&job.change).with_context(place)?;
                outcomes.push(outcome);
                changed |= did;
            }
            tables.number_created().with_context(place)?;
            if let Some(now) = self.sweeps.due(Instant::now(), Timestamp::now()) {
                changed |= tables.sweep_claims(now).with_context(place)?;
            }
            (outcomes, changed)
        };
        if changed {
            let began = Instant::now();
            transaction.commit().with_context(place)?;
            let ended = Instant::now();
            self.committed = Some(ended);
            self.rest = match batch.len() {
                0 | 1 => Duration::ZERO,
                _ => ((ended - began) / 8).min(LONGEST_REST),
            };
        } else {
            transaction.abort().with_context(place)?;
        }
        Ok(outcomes)
    }
}

/// The tables of one transaction.
struct Tables<'t> {
    orders: Table<'t, &'static [u8; 16], &'static [u8]>,
    sequence: Table<'t, u64, &'static [u8]>,
    /// Ids of the orders of this transaction.
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

    /// What becomes of the change, and whether anything is different for it.
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

    /// Gives the orders of this transaction their numbers.
    fn number_created(&mut self) -> Result<(), redb::StorageError> {
        if !self.created.is_empty() {
            let last = last_in(&self.sequence)?.map_or(0, |(number, _)| number);
            self.sequence.insert(last + 1, &*self.created)?;
        }
        Ok(())
    }

    /// Forgets claims that are older than anybody's retry.
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
