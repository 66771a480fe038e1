//! Injected faults and switches that can be set while the cloud is up: the dials of `rehearsal dial`.
//!
//! Owns their names, their values' syntax and the durable values. Applies nothing itself: the admin API reads a
//! [`DialChange`] and applies it; the HTTP server and Auto Scaling read the values here.

use std::collections::{BTreeMap, BTreeSet};

use instance_refresh::AlarmState;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::autoscaling;
use crate::ec2::select::glob;
use crate::fault_counters::FaultCounters;
use crate::foreign;
use crate::ids::{GroupName, Id as _, InstanceId};
use crate::imds_source::Notices;
use crate::launch_error::LaunchError;

/// Services that this cloud implements, by their names in a credential scope, which dials and IAM use as well.
const OWN_SERVICES: [&str; 5] = ["ec2", "autoscaling", "elasticloadbalancing", "ssm", "sts"];

/// All services by their names in a credential scope.
pub(crate) fn services() -> impl Iterator<Item = &'static str> {
    OWN_SERVICES.into_iter().chain(foreign::scopes())
}

/// How long before an interruption Spot announces it.
const NOTICE: SignedDuration = SignedDuration::from_mins(2);

/// The length of a scheduled event's window.
const EVENT_LASTS: SignedDuration = SignedDuration::from_hours(1);

const SLOW_BOOT: &str = "slow-boot";

/// Dials, by name or by the pattern of their names: pattern, default, description.
const PATTERNS: [(&str, &str, &str); 11] = [
    (
        "throttle.<service>",
        "off",
        "refuse every Nth request to the service as throttled; 1 is all, off is none",
    ),
    (
        "deny.<service>:<Action>",
        "off",
        "on: deny the action to all callers, in IAM's simulation as well; `*` stands for any text",
    ),
    (
        "alarm.<name>",
        "INSUFFICIENT_DATA",
        "state of this CloudWatch alarm: OK, ALARM or INSUFFICIENT_DATA",
    ),
    (
        "lose-answers.<service>.<Action>",
        "0",
        "carry out the next N such requests without answering them; reset by `down`",
    ),
    (
        SLOW_BOOT,
        "0",
        "seconds between the launch or start of an instance and the start of its machine",
    ),
    (
        "launch-error.<group>",
        "off",
        "error code, such as InsufficientInstanceCapacity: all launches for the group fail with it",
    ),
    (
        "spot-interruption.<instance>",
        "off",
        "terminate, stop or hibernate: announce it in the instance's metadata, two minutes ahead",
    ),
    (
        "rebalance.<instance>",
        "off",
        "on: announce a rebalance recommendation in the instance's metadata",
    ),
    (
        "scheduled-event.<instance>",
        "off",
        "<code>:<seconds>, such as instance-stop:600: announce an event of that code, that many seconds ahead",
    ),
    (
        "spot-reclaim",
        "-",
        "instance id: terminate that instance as Spot does, once",
    ),
    (
        "kill-guest",
        "-",
        "instance id: kill that instance's machine, once",
    ),
];

/// The durable values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Faults {
    /// `throttle.<service>`: refuse every Nth request.
    throttle: BTreeMap<String, u32>,
    /// `deny.<service>:<Action>`: patterns of denied actions, with `*` and `?`.
    deny: BTreeSet<String>,
    /// `alarm.<name>`, unless INSUFFICIENT_DATA.
    alarms: BTreeMap<String, AlarmState>,
    /// `launch-error.<group>`.
    launch_errors: BTreeMap<GroupName, LaunchError>,
    /// `spot-interruption.<instance>`: the action, and when.
    spot: BTreeMap<InstanceId, (String, Timestamp)>,
    /// `rebalance.<instance>`: since when.
    rebalance: BTreeMap<InstanceId, Timestamp>,
    /// `scheduled-event.<instance>`: its code, and when it begins.
    events: BTreeMap<InstanceId, (String, Timestamp)>,
    /// `slow-boot`: seconds by which the start of a machine is delayed.
    pub(crate) slow_boot: u32,
}

