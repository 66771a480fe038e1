//! The updater's rows of `status`.

use agent_update::status::{Build, Count, FailureKind, Failures, POSITIONS, UpdaterStatus};
use agent_update::subscription::Subject;
use jiff::Timestamp;

use super::Row;

/// The rows of the updater's status; `None`: it never ran. `subject` is what `configure` wrote.
pub(super) fn rows(
    status: Option<&UpdaterStatus>,
    subject: Option<&Subject>,
    now: Timestamp,
) -> Vec<Row> {
    let follows = subject.map(|subject| subject.subscription.as_ref());
    let Some(status) = status else {
        return vec![(
            "updates",
            unheard(follows.map(|terms| terms.map(|terms| &*terms.channel))),
        )];
    };
    let mut rows = Vec::new();
    rows.push(("updates", headline(status, follows == Some(None))));
    for (key, build) in [
        ("stable", &status.stable),
        ("trial", &status.trial),
        ("factory", &status.factory),
    ] {
        rows.extend(build.as_ref().map(|build| (key, named(build))));
    }
    rows.extend(wanted(status, now).map(|wanted| ("wanted", wanted)));
    rows.extend(held(status, now).map(|held| ("hold", held)));
    rows.extend(status.pin.as_ref().map(|pin| ("pin", pin.to_string())));
    rows.extend(
        status
            .floor
            .as_ref()
            .map(|floor| ("floor", floor.to_string())),
    );
    rows.push(("checked", checked(status, now)));
    rows.extend(metadata(status, now).map(|metadata| ("metadata", metadata)));
    rows.extend(status.withheld.as_ref().map(|withheld| {
        let row = format!(
            "permission to restart the agent, since {}, {}: {}",
            withheld.since,
            ago(withheld.since, now),
            withheld.reason
        );
        ("withheld", row)
    }));
    for failures in &status.failures {
        rows.extend(failed(failures, now).map(|row| ("failed", row)));
    }
    for skipped in &status.skipped {
        let row = format!(
            "{}: {}, {}; not tried again: imagebuilder-agent update forgive {}",
            named(&skipped.build),
            skipped.reason,
            ago(skipped.at, now),
            skipped.build.version
        );
        rows.push(("skipped", row));
    }
    rows
}

/// The operator's hold, while it lasts: the updater may not have run since its end.
fn held(status: &UpdaterStatus, now: Timestamp) -> Option<String> {
    let hold = status.hold.as_ref()?;
    let until = match hold.until {
        Some(until) if until <= now => return None,
        Some(until) => format!("until {until}, {}", ahead(until, now)),
        None => "until released".to_owned(),
    };
    Some(match hold.reason.as_str() {
        "" => until,
        reason => format!("{until}: {reason}"),
    })
}

/// The versions of the channel's metadata, and when it expires.
fn metadata(status: &UpdaterStatus, now: Timestamp) -> Option<String> {
    let [root, timestamp, snapshot, targets] = status.metadata?;
    let fresh = match status.metadata_expires {
        Some(expires) if expires <= now => format!(", EXPIRED {}", ago(expires, now)),
        Some(expires) => format!(", expires {}", ahead(expires, now)),
        None => String::new(),
    };
    Some(format!(
        "root {root}, timestamp {timestamp}, snapshot {snapshot}, targets {targets}{fresh}"
    ))
}

/// The failures of releases that are tried again, by cause.
fn failed(failures: &Failures, now: Timestamp) -> Option<String> {
    let cause = |(kind, count): (&FailureKind, &Count)| {
        let cause = match kind {
            FailureKind::Environment => "environment",
            FailureKind::Interrupted => "interrupted",
            FailureKind::Unhealthy => "unhealthy",
            FailureKind::Crashed => "crashed",
        };
        format!(
            "{cause} {} times, {} ({})",
            count.count,
            ago(count.at, now),
            count.reason
        )
    };
    let causes: Vec<String> = failures.causes.iter().map(cause).collect();
    let again = match failures.until(now, None) {
        Some((until, ..)) => format!("tried again at {until}, {}", ahead(until, now)),
        None => "tried again".to_owned(),
    };
    let row = || format!("{}: {}; {again}", named(&failures.build), causes.join("; "));
    (!causes.is_empty()).then(row)
}

/// `Some(None)`: the instance is known to follow no channel.
fn unheard(follows: Option<Option<&str>>) -> String {
    match follows {
        Some(Some(channel)) => format!("channel {channel}; the updater has not run yet"),
        Some(None) => "none: this instance follows no channel".to_owned(),
        None => "the updater has not run yet".to_owned(),
    }
}

