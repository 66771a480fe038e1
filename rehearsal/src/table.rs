//! Tables: the cloud's collections, by key.
//!
//! Rule: a request costs what it changes, not what there is. A [`Table`] is a persistent map: a copy takes constant
//! time and shares what is equal, and comparing two of them visits only what differs. So changes to the state need no
//! bookkeeping: [`Changes`] finds them by comparing before and after, and misses none.

use std::borrow::Borrow;
use std::ops::{Index, IndexMut};

use anyhow::Context as _;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Rows by key, in the keys' order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table<K: Ord, V: Clone>(OrdMap<K, V>)
where
    K: Clone;

impl<K: Ord + Clone, V: Clone> Default for Table<K, V> {
    fn default() -> Self {
        Self(OrdMap::new())
    }
}

impl<K: Ord + Clone, V: Clone> Table<K, V> {
    /// The row of that key.
    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key)
    }

    /// The row of that key, to change it. Copies it and a few rows beside it: check first whether there is anything to
    /// change.
    pub(crate) fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.0.get_mut(key)
    }

    /// The row of that key, with the stored key.
    pub(crate) fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        self.0.get_key_value(key)
    }

    /// Whether there is a row of that key.
    pub(crate) fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.contains_key(key)
    }

    /// Adds or replaces a row; returns the previous one.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.0.insert(key, value)
    }

    /// Removes a row.
    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.0.remove(key)
    }

    /// Changes a row, which is created by default if there is none.
    pub(crate) fn update(&mut self, key: K, change: impl FnOnce(&mut V))
    where
        V: Default,
    {
        change(self.0.entry(key).or_default());
    }

    /// Changes the rows for which `wanted`; the others are not copied.
    pub(crate) fn update_where(
        &mut self,
        wanted: impl Fn(&K, &V) -> bool,
        mut change: impl FnMut(&K, &mut V),
    ) {
        let keys: Vec<K> = self
            .iter()
            .filter(|(key, value)| wanted(key, value))
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            if let Some(value) = self.0.get_mut(&key) {
                change(&key, value);
            }
        }
    }

    /// Removes the rows for which `unwanted`.
    pub(crate) fn remove_where(&mut self, unwanted: impl Fn(&K, &V) -> bool) {
        let keys: Vec<K> = self
            .iter()
            .filter(|(key, value)| unwanted(key, value))
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            self.0.remove(&key);
        }
    }

    /// All rows, by key.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.0.iter()
    }

    /// All keys, in order.
    pub(crate) fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.0.keys()
    }

    /// All rows, in the order of their keys.
    pub(crate) fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.0.values()
    }

    /// The last key.
    pub(crate) fn last_key(&self) -> Option<&K> {
        self.0.get_max().map(|(key, _)| key)
    }

    /// The first key.
    pub(crate) fn first_key(&self) -> Option<&K> {
        self.0.get_min().map(|(key, _)| key)
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rows that differ between this table and a later copy of it, by key; the later row, or `None` for a removed
    /// one. Costs what differs.
    pub(crate) fn changes<'a>(
        &'a self,
        after: &'a Self,
    ) -> impl Iterator<Item = (&'a K, Option<&'a V>, Option<&'a V>)>
    where
        V: PartialEq,
    {
        self.0.diff(&after.0).map(|item| match item {
            DiffItem::Add(key, value) => (key, None, Some(value)),
            DiffItem::Update {
                old: (_, old),
                new: (key, new),
            } => (key, Some(old), Some(new)),
            DiffItem::Remove(key, value) => (key, Some(value), None),
        })
    }
}

impl<K, V, Q> Index<&Q> for Table<K, V>
where
    K: Ord + Clone + Borrow<Q>,
    V: Clone,
    Q: Ord + ?Sized,
{
    type Output = V;

    /// # Panics
    /// When there is no such row.
    fn index(&self, key: &Q) -> &V {
        match self.0.get(key) {
            Some(value) => value,
            None => panic!("no row of that key"),
        }
    }
}

