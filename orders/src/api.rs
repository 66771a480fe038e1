//! The HTTP contract: routes, reading of bodies, answers.
//!
//! Knows orders, a store and the readiness; must not know which store it is, nor wait for anything
//! but the store. The contract is written down in `docs/orders.md`.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use percent_encoding::percent_decode;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use crate::aws::InstanceId;
use crate::metrics::OrderCount;
use crate::order::{Draft, EXTRA_NAME_LIMIT, OrderId};
use crate::problem::Problem;
use crate::readiness::{self, Readiness};
use crate::store::{CreateError, Store};
use crate::{VERSION, pages};

/// Largest body read. An order at all its limits is under 20 KiB.
const BODY_LIMIT: usize = 32 * 1024;
/// How long a client may take to send a body: a phone on a bad line needs seconds, a slow-body
/// attack would take for ever.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the store may take. Afterwards the customer is told to try again.
const STORE_TIMEOUT: Duration = Duration::from_secs(15);
/// Orders under way at once; more are sent away before memory grows.
const ORDERS_AT_ONCE: usize = 512;

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the handlers share.
#[derive(Clone)]
pub struct Shop {
    /// Where orders are kept.
    pub store: Arc<dyn Store>,
    /// Whether the store works.
    pub readiness: Readiness,
    /// The flowers on sale.
    pub flowers: Arc<[String]>,
    /// The counter behind the metric.
    pub count: OrderCount,
    /// This box's id.
    pub instance: InstanceId,
    /// Places for orders under way.
    pub places: Arc<Semaphore>,
}

impl Shop {
    /// As many places as may be taken at once.
    #[must_use]
    pub fn places() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(ORDERS_AT_ONCE))
    }
}

/// The whole service as one router.
pub fn router(shop: Shop) -> Router {
    let page = pages::Shop::new(&shop.flowers);
    Router::new()
        .route("/order", post(place_order).get(order_endpoint))
        .route("/order/{id}", get(look_up_order))
        .route("/gtg", get(good_to_go))
        .route("/version", get(version))
        .with_state(shop)
        .merge(page.router())
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(middleware::from_fn(accompany))
}

async fn order_endpoint() -> &'static str {
    "Order endpoint OK"
}

async fn version() -> Json<Value> {
    Json(json!({ "version": VERSION }))
}

async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path")
}

async fn method_not_allowed(method: Method) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("this path does not answer to {method}; see the header Allow"),
    )
}

async fn good_to_go(State(shop): State<Shop>, RawQuery(query): RawQuery) -> Response {
    let state = shop.readiness.now();
    let ready = state == readiness::State::Ready;
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let detailed = query.is_some_and(|query| {
        query
            .split('&')
            .any(|pair| pair.split('=').next() == Some("details"))
    });
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    if !detailed {
        return (status, no_store).into_response();
    }
    // "connected" is a string because the seeds' clients compare it with one.
    let mut details = json!({
        "connected": if ready { "true" } else { "false" },
        "instance-id": shop.instance.now_or_unknown(),
    });
    if let Some(reason) = state.reason() {
        details["detail"] = reason.into();
    }
    (status, no_store, Json(details)).into_response()
}

async fn look_up_order(
    State(shop): State<Shop>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let unknown = || Problem::new(StatusCode::NOT_FOUND, "there is no order with this id");
    let id: OrderId = id.parse().map_err(|_| unknown())?;
    let found = within(STORE_TIMEOUT, shop.store.get(id))
        .await
        .map_err(|error| {
            tracing::error!(order = %id, error = format!("{error:#}"), "look-up failed");
            shop.readiness.doubt();
            Problem::try_again(2, "the order could not be looked up just now")
        })?;
    let order = found.ok_or_else(unknown)?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(order)).into_response())
}

