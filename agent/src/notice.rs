//! EC2's notices for this instance: a Spot interruption, a rebalance recommendation, scheduled events.
//!
//! Types, parsing, and which notices start a drain. [`crate::identity`] reads them from the metadata service,
//! [`crate::lifecycle`] acts on them.

use std::time::Duration;

use jiff::fmt::rfc2822::DateTimeParser;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use support::text;

/// The interruption of a Spot instance: `spot/instance-action`.
///
/// AWS gives two minutes at most, and none for a hibernation (EC2 User Guide, "Spot Instance interruption notices").
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    /// `terminate`, `stop` or `hibernate`.
    pub(crate) action: String,
    /// Approximate time; `None` if it cannot be parsed, which leaves it a notice.
    pub(crate) at: Option<Timestamp>,
}

/// An event of `events/maintenance/scheduled` that is neither completed nor cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scheduled {
    /// `instance-event-…`
    pub(crate) id: String,
    /// `instance-reboot`, `system-reboot`, `system-maintenance`, `instance-retirement`, `instance-stop`.
    pub(crate) code: String,
    /// Earliest start.
    pub(crate) not_before: Option<Timestamp>,
}

impl Scheduled {
    /// Whether it stops the instance for good, rather than for a moment.
    fn stops_instance(&self) -> bool {
        matches!(self.code.as_str(), "instance-stop" | "instance-retirement")
    }
}

/// Spot's notices, read every few seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SpotNotices {
    /// The instance will be interrupted.
    pub(crate) interruption: Option<Spot>,
    /// It is at an elevated risk of interruption, since this time.
    pub(crate) rebalance: Option<Timestamp>,
}

/// How long an interruption whose time cannot be parsed is ahead: AWS gives no more.
const SPOT_NOTICE: SignedDuration = SignedDuration::from_secs(120);

/// Which notices start a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoticeTerms {
    /// Drain on a rebalance recommendation. Only useful with Capacity Rebalancing, which launches the replacement.
    pub(crate) drain_on_rebalance: bool,
    /// How long before a scheduled stop or retirement the drain begins.
    pub(crate) drain_before: Duration,
}

impl Default for NoticeTerms {
    fn default() -> Self {
        Self {
            drain_on_rebalance: false,
            drain_before: Duration::from_secs(300),
        }
    }
}

/// All current notices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Notices {
    spot: SpotNotices,
    schedule: Vec<Scheduled>,
}

impl Notices {
    /// Stores Spot's notices and returns the lines that are new.
    ///
    /// An interruption stays until its time, even if the metadata service no longer returns it.
    pub(crate) fn update_spot(&mut self, seen: SpotNotices, clock: Timestamp) -> Vec<String> {
        let before = self.lines();
        let due = |spot: &Spot| spot.at.is_none_or(|at| at <= clock);
        let kept = self.spot.interruption.take().filter(|spot| !due(spot));
        self.spot = SpotNotices {
            interruption: seen.interruption.or(kept),
            rebalance: seen.rebalance,
        };
        self.news(&before)
    }

    /// Stores the scheduled events and returns the lines that are new.
    pub(crate) fn update_schedule(&mut self, seen: Vec<Scheduled>) -> Vec<String> {
        let before = self.lines();
        self.schedule = seen;
        self.news(&before)
    }

    fn news(&self, before: &[String]) -> Vec<String> {
        let mut lines = self.lines();
        lines.retain(|line| !before.contains(line));
        lines
    }

    /// All current notices, one line each.
    pub(crate) fn lines(&self) -> Vec<String> {
        let at = |when: Option<Timestamp>| when.map_or_else(String::new, |at| format!(" at {at}"));
        let spot = self
            .spot
            .interruption
            .iter()
            .map(|spot| format!("Spot interruption: {}{}", spot.action, at(spot.at)));
        let advice = self
            .spot
            .rebalance
            .iter()
            .map(|since| format!("rebalance recommended since {since}"));
        let schedule = self.schedule.iter().map(|event| {
            let when = event
                .not_before
                .map_or_else(String::new, |at| format!(" not before {at}"));
            format!("scheduled event {} ({}){when}", event.code, event.id)
        });
        let lines = spot.chain(advice).chain(schedule);
        lines.map(|line| text::line(&line, text::REASON)).collect()
    }

    /// The notice that blocks an update: any of Spot's, and an event scheduled within the hour.
    pub(crate) fn blocking_update(&self, clock: Timestamp) -> Option<String> {
        let near = |event: &Scheduled| {
            event
                .not_before
                .is_none_or(|begins| begins.duration_since(clock) < SignedDuration::from_hours(1))
        };
        let scheduled = self.schedule.iter().any(near);
        let spot = self.spot != SpotNotices::default();
        (spot || scheduled).then(|| self.lines().join("; "))
    }

