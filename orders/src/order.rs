//! An order: its fields, their limits, its id. Pure.
//!
//! Must not depend on HTTP or any store. The seeds' service stored whatever it got; this one refuses invalid
//! orders and names every error at once. It assigns a unique id to every order: the seed's key, made from the
//! time in seconds, lost three orders of four.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::receipt::Receipt;
use crate::settings::UnknownFields;

/// Longest name, in characters.
pub const NAME_LIMIT: usize = 200;
/// Longest address, in characters.
pub const ADDRESS_LIMIT: usize = 500;
/// Most fields beyond the known ones.
pub const EXTRA_FIELDS_LIMIT: usize = 16;
/// Longest name of an extra field, in characters.
pub const EXTRA_NAME_LIMIT: usize = 64;
/// Longest text in an extra field, in characters.
pub const EXTRA_VALUE_LIMIT: usize = 500;

/// A field of the stored row beyond the order's own. Clients may not send a field with this name.
const RECEIPT_FIELD: &str = "receipt_secret";

/// A UUID of version 7 with 74 new random bits. Not `Uuid::now_v7`, whose counter makes each id of a
/// millisecond its predecessor plus a few, so that one id reveals the next (RFC 9562 §6.9: implementations
/// that need unguessable values use random bits for every UUID). Ids of one millisecond are in no particular
/// order. It also does not remember the time of the previous id as that counter does, so a clock that is
/// wrong for one id affects only that one.
fn fresh_uuid(now: jiff::Timestamp) -> Uuid {
    let mut random = [0; 10];
    getrandom::fill(&mut random).expect("the system provides random bytes");
    let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

/// An order's id: unique across instances without coordination, and sortable by time (UUID version 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OrderId(Uuid);

impl OrderId {
    /// A new id: the current time in milliseconds, and 74 random bits.
    ///
    /// # Panics
    /// If the system provides no randomness.
    #[must_use]
    pub fn new() -> Self {
        Self::at(jiff::Timestamp::now())
    }

    /// A new id for the time `now`.
    ///
    /// # Panics
    /// If the system provides no randomness.
    #[must_use]
    pub fn at(now: jiff::Timestamp) -> Self {
        Self(fresh_uuid(now))
    }

    /// When the id was made, by the clock of the host that made it, in milliseconds. Arbitrary for an id that
    /// this service did not make.
    #[must_use]
    pub fn time(&self) -> jiff::Timestamp {
        let millis = self.0.as_bytes()[..6]
            .iter()
            .fold(0, |millis, byte| millis << 8 | i64::from(*byte));
        jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX)
    }

    /// A lower bound for ids made at `time` or later, above those of earlier milliseconds; a list of orders
    /// since `time` begins there.
    #[must_use]
    pub fn floor(time: jiff::Timestamp) -> Self {
        let millis = u64::try_from(time.as_millisecond()).unwrap_or(0);
        Self(uuid::Builder::from_unix_timestamp_millis(millis, &[0; 10]).into_uuid())
    }

    /// The 16 bytes of the UUID; they sort like ids.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The id with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl Default for OrderId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for OrderId {
    type Err = NotAnOrderId;

    /// Accepts only the canonical spelling, so that each order has one URL and an id cannot contain path
    /// tricks.
    fn from_str(text: &str) -> Result<Self, NotAnOrderId> {
        let id = Uuid::try_parse(text).map_err(|_| NotAnOrderId)?;
        if id.as_hyphenated().to_string() == text {
            Ok(Self(id))
        } else {
            Err(NotAnOrderId)
        }
    }
}

/// The text is not a valid id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAnOrderId;

impl fmt::Display for NotAnOrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an order id")
    }
}

impl std::error::Error for NotAnOrderId {}

/// An account's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccountId(Uuid);

impl AccountId {
    /// A new id.
    ///
    /// # Panics
    /// If the system provides no randomness.
    #[must_use]
    pub fn new() -> Self {
        Self(fresh_uuid(jiff::Timestamp::now()))
    }
}

impl Default for AccountId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for AccountId {
    type Err = NotAnOrderId;

    fn from_str(text: &str) -> Result<Self, NotAnOrderId> {
        Uuid::try_parse(text).map(Self).map_err(|_| NotAnOrderId)
    }
}