fn headline(status: &UpdaterStatus, none: bool) -> String {
    let channel = match status.channel.as_str() {
        _ if none => "none: this instance follows no channel any more",
        "" => "the updater has not run yet",
        channel => &format!("channel {channel}"),
    };
    let phase = match status.phase.as_str() {
        "" => String::new(),
        phase => format!("; {phase}"),
    };
    let code = match status.code.as_str() {
        "" => String::new(),
        code => format!(" ({code})"),
    };
    let reason = match status.reason.as_str() {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    format!("{channel}{phase}{code}{reason}")
}

fn wanted(status: &UpdaterStatus, now: Timestamp) -> Option<String> {
    let wanted = status.wanted.as_ref()?;
    let at = match status.wanted_at {
        Some(at) if at > now => format!(" at {at}, {}", ahead(at, now)),
        _ => String::new(),
    };
    let place = status.position.map_or_else(String::new, |place| {
        format!("; place {place} of {POSITIONS} in its waves")
    });
    Some(format!("{}{at}{place}", named(wanted)))
}

fn checked(status: &UpdaterStatus, now: Timestamp) -> String {
    match (status.checked_at, status.verified_at) {
        (None, _) => "never".to_owned(),
        (Some(checked), Some(verified)) if checked == verified => {
            format!("{}, and verified", ago(checked, now))
        }
        (Some(checked), Some(verified)) => {
            format!(
                "{}; last verified {}",
                ago(checked, now),
                ago(verified, now)
            )
        }
        (Some(checked), None) => format!("{}; never verified", ago(checked, now)),
    }
}

fn named(build: &Build) -> String {
    format!("{} ({})", build.version, build.digest.short())
}

/// `4 min ago`. A time in the future is printed as such: a clock is or was wrong.
fn ago(at: Timestamp, now: Timestamp) -> String {
    if at > now {
        return format!("{}, by a clock that was wrong", ahead(at, now));
    }
    match span(now.as_second() - at.as_second()) {
        None => "just now".to_owned(),
        Some(span) => format!("{span} ago"),
    }
}

/// `in 5 h`
fn ahead(at: Timestamp, now: Timestamp) -> String {
    match span(at.as_second() - now.as_second()) {
        None => "in a moment".to_owned(),
        Some(span) => format!("in {span}"),
    }
}

/// The largest unit of which there are two; `None` under two seconds.
fn span(seconds: i64) -> Option<String> {
    let (count, unit) = match seconds {
        ..=1 => return None,
        2..=119 => (seconds, "s"),
        120..=7_199 => (seconds / 60, "min"),
        7_200..=172_799 => (seconds / 3_600, "h"),
        _ => (seconds / 86_400, "days"),
    };
    Some(format!("{count} {unit}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use agent_update::channel::Digest;
    use agent_update::status::{Hold, Skipped, Withheld};
    use semver::Version;

    use super::super::screen;
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn now() -> Timestamp {
        at("2026-06-01T12:00:00Z")
    }

    fn build(minor: u64) -> Build {
        Build {
            version: Version::new(1, minor, 0),
            digest: Digest::parse(&format!("{minor:x}").repeat(64)).unwrap(),
        }
    }

    fn shown(status: &UpdaterStatus) -> String {
        screen(&rows(Some(status), None, now()))
    }

    fn quiet() -> UpdaterStatus {
        UpdaterStatus {
            phase: "idle".to_owned(),
            reason: "current".to_owned(),
            channel: "stable".to_owned(),
            stable: Some(build(2)),
            factory: Some(build(1)),
            metadata: Some([1, 52, 10, 3]),
            metadata_expires: Some(at("2026-06-02T11:00:00Z")),
            checked_at: Some(at("2026-06-01T11:56:00Z")),
            verified_at: Some(at("2026-06-01T11:56:00Z")),
            ..UpdaterStatus::default()
        }
    }

    fn failures() -> Vec<Failures> {
        let count = |count, time, reason: &str| Count {
            count,
            at: at(time),
            reason: reason.to_owned(),
        };
        vec![Failures {
            build: build(3),
            causes: BTreeMap::from([
                (
                    FailureKind::Interrupted,
                    count(1, "2026-06-01T11:55:00Z", "cut short"),
                ),
                (
                    FailureKind::Unhealthy,
                    count(2, "2026-06-01T11:50:00Z", "sick"),
                ),
            ]),
        }]
    }

    #[test]
    fn the_rows_of_a_current_instance() {
        assert_eq!(
            shown(&quiet()),
            "updates   channel stable; idle: current\n\
             stable    1.2.0 (222222222222)\n\
             factory   1.1.0 (111111111111)\n\
             checked   4 min ago, and verified\n\
             metadata  root 1, timestamp 52, snapshot 10, targets 3, expires in 23 h\n"
        );
    }

    #[test]
    fn the_rows_with_every_field() {
        let status = UpdaterStatus {
            phase: "trial".to_owned(),
            reason: "1.3.0 (taking 1.3.0: newer)".to_owned(),
            code: "expired".to_owned(),
            trial: Some(build(3)),
            wanted: Some(build(4)),
            wanted_at: Some(at("2026-06-01T17:13:44Z")),
            position: Some(1024),
            hold: Some(Hold {
                until: Some(at("2026-06-01T18:00:00Z")),
                reason: "fair week".to_owned(),
            }),
            pin: Some(Version::new(1, 3, 0)),
            floor: Some(Version::new(1, 1, 0)),
            skipped: vec![Skipped {
                build: build(5),
                reason: "the trial ended with watchdog".to_owned(),
                at: at("2026-05-29T12:00:00Z"),
                attempts: Some(3),
            }],
            failures: failures(),
            withheld: Some(Withheld {
                since: at("2026-06-01T07:00:00Z"),
                reason: "standby".to_owned(),
                last: None,
                seconds: 0,
            }),
            metadata_expires: Some(at("2026-06-01T10:00:00Z")),
            verified_at: Some(at("2026-05-31T11:00:00Z")),
            ..quiet()
        };
        assert_eq!(
            shown(&status),
            "updates   channel stable; trial (expired): 1.3.0 (taking 1.3.0: newer)\n\
             stable    1.2.0 (222222222222)\n\
             trial     1.3.0 (333333333333)\n\
             factory   1.1.0 (111111111111)\n\
             wanted    1.4.0 (444444444444) at 2026-06-01T17:13:44Z, in 5 h; place 1024 of 2048 in its waves\n\
             hold      until 2026-06-01T18:00:00Z, in 6 h: fair week\n\
             pin       1.3.0\n\
             floor     1.1.0\n\
             checked   4 min ago; last verified 25 h ago\n\
             metadata  root 1, timestamp 52, snapshot 10, targets 3, EXPIRED 2 h ago\n\
             withheld  permission to restart the agent, since 2026-06-01T07:00:00Z, 5 h ago: standby\n\
             failed    1.3.0 (333333333333): interrupted 1 times, 5 min ago (cut short); \
             unhealthy 2 times, 10 min ago (sick); tried again at 2026-06-01T13:50:00Z, in 110 min\n\
             skipped   1.5.0 (555555555555): the trial ended with watchdog, 3 days ago; not tried again: \
             imagebuilder-agent update forgive 1.5.0\n"
        );
    }

    #[test]
    fn the_rows_before_the_updater_ran() {
        let subject = |channel: &str| {
            let json = format!("{{\"instance_id\":\"i-1\"{channel}}}");
            Subject::parse(&json).unwrap()
        };
        let some = subject(",\"channel\":\"beta\",\"url\":\"file:///c\",\"soak_seconds\":1");
        for (subject, row) in [
            (None, "updates   the updater has not run yet\n"),
            (
                Some(some),
                "updates   channel beta; the updater has not run yet\n",
            ),
            (
                Some(subject("")),
                "updates   none: this instance follows no channel\n",
            ),
        ] {
            assert_eq!(
                screen(&rows(None, subject.as_ref(), now())),
                row,
                "{subject:?}"
            );
        }
        // An operator was here before it.
        let held = UpdaterStatus {
            hold: Some(Hold {
                until: None,
                reason: String::new(),
            }),
            ..UpdaterStatus::default()
        };
        assert_eq!(
            shown(&held),
            "updates   the updater has not run yet\nhold      until released\nchecked   never\n"
        );
    }

    #[test]
    fn a_hold_that_has_ended_is_not_shown() {
        let hold = Hold {
            until: Some(now()),
            reason: String::new(),
        };
        let status = UpdaterStatus {
            hold: Some(hold),
            ..quiet()
        };
        assert_eq!(shown(&status), shown(&quiet()));
    }

    #[test]
    fn spans_are_in_the_largest_unit_of_which_there_are_two() {
        for (seconds, row) in [
            (0, "just now"),
            (2, "2 s ago"),
            (119, "119 s ago"),
            (120, "2 min ago"),
            (7_199, "119 min ago"),
            (7_200, "2 h ago"),
            (172_800, "2 days ago"),
            (-1, "in a moment, by a clock that was wrong"),
            (-7_200, "in 2 h, by a clock that was wrong"),
        ] {
            let then = Timestamp::from_second(now().as_second() - seconds).unwrap();
            assert_eq!(ago(then, now()), row, "{seconds}");
        }
    }
}
