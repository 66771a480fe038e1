//! `[drain]` of the agent's settings: how an instance drains, the limits, and what is refused.
//!
//! imagebuilder refuses at a bake what the agent would refuse on the instance, by the same code. No message repeats a
//! value: settings may come from user data, which may hold secrets.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Longest drain: two days, which is the longest that AWS holds an instance at a lifecycle hook.
pub const LONGEST: u64 = 172_800;

/// The exit code of `command` that means "still busy": EX_TEMPFAIL of sysexits.h.
pub const EXIT_BUSY: i32 = 75;

/// How the termination hook is answered when the drain did not finish before its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// CONTINUE: the instance is terminated.
    Continue,
    /// ABANDON: further hooks are skipped, and a group with such a lifecycle policy retains the instance.
    Abandon,
}

/// The table as a source has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// Requested to learn whether the services are still busy.
    pub url: Option<String>,
    /// Run to learn the same.
    pub command: Option<Vec<String>>,
    /// Seconds between two polls of `url` or `command`.
    pub interval_seconds: Option<u64>,
    /// Seconds that one poll may take.
    pub timeout_seconds: Option<u64>,
    /// Least time of a drain, in seconds.
    pub settle_seconds: Option<u64>,
    /// Longest time of a drain, in seconds.
    pub deadline_seconds: Option<u64>,
    /// How the termination hook is answered after the deadline.
    pub on_failure: Option<OnFailure>,
}

/// A value that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its key in the table.
    pub key: &'static str,
    /// What is wrong with it.
    pub problem: String,
    /// What to use instead.
    pub hint: &'static str,
}

impl Drain {
    /// This table with every key that `later` names taken from `later`. A later `url` replaces an earlier `command`,
    /// and the reverse.
    #[must_use]
    pub fn over(mut self, later: Self) -> Self {
        if later.url.is_some() || later.command.is_some() {
            (self.url, self.command) = (None, None);
        }
        Self {
            url: later.url.or(self.url),
            command: later.command.or(self.command),
            interval_seconds: later.interval_seconds.or(self.interval_seconds),
            timeout_seconds: later.timeout_seconds.or(self.timeout_seconds),
            settle_seconds: later.settle_seconds.or(self.settle_seconds),
            deadline_seconds: later.deadline_seconds.or(self.deadline_seconds),
            on_failure: later.on_failure.or(self.on_failure),
        }
    }

    /// Whether the services are asked if they are still busy.
    #[must_use]
    pub fn polls(&self) -> bool {
        self.url.is_some() || self.command.is_some()
    }