/// A dial as `rehearsal dial` and `status` show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dial {
    /// Its name.
    pub(crate) name: String,
    /// Its value.
    pub(crate) value: String,
    /// Its default.
    pub(crate) usual: String,
    /// Its description.
    pub(crate) what: String,
}

/// A valid change of a dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DialChange {
    /// A switch of Auto Scaling, which checks the value.
    Switch(String, String),
    /// Refuse every Nth request to a service.
    Throttle(String, u32),
    /// Deny an action, or stop denying it.
    Deny(String, bool),
    /// An alarm's state.
    Alarm(String, AlarmState),
    /// Fail all launches for this group with that error, or stop doing so.
    LaunchError(GroupName, Option<LaunchError>),
    /// Terminate this instance as Spot does.
    SpotReclaim(InstanceId),
    /// Delay the start of machines by so many seconds.
    SlowBoot(u32),
    /// Drop so many answers to a service's action.
    LoseAnswers(String, String, u32),
    /// Announce a Spot interruption in this instance's metadata, or stop announcing it.
    SpotInterruption(InstanceId, Option<String>),
    /// Announce a rebalance recommendation, or stop announcing it.
    Rebalance(InstanceId, bool),
    /// Announce an event of this code in so many seconds, or none.
    ScheduledEvent(InstanceId, Option<(String, u32)>),
    /// Kill this instance's machine.
    KillGuest(InstanceId),
}

impl DialChange {
    /// Parses a dial's name and new value.
    ///
    /// # Errors
    /// When either is not valid, with a hint.
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
            Some(("deny", action)) => match value {
                "on" | "off" => Ok(Self::Deny(denied_action(action)?, value == "on")),
                _ => Err(format!("{name} takes on or off, not {value:?}")),
            },
            Some(("alarm", alarm)) if !alarm.is_empty() => {
                Ok(Self::Alarm(alarm.to_owned(), alarm_state(name, value)?))
            }
            Some(("lose-answers", call)) => {
                let (service, action) = call
                    .split_once('.')
                    .filter(|(_, action)| !action.is_empty())
                    .ok_or_else(|| {
                        format!(
                            "{name} contains no action\nhint: write it like lose-answers.ec2.RunInstances"
                        )
                    })?;
                Ok(Self::LoseAnswers(
                    known_service(service)?,
                    action.to_owned(),
                    number(name, value, "a number of answers")?,
                ))
            }
            Some(("launch-error", group)) if !group.is_empty() => Ok(Self::LaunchError(
                GroupName::new(group),
                launch_error(name, value)?,
            )),
            Some(("spot-interruption", id)) if !id.is_empty() => Ok(Self::SpotInterruption(
                InstanceId::unchecked(id),
                match value {
                    "off" => None,
                    "terminate" | "stop" | "hibernate" => Some(value.to_owned()),
                    _ => {
                        return Err(format!(
                            "{name} takes off, terminate, stop or hibernate, not {value:?}"
                        ));
                    }
                },
            )),
            Some(("rebalance", id)) if !id.is_empty() => match value {
                "on" | "off" => Ok(Self::Rebalance(InstanceId::unchecked(id), value == "on")),
                _ => Err(format!("{name} takes on or off, not {value:?}")),
            },
            Some(("scheduled-event", id)) if !id.is_empty() => Ok(Self::ScheduledEvent(
                InstanceId::unchecked(id),
                event(name, value)?,
            )),
            None if name == SLOW_BOOT => {
                Ok(Self::SlowBoot(number(name, value, "a number of seconds")?))
            }
            None if name == "spot-reclaim" => Ok(Self::SpotReclaim(InstanceId::unchecked(value))),
            None if name == "kill-guest" => Ok(Self::KillGuest(InstanceId::unchecked(value))),
            _ => Err(unknown(name)),
        }
    }
}

impl Faults {
    /// Refuses every `every`th request to a service; 0 refuses none.
    pub(crate) fn throttle(&mut self, service: &str, every: u32) {
        if every == 0 {
            self.throttle.remove(service);
        } else {
            self.throttle.insert(service.to_owned(), every);
        }
    }

    /// N when every Nth request to a service is to be refused; 0 for none.
    pub(crate) fn throttled(&self, service: &str) -> u32 {
        self.throttle.get(service).copied().unwrap_or(0)
    }

