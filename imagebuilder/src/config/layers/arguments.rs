//! `--set KEY=VALUE` and `IMAGEBUILDER_TABLE__KEY=VALUE`: which key is meant, and its value.

use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use run::exit::{Exit, Failure};

/// What our variables begin with.
const PREFIX: &str = "IMAGEBUILDER_";
/// What stands between the parts of a key. One underscore is part of many keys.
const SEPARATOR: &str = "__";
/// The tables of a configuration: `IMAGEBUILDER_BAKE_REGION` was probably meant for one. A test compares them with the type.
pub(super) const TABLES: [&str; 7] = [
    "image", "services", "tags", "bake", "fleet", "roll", "channel",
];
/// A table whose keys are names of environment variables: they keep their case.
pub(super) const NAMES: &str = "environment";

/// `--set KEY=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Argument {
    /// As it was given.
    pub(super) text: String,
    /// The key, as it was written.
    pub(super) key: String,
    /// The parts of the key.
    pub(super) path: Vec<String>,
}

impl Argument {
    /// Where the value begins in the text.
    pub(super) fn value_at(&self) -> usize {
        self.key.len() + 1
    }

    /// As it was given.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Argument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut quote = None;
        let end = text.char_indices().find(|&(_, c)| {
            match quote {
                Some(open) if open == c => quote = None,
                None if matches!(c, '"' | '\'') => quote = Some(c),
                _ => {}
            }
            quote.is_none() && c == '='
        });
        let Some((end, _)) = end else {
            return Err(
                "there is no `=`: use KEY=VALUE, such as bake.instance_type=c7i.large".to_owned(),
            );
        };
        let key = &text[..end];
        let Some(path) = key_path(key) else {
            return Err(format!(
                "`{key}` is not a dotted key such as bake.instance_type; quote a part that has dots of its own, and replace an array as a whole"
            ));
        };
        let argument = Self {
            text: text.to_owned(),
            key: key.to_owned(),
            path,
        };
        value(&text[end + 1..])?;
        Ok(argument)
    }
}

/// The parts of a dotted key.
pub(super) fn key_path(key: &str) -> Option<Vec<String>> {
    if key.contains(['\n', '\r', '#']) {
        return None;
    }
    let text = format!("{key} = 0");
    let table = DeTable::parse(&text).ok()?.into_inner();
    let mut path = Vec::new();
    let mut table = &table;
    loop {
        let (key, value) = table.iter().next()?;
        path.push(key.get_ref().to_string());
        match value.get_ref() {
            DeValue::Table(below) => table = below,
            _ => return Some(path),
        }
    }
}

/// A key as TOML has it: bare where it can be.
pub(super) fn quoted_key(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(bare) {
        key.to_owned()
    } else {
        toml::Value::from(key).to_string()
    }
}

/// A TOML value; else the text itself. What begins like a text in quotes, an array or a table must be one.
pub(super) fn value(text: &str) -> Result<Spanned<DeValue<'_>>, String> {
    match DeValue::parse(text) {
        Ok(value) => Ok(value),
        Err(error) if text.trim_start().starts_with(['"', '\'', '[', '{']) => Err(format!(
            "`{text}` is not a TOML value: {}",
            error.message().trim_end()
        )),
        Err(_) => Ok(Spanned::new(0..text.len(), DeValue::String(text.into()))),
    }
}

/// A variable that sets a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Variable {
    /// Its name.
    pub(super) name: String,
    /// Its value.
    pub(super) value: String,
    parts: Vec<String>,
}

impl Variable {
    /// The key that is meant. A variable's name has neither lower case nor dashes, so a key that is set already is found without either;
    /// another one is written in lower case, and as it is in a table of names.
    pub(super) fn path(&self, known: &DeTable<'_>) -> Vec<String> {
        let mut table = Some(known);
        let mut path: Vec<String> = Vec::new();
        for part in &self.parts {
            let exact = table.and_then(|table| table.get_key_value(part.as_str()));
            let alike = || {
                table?
                    .iter()
                    .find(|(key, _)| plain(key.get_ref()) == plain(part))
            };
            let found = exact.or_else(alike);
            path.push(match found {
                Some((key, _)) => key.get_ref().to_string(),
                None if path.last().is_some_and(|last| last == NAMES) => part.clone(),
                None => part.to_ascii_lowercase(),
            });
            table = found.and_then(|(_, value)| value.get_ref().as_table());
        }
        path
    }
}

fn plain(key: &str) -> String {
    key.to_ascii_lowercase().replace('-', "_")
}

/// Whether a variable sets a key: those with two underscores after the prefix do. All others mean something else.
pub(crate) fn is_ours(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .is_some_and(|rest| rest.contains(SEPARATOR))
}

/// The variables that set a key, in order of their names.
pub(super) fn variables(environment: &[(String, String)]) -> Result<Vec<Variable>, Failure> {
    let mut found = Vec::new();
    for (name, value) in environment {
        let Some(rest) = name.strip_prefix(PREFIX).filter(|_| is_ours(name)) else {
            continue;
        };
        let parts: Vec<String> = rest.split(SEPARATOR).map(str::to_owned).collect();
        if parts.iter().any(String::is_empty) {
            return Err(Exit::Usage
                .error(format!("the environment variable {name} names no key"))
                .hint(format!(
                    "{PREFIX}BAKE__INSTANCE_TYPE is `instance_type` of [bake]; or unset {name}"
                )));
        }
        found.push(Variable {
            name: name.clone(),
            value: value.clone(),
            parts,
        });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Variables with one underscore where two were probably meant. They may be somebody else's, so they are not refused.
pub(super) fn ignored(environment: &[(String, String)]) -> Vec<String> {
    let mut warnings = Vec::new();
    for (name, _) in environment {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        if rest.contains(SEPARATOR) {
            continue;
        }
        let table = TABLES.into_iter().find_map(|table| {
            let key = rest.strip_prefix(&table.to_ascii_uppercase())?;
            Some((table.to_ascii_uppercase(), key.strip_prefix('_')?))
        });
        if let Some((table, key)) = table {
            warnings.push(format!(
                "{name} is not read: {PREFIX}{table}{SEPARATOR}{key}, with two underscores, sets a key of the configuration"
            ));
        }
    }
    warnings.sort();
    warnings
}
