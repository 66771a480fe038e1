//! Formats an error with its causes, for people and the log: one line, each cause once, hints last.
//!
//! Libraries often repeat their causes in their own messages, so a chain printed as it is repeats the same
//! text two or three times. Hints are attached where they are known, often before the actual cause.

use std::fmt::Write;

/// Separates a message from its hint.
const HINT: &str = "; hint: ";

/// Longest text of one cause, in characters.
const LONGEST: usize = 1000;

/// Makes a cause safe to print: services' answers are untrusted text. HTML pages are replaced by a note,
/// control characters by spaces, and the length is limited.
fn plain(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let page = ["<!doctype html", "<html"]
        .iter()
        .filter_map(|start| lower.find(start))
        .min();
    let text = match page {
        None => text.to_owned(),
        Some(page) => {
            // XHTML starts with an XML declaration.
            let begin = lower[..page].rfind("<?xml").unwrap_or(page);
            format!("{}(an HTML page)", &text[..begin])
        }
    };
    let shown = text.chars().take(LONGEST);
    shown
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// The whole chain in one line: `operation: cause: cause; hint: what to do`.
#[must_use]
pub fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    let mut hints: Vec<String> = Vec::new();
    for cause in error.chain() {
        let cause = plain(&cause.to_string());
        let (cause, hint) = match cause.split_once(HINT) {
            Some((cause, hint)) => (cause, Some(hint)),
            None => (&*cause, None),
        };
        if !line.contains(cause) {
            let colon = if line.is_empty() { "" } else { ": " };
            // Writing to a String cannot fail.
            let _ = write!(line, "{colon}{cause}");
        }
        if let Some(hint) = hint
            && !hints.iter().any(|known| known == hint)
        {
            hints.push(hint.to_owned());
        }
    }
    for hint in hints {
        line.push_str(HINT);
        line.push_str(&hint);
    }
    line
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn services_messages_are_made_printable() {
        let page = "<?xml version=\"1.0\"?>\n<!DOCTYPE html PUBLIC>\n<html><body>404</body></html>";
        let error = anyhow::anyhow!("status 404: {page}").context("read\u{1b}[2J\nthe role");
        let line = one_line(&error);
        assert_eq!(line, "read [2J the role: status 404: (an HTML page)");
        let error = anyhow::anyhow!("answered <Error><Code>AccessDenied</Code></Error>");
        assert!(one_line(&error).contains("AccessDenied"));
        let long = one_line(&anyhow::anyhow!("ä".repeat(5000)));
        assert_eq!(long.chars().count(), LONGEST);
    }

    #[test]
    fn each_cause_is_printed_once_and_hints_last() {
        let table = [
            (anyhow!("no store"), "no store"),
            (
                anyhow!("address in use")
                    .context("listen on port 80; hint: is another one running?"),
                "listen on port 80: address in use; hint: is another one running?",
            ),
            (
                // object_store repeats each cause in the message above it.
                anyhow!("status 404")
                    .context("PUT failed: status 404")
                    .context("not found: PUT failed: status 404")
                    .context("create s3://shop/1.json"),
                "create s3://shop/1.json: not found: PUT failed: status 404",
            ),
            (
                anyhow!("denied; hint: ask for the right")
                    .context("read; hint: ask for the right")
                    .context("open; hint: read docs/orders.md"),
                "open: read: denied; hint: read docs/orders.md; hint: ask for the right",
            ),
        ];
        for (error, expected) in table {
            assert_eq!(one_line(&error), expected);
        }
    }
}
