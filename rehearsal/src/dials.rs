//! The dials: faults and choices that can be turned while the cloud is up.
//!
//! Owns their names, what they take and the durable ones' values. It turns nothing by itself: the back
//! door reads a [`Turn`] and carries it out, the door and Auto Scaling look here for what is set.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::autoscaling;
use crate::autoscaling::world::AlarmState;
use crate::faults::Faults;

/// Services by the name in a credential scope, which is what dials call them.
pub(crate) const SERVICES: [&str; 8] = [
    "ec2",
    "autoscaling",
    "elasticloadbalancing",
    "ssm",
    "sts",
    "s3",
    "monitoring",
    "dynamodb",
];

const SLOW_BOOT: &str = "slow-boot";

/// Dials whose name has no further part, or the pattern of those that have one.
const PATTERNS: [(&str, &str, &str); 5] = [
    (
        "throttle.<service>",
        "off",
        "every Nth request to the service is refused as throttled; 1 is all, off is none",
    ),
    (
        "alarm.<name>",
        "INSUFFICIENT_DATA",
        "what a refresh sees of this alarm: OK, ALARM or INSUFFICIENT_DATA",
    ),
    (
        "lose-answers.<service>.<Action>",
        "0",
        "the next N such requests are carried out and never answered; forgotten by `down`",
    ),
    (
        SLOW_BOOT,
        "0",
        "seconds between an instance's launch or start and its machine's",
    ),
    (
        "kill-guest",
        "-",
        "an instance id: pulls that machine's plug, once",
    ),
];

/// What was set durably.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Dials {
    /// `throttle.<service>`: every how manieth request is refused.
    throttle: BTreeMap<String, u32>,
    /// `alarm.<name>`, where it is not INSUFFICIENT_DATA.
    alarms: BTreeMap<String, AlarmState>,
    /// `slow-boot`: seconds that a machine waits before it is started.
    pub(crate) slow_boot: u32,
}

/// A dial as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dial {
    /// Its name.
    pub(crate) name: String,
    /// Its value.
    pub(crate) value: String,
    /// Its value where nobody touched it.
    pub(crate) usual: String,
    /// What it does.
    pub(crate) what: String,
}

/// A dial's turn, read and found good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// A switch of Auto Scaling, which knows what it takes.
    Switch(String, String),
    /// Every how manieth request of a service is refused.
    Throttle(String, u32),
    /// An alarm's state.
    Alarm(String, AlarmState),
    /// Machines wait so many seconds before they are started.
    SlowBoot(u32),
    /// So many answers to a service's action get lost.
    LoseAnswers(String, String, u32),
    /// This instance's plug is pulled.
    KillGuest(String),
}

impl Turn {
    /// Reads what `name` and `value` ask for.
    ///
    /// # Errors
    /// What is wrong with either, with the nearest name that would do.
    pub(crate) fn read(name: &str, value: &str) -> Result<Self, String> {
        if autoscaling::is_switch(name) {
            return Ok(Self::Switch(name.to_owned(), value.to_owned()));
        }
        match name.split_once('.') {
            Some(("throttle", service)) => {
                let every = if value == "off" {
                    0
                } else {
                    number(name, value, "`off` or a number")?
                };
                Ok(Self::Throttle(known_service(service)?, every))
            }
            Some(("alarm", alarm)) if !alarm.is_empty() => {
                Ok(Self::Alarm(alarm.to_owned(), alarm_state(name, value)?))
            }
            Some(("lose-answers", call)) => {
                let (service, action) = call
                    .split_once('.')
                    .filter(|(_, action)| !action.is_empty())
                    .ok_or_else(|| {
                        format!(
                            "{name} names no action\nhint: for example lose-answers.ec2.RunInstances"
                        )
                    })?;
                Ok(Self::LoseAnswers(
                    known_service(service)?,
                    action.to_owned(),
                    number(name, value, "a number of answers")?,
                ))
            }
            None if name == SLOW_BOOT => {
                Ok(Self::SlowBoot(number(name, value, "a number of seconds")?))
            }
            None if name == "kill-guest" => Ok(Self::KillGuest(value.to_owned())),
            _ => Err(unknown(name)),
        }
    }
}

