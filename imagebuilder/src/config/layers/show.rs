//! The merged configuration as TOML with the place of each value, and as a list.

use std::fmt::Write as _;
use std::ops::Range;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize as _, Serialize};
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::arguments::{NAMES, quoted_key};
use super::merge::Merged;
use super::{Layers, Place};
use run::exit::Failure;

/// What is printed for a value that may be a secret.
const MASK: &str = "********";

/// One value of the effective configuration.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Setting {
    /// The dotted key; elements of arrays of tables have an index, `image.payload[0].source`.
    pub(crate) key: String,
    /// The value; null when it is masked.
    pub(crate) value: serde_json::Value,
    /// Whether the value is not printed because it may be a secret.
    pub(crate) masked: bool,
    /// Where it was set.
    pub(crate) origin: Place,
    /// Where values were set that it replaced, newest first.
    pub(crate) replaces: Vec<Place>,
}

/// The effective configuration.
pub(crate) struct Effective<'a> {
    layers: &'a Layers,
    merged: Merged<'a>,
    reveal: bool,
}

impl Layers {
    /// The effective configuration, defaults too. Values in tables called `environment` are masked unless `reveal`.
    pub(crate) fn effective<T: DeserializeOwned>(
        &self,
        reveal: bool,
    ) -> Result<Effective<'_>, Failure> {
        // Where it cannot be typed, it is still shown.
        let as_text = self.typed::<T>(&|_| ()).map(|(_, as_text)| as_text);
        let mut merged = self.merged(&as_text.unwrap_or_default())?;
        if let Ok(mut defaults) = DeTable::parse(super::DEFAULTS) {
            // Without a repository there is no channel.
            if !merged.table.contains_key("channel") {
                defaults.get_mut().remove("channel");
            }
            fill(&mut merged.table, defaults.into_inner());
        }
        Ok(Effective {
            layers: self,
            merged,
            reveal,
        })
    }
}

/// Adds what is not set.
fn fill<'a>(table: &mut DeTable<'a>, defaults: DeTable<'a>) {
    for (key, default) in defaults {
        match table.get_mut(&key) {
            None => {
                table.insert(key, default);
            }
            Some(value) => {
                if let (DeValue::Table(table), DeValue::Table(defaults)) =
                    (value.get_mut(), default.into_inner())
                {
                    fill(table, defaults);
                }
            }
        }
    }
}

/// A value with its key.
type Entry<'t, 'a> = (&'t str, &'t Spanned<DeValue<'a>>);

/// The entries of a table in the order in which they were written, defaults last.
fn ordered<'t, 'a>(table: &'t DeTable<'a>) -> Vec<Entry<'t, 'a>> {
    let mut entries: Vec<(usize, Entry<'t, 'a>)> = table
        .iter()
        .map(|(key, value)| (key.span().start, (&**key.get_ref(), value)))
        .collect();
    let defaults = super::DEFAULTS.len();
    entries.sort_by_key(|(start, (key, _))| (*start <= defaults, *start, *key));
    entries.into_iter().map(|(_, entry)| entry).collect()
}

/// The tables of an array of tables.
fn tables<'t, 'a>(value: &'t DeValue<'a>) -> Option<Vec<&'t DeTable<'a>>> {
    let array = value.as_array()?;
    let tables: Option<Vec<_>> = array.iter().map(|item| item.get_ref().as_table()).collect();
    tables.filter(|tables| !tables.is_empty())
}

/// A value without its places.
fn plain(value: &Spanned<DeValue<'_>>) -> toml::Value {
    let unknown = |_| toml::Value::String(String::new());
    toml::Value::deserialize(ValueDeserializer::from(value.clone())).unwrap_or_else(unknown)
}

impl Effective<'_> {
    fn place(&self, span: &Range<usize>) -> Place {
        self.layers.sources.place(span.start)
    }

    /// As TOML, a comment with the place behind each value.
    pub(crate) fn toml(&self) -> String {
        let mut text = String::new();
        self.table(&mut text, &mut Vec::new(), &self.merged.table);
        text.trim_start().to_owned()
    }

    fn table(&self, text: &mut String, path: &mut Vec<String>, table: &DeTable<'_>) {
        let masked = self.masks(path);
        let mut below = Vec::new();
        for (key, value) in ordered(table) {
            if value.get_ref().is_table() || tables(value.get_ref()).is_some() {
                below.push((key, value));
                continue;
            }
            let shown = if masked {
                toml::Value::from(MASK)
            } else {
                plain(value)
            };
            let place = self.place(&value.span());
            let replaced = self.merged.history(&value.span());
            let replaced = replaced
                .first()
                .map_or_else(String::new, |old| format!(", over {}", self.place(old)));
            // Writing to a text cannot fail.
            let _ = writeln!(
                text,
                "{} = {shown}  # {}",
                quoted_key(key),
                comment(&format!("{place}{replaced}"))
            );
        }
        for (key, value) in below {
            path.push(quoted_key(key));
            let name = path.join(".");
            match (value.get_ref().as_table(), tables(value.get_ref())) {
                (Some(table), _) => {
                    let only_tables =
                        !table.is_empty() && table.values().all(|value| value.get_ref().is_table());
                    if !only_tables {
                        let _ = writeln!(text, "\n[{name}]");
                    }
                    self.table(text, path, table);
                }
                (None, Some(elements)) => {
                    for element in elements {
                        let _ = writeln!(text, "\n[[{name}]]");
                        self.table(text, path, element);
                    }
                }
                (None, None) => {}
            }
            path.pop();
        }
    }

    fn masks(&self, path: &[String]) -> bool {
        !self.reveal && path.last().is_some_and(|last| last == NAMES)
    }

    /// As a list.
    pub(crate) fn settings(&self) -> Vec<Setting> {
        let mut all = Vec::new();
        self.list(&mut all, "", false, &self.merged.table);
        all
    }

    fn list(&self, all: &mut Vec<Setting>, path: &str, masked: bool, table: &DeTable<'_>) {
        for (key, value) in ordered(table) {
            let dot = if path.is_empty() { "" } else { "." };
            let name = format!("{path}{dot}{}", quoted_key(key));
            if let Some(table) = value.get_ref().as_table() {
                self.list(all, &name, !self.reveal && key == NAMES, table);
            } else if let Some(elements) = tables(value.get_ref()) {
                for (index, element) in elements.into_iter().enumerate() {
                    self.list(all, &format!("{name}[{index}]"), false, element);
                }
            } else {
                let shown = if masked {
                    serde_json::Value::Null
                } else {
                    json(plain(value))
                };
                let replaced = self.merged.history(&value.span());
                all.push(Setting {
                    key: name,
                    value: shown,
                    masked,
                    origin: self.place(&value.span()),
                    replaces: replaced.into_iter().map(|old| self.place(old)).collect(),
                });
            }
        }
    }
}

/// A value as JSON; dates are texts there.
fn json(value: toml::Value) -> serde_json::Value {
    match value {
        toml::Value::Datetime(date) => date.to_string().into(),
        toml::Value::Array(items) => items.into_iter().map(json).collect(),
        toml::Value::Table(table) => {
            let entries = table.into_iter().map(|(key, value)| (key, json(value)));
            serde_json::Value::Object(entries.collect())
        }
        plain => serde_json::to_value(plain).unwrap_or_default(),
    }
}

/// A comment ends with its line.
fn comment(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
