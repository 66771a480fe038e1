//! The gate: one throwaway instance of the candidate, judged by its own agent.
//!
//! Observe, decide, act: [`decide`] is pure. The sweep removes the instance and its record, whatever the verdict.

use std::time::Duration;

use contract::image_tests;
use contract::registry::{Record, Verdict};
use tokio::time::Instant;

use super::instance_health::{self, Observation};
use crate::config::{Config, Hops, Test};
use cloud::ids::ImageId;
use cloud::{Cloud, Instance, InstanceState, Launch};
use run::cancel::Cancel;
use run::exit::Exit;
use run::ledger::{Kind, Ledger};
use run::output::Step;

/// How often the record is read: an agent writes it about as often.
const POLL: Duration = Duration::from_secs(1);
/// The instance's status checks and console are read at every Nth poll only: those calls are throttled sooner.
const HEALTH_EVERY: u32 = 5;
/// How many lines of the console a refusal shows.
const CONSOLE_LINES: usize = 25;
/// The tag that gives an instance its name in consoles.
const NAME: &str = "Name";

/// The candidate's instance as one poll found it.
#[derive(Debug)]
struct View {
    instance: Option<Instance>,
    /// Why it will never come up, when that is known.
    hopeless: Option<String>,
    record: Option<Result<Record, String>>,
}

/// What follows from an observation.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Nothing yet: what is being waited for.
    Wait(String),
    /// The agent reports that the instance may serve; with the versions of its services.
    Fit(String),
    /// It may not: why.
    Refuse(String),
}

/// Judges a candidate. An error of exit code 4 carries the agent's own reason.
pub(crate) async fn judge(
    cloud: &Cloud,
    config: &Config,
    user_data: Option<Vec<u8>>,
    candidate: &ImageId,
    ledger: &mut Ledger,
    step: &mut Step,
    cancel: &Cancel,
) -> anyhow::Result<()> {
    let gate = &config.bake.gate;
    let mut tags = config.tags.clone();
    tags.insert(contract::tags::RUN.into(), ledger.run().to_string());
    tags.insert(contract::tags::IMAGE.into(), config.image.name.to_string());
    tags.insert(NAME.into(), format!("{} gate", config.image.name));
    let mut launch = launch(config, candidate, user_data, tags);
    launch.client_token = format!("{}-gate", ledger.run());
    ledger.intend(Kind::Instance, "gate")?;
    let owned = cloud.instances.launch(&launch).await.map_err(|error| {
        Exit::BakeFailed
            .error("cannot launch the gate's instance")
            .because(error)
            .hint(
                "[bake.gate] sets its instance_type, instance_profile, subnet and security_groups",
            )
    })?;
    ledger.exists(Kind::Instance, "gate", &owned)?;
    let id = owned.id().clone();
    step.info(format!("{id} boots the candidate"));
    // Its agent may write it at any time from now on.
    let record = owned.record(config.image.name.as_str());
    ledger.exists(Kind::Parameter, record.id(), &record)?;
    let parameter = record.id();
    let limit = Duration::from_secs(gate.timeout_seconds.into());
    let deadline = Instant::now() + limit;
    let mut health = Observation::default();
    let mut polls = 0_u32;
    loop {
        let instance = cloud.instances.instance(&id).await?;
        polls = polls.wrapping_add(1);
        let mut hopeless = None;
        // EC2 does not show it yet.
        if instance.is_some() && polls.is_multiple_of(HEALTH_EVERY) {
            let now = instance_health::observe(&*cloud.instances, &id, instance.clone()).await;
            hopeless =
                instance_health::decide(&health, &now).or_else(|| now.unidentified_since(&health));
            health = now;
        }
        let view = View {
            instance,
            hopeless,
            record: cloud
                .parameters
                .parameter(parameter)
                .await?
                .map(|parameter| {
                    serde_json::from_str(&parameter.value).map_err(|error| error.to_string())
                }),
        };
        let next = decide(&view, candidate, &config.image.test);
        if !matches!(next, Next::Wait(_)) {
            for result in results(&view, &config.image.test) {
                step.info(result);
            }
        }
        match next {
            Next::Fit(services) => {
                step.info(format!("{id} is fit{services}"));
                // It is terminated while the image is published. The sweep waits for that, and repeats the call if this one was lost.
                let _ = cloud.instances.terminate(&owned).await;
                return Ok(());
            }
            Next::Refuse(why) => return Err(refusal(cloud, &id, why).await),
            Next::Wait(what) if Instant::now() >= deadline => {
                let why = format!("no verdict within {} s; last seen: {what}", limit.as_secs());
                return Err(refusal(cloud, &id, why).await);
            }
            Next::Wait(what) => step.waiting(format!("{id}: {what}")),
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = cancel.requested() => return Err(Exit::Cancelled.error("cancelled at the gate").into()),
        }
    }
}

