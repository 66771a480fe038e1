//! Whether an instance that is waited for can still come up.
//!
//! Rule: a wait for an instance also observes the instance. One that stopped, was terminated or panicked never answers, and the
//! whole time limit would be waited out for it. Observe, decide, act: [`decide`] is pure; the act, ending the wait, is
//! the caller's. The builder is found by the run's tag, never by what Packer printed.

use std::time::Duration;

use contract::console::UNIDENTIFIED;
use tokio::sync::watch;

use cloud::ids::{InstanceId, RunId};
use cloud::{Instance, InstanceState, Instances, StatusChecks};

/// How often it is polled: often enough to end a hopeless wait at once, three cheap calls each time.
const POLL: Duration = Duration::from_secs(3);
/// Characters of a console line that are quoted in a reason.
const QUOTE: usize = 160;
/// Characters of an agent's report: it names the fix.
const QUOTED_REPORT: usize = 400;
/// What a Linux kernel prints when it panics (`panic()` in kernel/panic.c).
const PANIC: &str = "Kernel panic - not syncing";
/// What is printed when a machine starts over: firmware, boot loaders and the kernel's first line. A panic before one of
/// these is over.
const STARTS: [&str; 4] = ["BdsDxe: ", "SeaBIOS (", "GNU GRUB ", "] Linux version "];

/// An instance as one poll found it.
#[derive(Clone, Debug, Default)]
pub(super) struct Observation {
    /// `None` when EC2 does not show it any more.
    instance: Option<Instance>,
    /// `None` when it has none, or they may not be read.
    checks: Option<StatusChecks>,
    /// Empty when there is none, or it may not be read.
    console: String,
}

impl Observation {
    /// Whether two observations in a row have what the instance's agent reports instead of a verdict; and what.
    pub(super) fn unidentified_since(&self, before: &Self) -> Option<String> {
        unidentified(&before.console)?;
        let why = unidentified(&self.console)?;
        Some(format!("its agent reports: {why}"))
    }
}

/// What an agent printed that cannot identify its instance, unless it gave a verdict later.
fn unidentified(console: &str) -> Option<String> {
    let (_, after) = console.rsplit_once(UNIDENTIFIED)?;
    let mut lines = after.lines();
    let line = lines.next()?;
    if lines.any(|line| line.contains("imagebuilder-agent: ")) {
        return None;
    }
    let printable = line.chars().filter(|c| !c.is_control());
    Some(printable.take(QUOTED_REPORT).collect())
}

/// Why a builder will never answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    /// The builder.
    pub(super) id: InstanceId,
    /// The reason, one line.
    pub(super) reason: String,
    /// What it printed.
    pub(super) console: String,
}

/// Observes an instance that EC2 shows as `instance`.
pub(super) async fn observe(
    instances: &dyn Instances,
    id: &InstanceId,
    instance: Option<Instance>,
) -> Observation {
    Observation {
        instance,
        // What may not be read is unknown, and has no effect.
        checks: instances.status_checks(id).await.ok().flatten(),
        console: instances.console(id).await.unwrap_or_default(),
    }
}

/// Decides whether an instance will never come up, and why. `before` is the observation of one poll ago: a panic must be
/// the last thing on the console twice, for a machine may start itself again after one.
pub(super) fn decide(before: &Observation, now: &Observation) -> Option<String> {
    let Some(instance) = &now.instance else {
        return Some("it does not exist any more".to_owned());
    };
    let state = match instance.state {
        InstanceState::Stopped => Some("it stopped"),
        InstanceState::ShuttingDown | InstanceState::Terminated => Some("it was terminated"),
        InstanceState::Pending | InstanceState::Running | InstanceState::Other(_) => None,
    };
    if let Some(state) = state {
        return Some(if instance.reason.is_empty() {
            state.to_owned()
        } else {
            format!("{state}: {}", instance.reason)
        });
    }
    if let (Some(last), Some(_)) = (panic(&now.console), panic(&before.console)) {
        return Some(format!("its console shows a panic: {last}"));
    }
    let checks = now.checks.as_ref()?;
    if checks.system_impaired {
        let mut reason = "its host fails EC2's system status check".to_owned();
        for event in &checks.events {
            reason.push_str(": ");
            reason.push_str(event);
        }
        return Some(reason);
    }
    None
}

/// The kernel's report of a panic, when nothing started over after it.
fn panic(console: &str) -> Option<String> {
    let at = console.rfind(PANIC)?;
    let after = &console[at..];
    if STARTS.iter().any(|start| after.contains(start)) {
        return None;
    }
    // Of the two lines with this text the first has the reason; the other ends the report.
    let first = console[..at].rfind(PANIC).filter(|first| {
        let between = &console[*first..at];
        !STARTS.iter().any(|start| between.contains(start))
    });
    let line = console[first.unwrap_or(at)..].lines().next()?;
    let printable = line.chars().filter(|c| !c.is_control());
    Some(printable.take(QUOTE).collect())
}

