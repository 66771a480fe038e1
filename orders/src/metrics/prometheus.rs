//! The metrics for Prometheus: counted by the handlers, written on request.
//!
//! Owns names, labels and the text format. Every label is resolved once, at the start; handling an order only
//! increments numbers. Must not contain anything that customers sent, nor labels whose values they can
//! choose, since each label value is kept forever.

use std::fmt::{self, Write};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::VERSION;

/// Buckets for request durations, in seconds: from a response out of memory to the store's time limit, each
/// about three times the one before.
const BUCKETS: [f64; 10] = [0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 5.0, 15.0];

type Label = [(&'static str, &'static str); 1];

/// The part of the contract that a request is for. Paths are arbitrary input; these are few.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after what they are")]
pub enum Route {
    PlaceOrder,
    LookUpOrder,
    ListOrders,
    Health,
    Candidates,
    Accounts,
    Other,
}

impl Route {
    const ALL: [(Self, &'static str); 7] = [
        (Self::PlaceOrder, "place_order"),
        (Self::LookUpOrder, "look_up_order"),
        (Self::ListOrders, "list_orders"),
        (Self::Health, "health"),
        (Self::Candidates, "candidates"),
        (Self::Accounts, "accounts"),
        (Self::Other, "other"),
    ];

    /// The route of a request with this method and path.
    #[must_use]
    pub fn of(method: &axum::http::Method, path: &str) -> Self {
        match path {
            "/order" if method == axum::http::Method::POST => Self::PlaceOrder,
            "/order" | "/gtg" => Self::Health,
            "/orders" => Self::ListOrders,
            "/candidates" => Self::Candidates,
            _ if path.starts_with("/order/") => Self::LookUpOrder,
            _ if path.starts_with("/candidate/") => Self::Candidates,
            _ if path.starts_with("/account") || path == "/session" => Self::Accounts,
            _ => Self::Other,
        }
    }
}

/// Why an order was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Not JSON, not a form, a duplicate field, an invalid key (400).
    Malformed,
    /// An expired session, another site, too many requests (401, 403, 429).
    Caller,
    /// The body did not arrive in time (408).
    Slow,
    /// The key was used for another order (409).
    KeyReused,
    /// Too many bytes (413).
    TooLarge,
    /// Neither JSON nor a form (415).
    MediaType,
    /// Invalid fields (422).
    Invalid,
    /// Too many orders at once (503).
    Busy,
    /// The store did not accept it (503).
    Store,
}

impl Refusal {
    const ALL: [(Self, &'static str); 9] = [
        (Self::Malformed, "malformed"),
        (Self::Caller, "caller"),
        (Self::Slow, "slow"),
        (Self::KeyReused, "key_reused"),
        (Self::TooLarge, "too_large"),
        (Self::MediaType, "media_type"),
        (Self::Invalid, "invalid"),
        (Self::Busy, "busy"),
        (Self::Store, "store"),
    ];

    /// The reason for a response status, except [`Refusal::Busy`].
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        match status {
            401 | 403 | 429 => Self::Caller,
            408 => Self::Slow,
            409 => Self::KeyReused,
            413 => Self::TooLarge,
            415 => Self::MediaType,
            422 => Self::Invalid,
            500.. => Self::Store,
            _ => Self::Malformed,
        }
    }
}

/// All metrics.
#[derive(Debug)]
pub struct Meter {
    registry: Registry,
    /// New orders.
    pub placed: Counter,
    /// Repeated requests under the idempotency key of a stored order.
    pub replayed: Counter,
    refused: [Counter; Refusal::ALL.len()],
    durations: [Histogram; Route::ALL.len()],
    responses: [Counter; CLASSES.len()],
    /// Open connections.
    pub connections: Gauge,
    /// Notices that are not sent yet, as far as known.
    pub notices_waiting: Gauge,
    store_up: Gauge,
    under_way: Gauge,
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl Default for Meter {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("orders");
        let refused = Family::<Label, Counter>::default();
        let durations =
            Family::<Label, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        let responses = Family::<Label, Counter>::default();
        let build = Family::<Label, Gauge>::default();
        build.get_or_create(&[("version", VERSION)]).set(1);
        let meter = Self {
            placed: Counter::default(),
            replayed: Counter::default(),
            refused: Refusal::ALL
                .map(|(_, name)| refused.get_or_create(&[("reason", name)]).clone()),
            durations: Route::ALL
                .map(|(_, name)| durations.get_or_create(&[("route", name)]).clone()),
            responses: CLASSES.map(|class| responses.get_or_create(&[("class", class)]).clone()),
            connections: Gauge::default(),
            notices_waiting: Gauge::default(),
            store_up: Gauge::default(),
            under_way: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("build_info", "The running version", build);
        registry.register("placed", "Orders taken", meter.placed.clone());
        registry.register(
            "replayed",
            "Repeated requests under the idempotency key of a stored order",
            meter.replayed.clone(),
        );
        registry.register("refused", "Orders refused, by reason", refused);
        registry.register_with_unit(
            "request_duration",
            "Time from a request's head to its response's, by route",
            Unit::Seconds,
            durations,
        );
        registry.register("responses", "Responses, by class of status", responses);
        registry.register("connections", "Connections open", meter.connections.clone());
        registry.register("under_way", "Orders in progress", meter.under_way.clone());
        registry.register(
            "store_up",
            "Whether the store accepts orders (1) or not (0)",
            meter.store_up.clone(),
        );
        registry.register(
            "notices_waiting",
            "Notices of orders that are not sent yet",
            meter.notices_waiting.clone(),
        );
        Self { registry, ..meter }
    }
}

/// Values that are read when Prometheus scrapes instead of being counted.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Whether the store accepts orders.
    pub store_up: bool,
    /// Orders in progress.
    pub under_way: usize,
}