impl Dials {
    /// Sets every how manieth request to a service is refused; 0 is none.
    pub(crate) fn throttle(&mut self, service: &str, every: u32) {
        if every == 0 {
            self.throttle.remove(service);
        } else {
            self.throttle.insert(service.to_owned(), every);
        }
    }

    /// Every how manieth request to a service is refused; 0 is none.
    pub(crate) fn throttled(&self, service: &str) -> u32 {
        self.throttle.get(service).copied().unwrap_or(0)
    }

    /// Sets an alarm's state.
    pub(crate) fn set_alarm(&mut self, name: &str, state: AlarmState) {
        if state == AlarmState::InsufficientData {
            self.alarms.remove(name);
        } else {
            self.alarms.insert(name.to_owned(), state);
        }
    }

    /// An alarm's state.
    pub(crate) fn alarm(&self, name: &str) -> AlarmState {
        self.alarms
            .get(name)
            .copied()
            .unwrap_or(AlarmState::InsufficientData)
    }
}

/// Every dial there is: switches, what is set, and the patterns of what can be.
pub(crate) fn list(switches: &autoscaling::State, dials: &Dials, faults: &Faults) -> Vec<Dial> {
    let switches = autoscaling::all_switches(switches)
        .into_iter()
        .map(|switch| Dial {
            name: switch.name.to_owned(),
            value: switch.value,
            usual: switch.usual,
            what: switch.what.to_owned(),
        });
    let patterns =
        PATTERNS.iter().flat_map(|(pattern, usual, what)| {
            let dial = |name: String, value: String| Dial {
                name,
                value,
                usual: (*usual).to_owned(),
                what: (*what).to_owned(),
            };
            let value = if *pattern == SLOW_BOOT {
                dials.slow_boot.to_string()
            } else {
                (*usual).to_owned()
            };
            let mut all = vec![dial((*pattern).to_owned(), value)];
            let kind = pattern.split('.').next().unwrap_or_default();
            match kind {
                "throttle" => {
                    all.extend(dials.throttle.iter().map(|(service, every)| {
                        dial(format!("{kind}.{service}"), every.to_string())
                    }))
                }
                "alarm" => {
                    all.extend(dials.alarms.iter().map(|(name, state)| {
                        dial(format!("{kind}.{name}"), word(*state).to_owned())
                    }))
                }
                "lose-answers" => all.extend(
                    faults
                        .to_lose()
                        .into_iter()
                        .map(|(call, left)| dial(format!("{kind}.{call}"), left.to_string())),
                ),
                _ => {}
            }
            all
        });
    switches.chain(patterns).collect()
}

fn known_service(name: &str) -> Result<String, String> {
    if SERVICES.contains(&name) {
        return Ok(name.to_owned());
    }
    Err(format!(
        "no service is called {name:?} here\nhint: one of {}",
        SERVICES.join(", ")
    ))
}

fn number(name: &str, value: &str, takes: &str) -> Result<u32, String> {
    value
        .parse()
        .map_err(|_| format!("{name} takes {takes}, not {value:?}"))
}

fn word(state: AlarmState) -> &'static str {
    match state {
        AlarmState::Ok => "OK",
        AlarmState::Alarm => "ALARM",
        AlarmState::InsufficientData => "INSUFFICIENT_DATA",
    }
}

fn alarm_state(name: &str, value: &str) -> Result<AlarmState, String> {
    let states = [
        AlarmState::Ok,
        AlarmState::Alarm,
        AlarmState::InsufficientData,
    ];
    states
        .into_iter()
        .find(|state| word(*state).eq_ignore_ascii_case(value))
        .ok_or_else(|| format!("{name} takes OK, ALARM or INSUFFICIENT_DATA, not {value:?}"))
}

