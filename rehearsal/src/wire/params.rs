//! Parameters of the query protocols, as typed lookups over a flat form.
//!
//! `Filter.1.Name`, `Tags.member.2.Key` and `Placement.AvailabilityZone` are keys of one flat map; [`Params::structs`],
//! [`Params::list`] and [`Params::structure`] restore the nesting.

use std::collections::BTreeMap;

use super::ApiError;

/// A request's parameters, or the part of them below some name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Params(BTreeMap<String, String>);

impl Params {
    /// Reads a form (`application/x-www-form-urlencoded`), as a body or as a query string.
    pub(crate) fn parse(form: &[u8]) -> Self {
        Self(form_urlencoded::parse(form).into_owned().collect())
    }

    /// Adds the parameters of `other` that are missing here.
    pub(crate) fn merge(&mut self, other: Self) {
        for (name, value) in other.0 {
            self.0.entry(name).or_insert(value);
        }
    }

    /// The value, when the parameter was sent. An empty value counts as sent.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value as an owned string.
    pub(crate) fn string(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    /// The value of a required parameter.
    ///
    /// # Errors
    /// `MissingParameter`, with EC2's message.
    pub(crate) fn required(&self, name: &str) -> Result<&str, ApiError> {
        match self.text(name) {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(ApiError::missing(name)),
        }
    }

    /// A whole number.
    ///
    /// # Errors
    /// `InvalidParameterValue` when it is not one.
    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        self.text(name)
            .map(|text| {
                text.parse()
                    .map_err(|_| ApiError::invalid_value(name, text, "it is not an integer"))
            })
            .transpose()
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// `InvalidParameterValue` when it is neither.
    pub(crate) fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        self.text(name)
            .map(|text| match text {
                "true" | "True" | "1" => Ok(true),
                "false" | "False" | "0" => Ok(false),
                _ => Err(ApiError::invalid_value(name, text, "it is not a boolean")),
            })
            .transpose()
    }

    /// `Name.1`, `Name.2`… or `Name.member.1`…, in the order of their numbers.
    pub(crate) fn list(&self, name: &str) -> Vec<&str> {
        let mut found: Vec<(u64, &str)> = self
            .below(name)
            .filter_map(|(rest, value)| {
                Some((
                    rest.strip_prefix("member.").unwrap_or(rest).parse().ok()?,
                    value,
                ))
            })
            .collect();
        found.sort_by_key(|(number, _)| *number);
        found.into_iter().map(|(_, value)| value).collect()
    }

    /// [`Params::list`], owned.
    pub(crate) fn strings(&self, name: &str) -> Vec<String> {
        self.list(name).into_iter().map(str::to_owned).collect()
    }

    /// `Name.1.…`, `Name.2.…` (or with `member.`), each as parameters of its own, in order.
    pub(crate) fn structs(&self, name: &str) -> Vec<Self> {
        let mut found: BTreeMap<u64, Self> = BTreeMap::new();
        for (rest, value) in self.below(name) {
            let rest = rest.strip_prefix("member.").unwrap_or(rest);
            let Some((number, field)) = rest.split_once('.') else {
                continue;
            };
            let Ok(number) = number.parse() else { continue };
            found
                .entry(number)
                .or_default()
                .0
                .insert(field.to_owned(), value.to_owned());
        }
        found.into_values().collect()
    }

    /// Everything below `Name.`, without that prefix; empty when nothing was sent.
    pub(crate) fn structure(&self, name: &str) -> Self {
        Self(
            self.below(name)
                .map(|(rest, value)| (rest.to_owned(), value.to_owned()))
                .collect(),
        )
    }

    /// Whether there are no parameters.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `name` itself or anything below it was sent.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name) || self.below(name).next().is_some()
    }

    /// All parameters, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn below<'a>(&'a self, name: &str) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let prefix = format!("{name}.");
        self.0
            .range(prefix.clone()..)
            .take_while({
                let prefix = prefix.clone();
                move |(key, _)| key.starts_with(&prefix)
            })
            .map(move |(key, value)| (&key[prefix.len()..], value.as_str()))
    }
}

impl From<BTreeMap<String, String>> for Params {
    fn from(flat: BTreeMap<String, String>) -> Self {
        Self(flat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(form: &str) -> Params {
        Params::parse(form.as_bytes())
    }

    #[test]
    fn lists_come_in_the_order_of_their_numbers() {
        let p = params("Id.10=j&Id.2=b&Id.1=a&Idx.1=no&Zones.member.2=z2&Zones.member.1=z1");
        assert_eq!(p.list("Id"), ["a", "b", "j"]);
        assert_eq!(p.list("Zones"), ["z1", "z2"]);
        assert!(p.list("Nothing").is_empty());
    }

    #[test]
    fn structs_nest() {
        let p = params(
            "Filter.1.Name=name&Filter.1.Value.1=debian-12-*&Filter.2.Name=state&Filter.2.Value.1=available\
             &Tags.member.1.Key=k&Tags.member.1.Value=a%20b&Placement.AvailabilityZone=us-east-1a",
        );
        let filters = p.structs("Filter");
        assert_eq!(filters.len(), 2);
        assert_eq!(filters[0].text("Name"), Some("name"));
        assert_eq!(filters[0].list("Value"), ["debian-12-*"]);
        assert_eq!(p.structs("Tags")[0].text("Value"), Some("a b"));
        assert_eq!(
            p.structure("Placement").text("AvailabilityZone"),
            Some("us-east-1a")
        );
        assert!(p.has("Placement"));
        assert!(!p.has("Place"));
    }

    #[test]
    fn wrong_values_are_refused_by_name() {
        let p = params("Count=three&Flag=maybe&Empty=");
        assert_eq!(
            p.integer("Count").unwrap_err().code,
            "InvalidParameterValue"
        );
        assert_eq!(p.boolean("Flag").unwrap_err().code, "InvalidParameterValue");
        assert_eq!(p.required("Empty").unwrap_err().code, "MissingParameter");
        assert_eq!(p.integer("Absent").unwrap(), None);
        assert!(params("DryRun=true").boolean("DryRun").unwrap().unwrap());
    }
}
