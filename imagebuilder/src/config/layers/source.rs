//! The texts of the layers in one range of offsets, and the way from an offset back to its place.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where a layer comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Nothing sets it.
    Default,
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// `--set KEY=…`.
    Set(String),
    /// Another option.
    Option(&'static str),
}

/// The place of a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum Place {
    /// No layer sets it.
    Default,
    /// A line of a file.
    File {
        /// The file, as it was named.
        file: String,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// The option `--set`.
    Set {
        /// The key, as it was written.
        key: String,
    },
    /// Another option of the command line.
    Option {
        /// Its name.
        option: String,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Environment { variable } => f.write_str(variable),
            Self::Set { key } => write!(f, "--set {key}"),
            Self::Option { option } => f.write_str(option),
        }
    }
}

#[derive(Debug)]
struct Source {
    origin: Origin,
    text: String,
    start: usize,
}

/// The texts, each with offsets that no other one has.
#[derive(Debug, Default)]
pub(super) struct Sources(Vec<Source>);

impl Sources {
    /// Adds a text; returns its index.
    pub(super) fn add(&mut self, origin: Origin, text: String) -> usize {
        let start = self
            .0
            .last()
            .map_or(0, |last| last.start + last.text.len() + 1);
        self.0.push(Source {
            origin,
            text,
            start,
        });
        self.0.len() - 1
    }

    /// The files with their indices.
    pub(super) fn files(&self) -> impl Iterator<Item = (usize, &str)> {
        let all = self.0.iter().enumerate();
        let files = all.filter(|(_, source)| matches!(source.origin, Origin::File(_)));
        files.map(|(index, source)| (index, &*source.text))
    }

    /// The name of the first file.
    pub(super) fn first_file(&self) -> String {
        let mut origins = self.0.iter().map(|source| &source.origin);
        origins
            .find_map(|origin| match origin {
                Origin::File(path) => Some(path.display().to_string()),
                _ => None,
            })
            .unwrap_or_default()
    }

    pub(super) fn text(&self, index: usize) -> &str {
        self.0.get(index).map_or("", |source| &source.text)
    }

    /// The offsets of one text, with its end.
    pub(super) fn range(&self, index: usize) -> Range<usize> {
        self.0.get(index).map_or(0..0, |source| {
            source.start..source.start + source.text.len() + 1
        })
    }

    /// The offsets of all texts.
    pub(super) fn whole(&self) -> Range<usize> {
        0..self
            .0
            .last()
            .map_or(0, |last| last.start + last.text.len() + 1)
    }

    /// The text that an offset is in.
    pub(super) fn index(&self, offset: usize) -> Option<usize> {
        self.0
            .partition_point(|source| source.start <= offset)
            .checked_sub(1)
    }

    /// The place of an offset.
    pub(super) fn place(&self, offset: usize) -> Place {
        let Some(source) = self.index(offset).and_then(|index| self.0.get(index)) else {
            return Place::Default;
        };
        match &source.origin {
            Origin::Default => Place::Default,
            Origin::File(path) => {
                let end = (offset - source.start).min(source.text.len());
                let before = &source.text.as_bytes()[..end];
                Place::File {
                    file: path.display().to_string(),
                    line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
                }
            }
            Origin::Variable(name) => Place::Environment {
                variable: name.clone(),
            },
            Origin::Set(key) => Place::Set { key: key.clone() },
            Origin::Option(option) => Place::Option {
                option: (*option).to_owned(),
            },
        }
    }

    /// A text's table with offsets among those of all texts.
    pub(super) fn moved_table<'a>(&self, index: usize, table: Spanned<DeTable<'a>>) -> DeTable<'a> {
        move_table(table.into_inner(), self.range(index).start)
    }

    /// The same of a value that begins at `at` of the text.
    pub(super) fn moved<'a>(
        &self,
        index: usize,
        at: usize,
        value: Spanned<DeValue<'a>>,
    ) -> Spanned<DeValue<'a>> {
        move_value(value, self.range(index).start + at)
    }
}

fn move_table(table: DeTable<'_>, by: usize) -> DeTable<'_> {
    let moved = table.into_iter().map(|(key, value)| {
        let span = key.span();
        let key = Spanned::new(span.start + by..span.end + by, key.into_inner());
        (key, move_value(value, by))
    });
    moved.collect()
}

fn move_value(value: Spanned<DeValue<'_>>, by: usize) -> Spanned<DeValue<'_>> {
    let span = value.span();
    let value = match value.into_inner() {
        DeValue::Table(table) => DeValue::Table(move_table(table, by)),
        DeValue::Array(array) => {
            DeValue::Array(array.into_iter().map(|item| move_value(item, by)).collect())
        }
        plain => plain,
    };
    Spanned::new(span.start + by..span.end + by, value)
}
