//! What an order is: its fields, their limits, its id. Pure.
//!
//! Must not know HTTP or any store. The seeds' service stored whatever came; here what does not
//! fit is refused with every fault named at once, and every order has an id of its own, because a
//! key made from the clock's second lost three orders in four.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::receipt::Receipt;
use crate::settings::UnknownFields;

/// Longest name taken, in characters.
pub const NAME_LIMIT: usize = 200;
/// Longest address taken, in characters.
pub const ADDRESS_LIMIT: usize = 500;
/// How many fields an order may have beyond the known ones.
pub const EXTRA_FIELDS_LIMIT: usize = 16;
/// Longest name of an extra field, in characters.
pub const EXTRA_NAME_LIMIT: usize = 64;
/// Longest text in an extra field, in characters.
pub const EXTRA_VALUE_LIMIT: usize = 500;

/// What a row has beside the order's own fields. No client may send a field of this name.
const RECEIPT_FIELD: &str = "receipt_secret";

/// A UUID of version 7 whose 74 random bits are all drawn anew. Not `Uuid::now_v7`, whose counter makes
/// each id of a millisecond its predecessor plus a few, so that one id tells the next
/// (RFC 9562 §6.9: implementations that need unguessable values use random bits for every UUID).
/// Ids of one millisecond are in no order. Nor does it remember the time of the id before, as that counter
/// does: a clock that is wrong for one id is wrong for that one only.
fn fresh_uuid(now: jiff::Timestamp) -> Uuid {
    let mut random = [0; 10];
    getrandom::fill(&mut random).expect("the system gives random bytes");
    let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

/// An order's identity: unique across boxes without asking anyone, and sortable by time (UUID
/// version 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OrderId(Uuid);

impl OrderId {
    /// A new id: the time, to the millisecond, and 74 random bits of its own.
    ///
    /// # Panics
    /// When the system has no randomness to give.
    #[must_use]
    pub fn new() -> Self {
        Self::at(jiff::Timestamp::now())
    }

    /// A new id that is made at the time `now` of the host's clock.
    ///
    /// # Panics
    /// When the system has no randomness to give.
    #[must_use]
    pub fn at(now: jiff::Timestamp) -> Self {
        Self(fresh_uuid(now))
    }

    /// When it was made, by the clock of the host that made it, to the millisecond. Of an id that is not of
    /// this service's making it is any time.
    #[must_use]
    pub fn time(&self) -> jiff::Timestamp {
        let millis = self.0.as_bytes()[..6]
            .iter()
            .fold(0, |millis, byte| millis << 8 | i64::from(*byte));
        jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX)
    }

    /// Not above any id made at `time` or later, and above those made in earlier milliseconds; where a
    /// list of orders since then begins.
    #[must_use]
    pub fn floor(time: jiff::Timestamp) -> Self {
        let millis = u64::try_from(time.as_millisecond()).unwrap_or(0);
        Self(uuid::Builder::from_unix_timestamp_millis(millis, &[0; 10]).into_uuid())
    }

    /// The 16 bytes of the UUID; they sort as ids do.
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

    /// Takes the one spelling we give out, so that an id cannot be a path trick and one order has
    /// one address.
    fn from_str(text: &str) -> Result<Self, NotAnOrderId> {
        let id = Uuid::try_parse(text).map_err(|_| NotAnOrderId)?;
        if id.as_hyphenated().to_string() == text {
            Ok(Self(id))
        } else {
            Err(NotAnOrderId)
        }
    }
}

/// The text is not spelled like an order id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAnOrderId;

impl fmt::Display for NotAnOrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an order id")
    }
}

impl std::error::Error for NotAnOrderId {}

/// An account's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccountId(Uuid);

impl AccountId {
    /// A new id.
    ///
    /// # Panics
    /// When the system has no randomness to give.
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

/// An order. Its JSON is what the API shows of it; its form in stores is [`Order::to_row`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// Its id, also its key in every store.
    pub id: OrderId,
    /// When it was taken, RFC 3339 in UTC.
    pub received_at: jiff::Timestamp,
    /// Whose it is, when it was placed from an account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
    /// Who ordered.
    pub name: String,
    /// Where it goes.
    pub address: String,
    /// Which flower, one of the configured ones.
    pub flower: String,
    /// Fields beyond the known ones, kept as they came.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
    /// What shows all of this to who has it; `None` for orders of releases before receipts.
    #[serde(skip)]
    pub receipt: Option<Receipt>,
}

/// An order as stores keep it.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    order: &'a Order,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt_secret: Option<&'a str>,
}

