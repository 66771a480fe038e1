//! Parses a body: JSON and forms into fields. Does not depend on any field's name; reading the bytes is in
//! `bodies.rs`.

use std::fmt;

use axum::http::{HeaderMap, StatusCode, header};
use percent_encoding::percent_decode;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::order::EXTRA_NAME_LIMIT;
use crate::problem::Problem;

/// A body's encoding.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    Json,
    UrlEncoded,
}

impl Form {
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let wrong = || {
            Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "send application/json or application/x-www-form-urlencoded",
            )
        };
        let encoded = headers.get_all(header::CONTENT_ENCODING).iter();
        if encoded
            .into_iter()
            .any(|name| !name.as_bytes().eq_ignore_ascii_case(b"identity"))
        {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "Content-Encoding is not supported; send the body unencoded",
            ));
        }
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

    pub(super) fn fields(self, body: &[u8]) -> Result<Map<String, Value>, Problem> {
        let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, detail);
        match self {
            Self::Json => match serde_json::from_slice(body) {
                Ok(JsonBody::Object(pairs)) => once_each(pairs),
                Ok(JsonBody::Other) => Err(Problem::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "the body must be a JSON object with name, address and flower",
                )),
                // The parser's message has line and column, and nothing of the content.
                Err(error) => Err(bad(format!("the body is not JSON: {error}"))),
            },
            Self::UrlEncoded => {
                // The form's parser would replace invalid bytes silently.
                if percent_decode(body).decode_utf8().is_err() {
                    return Err(bad("the form is not UTF-8".to_owned()));
                }
                let pairs = form_urlencoded::parse(body);
                once_each(pairs.map(|(name, value)| (name.into(), value.into_owned().into())))
            }
        }
    }
}

/// Fields by name. Duplicate names are refused: two readers would read two different orders.
fn once_each(
    pairs: impl IntoIterator<Item = (String, Value)>,
) -> Result<Map<String, Value>, Problem> {
    let mut fields = Map::new();
    for (name, value) in pairs {
        if fields.contains_key(&name) {
            let name: String = name.chars().take(EXTRA_NAME_LIMIT).collect();
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                format!("duplicate field `{name}`"),
            ));
        }
        fields.insert(name, value);
    }
    Ok(fields)
}

/// A JSON body with an object's members as they came, duplicates included.
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
