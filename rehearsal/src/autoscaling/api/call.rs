//! One request, and what all calls share.

use super::super::environment::Environment;
use super::super::groups::Group;
use super::State;
use crate::wire::{ApiError, Params};

/// One request, and everything it may read or change.
pub(super) struct Call<'a> {
    pub(super) state: &'a mut State,
    pub(super) environment: &'a mut dyn Environment,
    pub(super) now: jiff::Timestamp,
    pub(super) params: &'a Params,
}

impl Call<'_> {
    /// A required text.
    pub(super) fn need(&self, name: &str) -> Result<String, ApiError> {
        self.params
            .string(name)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| {
                let mut field = name.to_owned();
                field[..1].make_ascii_lowercase();
                ApiError::validation(format!(
                    "1 validation error detected: Value null at '{field}' failed to satisfy constraint: Member must not be null"
                ))
            })
    }

    /// The group named by AutoScalingGroupName (a name or an ARN), to change it.
    pub(super) fn group(&mut self) -> Result<&mut Group, ApiError> {
        let name = self.need("AutoScalingGroupName")?;
        find(self.state, &name)
    }

    /// The group together with the environment.
    pub(super) fn group_and_environment(
        &mut self,
    ) -> Result<(&mut Group, &mut dyn Environment), ApiError> {
        let name = self.need("AutoScalingGroupName")?;
        Ok((find(self.state, &name)?, &mut *self.environment))
    }
}

/// Auto Scaling's message for an unknown group.
pub(super) const UNKNOWN: &str = "AutoScalingGroup name not found";

pub(super) fn find<'a>(state: &'a mut State, name: &str) -> Result<&'a mut Group, ApiError> {
    let bare = name
        .rsplit_once("autoScalingGroupName/")
        .map_or(name, |(_, bare)| bare);
    state.groups.get_mut(bare).ok_or_else(|| {
        ApiError::validation(format!("{UNKNOWN} - AutoScalingGroup '{bare}' not found"))
    })
}

/// A whole number that is not negative.
pub(super) fn number(params: &Params, name: &str) -> Result<Option<u32>, ApiError> {
    params
        .text(name)
        .map(|text| {
            text.parse().map_err(|_| {
                ApiError::validation(format!(
                    "{name} must be a whole number from 0, not '{text}'"
                ))
            })
        })
        .transpose()
}

/// `true` or `false`.
pub(super) fn flag(params: &Params, name: &str) -> Result<Option<bool>, ApiError> {
    params
        .boolean(name)
        .map_err(|error| ApiError::validation(error.message))
}

/// Refuses parameters of features that are not supported here.
pub(super) fn refuse_left_out(params: &Params, names: &[&str]) -> Result<(), ApiError> {
    match names.iter().find(|name| params.has(name)) {
        Some(name) => Err(ApiError::validation(format!(
            "{name} is not part of the rehearsal cloud; see docs/fidelity.md"
        ))),
        None => Ok(()),
    }
}

/// The page of `items` by NextToken and MaxRecords, with the token of the next page.
pub(super) fn page<T>(
    params: &Params,
    items: Vec<T>,
    usual: u32,
    most: u32,
) -> Result<(Vec<T>, Option<String>), ApiError> {
    let size = number(params, "MaxRecords")?.unwrap_or(usual);
    if size == 0 || size > most {
        return Err(ApiError::validation(format!(
            "MaxRecords must be between 1 and {most}"
        )));
    }
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let from = match params.text("NextToken").filter(|token| !token.is_empty()) {
        None => 0,
        Some(token) => token
            .strip_prefix("from-")
            .and_then(|offset| offset.parse::<usize>().ok())
            .filter(|offset| *offset <= items.len())
            .ok_or_else(|| {
                ApiError::new(
                    "InvalidNextToken",
                    format!("The token '{token}' is invalid."),
                )
            })?,
    };
    let next = (items.len() > from + size).then(|| format!("from-{}", from + size));
    Ok((items.into_iter().skip(from).take(size).collect(), next))
}
