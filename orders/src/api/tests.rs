//! Tests of the router that need no server.

use std::time::Duration;

use super::shop::ORDERS_AT_ONCE;
use super::*;
use crate::accounts::AccountService;
use crate::accounts::memory::MemoryAccounts;
use crate::aws::{Aws, InstanceId};
use crate::clock::Clock;
use crate::metrics::OrderCount;
use crate::order::{AccountId, Order, OrderId};
use crate::readiness::Readiness;
use crate::settings::{AwsSettings, RawSettings, Settings};
use crate::store::memory::MemoryStore;
use crate::store::stuck::Stuck;
use crate::store::{CreateError, Entry, FollowError, Followed, Kept, Position, Store};
use axum::body::Body;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

fn service() -> (Router, Shop) {
    over(Arc::new(Stuck), RawSettings::default())
}

/// The service with `store`; it sells roses.
pub(super) fn over(store: Arc<dyn Store>, settings: RawSettings) -> (Router, Shop) {
    let flags = RawSettings {
        flowers: Some(vec!["rose".to_owned()]),
        ..settings
    };
    let off = [("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned())];
    let shop = Shop {
        store,
        readiness: Readiness::default(),
        clock: Clock::default(),
        settings: Arc::new(
            Settings::load(
                flags,
                Some("/dev/null".into()),
                &std::collections::BTreeMap::new(),
            )
            .unwrap(),
        ),
        count: OrderCount::default(),
        meter: Arc::default(),
        instance: InstanceId::new(Aws::new(AwsSettings::from_variables(off))),
        order_permits: Shop::order_permits(),
        bodies: Bodies::default(),
        accounts: None,
        outbox: None,
        candidates: None,
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

/// A parsed response.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

pub(super) async fn ask(router: &Router, request: Request) -> Answer {
    let answer = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = answer.into_parts();
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: body.collect().await.unwrap().to_bytes().into(),
    }
}

/// Whether a browser runs and loads nothing of the response, whatever its type.
pub(super) fn is_data(answer: &Answer) -> bool {
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
}

pub(super) fn get_as(path: &str, bearer: Option<&str>) -> Request {
    let mut request = Request::get(path);
    if let Some(token) = bearer {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.body(Body::empty()).unwrap()
}

pub(super) const TOKEN: &str = "0123456789abcdef-operator";

/// A shop with an operator and a working store.
fn shop_with_operator() -> (Router, Shop) {
    operated(Arc::new(MemoryStore::default()))
}

/// A shop with an operator, every module and a working store.
pub(super) fn everything_on() -> (Router, Shop) {
    let (_, mut shop) = shop_with_operator();
    shop.candidates = shop.store.candidates();
    shop.accounts = Some(Arc::new(AccountService::new(Arc::new(
        MemoryAccounts::default(),
    ))));
    (router(shop.clone()), shop)
}

/// A shop with an operator, a store that hangs and accounts that fail.
pub(super) fn stuck() -> (Router, Shop) {
    let (_, mut shop) = operated(Arc::new(Stuck));
    let accounts = MemoryAccounts::default();
    accounts
        .down
        .store(true, std::sync::atomic::Ordering::Relaxed);
    shop.accounts = Some(Arc::new(AccountService::new(Arc::new(accounts))));
    (router(shop.clone()), shop)
}

fn operated(store: Arc<dyn Store>) -> (Router, Shop) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let settings = RawSettings {
        operator_token_file: Some(file.to_str().unwrap().to_owned()),
        ..RawSettings::default()
    };
    over(store, settings)
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_refused() {
    let (router, _) = service();
    let endless = Body::from_stream(stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let answer = router.oneshot(order(endless)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_stuck_store_times_out() {
    let (router, _) = service();
    let answer = router.oneshot(order(good())).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()[header::RETRY_AFTER], "2");
}

/// A store that keeps every order and then fails.
struct Failing(MemoryStore, Failure);

type Failure = fn() -> CreateError;

#[async_trait::async_trait]
impl Store for Failing {
    async fn create(&self, entry: &Entry) -> Result<Kept, CreateError> {
        self.0.create(entry).await?;
        Err((self.1)())
    }
    async fn get(&self, id: OrderId) -> anyhow::Result<Option<Order>> {
        self.0.get(id).await
    }
    async fn list(&self, after: OrderId, limit: usize) -> anyhow::Result<Vec<Order>> {
        self.0.list(after, limit).await
    }
    async fn end(&self) -> anyhow::Result<Position> {
        self.0.end().await
    }
    async fn follow(&self, from: &Position, limit: usize) -> Result<Followed, FollowError> {
        self.0.follow(from, limit).await
    }
    async fn probe(&self) -> anyhow::Result<()> {
        Ok(())
    }
    async fn notices(&self, _: usize) -> anyhow::Result<Vec<OrderId>> {
        Ok(Vec::new())
    }
    async fn settle_notice(&self, _: OrderId) -> anyhow::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn an_order_is_reported_refused_only_if_certain() {
    let lost = || anyhow::anyhow!("the answer was lost").into();
    let certain = || CreateError::NotKept(anyhow::anyhow!("no connection"));
    let table: [(Failure, bool, &str); 4] = [
        (lost, true, "send it again with the same Idempotency-Key"),
        (lost, false, "may create a second one"),
        (certain, true, "was not accepted"),
        (certain, false, "was not accepted"),
    ];
    for (error, with_key, expected) in table {
        let store = Arc::new(Failing(MemoryStore::default(), error));
        let (router, _) = over(store, RawSettings::default());
        let request = if with_key {
            keyed("k-1", "Ada")
        } else {
            order(good())
        };
        let answer = ask(&router, request).await;
        assert_eq!(answer.status, 503, "{expected}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(expected), "{detail}");
        assert_eq!(
            detail.contains("unknown"),
            !expected.contains("not accepted"),
            "{detail}"
        );
    }
}

#[tokio::test]
async fn a_full_service_refuses_orders_but_not_health_checks() {
    let (router, shop) = operated(Arc::new(Stuck));
    let _all = shop
        .order_permits
        .acquire_many(u32::try_from(ORDERS_AT_ONCE).unwrap())
        .await
        .unwrap();
    let answer = router.clone().oneshot(order(good())).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()[header::RETRY_AFTER], "1");
    let gtg = get_as("/gtg?details", Some(TOKEN));
    let answer = router.oneshot(gtg).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let details: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(details["connected"], "false");
    assert_eq!(
        details["detail"],
        "waiting for the first probe of the store"
    );
}

/// Bodies that never end block no orders, whatever their route.
#[tokio::test(start_paused = true)]
async fn slow_bodies_do_not_block_orders() {
    let (router, shop) = everything_on();
    let endless = |path: &str| {
        let first = stream::iter([Ok::<_, std::io::Error>("{")]);
        let body = Body::from_stream(first.chain(stream::pending()));
        let request = Request::post(path).header("content-type", "application/json");
        request.body(body).unwrap()
    };
    let trickling: Vec<_> = (0..ORDERS_AT_ONCE + 8)
        .flat_map(|_| ["/order", "/session"])
        .map(|path| tokio::spawn(router.clone().oneshot(endless(path))))
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(shop.order_permits.available_permits(), ORDERS_AT_ONCE);
    for _ in 0..3 {
        assert_eq!(ask(&router, order(good())).await.status, 200);
    }
    for one in trickling {
        let answer = one.await.unwrap().unwrap();
        assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
        assert_eq!(answer.headers()[header::CONNECTION], "close");
    }
}

fn keyed(key: &str, name: &str) -> Request {
    Request::post("/order")
        .header("content-type", "application/json")
        .header("idempotency-key", key)
        .body(Body::from(format!(
            r#"{{"name":"{name}","address":"1 Row","flower":"rose"}}"#
        )))
        .unwrap()
}

#[tokio::test]
async fn one_key_makes_one_order_however_often_it_is_sent() {
    let (router, shop) = over(Arc::new(MemoryStore::default()), RawSettings::default());
    let first = ask(&router, keyed("k-1", "Ada")).await;
    assert_eq!(first.status, 200);
    assert!(!first.headers.contains_key("idempotency-replayed"));
    let again = ask(&router, keyed("k-1", "Ada")).await;
    assert_eq!((again.status, &again.body), (200, &first.body));
    assert_eq!(again.headers["idempotency-replayed"], "true");
    // Sent as a form it is the same order.
    let form = Request::post("/order")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("idempotency-key", "k-1")
        .body(Body::from("flower=rose&address=1+Row&name=Ada"))
        .unwrap();
    assert_eq!(ask(&router, form).await.body, first.body);

    let other = ask(&router, keyed("k-1", "Eve")).await;
    assert_eq!(other.status, 409);
    assert_eq!(other.headers["content-type"], "application/problem+json");
    assert_ne!(ask(&router, keyed("k-2", "Ada")).await.body, first.body);
    // A refused order does not use up its key.
    assert_eq!(ask(&router, keyed("k-3", " ")).await.status, 422);
    assert_eq!(ask(&router, keyed("k-3", "Ada")).await.status, 200);

    let beginning = OrderId::from_bytes([0; 16]);
    assert_eq!(shop.store.list(beginning, 10).await.unwrap().len(), 3);
}

#[tokio::test]
async fn an_invalid_key_is_refused() {
    let (router, shop) = over(Arc::new(MemoryStore::default()), RawSettings::default());
    for key in ["", "a b", "k\u{e9}", &"x".repeat(256)] {
        assert_eq!(ask(&router, keyed(key, "Ada")).await.status, 400, "{key:?}");
    }
    let mut twice = keyed("k-1", "Ada");
    let second = HeaderValue::from_static("k-2");
    twice.headers_mut().append("idempotency-key", second);
    assert_eq!(ask(&router, twice).await.status, 400);
    assert_eq!(
        ask(&router, keyed(&"x".repeat(255), "Ada")).await.status,
        200
    );
    let beginning = OrderId::from_bytes([0; 16]);
    assert_eq!(shop.store.list(beginning, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_operator_reads_every_order_page_by_page() {
    let (router, shop) = shop_with_operator();
    let mut ids = Vec::new();
    for number in 0..7 {
        let placed = ask(&router, keyed(&format!("k-{number}"), "Ada")).await;
        ids.push(placed.json()["id"].as_str().unwrap().to_owned());
    }
    // Ids of one millisecond are in no order.
    ids.sort();
    // From the beginning to the end, three at a time.
    let mut read = Vec::new();
    let mut since = String::new();
    for expected in [3, 3, 1] {
        let path = format!("/orders?limit=3{since}");
        let answer = ask(&router, get_as(&path, Some(TOKEN))).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.headers["cache-control"], "no-store", "{path}");
        let page = answer.json();
        let orders = page["orders"].as_array().unwrap();
        assert_eq!(orders.len(), expected, "{path}");
        assert_eq!(orders[0]["name"], "Ada", "{path}");
        read.extend(orders.iter().map(|o| o["id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => since = format!("&since={next}"),
            None => {
                assert_eq!(expected, 1, "the last page has no next");
                assert!(page["follow"].is_string());
            }
        }
    }
    assert_eq!(read, ids);
    // A page that contains exactly the rest is the last.
    let page = ask(&router, get_as("/orders?limit=7", Some(TOKEN))).await;
    assert!(page.json().get("next").is_none());

    let now = jiff::Timestamp::now();
    let hour = jiff::SignedDuration::from_hours(1);
    let list = async |query: String| {
        let path = format!("/orders?{query}");
        let answer = ask(&router, get_as(&path, Some(TOKEN))).await;
        assert_eq!(answer.status, 200, "{path}");
        answer.json()["orders"].as_array().unwrap().len()
    };
    assert_eq!(list(format!("since={}", now - hour)).await, 7);
    assert_eq!(list(format!("since={}", now + hour / 2)).await, 0);
    assert_eq!(list("since=2001-01-01T00:00:00+02:00".to_owned()).await, 7);
    assert_eq!(list("other=1".to_owned()).await, 7);
    for query in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=-1",
        "limit=",
        "since=",
        "since=yesterday",
        "limit=1&limit=2",
        "since=2001-01-01T00:00:00Z&since=2001-01-01T00:00:00Z",
    ] {
        let path = format!("/orders?{query}");
        let answer = ask(&router, get_as(&path, Some(TOKEN))).await;
        assert_eq!(answer.status, 400, "{query}");
    }
    drop(shop);
}

/// Follows the last response, page by page; returns the ids, and the next `since`.
async fn poll(router: &Router, mut since: String, limit: usize) -> (Vec<String>, String) {
    let mut ids = Vec::new();
    loop {
        let path = format!("/orders?limit={limit}&since={since}");
        let answer = ask(router, get_as(&path, Some(TOKEN))).await;
        assert_eq!(
            answer.status,
            200,
            "{}",
            String::from_utf8_lossy(&answer.body)
        );
        let page = answer.json();
        let orders = page["orders"].as_array().unwrap();
        ids.extend(orders.iter().map(|o| o["id"].as_str().unwrap().to_owned()));
        if let Some(follow) = page["follow"].as_str() {
            assert!(page.get("next").is_none());
            return (ids, follow.to_owned());
        }
        since = page["next"].as_str().unwrap().to_owned();
    }
}

#[tokio::test]
async fn an_order_from_a_clock_ahead_hides_no_later_order() {
    let store = MemoryStore::default();
    let (mut router, mut shop) = operated(Arc::new(store.clone()));
    let days = |days: i64| jiff::SignedDuration::from_hours(24 * days);
    let started = jiff::Timestamp::now() - days(1);
    let mut placed = Vec::new();
    let mut place = async |router: &Router| {
        let answer = ask(router, keyed(&format!("k-{}", placed.len()), "Ada")).await;
        assert_eq!(answer.status, 200);
        placed.push(answer.json()["id"].as_str().unwrap().to_owned());
        placed.len()
    };
    place(&router).await;
    let (mut seen, mut since) = poll(&router, started.to_string(), 2).await;
    for (round, ahead) in [400, 0, 0, -400, 0, 0, 400, 0].into_iter().enumerate() {
        shop.clock.set_ahead(days(ahead));
        place(&router).await;
        let count = place(&router).await;
        if round % 3 == 2 {
            (router, shop) = operated(Arc::new(store.clone()));
        }
        let ids;
        (ids, since) = poll(&router, since, 1).await;
        seen.extend(ids);
        assert_eq!(seen.len(), count, "round {round}");
    }
    let unique = |ids: &[String]| {
        ids.iter()
            .cloned()
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(unique(&seen), unique(&placed));
    // With only an id, as clients of earlier releases use it: refused by name, not answered with an empty
    // page.
    let ahead = placed.iter().max().unwrap();
    let time = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(61);
    let other = MemoryStore::default();
    let (elsewhere, _) = operated(Arc::new(other));
    for (router, since, reason) in [
        (&router, ahead.clone(), "since is an id made at 20"),
        (
            &router,
            time.to_string(),
            "send follow of the last response",
        ),
        (&router, format!("{since}x"), "a damaged cursor"),
        (
            &router,
            since[..since.len() - 1].to_owned(),
            "a damaged cursor",
        ),
        (&router, "cursor_".to_owned(), "a damaged cursor"),
        (&elsewhere, since.clone(), "it is from another store"),
    ] {
        let path = format!("/orders?since={since}");
        let answer = ask(router, get_as(&path, Some(TOKEN))).await;
        assert_eq!(answer.status, 400, "{since}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(reason), "{since}: {detail}");
    }
    // Earlier ids and times are accepted as before.
    let earliest = placed.iter().min().unwrap();
    let all = poll(&router, earliest.clone(), 100).await.0;
    assert_eq!(all.len(), placed.len() - 1);
}

/// During a long list an order arrives behind the reader, from a host whose clock is slow.
#[tokio::test]
async fn orders_that_arrive_during_a_list_are_followed() {
    let (router, shop) = shop_with_operator();
    for number in 0..3 {
        ask(&router, keyed(&format!("k-{number}"), "Ada")).await;
    }
    let first = ask(&router, get_as("/orders?limit=1", Some(TOKEN))).await;
    shop.clock.set_ahead(jiff::SignedDuration::from_secs(-5));
    let late = ask(&router, keyed("late", "Ada")).await.json();
    let next = first.json()["next"].as_str().unwrap().to_owned();
    let (rest, follow) = poll(&router, next, 1).await;
    assert_eq!(rest.len(), 2);
    let (new, follow) = poll(&router, follow, 1).await;
    assert_eq!(new, [late["id"].as_str().unwrap()]);
    assert_eq!(poll(&router, follow, 1).await.0, Vec::<String>::new());
}

#[tokio::test]
async fn a_page_of_huge_orders_ends_early_and_skips_none() {
    let (router, shop) = shop_with_operator();
    let wide = "x".repeat(crate::order::EXTRA_VALUE_LIMIT);
    let template = shop_order(None);
    for _ in 0..250 {
        let mut order = Order {
            id: OrderId::new(),
            ..template.clone()
        };
        for field in 0..crate::order::EXTRA_FIELDS_LIMIT {
            order.extra.insert(format!("f{field}"), wide.clone().into());
        }
        shop.store.create(&order.into()).await.unwrap();
    }
    let mut seen = 0;
    let mut since = String::new();
    let mut pages = 0;
    loop {
        let path = format!("/orders?limit=1000{since}");
        let answer = ask(&router, get_as(&path, Some(TOKEN))).await;
        assert!(answer.body.len() < 1_100_000, "{}", answer.body.len());
        let page = answer.json();
        seen += page["orders"].as_array().unwrap().len();
        pages += 1;
        match page["next"].as_str() {
            Some(next) => since = format!("&since={next}"),
            None => break,
        }
    }
    assert_eq!((seen, pages), (250, 2));
}

#[tokio::test]
async fn only_the_operator_reads_the_list() {
    let (router, _) = over(Arc::new(MemoryStore::default()), RawSettings::default());
    let answer = ask(&router, get_as("/orders", Some(TOKEN))).await;
    assert_eq!(answer.status, 403);
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("operator_token_file"), "{detail}");

    let (router, _) = shop_with_operator();
    let wrong = format!("{TOKEN}x");
    for bearer in [
        None,
        Some(""),
        Some(&TOKEN[1..]),
        Some(&*wrong),
        Some("x y"),
    ] {
        let answer = ask(&router, get_as("/orders", bearer)).await;
        assert_eq!(answer.status, 401, "{bearer:?}");
        assert_eq!(answer.headers["www-authenticate"], "Bearer", "{bearer:?}");
    }
    let mut basic = get_as("/orders", None);
    let value = HeaderValue::from_str(&format!("Basic {TOKEN}")).unwrap();
    basic.headers_mut().insert("authorization", value);
    assert_eq!(ask(&router, basic).await.status, 401);
}

/// A stored order, with or without an account.
pub(super) fn shop_order(account: Option<AccountId>) -> Order {
    Order {
        id: OrderId::new(),
        received_at: jiff::Timestamp::now(),
        account,
        name: "Ada".to_owned(),
        address: "1 Row".to_owned(),
        flower: "rose".to_owned(),
        extra: std::collections::BTreeMap::new(),
        receipt: Some(crate::receipt::Receipt::new().unwrap()),
    }
}

#[tokio::test]
async fn an_accounts_order_is_not_found_by_others() {
    let (router, shop) = shop_with_operator();
    let owned = shop_order(Some(AccountId::new()));
    let free = shop_order(None);
    for order in [&owned, &free] {
        shop.store.create(&order.clone().into()).await.unwrap();
    }
    let (owned, free) = (
        format!("/order/{}", owned.id),
        format!("/order/{}", free.id),
    );
    let status = ask(&router, get_as(&free, None)).await;
    assert_eq!((status.status, status.json()["name"].as_str()), (200, None));
    let hidden = ask(&router, get_as(&owned, None)).await;
    let absent = format!("/order/{}", OrderId::new());
    let absent = ask(&router, get_as(&absent, None)).await;
    assert_eq!((hidden.status, &hidden.body), (404, &absent.body));
    assert_eq!(ask(&router, get_as(&owned, Some("x"))).await.status, 404);
    let shown = ask(&router, get_as(&owned, Some(TOKEN))).await;
    assert_eq!(shown.status, 200);
    assert!(shown.json().get("account").is_none());
}

/// User input is returned in more responses than the documented ones: errors, other methods, unknown paths.
#[tokio::test]
async fn markup_from_users_is_served_as_data() {
    let (router, _) = everything_on();
    let markup = "%3Cscript%3Ealert(1)%3C%2Fscript%3E";
    let candidate = "/candidate/%3Cimg%20src=x%20onerror=alert(1)%3E";
    let order = r#"{"name":"<script>","address":"<img>","flower":"<b>","<i>":"<u>","a":"1"}"#;
    let with = |method: &str, path: &str, media: &str, body: &str| {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("content-type", media);
        request.body(Body::from(body.to_owned())).unwrap()
    };
    let requests = [
        with("POST", candidate, "text/html", ""),
        with("GET", candidate, "text/html", ""),
        with("GET", "/candidates", "text/html", ""),
        with("HEAD", "/candidates", "text/html", ""),
        with("OPTIONS", candidate, "text/html", ""),
        with("PUT", candidate, "text/html", ""),
        with("POST", "/order", "application/json", order),
        with("POST", "/order", "application/json", "<script>"),
        with("POST", "/order", "<script>", "<script>"),
        with("POST", "/account", "application/json", order),
        with("GET", &format!("/{markup}"), "text/html", ""),
        with("GET", &format!("/order/{markup}"), "text/html", ""),
        with("GET", &format!("/gtg?details={markup}"), "text/html", ""),
        with("GET", &format!("/orders?since={markup}"), "text/html", ""),
    ];
    for request in requests {
        let asked = format!("{} {}", request.method(), request.uri());
        let answer = ask(&router, request).await;
        assert!(is_data(&answer), "{asked}: {:?}", answer.headers);
    }
}

/// An id is no secret: it is in notices, logs and lists.
#[tokio::test]
async fn an_id_alone_shows_nothing_that_a_customer_wrote() {
    let (router, shop) = shop_with_operator();
    let fields = r#"{"name":"Geheimnis","address":"Geheimnis","flower":"rose","card":"Geheimnis"}"#;
    let placed = ask(&router, order(Body::from(fields))).await;
    assert_eq!(placed.headers["cache-control"], "no-store");
    let text = |name: &str| placed.json()[name].as_str().unwrap().to_owned();
    let (id, receipt) = (text("id"), text("receipt_secret"));
    let other = ask(&router, order(good())).await.json()["receipt_secret"].clone();
    let path = format!("/order/{id}");

    let alone = ask(&router, get_as(&path, None)).await;
    let received_at = alone.json()["received_at"].clone();
    let expected = serde_json::json!({"id": id, "received_at": received_at, "status": "received"});
    assert_eq!((alone.status, alone.json()), (200, expected));
    for shown in [&receipt, TOKEN] {
        let whole = ask(&router, get_as(&path, Some(shown))).await;
        assert_eq!(whole.status, 200, "{shown}");
        assert_eq!(whole.headers["cache-control"], "no-store", "{shown}");
        assert_eq!(whole.json()["card"], "Geheimnis", "{shown}");
        let body = String::from_utf8_lossy(&whole.body);
        assert!(!body.contains("shop_receipt_"), "{shown}: {body}");
    }
    let short = &receipt[..receipt.len() - 1];
    for wrong in [other.as_str().unwrap(), short, "shop_receipt_"] {
        let answer = ask(&router, get_as(&path, Some(wrong))).await;
        assert_eq!(answer.status, 403, "{wrong}");
        let body = String::from_utf8_lossy(&answer.body);
        assert!(!body.contains("Geheimnis"), "{wrong}: {body}");
    }
    // Lists contain no receipts either.
    let listed = ask(&router, get_as("/orders", Some(TOKEN))).await;
    let listed = String::from_utf8(listed.body).unwrap();
    assert!(listed.contains("Geheimnis") && !listed.contains("receipt"));

    // An order of a release before receipts: its id shows as little, and nothing else gives access.
    let old = Order {
        receipt: None,
        ..shop_order(None)
    };
    shop.store.create(&old.clone().into()).await.unwrap();
    let path = format!("/order/{}", old.id);
    let answer = ask(&router, get_as(&path, None)).await;
    assert_eq!((answer.status, answer.json()["name"].as_str()), (200, None));
    assert_eq!(
        ask(&router, get_as(&path, Some(&receipt))).await.status,
        403
    );
    let answer = ask(&router, get_as(&path, Some(TOKEN))).await;
    assert_eq!(answer.json()["name"], "Ada");

    // An account's order is returned for its own receipt only.
    let owned = shop_order(Some(AccountId::new()));
    shop.store.create(&owned.clone().into()).await.unwrap();
    let path = format!("/order/{}", owned.id);
    let right = owned.receipt.unwrap();
    let answer = ask(&router, get_as(&path, Some(right.reveal()))).await;
    assert_eq!(
        (answer.status, answer.json()["name"].as_str()),
        (200, Some("Ada"))
    );
    assert_eq!(
        ask(&router, get_as(&path, Some(&receipt))).await.status,
        404
    );
}

#[tokio::test]
async fn a_path_that_is_not_utf8_is_not_found() {
    let (router, _) = service();
    let answer = ask(&router, get_as("/order/%ff", None)).await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
}

#[tokio::test]
async fn unknown_fields_are_refused_if_configured() {
    let settings = RawSettings {
        unknown_fields: Some("refuse".to_owned()),
        ..RawSettings::default()
    };
    let (router, _) = over(Arc::new(MemoryStore::default()), settings);
    let with = r#"{"name":"Ada","address":"1 Row","flower":"rose","card":"Hi"}"#;
    let answer = ask(&router, order(Body::from(with))).await;
    assert_eq!(answer.status, 422);
    assert_eq!(answer.json()["errors"][0]["field"], "card");
    assert_eq!(ask(&router, order(good())).await.status, 200);
}

/// What reveals this host, its store or its load is for the operator, by token or by the operator's listener.
#[tokio::test]
async fn only_the_operator_sees_metrics_and_details() {
    let (closed, _) = service();
    let (open, shop) = operated(Arc::new(Stuck));
    for (name, router, token, status) in [
        ("closed", &closed, None, 403),
        ("closed", &closed, Some(TOKEN), 403),
        ("open", &open, None, 401),
        ("open", &open, Some("x"), 401),
        ("open", &open, Some(TOKEN), 200),
    ] {
        let answer = ask(router, get_as("/metrics", token)).await;
        assert_eq!(answer.status, status, "{name} {token:?}");
        let details = ask(router, get_as("/gtg?details", token)).await.json();
        assert_eq!(details["connected"], "false", "{name} {token:?}");
        let has_detail = details.get("detail").is_some();
        assert_eq!(has_detail, status == 200, "{name} {token:?}");
    }
    let own = operator_router(shop);
    assert_eq!(ask(&own, get_as("/metrics", None)).await.status, 200);
    let details = ask(&own, get_as("/gtg?details", None)).await.json();
    assert!(details["detail"].is_string(), "{details}");
    for path in ["/orders", "/order", "/"] {
        assert_eq!(ask(&own, get_as(path, None)).await.status, 404, "{path}");
    }
}

/// Behind CloudFront, which terminates TLS, and a balancer that it reaches over HTTP.
#[tokio::test]
async fn public_url_decides_what_cookies_and_origins_are_right() {
    const ADA: &str = r#"{"login":"ada","password":"correct horse"}"#;
    for (public_url, proto, origin, status, cookie) in [
        (
            "https://shop.example.org",
            "http",
            "https://shop.example.org",
            201,
            "; Secure",
        ),
        (
            "https://shop.example.org/",
            "",
            "https://shop.example.org",
            201,
            "__Host-shop_session=",
        ),
        (
            "https://shop.example.org",
            "https",
            "http://shop.example.org",
            403,
            "",
        ),
        (
            "https://shop.example.org",
            "https",
            "https://inside",
            403,
            "",
        ),
        (
            "http://shop.example.org:8080",
            "https",
            "http://shop.example.org:8080",
            201,
            "SameSite=Strict",
        ),
        ("", "https", "https://inside", 201, "; Secure"),
    ] {
        let settings = RawSettings {
            public_url: Some(public_url.to_owned()),
            ..RawSettings::default()
        };
        let (_, mut shop) = over(Arc::new(MemoryStore::default()), settings);
        shop.accounts = Some(Arc::new(AccountService::new(Arc::new(
            MemoryAccounts::default(),
        ))));
        let request = Request::post("/account")
            .header("content-type", "application/json")
            .header("host", "inside")
            .header("x-forwarded-proto", proto)
            .header("origin", origin);
        let answer = ask(&router(shop), request.body(Body::from(ADA)).unwrap()).await;
        assert_eq!(answer.status, status, "{public_url} {origin}");
        let cookies = answer.headers.get_all("set-cookie").iter();
        for set in cookies.map(|set| set.to_str().unwrap()) {
            let secure = cookie != "SameSite=Strict";
            assert_eq!(set.contains("; Secure"), secure, "{set}");
            assert_eq!(set.starts_with("__Host-"), secure, "{set}");
        }
    }
    for wrong in [
        "shop.example.org",
        "https://shop.example.org/path",
        "ftp://x",
        "https://u@x",
    ] {
        let raw = RawSettings {
            public_url: Some(wrong.to_owned()),
            ..RawSettings::default()
        };
        let nothing = std::collections::BTreeMap::new();
        assert!(
            Settings::load(raw, Some("/dev/null".into()), &nothing).is_err(),
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn duplicate_hosts_and_encoded_bodies_are_refused() {
    let (router, _) = over(Arc::new(MemoryStore::default()), RawSettings::default());
    let with = |name: &'static str, values: &[&'static str]| {
        let mut request = order(good());
        for value in values {
            let value = HeaderValue::from_static(value);
            request.headers_mut().append(name, value);
        }
        request
    };
    for (name, values, status, part) in [
        ("host", &["a", "b"][..], 400, "duplicate Host header"),
        ("host", &["a", "a"], 400, "duplicate Host header"),
        ("host", &["a"], 200, "received"),
        ("content-encoding", &["gzip"], 415, "Content-Encoding"),
        (
            "content-encoding",
            &["identity", "br"],
            415,
            "Content-Encoding",
        ),
        ("content-encoding", &["Identity"], 200, "received"),
    ] {
        let answer = ask(&router, with(name, values)).await;
        assert_eq!(answer.status, status, "{name} {values:?}");
        assert!(
            String::from_utf8_lossy(&answer.body).contains(part),
            "{name} {values:?}"
        );
    }
}

#[tokio::test]
async fn metrics_count_orders_in_both_formats() {
    let (router, _) = shop_with_operator();
    ask(&router, keyed("k-1", "Ada")).await;
    ask(&router, keyed("k-1", "Ada")).await;
    ask(&router, keyed("k-1", "Eve")).await;
    ask(&router, order(Body::from("{}"))).await;
    ask(&router, get_as("/Geheimnis", None)).await;
    let text = ask(&router, get_as("/metrics", Some(TOKEN))).await;
    assert_eq!(
        text.headers["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let mut open = get_as("/metrics", Some(TOKEN));
    let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.3";
    let accept = HeaderValue::from_static(accept);
    open.headers_mut().insert("accept", accept);
    let open = ask(&router, open).await;
    assert!(
        open.headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("application/openmetrics-text; version=1.0.0")
    );
    for answer in [text, open] {
        let text = String::from_utf8(answer.body).unwrap();
        for line in [
            "orders_placed_total 1",
            "orders_replayed_total 1",
            r#"orders_refused_total{reason="key_reused"} 1"#,
            r#"orders_refused_total{reason="invalid"} 1"#,
            r#"orders_request_duration_seconds_count{route="place_order"} 4"#,
            r#"orders_responses_total{class="4xx"} 3"#,
            "orders_store_up 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
        }
        assert!(!text.contains("Geheimnis"), "{text}");
    }
}
