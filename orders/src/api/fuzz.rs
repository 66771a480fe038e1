//! Fuzz targets for untrusted input: bodies, queries, paths, header values.
//!
//! As ordinary tests they take about a second each, on mutated valid requests and on random bytes. With
//! `cargo bolero test api::fuzz::json_bodies` the same targets are driven by libFuzzer, AFL or honggfuzz;
//! store their findings in `src/api/__fuzz__/`, where every test run tries them.
//!
//! All targets check that there is no panic, that nothing grows beyond its input, and that what was parsed is
//! parsed the same by the next reader.

use axum::http::{HeaderMap, HeaderValue, Uri};
use bolero::check;
use serde_json::{Map, Value};
use test_support::fuzz::{Mutation, mutated};

use super::body::Form;
use super::candidates;
use super::idempotency::Key;
use super::list::Page;
use crate::order::{Draft, Order, OrderId};
use crate::receipt::Receipt;
use crate::settings::UnknownFields;

/// Runs `target` on the unmodified seeds, then on mutated ones.
fn tries(seeds: &[&[u8]], target: impl Fn(&[u8]) + std::panic::RefUnwindSafe) {
    for seed in seeds {
        target(seed);
    }
    check!()
        .with_type::<Mutation>()
        .for_each(|mutation| target(&mutated(seeds, mutation)));
}

fn flowers() -> Vec<String> {
    vec!["rose".to_owned(), "spring_tulips".to_owned()]
}

/// If the fields make an order, it is stored and read back unchanged, and its fingerprint is the same when it
/// is sent again.
fn round_trips(fields: Map<String, Value>) {
    let Ok(draft) = Draft::validate(fields, &flowers(), UnknownFields::Keep) else {
        return;
    };
    let fingerprint = draft.fingerprint();
    let receipt = Receipt::new().expect("randomness");
    let order = draft.into_order(OrderId::new(), jiff::Timestamp::UNIX_EPOCH, receipt);
    let row = order.to_row().expect("an order is JSON");
    assert_eq!(Order::from_row(&row).expect("our own"), order);
    let text = serde_json::to_vec(&order).expect("an order is JSON");
    let mut again: Map<String, Value> = serde_json::from_slice(&text).expect("our own");
    again.remove("id");
    again.remove("received_at");
    let again = Draft::validate(again, &flowers(), UnknownFields::Keep).expect("it was good");
    assert_eq!(again.fingerprint(), fingerprint);
}

/// Every number that an order may contain is read back unchanged. (In the binary by serde_json's
/// `float_roundtrip`; see the workspace's Cargo.toml.)
#[test]
fn numbers() {
    check!().with_type::<u64>().for_each(|bits| {
        let number = f64::from_bits(*bits);
        if number.is_finite() {
            let order = serde_json::json!({"name":"A","address":"B","flower":"rose","x":number});
            let fields = Form::Json
                .fields(order.to_string().as_bytes())
                .expect("a good order");
            assert_eq!(fields["x"].as_f64(), Some(number));
            round_trips(fields);
        }
    });
}

const JSON_SEEDS: [&[u8]; 6] = [
    br#"{"name":"Ada","address":"1 Row\nTown","flower":"rose"}"#,
    br#"{"name":" A ","address":"\u00e5\ud83c\udf39","flower":"spring_tulips","qty":2,"gift":true,"n":null}"#,
    br#"{"name":"A","address":"B","flower":"rose","x":1e300,"y":-0.0,"z":18446744073709551615,"f":-3.607787084064778e-148}"#,
    br#"{"name":"A","name":"B","id":"x","account":[[[{}]]]}"#,
    b"[1,2,{\"a\":NaN}]",
    b"\xef\xbb\xbfnull",
];

#[test]
fn json_bodies() {
    tries(&JSON_SEEDS, |body| {
        let plain = serde_json::from_slice::<Value>(body);
        match Form::Json.fields(body) {
            Ok(fields) => {
                // Two readers of one body read the same order.
                let plain = plain.expect("ours took it");
                assert_eq!(Value::Object(fields.clone()), plain);
                round_trips(fields);
            }
            Err(problem) if problem.status() == 422 => {
                assert!(!plain.expect("ours took it").is_object());
            }
            Err(problem) => assert_eq!(problem.status(), 400),
        }
    });
}