impl Meter {
    /// Counts a refused order.
    pub fn refuse(&self, refusal: Refusal) {
        // The discriminant is the index in the table; a test checks this.
        self.refused[refusal as usize].inc();
    }

    /// Counts a response.
    pub fn answer(&self, route: Route, status: u16, after: Duration) {
        self.durations[route as usize].observe(after.as_secs_f64());
        let class = usize::from(status / 100).saturating_sub(1);
        if let Some(class) = self.responses.get(class) {
            class.inc();
        }
    }

    /// All metrics as OpenMetrics text.
    ///
    /// # Errors
    /// None in practice: writing to a string does not fail.
    pub fn open_metrics(&self, now: Now) -> Result<String, fmt::Error> {
        self.store_up.set(now.store_up.into());
        self.under_way
            .set(now.under_way.try_into().unwrap_or(i64::MAX));
        let mut text = String::with_capacity(8 * 1024);
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// All metrics in Prometheus' older text format (version 0.0.4), for clients that do not accept
    /// OpenMetrics.
    ///
    /// # Errors
    /// None in practice: writing to a string does not fail.
    pub fn text(&self, now: Now) -> Result<String, fmt::Error> {
        classic(&self.open_metrics(now)?)
    }
}

/// Converts OpenMetrics text: in the older format counters have their suffix in the descriptions too, and
/// there are no units and no end marker.
/// <https://prometheus.io/docs/instrumenting/exposition_formats/>
fn classic(open: &str) -> Result<String, fmt::Error> {
    let mut text = String::with_capacity(open.len());
    let mut help = None;
    for line in open.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            writeln!(text, "{line}")?;
            continue;
        };
        // HELP comes first, but only TYPE determines the suffix.
        if let Some(rest) = comment.strip_prefix("HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = comment
            .strip_prefix("TYPE ")
            .and_then(|rest| rest.split_once(' '))
        {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, rest)) = help.take() {
                writeln!(text, "# HELP {name}{suffix} {rest}")?;
            }
            writeln!(text, "# TYPE {name}{suffix} {kind}")?;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Method;

    const NOW: Now = Now {
        store_up: true,
        under_way: 3,
    };

    #[test]
    fn every_label_is_at_its_index() {
        for (index, (refusal, _)) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, index, "{refusal:?}");
        }
        for (index, (route, _)) in Route::ALL.into_iter().enumerate() {
            assert_eq!(route as usize, index, "{route:?}");
        }
    }

    #[test]
    fn metrics_have_standard_names() {
        let meter = Meter::default();
        meter.placed.inc();
        meter.refuse(Refusal::Busy);
        meter.answer(Route::PlaceOrder, 200, Duration::from_millis(2));
        meter.answer(Route::Other, 999, Duration::from_secs(99));
        meter.connections.inc();
        let open = meter.open_metrics(NOW).unwrap();
        let text = meter.text(NOW).unwrap();
        for line in [
            "orders_placed_total 1",
            "orders_replayed_total 0",
            r#"orders_refused_total{reason="busy"} 1"#,
            r#"orders_refused_total{reason="store"} 0"#,
            r#"orders_request_duration_seconds_bucket{le="0.003",route="place_order"} 1"#,
            r#"orders_request_duration_seconds_bucket{le="15.0",route="other"} 0"#,
            r#"orders_request_duration_seconds_count{route="other"} 1"#,
            r#"orders_responses_total{class="2xx"} 1"#,
            "orders_connections 1",
            "orders_under_way 3",
            "orders_store_up 1",
            "orders_notices_waiting 0",
        ] {
            assert!(open.lines().any(|l| l == line), "{line} is not in {open}");
            assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
        }
        assert!(open.contains("# TYPE orders_placed counter\n"));
        assert!(open.ends_with("# EOF\n"));
        assert!(text.contains(
            "# HELP orders_placed_total Orders taken.\n# TYPE orders_placed_total counter\n"
        ));
        assert!(text.contains("# TYPE orders_request_duration_seconds histogram\n"));
        assert!(!text.contains("EOF") && !text.contains("UNIT"), "{text}");
    }

    #[test]
    fn unknown_paths_share_one_label() {
        let table = [
            (Method::POST, "/order", Route::PlaceOrder),
            (Method::GET, "/order", Route::Health),
            (Method::GET, "/gtg", Route::Health),
            (Method::GET, "/order/x", Route::LookUpOrder),
            (Method::GET, "/orders", Route::ListOrders),
            (Method::POST, "/candidate/x", Route::Candidates),
            (Method::POST, "/account", Route::Accounts),
            (Method::POST, "/session", Route::Accounts),
            (Method::GET, "/", Route::Other),
            (Method::GET, "/wp-login.php", Route::Other),
        ];
        for (method, path, route) in table {
            assert_eq!(Route::of(&method, path), route, "{method} {path}");
        }
    }
}
