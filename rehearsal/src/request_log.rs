//! The request journal: a line of JSON for each request that came in at the door, in `requests.jsonl`
//! of the cloud's folder.
//!
//! It says who asked for what, how it ended and how long it took: never a parameter, a body or a
//! credential. The file is moved to `requests.1.jsonl` when it is full, over the one before it.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use jiff::Timestamp;
use serde::Serialize;

/// How long a journal gets: some 50,000 requests.
const LIMIT: u64 = 8 * 1024 * 1024;
/// No name that is written down is longer.
const LONGEST: usize = 80;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Entry {
    /// When it came.
    pub(crate) time: Timestamp,
    /// The service it was signed for.
    pub(crate) service: Option<String>,
    /// What it asked for, as far as its head or our own parsing says.
    pub(crate) action: Option<String>,
    /// The answer's HTTP status; none when the answer was lost on purpose.
    pub(crate) status: Option<u16>,
    /// The answer's error code, when the error is of this cloud.
    pub(crate) error: Option<String>,
    /// Until the answer's head was ready.
    pub(crate) ms: u64,
    /// The first word of the client's name.
    pub(crate) agent: Option<String>,
}

/// A name as it may be written down: what it came with cannot be trusted to be one.
pub(crate) fn name(text: &str) -> Option<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_./:+".contains(c);
    (!text.is_empty() && text.len() <= LONGEST && text.chars().all(is_name))
        .then(|| text.to_owned())
}

/// The journal of one cloud.
#[derive(Debug)]
pub(crate) struct RequestLog {
    path: PathBuf,
    limit: u64,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    size: u64,
}

impl RequestLog {
    /// Opens the journal in the cloud's folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Self> {
        Self::with_limit(folder, LIMIT)
    }

    fn with_limit(folder: &Path, limit: u64) -> anyhow::Result<Self> {
        let path = folder.join("requests.jsonl");
        let open = open(&path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self {
            path,
            limit,
            open: Mutex::new(open),
        })
    }

    /// Writes one request down. A full disk must not stop the cloud: it is said in the log.
    pub(crate) fn write(&self, entry: &Entry) {
        if let Err(error) = self.try_write(entry) {
            tracing::warn!(%error, "a request is missing in the journal");
        }
    }

    fn try_write(&self, entry: &Entry) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let length = line.len() as u64;
        let mut log = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if log.size > 0 && log.size + length > self.limit {
            fs::rename(&self.path, self.path.with_extension("1.jsonl"))?;
            *log = open(&self.path)?;
        }
        log.file.write_all(&line)?;
        log.size += length;
        Ok(())
    }
}

fn open(path: &Path) -> std::io::Result<Open> {
    let mut options = OpenOptions::new();
    let file = options.append(true).create(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok(Open { file, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(action: &str) -> Entry {
        Entry {
            time: Timestamp::UNIX_EPOCH,
            service: Some("ec2".to_owned()),
            action: Some(action.to_owned()),
            status: Some(400),
            error: Some("InvalidAction".to_owned()),
            ms: 3,
            agent: None,
        }
    }

    #[test]
    fn a_full_journal_makes_room_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        let log = RequestLog::with_limit(folder.path(), 300).unwrap();
        log.write(&entry("A"));
        assert_eq!(
            read("requests.jsonl"),
            "{\"time\":\"1970-01-01T00:00:00Z\",\"service\":\"ec2\",\"action\":\"A\",\"status\":400,\
             \"error\":\"InvalidAction\",\"ms\":3,\"agent\":null}\n"
        );
        drop(log);
        let log = RequestLog::with_limit(folder.path(), 300).unwrap();
        log.write(&entry("B"));
        log.write(&entry("C"));
        assert_eq!(read("requests.1.jsonl").lines().count(), 2);
        assert!(read("requests.jsonl").contains("\"C\""));
    }

    #[test]
    fn only_names_are_written_down() {
        for (text, expected) in [
            ("RunInstances", true),
            ("aws-sdk-rust/1.3.0", true),
            ("", false),
            ("a b", false),
            ("<script>", false),
            (&*"x".repeat(81), false),
        ] {
            assert_eq!(name(text).is_some(), expected, "{text}");
        }
    }
}
