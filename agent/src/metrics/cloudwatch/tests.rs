//! The form, and its rhythm on paused time.

use std::sync::Mutex;

use anyhow::bail;
use tokio::time::Instant;

use super::*;
use crate::health::Round;
use crate::lifecycle::Event;
use crate::metrics::Fault;
use crate::status_file::DaemonStatus;

fn round(healthy: bool) -> Round {
    let service = contract::registry::Service {
        version: String::new(),
        healthy,
        detail: String::new(),
    };
    Round::from([("orders".to_owned(), service)])
}

fn fit(group: Option<&str>) -> DaemonStatus {
    DaemonStatus {
        image: "shop".into(),
        group: group.map(str::to_owned),
        verdict: Some(Verdict::Fit),
        services: round(true),
        restarts: [("orders".to_owned(), 3)].into(),
        ..DaemonStatus::default()
    }
}

fn fields(form: &str) -> Vec<(String, String)> {
    form_urlencoded::parse(form.as_bytes())
        .into_owned()
        .collect()
}

fn value(form: &str, metric: &str) -> Option<f64> {
    let fields = fields(form);
    let (name, _) = fields.iter().find(|(_, value)| value == metric)?;
    let name = name.replace("MetricName", "Value");
    let (_, value) = fields.iter().find(|(key, _)| *key == name)?;
    value.parse().ok()
}

#[test]
fn the_form_is_what_put_metric_data_takes() {
    let meter = Meter::default();
    meter.set_status(&fit(Some("fleet & co")));
    meter.called("PutParameter", Some(Fault::Throttled));
    let at = Timestamp::from_second(1_800_000_000).unwrap();
    let form = form("shop/agents", &meter.counts(), Totals::default(), at);
    let fields = fields(&form);
    let first: Vec<(&str, &str)> = fields[..10]
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    assert_eq!(
        first,
        [
            ("Action", "PutMetricData"),
            ("Version", "2010-08-01"),
            ("Namespace", "shop/agents"),
            ("MetricData.member.1.MetricName", "Fit"),
            ("MetricData.member.1.Unit", "Count"),
            ("MetricData.member.1.Value", "1"),
            ("MetricData.member.1.Timestamp", "2027-01-15T08:00:00Z"),
            ("MetricData.member.1.Dimensions.member.1.Name", "Image"),
            ("MetricData.member.1.Dimensions.member.1.Value", "shop"),
            (
                "MetricData.member.1.Dimensions.member.2.Name",
                "AutoScalingGroupName"
            ),
        ]
    );
    assert_eq!(fields[10].1, "fleet & co");
    assert_eq!(value(&form, "ApiErrors"), Some(1.0));
    assert_eq!(value(&form, "MetadataAge"), None, "there is no updater");
    assert!(!form.contains("i-"), "no dimension by instance");
}

#[derive(Default)]
struct Published {
    forms: Mutex<Vec<(Duration, String)>>,
    away: Mutex<bool>,
}

struct Recorder(Arc<Published>, Instant);

#[async_trait]
impl Sink for Recorder {
    async fn put(&self, form: String) -> Result<()> {
        self.0.forms.lock().unwrap().push((self.1.elapsed(), form));
        if *self.0.away.lock().unwrap() {
            bail!("away");
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn every_minute_has_a_point_and_no_count_is_lost() {
    let (published, meter) = (Arc::new(Published::default()), Meter::default());
    meter.set_status(&fit(None));
    let ear = Arc::new(Recorder(published.clone(), Instant::now()));
    let publishing = tokio::spawn(publish(ear, meter.clone(), "shop".into(), 0.5));
    tokio::time::sleep(Duration::from_secs(31)).await;
    meter.count_event(&Event::Checked(round(false).into()));
    *published.away.lock().unwrap() = true;
    tokio::time::sleep(Duration::from_secs(60)).await;
    meter.count_event(&Event::Checked(round(false).into()));
    *published.away.lock().unwrap() = false;
    tokio::time::sleep(Duration::from_secs(120)).await;
    publishing.abort();
    let forms = published.forms.lock().unwrap();
    let seen: Vec<(u64, f64)> = forms
        .iter()
        .map(|(at, form)| (at.as_secs(), value(form, "FailedChecks").unwrap()))
        .collect();
    assert_eq!(seen, [(30, 0.0), (90, 1.0), (150, 2.0), (210, 0.0)]);
    assert_eq!(
        value(&forms[0].1, "ServiceRestarts"),
        Some(0.0),
        "published before the restart"
    );
}
