//! The two streams: stdout carries data, stderr progress. The only module that prints.
//!
//! On a terminal a step shows what it is waiting for and for how long; in a pipe or CI every step is two plain lines.
//! With `--events` the same steps go to a file as JSON lines. This module decides nothing.

use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use schemars::JsonSchema;
use serde::Serialize;
use support::duration;

use crate::advice::{self, Options};
use crate::document::Document;
use crate::exit::{self, Exit};

/// How often the spinner moves: fast enough to show progress, slow enough to cost nothing.
const FRAME: Duration = Duration::from_millis(120);
const FRAMES: [&str; 4] = ["-", "\\", "|", "/"];

/// Where a command prints. Cheap to clone; all clones share the streams.
#[derive(Clone, Debug)]
pub struct Output {
    json: bool,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    messages: Messages,
    /// For commands in messages.
    options: Options,
    /// Every `--events` file, and the run's own once there is a run.
    events: Vec<File>,
    spinner: Option<Spinner>,
}

#[derive(Debug)]
enum Messages {
    Terminal,
    Plain,
    #[cfg(any(test, feature = "testing"))]
    Captured(Vec<String>),
}

#[derive(Debug)]
struct Spinner {
    id: &'static str,
    text: String,
    waiting: String,
    since: Instant,
    frame: usize,
}

/// One line of an events file.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Event<'a> {
    /// When.
    at: jiff::Timestamp,
    /// The step's stable id; empty for a warning.
    step: &'a str,
    /// What happened.
    event: EventKind,
    /// The message for people.
    #[serde(skip_serializing_if = "str::is_empty")]
    text: &'a str,
    /// How long a step took that has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
}

/// What happened to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum EventKind {
    /// It began.
    Started,
    /// It waits for something.
    Waiting,
    /// It reports something.
    #[serde(rename = "said")]
    Message,
    /// It succeeded.
    Done,
    /// It failed.
    Failed,
    /// Of no step: something the operator should know although the command continues.
    Warning,
}

impl Document for Event<'_> {
    const NAME: &'static str = "event";
}

impl Output {
    /// Prints on the process's own streams. Commands in messages get `options`.
    pub fn new(json: bool, events: Option<&Path>, options: Options) -> anyhow::Result<Self> {
        let messages = if std::io::stderr().is_terminal() && std::env::var_os("CI").is_none() {
            Messages::Terminal
        } else {
            Messages::Plain
        };
        let output = Self {
            json,
            shared: Arc::new(Mutex::new(Shared {
                messages,
                options,
                events: Vec::new(),
                spinner: None,
            })),
        };
        if let Some(path) = events {
            output.also_to(path)?;
        }
        Ok(output)
    }

    /// Captures the messages for a test to read.
    #[cfg(any(test, feature = "testing"))]
    pub fn captured() -> Self {
        Self {
            json: false,
            shared: Arc::new(Mutex::new(Shared {
                messages: Messages::Captured(Vec::new()),
                options: Options::default(),
                events: Vec::new(),
                spinner: None,
            })),
        }
    }

    /// The messages so far.
    #[cfg(any(test, feature = "testing"))]
    pub fn messages(&self) -> Vec<String> {
        match &self.lock().messages {
            Messages::Captured(lines) => lines.clone(),
            _ => Vec::new(),
        }
    }

