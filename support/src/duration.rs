//! Durations as people read and write them.

use std::time::Duration;

/// A duration that was measured, or a limit: `0.4 s`, `12 s`, `3 min 05 s`, and from two hours `2 h 01 min`.
#[must_use]
pub fn elapsed(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        ..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..7_200 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// An age or a time that is left, in the largest unit of which there are two: `5 s`, `90 s`, `7 min`, `30 h`, `9 days`.
#[must_use]
pub fn rough(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Parses a whole number with its unit: `500ms`, `90s`, `5m`, `8h`, `2d`.
///
/// # Errors
/// What is expected, for `hint:` or after a flag's name.
pub fn parse(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str =
        "expected a whole number above 0 with its unit, such as 500ms, 90s, 5m, 8h or 2d";
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number: u64 = text[..text.len() - unit.len()]
        .parse()
        .map_err(|_| EXPECTED.to_owned())?;
    let seconds = |each: u64| number.checked_mul(each).map(Duration::from_secs);
    let duration = match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3_600),
        "d" => seconds(86_400),
        _ => None,
    };
    duration
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| EXPECTED.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elapsed_is_short() {
        for (millis, expected) in [
            (420, "0.4 s"),
            (12_300, "12 s"),
            (185_000, "3 min 05 s"),
            (3_825_000, "63 min 45 s"),
            (7_265_000, "2 h 01 min"),
        ] {
            assert_eq!(elapsed(Duration::from_millis(millis)), expected);
        }
    }

    #[test]
    fn rough_has_one_unit() {
        for (seconds, expected) in [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7_199, "119 min"),
            (7_200, "2 h"),
            (172_799, "47 h"),
            (172_800, "2 days"),
        ] {
            assert_eq!(rough(Duration::from_secs(seconds)), expected, "{seconds} s");
        }
    }

    #[test]
    fn parse_takes_a_whole_number_and_a_unit() {
        for (text, millis) in [
            ("500ms", 500),
            ("90s", 90_000),
            ("5m", 300_000),
            ("8h", 28_800_000),
            ("2d", 172_800_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "5",
            "m",
            "0s",
            "-1s",
            "1.5h",
            "5 m",
            "5w",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