    /// Pause between two polls.
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.interval_seconds.unwrap_or(5))
    }

    /// How long one poll may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds.unwrap_or(5))
    }

    /// Least time of a drain.
    #[must_use]
    pub fn settle(&self) -> Duration {
        Duration::from_secs(self.settle_seconds.unwrap_or(5))
    }

    /// Longest time of a drain. By default an hour where services are asked, which is the default timeout of a
    /// lifecycle hook.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        let usual = if self.polls() { 3_600 } else { 600 };
        let least = self.settle().as_secs();
        Duration::from_secs(self.deadline_seconds.unwrap_or(least.max(usual)))
    }

    /// Everything that is refused.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = self.wrong_ways();
        for (key, given, least, most) in [
            ("interval_seconds", self.interval_seconds, 1, 3_600),
            ("timeout_seconds", self.timeout_seconds, 1, 60),
            ("settle_seconds", self.settle_seconds, 0, 7_200),
            ("deadline_seconds", self.deadline_seconds, 1, LONGEST),
        ] {
            if let Some(value) = given.filter(|value| !(least..=most).contains(value)) {
                findings.push(Finding {
                    key,
                    problem: format!("{value} is not between {least} and {most}"),
                    hint: "",
                });
            }
        }
        let (settle, deadline) = (self.settle(), self.deadline());
        if deadline < settle {
            findings.push(Finding {
                key: "deadline_seconds",
                problem: format!(
                    "{} s end before drain.settle_seconds, {} s",
                    deadline.as_secs(),
                    settle.as_secs()
                ),
                hint: "",
            });
        }
        findings
    }

    /// What is wrong with `url`, `command` and the keys that belong to them.
    fn wrong_ways(&self) -> Vec<Finding> {
        let finding = |wrong: bool, key: &'static str, problem: &str, hint: &'static str| {
            wrong.then(|| Finding {
                key,
                problem: problem.to_owned(),
                hint,
            })
        };
        let nothing = "neither url nor command is set";
        let either = "set `url` or `command`, or remove this key";
        let program = |command: &Vec<String>| {
            command.first().is_some_and(|it| it.starts_with('/'))
                && !command.iter().any(|word| word.contains('\0'))
        };
        let url = self.url.as_ref();
        let command = self.command.as_ref();
        [
            finding(
                url.is_some() && command.is_some(),
                "command",
                "set beside url",
                "remove one of the two",
            ),
            finding(
                url.is_some_and(|url| !is_loopback(url)),
                "url",
                "not a plain HTTP address of this instance",
                "use one on loopback, such as http://127.0.0.1:8080/busy",
            ),
            finding(
                command.is_some_and(|command| !program(command)),
                "command",
                "does not begin with the absolute path of a program",
                "use such as [\"/usr/lib/shop/busy\", \"--quiet\"]; a shell's features need [\"/bin/sh\", \"-c\", …]",
            ),
            finding(
                self.interval_seconds.is_some() && !self.polls(),
                "interval_seconds",
                nothing,
                either,
            ),
            finding(
                self.timeout_seconds.is_some() && !self.polls(),
                "timeout_seconds",
                nothing,
                either,
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Whether a URL is `http://` with a host that is this instance itself.
fn is_loopback(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else {
        return false;
    };
    let printable = |c: char| c.is_ascii_graphic();
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (host, port) = match authority.strip_prefix('[') {
        Some(literal) => match literal.split_once(']') {
            Some((host, port)) => (host, port),
            None => return false,
        },
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let literal = authority.starts_with('[');
    let local = if literal {
        host.parse::<Ipv6Addr>().is_ok_and(|it| it.is_loopback())
    } else {
        host.eq_ignore_ascii_case("localhost")
            || host.parse::<Ipv4Addr>().is_ok_and(|it| it.is_loopback())
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|port| digits(port) && port.parse::<u16>().is_ok_and(|number| number > 0));
    local && port && url.chars().all(printable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> Drain {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn only_plain_http_on_loopback_is_an_address() {
        for good in [
            "http://127.0.0.1:8080/busy",
            "http://127.0.0.1",
            "http://localhost/busy?queue=a",
            "http://LOCALHOST:1",
            "http://[::1]:9000/busy",
            "http://127.1.2.3/#x",
        ] {
            assert!(is_loopback(good), "{good}");
        }
        for bad in [
            "",
            "127.0.0.1:8080/busy",
            "https://127.0.0.1/busy",
            "http://",
            "http://:80/",
            "http://10.0.0.1/busy",
            "http://busy.example/",
            "http://localhost.example/",
            "http://user@127.0.0.1/",
            "http://127.0.0.1:0/",
            "http://127.0.0.1:+80/",
            "http://127.0.0.1:99999/",
            "http://127.0.0.1:80:80/",
            "http://[::1/",
            "http://[::2]/",
            "http://[127.0.0.1]/",
            "http://::1/",
            "http://127.0.0.1/a b",
            "http://127.0.0.1/a\n",
        ] {
            assert!(!is_loopback(bad), "{bad:?}");
        }
    }

    #[test]
    fn every_wrong_value_is_found_at_once() {
        let keys = |json: &str| -> Vec<&'static str> {
            of(json).findings().into_iter().map(|it| it.key).collect()
        };
        for good in [
            "{}",
            r#"{"url":"http://127.0.0.1:1/b","interval_seconds":1,"timeout_seconds":60}"#,
            r#"{"command":["/bin/true"],"settle_seconds":0,"deadline_seconds":172800}"#,
            r#"{"settle_seconds":7200}"#,
        ] {
            assert!(keys(good).is_empty(), "{good}");
        }
        for (bad, found) in [
            (
                r#"{"url":"http://127.0.0.1/","command":["/bin/true"]}"#,
                &["command"][..],
            ),
            (r#"{"url":"http://shop.example/"}"#, &["url"]),
            (r#"{"command":[]}"#, &["command"]),
            (r#"{"command":["true"]}"#, &["command"]),
            (r#"{"command":["/bin/true","\u0000"]}"#, &["command"]),
            (r#"{"interval_seconds":5}"#, &["interval_seconds"]),
            (r#"{"timeout_seconds":5}"#, &["timeout_seconds"]),
            (
                r#"{"url":"x","interval_seconds":0,"timeout_seconds":61,"settle_seconds":7201,"deadline_seconds":172801}"#,
                &[
                    "url",
                    "interval_seconds",
                    "timeout_seconds",
                    "settle_seconds",
                    "deadline_seconds",
                ],
            ),
            (
                r#"{"settle_seconds":9,"deadline_seconds":8}"#,
                &["deadline_seconds"],
            ),
        ] {
            assert_eq!(keys(bad), found, "{bad}");
        }
    }

    #[test]
    fn the_deadline_is_an_hour_where_services_are_asked() {
        for (json, seconds) in [
            ("{}", 600),
            (r#"{"settle_seconds":900}"#, 900),
            (r#"{"url":"http://127.0.0.1/"}"#, 3_600),
            (r#"{"command":["/bin/true"],"settle_seconds":7200}"#, 7_200),
            (r#"{"command":["/bin/true"],"deadline_seconds":60}"#, 60),
        ] {
            assert_eq!(of(json).deadline().as_secs(), seconds, "{json}");
        }
    }

    #[test]
    fn a_later_way_of_asking_replaces_an_earlier_one() {
        let image = of(r#"{"url":"http://127.0.0.1/","interval_seconds":9}"#);
        let both = image
            .clone()
            .over(of(r#"{"command":["/bin/true"],"timeout_seconds":2}"#));
        assert_eq!(
            both,
            of(r#"{"command":["/bin/true"],"interval_seconds":9,"timeout_seconds":2}"#)
        );
        assert_eq!(image.clone().over(Drain::default()), image);
    }
}