/// The launch of the gate's instance from `image`, without a client token.
pub(super) fn launch(
    config: &Config,
    image: &ImageId,
    user_data: Option<Vec<u8>>,
    tags: cloud::Tags,
) -> Launch {
    let gate = &config.bake.gate;
    Launch {
        image: image.clone(),
        instance_type: gate
            .instance_type
            .clone()
            .unwrap_or_else(|| config.instance_type().to_owned()),
        instance_profile: gate.instance_profile.clone(),
        subnet: gate.subnet.clone().or_else(|| config.bake.subnet.clone()),
        security_groups: gate.security_groups.clone(),
        user_data,
        tokens: config.image.imds.tokens(),
        hops: config.image.imds_hops.map(Hops::get),
        disks: Vec::new(),
        tags,
        client_token: String::new(),
    }
}

fn decide(view: &View, candidate: &ImageId, tests: &[Test]) -> Next {
    match &view.record {
        Some(Err(error)) => {
            return Next::Refuse(format!("its registry record cannot be read: {error}"));
        }
        Some(Ok(record)) if !record.readable() => {
            return Next::Refuse(format!(
                "its registry record has unknown schema {}",
                record.schema
            ));
        }
        Some(Ok(record)) if record.image_id != candidate.as_str() => {
            return Next::Refuse(format!("its registry record is for {}", record.image_id));
        }
        Some(Ok(record)) => match record.verdict {
            Verdict::Fit => {
                return match not_passed(record, tests) {
                    None => Next::Fit(services(record)),
                    Some(name) => Next::Refuse(format!(
                        "the agent reports fit, and not that test {name} passed: version {} does not run [[image.test]]; name a \
                         current agent in [image.agent]",
                        record.agent
                    )),
                };
            }
            Verdict::Unfit => {
                return Next::Refuse(format!("the agent reports unfit: {}", reason(record)));
            }
            Verdict::Draining => {
                return Next::Refuse("the agent started to drain before it gave a verdict".into());
            }
            Verdict::Judging if !view.is_terminated() && view.hopeless.is_none() => {
                return Next::Wait(format!("agent is judging{}", colon(&reason(record))));
            }
            Verdict::Judging => {}
            _ if !view.is_terminated() => {
                return Next::Wait("agent gave a verdict unknown to this program".into());
            }
            _ => {}
        },
        None => {}
    }
    if let Some(why) = view.hopeless.as_ref().filter(|_| !view.is_terminated()) {
        return Next::Refuse(format!("the instance gives no verdict: {why}"));
    }
    match &view.instance {
        // Just launched: EC2 may not know it yet.
        None => Next::Wait("not visible yet".into()),
        Some(instance) => match &instance.state {
            InstanceState::Pending => Next::Wait("pending".into()),
            InstanceState::Running => Next::Wait("running, agent has not reported yet".into()),
            InstanceState::Other(state) => Next::Wait(state.clone()),
            InstanceState::Stopped | InstanceState::ShuttingDown | InstanceState::Terminated => {
                Next::Refuse(format!(
                    "the instance went down before a verdict{}",
                    colon(&instance.reason)
                ))
            }
        },
    }
}