    /// Denies the actions that match `pattern`, or stops denying them.
    pub(crate) fn deny(&mut self, pattern: &str, on: bool) {
        if on {
            self.deny.insert(pattern.to_owned());
        } else {
            self.deny.remove(pattern);
        }
    }

    /// Whether an action such as `ec2:RunInstances` is denied; as in IAM, case does not matter.
    pub(crate) fn denies(&self, action: &str) -> bool {
        let action = action.to_ascii_lowercase();
        self.deny
            .iter()
            .any(|pattern| glob(&pattern.to_ascii_lowercase(), &action))
    }

    /// Whether any action is denied.
    pub(crate) fn denies_any(&self) -> bool {
        !self.deny.is_empty()
    }

    /// Sets an alarm's state.
    pub(crate) fn set_alarm(&mut self, name: &str, state: AlarmState) {
        if state == AlarmState::InsufficientData {
            self.alarms.remove(name);
        } else {
            self.alarms.insert(name.to_owned(), state);
        }
    }

    /// Fails all launches for a group with this error, or stops doing so.
    pub(crate) fn set_launch_error(&mut self, group: &GroupName, error: Option<LaunchError>) {
        match error {
            Some(error) => self.launch_errors.insert(group.clone(), error),
            None => self.launch_errors.remove(group),
        };
    }

    /// The error with which launches for a group fail.
    pub(crate) fn launch_error(&self, group: &GroupName) -> Option<LaunchError> {
        self.launch_errors.get(group).copied()
    }

    /// Announces that Spot interrupts an instance in two minutes, or stops announcing it.
    pub(crate) fn interrupt(&mut self, id: &InstanceId, action: Option<String>, now: Timestamp) {
        match action {
            Some(action) => self.spot.insert(id.clone(), (action, now + NOTICE)),
            None => self.spot.remove(id),
        };
    }

    /// Announces a rebalance recommendation for an instance, or stops announcing it.
    pub(crate) fn recommend_rebalance(&mut self, id: &InstanceId, on: bool, now: Timestamp) {
        if on {
            self.rebalance.insert(id.clone(), now);
        } else {
            self.rebalance.remove(id);
        }
    }

    /// Announces a scheduled event of an instance, or none.
    pub(crate) fn schedule(
        &mut self,
        id: &InstanceId,
        event: Option<(String, u32)>,
        now: Timestamp,
    ) {
        match event {
            Some((code, seconds)) => {
                let begins = now + SignedDuration::from_secs(seconds.into());
                self.events.insert(id.clone(), (code, begins))
            }
            None => self.events.remove(id),
        };
    }

    /// What the metadata of an instance announces.
    pub(crate) fn notices(&self, id: &InstanceId) -> Notices {
        let exact = |at: &Timestamp| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let day = |at: Timestamp| at.strftime("%-d %b %Y %H:%M:%S GMT").to_string();
        let spot = self.spot.get(id);
        Notices {
            spot: spot.map(|(action, at)| (action.clone(), exact(at))),
            rebalance: self.rebalance.get(id).map(exact),
            event: self.events.get(id).map(|(code, begins)| {
                let event = format!("instance-event-{}", id.as_str().trim_start_matches("i-"));
                [
                    code.clone(),
                    event,
                    day(*begins),
                    day(*begins + EVENT_LASTS),
                ]
            }),
        }
    }

    /// All alarms that are set, with CloudWatch's names of their states.
    pub(crate) fn alarms(&self) -> impl Iterator<Item = (&str, &'static str)> {
        let all = self.alarms.iter();
        all.map(|(name, state)| (name.as_str(), alarm_name(*state)))
    }

    /// An alarm's state.
    pub(crate) fn alarm(&self, name: &str) -> AlarmState {
        self.alarms
            .get(name)
            .copied()
            .unwrap_or(AlarmState::InsufficientData)
    }
}

