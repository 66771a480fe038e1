//! The ledger: what was answered to whom, one line an answer, appended and synced.
//!
//! Owns the file's form: `acked <id>` or `failed <reason>`. A line counts only with its line end,
//! so a crash while writing leaves a ledger that can be read.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// How one order was answered.
pub(crate) type Answer = Result<String, String>;

/// A ledger being written.
#[derive(Debug)]
pub(crate) struct Ledger {
    file: File,
    path: PathBuf,
}

impl Ledger {
    /// Opens the ledger at `path`, made if it is not there.
    pub(crate) fn append_to(path: &Path) -> anyhow::Result<Self> {
        // Read as well, to find a torn last line that would swallow our first one.
        let torn = match std::fs::read(path) {
            Ok(content) => content.last().is_some_and(|last| *last != b'\n'),
            Err(_) => false,
        };
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("open the ledger {}", path.display()))?;
        if torn {
            writeln!(file, " (torn)").with_context(|| format!("mend {}", path.display()))?;
        }
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    /// Writes `answers` down; when this returns they are on the disk.
    pub(crate) fn write(&mut self, answers: &[Answer]) -> anyhow::Result<()> {
        let mut lines = String::new();
        for answer in answers {
            let (word, text) = match answer {
                Ok(id) => ("acked", id),
                Err(reason) => ("failed", reason),
            };
            lines.push_str(word);
            lines.push(' ');
            lines.extend(text.chars().map(|c| if c.is_control() { ' ' } else { c }));
            lines.push('\n');
        }
        self.file
            .write_all(lines.as_bytes())
            .and_then(|()| self.file.sync_data())
            .with_context(|| format!("write the ledger {}", self.path.display()))
    }
}

/// What a ledger says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Entries {
    /// Ids answered with 200, as they came.
    pub(crate) acked: Vec<String>,
    /// Why the others were not.
    pub(crate) failed: Vec<String>,
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
        match line.split_once(' ') {
            Some(_) if line.ends_with(" (torn)") => {}
            Some(("acked", id)) => entries.acked.push(id.to_owned()),
            Some(("failed", reason)) => entries.failed.push(reason.to_owned()),
            _ => bail!(
                "{}:{}: not a ledger line; hint: name the file that `orders load --ledger` wrote",
                path.display(),
                index + 1
            ),
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_as_written_and_survives_a_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let first = [Ok("a".to_owned()), Err("status 503\nRetry".to_owned())];
        Ledger::append_to(&path).unwrap().write(&first).unwrap();
        let mut content = std::fs::read_to_string(&path).unwrap();
        content.push_str("acked 0190-to");
        std::fs::write(&path, content).unwrap();
        assert_eq!(read(&path).unwrap().acked, ["a"], "a torn line is no line");

        Ledger::append_to(&path)
            .unwrap()
            .write(&[Ok("b".to_owned())])
            .unwrap();
        let entries = read(&path).unwrap();
        assert_eq!(entries.acked, ["a", "b"]);
        assert_eq!(entries.failed, ["status 503 Retry"]);
    }

    #[test]
    fn other_files_are_refused_with_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        std::fs::write(&path, "acked a\nhello\n").unwrap();
        let error = format!("{:#}", read(&path).unwrap_err());
        assert!(error.contains("ledger:2: not a ledger line"), "{error}");
    }
}