impl View {
    fn is_terminated(&self) -> bool {
        self.instance.as_ref().is_some_and(|instance| {
            instance.state.is_going() || instance.state == InstanceState::Stopped
        })
    }
}

fn colon(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}

fn reason(record: &Record) -> String {
    if !record.reason.is_empty() {
        return record.reason.clone();
    }
    let unhealthy: Vec<String> = record
        .services
        .iter()
        .filter(|(_, service)| !service.healthy && !service.detail.is_empty())
        .map(|(name, service)| format!("{name}: {}", service.detail))
        .collect();
    unhealthy.join("; ")
}

/// A test that did not pass, for all that the record says. An agent of before there were tests runs none, and reports `fit`.
fn not_passed<'a>(record: &Record, tests: &'a [Test]) -> Option<&'a str> {
    let passed = |name: &str| {
        let service = record.services.get(&image_tests::service(name));
        service.is_some_and(|service| service.healthy)
    };
    let mut names = tests.iter().map(|test| test.name.as_str());
    names.find(|name| !passed(name))
}

/// Each test's result, as far as the agent has reported it.
fn results(view: &View, tests: &[Test]) -> Vec<String> {
    let Some(Ok(record)) = &view.record else {
        return Vec::new();
    };
    let result = |test: &Test| {
        let service = record.services.get(&image_tests::service(&test.name))?;
        Some(match service.healthy {
            true => format!("test {}: passed", test.name),
            // It begins with the same words.
            false => service.detail.clone(),
        })
    };
    tests.iter().filter_map(result).collect()
}

fn services(record: &Record) -> String {
    let versions: Vec<String> = record
        .services
        .iter()
        .filter(|(name, _)| !image_tests::is_test(name))
        .map(|(name, service)| format!("{name} {}", service.version).trim().to_owned())
        .collect();
    colon(&versions.join(", "))
}

async fn refusal(cloud: &Cloud, id: &cloud::ids::InstanceId, why: String) -> anyhow::Error {
    let failure = Exit::BakeFailed.error(format!("the gate refuses the candidate: {why}"));
    // The console may lag by minutes on EC2; part of it is better than nothing.
    let console = cloud.instances.console(id).await.unwrap_or_default();
    failure.hint(console_end(id, &console)).into()
}