    /// Why the instance should drain now, and how much time it has; `None` if no notice starts a drain.
    pub(crate) fn drain_reason(
        &self,
        terms: NoticeTerms,
        clock: Timestamp,
    ) -> Option<(String, Option<Timestamp>)> {
        if let Some(spot) = &self.spot.interruption {
            return Some((self.lines().swap_remove(0), spot.at));
        }
        if let Some(since) = self.spot.rebalance.filter(|_| terms.drain_on_rebalance) {
            return Some((format!("rebalance recommended since {since}"), None));
        }
        // One whose time cannot be parsed is reported and not acted on: it may be weeks ahead.
        self.schedule.iter().find_map(|event| {
            let begins = event.not_before.filter(|_| event.stops_instance())?;
            let near = clock.checked_add(terms.drain_before).ok()? >= begins;
            near.then(|| {
                let why = format!("scheduled event {} not before {begins}", event.code);
                (why, Some(begins))
            })
        })
    }

    /// When EC2 stops the instance, as far as it is announced and still to come.
    pub(crate) fn stops_at(&self, clock: Timestamp) -> Option<Timestamp> {
        let soon = clock.checked_add(SPOT_NOTICE).unwrap_or(clock);
        let spot = self.spot.interruption.iter();
        let spot = spot.map(|spot| spot.at.unwrap_or(soon));
        let scheduled = self.schedule.iter().filter(|event| event.stops_instance());
        let scheduled = scheduled.filter_map(|event| event.not_before);
        spot.chain(scheduled.filter(|begins| *begins > clock)).min()
    }
}

/// Parses `spot/instance-action`. Text that cannot be parsed is a notice too.
pub(crate) fn read_spot(text: &str) -> Spot {
    #[derive(Deserialize)]
    struct Raw {
        action: String,
        time: Option<Timestamp>,
    }
    match serde_json::from_str::<Raw>(text) {
        Ok(raw) => Spot {
            action: raw.action,
            at: raw.time,
        },
        Err(error) => {
            tracing::warn!("cannot read the Spot interruption notice: {error}");
            Spot {
                action: "interrupt".to_owned(),
                at: None,
            }
        }
    }
}

/// Parses `events/recommendations/rebalance`; `None` for text that cannot be parsed, since it is only a
/// recommendation.
pub(crate) fn read_rebalance(text: &str) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Raw {
        #[serde(rename = "noticeTime")]
        since: Timestamp,
    }
    match serde_json::from_str::<Raw>(text) {
        Ok(raw) => Some(raw.since),
        Err(error) => {
            tracing::warn!("cannot read the rebalance recommendation: {error}");
            None
        }
    }
}

/// Parses `events/maintenance/scheduled`: the events that are to come or under way.
pub(crate) fn read_schedule(text: &str) -> Vec<Scheduled> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Raw {
        code: String,
        event_id: Option<String>,
        not_before: Option<String>,
        #[serde(default)]
        state: String,
    }
    let raw: Vec<Raw> = match serde_json::from_str(text) {
        Ok(raw) => raw,
        Err(error) => {
            tracing::warn!("cannot read the scheduled events: {error}");
            return Vec::new();
        }
    };
    let open = raw
        .into_iter()
        .filter(|event| !matches!(event.state.as_str(), "completed" | "canceled"));
    open.map(|event| Scheduled {
        id: event.event_id.unwrap_or_default(),
        not_before: event.not_before.and_then(|text| read_date(&text)),
        code: event.code,
    })
    .collect()
}

