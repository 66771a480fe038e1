//! The database file: its tables, how it is opened, checked and repaired, and reading from it.
//!
//! Owns the file's format. An order is a JSON row ([`Order::to_row`]) under its id's 16 bytes, so that it can
//! be read in ten years without this program. What must be stored or refused together with an order (its
//! claim, its notice, its number in the sequence) is in tables of the same file, and so part of the same
//! transaction.

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use redb::backends::FileBackend;
use redb::{
    Builder, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageError,
    TableDefinition,
};

use super::disk::{self, Failures, Identity, TrackedFile};
use super::panics::PanicMarker;
use crate::candidates::PAGE;
use crate::order::{Order, OrderId};
use crate::settings::FILE_STORE;
use crate::store::numbered::{Numbered, NumberedPoll};
use crate::store::{FollowError, Followed, Position};

/// The file's name in its folder.
const FILE: &str = FILE_STORE;
/// Page cache: the tree's upper levels and its right edge, where new orders go. The rest is left to the
/// operating system's cache, which shrinks when memory is short.
const CACHE_BYTES: usize = 4 * 1024 * 1024;
/// Up to this size the whole file is checked at every start. Larger files only after an unclean end or a
/// failure: a restart must not take minutes.
const CHECKED_AT_START: u64 = 64 * 1024 * 1024;
/// The version of the tables below. A program that finds a newer one refuses the file.
const FORMAT: u64 = 1;
/// Ids per row when numbering orders that have no number.
const IDS_PER_ROW: usize = 256;
/// Orders read at once to find those without a number; limits memory, at 17 bytes each.
const MAX_UNNUMBERED: usize = 1_000_000;

/// Order id → order as JSON.
pub(super) const ORDERS: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("orders");
/// Claim's key → fingerprint and order id.
pub(super) const CLAIMS: TableDefinition<'_, &[u8; 32], ClaimRow> = TableDefinition::new("claims");
/// Order id → claim's key, by which old claims are found.
pub(super) const CLAIMS_BY_AGE: TableDefinition<'_, &[u8; 16], &[u8; 32]> =
    TableDefinition::new("claims_by_age");
/// The number of a commit's first order → the ids of that commit's orders, 16 bytes each: one row per commit
/// instead of one per order. Numbers start at 1, in the order in which orders were stored. Orders written by
/// a release without this table get a number at the next start ([`Database::number_orders`]).
pub(super) const SEQUENCE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("sequence");
/// Ids of orders whose notices are not settled.
pub(super) const NOTICES: TableDefinition<'_, &[u8; 16], ()> = TableDefinition::new("notices");
/// Names of candidates.
pub(super) const CANDIDATES: TableDefinition<'_, &str, ()> = TableDefinition::new("candidates");
/// Facts about the file itself.
pub(super) const FACTS: TableDefinition<'_, &str, u64> = TableDefinition::new("facts");

/// The value of a claim.
pub(super) type ClaimRow = (&'static [u8; 32], &'static [u8; 16]);

/// The path of the database, and the database while it is open.
#[derive(Debug)]
pub(super) struct DatabaseHandle {
    folder: PathBuf,
    file: PathBuf,
    /// Locked for writing only to open or close the database; commits and reads share it.
    open: RwLock<Option<Database>>,
    is_open: AtomicBool,
    /// Whether this process has had it open: from then on a missing file is data loss, not a new store.
    known: AtomicBool,
    failures: Arc<Failures>,
    panicked: PanicMarker,
}

impl DatabaseHandle {
    pub(super) fn new(folder: PathBuf) -> Self {
        let file = folder.join(FILE);
        Self {
            panicked: PanicMarker::of(&file),
            file,
            folder,
            open: RwLock::new(None),
            is_open: AtomicBool::new(false),
            known: AtomicBool::new(false),
            failures: Arc::default(),
        }
    }

    /// Whether it is open, without waiting.
    pub(super) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// Runs `work` on the open database. After a failure the writer opens it again.
    pub(super) fn read<T>(
        &self,
        work: impl FnOnce(&Database) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let database = open
            .as_ref()
            .ok_or_else(|| anyhow!("{} is being reopened", self.file.display()))?;
        self.catching_panics(|| work(database))
    }