/// All dials: switches, patterns, and the values that are set.
pub(crate) fn list(
    switches: &autoscaling::State,
    faults: &Faults,
    counters: &FaultCounters,
) -> Vec<Dial> {
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
                faults.slow_boot.to_string()
            } else {
                (*usual).to_owned()
            };
            let mut all = vec![dial((*pattern).to_owned(), value)];
            let kind = pattern.split('.').next().unwrap_or_default();
            match kind {
                "throttle" => {
                    all.extend(faults.throttle.iter().map(|(service, every)| {
                        dial(format!("{kind}.{service}"), every.to_string())
                    }))
                }
                "deny" => all.extend(
                    faults
                        .deny
                        .iter()
                        .map(|action| dial(format!("{kind}.{action}"), "on".to_owned())),
                ),
                "alarm" => all.extend(faults.alarms.iter().map(|(name, state)| {
                    dial(format!("{kind}.{name}"), alarm_name(*state).to_owned())
                })),
                "launch-error" => all.extend(faults.launch_errors.iter().map(|(group, error)| {
                    dial(format!("{kind}.{group}"), error.code().to_owned())
                })),
                "spot-interruption" => all.extend(
                    faults
                        .spot
                        .iter()
                        .map(|(id, (action, _))| dial(format!("{kind}.{id}"), action.clone())),
                ),
                "rebalance" => all.extend(
                    faults
                        .rebalance
                        .keys()
                        .map(|id| dial(format!("{kind}.{id}"), "on".to_owned())),
                ),
                "scheduled-event" => all.extend(faults.events.iter().map(|(id, (code, at))| {
                    dial(format!("{kind}.{id}"), format!("{code} at {at}"))
                })),
                "lose-answers" => all.extend(
                    counters
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
    if services().any(|service| service == name) {
        return Ok(name.to_owned());
    }
    Err(no_service(name, services()))
}

fn no_service<'a>(name: &str, all: impl Iterator<Item = &'a str>) -> String {
    let all: BTreeSet<&str> = all.collect();
    let all: Vec<&str> = all.into_iter().collect();
    format!(
        "unknown service {name:?}\nhint: use one of {}",
        all.join(", ")
    )
}

/// Checks an action in IAM's form, with or without wildcards.
fn denied_action(text: &str) -> Result<String, String> {
    let (service, action) = text
        .split_once(':')
        .filter(|(_, action)| {
            let is_pattern = |c: char| c.is_ascii_alphanumeric() || c == '*' || c == '?';
            !action.is_empty() && action.chars().all(is_pattern)
        })
        .ok_or_else(|| {
            format!("deny.{text} contains no action\nhint: write it like deny.ec2:RunInstances")
        })?;
    let prefixes = || services().map(foreign::prefix);
    if !prefixes().any(|prefix| prefix == service) {
        return Err(no_service(service, prefixes()));
    }
    Ok(format!("{service}:{action}"))
}

fn number(name: &str, value: &str, takes: &str) -> Result<u32, String> {
    value
        .parse()
        .map_err(|_| format!("{name} takes {takes}, not {value:?}"))
}

fn event(name: &str, value: &str) -> Result<Option<(String, u32)>, String> {
    const CODES: [&str; 5] = [
        "instance-reboot",
        "instance-retirement",
        "instance-stop",
        "system-maintenance",
        "system-reboot",
    ];
    if value == "off" {
        return Ok(None);
    }
    let read = value.split_once(':').and_then(|(code, seconds)| {
        let known = CODES.contains(&code);
        Some((code.to_owned(), seconds.parse().ok().filter(|_| known)?))
    });
    read.map(Some).ok_or_else(|| {
        format!(
            "{name} takes off or <code>:<seconds>, not {value:?}\nhint: use one of the codes {}",
            CODES.join(", ")
        )
    })
}

fn launch_error(name: &str, value: &str) -> Result<Option<LaunchError>, String> {
    if value == "off" {
        return Ok(None);
    }
    LaunchError::of_code(value).map(Some).ok_or_else(|| {
        let codes = LaunchError::ALL.map(LaunchError::code);
        format!(
            "{name} takes off or a code, not {value:?}\nhint: use one of the codes {}",
            codes.join(", ")
        )
    })
}

fn alarm_name(state: AlarmState) -> &'static str {
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
        .find(|state| alarm_name(*state).eq_ignore_ascii_case(value))
        .ok_or_else(|| format!("{name} takes OK, ALARM or INSUFFICIENT_DATA, not {value:?}"))
}

