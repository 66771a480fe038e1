//! The lifecycle's actions, one function each. A call is started as a task whose result is an event: no function waits
//! for an answer.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use contract::image_tests::LIST;
use contract::names::registry_parameter;
use contract::registry::Verdict;
use jiff::Timestamp;
use support::text;

use super::{Daemon, Done, or_no_answer};
use crate::balancer::{Balancer, TargetHealth};
use crate::fleet::{Member, Peers};
use crate::health::{self, DrainAnswer, Round};
use crate::hooks::{Answer, Group};
use crate::identity::Unreachable;
use crate::image_tests::{self, RESULTS};
use crate::lifecycle::{Action, Event, Judgement, NoAnswer};
use crate::output;
use crate::registry::{Registry, record};
use crate::restart;
use crate::settings::ImageName;

impl Daemon {
    /// Starts an action.
    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Declare(judgement) => self.declare(&judgement),
            Action::Identify => self.identify(),
            Action::Check { interval } => self.check_services(interval),
            Action::AskTargetState => self.ask_target_state(),
            Action::AskSpot => self.ask_spot(),
            Action::AskSchedule => self.ask_schedule(),
            Action::Announce(text) => self.announce(&text),
            Action::Warn(text) => tracing::warn!("{}", text::line(&text, text::REASON)),
            Action::AskMembership => self.ask_membership(),
            Action::AskHooks(group) => self.ask_hooks(group),
            Action::Complete {
                group,
                hook,
                answer,
            } => self.answer_hook(group, hook, answer),
            Action::Heartbeat { group, hook } => self.heartbeat(group, hook),
            Action::WriteRecord => self.write_record(),
            Action::RemoveRecord => self.remove_record(),
            Action::AskAttached(group) => self.ask_attached(group),
            Action::Register(names) => self.register(names),
            Action::Deregister(names) => self.deregister(names),
            Action::AskTargetHealth(names) => self.ask_target_health(names),
            Action::Restart(names) => self.restart(&names),
            Action::CheckDrain => self.check_drain(),
            Action::AskPeers(group) => self.ask_peers(group),
            Action::ReportUnhealthy => self.report_unhealthy(),
        }
    }

    /// Prints the verdict, except `judging`.
    fn declare(&mut self, judgement: &Judgement) {
        if self.verdict.replace(judgement.verdict) != Some(judgement.verdict) {
            // To the second: it is read by people, and nothing is ordered by it.
            self.since = Timestamp::from_second(Timestamp::now().as_second()).ok();
        }
        let instance = self.instance();
        let name = match judgement.verdict {
            Verdict::Fit => "fit",
            Verdict::Unfit => "unfit",
            Verdict::Resting => "resting",
            Verdict::Draining => "draining",
            _ => return,
        };
        let why = match judgement.reason.as_str() {
            "" => versions(self.lifecycle.round()),
            reason => text::line(reason, text::REASON),
        };
        output::line(&verdict_line(name, &instance, &why));
    }

    /// Reads the identity and the user data, and loads the settings.
    fn identify(&mut self) {
        let metadata = self.adapters.metadata.clone();
        let sources = self.adapters.sources.clone();
        self.work.spawn(async move {
            let answer = async { Ok((metadata.identity().await?, metadata.user_data().await?)) };
            let answer: Result<_> = answer.await;
            match answer {
                Ok((identity, user_data)) => {
                    let user_data = user_data.as_deref();
                    let (list, results) = (Path::new(LIST), Path::new(RESULTS));
                    let settings = sources.load(user_data).and_then(|settings| {
                        image_tests::requested(settings, user_data, list, results)
                    });
                    Done::Identified(identity, Box::new(settings))
                }
                Err(error) => {
                    tracing::warn!("{error:#}");
                    Done::Unidentified {
                        why: text::line(&format!("{error:#}"), text::REASON),
                        lasting: error.is::<Unreachable>(),
                    }
                }
            }
        });
    }

    fn check_services(&mut self, interval: Duration) {
        let checks = self.adapters.health.clone();
        let services = self.services.clone();
        let limit = health::limit(interval);
        self.spawn(async move { Event::Checked(checks.round(services, limit).await) });
    }

    fn ask_target_state(&mut self) {
        let metadata = self.adapters.metadata.clone();
        self.spawn(
            async move { Event::TargetStateSeen(or_no_answer(metadata.target_state().await)) },
        );
    }

    fn ask_spot(&mut self) {
        let (metadata, clock) = (self.adapters.metadata.clone(), self.adapters.clock.clone());
        self.spawn(async move { Event::SpotSeen(or_no_answer(metadata.spot().await), clock()) });
    }

    fn ask_schedule(&mut self) {
        let (metadata, clock) = (self.adapters.metadata.clone(), self.adapters.clock.clone());
        self.spawn(
            async move { Event::ScheduleSeen(or_no_answer(metadata.schedule().await), clock()) },
        );
    }

    /// Prints one of EC2's notices.
    fn announce(&self, text: &str) {
        let text = text::line(text, text::REASON);
        tracing::warn!("{text}");
        output::line(&verdict_line("notice", &self.instance(), &text));
    }

    fn ask_membership(&mut self) {
        let (group, instance) = (self.adapters.group.clone(), self.instance());
        self.spawn(async move {
            Event::MembershipSeen(or_no_answer(group.membership(&instance).await))
        });
    }

    fn ask_hooks(&mut self, name: String) {
        let group = self.adapters.group.clone();
        self.spawn(async move { Event::HooksSeen(or_no_answer(group.hooks(&name).await)) });
    }

    /// Answers a hook of the group `name`.
    fn answer_hook(&mut self, name: String, hook: String, answer: Answer) {
        let (group, instance) = (self.adapters.group.clone(), self.instance());
        let text = answer.as_str();
        tracing::info!(hook = %hook, group = %name, answer = text, "answering hook {hook} of group {name}: {text}");
        self.spawn(async move {
            let outcome = or_no_answer(group.complete(&name, &hook, &instance, answer).await);
            Event::Answered {
                hook,
                answer,
                outcome,
            }
        });
    }

    /// Extends the timeout of a hook of the group `name`.
    fn heartbeat(&mut self, name: String, hook: String) {
        let (group, instance) = (self.adapters.group.clone(), self.instance());
        self.spawn(async move {
            Event::HeartbeatSent(or_no_answer(group.heartbeat(&name, &hook, &instance).await))
        });
    }

    /// Writes the record. It is made at the moment of writing, so that the last one has the latest verdict.
    fn write_record(&mut self) {
        let registry = self.adapters.registry.clone();
        let written = match (
            &self.identity,
            self.lifecycle.judgement(),
            self.since,
            self.parameter(),
        ) {
            (Some(identity), Some(judgement), Some(since), Some(parameter)) => {
                let (verdict, reason) = (judgement.verdict, &judgement.reason);
                let record = record(identity, verdict, reason, since, self.lifecycle.round());
                Some((
                    parameter,
                    serde_json::to_string(&record).context("cannot write the record as JSON"),
                ))
            }
            // Without an image name the record has no parameter.
            _ => None,
        };
        self.spawn(async move {
            Event::RecordWritten(match written {
                Some((parameter, Ok(json))) => or_no_answer(registry.put(&parameter, &json).await),
                Some((_, Err(error))) => or_no_answer(Err(error)),
                None => Ok(()),
            })
        });
    }

    fn remove_record(&mut self) {
        let (registry, parameter) = (self.adapters.registry.clone(), self.parameter());
        self.spawn(async move {
            Event::RecordRemoved(match parameter {
                Some(parameter) => or_no_answer(registry.remove(&parameter).await),
                None => Ok(()),
            })
        });
    }

    /// Reads which target groups are attached to the group `name`.
    fn ask_attached(&mut self, name: String) {
        let group = self.adapters.group.clone();
        self.spawn(async move {
            let fleet = or_no_answer(group.fleet(&name).await);
            Event::AttachedSeen(fleet.map(|fleet| fleet.target_groups))
        });
    }

    fn register(&mut self, names: Vec<String>) {
        let (balancer, instance) = (self.adapters.balancer.clone(), self.instance());
        tracing::info!("registering with {}", names.join(", "));
        self.spawn(async move {
            Event::Registered(or_no_answer(register(&*balancer, &names, &instance).await))
        });
    }

    fn deregister(&mut self, names: Vec<String>) {
        let (balancer, instance) = (self.adapters.balancer.clone(), self.instance());
        tracing::info!("deregistering from {}", names.join(", "));
        self.spawn(async move {
            Event::Deregistered(or_no_answer(
                deregister(&*balancer, &names, &instance).await,
            ))
        });
    }

    fn ask_target_health(&mut self, names: Vec<String>) {
        let (balancer, instance) = (self.adapters.balancer.clone(), self.instance());
        self.spawn(async move {
            Event::TargetHealthSeen(or_no_answer(healths(&*balancer, &names, &instance).await))
        });
    }

    /// Requests a restart of these services' units.
    fn restart(&mut self, names: &[String]) {
        let mut done = Ok(());
        for service in self.services.iter() {
            if !names.iter().any(|name| name == service.name.as_str()) {
                continue;
            }
            tracing::warn!("requesting a restart of {}", service.unit);
            match restart::request(&self.run_dir, &service.unit) {
                Ok(()) => {
                    self.adapters.health.restarting(service.name.as_str());
                    *self.restarts.entry(service.name.to_string()).or_default() += 1;
                }
                Err(error) => done = or_no_answer(Err(error)),
            }
        }
        self.spawn(async move { Event::Restarted(done) });
    }

    /// Asks the services whether they are still busy. Without a check the lifecycle does not ask.
    fn check_drain(&mut self) {
        let (checks, check) = (self.adapters.health.clone(), self.drain_check.clone());
        self.spawn(async move {
            Event::DrainChecked(match check {
                Some(check) => checks.still_busy(check).await,
                None => DrainAnswer::Done,
            })
        });
    }

    /// Reads the health of the other instances of the group `name`.
    fn ask_peers(&mut self, name: String) {
        let (group, registry) = (self.adapters.group.clone(), self.adapters.registry.clone());
        let (instance, image) = (self.instance(), self.image.clone());
        self.spawn(async move {
            Event::PeersSeen(match image {
                Some(image) => {
                    or_no_answer(peers(&*group, &*registry, &name, &instance, &image).await)
                }
                None => Err(NoAnswer),
            })
        });
    }

    fn report_unhealthy(&mut self) {
        let (group, instance) = (self.adapters.group.clone(), self.instance());
        tracing::warn!("asking the group to replace {instance}");
        self.spawn(async move {
            Event::Reported(or_no_answer(group.report_unhealthy(&instance).await))
        });
    }

    fn spawn(&mut self, work: impl Future<Output = Event> + Send + 'static) {
        self.work.spawn(async move { Done::Event(work.await) });
    }
}

