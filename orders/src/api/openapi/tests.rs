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

/// Validates a response against the document; returns which of its responses it is.
fn judge(document: &Value, path: &str, method: &str, answer: &Answer) -> (String, String, u16) {
    let asked = format!("{method} {path}: {}", answer.status);
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

#[tokio::test(start_paused = true)]
async fn documented_and_actual_responses_are_the_same() {
    const JSON: &str = "application/json";
    const FORM: &str = "application/x-www-form-urlencoded";
    const ORDER: &str = r#"{"name":"Ada","address":"1 Row","flower":"rose","card":"Hi","n":null}"#;
    const ADA: &str = r#"{"login":"ada","password":"correct horse"}"#;
    let (router, shop) = everything_on();
    let somebodys = shop_order(Some(AccountId::new()));
    shop.store.create(&somebodys.clone().into()).await.unwrap();
    let document = ask(&router, get_as("/openapi.json", None)).await.json();
    let mut seen = BTreeSet::new();

    let placed = ask(&router, post("/order", JSON, Some("k"), ORDER)).await;
    let id = placed.json()["id"].as_str().unwrap().to_owned();
    let receipt = placed.json()["receipt_secret"].as_str().unwrap().to_owned();
    let one = format!("/order/{id}");
    let none = format!("/order/{}", OrderId::new());
    let huge = "x".repeat(40_000);
    let endless = |path| {
        let never = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
        let request = Request::post(path).header("content-type", JSON);
        request.body(Body::from_stream(never)).unwrap()
    };
    let mut open = get_as("/metrics", Some(TOKEN));
    let accept = HeaderValue::from_static("application/openmetrics-text");
    open.headers_mut().insert("accept", accept);
    let long = format!("/candidate/{}", "x".repeat(3000));
    let form = "name=Ada&address=1+Row&flower=rose&card=Hi";
    let mut requests = vec![
        ("/order", get_as("/order", None)),
        ("/order", post("/order", JSON, Some("k"), ORDER)),
        ("/order", post("/order", FORM, None, form)),
        ("/order", post("/order", JSON, None, "nonsense")),
        ("/order", endless("/order")),
        ("/order", post("/order", FORM, Some("k"), form)),
        ("/order", post("/order", JSON, None, &huge)),
        ("/order", post("/order", "text/plain", None, ORDER)),
        ("/order", post("/order", JSON, None, "{}")),
        ("/order/{id}", get_as(&one, None)),
        ("/order/{id}", get_as(&one, Some(&receipt))),
        ("/order/{id}", get_as(&one, Some("shop_receipt_x"))),
        ("/order/{id}", get_as(&none, None)),
        ("/orders", get_as("/orders?limit=1", Some(TOKEN))),
        ("/orders", get_as("/orders", Some(TOKEN))),
        ("/orders", get_as("/orders?limit=0", Some(TOKEN))),
        ("/orders", get_as("/orders", None)),
        ("/gtg", get_as("/gtg", None)),
        ("/gtg", get_as("/gtg?details", None)),
        ("/version", get_as("/version", None)),
        ("/metrics", get_as("/metrics", Some(TOKEN))),
        ("/metrics", get_as("/metrics", None)),
        ("/gtg", get_as("/gtg?details", Some(TOKEN))),
        ("/metrics", open),
        ("/openapi.json", get_as("/openapi.json", None)),
        ("/candidates", get_as("/candidates", None)),
        ("/candidate/{name}", get_as("/candidate/Ada", None)),
        ("/candidate/{name}", post("/candidate/Ada", FORM, None, "x")),
        ("/candidate/{name}", get_as("/candidate/Ada", None)),
        (
            "/candidate/{name}",
            post("/candidate/a%2Fb", FORM, None, "x"),
        ),
        ("/candidate/{name}", post(&long, FORM, None, "")),
        ("/candidates", get_as("/candidates", None)),
        ("/", get_as("/", None)),
        ("/shop.css", get_as("/shop.css", None)),
        ("/shop.js", get_as("/shop.js", None)),
        ("/shop.svg", get_as("/shop.svg", None)),
        ("/account.js", get_as("/account.js", None)),
        ("/account/orders", get_as("/account/orders", None)),
        ("/session", get_as("/session", None)),
    ];
    // Accounts: register, log in, log out, guess.
    let somebodys = format!("/order/{}", somebodys.id);
    let ended = SessionToken::new().unwrap();
    let cookie = format!("shop_session={}", ended.reveal());
    let with = |mut request: Request, name: &'static str, value: &str| {
        let value = HeaderValue::from_str(value).unwrap();
        request.headers_mut().insert(name, value);
        request
    };
    let cross_site = |request| {
        let request = with(request, "cookie", &cookie);
        with(request, "sec-fetch-site", "cross-site")
    };
    let log_out = || Request::delete("/session").body(Body::empty()).unwrap();
    requests.extend([
        (
            "/order",
            with(post("/order", JSON, None, ORDER), "cookie", &cookie),
        ),
        ("/order", cross_site(post("/order", JSON, None, ORDER))),
        ("/order/{id}", get_as(&somebodys, Some(ended.reveal()))),
        ("/session", log_out()),
        ("/session", cross_site(log_out())),
    ]);
    let eve = ADA.replace("ada", "eve");
    for (path, credentials, times) in [("/account", ADA, 25), ("/session", &eve, 12)] {
        requests.extend([
            (path, post(path, JSON, None, ADA)),
            (path, post(path, JSON, None, "nonsense")),
            (path, cross_site(post(path, JSON, None, ADA))),
            (path, endless(path)),
            (path, post(path, JSON, None, &huge)),
            (path, post(path, FORM, None, "login=ada")),
            (path, post(path, JSON, None, r#"{"login":"ada"}"#)),
        ]);
        requests.extend((0..times).map(|_| (path, post(path, JSON, None, credentials))));
    }
    for (path, request) in requests {
        let method = request.method().as_str().to_lowercase();
        let real = request.uri().clone();
        let answer = ask(&router, request).await;
        seen.insert(judge(&document, path, &method, &answer));
        // A browser that has the current copy gets 304.
        if let Some(tag) = answer.headers.get("etag") {
            let mut again = get_as(&real.to_string(), None);
            again.headers_mut().insert("if-none-match", tag.clone());
            let answer = ask(&router, again).await;
            seen.insert(judge(&document, path, "get", &answer));
        }
    }

    let with_bearer = ADA.replace('}', r#","bearer":true}"#);
    let session = ask(&router, post("/session", JSON, None, &with_bearer)).await;
    seen.insert(judge(&document, "/session", "post", &session));
    let token = session.json()["token"].as_str().unwrap().to_owned();
    for (path, query) in [
        ("/session", ""),
        ("/account/orders", ""),
        ("/account/orders", "?limit=0"),
    ] {
        let request = get_as(&format!("{path}{query}"), Some(&token));
        let answer = ask(&router, request).await;
        seen.insert(judge(&document, path, "get", &answer));
    }

    // The same service with a store that hangs, without an operator, and ready.
    let (router, _) = stuck();
    for (path, request) in [
        ("/order", post("/order", JSON, None, ORDER)),
        ("/order/{id}", get_as(&one, None)),
        ("/orders", get_as("/orders", Some(TOKEN))),
        ("/gtg", get_as("/gtg", None)),
        ("/account", post("/account", JSON, None, ADA)),
        ("/session", post("/session", JSON, None, ADA)),
        ("/session", get_as("/session", Some(&token))),
        ("/session", with(log_out(), "cookie", &cookie)),
        ("/account/orders", get_as("/account/orders", Some(&token))),
    ] {
        let method = request.method().as_str().to_lowercase();
        let answer = ask(&router, request).await;
        assert_eq!(answer.status, 503, "{path}");
        seen.insert(judge(&document, path, &method, &answer));
    }
    let store = std::sync::Arc::new(MemoryStore::default());
    let (router, shop) = over(store, RawSettings::default());
    let answer = ask(&router, get_as("/orders", None)).await;
    seen.insert(judge(&document, "/orders", "get", &answer));
    let answer = ask(&router, get_as("/metrics", None)).await;
    seen.insert(judge(&document, "/metrics", "get", &answer));
    let mut changes = shop.readiness.changes();
    let watching = tokio::spawn(shop.readiness.clone().probe_forever(shop.store.clone()));
    changes.changed().await.unwrap();
    for path in ["/gtg", "/gtg?details"] {
        let answer = ask(&router, get_as(path, None)).await;
        assert_eq!(answer.status, 200, "{path}");
        seen.insert(judge(&document, "/gtg", "get", &answer));
    }
    watching.abort();

    for ((path, method), operation) in operations(&document) {
        for status in operation["responses"].as_object().unwrap().keys() {
            let written = (path.clone(), method.clone(), status.parse().unwrap());
            assert!(seen.contains(&written), "{written:?} is never given");
        }
    }
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