async fn place_order(State(shop): State<Shop>, request: Request) -> Result<Response, Problem> {
    let Ok(_place) = shop.places.try_acquire() else {
        return Err(Problem::try_again(1, "too many orders at once"));
    };
    let (parts, body) = request.into_parts();
    let form = Form::of(&parts.headers)?;
    let body = read_body(body).await?;
    let fields = form.fields(&body)?;
    let draft = Draft::judge(fields, &shop.flowers).map_err(Problem::faults)?;
    let order = draft.take(OrderId::new(), jiff::Timestamp::now());
    let created = within(STORE_TIMEOUT, async {
        match shop.store.create(&order).await {
            Ok(()) => Ok(()),
            Err(CreateError::Exists) => anyhow::bail!("its new id is taken"),
            Err(CreateError::Unavailable(error)) => Err(error),
        }
    });
    created.await.map_err(|error| {
        tracing::error!(order = %order.id, error = format!("{error:#}"), "order not stored");
        shop.readiness.doubt();
        Problem::try_again(
            2,
            "the order could not be stored just now, and was not accepted",
        )
    })?;
    shop.count.add_one();
    tracing::info!(order = %order.id, "order stored");
    let answer = json!({ "message": "Order received", "id": order.id });
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {} s", limit.as_secs())))
}

/// How a body is spelled.
#[derive(Debug, Clone, Copy)]
enum Form {
    Json,
    UrlEncoded,
}

impl Form {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let wrong = || {
            Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "send application/json or application/x-www-form-urlencoded",
            )
        };
        let value = headers.get(header::CONTENT_TYPE).ok_or_else(wrong)?;
        let media = value.to_str().map_err(|_| wrong())?;
        let media = media
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        match media.as_str() {
            "application/x-www-form-urlencoded" => Ok(Self::UrlEncoded),
            "application/json" => Ok(Self::Json),
            other if other.starts_with("application/") && other.ends_with("+json") => {
                Ok(Self::Json)
            }
            _ => Err(wrong()),
        }
    }

    fn fields(self, body: &[u8]) -> Result<Map<String, Value>, Problem> {
        let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, detail);
        match self {
            Self::Json => match serde_json::from_slice(body) {
                Ok(JsonBody::Object(pairs)) => once_each(pairs),
                Ok(JsonBody::Other) => Err(Problem::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "the body must be a JSON object with name, address and flower",
                )),
                // The parser's words have line and column, and nothing of the content.
                Err(error) => Err(bad(format!("the body is not JSON: {error}"))),
            },
            Self::UrlEncoded => {
                // Decoding by hand what the form's parser would mend silently.
                if percent_decode(body).decode_utf8().is_err() {
                    return Err(bad("the form is not UTF-8".to_owned()));
                }
                let pairs = form_urlencoded::parse(body);
                once_each(pairs.map(|(name, value)| (name.into(), value.into_owned().into())))
            }
        }
    }
}

/// Fields by name. A name that is there twice is refused: two readers would read two orders.
fn once_each(
    pairs: impl IntoIterator<Item = (String, Value)>,
) -> Result<Map<String, Value>, Problem> {
    let mut fields = Map::new();
    for (name, value) in pairs {
        if fields.contains_key(&name) {
            let name: String = name.chars().take(EXTRA_NAME_LIMIT).collect();
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                format!("the field `{name}` is there twice"),
            ));
        }
        fields.insert(name, value);
    }
    Ok(fields)
}

/// A JSON body with an object's members as they came, repeated ones too.
enum JsonBody {
    Object(Vec<(String, Value)>),
    Other,
}

impl<'de> Deserialize<'de> for JsonBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = JsonBody;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonBody, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(JsonBody::Object(pairs))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<JsonBody, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(JsonBody::Other)
            }
            fn visit_unit<E>(self) -> Result<JsonBody, E> {
                Ok(JsonBody::Other)
            }
            fn visit_bool<E>(self, _: bool) -> Result<JsonBody, E> {
                Ok(JsonBody::Other)
            }
            fn visit_i64<E>(self, _: i64) -> Result<JsonBody, E> {
                Ok(JsonBody::Other)
            }
            fn visit_u64<E>(self, _: u64) -> Result<JsonBody, E> {
                Ok(JsonBody::Other)
            }
            fn visit_f64<E>(self, _: f64) -> Result<JsonBody, E> {
                Ok(JsonBody::Other)
            }
            fn visit_str<E>(self, _: &str) -> Result<JsonBody, E> {
                Ok(JsonBody::Other)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

async fn read_body(body: Body) -> Result<Vec<u8>, Problem> {
    let read = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_LIMIT).collect());
    match read.await {
        Ok(Ok(body)) => Ok(body.to_bytes().into()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("an order has at most {BODY_LIMIT} bytes"),
        )),
        Ok(Err(_)) => Err(Problem::new(StatusCode::BAD_REQUEST, "the body broke off")),
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body took longer than {} s", BODY_TIMEOUT.as_secs()),
        )),
    }
}

