//! The log: JSON lines on stderr for the journal, plain lines on a terminal.
//!
//! Owns the format of a line and how it is written. A request only puts its line into memory; a separate
//! thread writes what has accumulated, so that a slow or stuck journal delays no order. When too much is
//! waiting, further lines are dropped and counted, and the count is logged. Callers log ids, statuses and
//! times, never what customers sent.

use std::fmt::{self, Debug, Write as _};
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tracing::field::{Field, Visit};
use tracing::span::Attributes;
use tracing::{Event, Id, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Bytes that may wait for a stuck reader: several thousand lines.
const MAX_WAITING_BYTES: usize = 1024 * 1024;
/// How long lines accumulate before they are written with one call. Too short to notice, and it limits writes
/// to a hundred per second.
const GATHER: Duration = Duration::from_millis(10);
/// Write without waiting for more once this many bytes have accumulated.
const BATCH: usize = 64 * 1024;
/// How long the end of the program waits for the last lines to be written.
const FINAL_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The running log. Dropping it writes what is still waiting.
#[derive(Debug)]
pub struct Log(Arc<Spool>);

impl Log {
    /// Sends log events to stderr, from `level` up.
    ///
    /// # Errors
    /// If the writer thread cannot be started.
    pub fn to_stderr(level: LevelFilter) -> anyhow::Result<Self> {
        let spool = Arc::new(Spool::default());
        let for_writer = Arc::clone(&spool);
        std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || for_writer.write_to(io::stderr()))
            .context("start the log writer thread")?;

        // After a panic the writer thread may not run again.
        let (for_panic, previous) = (Arc::clone(&spool), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |panic| {
            for_panic.flush(io::stderr());
            previous(panic);
        }));

        // Libraries log too much, and might log what customers sent.
        let filter = Targets::new()
            .with_default(level.min(LevelFilter::WARN))
            .with_target("orders", level);
        let registry = tracing_subscriber::registry().with(filter);
        if io::stderr().is_terminal() {
            let lines = Arc::clone(&spool);
            let writer = move || Lines(Arc::clone(&lines));
            registry
                .with(tracing_subscriber::fmt::layer().with_writer(writer))
                .init();
        } else {
            registry.with(JsonLines(Arc::clone(&spool))).init();
        }
        Ok(Self(spool))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        waiting.ending = true;
        self.0.changed.notify_all();
        let all_read = |waiting: &mut Waiting| !waiting.ended;
        // Nothing is left to do, whether or not this timed out.
        drop(
            self.0
                .changed
                .wait_timeout_while(waiting, FINAL_FLUSH_TIMEOUT, all_read),
        );
    }
}

/// Lines waiting to be written.
#[derive(Debug, Default)]
struct Spool {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    /// Lines dropped since the count was last logged.
    dropped: u64,
    ending: bool,
    ended: bool,
}

impl Spool {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one line without waiting.
    fn push(&self, line: &[u8]) {
        let mut waiting = self.lock();
        let before = waiting.lines.len();
        let after = before + line.len();
        if after > MAX_WAITING_BYTES {
            waiting.dropped += 1;
            return;
        }
        waiting.lines.extend_from_slice(line);
        drop(waiting);
        // Otherwise the writer is accumulating or writing, and will find the line by itself.
        if before == 0 || (before < BATCH && after >= BATCH) {
            self.changed.notify_all();
        }
    }

    /// Writes lines as they arrive, until the end.
    fn write_to(&self, mut out: impl Write) {
        let mut batch = Vec::new();
        loop {
            let idle = |waiting: &mut Waiting| waiting.lines.is_empty() && !waiting.ending;
            let gathering = |waiting: &mut Waiting| waiting.lines.len() < BATCH && !waiting.ending;
            let waiting = self.changed.wait_while(self.lock(), idle);
            let waiting = waiting.unwrap_or_else(PoisonError::into_inner);
            let waiting = self.changed.wait_timeout_while(waiting, GATHER, gathering);
            let (mut waiting, _) = waiting.unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut waiting.lines, &mut batch);
            let dropped = std::mem::take(&mut waiting.dropped);
            let ending = waiting.ending;
            drop(waiting);

            // An error cannot be reported anywhere.
            let _ = out.write_all(&batch);
            batch.clear();
            batch.shrink_to(2 * BATCH);
            if ending {
                self.lock().ended = true;
                self.changed.notify_all();
                return;
            }
            if dropped > 0 {
                tracing::warn!(
                    dropped,
                    "log lines were dropped because their reader is slow"
                );
            }
        }
    }

    /// Writes what is waiting, on this thread.
    fn flush(&self, mut out: impl Write) {
        let lines = std::mem::take(&mut self.lock().lines);
        let _ = out.write_all(&lines);
    }
}

/// The writer for plain lines.
struct Lines(Arc<Spool>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One JSON object per line: time, level, the event's fields, and those of its spans.
///
/// tracing-subscriber's JSON format parses every span's fields again for every event, which took a fifth of
/// the CPU time of an order.
struct JsonLines(Arc<Spool>);

impl<S> Layer<S> for JsonLines
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut members = Members(String::new());
            attributes.record(&mut members);
            span.extensions_mut().insert(members);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut line = Members(String::with_capacity(256));
        // Writing to a string cannot fail, here and below.
        let _ = write!(
            line.0,
            r#"{{"timestamp":"{:.6}","level":"{}""#,
            jiff::Timestamp::now(),
            event.metadata().level()
        );
        event.record(&mut line);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(members) = span.extensions().get::<Members>() {
                line.0.push_str(&members.0);
            }
        }
        line.0.push_str("}\n");
        self.0.push(line.0.as_bytes());
    }
}

/// Members of a JSON object, each preceded by a comma.
struct Members(String);

impl Members {
    fn add(&mut self, field: &Field, value: impl fmt::Display) {
        let _ = write!(self.0, r#","{}":{value}"#, field.name());
    }
}

impl Visit for Members {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Fields that the `log` bridge adds.
        if field.name().starts_with("log.") {
            return;
        }
        let _ = write!(self.0, r#","{}":""#, field.name());
        let _ = write!(Escaped(&mut self.0), "{value:?}");
        self.0.push('"');
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no infinity.
        if value.is_finite() {
            self.add(field, value);
        } else {
            self.add(field, "null");
        }
    }
}

/// Text inside a JSON string.
struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, mut text: &str) -> fmt::Result {
        let special = |byte: u8| byte < 0x20 || matches!(byte, b'"' | b'\\');
        while let Some(at) = text.bytes().position(special) {
            // Special bytes are ASCII, so both ends are character boundaries.
            self.0.push_str(&text[..at]);
            write!(self.0, "\\u{:04x}", text.as_bytes()[at])?;
            text = &text[at + 1..];
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
