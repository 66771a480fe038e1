//! The log: structured records for journald if stderr is connected to it, else plain lines on stderr.
//!
//! It defines how an event becomes a record: priority, text, and the event's own fields as `IMAGEBUILDER_<NAME>`, so
//! that `journalctl --priority warning` and `journalctl IMAGEBUILDER_CODE=rollback` work. The callers decide what is
//! logged; no event may carry credentials or values of user data.
//!
//! Not with the crate tracing-journald: it silently drops records that journald does not accept, and the last records
//! of an instance with a problem matter most.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// Where journald takes records (systemd's "Native Journal Protocol").
const SOCKET: &str = "/run/systemd/journal/socket";

/// Syslog identifier of the records, independent of the name of the slot's binary.
const IDENTIFIER: &str = "imagebuilder-agent";

/// Sets the log up, for the whole process.
pub(crate) fn begin(level: Level) {
    let level = LevelFilter::from_level(level);
    if is_journald()
        && let Ok(journal) = Journal::new(Path::new(SOCKET))
    {
        tracing_subscriber::registry()
            .with(level)
            .with(journal)
            .init();
        return;
    }
    // Without time or colour: the log collector adds the time, and stdout is for verdicts.
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .init();
}

/// Whether stderr is connected to journald, as systemd.exec(5) describes.
fn is_journald() -> bool {
    let connected = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    rustix::fs::fstat(io::stderr())
        .is_ok_and(|found| connected == format!("{}:{}", found.st_dev, found.st_ino))
}

/// Sends every event to journald.
struct Journal {
    socket: UnixDatagram,
    to: PathBuf,
    /// Used for a process of root: journald knows a sender's unit only while the sender lives, and the updater's last
    /// records are its most important ones. From root it accepts this field instead.
    unit: Option<String>,
}

impl Journal {
    fn new(to: &Path) -> io::Result<Self> {
        let unit = rustix::process::geteuid().is_root().then(unit).flatten();
        Ok(Self {
            socket: UnixDatagram::unbound()?,
            to: to.to_owned(),
            unit,
        })
    }

    fn record(&self, event: &Event<'_>) -> Record {
        let mut record = Record::default();
        event.record(&mut record);
        let about = event.metadata();
        let priority = priority(*about.level());
        let message = std::mem::take(&mut record.message);
        record.put("MESSAGE", &message);
        record.put("PRIORITY", priority);
        record.put("SYSLOG_IDENTIFIER", IDENTIFIER);
        record.put("IMAGEBUILDER_AGENT_VERSION", agent_update::version());
        record.put("CODE_MODULE", about.module_path().unwrap_or_default());
        if let Some(unit) = &self.unit {
            record.put("OBJECT_SYSTEMD_UNIT", unit);
        }
        record.message = message;
        record
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let record = self.record(event);
        if self.socket.send_to(&record.bytes, &self.to).is_ok() {
            return;
        }
        // Too long for a datagram, or journald is being restarted: the stream that systemd holds open takes the
        // text at least, with its priority.
        let priority = priority(*event.metadata().level());
        let mut text = String::new();
        for line in record.message.lines() {
            let _ = writeln!(text, "<{priority}>{line}");
        }
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// syslog's number.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

/// This process's unit; `None` where systemd did not start it.
fn unit() -> Option<String> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    unit_in(&groups)
}

fn unit_in(groups: &str) -> Option<String> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let service = |part: &&str| part.ends_with(".service");
    path.split('/').rev().find(service).map(str::to_owned)
}

/// One record in journald's own form.
#[derive(Default)]
struct Record {
    bytes: Vec<u8>,
    message: String,
}

impl Record {
    /// A field. A value of several lines is preceded by its length, so that no text can add a field of its own.
    fn put(&mut self, name: &str, value: &str) {
        self.bytes.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            self.bytes.push(b'\n');
            let length = u64::try_from(value.len()).unwrap_or(u64::MAX);
            self.bytes.extend_from_slice(&length.to_le_bytes());
        } else {
            self.bytes.push(b'=');
        }
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(b'\n');
    }

    fn take(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if field.name() == "message" {
            let _ = self.message.write_fmt(value);
        } else {
            let name = format!("IMAGEBUILDER_{}", field.name().to_ascii_uppercase());
            self.put(&name, &value.to_string());
        }
    }
}

impl Visit for Record {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a journald in a temporary directory is sent.
    fn sent(log_messages: impl FnOnce()) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journal::new(&path).unwrap();
        journal.unit = Some("update.service".to_owned());
        let log = tracing_subscriber::registry()
            .with(LevelFilter::INFO)
            .with(journal);
        tracing::subscriber::with_default(log, log_messages);
        journald.set_nonblocking(true).unwrap();
        let mut bytes = vec![0; 64 << 10];
        let length = journald.recv(&mut bytes).unwrap_or(0);
        bytes.truncate(length);
        bytes
    }

    #[test]
    fn an_event_is_a_record_with_its_fields() {
        let version = semver::Version::new(1, 2, 0);
        let sent = sent(|| tracing::warn!(code = "rollback", %version, "not now: {}", 7));
        let text = String::from_utf8(sent).unwrap();
        let agent = agent_update::version();
        assert_eq!(
            text,
            format!(
                "IMAGEBUILDER_CODE=rollback\nIMAGEBUILDER_VERSION=1.2.0\nMESSAGE=not now: 7\nPRIORITY=4\n\
                 SYSLOG_IDENTIFIER=imagebuilder-agent\nIMAGEBUILDER_AGENT_VERSION={agent}\n\
                 CODE_MODULE=imagebuilder_agent::journald::tests\nOBJECT_SYSTEMD_UNIT=update.service\n"
            )
        );
        assert_eq!(super::tests::sent(|| tracing::debug!("not wanted")), b"");
    }

    #[test]
    fn no_text_passes_for_a_field() {
        let evil = "a line\nPRIORITY=0\n_UID=0";
        let sent = sent(|| tracing::error!(reason = evil, "{evil}"));
        for name in ["IMAGEBUILDER_REASON", "MESSAGE"] {
            let length = u64::try_from(evil.len()).unwrap().to_le_bytes();
            let field = [name.as_bytes(), b"\n", &length, evil.as_bytes(), b"\n"].concat();
            assert!(
                sent.windows(field.len()).any(|part| part == field),
                "{name}"
            );
        }
        assert!(sent.ends_with(b"OBJECT_SYSTEMD_UNIT=update.service\n"));
    }

    #[test]
    fn every_level_has_its_priority() {
        let priorities = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG].map(priority);
        assert_eq!(priorities, ["3", "4", "6", "7"]);
    }

    #[test]
    fn the_unit_is_the_innermost_service_of_the_process() {
        let unit = |groups: &str| unit_in(groups);
        assert_eq!(
            unit("0::/system.slice/imagebuilder-agent-update.service\n").as_deref(),
            Some("imagebuilder-agent-update.service")
        );
        assert_eq!(
            unit("1:name=systemd:/x\n0::/machine.slice/m.service/system.slice/a.service/b\n")
                .as_deref(),
            Some("a.service")
        );
        assert_eq!(unit("0::/user.slice/session-1.scope\n"), None);
        assert_eq!(unit(""), None);
    }

    #[test]
    fn what_no_journald_takes_is_no_reason_to_stop() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::new(&dir.path().join("nobody")).unwrap();
        let log = tracing_subscriber::registry().with(journal);
        tracing::subscriber::with_default(log, || tracing::warn!("written to stderr"));
    }
}