    /// Runs `work` on the file. A panic counts as a failure, if the build unwinds.
    fn catching_panics<T>(&self, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        self.panicked.run(work).unwrap_or_else(|| {
            self.failures.note();
            Err(anyhow!(
                "the database of {} panicked; the file is checked before it is used again",
                self.file.display()
            ))
        })
    }

    /// Opens the database, or reopens it after a failure. For the writer only.
    ///
    /// # Errors
    /// Why it cannot accept orders now.
    pub(super) fn make_ready(&self) -> anyhow::Result<()> {
        let failed = self.failures.take();
        let identity = Identity::of(&self.file)?;
        let current = self.read(|database| Ok(database.identity)).ok();
        match (current, identity) {
            (Some(current), Some(found)) if current == found && !failed => {
                return self.require_space();
            }
            (None, None) if !self.known.load(Ordering::Acquire) => {}
            (_, None) => {
                // If it is still open, leave it open: its content can then be copied from /proc/PID/fd
                // although its name is deleted.
                if failed {
                    self.failures.note();
                }
                bail!(
                    "{} was deleted while it was in use\nhint: restore it (or mount its disk), or restart \
                     the service to begin with no orders",
                    self.file.display()
                );
            }
            _ => {}
        }
        self.put(None);
        let failed = failed || self.panicked.exists();
        let opened = self.catching_panics(|| self.open(failed));
        if failed && opened.is_err() {
            self.failures.note();
        }
        self.put(Some(opened?));
        self.known.store(true, Ordering::Release);
        Ok(())
    }

    /// Records that the open database must not be trusted.
    pub(super) fn mark_failed(&self) {
        self.failures.note();
    }

    /// Closes the database cleanly.
    pub(super) fn close(&self) {
        self.put(None);
    }

    fn put(&self, database: Option<Database>) {
        let is_open = database.is_some();
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        self.is_open.store(is_open, Ordering::Release);
        let before = std::mem::replace(&mut *open, database);
        // Closing also reads and writes. Failures are logged, or found at the next opening.
        let _ = self.catching_panics(|| {
            drop(before);
            Ok(())
        });
    }

    fn open(&self, failed: bool) -> anyhow::Result<Database> {
        let began = Instant::now();
        let is_new = !self.known.load(Ordering::Acquire);
        if is_new {
            disk::make_folder(&self.folder)?;
        }
        self.require_space()?;
        let (file, identity) = disk::open_file(&self.file, is_new)?;
        let size = file
            .metadata()
            .with_context(|| format!("read the metadata of {}", self.file.display()))?
            .len();
        if failed {
            disk::forget_cached(&file)
                .with_context(|| format!("discard cached pages of {}", self.file.display()))?;
        }
        let unclean = disk::ended_uncleanly(&file)
            .with_context(|| format!("read the header of {}", self.file.display()))?;
        let is_large = size > CHECKED_AT_START;
        #[cfg(test)]
        let is_large = is_large || self.failures.injected.is_large();
        if is_large && (failed || unclean) {
            // Logged before: until it is done, the probe can only report a timeout.
            tracing::warn!(file = %self.file.display(), size, failed, "checking the whole store");
        }
        let backend = FileBackend::new(file)
            .map_err(|error| self.explain(error))
            .map(|file| TrackedFile::new(file, Arc::clone(&self.failures)))?;
        let redb = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(failed || !is_large)
            .create_with_backend(backend)
            .map_err(|error| self.explain(error))?;
        let database = Database {
            redb,
            identity,
            is_large,
            file: self.file.clone(),
        };
        database.make_tables()?;
        if size == 0 {
            // Otherwise a crash could leave the first orders in a file without a name.
            disk::sync_folder(&self.folder)?;
        }
        let orders = database.count()?;
        if failed {
            self.panicked.remove()?;
        }
        let milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let file = self.file.display();
        if unclean {
            tracing::warn!(%file, orders, size, milliseconds, "store opened and repaired after an unclean end");
        } else {
            tracing::info!(%file, orders, size, milliseconds, "store opened");
        }
        Ok(database)
    }