fn unknown(name: &str) -> String {
    fn kind(name: &str) -> &str {
        name.split('.').next().unwrap_or_default()
    }
    let patterns = || PATTERNS.iter().map(|(pattern, ..)| *pattern);
    let nearest = support::nearest(name, autoscaling::switch_names()).or_else(|| {
        let nearest = support::nearest(kind(name), patterns().map(kind))?;
        patterns().find(|pattern| kind(pattern) == nearest)
    });
    let suggestion = match nearest {
        Some(nearest) => format!("did you mean `{nearest}`? "),
        None => String::new(),
    };
    format!("unknown dial `{name}`\nhint: {suggestion}`rehearsal dial DIR` lists all dials")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dials_are_parsed_or_refused_with_a_hint() {
        let table: [(&str, &str, Result<DialChange, &str>); 33] = [
            (
                "stall-limit",
                "90",
                Ok(DialChange::Switch("stall-limit".into(), "90".into())),
            ),
            (
                "throttle.ec2",
                "3",
                Ok(DialChange::Throttle("ec2".into(), 3)),
            ),
            (
                "throttle.ssm",
                "off",
                Ok(DialChange::Throttle("ssm".into(), 0)),
            ),
            (
                "throttle.ec2",
                "often",
                Err("throttle.ec2 takes `off` or a number"),
            ),
            ("throttle.elb", "2", Err("elasticloadbalancing")),
            (
                "deny.ec2:RunInstances",
                "on",
                Ok(DialChange::Deny("ec2:RunInstances".into(), true)),
            ),
            (
                "deny.cloudwatch:Put*",
                "off",
                Ok(DialChange::Deny("cloudwatch:Put*".into(), false)),
            ),
            ("deny.ec2:RunInstances", "1", Err("takes on or off")),
            ("deny.ec2.RunInstances", "on", Err("contains no action")),
            ("deny.ec2:", "on", Err("contains no action")),
            ("deny.elb:CreateListener", "on", Err("elasticloadbalancing")),
            (
                "alarm.too many 5xx.eu",
                "ALARM",
                Ok(DialChange::Alarm(
                    "too many 5xx.eu".into(),
                    AlarmState::Alarm,
                )),
            ),
            (
                "alarm.a",
                "ok",
                Ok(DialChange::Alarm("a".into(), AlarmState::Ok)),
            ),
            ("alarm.a", "red", Err("OK, ALARM or INSUFFICIENT_DATA")),
            ("alarm.", "OK", Err("did you mean `alarm.<name>`")),
            (
                "lose-answers.ec2.RunInstances",
                "2",
                Ok(DialChange::LoseAnswers(
                    "ec2".into(),
                    "RunInstances".into(),
                    2,
                )),
            ),
            ("lose-answers.ec2", "2", Err("contains no action")),
            (
                "launch-error.shop",
                "VcpuLimitExceeded",
                Ok(DialChange::LaunchError(
                    "shop".into(),
                    Some(LaunchError::VcpuLimitExceeded),
                )),
            ),
            (
                "launch-error.shop",
                "off",
                Ok(DialChange::LaunchError("shop".into(), None)),
            ),
            (
                "launch-error.shop",
                "on",
                Err("one of the codes InsufficientInstanceCapacity"),
            ),
            (
                "spot-reclaim",
                "i-1",
                Ok(DialChange::SpotReclaim("i-1".into())),
            ),
            ("kill-guest", "i-1", Ok(DialChange::KillGuest("i-1".into()))),
            ("slow-boot", "5", Ok(DialChange::SlowBoot(5))),
            ("slow-boot", "-5", Err("takes a number of seconds")),
            (
                "spot-interruption.i-1",
                "stop",
                Ok(DialChange::SpotInterruption(
                    "i-1".into(),
                    Some("stop".into()),
                )),
            ),
            (
                "spot-interruption.i-1",
                "off",
                Ok(DialChange::SpotInterruption("i-1".into(), None)),
            ),
            (
                "spot-interruption.i-1",
                "now",
                Err("off, terminate, stop or hibernate"),
            ),
            (
                "rebalance.i-1",
                "on",
                Ok(DialChange::Rebalance("i-1".into(), true)),
            ),
            ("rebalance.i-1", "1", Err("takes on or off")),
            (
                "scheduled-event.i-1",
                "instance-stop:600",
                Ok(DialChange::ScheduledEvent(
                    "i-1".into(),
                    Some(("instance-stop".into(), 600)),
                )),
            ),
            (
                "scheduled-event.i-1",
                "stop:600",
                Err("one of the codes instance-reboot"),
            ),
            ("stal-limit", "1", Err("did you mean `stall-limit`")),
            ("throtle.ec2", "1", Err("did you mean `throttle.<service>`")),
        ];
        for (name, value, expected) in table {
            match (DialChange::read(name, value), expected) {
                (Ok(change), Ok(expected)) => assert_eq!(change, expected, "{name} {value}"),
                (Err(message), Err(part)) => {
                    assert!(message.contains(part), "{name} {value}: {message}")
                }
                (read, _) => panic!("{name} {value}: {read:?}"),
            }
        }
    }

    #[test]
    fn set_values_are_listed_beside_their_patterns() {
        let mut faults = Faults::default();
        let counters = FaultCounters::default();
        let switches = autoscaling::State::default();
        let usual = list(&switches, &faults, &counters);
        assert!(
            usual.iter().all(|dial| dial.value == dial.usual),
            "{usual:?}"
        );
        faults.throttle("ec2", 3);
        faults.deny("s3:*", true);
        faults.set_alarm("sick", AlarmState::Alarm);
        faults.slow_boot = 9;
        faults.set_launch_error(&"shop".into(), Some(LaunchError::InternalError));
        faults.interrupt(
            &"i-1".into(),
            Some("stop".to_owned()),
            Timestamp::UNIX_EPOCH,
        );
        faults.recommend_rebalance(&"i-1".into(), true, Timestamp::UNIX_EPOCH);
        faults.schedule(
            &"i-1".into(),
            Some(("instance-stop".to_owned(), 60)),
            Timestamp::UNIX_EPOCH,
        );
        let notices = faults.notices(&"i-1".into());
        assert_eq!(
            notices.spot,
            Some(("stop".to_owned(), "1970-01-01T00:02:00Z".to_owned()))
        );
        assert_eq!(notices.event.unwrap()[2], "1 Jan 1970 00:01:00 GMT");
        assert_eq!(faults.notices(&"i-2".into()), Notices::default());
        counters.lose("ssm", "PutParameter", 1);
        let changed: Vec<_> = list(&switches, &faults, &counters)
            .into_iter()
            .filter(|dial| dial.value != dial.usual)
            .map(|dial| (dial.name, dial.value))
            .collect();
        assert_eq!(
            changed,
            [
                ("throttle.ec2".to_owned(), "3".to_owned()),
                ("deny.s3:*".to_owned(), "on".to_owned()),
                ("alarm.sick".to_owned(), "ALARM".to_owned()),
                ("lose-answers.ssm.PutParameter".to_owned(), "1".to_owned()),
                ("slow-boot".to_owned(), "9".to_owned()),
                ("launch-error.shop".to_owned(), "InternalError".to_owned()),
                ("spot-interruption.i-1".to_owned(), "stop".to_owned()),
                ("rebalance.i-1".to_owned(), "on".to_owned()),
                (
                    "scheduled-event.i-1".to_owned(),
                    "instance-stop at 1970-01-01T00:01:00Z".to_owned()
                ),
            ]
        );
        faults.slow_boot = 0;
        faults.set_launch_error(&"shop".into(), None);
        faults.interrupt(&"i-1".into(), None, Timestamp::UNIX_EPOCH);
        faults.recommend_rebalance(&"i-1".into(), false, Timestamp::UNIX_EPOCH);
        faults.schedule(&"i-1".into(), None, Timestamp::UNIX_EPOCH);
        faults.throttle("ec2", 0);
        faults.deny("s3:*", false);
        faults.set_alarm("sick", AlarmState::InsufficientData);
        assert_eq!(faults, Faults::default());
    }
}
