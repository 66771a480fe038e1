//! Layers of settings, each a table of the same keys, merged in order.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// How a key's value is written in the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelled {
    /// Text; empty means absent.
    Text,
    /// Text; an empty value turns the feature off.
    TextOrOff,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Switch,
    /// Separated by commas.
    List,
}

/// The keys of the file, and of the environment (upper case, with the prefix `ORDERS_`).
const KEYS: [(&str, Spelled); 19] = [
    ("listen", Spelled::Text),
    ("store", Spelled::Text),
    ("store_password_file", Spelled::Text),
    ("store_connections", Spelled::Number),
    ("store_tls", Spelled::Text),
    ("store_ca_file", Spelled::Text),
    ("metrics_namespace", Spelled::TextOrOff),
    ("metrics_interval_seconds", Spelled::Number),
    ("flowers", Spelled::List),
    ("unknown_fields", Spelled::Text),
    ("drain_seconds", Spelled::Number),
    ("lame_duck_seconds", Spelled::Number),
    ("operator_token_file", Spelled::Text),
    ("operator_listen", Spelled::Text),
    ("public_url", Spelled::Text),
    ("candidates", Spelled::TextOrOff),
    ("accounts", Spelled::Switch),
    ("forwarded_hops", Spelled::Number),
    ("notices_topic", Spelled::TextOrOff),
];
/// The file's table with keys of its own.
const S3: &str = "s3";
const S3_KEYS: [&str; 2] = ["endpoint", "region"];
/// Variables with our prefix that are not keys of the file.
const OTHER_VARIABLES: [&str; 2] = ["ORDERS_CONFIG", "ORDERS_LOG"];

/// One layer of settings, in which every value may be absent; documented in [`Settings`](super::Settings).
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "described where they are validated")]
pub struct RawSettings {
    pub listen: Option<String>,
    pub store: Option<String>,
    pub store_password_file: Option<String>,
    pub store_connections: Option<u32>,
    pub store_tls: Option<String>,
    pub store_ca_file: Option<String>,
    pub metrics_namespace: Option<String>,
    pub metrics_interval_seconds: Option<u64>,
    pub flowers: Option<Vec<String>>,
    pub unknown_fields: Option<String>,
    pub drain_seconds: Option<u64>,
    pub lame_duck_seconds: Option<u64>,
    pub operator_token_file: Option<String>,
    pub operator_listen: Option<String>,
    pub public_url: Option<String>,
    pub candidates: Option<String>,
    pub accounts: Option<bool>,
    pub forwarded_hops: Option<u8>,
    pub notices_topic: Option<String>,
    #[serde(default, skip_serializing_if = "RawS3::is_empty")]
    pub s3: RawS3,
}

/// The `[s3]` table of the file.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawS3 {
    /// Endpoint of an S3-compatible server instead of the region's.
    pub endpoint: Option<String>,
    /// The region, if neither environment nor instance metadata has it.
    pub region: Option<String>,
}

impl RawS3 {
    fn is_empty(&self) -> bool {
        self.endpoint.is_none() && self.region.is_none()
    }
}

impl RawSettings {
    /// Fills in absent values from `below`.
    pub(super) fn over(self, below: &Self) -> anyhow::Result<Self> {
        let mut table = Table::try_from(below)?;
        for (key, value) in Table::try_from(self)? {
            match (table.get_mut(&key), value) {
                (Some(Value::Table(below)), Value::Table(above)) => below.extend(above),
                (_, value) => {
                    table.insert(key, value);
                }
            }
        }
        Ok(table.try_into()?)
    }

    /// Reads the layer of the environment.
    pub(super) fn from_environment(environment: &BTreeMap<String, String>) -> anyhow::Result<Self> {
        let mut table = Table::new();
        for (key, spelled) in KEYS {
            let name = variable(key);
            let Some(text) = environment.get(&name) else {
                continue;
            };
            if text.is_empty() && spelled != Spelled::TextOrOff {
                continue;
            }
            let value = match spelled {
                Spelled::Text | Spelled::TextOrOff => Value::String(text.clone()),
                Spelled::Number => Value::Integer(
                    text.parse()
                        .with_context(|| format!("{name}={text} is not a number"))?,
                ),
                Spelled::Switch => Value::Boolean(
                    text.parse()
                        .with_context(|| format!("{name}={text} is neither true nor false"))?,
                ),
                Spelled::List => text
                    .split(',')
                    .map(|part| Value::String(part.trim().to_owned()))
                    .collect::<Vec<_>>()
                    .into(),
            };
            table.insert(key.to_owned(), value);
        }
        table.try_into().context("read the ORDERS_ variables")
    }

    /// Parses the layer of a settings file.
    pub(super) fn from_toml(text: &str, path: &Path) -> anyhow::Result<Self> {
        let table: Table =
            toml::from_str(text).with_context(|| format!("read {}", path.display()))?;
        let nested = table.get(S3).and_then(Value::as_table);
        let keys: Vec<&str> = KEYS.map(|(key, _)| key).into_iter().chain([S3]).collect();
        for (within, key, known) in table.keys().map(|key| ("", key, &keys[..])).chain(
            nested
                .into_iter()
                .flat_map(|s3| s3.keys())
                .map(|key| ("s3.", key, &S3_KEYS[..])),
        ) {
            if !known.contains(&key.as_str()) {
                bail!(
                    "{}: unknown key `{within}{key}`\nhint: {}",
                    path.display(),
                    suggestion(key, known)
                );
            }
        }
        toml::from_str(text).with_context(|| format!("read {}", path.display()))
    }
}

fn variable(key: &str) -> String {
    format!("ORDERS_{}", key.to_uppercase())
}

/// Suggests the most similar key, or all keys.
fn suggestion(key: &str, known: &[&str]) -> String {
    match support::nearest(key, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("use one of {}", known.join(", ")),
    }
}

/// Warnings about unknown variables with our prefix. They are not refused, since other programs may use them.
pub(super) fn unknown_variables(environment: &BTreeMap<String, String>) -> Vec<String> {
    let known: Vec<String> = KEYS
        .iter()
        .map(|(key, _)| variable(key))
        .chain(OTHER_VARIABLES.map(str::to_owned))
        .collect();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    environment
        .keys()
        .filter(|name| name.starts_with("ORDERS_") && !known.contains(&name.as_str()))
        .map(|name| {
            format!(
                "unknown variable {name}; hint: {}",
                suggestion(name, &known)
            )
        })
        .collect()
}
