//! The hours of the week in which the daemon may be restarted: `Mon-Fri 09:00-16:00`, in UTC.

use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};

const DAY: i64 = 24 * 60;
const WEEK: i64 = 7 * DAY;
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// Hours of the week; none: always.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Windows(Vec<Window>);

impl Windows {
    /// Whether `now` is inside a window.
    #[must_use]
    pub(crate) fn open(&self, now: Timestamp) -> bool {
        self.0.is_empty()
            || self
                .0
                .iter()
                .any(|window| window.since_start(now).is_some())
    }

    /// The next time from `now` on at which a window is open: `now` itself inside of one.
    #[must_use]
    pub(crate) fn next(&self, now: Timestamp) -> Timestamp {
        if self.open(now) {
            return now;
        }
        let wait = self.0.iter().map(|window| window.until_start(now)).min();
        // There is no window after the last representable time.
        wait.and_then(|seconds| now.checked_add(SignedDuration::from_secs(seconds)).ok())
            .unwrap_or(Timestamp::MAX)
    }

    /// As they are written in settings.
    #[must_use]
    pub(crate) fn texts(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

impl FromIterator<Window> for Windows {
    fn from_iter<I: IntoIterator<Item = Window>>(windows: I) -> Self {
        Self(windows.into_iter().collect())
    }
}

/// One window: from an hour to an hour, on some days; past midnight it belongs to the day it began on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Monday first.
    days: [bool; 7],
    /// Minutes after midnight.
    start: i64,
    /// In minutes, 1 to 1440.
    length: i64,
    /// As it was written.
    text: String,
}

/// Seconds since Monday, 00:00 UTC. The epoch was a Thursday; leap seconds do not count in Unix time.
fn second_of_week(now: Timestamp) -> i64 {
    (now.as_second() + 3 * DAY * 60).rem_euclid(WEEK * 60)
}

impl Window {
    /// The starts, in seconds since Monday 00:00.
    fn starts(&self) -> impl Iterator<Item = i64> {
        let named = (0_i64..).zip(self.days).filter(|(_, named)| *named);
        named.map(|(day, _)| (day * DAY + self.start) * 60)
    }

    /// Seconds since the window began; `None` outside of it.
    fn since_start(&self, now: Timestamp) -> Option<i64> {
        let second = second_of_week(now);
        let since = |start: i64| (second - start).rem_euclid(WEEK * 60);
        self.starts()
            .map(since)
            .find(|since| *since < self.length * 60)
    }

