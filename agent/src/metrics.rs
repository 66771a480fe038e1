//! What the daemon can be measured by: counts and the latest standings, and the families made of them.
//!
//! Counting never blocks and never fails. [`door`] serves the families as Prometheus text;
//! [`crate::metrics::exposition`] is the only part that knows the text format.

pub(crate) mod cloudwatch;
pub(crate) mod exposition;
pub(crate) mod http;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use contract::registry::Verdict;
use jiff::Timestamp;

use self::exposition::{Exposition, Kind};
use crate::hooks::Receipt;
use crate::lifecycle::Event;
use crate::status_file::DaemonStatus;
use crate::update::build::Build;
use crate::update::status::UpdaterStatus;

#[cfg(test)]
mod tests;

/// Why a call to AWS failed, as far as an alarm cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Too many calls: the account's quota.
    Throttled,
    /// The role does not allow it.
    Denied,
    /// No answer, or none in time.
    Unreachable,
    /// Anything else.
    Other,
}

impl Fault {
    /// By the code that an API answered with.
    pub(crate) fn of_code(code: &str) -> Self {
        if code.starts_with("Throttl") || matches!(code, "RequestLimitExceeded" | "TooManyUpdates")
        {
            Self::Throttled
        } else if code.starts_with("AccessDenied") || code.starts_with("UnrecognizedClient") {
            Self::Denied
        } else {
            Self::Other
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Denied => "denied",
            Self::Unreachable => "unreachable",
            Self::Other => "other",
        }
    }
}

/// Distinct refusal codes that are counted apart: they come from a file that another version of the
/// updater may have written, and every code is a series.
const MOST_CODES: usize = 48;

/// What was counted since the daemon started.
#[derive(Debug, Default)]
struct Counts {
    passed: u64,
    failed: u64,
    last_round: Option<Timestamp>,
    calls: BTreeMap<&'static str, u64>,
    faults: BTreeMap<(&'static str, Fault), u64>,
    answers: BTreeMap<(&'static str, &'static str), u64>,
    refusals: BTreeMap<String, u64>,
    refused_at: Option<Timestamp>,
    status: DaemonStatus,
    update: Option<UpdaterStatus>,
}

/// The daemon's counts; clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter(Arc<Mutex<Counts>>);

impl Meter {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        // A panic elsewhere does not make a count wrong.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call to AWS was made.
    pub(crate) fn called(&self, call: &'static str, fault: Option<Fault>) {
        let mut counts = self.counts();
        *counts.calls.entry(call).or_default() += 1;
        if let Some(fault) = fault {
            *counts.faults.entry((call, fault)).or_default() += 1;
        }
    }

    /// Counts what the machine is about to hear.
    pub(crate) fn count_event(&self, event: &Event) {
        match event {
            Event::Checked(round) => {
                let mut counts = self.counts();
                counts.last_round = Some(Timestamp::now());
                if round.values().all(|service| service.healthy) {
                    counts.passed += 1;
                } else {
                    counts.failed += 1;
                }
            }
            Event::Answered {
                answer, outcome, ..
            } => {
                let outcome = match outcome {
                    Ok(Receipt::Accepted) => "accepted",
                    Ok(Receipt::NotActive) => "not-active",
                    Err(_) => "no-answer",
                };
                let key = (answer.as_str(), outcome);
                *self.counts().answers.entry(key).or_default() += 1;
            }
            _ => {}
        }
    }

    /// The daemon's status of this moment.
    pub(crate) fn set_status(&self, status: &DaemonStatus) {
        let mut counts = self.counts();
        if counts.status != *status {
            counts.status = status.clone();
        }
    }

    /// The updater's status of this moment. Each check that ended with a code is counted once.
    pub(crate) fn set_updater_status(&self, update: Option<UpdaterStatus>) {
        let mut counts = self.counts();
        if let Some(told) = &update
            && !told.code.is_empty()
            && told.checked_at != counts.refused_at
        {
            counts.refused_at = told.checked_at;
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            let known = counts.refusals.contains_key(&told.code);
            let code = if known
                || (counts.refusals.len() < MOST_CODES
                    && told.code.len() <= 40
                    && told.code.chars().all(fits))
            {
                told.code.clone()
            } else {
                "other".to_owned()
            };
            *counts.refusals.entry(code).or_default() += 1;
        }
        counts.update = update;
    }

