//! The request log: one line of JSON for each request to the endpoint, in `requests.jsonl` in the cloud's folder.
//!
//! It records service, action, outcome and duration; never a parameter, a body or a credential. A full file is renamed
//! to `requests.1.jsonl`, which replaces the one before.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use jiff::Timestamp;
use serde::Serialize;

/// Size limit of the file, in bytes: about 50,000 requests.
const LIMIT: u64 = 8 * 1024 * 1024;
/// Longest name that is logged, in bytes.
const LONGEST: usize = 80;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Entry {
    /// When it arrived.
    pub(crate) time: Timestamp,
    /// The service it was signed for.
    pub(crate) service: Option<String>,
    /// The action, where the head or the parsed body shows it.
    pub(crate) action: Option<String>,
    /// The answer's HTTP status; none when a fault dropped the answer.
    pub(crate) status: Option<u16>,
    /// The answer's error code, when this cloud itself raised the error.
    pub(crate) error: Option<String>,
    /// Milliseconds until the answer's head was ready.
    pub(crate) ms: u64,
    /// The first part of the client's User-Agent.
    pub(crate) agent: Option<String>,
}

/// `text` if it is a plain name: requests may carry anything in its place.
pub(crate) fn name(text: &str) -> Option<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_./:+".contains(c);
    (!text.is_empty() && text.len() <= LONGEST && text.chars().all(is_name))
        .then(|| text.to_owned())
}

/// The request log of one cloud.
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
    /// Opens the log in the cloud's folder.
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

    /// Logs one request. A failure, such as a full disk, is reported in the daemon's log and does not stop the cloud.
    pub(crate) fn write(&self, entry: &Entry) {
        if let Err(error) = self.try_write(entry) {
            tracing::warn!(%error, "a request could not be logged");
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
    fn a_full_request_log_is_rotated() {
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
    fn only_plain_names_are_logged() {
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