    fn explain(&self, error: DatabaseError) -> anyhow::Error {
        let hint = match &error {
            DatabaseError::DatabaseAlreadyOpen => {
                "another process has it open\nhint: stop it (fuser -v shows it), or \
                 use the running service over HTTP"
            }
            DatabaseError::Storage(StorageError::Corrupted(_))
            | DatabaseError::UpgradeRequired(_) => {
                "it is damaged or not an order store\nhint: move it away and restore a backup, or restart \
                 without it to begin with no orders"
            }
            DatabaseError::Storage(StorageError::Io(error))
                if error.kind() == std::io::ErrorKind::InvalidData =>
            {
                "it is damaged or not an order store\nhint: move it away and restore a backup, or restart \
                 without it to begin with no orders"
            }
            _ => "it cannot be opened",
        };
        anyhow::Error::new(error)
            .context(hint)
            .context(format!("open {}", self.file.display()))
    }

    /// Refuses if the disk is almost full.
    fn require_space(&self) -> anyhow::Result<()> {
        let room = disk::free_space(&self.folder)?;
        #[cfg(test)]
        let room = self.failures.injected.room(room);
        disk::require_space(room, &self.folder)
    }

    #[cfg(test)]
    pub(super) fn injected(&self) -> &super::tests::Injected {
        &self.failures.injected
    }

    /// The path of the file.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }
}

/// The open database.
#[derive(Debug)]
pub(super) struct Database {
    redb: redb::Database,
    identity: Identity,
    /// Whether reading all of it takes noticeable time.
    is_large: bool,
    file: PathBuf,
}

impl Database {
    /// A transaction for the writer; `quiet` if the disk has time to spare.
    pub(super) fn write(
        &self,
        quiet: bool,
    ) -> Result<redb::WriteTransaction, redb::TransactionError> {
        let mut transaction = self.redb.begin_write()?;
        // Stores allocation data that a start after a crash would otherwise compute by reading the whole file
        // (about a second for a million orders), at the cost of a second fsync.
        transaction.set_quick_repair(quiet && self.is_large);
        Ok(transaction)
    }

    /// Creates missing tables; refuses a file with a newer format.
    fn make_tables(&self) -> anyhow::Result<()> {
        let context = || format!("open the tables of {}", self.file.display());
        let transaction = self.redb.begin_write().with_context(context)?;
        let known = {
            let mut facts = transaction.open_table(FACTS).with_context(context)?;
            let format = facts
                .get("format")
                .with_context(context)?
                .map(|f| f.value());
            if format.is_none() {
                facts.insert("format", FORMAT).with_context(context)?;
            }
            transaction.open_table(ORDERS).with_context(context)?;
            transaction.open_table(CLAIMS).with_context(context)?;
            transaction
                .open_table(CLAIMS_BY_AGE)
                .with_context(context)?;
            transaction.open_table(NOTICES).with_context(context)?;
            transaction.open_table(CANDIDATES).with_context(context)?;
            format
        };
        if let Some(format) = known
            && format != FORMAT
        {
            bail!(
                "{} has format {format}, this program supports {FORMAT}\nhint: start the newer version of orders that wrote it",
                self.file.display()
            );
        }
        let numbered = self.number_orders(&transaction).with_context(context)?;
        if known.is_none() || numbered > 0 {
            transaction.commit().with_context(context)?;
        } else {
            transaction.abort().with_context(context)?;
        }
        Ok(())
    }