/// A line of the console, whose beginning contains only the agent's own text.
pub(super) fn verdict_line(name: &str, instance: &str, why: &str) -> String {
    let instance = text::line(instance, text::NAME);
    format!("imagebuilder-agent: {name} {instance}: {why}")
}

/// `orders 1.2.0, nginx`: names from the settings, and only versions that look like one.
pub(super) fn versions(round: &Round) -> String {
    let named = round
        .iter()
        .map(|(name, service)| match plain_version(&service.version) {
            None => name.clone(),
            Some(version) => format!("{name} {version}"),
        });
    named.collect::<Vec<_>>().join(", ")
}

/// A service's version for the console: `None` for text that does not look like a version, so that a service cannot
/// write sentences into the agent's lines.
fn plain_version(version: &str) -> Option<&str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._+~".contains(c);
    let plain = !version.is_empty() && version.len() <= text::NAME && version.chars().all(fits);
    plain.then_some(version)
}

async fn register(balancer: &dyn Balancer, names: &[String], instance: &str) -> Result<()> {
    for name in names {
        balancer.register(name, instance).await?;
    }
    Ok(())
}

/// All are tried: one failure must not keep the instance registered in the others.
async fn deregister(balancer: &dyn Balancer, names: &[String], instance: &str) -> Result<()> {
    let mut outcome = Ok(());
    for name in names {
        let done = balancer.deregister(name, instance).await;
        outcome = outcome.and(done);
    }
    outcome
}

