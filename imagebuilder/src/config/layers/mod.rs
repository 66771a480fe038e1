//! The layers of a configuration: files in their order, `IMAGEBUILDER_…` variables, `--set`, `--region`; merged into one table in which every
//! value keeps its place.
//!
//! Every layer is a text with a range of offsets of its own. The spans of all its values are moved into that range, so a span alone, be it of a
//! merged value or of serde's refusal, leads back to the layer and the line that wrote it. What the keys mean is unknown here.

mod arguments;
mod merge;
pub(crate) mod show;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use self::arguments::Variable;
pub(crate) use self::arguments::{Argument, is_ours};
use self::merge::{Merged, merge};
pub(crate) use self::source::Place;
use self::source::{Origin, Sources};
use run::exit::{Exit, Failure};

/// Values of keys that no layer sets.
const DEFAULTS: &str = include_str!("../defaults.toml");

/// What a configuration is read from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Given {
    /// The files, later ones over earlier ones.
    pub(crate) files: Vec<PathBuf>,
    /// The environment.
    pub(crate) environment: Vec<(String, String)>,
    /// What `--set` was given.
    pub(crate) set: Vec<Argument>,
    /// What `--region` was given.
    pub(crate) region: Option<String>,
}

/// All layers, read and not yet merged.
#[derive(Debug)]
pub(crate) struct Layers {
    sources: Sources,
    variables: Vec<(usize, Variable)>,
    arguments: Vec<(usize, Argument)>,
    region: Option<usize>,
}

impl Layers {
    /// Reads the files and picks the variables that are meant for us.
    pub(crate) fn read(given: &Given) -> Result<Self, Failure> {
        let mut files = Vec::new();
        for path in &given.files {
            files.push((path.clone(), text_of(path)?));
        }
        Self::of(files, given)
    }

    /// The layers of texts; of `given` without its files.
    pub(super) fn of(files: Vec<(PathBuf, String)>, given: &Given) -> Result<Self, Failure> {
        let mut sources = Sources::default();
        sources.add(Origin::Default, DEFAULTS.to_owned());
        for (path, text) in files {
            sources.add(Origin::File(path), text);
        }
        let mut variables = Vec::new();
        for variable in arguments::variables(&given.environment)? {
            let origin = Origin::Variable(variable.name.clone());
            variables.push((sources.add(origin, variable.value.clone()), variable));
        }
        let mut arguments = Vec::new();
        for argument in &given.set {
            let origin = Origin::Set(argument.key.clone());
            arguments.push((sources.add(origin, argument.text.clone()), argument.clone()));
        }
        let region = given
            .region
            .as_ref()
            .map(|region| sources.add(Origin::Option("--region"), region.clone()));
        Ok(Self {
            sources,
            variables,
            arguments,
            region,
        })
    }

    /// Variables that look like ours and are not read, each with what was probably meant.
    pub(crate) fn ignored(environment: &[(String, String)]) -> Vec<String> {
        arguments::ignored(environment)
    }

    /// One text.
    #[cfg(test)]
    pub(super) fn of_one(text: &str, place: &str) -> Result<Self, Failure> {
        Self::of(vec![(place.into(), text.to_owned())], &Given::default())
    }

    /// Deserializes what all layers together say, after `adjust` has changed it.
    pub(super) fn parse<T: DeserializeOwned>(
        &self,
        adjust: &dyn Fn(&mut DeTable<'_>),
    ) -> Result<T, Failure> {
        self.typed(adjust).map(|(value, _)| value)
    }

    /// A value of a variable or `--set` that looks like a number is a text where only a text fits: with the layers that are taken so.
    fn typed<T: DeserializeOwned>(
        &self,
        adjust: &dyn Fn(&mut DeTable<'_>),
    ) -> Result<(T, BTreeSet<usize>), Failure> {
        let mut as_text = BTreeSet::new();
        loop {
            let mut merged = self.merged(&as_text)?;
            adjust(&mut merged.table);
            let table = Spanned::new(self.sources.whole(), merged.table.clone());
            let error = match T::deserialize(toml::Deserializer::from(table)) {
                Ok(value) => return Ok((value, as_text)),
                Err(error) => error,
            };
            let wanted = error.message().trim_end().ends_with("expected a string");
            let source = error.span().and_then(|span| self.sources.index(span.start));
            match source {
                Some(source) if wanted && self.is_bare(source) && as_text.insert(source) => {}
                _ => return Err(self.refusal(&error, &merged)),
            }
        }
    }

    /// Whether a layer is one value that was written without quotes.
    fn is_bare(&self, source: usize) -> bool {
        let variables = self.variables.iter().map(|(index, _)| index);
        let mut all = variables.chain(self.arguments.iter().map(|(index, _)| index));
        all.any(|index| *index == source)
    }

    /// All layers above the defaults, merged.
    fn merged(&self, as_text: &BTreeSet<usize>) -> Result<Merged<'_>, Failure> {
        let mut merged = Merged::default();
        for (index, text) in self.sources.files() {
            let table = DeTable::parse(text).map_err(|error| self.unreadable(index, &error))?;
            merge(&mut merged, self.sources.moved_table(index, table));
        }
        for (index, variable) in &self.variables {
            let path = variable.path(&merged.table);
            let value = self.value(*index, 0, as_text.contains(index))?;
            merge(
                &mut merged,
                nested(&path, &self.sources.range(*index), value),
            );
        }
        for (index, argument) in &self.arguments {
            let value = self.value(*index, argument.value_at(), as_text.contains(index))?;
            let span = self.sources.range(*index);
            merge(&mut merged, nested(&argument.path, &span, value));
        }
        if let Some(index) = self.region {
            let value = self.value(index, 0, true)?;
            let path = ["bake", "region"].map(str::to_owned);
            merge(
                &mut merged,
                nested(&path, &self.sources.range(index), value),
            );
        }
        if merged.conflicts.is_empty() {
            return Ok(merged);
        }
        let conflicts = merged.conflicts.iter().map(|conflict| {
            format!(
                "{}: `{}` is {}, but {} at {}",
                self.sources.place(conflict.over.start),
                conflict.key,
                conflict.over_kind,
                conflict.under_kind,
                self.sources.place(conflict.under.start),
            )
        });
        let conflicts: Vec<String> = conflicts.collect();
        Err(Exit::Usage
            .error(conflicts.join("\n"))
            .hint("a table is merged with a table; to replace one of its keys, name that key"))
    }

    /// The value that a layer's text has from `start` on.
    fn value(
        &self,
        index: usize,
        start: usize,
        as_text: bool,
    ) -> Result<Spanned<DeValue<'_>>, Failure> {
        let text = &self.sources.text(index)[start..];
        let value = if as_text {
            Spanned::new(0..text.len(), DeValue::String(text.into()))
        } else {
            arguments::value(text).map_err(|why| {
                let place = self.sources.place(self.sources.range(index).start);
                Exit::Usage
                    .error(format!("{place}: {why}"))
                    .hint("quote the whole argument for the shell: --set 'bake.source_cidrs=[\"10.0.0.0/8\"]'")
            })?
        };
        Ok(self.sources.moved(index, start, value))
    }