impl Order {
    /// The order as stores keep it: one JSON object of its fields and its receipt. A release that
    /// knows no receipts reads that as one more field.
    ///
    /// # Errors
    /// None, for an order that was judged: everything in it is JSON.
    pub fn to_row(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Row {
            order: self,
            receipt_secret: self.receipt.as_ref().map(Receipt::reveal),
        })
    }

    /// The order that a row holds.
    ///
    /// # Errors
    /// When the row is none.
    pub fn from_row(row: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(row).map(Self::with_its_receipt)
    }

    /// The further fields and the receipt, as one JSON object, for stores with columns for the rest.
    ///
    /// # Errors
    /// As [`Order::to_row`].
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

    /// The order with its receipt where it belongs, when that was read as one of the further fields.
    /// What a customer of an earlier release wrote into a field of this name stays what it is.
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

/// One thing wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The field's name.
    pub field: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl Fault {
    fn new(field: &str, message: impl Into<String>) -> Self {
        Self {
            field: field.to_owned(),
            message: message.into(),
        }
    }
}

/// An order's content, valid, not yet taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    name: String,
    address: String,
    flower: String,
    extra: BTreeMap<String, Value>,
}

impl Draft {
    /// Judges the fields as they came against the limits, the `flowers` on sale and what is to become
    /// of `unknown` ones.
    ///
    /// # Errors
    /// Every fault found, so that a form can show them all at once.
    pub fn judge(
        mut fields: Map<String, Value>,
        flowers: &[String],
        unknown: UnknownFields,
    ) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let name = text(&mut fields, "name", NAME_LIMIT, &mut faults);
        let address = text(&mut fields, "address", ADDRESS_LIMIT, &mut faults);
        let flower = text(&mut fields, "flower", NAME_LIMIT, &mut faults);
        if let Some(flower) = &flower
            && !flowers.contains(flower)
        {
            faults.push(Fault::new(
                "flower",
                format!("is not on sale; choose one of {}", flowers.join(", ")),
            ));
        }
        for reserved in ["id", "received_at", "account", RECEIPT_FIELD] {
            if fields.remove(reserved).is_some() {
                faults.push(Fault::new(
                    reserved,
                    "is given by the service; leave it out",
                ));
            }
        }
        if fields.len() > EXTRA_FIELDS_LIMIT {
            faults.push(Fault::new(
                "",
                format!("has more than {EXTRA_FIELDS_LIMIT} further fields"),
            ));
        } else {
            for (field, value) in &fields {
                let fault = match unknown {
                    UnknownFields::Keep => extra_fault(field, value),
                    UnknownFields::Refuse => Some("is not a field of an order".to_owned()),
                };
                if let Some(message) = fault {
                    let shown: String = field.chars().take(EXTRA_NAME_LIMIT).collect();
                    faults.push(Fault::new(&shown, message));
                }
            }
        }
        match (name, address, flower) {
            (Some(name), Some(address), Some(flower)) if faults.is_empty() => Ok(Self {
                name,
                address,
                flower,
                extra: fields.into_iter().collect(),
            }),
            _ => Err(faults),
        }
    }

    /// What it says, as SHA-256: equal for two requests exactly when they would make the same order,
    /// however they spelled it (JSON or form, whichever order of fields).
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        // An array, so that no extra field can be taken for another; the map is sorted by name.
        let fields = (&self.name, &self.address, &self.flower, &self.extra);
        let fields = serde_json::to_vec(&fields).expect("text, numbers and a map are all JSON");
        Sha256::digest(fields).into()
    }

    /// Makes it an order, with the id, time and receipt given.
    #[must_use]
    pub fn take(self, id: OrderId, received_at: jiff::Timestamp, receipt: Receipt) -> Order {
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

/// Takes one required text field out of `fields`, noting what is wrong with it.
fn text(
    fields: &mut Map<String, Value>,
    field: &str,
    limit: usize,
    faults: &mut Vec<Fault>,
) -> Option<String> {
    let fault = match fields.remove(field) {
        None | Some(Value::Null) => "is missing".to_owned(),
        Some(Value::String(value)) => match text_fault(&value, limit) {
            None if !value.chars().any(is_visible) => "is empty".to_owned(),
            None => return Some(value.trim().to_owned()),
            Some(fault) => fault,
        },
        Some(_) => "must be text".to_owned(),
    };
    faults.push(Fault::new(field, fault));
    None
}

fn text_fault(value: &str, limit: usize) -> Option<String> {
    if value.chars().count() > limit {
        return Some(format!("is longer than {limit} characters"));
    }
    // Line breaks and tabs are part of an address; other control characters are an attack on
    // whoever reads the order on a terminal.
    value
        .chars()
        .any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
        .then(|| "contains control characters".to_owned())
}

/// Whether a reader sees anything of it: neither space nor control, nor one of Unicode's characters that are drawn as
/// nothing (most of `Default_Ignorable_Code_Point`, fillers, the empty Braille pattern).
fn is_visible(c: char) -> bool {
    let invisible = matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
    !(invisible || c.is_whitespace() || c.is_control())
}

/// Whether a number is kept as it came: JSON has numbers of any size, this has those of 64 bits.
fn is_kept(number: &serde_json::Number) -> bool {
    // -2^63 and 2^64.
    const RANGE: std::ops::Range<f64> = -9_223_372_036_854_775_808.0..18_446_744_073_709_551_616.0;
    number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|n| RANGE.contains(&n))
}