/// Watches the builder of `run` while `waiting` is true; ends only when it is lost.
pub(super) async fn lost(
    instances: &dyn Instances,
    run: &RunId,
    mut waiting: watch::Receiver<bool>,
) -> Lost {
    let mut builder: Option<InstanceId> = None;
    let mut before = Observation::default();
    loop {
        if waiting.wait_for(|waits| *waits).await.is_err() {
            // Packer has ended: nothing can be lost any more.
            return std::future::pending().await;
        }
        tokio::time::sleep(POLL).await;
        let id = match &builder {
            Some(id) => id.clone(),
            // Terminated ones too: it may have ended before this first poll. A failed poll is repeated, because
            // the watch must not fail a build that succeeds.
            None => match instances
                .ever_tagged(contract::tags::RUN, run.as_str())
                .await
                .unwrap_or_default()
                .into_iter()
                .next()
            {
                Some(instance) => builder.insert(instance.id).clone(),
                None => continue,
            },
        };
        let Ok(instance) = instances.instance(&id).await else {
            continue;
        };
        let now = observe(instances, &id, instance).await;
        // It answered meanwhile: from now on Packer handles it.
        if !*waiting.borrow() {
            continue;
        }
        if let Some(reason) = decide(&before, &now) {
            return Lost {
                id,
                reason,
                console: now.console,
            };
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloud::Tags;

    fn running() -> Observation {
        Observation {
            instance: Some(Instance {
                id: InstanceId::parse("i-1").unwrap(),
                image: None,
                state: InstanceState::Running,
                launched: None,
                reason: String::new(),
                reason_code: String::new(),
                tags: Tags::new(),
            }),
            ..Observation::default()
        }
    }

    fn state(state: InstanceState, reason: &str) -> Observation {
        let mut observation = running();
        let instance = observation.instance.as_mut().unwrap();
        instance.state = state;
        reason.clone_into(&mut instance.reason);
        observation
    }

    fn console(text: &str) -> Observation {
        Observation {
            console: text.to_owned(),
            ..running()
        }
    }

    fn checks(checks: StatusChecks) -> Observation {
        Observation {
            checks: Some(checks),
            ..running()
        }
    }

    const PANICKED: &str = "[    0.000000] Linux version 6.1.0\n[    1.1] Kernel panic - not syncing: VFS: Unable to mount root fs\n[    1.2] ---[ end Kernel panic - not syncing: VFS ]---\n";

    #[test]
    fn a_builder_that_can_never_answer_is_lost() {
        let degraded = StatusChecks {
            system_impaired: true,
            events: vec!["no space left on the host's disk".to_owned()],
            ..StatusChecks::default()
        };
        let slow = StatusChecks {
            instance_impaired: true,
            ..StatusChecks::default()
        };
        let panic =
            "its console shows a panic: Kernel panic - not syncing: VFS: Unable to mount root fs";
        for (observation, expected) in [
            (running(), None),
            (state(InstanceState::Pending, ""), None),
            (state(InstanceState::Other("new".to_owned()), ""), None),
            (
                state(InstanceState::Stopped, "Server.InternalError: died"),
                Some("it stopped: Server.InternalError: died"),
            ),
            (
                state(InstanceState::ShuttingDown, ""),
                Some("it was terminated"),
            ),
            (
                state(InstanceState::Terminated, ""),
                Some("it was terminated"),
            ),
            (Observation::default(), Some("it does not exist any more")),
            (console("Kernel panic? What kernel panic?"), None),
            (console(PANICKED), Some(panic)),
            (
                console(&format!("{PANICKED}BdsDxe: loading Boot0002\n")),
                None,
            ),
            (
                console(&format!("{PANICKED}[    0.000000] Linux version 6.1.0\n")),
                None,
            ),
            (checks(StatusChecks::default()), None),
            // A system that is slow to come up fails its own check on EC2.
            (checks(slow), None),
            (
                checks(degraded),
                Some("its host fails EC2's system status check: no space left on the host's disk"),
            ),
        ] {
            let decided = decide(&observation, &observation);
            assert_eq!(decided.as_deref(), expected, "{observation:?}");
        }
    }

    #[test]
    fn an_agent_that_cannot_identify_its_instance_is_heard() {
        let report = "[ 9.1] imagebuilder-agent: unidentified: the metadata service is locked\r\n";
        let reported = Some("its agent reports: the metadata service is locked".to_owned());
        let fit = format!("{report}imagebuilder-agent: fit i-1: orders\n");
        for (before, now, expected) in [
            (report, report, reported),
            ("", report, None),
            (report, "", None),
            (report, fit.as_str(), None),
            ("", "imagebuilder-agent: fit i-1: unidentified\n", None),
        ] {
            let (before, now) = (console(before), console(now));
            assert_eq!(now.unidentified_since(&before), expected, "{now:?}");
            assert_eq!(
                decide(&before, &now),
                None,
                "a builder has no agent that matters"
            );
        }
    }

    #[test]
    fn a_panic_seen_once_may_be_followed_by_a_restart() {
        assert_eq!(decide(&running(), &console(PANICKED)), None);
    }
}
