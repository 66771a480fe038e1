//! Errors with an exit code and hints, and how every program prints an error.
//!
//! The rule: *each cause once, then the hints of the outermost cause that has any*. Libraries also put the text of their causes into
//! their own. What was added further out is closer to what the user did.

use std::fmt;

use crate::without_credentials;

/// What separates a hint from the message in front of it, in errors that are plain texts.
const HINT: &str = "\nhint: ";

/// How much of one cause is shown, in characters: what services answer is text from outside.
const LONGEST: usize = 1000;

/// An error that knows the exit code it asks for, its hints, or both.
#[derive(Debug)]
pub struct Failure {
    exit: Option<u8>,
    message: String,
    hints: Vec<String>,
    source: Option<anyhow::Error>,
}

impl Failure {
    /// A failure without an exit code of its own.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            exit: None,
            message: message.into(),
            hints: Vec::new(),
            source: None,
        }
    }

    /// Asks for an exit code.
    #[must_use]
    pub fn exit(mut self, code: u8) -> Self {
        self.exit = Some(code);
        self
    }

    /// Adds a hint: a verb's phrase, or a command that can be pasted.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Its own hints, without those of its cause.
    #[must_use]
    pub fn hints(&self) -> &[String] {
        &self.hints
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<anyhow::Error>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(AsRef::as_ref)
    }
}

/// The exit code that an error asks for: that of the outermost [`Failure`] with one.
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> Option<u8> {
    failures(error).find_map(|failure| failure.exit)
}

fn failures(error: &anyhow::Error) -> impl Iterator<Item = &Failure> {
    error.chain().filter_map(|cause| cause.downcast_ref())
}

/// An error for a log: `what failed: why; hint: …`.
#[must_use]
pub fn one_line(error: &anyhow::Error) -> String {
    Report::of(error).one_line()
}

/// An error as it is shown: its causes in one text, and its hints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// `what failed: why: why that`, without credentials. Printable; line breaks only in the message of a [`Failure`], every other cause is bounded.
    pub message: String,
    /// A line each, each once.
    pub hints: Vec<String>,
}

impl Report {
    /// Collects an error's chain.
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Self {
        let mut report = Self {
            message: String::new(),
            hints: Vec::new(),
        };
        for cause in error.chain() {
            let text = cause.to_string();
            let (text, hints) = match text.split_once(HINT) {
                Some((text, hints)) => (text, Some(hints)),
                None => (&*text, None),
            };
            let typed = cause.downcast_ref::<Failure>();
            let text = match typed {
                Some(_) => lines(text),
                None => printable(text),
            };
            if !report.message.contains(&text) {
                let colon = if report.message.is_empty() { "" } else { ": " };
                report.message += colon;
                report.message += &text;
            }
            let typed = typed.into_iter().flat_map(|failure| &failure.hints);
            let written = hints.into_iter().flat_map(|hints| hints.split(HINT));
            if report.hints.is_empty() {
                for hint in typed.map(String::as_str).chain(written) {
                    report.add_hint(hint);
                }
            }
        }
        if let Some(shown) = without_credentials(&report.message) {
            report.message = shown;
        }
        report
    }

    /// Adds a hint, unless it is there already. Each line of it is a hint.
    pub fn add_hint(&mut self, hint: &str) {
        for line in hint.lines().map(printable) {
            let line = without_credentials(&line).unwrap_or(line);
            if !self.hints.contains(&line) {
                self.hints.push(line);
            }
        }
    }

    /// For a log: `what failed: why; hint: …`.
    #[must_use]
    pub fn one_line(&self) -> String {
        let hints = self.hints.iter().map(|hint| format!("; hint: {hint}"));
        format!("{}{}", self.message, hints.collect::<String>())
    }
}

/// For a terminal: `error: what failed: why`, then each hint on a line of its own.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        for hint in &self.hints {
            write!(f, "{HINT}{hint}")?;
        }
        Ok(())
    }
}

/// A message of this workspace's own, which may have several lines.
fn lines(text: &str) -> String {
    let shown = text.trim_end().chars();
    shown.filter(|c| !c.is_control() || *c == '\n').collect()
}

