//! Parameter Store, the part of Systems Manager that images and fleets meet.
//!
//! Owns parameters with their versions and tags, and the calls on them (`AmazonSSM`, JSON 1.1). It
//! knows of EC2 only whether an image is there, through [`Images`].
//!
//! `names` holds the rules of names, `put` writes, `read` answers, `tags` labels.
//!
//! # Not as on AWS
//!
//! - Parameter policies, allowed patterns, labels, sharing and the data type `aws:ssm:integration` are
//!   refused by name. What else Systems Manager does is `UnknownOperationException`.
//! - A SecureString is not encrypted; without decryption its value is shown scrambled.
//! - Nobody is told of changes: there are no events.

use std::collections::BTreeMap;

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cloud::{ACCOUNT, REGION, RequestContext};
use crate::table::{self, Changes, Series, Table, place};
use crate::wire::ApiError;

mod names;
mod put;
mod read;
mod tags;
#[cfg(test)]
mod tests;

/// How long the validation of an `aws:ec2:image` takes; on AWS it is seconds, too.
const VALIDATION: SignedDuration = SignedDuration::from_secs(1);

/// What Parameter Store may ask of EC2.
pub(crate) trait Images {
    /// Whether there is such an image, and it is available.
    fn is_available(&self, image_id: &str) -> bool;
}

/// Everything Parameter Store remembers.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Parameters by name.
    parameters: Table<String, Parameter>,
    /// Writes of images that are being validated, oldest first.
    awaited: Vec<Awaited>,
}

impl State {
    /// What changed since `before`.
    pub(crate) fn changes(&self, before: &Self, changes: &mut Changes) {
        for (name, was, now) in before.parameters.changes(&self.parameters) {
            let earlier = |parameter: Option<&Parameter>| {
                parameter.map_or_else(Series::default, |parameter| parameter.earlier.clone())
            };
            changes.put("ssm.parameters", name.clone(), now);
            changes.series("ssm.versions", name, &earlier(was), &earlier(now));
        }
        changes.single("ssm.awaited", &before.awaited, &self.awaited);
    }

    /// Takes a row back in; whether it is one of Parameter Store's.
    ///
    /// # Errors
    /// When it is of another release.
    pub(crate) fn restore(&mut self, table: &str, key: &str, value: &[u8]) -> anyhow::Result<bool> {
        match table {
            "ssm.parameters" => drop(self.parameters.insert(key.to_owned(), table::read(value)?)),
            "ssm.versions" => {
                let (name, place) = place(key)?;
                let parameter = self.parameters.get_mut(name);
                let parameter = parameter.context("a version of no parameter")?;
                parameter.earlier.put(place, table::read(value)?);
            }
            "ssm.awaited" => self.awaited = table::read(value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// A parameter: its versions, the current one last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Parameter {
    kind: Kind,
    /// What was written last, first of all.
    current: Version,
    /// Earlier versions, oldest first.
    #[serde(skip)]
    earlier: Series<Version>,
    tags: BTreeMap<String, String>,
}

/// What one PutParameter wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Version {
    number: u64,
    value: String,
    modified: Timestamp,
    description: Option<String>,
    key_id: Option<String>,
    tier: Tier,
    data_type: DataType,
}

/// A write that waits for its image to be validated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Awaited {
    name: String,
    version: Version,
    tags: BTreeMap<String, String>,
    due: Timestamp,
}

/// A parameter's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    String,
    StringList,
    SecureString,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::String => "String",
            Self::StringList => "StringList",
            Self::SecureString => "SecureString",
        }
    }
}

/// How large a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Tier {
    Standard,
    Advanced,
}

impl Tier {
    fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "Standard",
            Self::Advanced => "Advanced",
        }
    }
}

/// What a value stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum DataType {
    Text,
    Image,
}

impl DataType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Image => "aws:ec2:image",
        }
    }
}

/// One request with all it may touch.
struct Call<'a> {
    state: &'a mut State,
    now: Timestamp,
    body: &'a Value,
}

