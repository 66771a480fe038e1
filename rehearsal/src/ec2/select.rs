//! How every Describe call chooses: by filters with globs, and page by page.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::tags::Tags;
use crate::table::Table;
use crate::wire::{ApiError, Params, Xml};

/// `Filter.N` of a request: a resource passes when it passes each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filters(Vec<Filter>);

#[derive(Clone, Debug)]
struct Filter {
    name: String,
    values: Vec<String>,
}

impl Filters {
    /// Reads `Filter.N.Name` and `Filter.N.Value.M`.
    ///
    /// # Errors
    /// `InvalidParameterValue` for a filter without a name or values.
    pub(crate) fn read(params: &Params) -> Result<Self, ApiError> {
        let mut filters = Vec::new();
        for filter in params.structs("Filter") {
            let name = filter.required("Name")?.to_owned();
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
        Ok(Self(filters))
    }

    /// Whether a resource with these tags passes. `field` gives the values the resource has for a
    /// filter's name (any one matching suffices), or `None` for a name the resource kind does not know.
    ///
    /// # Errors
    /// `InvalidParameterValue` for an unknown filter.
    pub(crate) fn pass(
        &self,
        tags: Option<&Tags>,
        mut field: impl FnMut(&str) -> Option<Vec<String>>,
    ) -> Result<bool, ApiError> {
        for filter in &self.0 {
            let has = if let Some(key) = filter.name.strip_prefix("tag:") {
                tags.and_then(|tags| tags.get(key))
                    .cloned()
                    .into_iter()
                    .collect()
            } else if filter.name == "tag-key" {
                tags.map(|tags| tags.keys().cloned().collect())
                    .unwrap_or_default()
            } else if filter.name == "tag-value" {
                tags.map(|tags| tags.values().cloned().collect())
                    .unwrap_or_default()
            } else {
                field(&filter.name).ok_or_else(|| {
                    ApiError::new(
                        "InvalidParameterValue",
                        format!("The filter '{}' is invalid", filter.name),
                    )
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

/// EC2's wildcards: `*` any run, `?` one character, a backslash takes the next one as it is.
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
    // Where the last `*` was, and how much it has swallowed: on a mismatch it swallows one more.
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
    /// Reads the page a request asks for.
    ///
    /// # Errors
    /// When the token is none of ours, or the size is out of range.
    pub(crate) fn read(params: &Params) -> Result<Self, ApiError> {
        let limit = match params.integer("MaxResults")? {
            None => usize::MAX,
            Some(limit) => usize::try_from(limit)
                .ok()
                .filter(|limit| (1..=1000).contains(limit))
                .ok_or_else(|| {
                    ApiError::invalid_value(
                        "maxResults",
                        &limit.to_string(),
                        "Expecting a value between 1 and 1000.",
                    )
                })?,
        };
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

    /// Cuts the page out of `items`, which come in the order of their keys.
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

/// A whole Describe call over resources kept by id: ids asked for, filters, page, and the answer's list.
pub(crate) struct Describe<'a> {
    /// The request.
    pub(crate) params: &'a Params,
    /// All tags by resource id.
    pub(crate) tags: &'a Table<String, Tags>,
    /// `ImageId` and the like: the ids wanted, none for all.
    pub(crate) wanted: Vec<&'a str>,
}

impl<'a> Describe<'a> {
    /// A Describe call whose ids come in `ids_parameter`.
    pub(crate) fn new(
        params: &'a Params,
        tags: &'a Table<String, Tags>,
        ids_parameter: &str,
    ) -> Self {
        Self {
            params,
            tags,
            wanted: params.list(ids_parameter),
        }
    }

    /// The resources on the page asked for.
    ///
    /// # Errors
    /// `missing(id)` for an id that is not there; what filters and pages refuse.
    pub(crate) fn choose<T: Clone>(
        &self,
        all: &'a Table<String, T>,
        missing: impl Fn(&str) -> ApiError,
        field: impl Fn(&T, &str) -> Option<Vec<String>>,
    ) -> Result<Paged<&'a T>, ApiError> {
        self.choose_where(all, |_| true, missing, field)
    }

    /// [`Describe::choose`] among those that are `shown` at all.
    ///
    /// # Errors
    /// As [`Describe::choose`]; an unshown resource is not missing.
    pub(crate) fn choose_where<T: Clone>(
        &self,
        all: &'a Table<String, T>,
        shown: impl Fn(&T) -> bool,
        missing: impl Fn(&str) -> ApiError,
        field: impl Fn(&T, &str) -> Option<Vec<String>>,
    ) -> Result<Paged<&'a T>, ApiError> {
        for id in &self.wanted {
            if !all.contains_key(*id) {
                return Err(missing(id));
            }
        }
        let filters = Filters::read(self.params)?;
        let page = Page::read(self.params)?;
        let mut chosen = Vec::new();
        // Who names resources does not pay for the others.
        let mut wanted = self.wanted.clone();
        wanted.sort_unstable();
        wanted.dedup();
        let named = wanted.into_iter().filter_map(|id| all.get_key_value(id));
        let every = all.iter().filter(|_| self.wanted.is_empty());
        for (id, resource) in named.chain(every) {
            if shown(resource) && filters.pass(self.tags.get(id), |name| field(resource, name))? {
                chosen.push((id.clone(), resource));
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

/// Shorthand for a filter field of one value.
pub(crate) fn one(value: impl ToString) -> Option<Vec<String>> {
    Some(vec![value.to_string()])
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

    #[test]
    fn every_filter_must_pass_and_unknown_ones_are_refused() {
        let field = |name: &str| match name {
            "state" => one("available"),
            "owner-id" => one("1"),
            _ => None,
        };
        let tags = Tags::from([("role".to_owned(), "web".to_owned())]);
        let pass = |form: &str| {
            Filters::read(&Params::parse(form.as_bytes()))
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
    fn pages_follow_one_another_and_end() {
        let items = || ["a", "b", "c", "d"].map(|key| (key.to_owned(), key));
        let first = Page::read(&Params::parse(b"MaxResults=3"))
            .unwrap()
            .cut(items());
        assert_eq!(first.items, ["a", "b", "c"]);
        let form = format!("MaxResults=3&NextToken={}", first.next.unwrap());
        let second = Page::read(&Params::parse(form.as_bytes()))
            .unwrap()
            .cut(items());
        assert_eq!(second.items, ["d"]);
        assert_eq!(second.next, None);
        let exact = Page::read(&Params::parse(b"MaxResults=4"))
            .unwrap()
            .cut(items());
        assert_eq!(exact.next, None);
        assert!(Page::read(&Params::parse(b"NextToken=%25%25")).is_err());
        assert!(Page::read(&Params::parse(b"MaxResults=0")).is_err());
    }
}