    /// A file that is no TOML.
    fn unreadable(&self, index: usize, error: &toml::de::Error) -> Failure {
        let start = error.span().map_or(0, |span| span.start);
        let place = self.sources.place(self.sources.range(index).start + start);
        Exit::Usage.error(format!("{place}: {}", error.message().trim_end()))
    }

    /// Serde's refusal, with the place of what it refuses and of what that replaced.
    fn refusal(&self, error: &toml::de::Error, merged: &Merged<'_>) -> Failure {
        let message = error.message().trim_end();
        let span = error.span().unwrap_or_default();
        let place = match span.is_empty() {
            // Of the whole: a section is missing.
            true => self.sources.first_file(),
            false if span == self.sources.whole() => self.sources.first_file(),
            false => self.sources.place(span.start).to_string(),
        };
        let replaced = match merged.replaced_by(&span) {
            Some(old) => format!(
                " (it replaces the value at {})",
                self.sources.place(old.start)
            ),
            None => String::new(),
        };
        let failure = Exit::Usage.error(format!("{place}: {message}{replaced}"));
        match super::near::nearest(message) {
            Some(known) => failure.hint(format!("did you mean `{known}`?")),
            None => failure,
        }
    }

    /// Where the key stands that a finding begins with, `[bake] share needs …`; else its table; else the first file.
    pub(super) fn place_of(&self, finding: &str) -> String {
        let Ok(merged) = self.merged(&BTreeSet::new()) else {
            return self.sources.first_file();
        };
        let (arch, rest) = match finding
            .strip_prefix("for ")
            .and_then(|rest| rest.split_once(": "))
        {
            Some((arch, rest)) => (Some(arch), rest),
            None => (None, finding),
        };
        let found = rest
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
            .and_then(|(table, rest)| {
                let table = arguments::key_path(table)?;
                let word = rest.trim_start().split([' ', ':', ',']).next()?;
                let key = arguments::key_path(word.trim_matches('`'));
                let whole = key.map(|key| [table.clone(), key].concat());
                // What an architecture has of its own is over what all have.
                let own = |path: &[String]| {
                    let first = ["arch".to_owned(), arch?.to_owned()];
                    merged.span(&[&first, path].concat())
                };
                let span = |path: &[String]| own(path).or_else(|| merged.span(path));
                whole.as_deref().and_then(span).or_else(|| span(&table))
            });
        match found {
            Some(span) => self.sources.place(span.start).to_string(),
            None => self.sources.first_file(),
        }
    }
}

/// Puts `[arch.NAME]` over everything else, and makes `NAME` the architecture of the image.
pub(super) fn choose(table: &mut DeTable<'_>, name: &str) {
    let mut merged = Merged::default();
    merged.table = std::mem::take(table);
    let own = match merged.table.remove("arch").map(Spanned::into_inner) {
        Some(DeValue::Table(mut all)) => all.remove(name).map(Spanned::into_inner),
        _ => None,
    };
    if let Some(DeValue::Table(own)) = own {
        merge(&mut merged, own);
    }
    if let Some(image) = merged.table.get_mut("image")
        && let DeValue::Table(image) = image.get_mut()
        && let Some(arch) = image.get_mut("arch")
    {
        *arch.get_mut() = DeValue::String(name.to_owned().into());
    }
    *table = merged.table;
}

/// Tables in tables down to the value.
fn nested<'a>(path: &[String], span: &Range<usize>, value: Spanned<DeValue<'a>>) -> DeTable<'a> {
    let mut table = DeTable::new();
    let Some((first, rest)) = path.split_first() else {
        return table;
    };
    let value = if rest.is_empty() {
        value
    } else {
        Spanned::new(span.clone(), DeValue::Table(nested(rest, span, value)))
    };
    table.insert(Spanned::new(span.clone(), first.clone().into()), value);
    table
}

fn text_of(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        let absent = error.kind() == std::io::ErrorKind::NotFound;
        let failure = Exit::Usage
            .error(format!("cannot read the configuration {}", path.display()))
            .because(error);
        if absent {
            failure
                .hint("`imagebuilder init` writes a commented one; `--config FILE` names another")
        } else {
            failure
        }
    })
}
