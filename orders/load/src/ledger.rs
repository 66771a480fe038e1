//! The ledger: the outcome of every order, one line each, appended.
//!
//! Owns the file's format: `run <id> <start time>`, followed by that run's `acked <number> <id>` and `failed
//! <number> <reason>`. Only complete lines count, so a crash while writing leaves a readable ledger.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use jiff::Timestamp;

/// The outcome of one order: its id, or why it failed.
pub(crate) type Answer = Result<String, String>;

/// Interval between syncs. Lines are written before they are counted, so they survive this process; they
/// survive the machine only after a sync, which is rare because the service under test may use the same disk.
const SYNC: Duration = Duration::from_secs(1);
const TORN: &str = " (torn)";

/// One load, whose orders are marked with its id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Run {
    /// Sixteen hexadecimal digits.
    pub(crate) id: String,
    /// By this machine's clock.
    pub(crate) began: Timestamp,
}

impl Run {
    /// A run that begins now.
    pub(crate) fn new() -> Self {
        Self {
            id: format!("{:016x}", fastrand::u64(..)),
            began: Timestamp::now(),
        }
    }
}

/// A ledger open for writing.
#[derive(Debug)]
pub(crate) struct Ledger {
    file: File,
    path: PathBuf,
    synced: Instant,
}

impl Ledger {
    /// Opens the ledger at `path` for the results of `run`; creates it if necessary.
    pub(crate) fn append_to(path: &Path, run: &Run) -> anyhow::Result<Self> {
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(path)
            .with_context(|| format!("open the ledger {}", path.display()))?;
        // A lock on a device such as /dev/null would be shared by the whole machine.
        if file.metadata().is_ok_and(|about| about.is_file())
            && matches!(file.try_lock(), Err(TryLockError::WouldBlock))
        {
            bail!(
                "the ledger {} is being written by another load\nhint: choose another file",
                path.display()
            );
        }
        // Appended to a torn last line, our first line would be lost.
        let mut content = Vec::new();
        if file.read_to_end(&mut content).is_ok()
            && content.last().is_some_and(|last| *last != b'\n')
        {
            writeln!(file, "{TORN}").with_context(|| format!("repair {}", path.display()))?;
        }
        writeln!(file, "run {} {}", run.id, run.began)
            .with_context(|| format!("write the ledger {}", path.display()))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            synced: Instant::now(),
        })
    }

    /// Writes results with their orders' numbers; syncs them periodically.
    pub(crate) fn write<'a>(
        &mut self,
        answers: impl Iterator<Item = (u64, &'a Answer)>,
    ) -> anyhow::Result<()> {
        let mut lines = String::new();
        for (number, answer) in answers {
            let (kind, text) = match answer {
                Ok(id) => ("acked", id),
                Err(reason) => ("failed", reason),
            };
            lines.push_str(&format!("{kind} {number} "));
            lines.extend(text.chars().map(|c| if c.is_control() { ' ' } else { c }));
            lines.push('\n');
        }
        self.file
            .write_all(lines.as_bytes())
            .with_context(|| format!("write the ledger {}", self.path.display()))?;
        if self.synced.elapsed() > SYNC {
            self.sync()?;
        }
        Ok(())
    }

    /// Syncs the file to disk.
    pub(crate) fn sync(&mut self) -> anyhow::Result<()> {
        self.synced = Instant::now();
        match self.file.sync_data() {
            // Devices cannot be synced and need not be.
            Err(error) if error.kind() != std::io::ErrorKind::InvalidInput => {
                Err(error).with_context(|| format!("sync the ledger {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // Unlocked explicitly: closing the file would leave the lock with a child process that is being
        // forked, until it calls exec. Devices have no lock.
        let _ = self.file.unlock();
    }
}

/// Identifies an order of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Mark {
    /// Index of the run in the ledger.
    pub(crate) run: usize,
    /// Number of the order in its run.
    pub(crate) number: u64,
}

/// The content of a ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entries {
    /// The loads that wrote it.
    pub(crate) runs: Vec<Run>,
    /// Accepted orders and their ids, in the order of their responses.
    pub(crate) acked: Vec<(Mark, String)>,
    /// The reasons of failed orders.
    pub(crate) failed: Vec<String>,
}

impl Entries {
    /// The entries of the last run only.
    pub(crate) fn last_run(self) -> Self {
        let Some(last) = self.runs.len().checked_sub(1) else {
            return self;
        };
        let of_last = |(mark, id): (Mark, String)| {
            let number = mark.number;
            (mark.run == last).then_some((Mark { run: 0, number }, id))
        };
        Self {
            runs: self.runs.into_iter().skip(last).collect(),
            acked: self.acked.into_iter().filter_map(of_last).collect(),
            failed: self.failed,
        }
    }
}

/// Reads the ledger at `path`.
pub(crate) fn read(path: &Path) -> anyhow::Result<Entries> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("read the ledger {}", path.display()))?;
    let mut entries = Entries::default();
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let Some(line) = line.strip_suffix('\n') else {
            continue;
        };
        if line.ends_with(TORN) {
            continue;
        }
        if parse_line(&mut entries, line).is_none() {
            bail!(
                "{}:{}: not a ledger line\nhint: use a file that `orders-load run --ledger` wrote",
                path.display(),
                index + 1
            );
        }
    }
    Ok(entries)
}

