//! Foreign text made printable: one line, bounded.
//!
//! The rule: *text from a service, a file or the network is one bounded, printable line before it is kept, logged or
//! printed.* It can neither start a line of the console nor move its cursor.

/// Longest reason, in characters: it is one line of a log.
pub const REASON: usize = 300;

/// Longest name, code or version, in characters.
pub const NAME: usize = 64;

/// One line of at most `most` characters: white space and control characters become single blanks, invisible
/// characters and direction marks are removed, and `…` ends a line that was cut.
#[must_use]
pub fn line(text: &str, most: usize) -> String {
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
