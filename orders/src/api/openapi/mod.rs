//! `GET /openapi.json`: the contract as an OpenAPI 3.1 document.
//!
//! Written by hand in one fragment per module, next to this file; merged once at the start, from the modules
//! that are on and the settings. Tests compare it with the service's actual responses: a path, method, status
//! or field that only one of the two has is a failure.
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

/// The serialised document.
#[derive(Debug, Clone)]
pub(super) struct Document(Bytes);

impl Document {
    /// The document for this shop's settings.
    pub(super) fn of(shop: &Shop) -> Self {
        Self(document(shop).to_string().into())
    }

    pub(super) fn answer(&self) -> Response {
        let headers = [
            (
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            ),
            // During a roll, instances of two releases serve side by side.
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
    if shop.accounts.is_some() {
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

/// Merges `fragment` into `document`: objects are merged, arrays appended, other values replaced.
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