fn parse_line(entries: &mut Entries, line: &str) -> Option<()> {
    let (kind, rest) = line.split_once(' ')?;
    let (first, rest) = rest.split_once(' ')?;
    if kind == "run" {
        entries.runs.push(Run {
            id: first.to_owned(),
            began: rest.parse().ok()?,
        });
        return Some(());
    }
    let mark = Mark {
        run: entries.runs.len().checked_sub(1)?,
        number: first.parse().ok()?,
    };
    match kind {
        "acked" => entries.acked.push((mark, rest.to_owned())),
        "failed" => entries.failed.push(rest.to_owned()),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, run: &Run, answers: &[Answer]) {
        let mut ledger = Ledger::append_to(path, run).unwrap();
        ledger.write((0..).zip(answers)).unwrap();
        ledger.sync().unwrap();
    }

    #[test]
    fn a_ledger_round_trips_and_survives_a_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let runs = [Run::new(), Run::new()];
        let first = [Ok("a".to_owned()), Err("status 503\nRetry".to_owned())];
        write(&path, &runs[0], &first);
        let mut content = std::fs::read_to_string(&path).unwrap();
        content.push_str("acked 2 0190-to");
        std::fs::write(&path, content).unwrap();
        let mark = |run, number| Mark { run, number };
        let acked = vec![(mark(0, 0), "a".to_owned())];
        assert_eq!(read(&path).unwrap().acked, acked, "a torn line is no line");

        write(&path, &runs[1], &[Ok("b".to_owned())]);
        let entries = read(&path).unwrap();
        assert_eq!(entries.runs, runs);
        assert_eq!(entries.acked[0], acked[0]);
        assert_eq!(entries.acked[1..], [(mark(1, 0), "b".to_owned())]);
        assert_eq!(entries.failed, ["status 503 Retry"]);
        let last = entries.last_run();
        assert_eq!(last.runs, runs[1..]);
        assert_eq!(last.acked, [(mark(0, 0), "b".to_owned())]);
    }

    #[test]
    fn a_ledger_has_one_writer_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let first = Ledger::append_to(&path, &Run::new()).unwrap();
        let error = Ledger::append_to(&path, &Run::new()).unwrap_err();
        assert!(error.to_string().contains("another load"), "{error}");
        // Like a child process that was just forked.
        let _copy = first.file.try_clone().unwrap();
        drop(first);
        Ledger::append_to(&path, &Run::new()).unwrap();
    }

    #[test]
    fn a_ledger_may_be_a_device() {
        let nothing = Path::new("/dev/null");
        let mut ledger = Ledger::append_to(nothing, &Run::new()).unwrap();
        let _another_load = Ledger::append_to(nothing, &Run::new()).unwrap();
        ledger
            .write([(0, &Ok("a".to_owned()))].into_iter())
            .unwrap();
        ledger.sync().unwrap();
    }

    #[test]
    fn an_invalid_ledger_is_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let run = "run a 2026-01-01T00:00:00Z\n";
        for (text, line) in [
            (format!("{run}hello\n"), 2),
            (format!("{run}acked x 0190\n"), 2),
            (format!("{run}taken 1 0190\n"), 2),
            ("acked 1 0190\n".to_owned(), 1),
            ("run a yesterday\n".to_owned(), 1),
        ] {
            std::fs::write(&path, &text).unwrap();
            let error = format!("{:#}", read(&path).unwrap_err());
            let expected = format!("ledger:{line}: not a ledger line");
            assert!(error.contains(&expected), "{text}: {error}");
        }
    }
}
