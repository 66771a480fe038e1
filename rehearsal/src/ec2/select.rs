//! Selection in Describe calls: filters with wildcards, and pages.

use std::borrow::Borrow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::tags::Tags;
use crate::table::Table;
use crate::wire::{ApiError, Params, Xml};

/// The specification of a Describe call: its ids, page sizes and filters.
///
/// Rule: filters are checked against those that AWS documents for the call before resources are selected, so that an
/// unknown filter is refused even when there is nothing to filter.
#[derive(Debug)]
pub(crate) struct CallSpec {
    /// The parameter with resource ids, such as `InstanceId`; empty where there is none.
    pub(crate) ids: &'static str,
    /// EC2's name for it where it cannot be used with `MaxResults`, such as `instancesSet`.
    pub(crate) ids_alone: Option<&'static str>,
    /// Bounds of `MaxResults`.
    pub(crate) page: (i64, i64),
    /// Filters for which resources here have values.
    pub(crate) filters: &'static [&'static str],
    /// Documented filters for which no resource here has values: accepted, and nothing passes them.
    pub(crate) absent: &'static [&'static str],
    /// Whether `tag:<key>`, `tag-key` and `tag-value` are accepted.
    pub(crate) tags: bool,
}

impl CallSpec {
    /// A call with pages of the usual size and no filters.
    pub(crate) const USUAL: Self = Self {
        ids: "",
        ids_alone: None,
        page: (5, 1000),
        filters: &[],
        absent: &[],
        tags: false,
    };

    fn accepts(&self, filter: &str) -> bool {
        let is_tag = filter.starts_with("tag:") || ["tag-key", "tag-value"].contains(&filter);
        self.filters.contains(&filter) || self.absent.contains(&filter) || (self.tags && is_tag)
    }
}

/// `Filter.N` of a request: a resource must pass all of them.
#[derive(Clone, Debug)]
pub(crate) struct Filters {
    all: Vec<Filter>,
    spec: &'static CallSpec,
}

#[derive(Clone, Debug)]
struct Filter {
    name: String,
    values: Vec<String>,
}

impl Filters {
    /// Reads `Filter.N.Name` and `Filter.N.Value.M`.
    ///
    /// # Errors
    /// `InvalidParameterValue` for a filter that the call does not accept, or one without a name or values.
    pub(crate) fn read(params: &Params, spec: &'static CallSpec) -> Result<Self, ApiError> {
        let mut filters = Vec::new();
        for filter in params.structs("Filter") {
            let name = filter.required("Name")?.to_owned();
            if !spec.accepts(&name) {
                return Err(ApiError::new(
                    "InvalidParameterValue",
                    format!("The filter '{name}' is invalid"),
                ));
            }
            let mut values = filter.strings("Value");
            if values.is_empty() {
                values = filter.strings("Values");
            }
            if values.is_empty() {
                return Err(ApiError::new(
                    "InvalidParameterValue",
                    format!("The filter '{name}' has no values"),
                ));
            }
            filters.push(Filter { name, values });
        }
        Ok(Self { all: filters, spec })
    }