/// An order. Its JSON is what the API returns; stores use [`Order::to_row`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// Its id, also its key in every store.
    pub id: OrderId,
    /// When it was received, RFC 3339 in UTC.
    pub received_at: jiff::Timestamp,
    /// The account it was placed from, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
    /// The customer's name.
    pub name: String,
    /// The delivery address.
    pub address: String,
    /// The flower, one of the configured ones.
    pub flower: String,
    /// Further fields, stored unchanged.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
    /// The secret that gives access to the whole order; `None` for orders of releases before receipts.
    #[serde(skip)]
    pub receipt: Option<Receipt>,
}

/// An order as it is stored.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    order: &'a Order,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt_secret: Option<&'a str>,
}

impl Order {
    /// The stored form: one JSON object of its fields and its receipt. A release without receipts reads the
    /// receipt as a further field.
    ///
    /// # Errors
    /// None for a validated order: all of its fields are JSON.
    pub fn to_row(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Row {
            order: self,
            receipt_secret: self.receipt.as_ref().map(Receipt::reveal),
        })
    }

    /// Parses a stored order.
    ///
    /// # Errors
    /// If the row is invalid.
    pub fn from_row(row: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(row).map(Self::with_its_receipt)
    }

    /// The further fields and the receipt as one JSON object, for stores with columns for the rest.
    ///
    /// # Errors
    /// As for [`Order::to_row`].
    pub fn extra_row(&self) -> serde_json::Result<String> {
        let Some(receipt) = &self.receipt else {
            return serde_json::to_string(&self.extra);
        };
        let receipt = Value::from(receipt.reveal());
        let mut extra: BTreeMap<&str, &Value> = self
            .extra
            .iter()
            .map(|(name, value)| (name.as_str(), value))
            .collect();
        extra.insert(RECEIPT_FIELD, &receipt);
        serde_json::to_string(&extra)
    }

    /// Moves the receipt out of the further fields, where a row has it. A field with this name that a
    /// customer of an earlier release sent stays a field.
    #[must_use]
    pub fn with_its_receipt(mut self) -> Self {
        let found = self.extra.get(RECEIPT_FIELD).and_then(Value::as_str);
        if let Some(receipt) = found.and_then(Receipt::parse) {
            self.extra.remove(RECEIPT_FIELD);
            self.receipt = Some(receipt);
        }
        self
    }
}

/// An error in one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// The field's name.
    pub field: String,
    /// What is wrong, and what would be valid.
    pub message: String,
}

impl FieldError {
    fn new(field: &str, message: impl Into<String>) -> Self {
        Self {
            field: field.to_owned(),
            message: message.into(),
        }
    }
}

/// The content of a valid order that has no id yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    name: String,
    address: String,
    flower: String,
    extra: BTreeMap<String, Value>,
}

impl Draft {
    /// Validates fields against the limits and the `flowers` on sale; `unknown` decides about further fields.
    ///
    /// # Errors
    /// All errors, so that a form can show them at once.
    pub fn validate(
        mut fields: Map<String, Value>,
        flowers: &[String],
        unknown: UnknownFields,
    ) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let name = text(&mut fields, "name", NAME_LIMIT, &mut errors);
        let address = text(&mut fields, "address", ADDRESS_LIMIT, &mut errors);
        let flower = text(&mut fields, "flower", NAME_LIMIT, &mut errors);
        if let Some(flower) = &flower
            && !flowers.contains(flower)
        {
            errors.push(FieldError::new(
                "flower",
                format!("is not on sale; choose one of {}", flowers.join(", ")),
            ));
        }
        for reserved in ["id", "received_at", "account", RECEIPT_FIELD] {
            if fields.remove(reserved).is_some() {
                errors.push(FieldError::new(
                    reserved,
                    "is assigned by the service; leave it out",
                ));
            }
        }
        if fields.len() > EXTRA_FIELDS_LIMIT {
            errors.push(FieldError::new(
                "",
                format!("has more than {EXTRA_FIELDS_LIMIT} further fields"),
            ));
        } else {
            for (field, value) in &fields {
                let error = match unknown {
                    UnknownFields::Keep => extra_error(field, value),
                    UnknownFields::Refuse => Some("is not a field of an order".to_owned()),
                };
                if let Some(message) = error {
                    let shown: String = field.chars().take(EXTRA_NAME_LIMIT).collect();
                    errors.push(FieldError::new(&shown, message));
                }
            }
        }
        match (name, address, flower) {
            (Some(name), Some(address), Some(flower)) if errors.is_empty() => Ok(Self {
                name,
                address,
                flower,
                extra: fields.into_iter().collect(),
            }),
            _ => Err(errors),
        }
    }

    /// SHA-256 of the content: equal for two requests exactly if they make the same order, whatever their
    /// encoding or order of fields.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        // An array, so that no further field can be confused with another; the map is sorted by name.
        let fields = (&self.name, &self.address, &self.flower, &self.extra);
        let fields = serde_json::to_vec(&fields).expect("text, numbers and a map are all JSON");
        Sha256::digest(fields).into()
    }

    /// Makes it an order with this id, time and receipt.
    #[must_use]
    pub fn into_order(self, id: OrderId, received_at: jiff::Timestamp, receipt: Receipt) -> Order {
        Order {
            id,
            received_at,
            account: None,
            name: self.name,
            address: self.address,
            flower: self.flower,
            extra: self.extra,
            receipt: Some(receipt),
        }
    }
}