    /// Numbers the orders that have no number, sorted by id; returns how many. They were written by a release
    /// without numbers: all of them at the first start of this one, and some after a fleet was rolled back
    /// and forward.
    fn number_orders(&self, transaction: &redb::WriteTransaction) -> anyhow::Result<u64> {
        let orders = transaction.open_table(ORDERS)?;
        let mut sequence = transaction.open_table(SEQUENCE)?;
        // Orders are never deleted, so if each has a number, the last number equals the count.
        let last = last_in(&sequence)?.map_or(0, |(number, _)| number);
        let missing = orders.len()?.saturating_sub(last);
        if missing == 0 {
            return Ok(0);
        }
        let mut next = last + 1;
        let mut ids = orders.iter()?;
        loop {
            let some: Vec<[u8; 16]> = ids
                .by_ref()
                .take(MAX_UNNUMBERED)
                .map(|row| row.map(|(id, _)| *id.value()))
                .collect::<Result<_, _>>()?;
            if some.is_empty() {
                break;
            }
            let mut has_one = vec![false; some.len()];
            for row in sequence.iter()? {
                for id in ids_in(row?.1.value()) {
                    if let Ok(index) = some.binary_search(id) {
                        has_one[index] = true;
                    }
                }
            }
            let without = some.iter().zip(has_one).filter(|(_, has_one)| !has_one);
            let without: Vec<[u8; 16]> = without.map(|(id, _)| *id).collect();
            for row in without.chunks(IDS_PER_ROW) {
                sequence.insert(next, row.as_flattened())?;
                next += row.len() as u64;
            }
        }
        tracing::info!(file = %self.file.display(), orders = missing, "numbered the orders of an earlier release");
        Ok(missing)
    }

    fn count(&self) -> anyhow::Result<u64> {
        let context = || format!("count the orders in {}", self.file.display());
        let table = self.redb.begin_read().with_context(context)?;
        let table = table.open_table(ORDERS).with_context(context)?;
        table.len().with_context(context)
    }

    /// The order with this id.
    pub(super) fn order(&self, id: OrderId) -> anyhow::Result<Option<Order>> {
        let context = || format!("look up order {id} in {}", self.file.display());
        let table = self.redb.begin_read().with_context(context)?;
        let table = table.open_table(ORDERS).with_context(context)?;
        let row = table.get(id.as_bytes()).with_context(context)?;
        row.map(|row| decode(id, row.value())).transpose()
    }

    /// Orders with ids above `after`, at most `limit`.
    pub(super) fn orders(&self, after: OrderId, limit: usize) -> anyhow::Result<Vec<Order>> {
        let context = || format!("list orders after {after} in {}", self.file.display());
        let table = self.redb.begin_read().with_context(context)?;
        let table = table.open_table(ORDERS).with_context(context)?;
        table
            .range::<&[u8; 16]>((Bound::Excluded(after.as_bytes()), Bound::Unbounded))
            .with_context(context)?
            .take(limit)
            .map(|row| {
                let (id, row) = row.with_context(context)?;
                decode(OrderId::from_bytes(*id.value()), row.value())
            })
            .collect()
    }

    /// The number and id of the last order that was stored.
    pub(super) fn last(&self) -> anyhow::Result<Option<(u64, OrderId)>> {
        let context = || format!("read the last order in {}", self.file.display());
        let table = self.redb.begin_read().with_context(context)?;
        let table = table.open_table(SEQUENCE).with_context(context)?;
        last_in(&table).with_context(context)
    }

