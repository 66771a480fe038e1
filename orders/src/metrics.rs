//! The `OrderCount` metric: counted in memory, published to CloudWatch in the background.
//!
//! Owns the batching and the request format. Must never delay or fail an order: handlers only increment a
//! counter. A point is published even if it is zero, because an alarm on missing data does not fire. The
//! points of a failed call are kept and sent with the next one.

pub mod prometheus;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;

use crate::aws::{Aws, CLOUDWATCH, FORM};
use crate::settings::MetricsSettings;
use support::one_line;

/// Points kept while CloudWatch does not respond: 15 minutes at the default interval. CloudWatch accepts up
/// to 1000 in one call.
const BACKLOG: usize = 60;
/// Time limit for one call; the next interval tries again.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Orders accepted since the last point. Cheap to clone and to increment.
#[derive(Debug, Clone, Default)]
pub struct OrderCount(Arc<AtomicU64>);

impl OrderCount {
    /// Counts one stored order.
    pub fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// The number of orders stored in the interval that ended at this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Point {
    at: jiff::Timestamp,
    orders: u64,
}

/// Points that CloudWatch has not accepted yet.
#[derive(Debug, Default)]
struct Backlog(VecDeque<Point>);

impl Backlog {
    /// Adds a point. If full, the oldest is added to the next one, so that sums stay correct.
    fn push(&mut self, point: Point) {
        self.0.push_back(point);
        if self.0.len() > BACKLOG
            && let Some(oldest) = self.0.pop_front()
            && let Some(next) = self.0.front_mut()
        {
            next.orders += oldest.orders;
        }
    }
}

/// Publishes the counts.
#[derive(Debug)]
pub struct Publisher {
    count: OrderCount,
    settings: MetricsSettings,
    aws: Aws,
    backlog: Backlog,
}

impl Publisher {
    /// A publisher of `count`; call [`Publisher::run`].
    #[must_use]
    pub fn new(count: OrderCount, settings: MetricsSettings, aws: Aws) -> Self {
        Self {
            count,
            settings,
            aws,
            backlog: Backlog::default(),
        }
    }

    /// Publishes a point every interval until `stop`, then the last one.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            let (wait, at) = to_the_next(jiff::Timestamp::now(), self.settings.interval);
            tokio::select! {
                () = tokio::time::sleep(wait) => self.flush(at).await,
                () = &mut stop => break,
            }
        }
        self.flush(jiff::Timestamp::now()).await;
    }

    /// Publishes the current count as of `at`, and the backlog.
    async fn flush(&mut self, at: jiff::Timestamp) {
        self.backlog.push(Point {
            at,
            orders: self.count.take(),
        });
        let body = put_metric_data(&self.settings.namespace, &self.backlog.0);
        let sent = tokio::time::timeout(CALL_TIMEOUT, self.send(body)).await;
        match sent.unwrap_or_else(|_| Err(anyhow::anyhow!("no response in time"))) {
            Ok(()) => self.backlog.0.clear(),
            Err(error) => tracing::warn!(
                error = one_line(&error),
                kept = self.backlog.0.len(),
                "could not publish OrderCount; will try again"
            ),
        }
    }

    async fn send(&self, body: String) -> anyhow::Result<()> {
        let headers = [("content-type", FORM)];
        self.aws
            .call(&CLOUDWATCH, None, &headers, body.into())
            .await
            .context("PutMetricData\nhint: allow the role cloudwatch:PutMetricData")?;
        Ok(())
    }
}

/// The time until the clock's next multiple of the interval, and the time of the point published then: the
/// last whole second before it. So minutes consist of whole intervals, and the last interval of a minute
/// counts for that minute.
fn to_the_next(now: jiff::Timestamp, interval: Duration) -> (Duration, jiff::Timestamp) {
    let interval = i64::try_from(interval.as_millis())
        .unwrap_or(i64::MAX)
        .max(1);
    let now = now.as_millisecond();
    let wait = interval - now.rem_euclid(interval);
    let at = jiff::Timestamp::from_millisecond(now + wait - 1000).unwrap_or_default();
    (Duration::from_millis(wait.unsigned_abs()), at)
}