/// Takes a required text field out of `fields` and records what is wrong with it.
fn text(
    fields: &mut Map<String, Value>,
    field: &str,
    limit: usize,
    errors: &mut Vec<FieldError>,
) -> Option<String> {
    let error = match fields.remove(field) {
        None | Some(Value::Null) => "is missing".to_owned(),
        Some(Value::String(value)) => match text_error(&value, limit) {
            None if !value.chars().any(is_visible) => "is empty".to_owned(),
            None => return Some(value.trim().to_owned()),
            Some(error) => error,
        },
        Some(_) => "must be text".to_owned(),
    };
    errors.push(FieldError::new(field, error));
    None
}

fn text_error(value: &str, limit: usize) -> Option<String> {
    if value.chars().count() > limit {
        return Some(format!("is longer than {limit} characters"));
    }
    // Line breaks and tabs are valid in an address; other control characters could attack a terminal that
    // shows the order.
    value
        .chars()
        .any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
        .then(|| "contains control characters".to_owned())
}

/// Whether a character is visible: neither space nor control, nor one of Unicode's invisible characters (most
/// of `Default_Ignorable_Code_Point`, fillers, the empty Braille pattern).
fn is_visible(c: char) -> bool {
    let invisible = matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
    !(invisible || c.is_whitespace() || c.is_control())
}

/// Whether a number is stored unchanged: JSON has numbers of any size, this supports 64 bits.
fn is_kept(number: &serde_json::Number) -> bool {
    // -2^63 and 2^64.
    const RANGE: std::ops::Range<f64> = -9_223_372_036_854_775_808.0..18_446_744_073_709_551_616.0;
    number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|n| RANGE.contains(&n))
}

