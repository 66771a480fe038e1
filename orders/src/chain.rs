//! How an error is told, to people and to the log: in one line, each cause once, the cure last.
//!
//! Libraries say their causes in their own words as well as by name, so that a chain printed as it is
//! says the same two or three times; and a cure stands beside what it was known at, mostly in front of
//! the reason.

use std::fmt::Write;

/// What stands before a cure in a message.
const HINT: &str = "; hint: ";

/// How much of one cause is shown, in characters.
const LONGEST: usize = 1000;

/// A cause as it may be shown: what services answer is text from outside. An HTML page is a server's word that it is not
/// what was asked for, and is left out; control characters are spaces; the rest is bounded.
fn plain(text: &str) -> String {
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
    let shown = text.chars().take(LONGEST);
    shown
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// The error's whole chain: `what failed: why: why that; hint: what to do`.
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
    fn what_services_answer_is_shown_plainly() {
        let page = "<?xml version=\"1.0\"?>\n<!DOCTYPE html PUBLIC>\n<html><body>404</body></html>";
        let error = anyhow::anyhow!("status 404: {page}").context("read\u{1b}[2J\nthe role");
        let said = one_line(&error);
        assert_eq!(said, "read [2J the role: status 404: (an HTML page)");
        let error = anyhow::anyhow!("answered <Error><Code>AccessDenied</Code></Error>");
        assert!(one_line(&error).contains("AccessDenied"));
        let long = one_line(&anyhow::anyhow!("ä".repeat(5000)));
        assert_eq!(long.chars().count(), LONGEST);
    }

    #[test]
    fn each_cause_is_told_once_and_the_cure_last() {
        let table = [
            (anyhow!("no store"), "no store"),
            (
                anyhow!("address in use")
                    .context("listen on port 80; hint: is another one running?"),
                "listen on port 80: address in use; hint: is another one running?",
            ),
            (
                // As object_store has it: every message has the ones below it.
                anyhow!("status 404")
                    .context("PUT failed: status 404")
                    .context("not found: PUT failed: status 404")
                    .context("create s3://shop/1.json"),
                "create s3://shop/1.json: not found: PUT failed: status 404",
            ),
            (
                anyhow!("denied; hint: ask for the right")
                    .context("read; hint: ask for the right")
                    .context("open; hint: look into docs/orders.md"),
                "open: read: denied; hint: look into docs/orders.md; hint: ask for the right",
            ),
        ];
        for (error, expected) in table {
            assert_eq!(one_line(&error), expected);
        }
    }
}