    /// Everything, as Prometheus text.
    pub(crate) fn exposition(&self, now: Timestamp) -> String {
        let mut text = Exposition::default();
        let counts = self.counts();
        status(&mut text, &counts.status);
        counted(&mut text, &counts);
        if let Some(told) = &counts.update {
            update(&mut text, told, now);
        }
        text.into_string()
    }
}

/// Seconds since the epoch, to the millisecond.
fn seconds(at: Timestamp) -> f64 {
    // Milliseconds of this century are exact in 53 bits.
    #[expect(
        clippy::cast_precision_loss,
        reason = "exact for the next 280,000 years"
    )]
    let milliseconds = at.as_millisecond() as f64;
    milliseconds / 1000.0
}

fn gauge(text: &mut Exposition, name: &'static str, help: &'static str, at: Option<Timestamp>) {
    if let Some(at) = at {
        text.family(name, Kind::Gauge, help)
            .sample(&[], seconds(at));
    }
}

fn status(text: &mut Exposition, told: &DaemonStatus) {
    text.family(
        "imagebuilder_agent_build_info",
        Kind::Gauge,
        "The running agent's version.",
    )
    .sample(&[("version", &told.agent)], 1);
    gauge(
        text,
        "imagebuilder_agent_start_time_seconds",
        "When this process started, as a Unix time.",
        told.started_at,
    );
    text.family(
        "imagebuilder_agent_instance_info",
        Kind::Gauge,
        "Which instance this is; labels are empty until known.",
    )
    .sample(
        &[
            ("instance_id", &told.instance_id),
            ("image_id", &told.image_id),
            ("image", &told.image),
            ("group", told.group.as_deref().unwrap_or_default()),
        ],
        1,
    );
    text.family(
        "imagebuilder_agent_state_info",
        Kind::Gauge,
        "The state the agent is in, by its drawn name.",
    )
    .sample(&[("state", &told.state)], 1);
    let family = text.family(
        "imagebuilder_agent_verdict",
        Kind::Gauge,
        "1 for the verdict that holds, 0 for the others.",
    );
    for (word, verdict) in [
        ("judging", Verdict::Judging),
        ("fit", Verdict::Fit),
        ("unfit", Verdict::Unfit),
        ("resting", Verdict::Resting),
        ("draining", Verdict::Draining),
    ] {
        family.sample(
            &[("verdict", word)],
            u8::from(told.verdict == Some(verdict)),
        );
    }
    gauge(
        text,
        "imagebuilder_agent_verdict_start_time_seconds",
        "Since when the verdict holds, as a Unix time.",
        told.since.parse().ok(),
    );
    let family = text.family(
        "imagebuilder_agent_service_healthy",
        Kind::Gauge,
        "1 if the service passed its last check.",
    );
    for (name, service) in &told.services {
        family.sample(&[("service", name)], u8::from(service.healthy));
    }
    let family = text.family(
        "imagebuilder_agent_service_info",
        Kind::Gauge,
        "The service's version as it tells it; empty where it does not.",
    );
    for (name, service) in &told.services {
        family.sample(&[("service", name), ("version", &service.version)], 1);
    }
    let family = text.family(
        "imagebuilder_agent_service_restarts_total",
        Kind::Counter,
        "Restarts of the service by this agent since the instance booted.",
    );
    for name in told.services.keys() {
        let restarts = told.restarts.get(name).copied().unwrap_or_default();
        family.sample(&[("service", name)], restarts);
    }
}