    /// Whether a resource with these tags passes. `field` returns the resource's values for a filter (one match
    /// suffices).
    ///
    /// # Errors
    /// `InternalError` when `field` has no value for a filter that the call accepts.
    pub(crate) fn pass(
        &self,
        tags: Option<&Tags>,
        mut field: impl FnMut(&str) -> Option<Vec<String>>,
    ) -> Result<bool, ApiError> {
        for filter in &self.all {
            let name = filter.name.as_str();
            let has = if let Some(key) = name.strip_prefix("tag:") {
                tags.and_then(|tags| tags.get(key))
                    .cloned()
                    .into_iter()
                    .collect()
            } else if name == "tag-key" {
                tags.map(|tags| tags.keys().cloned().collect())
                    .unwrap_or_default()
            } else if name == "tag-value" {
                tags.map(|tags| tags.values().cloned().collect())
                    .unwrap_or_default()
            } else if self.spec.absent.contains(&name) {
                Vec::new()
            } else {
                field(name).ok_or_else(|| {
                    ApiError::internal(format!("the filter '{name}' has no values here"))
                })?
            };
            if !has
                .iter()
                .any(|value| filter.values.iter().any(|pattern| glob(pattern, value)))
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// EC2's wildcards: `*` matches any text, `?` one character, and a backslash makes the next character literal.
pub(crate) fn glob(pattern: &str, text: &str) -> bool {
    #[derive(Clone, Copy)]
    enum Piece {
        Any,
        One,
        Exactly(char),
    }
    let mut pieces = Vec::new();
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        pieces.push(match character {
            '*' => Piece::Any,
            '?' => Piece::One,
            '\\' => Piece::Exactly(characters.next().unwrap_or('\\')),
            other => Piece::Exactly(other),
        });
    }
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut here) = (0, 0);
    // The position of the last `*`, and how much it matches: one more after each mismatch.
    let mut star: Option<(usize, usize)> = None;
    while here < text.len() {
        match pieces.get(at) {
            Some(Piece::Any) => {
                star = Some((at, here));
                at += 1;
                continue;
            }
            Some(Piece::One) => {}
            Some(Piece::Exactly(character)) if *character == text[here] => {}
            _ => {
                let Some((back, swallowed)) = star else {
                    return false;
                };
                star = Some((back, swallowed + 1));
                at = back + 1;
                here = swallowed + 1;
                continue;
            }
        }
        at += 1;
        here += 1;
    }
    pieces[at..].iter().all(|piece| matches!(piece, Piece::Any))
}

/// `MaxResults` and `NextToken` of a request.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    limit: usize,
    after: Option<String>,
}

/// One page of items, each with the key it is ordered by.
#[derive(Debug)]
pub(crate) struct Paged<T> {
    /// What is on the page.
    pub(crate) items: Vec<T>,
    /// The token for the next one.
    pub(crate) next: Option<String>,
}

impl Page {
    /// Reads the requested page.
    ///
    /// # Errors
    /// When the token is not valid, or the size is out of range.
    pub(crate) fn read(params: &Params, spec: &CallSpec) -> Result<Self, ApiError> {
        let (least, most) = spec.page;
        let beyond = |limit: i64, side: &str, bound: i64| {
            Err(ApiError::new(
                "InvalidParameterValue",
                format!(
                    "Value ( {limit} ) for parameter maxResults is invalid. Expecting a value {side} than {bound}."
                ),
            ))
        };
        let limit = match params.integer("MaxResults")? {
            None => usize::MAX,
            Some(limit) if limit < least => return beyond(limit, "greater", least),
            Some(limit) if limit > most => return beyond(limit, "smaller", most),
            Some(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        if let Some(ids) = spec.ids_alone
            && params.has("MaxResults")
            && !params.list(spec.ids).is_empty()
        {
            return Err(ApiError::new(
                "InvalidParameterCombination",
                format!("The parameter {ids} cannot be used with the parameter maxResults"),
            ));
        }
        let after = match params.text("NextToken") {
            None | Some("") => None,
            Some(token) => Some(
                URL_SAFE_NO_PAD
                    .decode(token)
                    .ok()
                    .and_then(|bytes| String::from_utf8(bytes).ok())
                    .ok_or_else(|| {
                        ApiError::new("InvalidParameterValue", "Unable to parse pagination token")
                    })?,
            ),
        };
        Ok(Self { limit, after })
    }

    /// Selects the page from `items`, which are ordered by key.
    pub(crate) fn cut<T>(&self, items: impl IntoIterator<Item = (String, T)>) -> Paged<T> {
        let mut rest = items
            .into_iter()
            .skip_while(|(key, _)| self.after.as_ref().is_some_and(|after| key <= after))
            .peekable();
        let mut page = Paged {
            items: Vec::new(),
            next: None,
        };
        let mut last = String::new();
        while page.items.len() < self.limit
            && let Some((key, item)) = rest.next()
        {
            last = key;
            page.items.push(item);
        }
        if rest.peek().is_some() {
            page.next = Some(URL_SAFE_NO_PAD.encode(last));
        }
        page
    }
}

/// A Describe call over resources by id: requested ids, filters, page, and the list in the answer.
pub(crate) struct Describe<'a> {
    /// The request.
    pub(crate) params: &'a Params,
    /// All tags by resource id.
    pub(crate) tags: &'a Table<String, Tags>,
    /// The requested ids (`ImageId` and the like); empty for all.
    pub(crate) wanted: Vec<&'a str>,
    spec: &'static CallSpec,
}

impl<'a> Describe<'a> {
    /// A Describe call that accepts what `spec` lists.
    pub(crate) fn new(
        params: &'a Params,
        tags: &'a Table<String, Tags>,
        spec: &'static CallSpec,
    ) -> Self {
        Self {
            params,
            tags,
            wanted: params.list(spec.ids),
            spec,
        }
    }

