//! One table over another: tables merge key by key, everything else replaces.
//!
//! Arrays replace as a whole, arrays of tables too: their elements have no names by which one could be meant.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// All layers so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Merged<'a> {
    /// The values; each has the span of the layer that set it.
    pub(super) table: DeTable<'a>,
    /// A table in one layer, something else in another.
    pub(super) conflicts: Vec<Conflict>,
    /// Spans of values that replaced one, with the span of that one.
    replaced: Vec<(Range<usize>, Range<usize>)>,
}

/// A key that is a table in one layer and something else in a later one.
#[derive(Clone, Debug)]
pub(super) struct Conflict {
    /// The dotted key.
    pub(super) key: String,
    /// Where the later layer has it.
    pub(super) over: Range<usize>,
    /// As what.
    pub(super) over_kind: &'static str,
    /// Where the earlier layer has it.
    pub(super) under: Range<usize>,
    /// As what.
    pub(super) under_kind: &'static str,
}

impl Merged<'_> {
    /// The span of the value that a value at this span, or around it, replaced.
    pub(super) fn replaced_by(&self, span: &Range<usize>) -> Option<&Range<usize>> {
        let mut newest = self.replaced.iter().rev();
        newest
            .find(|(new, _)| new.start <= span.start && span.end <= new.end)
            .map(|(_, old)| old)
    }

    /// The spans of all values that a value at this span replaced, newest first.
    pub(super) fn history(&self, span: &Range<usize>) -> Vec<&Range<usize>> {
        let mut all = Vec::new();
        let mut at = span;
        // Every step leads to an earlier layer, whose offsets are lower.
        while let Some((_, old)) = self.replaced.iter().find(|(new, _)| new == at) {
            all.push(old);
            at = old;
        }
        all
    }

    /// The span of the value of a key.
    pub(super) fn span(&self, path: &[String]) -> Option<Range<usize>> {
        let (last, tables) = path.split_last()?;
        let mut table = &self.table;
        for key in tables {
            table = table.get(key.as_str())?.get_ref().as_table()?;
        }
        table.get(last.as_str()).map(Spanned::span)
    }
}

/// Puts a layer over those that are merged.
pub(super) fn merge<'a>(merged: &mut Merged<'a>, over: DeTable<'a>) {
    let mut table = std::mem::take(&mut merged.table);
    merge_table(&mut table, over, &mut Vec::new(), merged);
    merged.table = table;
}

fn merge_table<'a>(
    under: &mut DeTable<'a>,
    over: DeTable<'a>,
    path: &mut Vec<String>,
    merged: &mut Merged<'a>,
) {
    for (key, value) in over {
        let Some((old_key, old)) = under.remove_entry(&key) else {
            under.insert(key, value);
            continue;
        };
        path.push(super::arguments::quoted_key(key.get_ref()));
        let (old_span, span) = (old.span(), value.span());
        match (old.into_inner(), value.into_inner()) {
            (DeValue::Table(mut below), DeValue::Table(above)) => {
                merge_table(&mut below, above, path, merged);
                under.insert(old_key, Spanned::new(old_span, DeValue::Table(below)));
            }
            (below, above) => {
                if below.is_table() != above.is_table() {
                    merged.conflicts.push(Conflict {
                        key: path.join("."),
                        over: span.clone(),
                        over_kind: kind(&above),
                        under: old_span.clone(),
                        under_kind: kind(&below),
                    });
                }
                merged.replaced.push((span.clone(), old_span));
                under.insert(key, Spanned::new(span, above));
            }
        }
        path.pop();
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
