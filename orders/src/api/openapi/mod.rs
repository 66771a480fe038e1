//! `GET /openapi.json`: the contract as an OpenAPI 3.1 document.
//!
//! Written by hand, a fragment a module beside this file; put together once, at the start, of the
//! modules that are on and of what the settings decide. Its tests hold it to what the service really
//! answers: a path, method, status or field that is only in one of the two is a failure.
//! <https://spec.openapis.org/oas/v3.1.0>

use axum::body::Bytes;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use super::Shop;
use crate::VERSION;
use crate::settings::UnknownFields;

const BASE: &str = include_str!("base.json");
const ORDERS: &str = include_str!("orders.json");
const SERVICE: &str = include_str!("service.json");
const PAGE: &str = include_str!("page.json");
const CANDIDATES: &str = include_str!("candidates.json");
const ACCOUNTS: &str = include_str!("accounts.json");

/// The document, written once.
#[derive(Debug, Clone)]
pub(super) struct Document(Bytes);

impl Document {
    /// The document of this shop.
    pub(super) fn of(shop: &Shop) -> Self {
        Self(document(shop).to_string().into())
    }

    pub(super) fn answer(&self) -> Response {
        let headers = [
            (
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            ),
            // During a roll boxes of two releases answer side by side.
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        ];
        (headers, self.0.clone()).into_response()
    }
}

fn document(shop: &Shop) -> Value {
    let mut fragments = vec![BASE, ORDERS, SERVICE, PAGE];
    if shop.candidates.is_some() {
        fragments.push(CANDIDATES);
    }
    if shop.desk.is_some() {
        fragments.push(ACCOUNTS);
    }
    let mut document = Value::Object(Map::new());
    for fragment in fragments {
        let fragment = serde_json::from_str(fragment).expect("a fragment is JSON; tests read each");
        merge(&mut document, fragment);
    }
    document["info"]["version"] = VERSION.into();
    let schemas = &mut document["components"]["schemas"];
    schemas["Flower"]["enum"] = shop.settings.flowers.clone().into();
    if shop.settings.unknown_fields == UnknownFields::Refuse {
        for draft in ["Draft", "FormDraft"] {
            schemas[draft]["additionalProperties"] = false.into();
        }
    }
    document
}

/// Lays `fragment` into `document`: objects are joined, lists lengthened, all else replaced.
fn merge(document: &mut Value, fragment: Value) {
    match (document, fragment) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) => into.extend(from),
        (into, from) => *into = from,
    }
}

#[cfg(test)]
mod tests;