    /// The resources on the requested page.
    ///
    /// # Errors
    /// `missing(ids)` for unknown ids, in the order of the request; the errors of filters and pages.
    pub(crate) fn choose<K: Ord + Clone + Borrow<str>, T: Clone>(
        &self,
        all: &'a Table<K, T>,
        missing: impl Fn(&[&str]) -> ApiError,
        field: impl Fn(&T, &str) -> Option<Vec<String>>,
    ) -> Result<Paged<&'a T>, ApiError> {
        self.choose_where(all, |_| true, missing, field)
    }

    /// [`Describe::choose`] among the resources that are `shown`.
    ///
    /// # Errors
    /// As [`Describe::choose`]; a resource that is not shown is not missing.
    pub(crate) fn choose_where<K: Ord + Clone + Borrow<str>, T: Clone>(
        &self,
        all: &'a Table<K, T>,
        shown: impl Fn(&T) -> bool,
        missing: impl Fn(&[&str]) -> ApiError,
        field: impl Fn(&T, &str) -> Option<Vec<String>>,
    ) -> Result<Paged<&'a T>, ApiError> {
        let filters = Filters::read(self.params, self.spec)?;
        let page = Page::read(self.params, self.spec)?;
        let mut unknown = self.wanted.clone();
        unknown.retain(|id| !all.contains_key(*id));
        if !unknown.is_empty() {
            return Err(missing(&unknown));
        }
        let mut chosen = Vec::new();
        // A request with ids must not visit all resources.
        let mut wanted = self.wanted.clone();
        wanted.sort_unstable();
        wanted.dedup();
        let named = wanted.into_iter().filter_map(|id| all.get_key_value(id));
        let every = all.iter().filter(|_| self.wanted.is_empty());
        for (id, resource) in named.chain(every) {
            let id: &str = id.borrow();
            if shown(resource) && filters.pass(self.tags.get(id), |name| field(resource, name))? {
                chosen.push((id.to_owned(), resource));
            }
        }
        Ok(page.cut(chosen))
    }
}

impl<T> Paged<T> {
    /// Writes the page as `<name><item>…</item></name>` and its token.
    pub(crate) fn write(self, xml: &mut Xml, name: &str, each: impl FnMut(&mut Xml, T)) {
        xml.list(name, "item", self.items, each)
            .maybe("nextToken", self.next);
    }
}

/// EC2's message for unknown resources: one, or several together.
pub(crate) fn absent(one: &str, several: &str, ids: &[&str]) -> String {
    match ids {
        [id] => format!("The {one} '{id}' does not exist"),
        ids => format!("The {several} '{}' do not exist", ids.join(", ")),
    }
}

/// Shorthand for a filter field of one value.
pub(crate) fn one(value: impl ToString) -> Option<Vec<String>> {
    Some(vec![value.to_string()])
}

/// Shorthand for a filter field of several values.
pub(crate) fn each(values: impl IntoIterator<Item = impl ToString>) -> Option<Vec<String>> {
    Some(values.into_iter().map(|value| value.to_string()).collect())
}

