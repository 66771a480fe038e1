//! Compares the document with the service.

use std::collections::{BTreeMap, BTreeSet};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use serde_json::json;

use super::super::tests::{
    Answer, TOKEN, ask, everything_on, get_as, is_data, over, shop_order, stuck,
};
use super::*;
use crate::accounts::SessionToken;
use crate::order::{AccountId, OrderId};
use crate::settings::RawSettings;
use crate::store::memory::MemoryStore;

const METHODS: [&str; 8] = [
    "get", "put", "post", "delete", "options", "head", "patch", "trace",
];

/// Operations of a document, by path and method in lower case.
fn operations(document: &Value) -> BTreeMap<(String, String), Value> {
    let mut found = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if METHODS.contains(&method.as_str()) {
                found.insert((path.clone(), method.clone()), operation.clone());
            }
        }
    }
    found
}

/// Resolves a `$ref`.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document
            .pointer(reference.strip_prefix('#').unwrap())
            .unwrap_or_else(|| panic!("{reference} is not defined")),
        None => value,
    }
}

fn every_reference(value: &Value, each: &mut impl FnMut(&str)) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                each(reference);
            }
            members.values().for_each(|v| every_reference(v, each));
        }
        Value::Array(items) => items.iter().for_each(|v| every_reference(v, each)),
        _ => {}
    }
}

#[tokio::test]
async fn the_document_follows_the_settings() {
    let (router, _) = everything_on();
    let answer = ask(&router, get_as("/openapi.json", None)).await;
    assert_eq!(answer.status, 200);
    let document = answer.json();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], VERSION);
    let schemas = &document["components"]["schemas"];
    assert_eq!(schemas["Flower"]["enum"], json!(["rose"]));
    every_reference(&document, &mut |reference| {
        assert!(
            document.pointer(&reference[1..]).is_some(),
            "{reference} is nowhere"
        );
    });
    let mut ids = BTreeSet::new();
    for ((path, method), operation) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap().to_owned();
        assert!(ids.insert(id), "{method} {path}: its id is taken");
        assert!(operation["summary"].is_string(), "{method} {path}");
        let tag = &operation["tags"][0];
        let tags = document["tags"].as_array().unwrap();
        assert!(tags.iter().any(|t| t["name"] == *tag), "{method} {path}");
    }

    let settings = RawSettings {
        unknown_fields: Some("refuse".to_owned()),
        ..RawSettings::default()
    };
    let (router, _) = over(std::sync::Arc::new(MemoryStore::default()), settings);
    let document = ask(&router, get_as("/openapi.json", None)).await.json();
    assert_eq!(
        document["components"]["schemas"]["Draft"]["additionalProperties"],
        false
    );
    assert!(
        document["paths"].get("/candidates").is_none(),
        "a module that is off"
    );
}

