//! Foreign text made printable: one line, bounded.
//!
//! The rule: *text from a service, a file or the network is one bounded, printable line before it is kept, logged or
//! printed.* It can neither start a line of the console nor move its cursor.

/// Longest reason, in characters: it is one line of a log.
pub(crate) const REASON: usize = 300;

/// The longest version of a service, in characters.
pub(crate) const VERSION: usize = 64;

/// One line of at most `most` characters: white space and control characters become single blanks, invisible
/// characters and direction marks are removed, and `…` ends a line that was cut.
pub(crate) fn line(text: &str, most: usize) -> String {
    let mut line = String::new();
    let mut length = 0;
    let mut blank = false;
    for c in text.chars() {
        if c.is_whitespace() || c.is_control() {
            blank = length > 0;
            continue;
        }
        if is_invisible(c) {
            continue;
        }
        let wanted = 1 + usize::from(blank);
        if length + wanted > most {
            while length + 1 > most && line.pop().is_some() {
                length -= 1;
            }
            line.push('…');
            break;
        }
        if std::mem::take(&mut blank) {
            line.push(' ');
        }
        line.push(c);
        length += wanted;
    }
    line
}

/// A service's version for the console: `None` for text that does not look like a version, so that a service cannot
/// write sentences into the agent's lines.
pub(crate) fn plain_version(text: &str) -> Option<&str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._+~".contains(c);
    let plain = !text.is_empty() && text.len() <= VERSION && text.chars().all(fits);
    plain.then_some(text)
}

/// Zero-width characters, direction marks, line and paragraph separators, tags, variation selectors, and
/// noncharacters.
fn is_invisible(c: char) -> bool {
    matches!(u32::from(c),
        0xAD | 0x34F | 0x61C | 0x115F..=0x1160 | 0x17B4..=0x17B5 | 0x180B..=0x180F | 0x200B..=0x200F
        | 0x2028..=0x202E | 0x2060..=0x206F | 0x3164 | 0xFE00..=0xFE0F | 0xFEFF | 0xFFA0 | 0xFFF0..=0xFFFB
        | 0xE000..=0xF8FF | 0xFDD0..=0xFDEF | 0xE0000..=0xE0FFF | 0xF0000..=0x0010_FFFF)
        || u32::from(c) & 0xFFFE == 0xFFFE
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_has_no_breaks_escapes_or_marks_of_direction() {
        for (text, shown) in [
            ("1.2.3", "1.2.3"),
            ("  1.2\n\n(a)\t ", "1.2 (a)"),
            (
                "1\nimagebuilder-agent: fit i-1: x",
                "1 imagebuilder-agent: fit i-1: x",
            ),
            ("a\u{1b}[2Kb\u{7f}\u{9b}1mc\r", "a [2Kb 1mc"),
            ("a\u{202e}b\u{200b}c\u{2066}d\u{feff}", "abcd"),
            ("\u{1b}", ""),
            ("größer", "größer"),
        ] {
            assert_eq!(line(text, 40), shown, "{text:?}");
        }
        assert_eq!(line("12345", 5), "12345");
        assert_eq!(line("123456", 5), "1234…");
        assert_eq!(line("1234 6", 5), "1234…");
        assert_eq!(line("x", 0), "…");
    }

    #[test]
    fn only_text_that_looks_like_a_version_is_shown() {
        for good in ["1.2.3", "2.0.0-rc.1+b", "v1~2", "abcdef0"] {
            assert_eq!(plain_version(good), Some(good));
        }
        let long = "1".repeat(VERSION + 1);
        for bad in ["", "1 2", "1:2", "<b>", "1\n", "é", &long] {
            assert_eq!(plain_version(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_it_was_it_is_one_printable_bounded_line(text in any::<String>(), most in 1_usize..80) {
            let shown = line(&text, most);
            prop_assert!(shown.chars().count() <= most);
            prop_assert!(!shown.chars().any(|c| c.is_control() || is_invisible(c)));
            prop_assert!(!shown.starts_with(' '));
            prop_assert_eq!(line(&shown, most), shown.clone());
        }
    }
}