/// Answers one Systems Manager request; see [`crate::cloud`] for the convention. The answer is the
/// whole body.
///
/// # Errors
/// What Systems Manager itself would say.
pub(crate) fn handle(
    state: &mut State,
    images: &dyn Images,
    ctx: &RequestContext,
    action: &str,
    body: &Value,
) -> Result<Value, ApiError> {
    tick(state, images, ctx.now);
    let call = &mut Call {
        state,
        now: ctx.now,
        body,
    };
    match action {
        "PutParameter" => put::put(call),
        "DeleteParameter" => put::delete(call),
        "DeleteParameters" => put::delete_several(call),
        "GetParameter" => read::get(call),
        "GetParameters" => read::get_several(call),
        "GetParametersByPath" => read::by_path(call),
        "GetParameterHistory" => read::history(call),
        "DescribeParameters" => read::describe(call),
        "AddTagsToResource" => tags::add(call),
        "ListTagsForResource" => tags::list(call),
        "RemoveTagsFromResource" => tags::remove(call),
        _ => Err(ApiError::new(
            "UnknownOperationException",
            format!("The action {action} is not part of the rehearsal cloud; see docs/fidelity.md"),
        )),
    }
}

/// Lets time pass: images whose validation is over become the value, or are dropped.
pub(crate) fn tick(state: &mut State, images: &dyn Images, now: Timestamp) {
    while state
        .awaited
        .first()
        .is_some_and(|awaited| awaited.due <= now)
    {
        let awaited = state.awaited.remove(0);
        if images.is_available(&awaited.version.value) {
            state.write(&awaited.name, Kind::String, awaited.version, awaited.tags);
        } else {
            // On AWS an EventBridge event says so; here the log does.
            tracing::warn!(
                parameter = awaited.name,
                image = awaited.version.value,
                "the image is not there or not available: the parameter keeps its old value"
            );
        }
    }
}

impl Call<'_> {
    /// The request, typed.
    fn read<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        T::deserialize(self.body)
            .map_err(|error| ApiError::new("SerializationException", error.to_string()))
    }
}

impl State {
    /// The parameter of that name; ARNs and a leading slash too many are taken as names, too.
    fn find(&self, name: &str) -> Result<(&str, &Parameter), ApiError> {
        self.parameters
            .get_key_value(names::bare(name))
            .map(|(name, parameter)| (name.as_str(), parameter))
            .ok_or_else(not_found)
    }
}

fn not_found() -> ApiError {
    ApiError::new("ParameterNotFound", "")
}

fn arn(name: &str) -> String {
    let slash = if name.starts_with('/') { "" } else { "/" };
    format!("arn:aws:ssm:{REGION}:{ACCOUNT}:parameter{slash}{name}")
}

/// A timestamp as the JSON protocol has it: seconds since the epoch.
fn seconds(at: Timestamp) -> Value {
    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds since 1970 fit a double for 285,000 years"
    )]
    let seconds = at.as_millisecond() as f64 / 1000.0;
    json!(seconds)
}

/// Input that does not fit.
fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new("ValidationException", message)
}

/// Input that breaks a bound of the API.
fn constraint(value: impl std::fmt::Display, field: &str, bound: &str) -> ApiError {
    invalid(format!(
        "1 validation error detected: Value '{value}' at '{field}' failed to satisfy constraint: Member must {bound}"
    ))
}

/// What the rehearsal leaves out is refused by name.
fn left_out(what: &str) -> ApiError {
    invalid(format!(
        "{what} is not part of the rehearsal cloud; see docs/fidelity.md"
    ))
}

/// The page of `items` that NextToken and MaxResults ask for, with the token of the next one.
fn page<T>(
    items: Vec<T>,
    asked: Option<usize>,
    most: usize,
    token: Option<&str>,
) -> Result<(Vec<T>, Option<String>), ApiError> {
    let size = asked.unwrap_or(most);
    if size == 0 {
        return Err(constraint(
            size,
            "maxResults",
            "have value greater than or equal to 1",
        ));
    }
    if size > most {
        let bound = format!("have value less than or equal to {most}");
        return Err(constraint(size, "maxResults", &bound));
    }
    let from = match token.filter(|token| !token.is_empty()) {
        None => 0,
        Some(token) => token
            .strip_prefix("from-")
            .and_then(|from| from.parse::<usize>().ok())
            .filter(|from| *from <= items.len())
            .ok_or_else(|| {
                ApiError::new("InvalidNextToken", "The specified token is not valid.")
            })?,
    };
    let next = (items.len() > from + size).then(|| format!("from-{}", from + size));
    Ok((items.into_iter().skip(from).take(size).collect(), next))
}