    /// Seconds until it begins next.
    fn until_start(&self, now: Timestamp) -> i64 {
        let second = second_of_week(now);
        let until = |start: i64| (start - second).rem_euclid(WEEK * 60);
        self.starts().map(until).min().unwrap_or(WEEK * 60)
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What is wrong with a window; never the text itself, which may come from user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAWindow(&'static str);

impl fmt::Display for NotAWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for NotAWindow {}

impl FromStr for Window {
    type Err = NotAWindow;

    /// Reads `[DAYS ]HH:MM-HH:MM`; days are `Mon-Fri`, `Sat,Sun`, or left out for every day. The end is not
    /// part of the window and may be `24:00`; an end before the start is on the next day.
    fn from_str(text: &str) -> Result<Self, NotAWindow> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (days, hours) = match words[..] {
            [hours] => ([true; 7], hours),
            [days, hours] => (days_of(days)?, hours),
            _ => return Err(NotAWindow("not a window")),
        };
        let (start, end) = hours
            .split_once('-')
            .and_then(|(start, end)| Some((minutes(start)?, minutes(end)?)))
            .ok_or(NotAWindow("its hours are not HH:MM-HH:MM"))?;
        if start == end || start == DAY {
            return Err(NotAWindow("it is empty; a whole day is 00:00-24:00"));
        }
        Ok(Self {
            days,
            start,
            length: if end > start {
                end - start
            } else {
                end + DAY - start
            },
            text: words.join(" "),
        })
    }
}

fn days_of(text: &str) -> Result<[bool; 7], NotAWindow> {
    let named = |name: &str| {
        DAYS.iter()
            .position(|day| day.eq_ignore_ascii_case(name))
            .ok_or(NotAWindow(
                "its days are not Mon, Tue, Wed, Thu, Fri, Sat, Sun",
            ))
    };
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut day, last) = (named(first)?, named(last)?);
        days[day] = true;
        while day != last {
            day = (day + 1) % 7;
            days[day] = true;
        }
    }
    Ok(days)
}

/// `HH:MM`, and `24:00`.
fn minutes(text: &str) -> Option<i64> {
    let (hours, minutes) = text.split_once(':')?;
    let digits = |text: &str| text.len() == 2 && text.bytes().all(|c| c.is_ascii_digit());
    if !digits(hours) || !digits(minutes) {
        return None;
    }
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    let total = hours * 60 + minutes;
    (minutes < 60 && total <= DAY).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(texts: &[&str]) -> Windows {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn hours_are_utc_and_the_end_is_outside() {
        // 2026-06-01 is a Monday.
        let office = windows(&["Mon-Fri 09:00-16:00"]);
        for (now, open) in [
            ("2026-06-01T08:59:59Z", false),
            ("2026-06-01T09:00:00Z", true),
            ("2026-06-05T15:59:59Z", true),
            ("2026-06-05T16:00:00Z", false),
            ("2026-06-06T12:00:00Z", false),
            ("2026-06-01T12:00:00+03:00", true),
            ("1969-12-29T10:00:00Z", true),
        ] {
            assert_eq!(office.open(at(now)), open, "{now}");
        }
        assert_eq!(
            office.next(at("2026-06-05T16:00:00Z")),
            at("2026-06-08T09:00:00Z")
        );
        assert_eq!(
            office.next(at("2026-06-05T15:00:00Z")),
            at("2026-06-05T15:00:00Z")
        );
    }

    #[test]
    fn a_window_past_midnight_belongs_to_the_day_it_began_on() {
        let nights = windows(&["Sun 22:00-04:00"]);
        for (now, open) in [
            ("2026-06-07T21:59:59Z", false),
            ("2026-06-07T22:00:00Z", true),
            ("2026-06-08T03:59:59Z", true),
            ("2026-06-08T04:00:00Z", false),
            ("2026-06-07T03:00:00Z", false),
        ] {
            assert_eq!(nights.open(at(now)), open, "{now}");
        }
        assert_eq!(
            nights.next(at("2026-06-08T04:00:00Z")),
            at("2026-06-14T22:00:00Z")
        );
    }

    #[test]
    fn none_is_always_and_several_are_any_of_them() {
        let now = at("2026-06-06T12:00:00Z");
        assert!(Windows::default().open(now));
        assert_eq!(Windows::default().next(now), now);
        let both = windows(&["Fri-Mon 23:00-24:00", "wed,THU 00:00-24:00"]);
        assert_eq!(both.next(now), at("2026-06-06T23:00:00Z"));
        assert_eq!(
            both.next(at("2026-06-09T00:00:00Z")),
            at("2026-06-10T00:00:00Z")
        );
        assert!(both.open(at("2026-06-11T23:59:59Z")));
        assert!(!both.open(at("2026-06-09T23:30:00Z")));
        assert_eq!(both.texts(), ["Fri-Mon 23:00-24:00", "wed,THU 00:00-24:00"]);
        assert!(windows(&["12:00-13:00"]).open(now));
        assert_eq!(both.next(Timestamp::MAX), Timestamp::MAX);
    }

    #[test]
    fn an_invalid_window_names_the_problem() {
        for (text, expected) in [
            ("", "not a window"),
            ("Mon 09:00 - 16:00", "not a window"),
            ("Mon", "its hours are not HH:MM-HH:MM"),
            ("Mon 9:00-16:00", "its hours are not HH:MM-HH:MM"),
            ("Mon 09:60-16:00", "its hours are not HH:MM-HH:MM"),
            ("Mon 09:00-24:01", "its hours are not HH:MM-HH:MM"),
            ("Mon +9:00-16:00", "its hours are not HH:MM-HH:MM"),
            (
                "Mo-Fr 09:00-16:00",
                "its days are not Mon, Tue, Wed, Thu, Fri, Sat, Sun",
            ),
            (
                "Mon-Tue-Wed 09:00-16:00",
                "its days are not Mon, Tue, Wed, Thu, Fri, Sat, Sun",
            ),
            ("Mon 09:00-09:00", "it is empty; a whole day is 00:00-24:00"),
            ("Mon 24:00-09:00", "it is empty; a whole day is 00:00-24:00"),
        ] {
            assert_eq!(
                text.parse::<Window>().unwrap_err().to_string(),
                expected,
                "{text:?}"
            );
        }
    }
}
