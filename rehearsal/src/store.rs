//! The cloud's state on disk: an embedded database (redb) in the cloud's folder.
//!
//! One thread writes rows. It takes all that wait, writes them in one transaction with one `fsync`, and releases their
//! callers; meanwhile the next ones gather. What cannot be written (a full disk) is kept and retried with the next
//! changes, so that the order of changes is preserved.

use std::collections::BTreeMap;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, bail};
use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, StorageBackend, TableDefinition};
use support::shell::quoted_path;

use crate::table::Row;

/// The file in the cloud's folder.
pub(crate) const FILE: &str = "state.redb";
/// Rows by table and key.
const ROWS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("rows");
/// The row with the format of the others; it comes before them.
const FORMAT_ROW: (&str, &str) = ("", "schema");
/// The format that this release reads and writes, from 1. It counts up when an older release would misread the rows.
const FORMAT: u32 = 1;
/// The database's cache size, in bytes; the cloud's state is in memory anyway.
const CACHE: usize = 1 << 20;

/// The open database, and the thread that writes to it.
pub(crate) struct Store {
    shared: Arc<Shared>,
    writer: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// Notified when there is something to write, or when the store closes.
    work: Condvar,
    /// Notified when a transaction has ended or failed.
    done: Condvar,
}

#[derive(Default)]
struct Queue {
    /// Rows to write, the newest version of each.
    rows: Rows,
    /// The number of the newest change taken.
    newest: u64,
    /// The number of the newest change on disk.
    written: u64,
    /// The last transaction, if it failed: the newest change in it, and why.
    failure: Option<(u64, String)>,
    /// Whether to retry after a failure.
    again: bool,
    closed: bool,
}