/// The end of an instance's console, for a hint.
pub(super) fn console_end(id: &cloud::ids::InstanceId, console: &str) -> String {
    let lines: Vec<String> = console
        .lines()
        .map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>())
        .filter(|line| !line.trim().is_empty())
        .collect();
    if lines.is_empty() {
        return format!("{id} has no console output");
    }
    let tail = lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n  ");
    format!("the end of {id}'s console:\n  {tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(state: InstanceState) -> Option<Instance> {
        Some(Instance {
            id: cloud::ids::InstanceId::parse("i-1").unwrap(),
            image: None,
            state,
            launched: None,
            reason: String::new(),
            reason_code: String::new(),
            tags: cloud::Tags::new(),
        })
    }

    fn record(verdict: &str, more: &str) -> Option<Result<Record, String>> {
        let json = format!(
            r#"{{"schema":1,"instance_id":"i-1","image_id":"ami-1","verdict":"{verdict}","since":"","agent":"1"{more}}}"#
        );
        Some(serde_json::from_str(&json).map_err(|error| error.to_string()))
    }

    #[test]
    fn a_hopeless_instance_is_refused_unless_it_gave_a_verdict() {
        let candidate = ImageId::parse("ami-1").unwrap();
        let refused = "Refuse(\"the instance gives no verdict: it panicked\")";
        for (record, want) in [
            (None, refused),
            (record("judging", ""), refused),
            (record("fit", ""), "Fit(\"\")"),
        ] {
            let view = View {
                instance: instance(InstanceState::Running),
                hopeless: Some("it panicked".to_owned()),
                record,
            };
            assert_eq!(
                format!("{:?}", decide(&view, &candidate, &[])),
                want,
                "{view:?}"
            );
        }
    }

    #[test]
    fn only_the_agents_own_fit_passes() {
        let candidate = ImageId::parse("ami-1").unwrap();
        let running = || instance(InstanceState::Running);
        for (instance, record, want) in [
            (None, None, "Wait(\"not visible yet\")"),
            (running(), None, "Wait(\"running, agent has not reported yet\")"),
            (running(), record("judging", ""), "Wait(\"agent is judging\")"),
            (
                running(),
                record("fit", r#","services":{"orders":{"version":"1.2","healthy":true}}"#),
                "Fit(\": orders 1.2\")",
            ),
            (
                running(),
                record("unfit", r#","reason":"orders: 503""#),
                "Refuse(\"the agent reports unfit: orders: 503\")",
            ),
            (running(), record("splendid", ""), "Wait(\"agent gave a verdict unknown to this program\")"),
            (
                running(),
                Some(Ok(serde_json::from_str(
                    r#"{"schema":2,"instance_id":"i-1","image_id":"ami-1","verdict":"fit","since":"","agent":"1"}"#,
                )
                .unwrap())),
                "Refuse(\"its registry record has unknown schema 2\")",
            ),
            (
                running(),
                Some(Ok(serde_json::from_str(
                    r#"{"schema":1,"instance_id":"i-1","image_id":"ami-9","verdict":"fit","since":"","agent":"1"}"#,
                )
                .unwrap())),
                "Refuse(\"its registry record is for ami-9\")",
            ),
            (
                instance(InstanceState::Terminated),
                None,
                "Refuse(\"the instance went down before a verdict\")",
            ),
            (
                instance(InstanceState::Terminated),
                record("judging", ""),
                "Refuse(\"the instance went down before a verdict\")",
            ),
        ] {
            let view = View {
                instance,
                hopeless: None,
                record,
            };
            assert_eq!(format!("{:?}", decide(&view, &candidate, &[])), want, "{view:?}");
        }
    }

    #[test]
    fn fit_counts_only_with_every_test_passed() {
        let candidate = ImageId::parse("ami-1").unwrap();
        let text = "[image]\nname = \"shop\"\n[image.source]\nid = \"ami-1\"\n[image.agent]\nbinary = \"agent\"\n\
            [[image.test]]\nname = \"smoke\"\nscript = \"a\"\n[[image.test]]\nname = \"port\"\nscript = \"b\"\n";
        let tests = Config::parse(text, "test.toml").unwrap().image.test;
        let services = |smoke: &str, port: &str| {
            format!(r#","services":{{"db":{{"version":"8","healthy":true}}{smoke}{port}}}"#)
        };
        let passed = |name: &str| format!(r#","test.{name}":{{"healthy":true}}"#);
        let failed = r#","test.smoke":{"healthy":false,"detail":"test smoke: failed: exited with 3: no page"}"#;
        let reason = r#","reason":"test smoke: failed: exited with 3: no page""#;
        for (record, want, results_wanted) in [
            (
                record("fit", &services(&passed("smoke"), &passed("port"))),
                "Fit(\": db 8\")",
                &["test smoke: passed", "test port: passed"][..],
            ),
            (
                record("fit", &services(&passed("smoke"), "")),
                "Refuse(\"the agent reports fit, and not that test port passed: version 1 does not run",
                &["test smoke: passed"],
            ),
            (
                record(
                    "unfit",
                    &format!("{reason}{}", services(failed, &passed("port"))),
                ),
                "Refuse(\"the agent reports unfit: test smoke: failed: exited with 3: no page\")",
                &[
                    "test smoke: failed: exited with 3: no page",
                    "test port: passed",
                ],
            ),
        ] {
            let view = View {
                instance: instance(InstanceState::Running),
                hopeless: None,
                record,
            };
            let next = format!("{:?}", decide(&view, &candidate, &tests));
            assert!(next.starts_with(want), "{next}");
            assert_eq!(results(&view, &tests), results_wanted);
        }
    }
}
