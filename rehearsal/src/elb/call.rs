//! One request, and what all calls share: required texts, numbers, pages, names and ARNs.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::Ec2View;
use super::state::State;
use crate::account::{ACCOUNT, REGION};
use crate::wire::{ApiError, Params, Xml};

/// Reads `Attributes.member.N.Key` and `.Value`.
pub(super) fn read_attributes(params: &Params) -> Result<BTreeMap<String, String>, ApiError> {
    params
        .structs("Attributes")
        .iter()
        .map(|attribute| {
            Ok((
                need(attribute, "Key")?.to_owned(),
                attribute.string("Value").unwrap_or_default(),
            ))
        })
        .collect()
}

/// Writes `Attributes`.
pub(super) fn write_attributes<'a>(all: impl IntoIterator<Item = (&'a str, &'a str)>) -> Xml {
    let mut xml = Xml::new();
    xml.list("Attributes", "member", all, |x, (key, value)| {
        x.text("Key", key).text("Value", value);
    });
    xml
}

/// One request, and everything it may read or change.
pub(super) struct Call<'a> {
    pub(super) state: &'a mut State,
    pub(super) ec2: &'a mut dyn Ec2View,
    pub(super) now: Timestamp,
    pub(super) params: &'a Params,
}

/// An ARN in this cloud.
pub(super) fn arn(rest: std::fmt::Arguments<'_>) -> String {
    format!("arn:aws:elasticloadbalancing:{REGION}:{ACCOUNT}:{rest}")
}

/// The error for a feature that is not supported here.
pub(super) fn left_out(what: &str) -> ApiError {
    ApiError::new(
        "UnsupportedOperation",
        format!("{what} is not part of the rehearsal cloud; see docs/fidelity.md"),
    )
}

/// Checks the name of a load balancer or target group.
pub(super) fn check_name(kind: &str, name: &str) -> Result<(), ApiError> {
    if name.len() > 32 {
        return Err(ApiError::validation(format!(
            "{kind} name '{name}' cannot be longer than '32' characters"
        )));
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Err(ApiError::validation(format!(
            "{kind} name '{name}' can only contain characters that are alphanumeric characters and hyphens(-)"
        )));
    }
    if name.starts_with('-') || name.ends_with('-') {
        return Err(ApiError::validation(format!(
            "{kind} name '{name}' cannot begin or end with a hyphen(-)"
        )));
    }
    Ok(())
}

impl Call<'_> {
    /// A required text.
    pub(super) fn need(&self, name: &str) -> Result<&str, ApiError> {
        need(self.params, name)
    }
}

pub(super) fn need<'a>(params: &'a Params, name: &str) -> Result<&'a str, ApiError> {
    params
        .text(name)
        .filter(|value| !value.is_empty())
        .ok_or_else(|| ApiError::validation(format!("A value for {name} must be specified")))
}

/// A whole number within the bounds of the API.
pub(super) fn number<T>(
    params: &Params,
    name: &str,
    least: T,
    most: T,
) -> Result<Option<T>, ApiError>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    params
        .text(name)
        .map(|text| {
            text.parse::<T>()
                .ok()
                .filter(|number| *number >= least && *number <= most)
                .ok_or_else(|| {
                    ApiError::validation(format!(
                        "{name} '{text}' must be between '{least}' and '{most}'"
                    ))
                })
        })
        .transpose()
}

/// The page of `items` by Marker and PageSize, with the marker of the next page.
pub(super) fn page<T>(
    params: &Params,
    items: Vec<T>,
) -> Result<(Vec<T>, Option<String>), ApiError> {
    let size = number(params, "PageSize", 1, 400)?.unwrap_or(400_usize);
    let from = match params.text("Marker").filter(|marker| !marker.is_empty()) {
        None => 0,
        Some(marker) => marker
            .parse::<usize>()
            .ok()
            .filter(|from| *from <= items.len())
            .ok_or_else(|| ApiError::validation(format!("Marker '{marker}' is invalid")))?,
    };
    let next = (items.len() > from + size).then(|| (from + size).to_string());
    Ok((items.into_iter().skip(from).take(size).collect(), next))
}
