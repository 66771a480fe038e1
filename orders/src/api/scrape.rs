//! `GET /metrics` for Prometheus.

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::operator::require_details_access;
use super::shop::{ORDERS_AT_ONCE, Shop};
use crate::metrics::prometheus::Now;
use crate::problem::Problem;
use crate::readiness::State as Readiness;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) async fn metrics(
    State(shop): State<Shop>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    require_details_access(&shop.settings, &parts)?;
    let headers = parts.headers;
    let now = Now {
        store_up: shop.readiness.now() == Readiness::Ready,
        under_way: ORDERS_AT_ONCE.saturating_sub(shop.order_permits.available_permits()),
    };
    if let Some(outbox) = &shop.outbox {
        let waiting = i64::try_from(outbox.waiting()).unwrap_or(i64::MAX);
        shop.meter.notices_waiting.set(waiting);
    }
    let open = headers.get_all(header::ACCEPT).iter().any(|accept| {
        let accept = accept.to_str().unwrap_or_default();
        accept.contains("application/openmetrics-text")
    });
    let (media, text) = if open {
        (OPEN_METRICS, shop.meter.open_metrics(now))
    } else {
        (TEXT, shop.meter.text(now))
    };
    let text = text.map_err(|_| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the metrics could not be written",
        )
    })?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(media)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, text).into_response())
}