    /// Orders in the sequence from `from` on, at most `limit`.
    pub(super) fn follow(&self, from: &Position, limit: usize) -> Result<Followed, FollowError> {
        let poll = NumberedPoll::from(from)?;
        let context = || format!("follow the orders in {}", self.file.display());
        let read = || -> anyhow::Result<(Option<OrderId>, Vec<Numbered>)> {
            let transaction = self.redb.begin_read().with_context(context)?;
            let sequence = transaction.open_table(SEQUENCE).with_context(context)?;
            let orders = transaction.open_table(ORDERS).with_context(context)?;
            let settled = row_of(&sequence, poll.settled).with_context(context)?;
            let settled = settled.and_then(|(number, ids)| {
                let index = usize::try_from(poll.settled - number).ok()?;
                ids_in(ids.value()).nth(index).copied()
            });
            let after = poll.read.saturating_add(1);
            let row = row_of(&sequence, after).with_context(context)?;
            let begin = row.map_or(after, |(number, _)| number);
            let mut rows = Vec::new();
            'rows: for row in sequence.range(begin..).with_context(context)? {
                let (number, ids) = row.with_context(context)?;
                for (number, id) in (number.value()..).zip(ids_in(ids.value())) {
                    if number < after {
                        continue;
                    }
                    if rows.len() == limit {
                        break 'rows;
                    }
                    let row = orders.get(id).with_context(context)?;
                    let id = OrderId::from_bytes(*id);
                    let row = row.with_context(|| format!("order {id} has a number and no row"))?;
                    rows.push(Numbered {
                        number,
                        closed: true,
                        order: decode(id, row.value())?,
                    });
                }
            }
            let settled = settled.map(OrderId::from_bytes);
            Ok((settled, rows))
        };
        let (settled, rows) = read()?;
        poll.check(settled.map(|id| (poll.settled, id)))?;
        let at_end = rows.len() < limit;
        Ok(poll.show(rows, at_end))
    }

    /// The oldest orders whose notices are not settled.
    pub(super) fn notices(&self, limit: usize) -> anyhow::Result<Vec<OrderId>> {
        let context = || format!("list notices in {}", self.file.display());
        let table = self.redb.begin_read().with_context(context)?;
        let table = table.open_table(NOTICES).with_context(context)?;
        table
            .iter()
            .with_context(context)?
            .take(limit)
            .map(|row| Ok(OrderId::from_bytes(*row.with_context(context)?.0.value())))
            .collect()
    }

    /// Whether the candidate is stored.
    pub(super) fn has_candidate(&self, name: &str) -> anyhow::Result<bool> {
        let context = || format!("look up a candidate in {}", self.file.display());
        let table = self.redb.begin_read().with_context(context)?;
        let table = table.open_table(CANDIDATES).with_context(context)?;
        Ok(table.get(name).with_context(context)?.is_some())
    }

    /// A page of candidates after this one, plus one more, sorted by name.
    pub(super) fn candidates(&self, after: Option<&str>) -> anyhow::Result<Vec<String>> {
        let context = || format!("list candidates in {}", self.file.display());
        let table = self.redb.begin_read().with_context(context)?;
        let table = table.open_table(CANDIDATES).with_context(context)?;
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        table
            .range::<&str>((after, Bound::Unbounded))
            .with_context(context)?
            .take(PAGE + 1)
            .map(|row| Ok(row.with_context(context)?.0.value().to_owned()))
            .collect()
    }
}

/// The ids in a row of the sequence.
fn ids_in(row: &[u8]) -> impl Iterator<Item = &[u8; 16]> {
    row.as_chunks().0.iter()
}

/// A row of the sequence: the number of its first order, and its ids.
type Row<'a> = (u64, redb::AccessGuard<'a, &'static [u8]>);

/// The row that would contain this number.
fn row_of(
    sequence: &impl ReadableTable<u64, &'static [u8]>,
    number: u64,
) -> Result<Option<Row<'_>>, StorageError> {
    let row = sequence.range(..=number)?.next_back().transpose()?;
    Ok(row.map(|(number, ids)| (number.value(), ids)))
}

/// The last number and its order.
pub(super) fn last_in(
    sequence: &impl ReadableTable<u64, &'static [u8]>,
) -> Result<Option<(u64, OrderId)>, StorageError> {
    let last = sequence.last()?;
    Ok(last.and_then(|(number, ids)| {
        let ids = ids.value().as_chunks().0;
        let id = ids.last()?;
        Some((
            number.value() + ids.len() as u64 - 1,
            OrderId::from_bytes(*id),
        ))
    }))
}

/// Parses an order's row.
pub(super) fn decode(id: OrderId, row: &[u8]) -> anyhow::Result<Order> {
    // The parser's message would quote what a customer sent.
    let order: Order =
        Order::from_row(row).map_err(|_| anyhow!("the row of order {id} is damaged"))?;
    if order.id != id {
        bail!("the row of order {id} is that of order {}", order.id);
    }
    Ok(order)
}
