//! The daemon's metrics: counters, the latest status of daemon and updater, and the metric families made of them.
//!
//! Counting never blocks and never fails. [`http`] serves the families as Prometheus text; only
//! [`crate::metrics::exposition`] knows the text format.

pub(crate) mod cloudwatch;
pub(crate) mod exposition;
pub(crate) mod http;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_update::status::{Build, UpdaterStatus};
use contract::registry::Verdict;
use jiff::Timestamp;

use self::exposition::{Exposition, Kind};
use crate::health::Checked;
use crate::hooks::Receipt;
use crate::lifecycle::Event;
use crate::status_file::DaemonStatus;

#[cfg(test)]
mod tests;

/// Why a call to AWS failed, as far as an alarm distinguishes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Throttled: too many calls for the account's quota.
    Throttled,
    /// The role does not allow it.
    Denied,
    /// No answer in time.
    Unreachable,
    /// Anything else.
    Other,
}

impl Fault {
    /// The fault of an API's error code.
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

    fn name(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Denied => "denied",
            Self::Unreachable => "unreachable",
            Self::Other => "other",
        }
    }
}

/// Most refusal codes that are counted separately: they come from a file that another version may have written, and
/// every code is a series.
const MOST_CODES: usize = 48;

/// Counters since the daemon started, and the latest status.
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

/// The daemon's metrics. Clones share the same counters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter(Arc<Mutex<Counts>>);

impl Meter {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        // A panic in another task does not make a counter wrong.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call to AWS.
    pub(crate) fn called(&self, call: &'static str, fault: Option<Fault>) {
        let mut counts = self.counts();
        *counts.calls.entry(call).or_default() += 1;
        if let Some(fault) = fault {
            *counts.faults.entry((call, fault)).or_default() += 1;
        }
    }