fn extra_fault(field: &str, value: &Value) -> Option<String> {
    if field.is_empty() || text_fault(field, EXTRA_NAME_LIMIT).is_some() {
        return Some(format!(
            "is a field name that is empty, longer than {EXTRA_NAME_LIMIT} characters or has control characters"
        ));
    }
    match value {
        Value::Number(number) if !is_kept(number) => {
            Some("is a number beyond 64 bits; send it as text".to_owned())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
        Value::String(text) => text_fault(text, EXTRA_VALUE_LIMIT),
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

    fn judge(value: Value) -> Result<Draft, Vec<String>> {
        let Value::Object(fields) = value else {
            panic!("not an object")
        };
        Draft::judge(fields, &flowers(), UnknownFields::Keep).map_err(said)
    }

    fn said(faults: Vec<Fault>) -> Vec<String> {
        faults
            .into_iter()
            .map(|f| format!("{} {}", f.field, f.message))
            .collect()
    }

    #[test]
    fn judges_fields() {
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
                &["id is given by the service; leave it out"],
            ),
            (
                with(json!({"receipt_secret": "x"})),
                &["receipt_secret is given by the service; leave it out"],
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
            let found = judge(fields.clone()).err().unwrap_or_default();
            assert_eq!(found, expected, "{fields}");
        }
    }

    #[test]
    fn refuses_fields_it_does_not_know_when_told_to() {
        let fields = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
        let judge = |text| Draft::judge(fields(text), &flowers(), UnknownFields::Refuse);
        assert!(judge(r#"{"name":"A","address":"B","flower":"spring_tulips"}"#).is_ok());
        let faults =
            judge(r#"{"name":"A","address":"B","flower":"spring_tulips","card":"Hi","qty":2}"#)
                .unwrap_err();
        assert_eq!(
            said(faults),
            [
                "card is not a field of an order",
                "qty is not a field of an order"
            ]
        );
    }

    #[test]
    fn a_fingerprint_tells_orders_apart_and_not_their_spelling() {
        let print = |fields: Value| judge(fields).unwrap().fingerprint();
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

    /// A clock that is wrong for one id is wrong for that one only.
    #[test]
    fn an_id_has_the_time_of_its_own_making() {
        let now: jiff::Timestamp = "2026-11-30T10:00:00.123Z".parse().unwrap();
        let days = jiff::SignedDuration::from_hours(400 * 24);
        let mut ids = std::collections::BTreeSet::new();
        for time in [now, now + days, now, now - days, now] {
            let id = OrderId::at(time);
            assert_eq!(id.time(), time);
            assert!(ids.insert(id), "unique");
        }
        let (first, last) = ([0; 16], [0xff; 16]);
        assert_eq!(
            OrderId::from_bytes(first).time(),
            jiff::Timestamp::UNIX_EPOCH
        );
        assert_eq!(OrderId::from_bytes(last).time(), jiff::Timestamp::MAX);
    }

    /// Of ids made one after the other, in one millisecond too, none tells anything of the next: over
    /// many pairs every random bit differs about half of the time.
    #[test]
    fn an_id_tells_nothing_of_the_next() {
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
        // All bits but those of time (48), version (4) and variant (2).
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
    fn an_order_survives_json() {
        let order = judge(json!({"name":"Ada","address":"1 Row","flower":"spring_tulips","qty":2}))
            .unwrap()
            .take(
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
        // In columns, as SQL stores have it.
        let extra = order.extra_row().unwrap();
        let mut columns = Order {
            extra: serde_json::from_str(&extra).unwrap(),
            receipt: None,
            ..order.clone()
        };
        columns = columns.with_its_receipt();
        assert_eq!(columns, order);
    }

    /// Rows that were written before there were receipts, in which a customer may have used the name.
    #[test]
    fn rows_from_before_receipts_are_read_as_they_are() {
        for said in [json!("yes"), json!(7), Value::Null, json!("shop_receipt_x")] {
            let row = json!({"id": OrderId::new(), "received_at": "2026-01-01T00:00:00Z", "name": "A",
                "address": "B", "flower": "rose", RECEIPT_FIELD: said});
            let order = Order::from_row(row.to_string().as_bytes()).unwrap();
            assert_eq!(order.receipt, None);
            assert_eq!(order.extra[RECEIPT_FIELD], said);
            let again: Value = serde_json::from_slice(&order.to_row().unwrap()).unwrap();
            assert_eq!(again, row);
        }
    }
}
