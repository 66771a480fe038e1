//! Credentials in texts that are shown: what a user typed or a library answered may have a URL with a password.
//!
//! A program's usage errors are printed by its command line parser, which repeats the value that it refuses; every other
//! error is a [`crate::Report`].

use std::io::{self, Write as _};

/// What ends a URL in a text.
const ENDS: &[char] = &[
    '\'', '"', '`', '<', '>', '(', ')', '[', ']', '{', '}', ',', ';',
];

/// The text with `…` in place of the credentials of every `scheme://user:password@host`, and of every
/// `user:password@host`; `None` if it has none.
///
/// A password that contains a `/` or an `@` is one too: everything up to the last `@` of the word is replaced.
#[must_use]
pub fn without_credentials(text: &str) -> Option<String> {
    let mut shown = String::with_capacity(text.len());
    let mut found = false;
    for part in text.split_inclusive(|c: char| c.is_whitespace() || ENDS.contains(&c)) {
        let scheme = part.find("://").map(|at| at + "://".len());
        let rest = part.get(scheme.unwrap_or(0)..).unwrap_or_default();
        let at = rest.rfind('@').filter(|at| {
            let before = rest.get(..*at).unwrap_or_default();
            *at > 0 && (scheme.is_some() || before.contains(':'))
        });
        match at {
            Some(at) => {
                found = true;
                // What stands before a scheme is a flag's name, such as `--endpoint-url=`.
                shown.push_str(part.get(..scheme.unwrap_or(0)).unwrap_or_default());
                shown.push('…');
                shown.push_str(rest.get(at..).unwrap_or_default());
            }
            None => shown.push_str(part),
        }
    }
    found.then_some(shown)
}

/// Prints a usage error without credentials on stderr, and returns whether it did: otherwise the text has none, and may
/// be printed as it is.
#[must_use]
pub fn print_without_credentials(text: &str) -> bool {
    let Some(shown) = without_credentials(text) else {
        return false;
    };
    // Nothing is left to report a failure to.
    let _ = io::stderr().write_all(shown.as_bytes());
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_replaced_and_nothing_else() {
        for (text, expected) in [
            (
                "error: invalid value 'http://me:hush@x:1/y' for '--endpoint-url <URL>': no",
                Some("error: invalid value 'http://…@x:1/y' for '--endpoint-url <URL>': no"),
            ),
            ("http://hush@x", Some("http://…@x")),
            ("me:hush@x", Some("…@x")),
            ("http://me:hu/sh@x/", Some("http://…@x/")),
            ("http://me:hu@sh@x", Some("http://…@x")),
            ("--url=http://me:hush@x", Some("--url=http://…@x")),
            (
                "a https://a:hush@b, socks5://c:hush@d\nand more",
                Some("a https://…@b, socks5://…@d\nand more"),
            ),
            ("https://x.example/y?z", None),
            ("someone@example.com", None),
            ("imagebuilder-agent-trial@x.service", None),
            ("ssh admin@10.0.0.1:22", None),
            ("arn:aws:iam::1:role/x", None),
            ("http://@x", None),
            ("12:30 @ noon", None),
            ("", None),
        ] {
            assert_eq!(without_credentials(text).as_deref(), expected, "{text}");
        }
    }
}