fn extra_error(field: &str, value: &Value) -> Option<String> {
    if field.is_empty() || text_error(field, EXTRA_NAME_LIMIT).is_some() {
        return Some(format!(
            "is a field name that is empty, longer than {EXTRA_NAME_LIMIT} characters or has control characters"
        ));
    }
    match value {
        Value::Number(number) if !is_kept(number) => {
            Some("is a number beyond 64 bits; send it as text".to_owned())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
        Value::String(text) => text_error(text, EXTRA_VALUE_LIMIT),
        Value::Array(_) | Value::Object(_) => {
            Some("must be text, a number, true, false or null".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn flowers() -> Vec<String> {
        vec!["romantic_roses".into(), "spring_tulips".into()]
    }

    fn validate(value: Value) -> Result<Draft, Vec<String>> {
        let Value::Object(fields) = value else {
            panic!("not an object")
        };
        Draft::validate(fields, &flowers(), UnknownFields::Keep).map_err(messages)
    }

    fn messages(errors: Vec<FieldError>) -> Vec<String> {
        errors
            .into_iter()
            .map(|f| format!("{} {}", f.field, f.message))
            .collect()
    }

    #[test]
    fn fields_are_validated() {
        let good = json!({"name":"Ada","address":"1 Row\nTown","flower":"spring_tulips"});
        let long = "x".repeat(NAME_LIMIT + 1);
        let full = "ä".repeat(NAME_LIMIT);
        let many: Map<String, Value> = (0..=EXTRA_FIELDS_LIMIT)
            .map(|n| (format!("f{n}"), json!(1)))
            .collect();
        let with = |changes: Value| {
            let mut fields = good.as_object().unwrap().clone();
            fields.extend(changes.as_object().unwrap().clone());
            Value::Object(fields)
        };
        let table: Vec<(Value, &[&str])> = vec![
            (good.clone(), &[]),
            (with(json!({"name": full})), &[]),
            (
                with(json!({"card":"To you","qty":3,"gift":true,"n":null})),
                &[],
            ),
            (
                with(json!({"name": long})),
                &["name is longer than 200 characters"],
            ),
            (with(json!({"name": "  "})), &["name is empty"]),
            (
                with(json!({"name": "\u{200b}\u{2060} \u{3164}", "address": "\u{e0041}\u{feff}"})),
                &["name is empty", "address is empty"],
            ),
            (with(json!({"name": "\u{200d}👩\u{200d}🚀"})), &[]),
            (
                with(
                    serde_json::from_str(
                        r#"{"a":18446744073709551616,"b":-1e300,"c":18446744073709551615}"#,
                    )
                    .unwrap(),
                ),
                &[
                    "a is a number beyond 64 bits; send it as text",
                    "b is a number beyond 64 bits; send it as text",
                ],
            ),
            (with(json!({"name": 7})), &["name must be text"]),
            (with(json!({"name": null})), &["name is missing"]),
            (
                with(json!({"name": "A\u{1b}[2J"})),
                &["name contains control characters"],
            ),
            (
                with(json!({"flower": "cactus"})),
                &["flower is not on sale; choose one of romantic_roses, spring_tulips"],
            ),
            (
                with(json!({"id": "x"})),
                &["id is assigned by the service; leave it out"],
            ),
            (
                with(json!({"receipt_secret": "x"})),
                &["receipt_secret is assigned by the service; leave it out"],
            ),
            (
                with(json!({"deep": {"a":1}})),
                &["deep must be text, a number, true, false or null"],
            ),
            (
                with(Value::Object(many)),
                &[" has more than 16 further fields"],
            ),
            (
                json!({}),
                &["name is missing", "address is missing", "flower is missing"],
            ),
        ];
        for (fields, expected) in table {
            let found = validate(fields.clone()).err().unwrap_or_default();
            assert_eq!(found, expected, "{fields}");
        }
    }

    #[test]
    fn unknown_fields_are_refused_if_configured() {
        let fields = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
        let validate = |text| Draft::validate(fields(text), &flowers(), UnknownFields::Refuse);
        assert!(validate(r#"{"name":"A","address":"B","flower":"spring_tulips"}"#).is_ok());
        let errors =
            validate(r#"{"name":"A","address":"B","flower":"spring_tulips","card":"Hi","qty":2}"#)
                .unwrap_err();
        assert_eq!(
            messages(errors),
            [
                "card is not a field of an order",
                "qty is not a field of an order"
            ]
        );
    }

    #[test]
    fn a_fingerprint_depends_on_content_not_on_encoding() {
        let print = |fields: Value| validate(fields).unwrap().fingerprint();
        let first = json!({"name":"A","address":"B","flower":"spring_tulips","x":"1","y":2});
        let same = json!({"y":2,"x":"1","flower":"spring_tulips","address":" B","name":"A "});
        assert_eq!(print(first.clone()), print(same));
        for (field, value) in [
            ("name", json!("C")),
            ("address", json!("C")),
            ("flower", json!("romantic_roses")),
            ("x", json!(1)),
            ("z", Value::Null),
        ] {
            let mut other = first.clone();
            other[field] = value;
            assert_ne!(print(first.clone()), print(other), "{field}");
        }
    }

    #[test]
    fn ids_sort_by_time_and_have_one_spelling() {
        let ids: Vec<OrderId> = (0..1000).map(|_| OrderId::new()).collect();
        assert!(ids.is_sorted_by_key(|id| id.as_bytes()[..6].to_vec()));
        let now = jiff::Timestamp::now();
        let second = jiff::SignedDuration::from_secs(1);
        assert!(OrderId::floor(now - second) < ids[0]);
        assert!(OrderId::floor(now + second) > ids[999]);
        assert_eq!(OrderId::from_bytes(*ids[0].as_bytes()), ids[0]);
        let text = ids[0].to_string();
        assert_eq!(text.parse(), Ok(ids[0]));
        for other in [
            text.to_uppercase(),
            text.replace('-', ""),
            format!("{{{text}}}"),
            "../../etc/passwd".into(),
            String::new(),
        ] {
            assert_eq!(other.parse::<OrderId>(), Err(NotAnOrderId), "{other}");
        }
    }

    /// A clock that is wrong for one id affects only that id.
    #[test]
    fn an_id_has_the_time_at_which_it_was_made() {
        let now: jiff::Timestamp = "2026-11-30T10:00:00.123Z".parse().unwrap();
        let days = jiff::SignedDuration::from_hours(400 * 24);
        let mut ids = std::collections::BTreeSet::new();
        for time in [now, now + days, now, now - days, now] {
            let id = OrderId::at(time);
            assert_eq!(id.time(), time);
            assert!(ids.insert(id), "{id} is not unique");
        }
        let (first, last) = ([0; 16], [0xff; 16]);
        assert_eq!(
            OrderId::from_bytes(first).time(),
            jiff::Timestamp::UNIX_EPOCH
        );
        assert_eq!(OrderId::from_bytes(last).time(), jiff::Timestamp::MAX);
    }

    /// Consecutive ids, even in one millisecond, reveal nothing about the next: over many pairs every random
    /// bit differs about half of the time.
    #[test]
    fn an_id_reveals_nothing_about_the_next() {
        const PAIRS: usize = 4000;
        let pairs = || -> Vec<[[u8; 16]; 2]> {
            let both = |_| [OrderId::new(), OrderId::new()].map(|id| *id.as_bytes());
            let accounts = |_| [AccountId::new(), AccountId::new()].map(|id| id.0.into_bytes());
            let orders = (0..PAIRS / 2).map(both);
            orders.chain((0..PAIRS / 2).map(accounts)).collect()
        };
        let pairs = pairs();
        let version = |id: &[u8; 16]| (id[6] >> 4, id[8] >> 6);
        assert!(pairs.iter().flatten().all(|id| version(id) == (7, 2)));
        let in_one_millisecond = pairs.iter().filter(|[a, b]| a[..6] == b[..6]).count();
        assert!(in_one_millisecond > 0, "{in_one_millisecond}");
        // All bits except time (48), version (4) and variant (2).
        for bit in (52..64).chain(66..128) {
            let differs =
                |[a, b]: &&[[u8; 16]; 2]| (a[bit / 8] ^ b[bit / 8]) >> (7 - bit % 8) & 1 == 1;
            let differing = pairs.iter().filter(differs).count();
            // Six standard deviations of a fair coin are 190.
            assert!(
                differing.abs_diff(PAIRS / 2) < 250,
                "bit {bit}: {differing}"
            );
        }
    }

    #[test]
    fn an_order_round_trips_as_json() {
        let order =
            validate(json!({"name":"Ada","address":"1 Row","flower":"spring_tulips","qty":2}))
                .unwrap()
                .into_order(
                    OrderId::new(),
                    jiff::Timestamp::UNIX_EPOCH,
                    Receipt::new().unwrap(),
                );
        let text = serde_json::to_string(&order).unwrap();
        assert!(
            text.contains(r#""received_at":"1970-01-01T00:00:00Z""#),
            "{text}"
        );
        assert!(!text.contains(Receipt::PREFIX), "{text}");
        assert!(!format!("{order:?}").contains(Receipt::PREFIX));
        let row = order.to_row().unwrap();
        assert_eq!(Order::from_row(&row).unwrap(), order);
        // As columns of a SQL store.
        let extra = order.extra_row().unwrap();
        let mut columns = Order {
            extra: serde_json::from_str(&extra).unwrap(),
            receipt: None,
            ..order.clone()
        };
        columns = columns.with_its_receipt();
        assert_eq!(columns, order);
    }

    /// Rows written before there were receipts, in which a customer may have used the name.
    #[test]
    fn rows_from_before_receipts_are_read_unchanged() {
        for value in [json!("yes"), json!(7), Value::Null, json!("shop_receipt_x")] {
            let row = json!({"id": OrderId::new(), "received_at": "2026-01-01T00:00:00Z", "name": "A",
                "address": "B", "flower": "rose", RECEIPT_FIELD: value});
            let order = Order::from_row(row.to_string().as_bytes()).unwrap();
            assert_eq!(order.receipt, None, "{value}");
            assert_eq!(order.extra[RECEIPT_FIELD], value);
            let again: Value = serde_json::from_slice(&order.to_row().unwrap()).unwrap();
            assert_eq!(again, row);
        }
    }
}