impl<K: Ord + Clone, V: Clone, const N: usize> From<[(K, V); N]> for Table<K, V> {
    fn from(rows: [(K, V); N]) -> Self {
        rows.into_iter().collect()
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for Table<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(rows: I) -> Self {
        Self(rows.into_iter().collect())
    }
}

impl<'a, K: Ord + Clone, V: Clone> IntoIterator for &'a Table<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = imbl::ordmap::Iter<'a, K, V, imbl::shared_ptr::DefaultSharedPtr>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// A list with stable places: a removed item leaves a gap, so that a place always refers to the same item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Series<T: Clone>(Table<usize, T>);

impl<T: Clone> Default for Series<T> {
    fn default() -> Self {
        Self(Table::default())
    }
}

impl<T: Clone> Series<T> {
    /// Adds an item at the end; returns its place.
    pub(crate) fn push(&mut self, value: T) -> usize {
        let place = self.0.last_key().map_or(0, |last| last + 1);
        self.0.insert(place, value);
        place
    }

    /// Puts an item at its place.
    pub(crate) fn put(&mut self, place: usize, value: T) {
        self.0.insert(place, value);
    }

    /// Removes the item at a place.
    pub(crate) fn remove(&mut self, place: usize) -> Option<T> {
        self.0.remove(&place)
    }

    /// Removes the first `count` items.
    pub(crate) fn forget_first(&mut self, count: usize) {
        for _ in 0..count {
            let Some(first) = self.0.first_key().copied() else {
                return;
            };
            self.0.remove(&first);
        }
    }

    /// The item at a place, to change it.
    pub(crate) fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        self.0.get_mut(&place)
    }

    /// All places, in order.
    pub(crate) fn places(&self) -> Vec<usize> {
        self.0.keys().copied().collect()
    }

    /// The last place whose item is wanted.
    pub(crate) fn last_where(&self, wanted: impl Fn(&T) -> bool) -> Option<usize> {
        self.0
            .iter()
            .rev()
            .find(|(_, value)| wanted(value))
            .map(|(place, _)| *place)
    }

    /// The first place whose item is wanted.
    pub(crate) fn first_where(&self, wanted: impl Fn(&T) -> bool) -> Option<usize> {
        self.0
            .iter()
            .find(|(_, value)| wanted(value))
            .map(|(place, _)| *place)
    }

    /// Changes the items for which `wanted`; the others are not copied.
    pub(crate) fn update_where(
        &mut self,
        wanted: impl Fn(&T) -> bool,
        mut change: impl FnMut(&mut T),
    ) {
        self.0
            .update_where(|_, value| wanted(value), |_, value| change(value));
    }

    /// Removes the items for which `unwanted`.
    pub(crate) fn remove_where(&mut self, unwanted: impl Fn(&T) -> bool) {
        self.0.remove_where(|_, value| unwanted(value));
    }

    /// All, in order.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.0.values()
    }

    /// The last.
    pub(crate) fn last(&self) -> Option<&T> {
        self.0.values().next_back()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T: Clone> Index<usize> for Series<T> {
    type Output = T;

    /// # Panics
    /// When nothing is at that place.
    fn index(&self, place: usize) -> &T {
        &self.0[&place]
    }
}

impl<T: Clone> IndexMut<usize> for Series<T> {
    /// # Panics
    /// When nothing is at that place.
    fn index_mut(&mut self, place: usize) -> &mut T {
        match self.0.get_mut(&place) {
            Some(value) => value,
            None => panic!("nothing at place {place}"),
        }
    }
}

/// A row as it is stored: its table, its key, and its JSON, or `None` when it is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// e.g. `ec2.instances`
    pub(crate) table: &'static str,
    /// e.g. `i-…`
    pub(crate) key: String,
    /// Its content.
    pub(crate) value: Option<Vec<u8>>,
}

/// Collects what changed.
#[derive(Debug, Default)]
pub(crate) struct Changes(pub(crate) Vec<Row>);

impl Changes {
    /// A row of its own, such as a service's counters.
    pub(crate) fn single<T: Serialize + PartialEq>(
        &mut self,
        table: &'static str,
        before: &T,
        after: &T,
    ) {
        if before != after {
            self.put(table, String::new(), Some(after));
        }
    }

