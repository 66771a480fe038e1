//! Metrics for CloudWatch, if configured: a few of them, once a minute, for the group as a whole.
//!
//! CloudWatch charges for every metric, and a dimension by instance would add one for every instance ever launched.
//! So every instance adds its points to the same metrics of its image and group, where `Sum` counts instances and
//! `Average` is their share.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use contract::registry::Verdict;
use jiff::Timestamp;
use tokio::time::MissedTickBehavior;

use super::{Counts, Meter, metadata_age};

/// Between two points: CloudWatch's own standard resolution.
const MINUTE: Duration = Duration::from_secs(60);

/// Where forms for `PutMetricData` go.
#[async_trait]
pub(crate) trait Sink: Send + Sync {
    /// Sends one form.
    async fn put(&self, form: String) -> Result<()>;
}

/// Counters as of the last form that was accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    failed_rounds: u64,
    faults: u64,
    refusals: u64,
    restarts: u64,
}

impl Totals {
    fn of(counts: &Counts) -> Self {
        Self {
            failed_rounds: counts.failed,
            faults: counts.faults.values().sum(),
            refusals: counts.refusals.values().sum(),
            restarts: counts.status.restarts.values().map(|n| u64::from(*n)).sum(),
        }
    }
}

/// Publishes one point of every metric each minute, forever. `dice` (random in 0..1) spreads a fleet over the minute.
pub(crate) async fn publish(sink: Arc<dyn Sink>, meter: Meter, namespace: String, dice: f64) {
    // Restarts before this start were published by the previous daemon.
    let mut published = Totals::of(&meter.counts());
    tokio::time::sleep(MINUTE.mul_f64(dice)).await;
    let mut minute = tokio::time::interval(MINUTE);
    minute.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut well = true;
    loop {
        minute.tick().await;
        let (form, totals) = {
            let counts = meter.counts();
            (
                form(&namespace, &counts, published, Timestamp::now()),
                Totals::of(&counts),
            )
        };
        match sink.put(form).await {
            Ok(()) => (well, published) = (true, totals),
            Err(error) => {
                if std::mem::take(&mut well) {
                    tracing::warn!("no metrics to CloudWatch, tried again each minute: {error:#}");
                }
            }
        }
    }
}

/// `PutMetricData` in the query protocol, version 2010-08-01.
#[expect(clippy::cast_precision_loss, reason = "counts of a minute")]
fn form(namespace: &str, counts: &Counts, published: Totals, now: Timestamp) -> String {
    let (status, totals) = (&counts.status, Totals::of(counts));
    let sick = status
        .services
        .values()
        .filter(|service| !service.healthy)
        .count();
    let grown = |now: u64, then: u64| now.saturating_sub(then) as f64;
    let mut points = vec![
        (
            "Fit",
            "Count",
            f64::from(u8::from(status.verdict == Some(Verdict::Fit))),
        ),
        ("UnhealthyServices", "Count", sick as f64),
        (
            "FailedChecks",
            "Count",
            grown(totals.failed_rounds, published.failed_rounds),
        ),
        (
            "ServiceRestarts",
            "Count",
            grown(totals.restarts, published.restarts),
        ),
        ("ApiErrors", "Count", grown(totals.faults, published.faults)),
    ];
    if let Some(update) = &counts.update {
        points.push((
            "UpdateRefusals",
            "Count",
            grown(totals.refusals, published.refusals),
        ));
        if let Some(age) = metadata_age(update, now) {
            points.push(("MetadataAge", "Seconds", age));
        }
    }
    let mut dimensions = vec![("Image", status.image.as_str())];
    if let Some(group) = &status.group {
        dimensions.push(("AutoScalingGroupName", group));
    }
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("Action", "PutMetricData")
        .append_pair("Version", "2010-08-01")
        .append_pair("Namespace", namespace);
    let at = now.to_string();
    for (n, (name, unit, value)) in (1..).zip(&points) {
        let member = format!("MetricData.member.{n}");
        form.append_pair(&format!("{member}.MetricName"), name)
            .append_pair(&format!("{member}.Unit"), unit)
            .append_pair(&format!("{member}.Value"), &value.to_string())
            .append_pair(&format!("{member}.Timestamp"), &at);
        for (d, (name, value)) in (1..).zip(&dimensions) {
            form.append_pair(&format!("{member}.Dimensions.member.{d}.Name"), name)
                .append_pair(&format!("{member}.Dimensions.member.{d}.Value"), value);
        }
    }
    form.finish()
}

#[cfg(test)]
mod tests;
