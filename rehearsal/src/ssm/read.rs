//! Showing parameters: by name, by path, with their history, or as a list.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{Call, arn, page, seconds};
use super::errors::{invalid, left_out};
use super::names;
use super::public;
use super::put::check_names;
use super::state::{Kind, Parameter, Version};
use crate::account::ACCOUNT;
use crate::wire::ApiError;

/// Parameters in one page of GetParametersByPath.
const MOST_BY_PATH: usize = 10;
/// Parameters or versions in one page of the other lists.
const MOST_LISTED: usize = 50;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Get {
    name: String,
    #[serde(default)]
    with_decryption: bool,
}

pub(super) fn get(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let Get {
        name,
        with_decryption,
    } = call.read()?;
    Ok(json!({ "Parameter": selected(call, &name, with_decryption)? }))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetSeveral {
    names: Vec<String>,
    #[serde(default)]
    with_decryption: bool,
}

pub(super) fn get_several(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let asked: GetSeveral = call.read()?;
    check_names(&asked.names)?;
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for name in asked.names {
        match selected(call, &name, asked.with_decryption) {
            Ok(parameter) => found.push(parameter),
            Err(_) => missing.push(name),
        }
    }
    Ok(json!({ "Parameters": found, "InvalidParameters": missing }))
}

/// The parameter and version that a request names.
fn selected(call: &Call<'_>, name: &str, clear: bool) -> Result<Value, ApiError> {
    if let Some(answer) = public::selected(call, name) {
        return answer;
    }
    let (bare, selector) = names::split(name);
    let (name, parameter) = call.state.find(bare)?;
    let Some(selector) = selector else {
        return Ok(shown(name, parameter, &parameter.current, clear));
    };
    let version = selector
        .parse::<u64>()
        .ok()
        .and_then(|number| versions(parameter).find(|version| version.number == number))
        .ok_or_else(|| {
            ApiError::new(
                "ParameterVersionNotFound",
                format!(
                    "Systems Manager could not find version {selector} of {name}. Verify the version and try again."
                ),
            )
        })?;
    let mut shown = shown(name, parameter, version, clear);
    shown["Selector"] = json!(format!(":{selector}"));
    Ok(shown)
}

/// All versions, oldest first.
fn versions(parameter: &Parameter) -> impl Iterator<Item = &Version> {
    parameter.earlier.iter().chain([&parameter.current])
}

fn shown(name: &str, parameter: &Parameter, version: &Version, clear: bool) -> Value {
    json!({
        "Name": name,
        "Type": parameter.kind.as_str(),
        "Value": value(parameter, version, clear),
        "Version": version.number,
        "LastModifiedDate": seconds(version.modified),
        "ARN": arn(name),
        "DataType": version.data_type.as_str(),
    })
}

/// The value; a SecureString's is scrambled unless `clear`.
fn value(parameter: &Parameter, version: &Version, clear: bool) -> String {
    if parameter.kind == Kind::SecureString && !clear {
        BASE64.encode(&version.value)
    } else {
        version.value.clone()
    }
}

/// The fields of a version in lists, besides its value.
fn listed(name: &str, parameter: &Parameter, version: &Version) -> Value {
    let mut shown = json!({
        "Name": name,
        "ARN": arn(name),
        "Type": parameter.kind.as_str(),
        "LastModifiedDate": seconds(version.modified),
        "LastModifiedUser": format!("arn:aws:iam::{ACCOUNT}:user/rehearsal"),
        "Version": version.number,
        "Tier": version.tier.as_str(),
        "Policies": [],
        "DataType": version.data_type.as_str(),
    });
    if let Some(description) = &version.description {
        shown["Description"] = json!(description);
    }
    if let Some(key) = &version.key_id {
        shown["KeyId"] = json!(key);
    }
    shown
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct History {
    name: String,
    #[serde(default)]
    with_decryption: bool,
    max_results: Option<usize>,
    next_token: Option<String>,
}

pub(super) fn history(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let asked: History = call.read()?;
    let (name, parameter) = call.state.find(&asked.name)?;
    let all: Vec<Value> = versions(parameter)
        .map(|version| {
            let mut shown = listed(name, parameter, version);
            shown["Value"] = json!(value(parameter, version, asked.with_decryption));
            shown["Labels"] = json!([]);
            // Only the history does not have it.
            if let Some(fields) = shown.as_object_mut() {
                fields.remove("ARN");
            }
            shown
        })
        .collect();
    answer(
        all,
        asked.max_results,
        MOST_LISTED,
        asked.next_token.as_deref(),
    )
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ByPath {
    path: String,
    #[serde(default)]
    recursive: bool,
    #[serde(default)]
    parameter_filters: Vec<Filter>,
    #[serde(default)]
    with_decryption: bool,
    max_results: Option<usize>,
    next_token: Option<String>,
}

pub(super) fn by_path(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let asked: ByPath = call.read()?;
    check_path(&asked.path)?;
    for filter in &asked.parameter_filters {
        filter.check(&["Type", "KeyId"])?;
    }
    let found: Vec<Value> = call
        .state
        .parameters
        .iter()
        .filter(|(name, _)| is_below(name.as_str(), &asked.path, asked.recursive))
        .filter(|(name, parameter)| {
            let passes = |filter: &Filter| filter.passes(name.as_str(), parameter);
            asked.parameter_filters.iter().all(passes)
        })
        .map(|(name, parameter)| {
            shown(
                name.as_str(),
                parameter,
                &parameter.current,
                asked.with_decryption,
            )
        })
        .collect();
    answer(
        found,
        asked.max_results,
        MOST_BY_PATH,
        asked.next_token.as_deref(),
    )
}

fn check_path(path: &str) -> Result<(), ApiError> {
    let spelled = path
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "_.-/".contains(c));
    if !path.starts_with('/') || !spelled {
        return Err(invalid(
            "The parameter doesn't meet the parameter name requirements. The parameter name must begin with a forward \
             slash \"/\". It can't be prefixed with \"aws\" or \"ssm\" (case-insensitive). It must use only letters, \
             numbers, or the following symbols: . (period), - (hyphen), _ (underscore). Special characters are not \
             allowed. All sub-paths, if specified, must use the forward slash symbol \"/\". Valid example: \
             /get/parameters2-/by1./path0_.",
        ));
    }
    Ok(())
}

/// Whether a parameter is below a path: directly, or at any depth.
fn is_below(name: &str, path: &str, recursive: bool) -> bool {
    let rooted = names::rooted(name);
    rooted
        .strip_prefix(path.trim_end_matches('/'))
        .and_then(|rest| rest.strip_prefix('/'))
        .is_some_and(|rest| recursive || !rest.contains('/'))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Describe {
    #[serde(default)]
    filters: Vec<Filter>,
    #[serde(default)]
    parameter_filters: Vec<Filter>,
    max_results: Option<usize>,
    next_token: Option<String>,
    #[serde(default)]
    shared: bool,
}

pub(super) fn describe(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut asked: Describe = call.read()?;
    if asked.shared {
        return Err(left_out("Shared"));
    }
    if !asked.filters.is_empty() && !asked.parameter_filters.is_empty() {
        return Err(invalid(
            "You can use either Filters or ParameterFilters in a single request.",
        ));
    }
    for filter in &mut asked.filters {
        filter.check(&["Name", "Type", "KeyId"])?;
        // The old filters have no options, and match the beginning of names.
        if filter.key == "Name" {
            filter.option = Some("BeginsWith".to_owned());
        }
    }
    for filter in &asked.parameter_filters {
        filter.check(&["Name", "Type", "KeyId", "Path", "Tier", "DataType", "tag:"])?;
    }
    let found: Vec<Value> = call
        .state
        .parameters
        .iter()
        .filter(|(name, parameter)| {
            let mut filters = asked.filters.iter().chain(&asked.parameter_filters);
            filters.all(|filter| filter.passes(name.as_str(), parameter))
        })
        .map(|(name, parameter)| listed(name.as_str(), parameter, &parameter.current))
        .collect();
    answer(
        found,
        asked.max_results,
        MOST_LISTED,
        asked.next_token.as_deref(),
    )
}

/// One filter of a list.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Filter {
    key: String,
    option: Option<String>,
    #[serde(default)]
    values: Vec<String>,
}

impl Filter {
    fn check(&self, keys: &[&str]) -> Result<(), ApiError> {
        let known = keys
            .iter()
            .any(|key| *key == self.key || (*key == "tag:" && self.key.starts_with(key)));
        if !known {
            return Err(ApiError::new(
                "InvalidFilterKey",
                format!("The filter key '{}' is not valid here.", self.key),
            ));
        }
        let options: &[&str] = match self.key.as_str() {
            "Path" => &["OneLevel", "Recursive"],
            "Name" => &["Equals", "BeginsWith", "Contains"],
            _ => &["Equals"],
        };
        match &self.option {
            Some(option) if !options.contains(&option.as_str()) => Err(ApiError::new(
                "InvalidFilterOption",
                format!(
                    "The following filter option is not valid: {option}. Valid options include: [{}].",
                    options.join(", ")
                ),
            )),
            _ if self.values.is_empty() && !self.key.starts_with("tag:") => Err(ApiError::new(
                "InvalidFilterValue",
                format!("The filter '{}' has no values.", self.key),
            )),
            _ => Ok(()),
        }
    }

    fn passes(&self, name: &str, parameter: &Parameter) -> bool {
        let current = &parameter.current;
        let any = |fits: &dyn Fn(&str) -> bool| self.values.iter().any(|value| fits(value));
        let option = self.option.as_deref();
        match self.key.as_str() {
            "Name" => any(&|value| match option {
                Some("BeginsWith") => names::rooted(name).starts_with(&names::rooted(value)),
                Some("Contains") => name.contains(value),
                _ => names::rooted(name) == names::rooted(value),
            }),
            "Path" => any(&|value| is_below(name, value, option == Some("Recursive"))),
            "Type" => any(&|value| value == parameter.kind.as_str()),
            "Tier" => any(&|value| value == current.tier.as_str()),
            "DataType" => any(&|value| value == current.data_type.as_str()),
            "KeyId" => any(&|value| current.key_id.as_deref() == Some(value)),
            key => key
                .strip_prefix("tag:")
                .and_then(|key| parameter.tags.get(key))
                .is_some_and(|tag| self.values.is_empty() || self.values.contains(tag)),
        }
    }
}

fn answer(
    all: Vec<Value>,
    asked: Option<usize>,
    most: usize,
    token: Option<&str>,
) -> Result<Value, ApiError> {
    let (found, next) = page(all, asked, most, token)?;
    let mut answer = json!({ "Parameters": found });
    if let Some(next) = next {
        answer["NextToken"] = json!(next);
    }
    Ok(answer)
}