/// Goes with every request: gives it an id, logs it without the customer's data, sets the headers
/// that every answer has.
async fn accompany(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default());
    let mut response = tracing::Instrument::instrument(next.run(request), span.clone()).await;
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID.clone(), id);
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    let status = response.status().as_u16();
    let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    // Health checks come every few seconds from every balancer; they would drown the rest.
    if path == "/gtg" {
        span.in_scope(|| tracing::debug!(%method, path, status, micros, "answered"));
    } else {
        // Only our own paths are logged as they are: others are whatever a stranger typed.
        let path = if status == 404 { "(unknown)" } else { &path };
        span.in_scope(|| tracing::info!(%method, path, status, micros, "answered"));
    }
    response
}

/// The caller's own id when it is a decent one, so that a request can be followed through the
/// balancer; else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let decent = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=64).contains(&bytes.len())
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || b"-_=.".contains(b))
    };
    headers
        .get(&REQUEST_ID)
        .filter(decent)
        .cloned()
        .unwrap_or_else(|| {
            let id = OrderId::new().to_string();
            HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("none"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::Aws;
    use crate::order::Order;
    use crate::settings::AwsSettings;
    use futures_util::stream;
    use tower::ServiceExt;

    /// A store that hangs.
    struct Stuck;

    #[async_trait::async_trait]
    impl Store for Stuck {
        async fn create(&self, _: &Order) -> Result<(), CreateError> {
            std::future::pending().await
        }
        async fn get(&self, _: OrderId) -> anyhow::Result<Option<Order>> {
            std::future::pending().await
        }
        async fn probe(&self) -> anyhow::Result<()> {
            Ok(())
        }
    }

    fn service() -> (Router, Shop) {
        let off = [("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned())];
        let shop = Shop {
            store: Arc::new(Stuck),
            readiness: Readiness::default(),
            flowers: Arc::new(["rose".to_owned()]),
            count: OrderCount::default(),
            instance: InstanceId::new(Aws::new(AwsSettings::from_variables(off))),
            places: Shop::places(),
        };
        (router(shop.clone()), shop)
    }

    fn order(body: Body) -> Request {
        Request::post("/order")
            .header("content-type", "application/json")
            .body(body)
            .unwrap()
    }

    fn good() -> Body {
        Body::from(r#"{"name":"Ada","address":"1 Row","flower":"rose"}"#)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_cut_off() {
        let (router, _) = service();
        let endless = Body::from_stream(stream::pending::<Result<Vec<u8>, std::io::Error>>());
        let answer = router.oneshot(order(endless)).await.unwrap();
        assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_store_refuses_within_its_time() {
        let (router, _) = service();
        let answer = router.oneshot(order(good())).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()[header::RETRY_AFTER], "2");
    }

    #[tokio::test]
    async fn a_full_house_sends_away_and_health_does_not_wait_behind_it() {
        let (router, shop) = service();
        let _all = shop
            .places
            .acquire_many(u32::try_from(ORDERS_AT_ONCE).unwrap())
            .await
            .unwrap();
        let answer = router.clone().oneshot(order(good())).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()[header::RETRY_AFTER], "1");
        let gtg = Request::get("/gtg?details").body(Body::empty()).unwrap();
        let answer = router.oneshot(gtg).await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let details: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(details["connected"], "false");
        assert_eq!(
            details["detail"],
            "waiting for the first answer of the store"
        );
    }
}