    /// Counts an event before the lifecycle handles it.
    pub(crate) fn count_event(&self, event: &Event) {
        match event {
            Event::Checked(Checked { round, .. }) => {
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

    /// Stores the daemon's current status.
    pub(crate) fn set_status(&self, status: &DaemonStatus) {
        let mut counts = self.counts();
        if counts.status != *status {
            counts.status = status.clone();
        }
    }

    /// Stores the updater's current status. Each check that ended with a code is counted once.
    pub(crate) fn set_updater_status(&self, update: Option<UpdaterStatus>) {
        let mut counts = self.counts();
        if let Some(status) = &update
            && !status.code.is_empty()
            && status.checked_at != counts.refused_at
        {
            counts.refused_at = status.checked_at;
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            let known = counts.refusals.contains_key(&status.code);
            let code = if known
                || (counts.refusals.len() < MOST_CODES
                    && status.code.len() <= 40
                    && status.code.chars().all(fits))
            {
                status.code.clone()
            } else {
                "other".to_owned()
            };
            *counts.refusals.entry(code).or_default() += 1;
        }
        counts.update = update;
    }

    /// All metrics as Prometheus text.
    pub(crate) fn exposition(&self, now: Timestamp) -> String {
        let mut text = Exposition::default();
        let counts = self.counts();
        process(&mut text, &counts.status);
        verdict(&mut text, &counts.status);
        services(&mut text, &counts.status);
        counted(&mut text, &counts);
        if let Some(status) = &counts.update {
            phase_and_slots(&mut text, status);
            metadata(&mut text, status, now);
            overrides(&mut text, status);
        }
        text.into_string()
    }
}

/// Seconds since the epoch, to the millisecond.
fn seconds(at: Timestamp) -> f64 {
    // Milliseconds of the current century are exact in 53 bits.
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

/// The process, its instance, and the state of its lifecycle.
fn process(text: &mut Exposition, status: &DaemonStatus) {
    text.family(
        "imagebuilder_agent_build_info",
        Kind::Gauge,
        "The running agent's version.",
    )
    .sample(&[("version", &status.agent)], 1);
    gauge(
        text,
        "imagebuilder_agent_start_time_seconds",
        "When this process started, as a Unix time.",
        status.started_at,
    );
    text.family(
        "imagebuilder_agent_instance_info",
        Kind::Gauge,
        "The identity of the instance; labels are empty until known.",
    )
    .sample(
        &[
            ("instance_id", &status.instance_id),
            ("image_id", &status.image_id),
            ("image", &status.image),
            ("group", status.group.as_deref().unwrap_or_default()),
        ],
        1,
    );
    text.family(
        "imagebuilder_agent_state_info",
        Kind::Gauge,
        "The current state of the agent.",
    )
    .sample(&[("state", &status.state)], 1);
}

fn verdict(text: &mut Exposition, status: &DaemonStatus) {
    let family = text.family(
        "imagebuilder_agent_verdict",
        Kind::Gauge,
        "1 for the current verdict, 0 for the others.",
    );
    for (verdict_name, verdict) in [
        ("judging", Verdict::Judging),
        ("fit", Verdict::Fit),
        ("unfit", Verdict::Unfit),
        ("resting", Verdict::Resting),
        ("draining", Verdict::Draining),
    ] {
        family.sample(
            &[("verdict", verdict_name)],
            u8::from(status.verdict == Some(verdict)),
        );
    }
    gauge(
        text,
        "imagebuilder_agent_verdict_start_time_seconds",
        "When the current verdict began, as a Unix time.",
        status.since.parse().ok(),
    );
}

fn services(text: &mut Exposition, status: &DaemonStatus) {
    let family = text.family(
        "imagebuilder_agent_service_healthy",
        Kind::Gauge,
        "1 if the service passed its last check.",
    );
    for (name, service) in &status.services {
        family.sample(&[("service", name)], u8::from(service.healthy));
    }
    let family = text.family(
        "imagebuilder_agent_service_info",
        Kind::Gauge,
        "The service's version; empty if it has none.",
    );
    for (name, service) in &status.services {
        family.sample(&[("service", name), ("version", &service.version)], 1);
    }
    let family = text.family(
        "imagebuilder_agent_service_restarts_total",
        Kind::Counter,
        "Restarts of the service by this agent since the instance booted.",
    );
    for name in status.services.keys() {
        let restarts = status.restarts.get(name).copied().unwrap_or_default();
        family.sample(&[("service", name)], restarts);
    }
}

/// What the daemon has done since it started.
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
        "Answers to lifecycle hooks, and their outcome.",
    );
    for ((answer, outcome), count) in &counts.answers {
        family.sample(&[("answer", answer), ("outcome", outcome)], *count);
    }
    let family = text.family(
        "imagebuilder_agent_api_calls_total",
        Kind::Counter,
        "Calls to AWS; a call with retries counts once.",
    );
    for (call, count) in &counts.calls {
        family.sample(&[("call", call)], *count);
    }
    let family = text.family(
        "imagebuilder_agent_api_errors_total",
        Kind::Counter,
        "Calls to AWS that failed after all retries: throttled, denied, unreachable or other.",
    );
    for ((call, fault), count) in &counts.faults {
        family.sample(&[("call", call), ("kind", fault.name())], *count);
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

/// The updater's phase, and the releases on this instance.
fn phase_and_slots(text: &mut Exposition, status: &UpdaterStatus) {
    text.family(
        "imagebuilder_agent_update_phase_info",
        Kind::Gauge,
        "The updater's phase, and the code of its last refusal; empty while all is well.",
    )
    .sample(
        &[
            ("phase", &status.phase),
            ("channel", &status.channel),
            ("code", &status.code),
        ],
        1,
    );
    let family = text.family(
        "imagebuilder_agent_update_slot_info",
        Kind::Gauge,
        "The releases on this instance, and the wanted one.",
    );
    let slots: [(&str, &Option<Build>); 4] = [
        ("stable", &status.stable),
        ("trial", &status.trial),
        ("factory", &status.factory),
        ("wanted", &status.wanted),
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
}

/// The channel's metadata, and when the updater last checked, verified and promoted.
fn metadata(text: &mut Exposition, status: &UpdaterStatus, now: Timestamp) {
    let family = text.family(
        "imagebuilder_agent_update_metadata_version",
        Kind::Gauge,
        "Versions of the channel's metadata last verified, by role.",
    );
    if let Some(versions) = status.metadata {
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
            status.metadata_expires,
        ),
        (
            "imagebuilder_agent_update_check_timestamp_seconds",
            "The last check of the channel, with any result, as a Unix time.",
            status.checked_at,
        ),
        (
            "imagebuilder_agent_update_verified_timestamp_seconds",
            "The last check whose metadata verified, as a Unix time.",
            status.verified_at,
        ),
        (
            "imagebuilder_agent_update_promotion_timestamp_seconds",
            "The last promotion of a release to stable, as a Unix time.",
            status.updated_at,
        ),
    ] {
        gauge(text, name, help, at);
    }
    if let Some(age) = metadata_age(status, now) {
        text.family(
            "imagebuilder_agent_update_metadata_age_seconds",
            Kind::Gauge,
            "How long ago the channel's metadata was last verified.",
        )
        .sample(&[], age);
    }
}

/// What keeps releases from being taken: the operator's overrides, and releases that failed.
fn overrides(text: &mut Exposition, status: &UpdaterStatus) {
    text.family(
        "imagebuilder_agent_update_held",
        Kind::Gauge,
        "1 while an operator holds updates or pins a version.",
    )
    .sample(&[], u8::from(status.hold.is_some() || status.pin.is_some()));
    text.family(
        "imagebuilder_agent_update_skipped_releases",
        Kind::Gauge,
        "Releases that failed on this instance and are not tried again.",
    )
    .sample(&[], status.skipped.len());
}

/// Never negative, even after the clock stepped back.
fn metadata_age(status: &UpdaterStatus, now: Timestamp) -> Option<f64> {
    status
        .verified_at
        .map(|at| (seconds(now) - seconds(at)).max(0.0))
}