    /// Appends events to one more file.
    pub fn also_to(&self, path: &Path) -> anyhow::Result<()> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|error| {
                Exit::Usage
                    .error(format!("cannot open the events file {}", path.display()))
                    .because(error)
            })?;
        self.lock().events.push(file);
        Ok(())
    }

    /// Whether data is wanted as JSON.
    pub fn wants_json(&self) -> bool {
        self.json
    }

    /// Data: one line on stdout.
    pub fn data(&self, line: impl AsRef<str>) -> anyhow::Result<()> {
        let mut shared = self.lock();
        shared.clear_spinner();
        let mut stdout = std::io::stdout().lock();
        match writeln!(stdout, "{}", line.as_ref()).and_then(|()| stdout.flush()) {
            // The reader of the pipe has closed it, which is not an error.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            result => result.context("write to stdout"),
        }
    }

    /// Data: a document as pretty JSON on stdout.
    pub fn json<T: Document>(&self, document: &T) -> anyhow::Result<()> {
        self.pretty(&document.numbered(), T::NAME)
    }

    /// Data: documents as one array of pretty JSON on stdout.
    pub fn json_list<T: Document>(&self, documents: &[T]) -> anyhow::Result<()> {
        let documents: Vec<_> = documents.iter().map(Document::numbered).collect();
        self.pretty(&documents, T::NAME)
    }

    fn pretty(&self, value: &impl Serialize, name: &str) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(value);
        self.data(text.with_context(|| format!("serialize the output of {name}"))?)
    }

    /// A progress message.
    pub fn info(&self, text: impl AsRef<str>) {
        let mut shared = self.lock();
        shared.print(text.as_ref());
    }

    /// Something the operator should know although the command continues.
    pub fn warn(&self, text: impl AsRef<str>) {
        let mut shared = self.lock();
        shared.print(&format!("warning: {}", text.as_ref()));
        shared.event("", EventKind::Warning, text.as_ref(), None);
    }

    /// Begins a step. `id` is stable: scripts that read events rely on it.
    pub fn step(&self, id: &'static str, text: impl Into<String>) -> Step {
        let text = text.into();
        let since = Instant::now();
        let mut shared = self.lock();
        shared.event(id, EventKind::Started, &text, None);
        let spin = matches!(shared.messages, Messages::Terminal);
        if spin {
            shared.spinner = Some(Spinner {
                id,
                text: text.clone(),
                waiting: String::new(),
                since,
                frame: 0,
            });
        } else {
            shared.print(&text);
        }
        drop(shared);
        let ticker = spin.then(|| {
            let output = self.clone();
            tokio::spawn(async move {
                let mut beat = tokio::time::interval(FRAME);
                loop {
                    beat.tick().await;
                    output.lock().draw();
                }
            })
        });
        Step {
            output: self.clone(),
            id,
            text,
            since,
            waiting_for: String::new(),
            ticker,
            ended: false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn print(&mut self, line: &str) {
        let line = advice::here(line, &self.options).into_owned();
        match &mut self.messages {
            Messages::Terminal | Messages::Plain => {
                self.clear_spinner();
                // A closed stderr is no reason to stop working.
                let _ = writeln!(std::io::stderr().lock(), "{}", plain(&line));
            }
            #[cfg(any(test, feature = "testing"))]
            Messages::Captured(lines) => lines.push(plain(&line)),
        }
    }

    fn clear_spinner(&mut self) {
        if self.spinner.is_some() {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[2K");
        }
    }

    fn draw(&mut self) {
        let Some(spinner) = &mut self.spinner else {
            return;
        };
        spinner.frame = (spinner.frame + 1) % FRAMES.len();
        let frame = FRAMES[spinner.frame];
        let texts = if spinner.waiting.is_empty() {
            [&spinner.text, spinner.id].map(|text| format!("{frame} {text}"))
        } else {
            [&spinner.text, spinner.id].map(|text| format!("{frame} {text}: {}", spinner.waiting))
        };
        let clock = format!(" ({})", duration::elapsed(spinner.since.elapsed()));
        let line = fitted(&texts.map(|text| plain(&text)), &clock, columns());
        let _ = write!(std::io::stderr().lock(), "\r\x1b[2K{line}");
        let _ = std::io::stderr().flush();
    }

    fn event(&mut self, step: &str, event: EventKind, text: &str, seconds: Option<f64>) {
        if self.events.is_empty() {
            return;
        }
        let event = Event {
            at: jiff::Timestamp::now(),
            step,
            event,
            text,
            seconds,
        };
        if let Ok(mut line) = serde_json::to_string(&event.numbered()) {
            line.push('\n');
            for file in &mut self.events {
                // The ledger is authoritative; a lost event is acceptable.
                let _ = file.write_all(line.as_bytes());
            }
        }
    }
}

/// A step under way. Dropping it reports that it failed; `main` prints the error itself.
#[derive(Debug)]
pub struct Step {
    output: Output,
    id: &'static str,
    text: String,
    since: Instant,
    waiting_for: String,
    ticker: Option<tokio::task::JoinHandle<()>>,
    ended: bool,
}

impl Step {
    /// Reports what is being waited for. In a pipe, the same text is printed once.
    pub fn waiting(&mut self, what: impl Into<String>) {
        let what = what.into();
        if what == self.waiting_for {
            return;
        }
        self.waiting_for.clone_from(&what);
        let mut shared = self.output.lock();
        shared.event(self.id, EventKind::Waiting, &what, None);
        match &mut shared.spinner {
            Some(spinner) => spinner.waiting = what,
            None => shared.print(&format!("  {what}")),
        }
    }

    /// A message that belongs to this step.
    pub fn info(&self, text: impl AsRef<str>) {
        let mut shared = self.output.lock();
        shared.event(self.id, EventKind::Message, text.as_ref(), None);
        shared.print(&format!("  {}", text.as_ref()));
    }

    /// Ends the step as succeeded.
    pub fn done(mut self, outcome: impl AsRef<str>) {
        self.end(EventKind::Done, outcome.as_ref());
    }

    /// Ends the step as failed; `main` prints the error itself.
    pub fn failed(mut self, reason: impl AsRef<str>) {
        self.end(EventKind::Failed, reason.as_ref());
    }

    fn end(&mut self, event: EventKind, outcome: &str) {
        self.ended = true;
        if let Some(ticker) = self.ticker.take() {
            ticker.abort();
        }
        let took = self.since.elapsed();
        let mut shared = self.output.lock();
        shared.clear_spinner();
        shared.spinner = None;
        let prefix = if event == EventKind::Done {
            ""
        } else {
            "failed: "
        };
        let line = match &shared.messages {
            Messages::Terminal => format!(
                "{}: {prefix}{outcome} ({})",
                self.text,
                duration::elapsed(took)
            ),
            _ => format!("  {prefix}{outcome} ({})", duration::elapsed(took)),
        };
        shared.print(&line);
        shared.event(self.id, event, outcome, Some(took.as_secs_f64()));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.ended {
            self.end(EventKind::Failed, "see below");
        }
    }
}

/// Sends the SDK's own log to stderr when `IMAGEBUILDER_LOG` asks for it (for example `debug`); silent otherwise.
pub fn log() {
    let wanted = tracing_subscriber::EnvFilter::try_from_env("IMAGEBUILDER_LOG");
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(wanted.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off")))
        .init();
}

/// Prints an error's chain once, its hint below, and gives the exit code.
///
/// Commands in the hint get `options`.
pub fn report(error: &anyhow::Error, exit: &Exit, options: &Options) -> ExitCode {
    let mut report = exit::report(error);
    for hint in &mut report.hints {
        *hint = advice::here(hint, options).into_owned();
    }
    let _ = writeln!(std::io::stderr().lock(), "{}", plain(&report.to_string()));
    (*exit).into()
}

/// Text from an instance, a tag or a tool, without control characters that would affect the terminal.
fn plain(text: &str) -> String {
    strip_ansi_escapes::strip_str(text.replace('\t', "    "))
        .chars()
        .filter(|char| !char.is_control() || *char == '\n')
        .collect()
}

/// Columns of the terminal at stderr; 80 when unknown.
fn columns() -> usize {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 => size.ws_col.into(),
        _ => 80,
    }
}

/// A spinner line must not wrap, or `\r` could not overwrite it: the long text if it fits, else the short
/// one, cut if need be; never the clock.
fn fitted(texts: &[String; 2], clock: &str, columns: usize) -> String {
    let space = columns.saturating_sub(1 + clock.chars().count());
    if let Some(text) = texts.iter().find(|text| text.chars().count() <= space) {
        return format!("{text}{clock}");
    }
    let [_, short] = texts;
    let mut line: String = short.chars().take(space.saturating_sub(1)).collect();
    line.push('…');
    line.push_str(clock);
    line.chars().take(columns.saturating_sub(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::assert_described;

    #[test]
    fn messages_cannot_control_the_terminal() {
        assert_eq!(
            plain("\u{1b}[2J\u{1b}[01;01HWelcome to \u{1b}[30mGRUB!\r\u{7}"),
            "Welcome to GRUB!"
        );
        assert_eq!(plain("\u{1b}[=3hcut \u{1b}[3"), "cut ");
        assert_eq!(plain("two\n\tlines, Grüße"), "two\n    lines, Grüße");
        let output = Output::captured();
        output
            .step("gate", "gate \u{1b}]0;title\u{7}ami-1")
            .done("\u{1b}[2Jfit");
        assert!(
            output
                .messages()
                .iter()
                .all(|line| !line.contains('\u{1b}'))
        );
    }

    #[test]
    fn a_spinner_line_never_wraps_and_keeps_its_clock() {
        let texts = ["- gate ami-1: waiting", "- gate: waiting"].map(ToOwned::to_owned);
        for (columns, want) in [
            (80, "- gate ami-1: waiting (12 s)"),
            (29, "- gate ami-1: waiting (12 s)"),
            (28, "- gate: waiting (12 s)"),
            (20, "- gate: wai… (12 s)"),
            (4, "… ("),
        ] {
            assert_eq!(fitted(&texts, " (12 s)", columns), want);
        }
    }

    #[test]
    fn a_step_prints_its_start_each_wait_once_and_its_end() {
        let output = Output::captured();
        let mut step = output.step("gate", "gate ami-1");
        step.waiting("i-1 is pending");
        step.waiting("i-1 is pending");
        step.waiting("i-1 is judging");
        step.done("fit");
        assert_eq!(
            output.messages(),
            [
                "gate ami-1",
                "  i-1 is pending",
                "  i-1 is judging",
                "  fit (0.0 s)"
            ]
        );
    }

    #[test]
    fn a_dropped_step_failed() {
        let output = Output::captured();
        drop(output.step("gate", "gate ami-1"));
        assert_eq!(output.messages()[1], "  failed: see below (0.0 s)");
    }

    #[test]
    fn events_have_stable_ids_and_durations() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let output = Output::captured();
        output.also_to(&path).unwrap();
        output.step("gate", "gate ami-1").done("fit");
        let lines: Vec<serde_json::Value> = std::fs::read_to_string(&path)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines[0]["step"], "gate");
        assert_eq!(lines[0]["event"], "started");
        assert_eq!(lines[1]["event"], "done");
        assert!(lines[1]["seconds"].is_number());
        for line in &lines {
            assert_described::<Event<'_>>(line);
        }
    }
}