/// The request body, in CloudWatch's query protocol.
fn put_metric_data(namespace: &str, points: &VecDeque<Point>) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("Action", "PutMetricData");
    form.append_pair("Version", "2010-08-01");
    form.append_pair("Namespace", namespace);
    for (index, point) in points.iter().enumerate() {
        let name = |field: &str| format!("MetricData.member.{}.{field}", index + 1);
        form.append_pair(&name("MetricName"), "OrderCount");
        form.append_pair(&name("Unit"), "Count");
        form.append_pair(&name("Value"), &point.orders.to_string());
        form.append_pair(
            &name("Timestamp"),
            &point.at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        );
    }
    form.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moto::Moto;

    fn point(second: i64, orders: u64) -> Point {
        Point {
            at: jiff::Timestamp::from_second(second).unwrap(),
            orders,
        }
    }

    #[test]
    fn a_full_backlog_merges_points_and_loses_no_orders() {
        let mut backlog = Backlog::default();
        for second in 0..200 {
            backlog.push(point(second, 1));
        }
        assert_eq!(backlog.0.len(), BACKLOG);
        assert_eq!(backlog.0.iter().map(|p| p.orders).sum::<u64>(), 200);
        assert_eq!(backlog.0.back(), Some(&point(199, 1)));
    }

    #[test]
    fn the_request_uses_the_query_protocol_and_has_zeros() {
        let points = VecDeque::from([point(0, 0), point(15, 7)]);
        assert_eq!(
            put_metric_data("FlowerShop", &points),
            "Action=PutMetricData&Version=2010-08-01&Namespace=FlowerShop\
             &MetricData.member.1.MetricName=OrderCount&MetricData.member.1.Unit=Count\
             &MetricData.member.1.Value=0\
             &MetricData.member.1.Timestamp=1970-01-01T00%3A00%3A00Z\
             &MetricData.member.2.MetricName=OrderCount&MetricData.member.2.Unit=Count\
             &MetricData.member.2.Value=7\
             &MetricData.member.2.Timestamp=1970-01-01T00%3A00%3A15Z"
        );
    }

    /// A minute consists of whole intervals, whenever the service started, so an alarm on a minute sees all
    /// of it right after its end.
    #[test]
    fn points_are_published_on_the_clocks_intervals() {
        for (now, interval, wait, at) in [
            ("12:00:00", 15, 15_000, "12:00:14"),
            ("12:00:00.001", 15, 14_999, "12:00:14"),
            ("12:00:14.999", 15, 1, "12:00:14"),
            ("12:00:52.5", 15, 7500, "12:00:59"),
            ("12:00:59", 60, 1000, "12:00:59"),
        ] {
            let time = |text: &str| format!("2026-01-01T{text}Z").parse().unwrap();
            let (waits, point) = to_the_next(time(now), Duration::from_secs(interval));
            assert_eq!(waits.as_millis(), wait, "{now}");
            assert_eq!(point, time(at), "{now}");
        }
    }

    fn publisher(count: &OrderCount, endpoint: &str) -> Publisher {
        let settings = MetricsSettings {
            namespace: "FlowerShop".to_owned(),
            interval: Duration::from_secs(15),
        };
        Publisher::new(count.clone(), settings, Aws::new(Moto::settings(endpoint)))
    }

    #[tokio::test]
    async fn cloudwatch_gets_every_order_once_after_an_outage() {
        let moto = Moto::start();
        let count = OrderCount::default();
        for _ in 0..3 {
            count.add_one();
        }
        // Nothing listens on port 1: the points stay.
        let mut away = publisher(&count, "http://127.0.0.1:1");
        away.flush(jiff::Timestamp::now()).await;
        assert_eq!(
            away.backlog.0.iter().map(|p| p.orders).collect::<Vec<_>>(),
            [3]
        );
        count.add_one();
        let mut back = publisher(&count, &moto.endpoint);
        back.backlog = away.backlog;
        back.flush(jiff::Timestamp::now()).await;
        assert!(back.backlog.0.is_empty());
        // Stopped at once, it publishes its last point, a zero.
        back.run(std::future::ready(())).await;

        let ask = "Action=GetMetricStatistics&Version=2010-08-01&Namespace=FlowerShop\
                   &MetricName=OrderCount&Period=86400&StartTime=2020-01-01T00:00:00Z\
                   &EndTime=2100-01-01T00:00:00Z&Statistics.member.1=Sum\
                   &Statistics.member.2=SampleCount&Statistics.member.3=Minimum";
        let answer = moto.ask("monitoring", ask).await;
        for part in [
            "<Sum>4.0</Sum>",
            "<SampleCount>3.0</SampleCount>",
            "<Minimum>0.0</Minimum>",
        ] {
            assert!(answer.contains(part), "{part} is not in {answer}");
        }
    }
}