/// Shorthand for a filter field that may be absent.
pub(crate) fn maybe(value: Option<impl ToString>) -> Option<Vec<String>> {
    Some(value.into_iter().map(|value| value.to_string()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, text, matches) in [
            ("debian-12-amd64-*", "debian-12-amd64-20260101-1234", true),
            ("debian-12-amd64-*", "debian-13-amd64-20260101-1234", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*b*b", "abcb", true),
            ("*b*b", "abcbc", false),
            (r"a\*", "a*", true),
            (r"a\*", "ab", false),
            ("ABC", "abc", false),
        ] {
            assert_eq!(glob(pattern, text), matches, "{pattern} against {text}");
        }
    }

    const TAKES: CallSpec = CallSpec {
        page: (3, 1000),
        filters: &["state", "owner-id"],
        absent: &["kernel-id"],
        tags: true,
        ids: "Id",
        ids_alone: Some("idSet"),
    };

    #[test]
    fn every_filter_must_pass_and_unknown_ones_are_refused() {
        let field = |name: &str| match name {
            "state" => one("available"),
            "owner-id" => one("1"),
            _ => None,
        };
        let tags = Tags::from([("role".to_owned(), "web".to_owned())]);
        let pass = |form: &str| {
            Filters::read(&Params::parse(form.as_bytes()), &TAKES)
                .and_then(|filters| filters.pass(Some(&tags), field))
        };
        assert_eq!(pass(""), Ok(true));
        assert_eq!(
            pass("Filter.1.Name=state&Filter.1.Value.1=pending&Filter.1.Value.2=avail*"),
            Ok(true)
        );
        assert_eq!(
            pass(
                "Filter.1.Name=state&Filter.1.Value.1=available&Filter.2.Name=owner-id&Filter.2.Value.1=2"
            ),
            Ok(false)
        );
        assert_eq!(
            pass("Filter.1.Name=tag:role&Filter.1.Value.1=w?b"),
            Ok(true)
        );
        assert_eq!(pass("Filter.1.Name=tag:none&Filter.1.Value.1=*"), Ok(false));
        assert_eq!(
            pass("Filter.1.Name=tag-key&Filter.1.Value.1=role"),
            Ok(true)
        );
        assert_eq!(
            pass("Filter.1.Name=kernel-id&Filter.1.Value.1=*"),
            Ok(false)
        );
        assert_eq!(
            pass("Filter.1.Name=colour&Filter.1.Value.1=red")
                .unwrap_err()
                .code,
            "InvalidParameterValue"
        );
        assert_eq!(
            pass("Filter.1.Name=state").unwrap_err().code,
            "InvalidParameterValue"
        );
    }

    #[test]
    fn an_unknown_filter_is_refused_where_there_is_nothing() {
        let params = Params::parse(b"Filter.1.Name=colour&Filter.1.Value.1=red");
        let (tags, none) = (Table::default(), Table::<String, ()>::default());
        let missing = |_: &[&str]| ApiError::internal("none was asked for");
        let chosen = Describe::new(&params, &tags, &TAKES).choose(&none, missing, |(), _| None);
        assert_eq!(
            chosen.unwrap_err().message,
            "The filter 'colour' is invalid"
        );
    }

    #[test]
    fn pages_follow_one_another_and_end() {
        let items = || ["a", "b", "c", "d"].map(|key| (key.to_owned(), key));
        let read = |form: &str| Page::read(&Params::parse(form.as_bytes()), &TAKES);
        let first = read("MaxResults=3").unwrap().cut(items());
        assert_eq!(first.items, ["a", "b", "c"]);
        let form = format!("MaxResults=3&NextToken={}", first.next.unwrap());
        let second = read(&form).unwrap().cut(items());
        assert_eq!(second.items, ["d"]);
        assert_eq!(second.next, None);
        let exact = read("MaxResults=4").unwrap().cut(items());
        assert_eq!(exact.next, None);
        assert!(read("NextToken=%25%25").is_err());
        for (form, message) in [
            (
                "MaxResults=2",
                "Value ( 2 ) for parameter maxResults is invalid. Expecting a value greater than 3.",
            ),
            (
                "MaxResults=1001",
                "Value ( 1001 ) for parameter maxResults is invalid. Expecting a value smaller than 1000.",
            ),
            (
                "MaxResults=3&Id.1=a",
                "The parameter idSet cannot be used with the parameter maxResults",
            ),
        ] {
            assert_eq!(read(form).expect_err(form).message, message, "{form}");
        }
    }
}