#[test]
fn form_bodies() {
    let seeds: [&[u8]; 4] = [
        b"name=Ada&address=1+Row%0ATown&flower=rose",
        b"name=%C3%85sa&address=%F0%9F%8C%B9&flower=spring_tulips&card=&qty=2&=",
        b"name=A&name=B&&&a=%&b=%f&c=%zz",
        b"name=\xff&address=%ff",
    ];
    tries(&seeds, |body| match Form::UrlEncoded.fields(body) {
        Ok(fields) => {
            let size: usize = fields
                .iter()
                .map(|(name, value)| name.len() + value.as_str().expect("text").len())
                .sum();
            assert!(size <= body.len(), "it grew");
            round_trips(fields);
        }
        Err(problem) => assert_eq!(problem.status(), 400),
    });
}

#[test]
fn queries() {
    let seeds: [&[u8]; 6] = [
        b"since=cursor_Zm5hYmM&limit=1",
        b"since=2026-01-02T03:04:05Z&limit=10",
        b"since=2026-01-02T03%3A04%3A05.123456789%2B02:00",
        b"limit=1000&since=01a1fa53-de62-772a-801d-28f5e714e855",
        b"since=-009999-01-01T00:00:00Z",
        b"limit=18446744073709551616&limit=&since",
    ];
    tries(&seeds, |query| {
        let query = String::from_utf8_lossy(query);
        match Page::parse(Some(&query), jiff::Timestamp::now()) {
            Ok(page) => assert!((1..=1000).contains(&page.limit)),
            Err(problem) => assert_eq!(problem.status(), 400),
        }
    });
}

#[test]
fn candidates_names() {
    let seeds: [&[u8]; 4] = [
        b"/candidate/John%20Smith",
        b"/candidate/%C3%A9%F0%9F%8C%B9%22%5C%0A",
        b"/candidate/a%2Fb?x=1",
        b"/candidate/%ff%",
    ];
    tries(&seeds, |path| {
        let Ok(uri) = Uri::try_from(path) else {
            return;
        };
        let Some(name) = candidates::name(&uri) else {
            return;
        };
        assert!(!name.is_empty() && !name.contains('/'));
        // A byte that is not UTF-8 becomes a character of three bytes.
        assert!(name.len() <= 3 * path.len());
        let text = candidates::array([&name]);
        assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        let read: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read[0]["CandidateName"], name.as_str());
    });
}

#[test]
fn header_values() {
    let seeds: [&[u8]; 4] = [
        b"8e03978e-40d5-43e8-bc93-6894a57f9324",
        b"application/json; charset=utf-8",
        b"application/vnd.shop+json",
        b"application/x-www-form-urlencoded",
    ];
    tries(&seeds, |value| {
        let Ok(value) = HeaderValue::from_bytes(value) else {
            return;
        };
        let headers = HeaderMap::from_iter([
            (axum::http::header::CONTENT_TYPE, value.clone()),
            (
                axum::http::HeaderName::from_static("idempotency-key"),
                value.clone(),
            ),
        ]);
        if let Err(problem) = Form::of(&headers) {
            assert_eq!(problem.status(), 415);
        }
        let fits = (1..=255).contains(&value.len())
            && value
                .as_bytes()
                .iter()
                .all(|byte| (b'!'..=b'~').contains(byte));
        match Key::of(&headers) {
            Ok(key) => assert!(key.is_some() && fits),
            Err(problem) => {
                assert!(!fits);
                assert_eq!(problem.status(), 400);
            }
        }
        let id = super::request_id(&HeaderMap::from_iter([(
            axum::http::HeaderName::from_static("x-request-id"),
            value,
        )]));
        assert!(id.to_str().is_ok_and(|id| (1..=64).contains(&id.len())));
    });
}