/// The paths of a router, from its `Debug` output: the library has no other interface that lists all of them.
/// If that changes, the count below fails.
fn routes(router: &Router) -> BTreeSet<String> {
    let shown = format!("{router:?}");
    shown
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|text| text.starts_with('/') && !text.contains("__private"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn the_document_has_exactly_the_routes() {
    let (router, _) = everything_on();
    let document = ask(&router, get_as("/openapi.json", None)).await.json();
    let written: BTreeSet<String> = document["paths"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    // These respond with 404 only: the candidates' clients expect a page of their own there.
    let nothing = ["/candidate", "/candidate/", "/candidates/"];
    let served: BTreeSet<String> = routes(&router)
        .into_iter()
        .filter(|path| !nothing.contains(&path.as_str()))
        .collect();
    assert!(served.len() >= 10, "routes are shown no more: {router:?}");
    assert_eq!(served, written);

    // Each path has the documented methods, according to Allow.
    let operations = operations(&document);
    for path in written {
        let real = path.replace("{id}", "x").replace("{name}", "x");
        let request = Request::builder()
            .method("PURGE")
            .uri(&real)
            .body(Body::empty());
        let answer = ask(&router, request.unwrap()).await;
        assert_eq!(answer.status, 405, "{path}");
        let allow = answer.headers["allow"].to_str().unwrap().to_lowercase();
        let allowed: BTreeSet<&str> = allow
            .split(',')
            .map(str::trim)
            .filter(|method| !["head", "options"].contains(method))
            .collect();
        let expected: BTreeSet<&str> = operations
            .keys()
            .filter(|(of, _)| *of == path)
            .map(|(_, method)| method.as_str())
            .collect();
        assert_eq!(allowed, expected, "{path}");
    }
}

/// A documented response: path, method in lower case, status.
type Documented = (String, String, u16);

/// Validates the response to a `row` against the document; returns which of its responses it is.
fn judge(document: &Value, row: &str, path: &str, method: &str, answer: &Answer) -> Documented {
    let asked = format!("{row}: {method} {path}: {}", answer.status);
    let page = ["/", "/shop.css", "/shop.js", "/shop.svg", "/account.js"].contains(&path);
    assert_eq!(is_data(answer), !page, "{asked}");
    let operation = &document["paths"][path][method];
    assert!(operation.is_object(), "{asked}: no such operation");
    let response = &operation["responses"][answer.status.to_string()];
    assert!(response.is_object(), "{asked} is not in the document");
    let response = resolved(document, response);
    for (name, header) in response["headers"].as_object().into_iter().flatten() {
        let there = answer.headers.contains_key(name.to_lowercase().as_str());
        assert!(there || header["required"] != true, "{asked}: no {name}");
    }
    if let Some(content) = response["content"].as_object() {
        let media = answer.headers["content-type"].to_str().unwrap();
        let media = media.split(';').next().unwrap();
        let schema = &content
            .get(media)
            .unwrap_or_else(|| panic!("{asked}: {media} is not in the document"))["schema"];
        let body = if media.ends_with("json") {
            answer.json()
        } else {
            String::from_utf8(answer.body.clone()).unwrap().into()
        };
        let faults = faults(document, schema, &body);
        assert!(faults.is_empty(), "{asked}: {faults:?} in {body}");
    } else {
        assert!(
            answer.body.is_empty(),
            "{asked}: a body that is not written"
        );
    }
    (path.to_owned(), method.to_owned(), answer.status)
}

/// The errors of a value against a schema of the document.
fn faults(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let whole = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "allOf": [schema],
        "components": document["components"],
    });
    let validator = jsonschema::options()
        .should_validate_formats(true)
        .build(&whole)
        .unwrap();
    let faults = validator.iter_errors(value);
    faults.map(|fault| fault.to_string()).collect()
}

fn post(path: &str, media: &str, key: Option<&str>, body: &str) -> Request {
    let mut request = Request::post(path).header("content-type", media);
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    request.body(Body::from(body.to_owned())).unwrap()
}

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
const ORDER: &str = r#"{"name":"Ada","address":"1 Row","flower":"rose","card":"Hi","n":null}"#;
const ORDER_FORM: &str = "name=Ada&address=1+Row&flower=rose&card=Hi";
const ADA: &str = r#"{"login":"ada","password":"correct horse"}"#;

/// A request, and the documented path that it is for.
type Row = (&'static str, Request);

/// What the requests refer to.
struct Known {
    /// The path of an order without an account.
    order: String,
    receipt: String,
    /// The path of an account's order.
    owned: String,
    /// The token of a session that has ended.
    ended: String,
}

impl Known {
    /// Places the orders.
    async fn place(router: &Router, shop: &Shop) -> Self {
        let owned = shop_order(Some(AccountId::new()));
        shop.store.create(&owned.clone().into()).await.unwrap();
        let placed = ask(router, post("/order", JSON, Some("k"), ORDER)).await;
        let text = |name: &str| placed.json()[name].as_str().unwrap().to_owned();
        Self {
            order: format!("/order/{}", text("id")),
            receipt: text("receipt_secret"),
            owned: format!("/order/{}", owned.id),
            ended: SessionToken::new().unwrap().reveal().to_owned(),
        }
    }

    /// The request with the cookie of the ended session.
    fn with_cookie(&self, request: Request) -> Request {
        with(request, "cookie", &format!("shop_session={}", self.ended))
    }

    /// The same, made by a page of another site.
    fn cross_site(&self, request: Request) -> Request {
        with(self.with_cookie(request), "sec-fetch-site", "cross-site")
    }
}

fn with(mut request: Request, name: &'static str, value: &str) -> Request {
    let value = HeaderValue::from_str(value).unwrap();
    request.headers_mut().insert(name, value);
    request
}

/// A request whose body never ends.
fn endless(path: &str) -> Request {
    let never = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    let request = Request::post(path).header("content-type", JSON);
    request.body(Body::from_stream(never)).unwrap()
}

fn log_out() -> Request {
    Request::delete("/session").body(Body::empty()).unwrap()
}

fn too_large() -> String {
    "x".repeat(40_000)
}

fn order_rows(known: &Known) -> Vec<Row> {
    let unknown = format!("/order/{}", OrderId::new());
    vec![
        ("/order", get_as("/order", None)),
        ("/order", post("/order", JSON, Some("k"), ORDER)),
        ("/order", post("/order", FORM, None, ORDER_FORM)),
        ("/order", post("/order", JSON, None, "nonsense")),
        ("/order", endless("/order")),
        ("/order", post("/order", FORM, Some("k"), ORDER_FORM)),
        ("/order", post("/order", JSON, None, &too_large())),
        ("/order", post("/order", "text/plain", None, ORDER)),
        ("/order", post("/order", JSON, None, "{}")),
        (
            "/order",
            known.with_cookie(post("/order", JSON, None, ORDER)),
        ),
        (
            "/order",
            known.cross_site(post("/order", JSON, None, ORDER)),
        ),
        ("/order/{id}", get_as(&known.order, None)),
        ("/order/{id}", get_as(&known.order, Some(&known.receipt))),
        ("/order/{id}", get_as(&known.order, Some("shop_receipt_x"))),
        ("/order/{id}", get_as(&unknown, None)),
        ("/order/{id}", get_as(&known.owned, Some(&known.ended))),
        ("/orders", get_as("/orders?limit=1", Some(TOKEN))),
        ("/orders", get_as("/orders", Some(TOKEN))),
        ("/orders", get_as("/orders?limit=0", Some(TOKEN))),
        ("/orders", get_as("/orders", None)),
    ]
}

fn service_rows() -> Vec<Row> {
    let metrics = get_as("/metrics", Some(TOKEN));
    let open_metrics = with(metrics, "accept", "application/openmetrics-text");
    vec![
        ("/gtg", get_as("/gtg", None)),
        ("/gtg", get_as("/gtg?details", None)),
        ("/gtg", get_as("/gtg?details", Some(TOKEN))),
        ("/version", get_as("/version", None)),
        ("/metrics", get_as("/metrics", Some(TOKEN))),
        ("/metrics", get_as("/metrics", None)),
        ("/metrics", open_metrics),
        ("/openapi.json", get_as("/openapi.json", None)),
        ("/", get_as("/", None)),
        ("/shop.css", get_as("/shop.css", None)),
        ("/shop.js", get_as("/shop.js", None)),
        ("/shop.svg", get_as("/shop.svg", None)),
        ("/account.js", get_as("/account.js", None)),
    ]
}

/// Before and after there is a candidate.
fn candidate_rows() -> Vec<Row> {
    let long = format!("/candidate/{}", "x".repeat(3000));
    let two_parts = "/candidate/a%2Fb";
    vec![
        ("/candidates", get_as("/candidates", None)),
        ("/candidate/{name}", get_as("/candidate/Ada", None)),
        ("/candidate/{name}", post("/candidate/Ada", FORM, None, "x")),
        ("/candidate/{name}", get_as("/candidate/Ada", None)),
        ("/candidate/{name}", post(two_parts, FORM, None, "x")),
        ("/candidate/{name}", post(&long, FORM, None, "")),
        ("/candidates", get_as("/candidates", None)),
    ]
}

/// Registers, logs in, logs out, guesses.
fn account_rows(known: &Known) -> Vec<Row> {
    let mut rows = vec![
        ("/account/orders", get_as("/account/orders", None)),
        ("/session", get_as("/session", None)),
        ("/session", log_out()),
        ("/session", known.cross_site(log_out())),
    ];
    let eve = ADA.replace("ada", "eve");
    for (path, credentials, times) in [("/account", ADA, 25), ("/session", &eve, 12)] {
        rows.extend([
            (path, post(path, JSON, None, ADA)),
            (path, post(path, JSON, None, "nonsense")),
            (path, known.cross_site(post(path, JSON, None, ADA))),
            (path, endless(path)),
            (path, post(path, JSON, None, &too_large())),
            (path, post(path, FORM, None, "login=ada")),
            (path, post(path, JSON, None, r#"{"login":"ada"}"#)),
        ]);
        rows.extend((0..times).map(|_| (path, post(path, JSON, None, credentials))));
    }
    rows
}

/// With the token of a session.
fn session_rows(token: &str) -> Vec<Row> {
    let history = |query: &str| get_as(&format!("/account/orders{query}"), Some(token));
    vec![
        ("/session", get_as("/session", Some(token))),
        ("/account/orders", history("")),
        ("/account/orders", history("?limit=0")),
    ]
}

/// For a service whose store hangs.
fn rows_without_a_store(known: &Known, token: &str) -> Vec<Row> {
    vec![
        ("/order", post("/order", JSON, None, ORDER)),
        ("/order/{id}", get_as(&known.order, None)),
        ("/orders", get_as("/orders", Some(TOKEN))),
        ("/gtg", get_as("/gtg", None)),
        ("/account", post("/account", JSON, None, ADA)),
        ("/session", post("/session", JSON, None, ADA)),
        ("/session", get_as("/session", Some(token))),
        ("/session", known.with_cookie(log_out())),
        ("/account/orders", get_as("/account/orders", Some(token))),
    ]
}

/// Judges the response to each row of a table, and to a second request by a browser that has the response.
async fn judge_all(
    router: &Router,
    document: &Value,
    table: &str,
    rows: Vec<Row>,
) -> BTreeSet<Documented> {
    let mut seen = BTreeSet::new();
    for (number, (path, request)) in rows.into_iter().enumerate() {
        let row = format!("{table}, row {number}");
        let method = request.method().as_str().to_lowercase();
        let real = request.uri().to_string();
        let answer = ask(router, request).await;
        seen.insert(judge(document, &row, path, &method, &answer));
        if let Some(tag) = answer.headers.get("etag") {
            let again = with(get_as(&real, None), "if-none-match", tag.to_str().unwrap());
            let answer = ask(router, again).await;
            seen.insert(judge(document, &row, path, "get", &answer));
        }
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn documented_and_actual_responses_are_the_same() {
    let (router, shop) = everything_on();
    let known = Known::place(&router, &shop).await;
    let document = ask(&router, get_as("/openapi.json", None)).await.json();
    let mut seen = BTreeSet::new();
    for (table, rows) in [
        ("orders", order_rows(&known)),
        ("service", service_rows()),
        ("candidates", candidate_rows()),
        ("accounts", account_rows(&known)),
    ] {
        seen.extend(judge_all(&router, &document, table, rows).await);
    }
    let with_bearer = ADA.replace('}', r#","bearer":true}"#);
    let session = ask(&router, post("/session", JSON, None, &with_bearer)).await;
    seen.insert(judge(&document, "log in", "/session", "post", &session));
    let token = session.json()["token"].as_str().unwrap().to_owned();
    seen.extend(judge_all(&router, &document, "session", session_rows(&token)).await);

    let (router, _) = stuck();
    let rows = rows_without_a_store(&known, &token);
    let unavailable = judge_all(&router, &document, "without a store", rows).await;
    for (path, method, status) in &unavailable {
        assert_eq!(*status, 503, "without a store: {method} {path}");
    }
    seen.extend(unavailable);
    seen.extend(without_an_operator(&document).await);

    for ((path, method), operation) in operations(&document) {
        for status in operation["responses"].as_object().unwrap().keys() {
            let written = (path.clone(), method.clone(), status.parse().unwrap());
            assert!(seen.contains(&written), "{written:?} is never given");
        }
    }
}

/// The responses of a service without an operator, and of one that is ready.
async fn without_an_operator(document: &Value) -> BTreeSet<Documented> {
    let store = std::sync::Arc::new(MemoryStore::default());
    let (router, shop) = over(store, RawSettings::default());
    let rows = vec![
        ("/orders", get_as("/orders", None)),
        ("/metrics", get_as("/metrics", None)),
    ];
    let mut seen = judge_all(&router, document, "without an operator", rows).await;
    let mut changes = shop.readiness.changes();
    let watching = tokio::spawn(shop.readiness.clone().probe_forever(shop.store.clone()));
    changes.changed().await.unwrap();
    let rows = ["/gtg", "/gtg?details"].map(|path| ("/gtg", get_as(path, None)));
    let ready = judge_all(&router, document, "ready", rows.into()).await;
    assert!(ready.iter().all(|(.., status)| *status == 200), "{ready:?}");
    seen.extend(ready);
    watching.abort();
    seen
}

/// The service accepts what the schema accepts, field by field.
#[tokio::test]
async fn the_service_validates_orders_like_the_schema() {
    let (router, _) = everything_on();
    let document = ask(&router, get_as("/openapi.json", None)).await.json();
    let schema = json!({ "$ref": "#/components/schemas/Draft" });
    let good = json!({"name": "Ada", "address": "1 Row", "flower": "rose"});
    let many = |count: usize| -> Value {
        let mut order = good.clone();
        for field in 0..count {
            order[format!("f{field}")] = field.into();
        }
        order
    };
    let mut orders = vec![good.clone(), json!({}), json!([]), json!("x"), Value::Null];
    orders.extend([many(16), many(17)]);
    let texts = [
        "",
        " ",
        "\n",
        " a ",
        "\u{a0}",
        "a\u{0}",
        "\t",
        "a\tb",
        "\u{85}",
        "a\u{9f}",
        "ä",
        "🌹",
        "\u{7f}",
        "\u{200b}",
        "\u{3164}\u{2800}",
        "\u{200d}a",
    ];
    let wide = |count| "ä".repeat(count);
    for field in [
        "name",
        "address",
        "flower",
        "card",
        "id",
        "received_at",
        "account",
        "receipt_secret",
        "",
    ] {
        let mut values: Vec<Value> = texts.map(Value::from).into();
        values.extend([
            json!(1),
            json!(1.5),
            json!(1e300),
            json!(u64::MAX),
            json!(i64::MIN),
            json!(true),
            Value::Null,
            json!([]),
            json!({}),
        ]);
        values.extend([200, 201, 500, 501].map(|count| wide(count).into()));
        for value in values {
            let mut order = good.clone();
            order[field] = value;
            orders.push(order);
        }
    }
    for name in [wide(64), wide(65), "a\u{1b}".to_owned(), " ".to_owned()] {
        let mut order = good.clone();
        order[name] = 1.into();
        orders.push(order);
    }
    for order in orders {
        let request = post("/order", "application/json", None, &order.to_string());
        let answer = ask(&router, request).await;
        let faults = faults(&document, &schema, &order);
        let taken = match answer.status {
            200 => true,
            422 => false,
            status => panic!("{status} for {order}"),
        };
        assert_eq!(taken, faults.is_empty(), "{order}: {faults:?}");
    }
}