/// Rows by table and key: their JSON, or `None` for removed ones.
type Rows = BTreeMap<(&'static str, String), Option<Vec<u8>>>;

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Opens the database in `folder`, or creates one, and passes every row to `row` (table, key, JSON), parents before
    /// children: tables come in the order of their names.
    ///
    /// # Errors
    /// When it cannot be opened, or was written by another release.
    pub(crate) fn open(
        folder: &Path,
        row: impl FnMut(&str, &str, &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let path = folder.join(FILE);
        let opens = path.clone();
        Self::over(path, move || file(&opens), row)
    }

    /// The same over what `backend` opens, at first and again after a failure: redb requires that a database is
    /// reopened after an error.
    fn over<B: StorageBackend>(
        path: PathBuf,
        mut backend: impl FnMut() -> anyhow::Result<B> + Send + 'static,
        mut row: impl FnMut(&str, &str, &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let mut open = move || open(backend()?);
        let database = open().with_context(|| format!("open {}", path.display()))?;
        check_format(&database, &path)?;
        let mut read = || -> anyhow::Result<()> {
            let transaction = database.begin_read()?;
            let rows = transaction.open_table(ROWS)?;
            for entry in rows.iter()? {
                let (key, value) = entry?;
                let (table, key) = key.value();
                if (table, key) == FORMAT_ROW {
                    continue;
                }
                row(table, key, value.value()).with_context(|| format!("row {table} {key}"))?;
            }
            Ok(())
        };
        read().with_context(|| {
            format!(
                "read {}\nhint: it is damaged or was written by another release; move the folder away",
                path.display()
            )
        })?;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        let works = Arc::clone(&shared);
        let writer = std::thread::Builder::new()
            .name("state".to_owned())
            .spawn(move || write_all(&works, Some(database), open, &path))
            .context("start the thread that writes the cloud's state")?;
        Ok(Self {
            shared,
            writer: Some(writer),
        })
    }

    /// Queues changed rows; returns the number to wait for. To be called with the state locked, so that changes keep
    /// their order; [`Store::wait`] without the lock.
    pub(crate) fn take(&self, rows: Vec<Row>) -> u64 {
        let mut queue = self.shared.queue();
        queue.newest += 1;
        queue.again = true;
        for row in rows {
            queue.rows.insert((row.table, row.key), row.value);
        }
        self.shared.work.notify_one();
        queue.newest
    }

    /// Waits until the change of that number is on disk.
    ///
    /// # Errors
    /// When it could not be written. It is kept in memory and written with the next one.
    pub(crate) fn wait(&self, number: u64) -> anyhow::Result<()> {
        let mut queue = self.shared.queue();
        loop {
            if queue.written >= number {
                return Ok(());
            }
            if let Some((newest, why)) = &queue.failure
                && *newest >= number
            {
                bail!("{why}");
            }
            queue = self
                .shared
                .done
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Why the last transaction failed, as long as none has succeeded since.
    pub(crate) fn failure(&self) -> Option<String> {
        let queue = self.shared.queue();
        queue.failure.as_ref().map(|(_, why)| why.clone())
    }

    /// Retries to write what could not be written.
    pub(crate) fn retry(&self) {
        let mut queue = self.shared.queue();
        if queue.failure.is_some() {
            queue.again = true;
            self.shared.work.notify_one();
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.work.notify_one();
        if let Some(writer) = self.writer.take() {
            // It ends after a last attempt to write everything; a panic in it has been reported.
            let _ = writer.join();
        }
    }
}

/// Opens or creates the file. It contains user data, so only its owner may read it.
fn file(path: &Path) -> anyhow::Result<FileBackend> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    Ok(FileBackend::new(options.open(path)?)?)
}

/// Opens or creates the database in `backend`.
fn open(backend: impl StorageBackend) -> anyhow::Result<Database> {
    let database = Database::builder()
        .set_cache_size(CACHE)
        .create_with_backend(backend)?;
    let transaction = database.begin_write()?;
    {
        let mut rows = transaction.open_table(ROWS)?;
        if rows.get(FORMAT_ROW)?.is_none() {
            rows.insert(FORMAT_ROW, FORMAT.to_string().as_bytes())?;
        }
    }
    transaction.commit()?;
    Ok(database)
}

/// Refuses a file whose rows have another format than this release's.
fn check_format(database: &Database, path: &Path) -> anyhow::Result<()> {
    let transaction = database.begin_read()?;
    let rows = transaction.open_table(ROWS)?;
    let Some(row) = rows.get(FORMAT_ROW)? else {
        bail!("{} names no format", path.display());
    };
    let text = String::from_utf8_lossy(row.value());
    let problem = match text.parse::<u32>() {
        Ok(FORMAT) => return Ok(()),
        Ok(newer) if newer > FORMAT => format!("has format {newer}, of a newer release"),
        _ => format!("has the unknown format {text:?}"),
    };
    let folder = path.parent().unwrap_or(path);
    bail!(
        "{} {problem}: this release reads format {FORMAT}\nhint: use the release that wrote it, run `rm -r {}`, or choose another folder",
        path.display(),
        quoted_path(folder)
    )
}

/// Writes queued rows until the store closes.
fn write_all(
    shared: &Shared,
    mut database: Option<Database>,
    mut open: impl FnMut() -> anyhow::Result<Database>,
    path: &Path,
) {
    let mut queue = shared.queue();
    loop {
        let may = |queue: &Queue| {
            !queue.rows.is_empty() && (queue.failure.is_none() || queue.again || queue.closed)
        };
        while !may(&queue) {
            if queue.closed {
                return;
            }
            queue = shared
                .work
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let rows = std::mem::take(&mut queue.rows);
        let newest = queue.newest;
        let last = queue.closed;
        queue.again = false;
        drop(queue);
        let outcome = match database.take().map_or_else(&mut open, Ok) {
            Ok(opened) => write(&opened, &rows).map(|()| database = Some(opened)),
            Err(error) => Err(error),
        };
        queue = shared.queue();
        match outcome {
            Ok(()) => {
                queue.written = newest;
                queue.failure = None;
            }
            Err(error) => {
                for (key, value) in rows {
                    // Rows queued meanwhile are newer.
                    queue.rows.entry(key).or_insert(value);
                }
                let error = error.context(format!("write {}", path.display()));
                queue.failure = Some((newest, format!("{error:#}")));
            }
        }
        shared.done.notify_all();
        if last && queue.failure.is_some() {
            return;
        }
    }
}

/// Writes rows in one transaction, with one `fsync`.
fn write(database: &Database, rows: &Rows) -> anyhow::Result<()> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(ROWS)?;
        for ((name, key), value) in rows {
            let key = (*name, key.as_str());
            match value {
                Some(value) => drop(table.insert(key, value.as_slice())?),
                None => drop(table.remove(key)?),
            }
        }
    }
    Ok(transaction.commit()?)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn row(key: &str, value: Option<&str>) -> Row {
        Row {
            table: "t",
            key: key.to_owned(),
            value: value.map(|value| value.as_bytes().to_vec()),
        }
    }

    fn rows(folder: &Path) -> Vec<(String, String)> {
        let mut all = Vec::new();
        let store = Store::open(folder, |_, key, value| {
            all.push((key.to_owned(), String::from_utf8(value.to_vec())?));
            Ok(())
        });
        drop(store.unwrap());
        all
    }

    #[test]
    fn committed_rows_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), |_, _, _| Ok(())).unwrap();
        store.take(vec![row("a", Some("1")), row("b", Some("2"))]);
        let number = store.take(vec![row("a", Some("3")), row("b", None)]);
        store.wait(number).unwrap();
        drop(store);
        assert_eq!(rows(folder.path()), [("a".to_owned(), "3".to_owned())]);
    }

    #[test]
    fn concurrent_changes_share_transactions() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), |_, _, _| Ok(())).unwrap();
        std::thread::scope(|scope| {
            for caller in 0..16 {
                let store = &store;
                scope.spawn(move || {
                    for turn in 0..20 {
                        let number = store.take(vec![row(&format!("{caller} {turn}"), Some("x"))]);
                        store.wait(number).unwrap();
                    }
                });
            }
        });
        drop(store);
        assert_eq!(rows(folder.path()).len(), 320);
    }

    /// A disk that is full while the switch is on.
    #[derive(Debug)]
    struct Full(FileBackend, Arc<AtomicBool>);

    impl Full {
        fn room(&self) -> std::io::Result<()> {
            if self.1.load(Ordering::SeqCst) {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            Ok(())
        }
    }

    impl StorageBackend for Full {
        fn len(&self) -> std::io::Result<u64> {
            self.0.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
            self.0.read(offset, out)
        }

        fn set_len(&self, len: u64) -> std::io::Result<()> {
            self.room()?;
            self.0.set_len(len)
        }

        fn sync_data(&self) -> std::io::Result<()> {
            self.room()?;
            self.0.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
            self.room()?;
            self.0.write(offset, data)
        }
    }

    #[test]
    fn a_full_disk_loses_no_change_and_the_newest_is_written_later() {
        let folder = tempfile::tempdir().unwrap();
        let full = Arc::new(AtomicBool::new(false));
        let (path, switch) = (folder.path().join(FILE), Arc::clone(&full));
        let backend = move || Ok(Full(file(&path)?, Arc::clone(&switch)));
        let place = folder.path().join(FILE);
        let store = Store::over(place, backend, |_, _, _| Ok(())).unwrap();
        store.wait(store.take(vec![row("a", Some("1"))])).unwrap();

        full.store(true, Ordering::SeqCst);
        let refused = store.wait(store.take(vec![row("a", Some("2")), row("b", Some("1"))]));
        let why = format!("{:#}", refused.unwrap_err());
        assert!(why.contains("no storage space"), "{why}");
        let again = store.wait(store.take(vec![row("a", Some("3"))]));
        assert!(again.is_err());
        assert_eq!(store.failure(), Some(why));

        full.store(false, Ordering::SeqCst);
        store.wait(store.take(vec![row("c", Some("1"))])).unwrap();
        assert_eq!(store.failure(), None);
        drop(store);
        let expected = [("a", "3"), ("b", "1"), ("c", "1")];
        assert_eq!(
            rows(folder.path()),
            expected.map(|(key, value)| (key.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn another_releases_file_is_refused_and_kept_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "not a database").unwrap();
        let refused = Store::open(folder.path(), |_, _, _| Ok(()));
        assert!(refused.is_err());
        let text = std::fs::read(folder.path().join(FILE)).unwrap();
        assert_eq!(text, b"not a database");
    }

    #[test]
    fn a_newer_or_unknown_format_is_refused_by_name() {
        for (format, problem) in [
            (
                "2",
                "has format 2, of a newer release: this release reads format 1",
            ),
            (
                "0",
                "has the unknown format \"0\": this release reads format 1",
            ),
            (
                "one",
                "has the unknown format \"one\": this release reads format 1",
            ),
            (
                "",
                "has the unknown format \"\": this release reads format 1",
            ),
        ] {
            let folder = tempfile::Builder::new().prefix("a shop").tempdir().unwrap();
            let path = folder.path().join(FILE);
            let database = open(file(&path).unwrap()).unwrap();
            let transaction = database.begin_write().unwrap();
            {
                let mut rows = transaction.open_table(ROWS).unwrap();
                rows.insert(FORMAT_ROW, format.as_bytes()).unwrap();
                // Rows of another format may be anything: they must not be read.
                rows.insert(("t", "a"), b"\xff".as_slice()).unwrap();
            }
            transaction.commit().unwrap();
            drop(database);
            let refused = Store::open(folder.path(), |_, _, _| panic!("{format}: a row is read"));
            let refused = format!("{:#}", refused.err().expect(format));
            let expected = format!(
                "{} {problem}\nhint: use the release that wrote it, run `rm -r '{}'`, or choose another folder",
                path.display(),
                folder.path().display()
            );
            assert_eq!(refused, expected, "{format}");
            let database = open(file(&path).unwrap()).unwrap();
            let rows = database.begin_read().unwrap().open_table(ROWS).unwrap();
            let kept = rows.get(FORMAT_ROW).unwrap().unwrap();
            assert_eq!(
                kept.value(),
                format.as_bytes(),
                "{format}: it is not rewritten"
            );
        }
    }

    #[test]
    fn only_its_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        drop(Store::open(folder.path(), |_, _, _| Ok(())).unwrap());
        let mode = std::fs::metadata(folder.path().join(FILE)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    }
}