async fn healths(
    balancer: &dyn Balancer,
    names: &[String],
    instance: &str,
) -> Result<Vec<TargetHealth>> {
    let mut found = Vec::new();
    for name in names {
        found.push(balancer.health(name, instance).await?);
    }
    Ok(found)
}

/// Reads the health of the group's other instances: the group itself, and the records of a sample.
async fn peers(
    group: &dyn Group,
    registry: &dyn Registry,
    name: &str,
    instance: &str,
    image: &ImageName,
) -> Result<Peers> {
    let fleet = group.fleet(name).await?;
    let mut records = BTreeMap::new();
    let parameter = |member: &Member| {
        let id = member.instance.clone();
        (registry_parameter(image.as_str(), &id), id)
    };
    let asked: BTreeMap<String, String> =
        fleet.sample(instance).into_iter().map(parameter).collect();
    let names: Vec<String> = asked.keys().cloned().collect();
    for some in names.chunks(10) {
        let found = registry.get(some).await?.into_iter();
        records.extend(found.filter_map(|(name, json)| Some((asked.get(&name)?.clone(), json))));
    }
    Ok(fleet.weigh(instance, &records))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_that_looks_like_a_version_is_shown() {
        for good in ["1.2.3", "2.0.0-rc.1+b", "v1~2", "abcdef0"] {
            assert_eq!(plain_version(good), Some(good), "{good}");
        }
        let long = "1".repeat(text::NAME + 1);
        for bad in ["", "1 2", "1:2", "<b>", "1\n", "é", &long] {
            assert_eq!(plain_version(bad), None, "{bad:?}");
        }
    }
}