/// A cause as it may be shown: an HTML page only says that what answered is not the service, and is left out; control characters become
/// spaces, line breaks too; the rest is bounded.
fn printable(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let page = ["<!doctype html", "<html"]
        .iter()
        .filter_map(|start| lower.find(start))
        .min();
    let text = match page {
        None => text.to_owned(),
        Some(page) => {
            // XHTML begins as XML.
            let begin = lower[..page].rfind("<?xml").unwrap_or(page);
            format!("{}(an HTML page)", &text[..begin])
        }
    };
    let shown = text.trim_end().chars().take(LONGEST);
    shown
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[test]
    fn no_credentials_are_shown() {
        let cause = anyhow!("cannot reach http://me:hush@x:1");
        let failure = Failure::new("https://me:hush@y is wrong")
            .because(cause)
            .hint("curl https://me:hush@y");
        let shown = Report::of(&failure.into()).to_string();
        let expected =
            "error: https://…@y is wrong: cannot reach http://…@x:1\nhint: curl https://…@y";
        assert_eq!(shown, expected);
    }

    #[test]
    fn each_cause_once_and_the_hints_last() {
        let failure = Failure::new("bake failed").exit(4).hint("widen the filter");
        for (error, expected) in [
            (anyhow!("no store"), "error: no store"),
            (
                anyhow!("address in use")
                    .context("listen on port 80\nhint: is another one running?"),
                "error: listen on port 80: address in use\nhint: is another one running?",
            ),
            (
                // As object_store has it: every message has the ones below it.
                anyhow!("status 404")
                    .context("PUT failed: status 404")
                    .context("not found: PUT failed: status 404")
                    .context("create s3://shop/1.json"),
                "error: create s3://shop/1.json: not found: PUT failed: status 404",
            ),
            (
                anyhow!("denied\nhint: ask for the right")
                    .context("read\nhint: ask for the right")
                    .context("open\nhint: see docs/orders.md\nhint: wait"),
                "error: open: read: denied\nhint: see docs/orders.md\nhint: wait",
            ),
            (
                anyhow::Error::from(failure.because(anyhow!("no such source")))
                    .context("while baking"),
                "error: while baking: bake failed: no such source\nhint: widen the filter",
            ),
        ] {
            assert_eq!(Report::of(&error).to_string(), expected);
        }
    }

    #[test]
    fn the_outermost_exit_code_counts() {
        let inner = Failure::new("no such source").exit(3);
        let outer = Failure::new("bake failed").exit(4).because(inner);
        let named = Failure::new("bake the image").because(outer);
        let error = Err::<(), _>(named).context("while baking").unwrap_err();
        assert_eq!(exit_code(&error), Some(4));
        assert_eq!(exit_code(&anyhow!("boom")), None);
    }

    #[test]
    fn what_services_answer_is_printable_and_bounded() {
        let page = "<?xml version=\"1.0\"?>\n<!DOCTYPE html PUBLIC>\n<html><body>404</body></html>";
        for (text, expected) in [
            (format!("status 404: {page}"), "status 404: (an HTML page)"),
            ("read\u{1b}[2J\nthe role".to_owned(), "read [2J the role"),
            (
                "<Error><Code>AccessDenied</Code></Error>".to_owned(),
                "<Error><Code>AccessDenied</Code></Error>",
            ),
        ] {
            assert_eq!(Report::of(&anyhow!(text)).message, expected);
        }
        let long = Report::of(&anyhow!("ä".repeat(5000)));
        assert_eq!(long.message.chars().count(), LONGEST);
    }

    #[test]
    fn only_a_failure_has_several_lines() {
        let findings = Failure::new("2 findings\n  a\u{7}\n  b").because(anyhow!("c\nd"));
        let report = Report::of(&findings.into());
        assert_eq!(report.message, "2 findings\n  a\n  b: c d");
    }

    #[test]
    fn each_line_of_a_hint_is_a_hint() {
        let failure = Failure::new("no").hint("wait\nor leave").exit(3);
        assert_eq!(failure.hints(), ["wait\nor leave"]);
        let report = Report::of(&failure.into());
        assert_eq!(report.to_string(), "error: no\nhint: wait\nhint: or leave");
    }

    #[test]
    fn a_log_line_has_the_hints_too() {
        let report = Report::of(&anyhow!("denied\nhint: ask for the right"));
        assert_eq!(report.one_line(), "denied; hint: ask for the right");
    }
}