fn counted(text: &mut Exposition, counts: &Counts) {
    text.family(
        "imagebuilder_agent_check_rounds_total",
        Kind::Counter,
        "Rounds of health checks; a round passes when every service does.",
    )
    .sample(&[("result", "passed")], counts.passed)
    .sample(&[("result", "failed")], counts.failed);
    gauge(
        text,
        "imagebuilder_agent_check_timestamp_seconds",
        "When the last round of health checks ended, as a Unix time.",
        counts.last_round,
    );
    let family = text.family(
        "imagebuilder_agent_hook_answers_total",
        Kind::Counter,
        "Answers given to lifecycle hooks, and what the group made of them.",
    );
    for ((answer, outcome), count) in &counts.answers {
        family.sample(&[("answer", answer), ("outcome", outcome)], *count);
    }
    let family = text.family(
        "imagebuilder_agent_api_calls_total",
        Kind::Counter,
        "Calls to AWS, each with its retries counted once.",
    );
    for (call, count) in &counts.calls {
        family.sample(&[("call", call)], *count);
    }
    let family = text.family(
        "imagebuilder_agent_api_errors_total",
        Kind::Counter,
        "Calls to AWS that failed in the end: throttled, denied, unreachable or other.",
    );
    for ((call, fault), count) in &counts.faults {
        family.sample(&[("call", call), ("kind", fault.word())], *count);
    }
    let family = text.family(
        "imagebuilder_agent_update_refusals_total",
        Kind::Counter,
        "Checks of the update channel that ended with a refusal or failure, by its code.",
    );
    for (code, count) in &counts.refusals {
        family.sample(&[("code", code)], *count);
    }
}

fn update(text: &mut Exposition, told: &UpdaterStatus, now: Timestamp) {
    text.family(
        "imagebuilder_agent_update_phase_info",
        Kind::Gauge,
        "The updater's phase, and the code of its last refusal; empty while all is well.",
    )
    .sample(
        &[
            ("phase", &told.phase),
            ("channel", &told.channel),
            ("code", &told.code),
        ],
        1,
    );
    let family = text.family(
        "imagebuilder_agent_update_slot_info",
        Kind::Gauge,
        "The releases on this instance, and the one wanted.",
    );
    let slots: [(&str, &Option<Build>); 4] = [
        ("stable", &told.stable),
        ("trial", &told.trial),
        ("factory", &told.factory),
        ("wanted", &told.wanted),
    ];
    for (slot, build) in slots {
        if let Some(build) = build {
            let version = build.version.to_string();
            let labels = [
                ("slot", slot),
                ("version", &version),
                ("digest", build.digest.as_str()),
            ];
            family.sample(&labels, 1);
        }
    }
    let family = text.family(
        "imagebuilder_agent_update_metadata_version",
        Kind::Gauge,
        "Versions of the channel's metadata last verified, by role.",
    );
    if let Some(versions) = told.metadata {
        for (role, version) in ["root", "timestamp", "snapshot", "targets"]
            .iter()
            .zip(versions)
        {
            family.sample(&[("role", role)], version);
        }
    }
    for (name, help, at) in [
        (
            "imagebuilder_agent_update_metadata_expiry_timestamp_seconds",
            "When the channel's verified metadata expires, as a Unix time.",
            told.metadata_expires,
        ),
        (
            "imagebuilder_agent_update_check_timestamp_seconds",
            "The last check of the channel, whatever came of it, as a Unix time.",
            told.checked_at,
        ),
        (
            "imagebuilder_agent_update_verified_timestamp_seconds",
            "The last check whose metadata verified, as a Unix time.",
            told.verified_at,
        ),
        (
            "imagebuilder_agent_update_promotion_timestamp_seconds",
            "The last promotion of a release to stable, as a Unix time.",
            told.updated_at,
        ),
    ] {
        gauge(text, name, help, at);
    }
    if let Some(age) = metadata_age(told, now) {
        text.family(
            "imagebuilder_agent_update_metadata_age_seconds",
            Kind::Gauge,
            "How long ago the channel's metadata was last verified.",
        )
        .sample(&[], age);
    }
    text.family(
        "imagebuilder_agent_update_held",
        Kind::Gauge,
        "1 while an operator holds updates or pins a version.",
    )
    .sample(&[], u8::from(told.hold.is_some() || told.pin.is_some()));
    text.family(
        "imagebuilder_agent_update_skipped_releases",
        Kind::Gauge,
        "Releases that failed on this instance and are not tried again.",
    )
    .sample(&[], told.skipped.len());
}

/// Never negative: a clock that stepped back makes metadata fresh, not younger than now.
fn metadata_age(told: &UpdaterStatus, now: Timestamp) -> Option<f64> {
    told.verified_at
        .map(|at| (seconds(now) - seconds(at)).max(0.0))
}