    /// The rows of a table.
    pub(crate) fn table<K: Ord + Clone + AsRef<str>, V: Clone + Serialize + PartialEq>(
        &mut self,
        table: &'static str,
        before: &Table<K, V>,
        after: &Table<K, V>,
    ) {
        for (key, _, now) in before.changes(after) {
            self.put(table, key.as_ref().to_owned(), now);
        }
    }

    /// The items of a series, stored as rows below the key of their parent.
    pub(crate) fn series<T: Clone + Serialize + PartialEq>(
        &mut self,
        table: &'static str,
        parent: impl AsRef<str>,
        before: &Series<T>,
        after: &Series<T>,
    ) {
        for (place, _, now) in before.0.changes(&after.0) {
            self.put(table, format!("{}{UNDER}{place:010}", parent.as_ref()), now);
        }
    }

    /// One row.
    pub(crate) fn put<T: Serialize>(&mut self, table: &'static str, key: String, now: Option<&T>) {
        let value = now.map(|now| {
            // Rows are plain data with text keys, which JSON can always represent.
            serde_json::to_vec(now).unwrap_or_else(|error| unreachable!("{table} {key}: {error}"))
        });
        self.0.push(Row { table, key, value });
    }
}

/// Separates a parent's key from a place in the key of a series' row: no name contains it.
const UNDER: char = '\u{1f}';

/// Parent and place in the key of a row of a series.
///
/// # Errors
/// When it is none.
pub(crate) fn place(key: &str) -> anyhow::Result<(&str, usize)> {
    let (parent, place) = key.rsplit_once(UNDER).context("no place in the key")?;
    Ok((parent, place.parse().context("a place that is no number")?))
}

/// Reads a row's JSON.
///
/// # Errors
/// When it was written by another release.
pub(crate) fn read<T: DeserializeOwned>(value: &[u8]) -> anyhow::Result<T> {
    Ok(serde_json::from_slice(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rows: &[(&str, u32)]) -> Table<String, u32> {
        rows.iter()
            .map(|(key, value)| ((*key).to_owned(), *value))
            .collect()
    }

    #[test]
    fn what_differs_is_found_and_nothing_else() {
        let before = of(&[("a", 1), ("b", 2), ("c", 3)]);
        let mut after = before.clone();
        after.insert("d".to_owned(), 4);
        after.remove("a");
        *after.get_mut("b").unwrap() = 5;
        // Touched and not changed.
        *after.get_mut("c").unwrap() = 3;
        let mut changes = Changes::default();
        changes.table("t", &before, &after);
        let found: Vec<_> = changes
            .0
            .iter()
            .map(|row| (row.key.as_str(), row.value.as_deref().map(<[u8]>::to_vec)))
            .collect();
        assert_eq!(
            found,
            [
                ("a", None),
                ("b", Some(b"5".to_vec())),
                ("d", Some(b"4".to_vec()))
            ]
        );
    }

    thread_local! {
        static COMPARED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    /// Counts how often it is compared.
    #[derive(Clone, Serialize)]
    struct Counted(usize);

    impl PartialEq for Counted {
        fn eq(&self, other: &Self) -> bool {
            COMPARED.set(COMPARED.get() + 1);
            self.0 == other.0
        }
    }

    #[test]
    fn what_is_equal_is_neither_copied_nor_compared() {
        let before: Table<String, Counted> = (0..10_000)
            .map(|number| (format!("{number:05}"), Counted(number)))
            .collect();
        let mut after = before.clone();
        after.insert("05000".to_owned(), Counted(0));
        COMPARED.set(0);
        let mut changes = Changes::default();
        changes.table("t", &before, &after);
        assert_eq!(changes.0.len(), 1);
        // No more than a node and what it shares a path with.
        assert!(COMPARED.get() < 200, "{}", COMPARED.get());
    }

    #[test]
    fn only_wanted_rows_are_changed() {
        let mut table = of(&[("a", 1), ("b", 2)]);
        table.update_where(|_, value| *value > 1, |_, value| *value += 1);
        table.remove_where(|key, _| key == "a");
        assert_eq!(table, of(&[("b", 3)]));
    }
}