/// `21 Jan 2019 09:00:43 GMT`, a format that only these events use.
fn read_date(text: &str) -> Option<Timestamp> {
    let read = DateTimeParser::new().parse_timestamp(text);
    read.inspect_err(|error| tracing::warn!("cannot read when an event begins: {error}"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    const SCHEDULE: &str = r#"[
        {"NotBefore":"21 Jan 2019 09:00:43 GMT","Code":"instance-stop","Description":"scheduled stop",
         "EventId":"instance-event-1","NotAfter":"21 Jan 2019 09:17:23 GMT","State":"active"},
        {"NotBefore":"21 Jan 2019 09:00:43 GMT","Code":"instance-retirement","Description":"[Canceled] x",
         "EventId":"instance-event-2","State":"canceled"},
        {"NotBefore":"1 Feb 2019 00:00:00 GMT","Code":"system-reboot","EventId":"instance-event-3",
         "State":"active"}]"#;

    #[test]
    fn notices_are_read_as_aws_writes_them() {
        let spot = read_spot(r#"{"action": "stop", "time": "2017-09-18T08:22:00Z"}"#);
        assert_eq!(
            (spot.action.as_str(), spot.at),
            ("stop", Some(at("2017-09-18T08:22:00Z")))
        );
        assert_eq!(
            read_rebalance(r#"{"noticeTime": "2020-10-27T08:22:00Z"}"#),
            Some(at("2020-10-27T08:22:00Z"))
        );
        let schedule = read_schedule(SCHEDULE);
        assert_eq!(schedule.len(), 2, "one is called off");
        assert_eq!(schedule[0].not_before, Some(at("2019-01-21T09:00:43Z")));
        assert!(read_schedule("[]").is_empty());
    }

    #[test]
    fn an_unparsable_spot_notice_is_still_a_notice() {
        let mut notices = Notices::default();
        let seen = SpotNotices {
            interruption: Some(read_spot("<html>")),
            rebalance: read_rebalance("soon"),
        };
        let clock = at("2026-01-01T00:00:00Z");
        assert_eq!(
            notices.update_spot(seen, clock),
            ["Spot interruption: interrupt"]
        );
        let (why, until) = notices.drain_reason(NoticeTerms::default(), clock).unwrap();
        assert_eq!(
            (why.as_str(), until),
            ("Spot interruption: interrupt", None)
        );
        assert!(read_schedule("{}").is_empty());
    }

    #[test]
    fn the_earliest_announced_stop_counts() {
        let clock = at("2019-01-21T09:00:00Z");
        let spot = |text: &str| SpotNotices {
            interruption: Some(read_spot(text)),
            rebalance: Some(clock),
        };
        let soon = r#"{"action":"stop","time":"2019-01-21T09:00:20Z"}"#;
        let late = r#"{"action":"stop","time":"2019-01-21T09:02:00Z"}"#;
        for (schedule, seen, ends) in [
            ("[]", SpotNotices::default(), None),
            ("[]", spot(late), Some("2019-01-21T09:02:00Z")),
            ("[]", spot("<html>"), Some("2019-01-21T09:02:00Z")),
            (
                SCHEDULE,
                SpotNotices::default(),
                Some("2019-01-21T09:00:43Z"),
            ),
            (SCHEDULE, spot(late), Some("2019-01-21T09:00:43Z")),
            (SCHEDULE, spot(soon), Some("2019-01-21T09:00:20Z")),
        ] {
            let mut notices = Notices::default();
            notices.update_schedule(read_schedule(schedule));
            notices.update_spot(seen, clock);
            assert_eq!(notices.stops_at(clock), ends.map(at), "{ends:?}");
        }
        // An event that has begun without a stop says nothing about when.
        let mut notices = Notices::default();
        notices.update_schedule(read_schedule(SCHEDULE));
        assert_eq!(notices.stops_at(at("2019-01-21T09:00:43Z")), None);
    }

    #[test]
    fn an_interruption_is_not_forgotten_before_its_time() {
        let mut notices = Notices::default();
        let seen = SpotNotices {
            interruption: Some(read_spot(
                r#"{"action":"hibernate","time":"2026-01-01T00:02:00Z"}"#,
            )),
            rebalance: None,
        };
        notices.update_spot(seen.clone(), at("2026-01-01T00:00:00Z"));
        let news = notices.update_spot(seen, at("2026-01-01T00:00:05Z"));
        assert!(news.is_empty(), "{news:?}");
        notices.update_spot(SpotNotices::default(), at("2026-01-01T00:01:59Z"));
        assert_eq!(notices.lines().len(), 1);
        notices.update_spot(SpotNotices::default(), at("2026-01-01T00:02:00Z"));
        assert!(notices.lines().is_empty());
    }

    #[test]
    fn only_near_stops_and_enabled_recommendations_drain() {
        let calm = NoticeTerms::default();
        let eager = NoticeTerms {
            drain_on_rebalance: true,
            drain_before: Duration::from_secs(3600),
        };
        let mut notices = Notices::default();
        assert_eq!(notices.update_schedule(read_schedule(SCHEDULE)).len(), 2);
        for (clock, terms, drains) in [
            ("2019-01-21T08:55:42Z", calm, false),
            ("2019-01-21T08:55:43Z", calm, true),
            ("2019-01-21T08:00:43Z", eager, true),
            ("2019-01-21T08:00:42Z", eager, false),
        ] {
            let call = notices.drain_reason(terms, at(clock));
            assert_eq!(call.is_some(), drains, "{clock}");
        }
        notices.update_schedule(Vec::new());
        let advice = SpotNotices {
            interruption: None,
            rebalance: Some(Timestamp::UNIX_EPOCH),
        };
        notices.update_spot(advice, Timestamp::UNIX_EPOCH);
        assert_eq!(notices.drain_reason(calm, Timestamp::UNIX_EPOCH), None);
        assert!(notices.drain_reason(eager, Timestamp::UNIX_EPOCH).is_some());
        // A reboot pauses the instance; it comes back by itself.
        let reboot = read_schedule(SCHEDULE).split_off(1);
        notices.update_spot(SpotNotices::default(), Timestamp::UNIX_EPOCH);
        notices.update_schedule(reboot);
        assert_eq!(
            notices.drain_reason(eager, at("2019-02-01T00:00:00Z")),
            None
        );
        assert_eq!(notices.blocking_update(at("2019-01-31T23:00:00Z")), None);
        let late = notices.blocking_update(at("2019-01-31T23:00:01Z"));
        assert!(late.is_some_and(|late| late.contains("system-reboot")));
    }
}
