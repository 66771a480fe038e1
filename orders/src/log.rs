//! The log: JSON lines on stderr for a journal, plain lines for a person at a terminal.
//!
//! Owns the form of a line and its way out. A request only puts its line into memory; a thread of
//! the log's own writes what has gathered, so that a journal that is slow or stuck holds up no order.
//! When too much waits, further lines are dropped and counted, and the count is said. What is in a
//! line is up to whoever logs: ids, statuses and times, never what customers sent.

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

/// Bytes that wait for a stuck reader at most: some thousands of lines.
const WAITING_LIMIT: usize = 1024 * 1024;
/// How long lines gather, to be written with one call: a person does not see it, and the journal is
/// called a hundred times a second at most.
const GATHER: Duration = Duration::from_millis(10);
/// So many bytes are written without gathering further.
const ENOUGH: usize = 64 * 1024;
/// How long the end of the program waits for its last lines to be read.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The log at work. Dropping it writes what still waits.
#[derive(Debug)]
pub struct Log(Arc<Spool>);

impl Log {
    /// Sends what is logged from here on to stderr, from `level` up.
    ///
    /// # Errors
    /// When the thread that writes cannot be started.
    pub fn to_stderr(level: LevelFilter) -> anyhow::Result<Self> {
        let spool = Arc::new(Spool::default());
        let for_writer = Arc::clone(&spool);
        std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || for_writer.write_to(io::stderr()))
            .context("start the thread that writes the log")?;

        // After a panic there may be no later.
        let (for_panic, previous) = (Arc::clone(&spool), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |panic| {
            for_panic.flush(io::stderr());
            previous(panic);
        }));

        // Libraries' own chatter is not our log, and might hold what customers sent.
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
        // Timed out or not, there is nothing left to do.
        drop(
            self.0
                .changed
                .wait_timeout_while(waiting, LAST_WORDS, all_read),
        );
    }
}

/// Lines on their way out.
#[derive(Debug, Default)]
struct Spool {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    /// Lines that found no room since it was last said.
    dropped: u64,
    ending: bool,
    ended: bool,
}

impl Spool {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one line; waits for nobody.
    fn push(&self, line: &[u8]) {
        let mut waiting = self.lock();
        let before = waiting.lines.len();
        let after = before + line.len();
        if after > WAITING_LIMIT {
            waiting.dropped += 1;
            return;
        }
        waiting.lines.extend_from_slice(line);
        drop(waiting);
        // In between the writer is gathering or writing, and comes by itself.
        if before == 0 || (before < ENOUGH && after >= ENOUGH) {
            self.changed.notify_all();
        }
    }

    /// Writes lines as they come until the end.
    fn write_to(&self, mut out: impl Write) {
        let mut batch = Vec::new();
        loop {
            let idle = |waiting: &mut Waiting| waiting.lines.is_empty() && !waiting.ending;
            let gathering = |waiting: &mut Waiting| waiting.lines.len() < ENOUGH && !waiting.ending;
            let waiting = self.changed.wait_while(self.lock(), idle);
            let waiting = waiting.unwrap_or_else(PoisonError::into_inner);
            let waiting = self.changed.wait_timeout_while(waiting, GATHER, gathering);
            let (mut waiting, _) = waiting.unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut waiting.lines, &mut batch);
            let dropped = std::mem::take(&mut waiting.dropped);
            let ending = waiting.ending;
            drop(waiting);

            // There is nobody to tell of an error.
            let _ = out.write_all(&batch);
            batch.clear();
            batch.shrink_to(2 * ENOUGH);
            if ending {
                self.lock().ended = true;
                self.changed.notify_all();
                return;
            }
            if dropped > 0 {
                tracing::warn!(
                    dropped,
                    "lines of the log were dropped; who reads it is slow"
                );
            }
        }
    }

    /// Writes what waits, in this thread.
    fn flush(&self, mut out: impl Write) {
        let lines = std::mem::take(&mut self.lock().lines);
        let _ = out.write_all(&lines);
    }
}

/// What the plain form is written to.
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

/// One JSON object a line: time, level, the event's fields, those of the spans it is in.
///
/// tracing-subscriber's own form is not used because it reads every span's fields back from JSON for
/// every event, which was a fifth of an order's time on the processor.
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
        // Writing to a string does not fail, here and below.
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

/// Members of a JSON object, each with the comma before it.
struct Members(String);

impl Members {
    fn add(&mut self, field: &Field, value: impl fmt::Display) {
        let _ = write!(self.0, r#","{}":{value}"#, field.name());
    }
}

impl Visit for Members {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Where an event of a library came from, in fields of its bridge's own.
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
            // What is special is one byte long, so both ends are between characters.
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