fn unknown(name: &str) -> String {
    let likeness = |known: &str| strsim::normalized_damerau_levenshtein(known, name);
    let nearest = autoscaling::switch_names()
        .chain(PATTERNS.iter().map(|(pattern, ..)| *pattern))
        .max_by(|one, other| likeness(one).total_cmp(&likeness(other)))
        .unwrap_or_default();
    format!(
        "no dial is called {name}\nhint: the nearest is {nearest}; `rehearsal dial DIR` lists them all"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dials_are_read_or_refused_with_what_would_do() {
        let table: [(&str, &str, Result<Turn, &str>); 16] = [
            (
                "stall-limit",
                "90",
                Ok(Turn::Switch("stall-limit".into(), "90".into())),
            ),
            ("throttle.ec2", "3", Ok(Turn::Throttle("ec2".into(), 3))),
            ("throttle.ssm", "off", Ok(Turn::Throttle("ssm".into(), 0))),
            (
                "throttle.ec2",
                "often",
                Err("throttle.ec2 takes `off` or a number"),
            ),
            ("throttle.elb", "2", Err("elasticloadbalancing")),
            (
                "alarm.too many 5xx.eu",
                "ALARM",
                Ok(Turn::Alarm("too many 5xx.eu".into(), AlarmState::Alarm)),
            ),
            ("alarm.a", "ok", Ok(Turn::Alarm("a".into(), AlarmState::Ok))),
            ("alarm.a", "red", Err("OK, ALARM or INSUFFICIENT_DATA")),
            ("alarm.", "OK", Err("nearest is alarm.<name>")),
            (
                "lose-answers.ec2.RunInstances",
                "2",
                Ok(Turn::LoseAnswers("ec2".into(), "RunInstances".into(), 2)),
            ),
            ("lose-answers.ec2", "2", Err("names no action")),
            ("kill-guest", "i-1", Ok(Turn::KillGuest("i-1".into()))),
            ("slow-boot", "5", Ok(Turn::SlowBoot(5))),
            ("slow-boot", "-5", Err("takes a number of seconds")),
            ("stal-limit", "1", Err("nearest is stall-limit")),
            ("throtle.ec2", "1", Err("nearest is throttle.<service>")),
        ];
        for (name, value, expected) in table {
            match (Turn::read(name, value), expected) {
                (Ok(turn), Ok(expected)) => assert_eq!(turn, expected, "{name} {value}"),
                (Err(said), Err(part)) => assert!(said.contains(part), "{name} {value}: {said}"),
                (read, _) => panic!("{name} {value}: {read:?}"),
            }
        }
    }

    #[test]
    fn what_is_set_is_listed_beside_its_pattern() {
        let mut dials = Dials::default();
        let faults = Faults::default();
        let switches = autoscaling::State::default();
        let usual = list(&switches, &dials, &faults);
        assert!(
            usual.iter().all(|dial| dial.value == dial.usual),
            "{usual:?}"
        );
        dials.throttle("ec2", 3);
        dials.set_alarm("sick", AlarmState::Alarm);
        dials.slow_boot = 9;
        faults.lose("ssm", "PutParameter", 1);
        let turned: Vec<_> = list(&switches, &dials, &faults)
            .into_iter()
            .filter(|dial| dial.value != dial.usual)
            .map(|dial| (dial.name, dial.value))
            .collect();
        assert_eq!(
            turned,
            [
                ("throttle.ec2".to_owned(), "3".to_owned()),
                ("alarm.sick".to_owned(), "ALARM".to_owned()),
                ("lose-answers.ssm.PutParameter".to_owned(), "1".to_owned()),
                ("slow-boot".to_owned(), "9".to_owned()),
            ]
        );
        dials.slow_boot = 0;
        dials.throttle("ec2", 0);
        dials.set_alarm("sick", AlarmState::InsufficientData);
        assert_eq!(dials, Dials::default());
    }
}
