//! The rules of parameter names.

use super::errors::invalid;
use crate::ids::ParameterName;
use crate::wire::ApiError;

/// AWS's limit on levels of a hierarchy.
const MOST_LEVELS: usize = 15;
/// AWS's limit on a name, less the rest of the ARN.
const LONGEST: usize = 1011;

/// The name, from an ARN or a name.
pub(super) fn bare(name: &str) -> &str {
    match name.split_once(":parameter") {
        Some((_, path)) if name.starts_with("arn:") => {
            // The ARN of `/a/b` and of `a` both have one slash behind `parameter`.
            if path.matches('/').count() == 1 {
                path.trim_start_matches('/')
            } else {
                path
            }
        }
        _ => name,
    }
}

/// A name with a leading slash.
pub(super) fn rooted(name: &str) -> String {
    if name.starts_with('/') {
        name.to_owned()
    } else {
        format!("/{name}")
    }
}

/// A name and the requested version: `name` or `name:3`.
pub(super) fn split(name: &str) -> (&str, Option<&str>) {
    let name = bare(name);
    match name.split_once(':') {
        Some((name, selector)) => (name, Some(selector)),
        None => (name, None),
    }
}

/// The name of a parameter to write, checked.
///
/// # Errors
/// `ValidationException`, `AccessDeniedException` for reserved names, `HierarchyLevelLimitExceededException`.
pub(super) fn parse(name: &str) -> Result<ParameterName, ApiError> {
    if name.len() > LONGEST {
        return Err(invalid(format!(
            "Parameter name must be at most {LONGEST} characters long."
        )));
    }
    if name.contains('/') && !name.starts_with('/') {
        return Err(invalid("Parameter name must be a fully qualified name."));
    }
    let levels = || name.split('/').filter(|level| !level.is_empty());
    let first = levels().next().unwrap_or_default().to_ascii_lowercase();
    if first.starts_with("aws") && name.starts_with('/') {
        return Err(ApiError::new(
            "AccessDeniedException",
            format!("No access to reserved parameter name: {name}."),
        ));
    }
    let spelled = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "_.-/".contains(c));
    if !spelled || first.is_empty() || first.starts_with("aws") || first.starts_with("ssm") {
        return Err(invalid(
            "Parameter name: can't be prefixed with \"aws\" or \"ssm\" (case-insensitive). If formed as a path, it can consist \
             of sub-paths divided by slash symbol; each sub-path can be formed as a mix of letters, numbers and the \
             following 3 symbols .-_",
        ));
    }
    if name.ends_with('/') || name.contains("//") {
        return Err(invalid(
            "Parameter name must not end with a slash or contain an empty level.",
        ));
    }
    if levels().count() > MOST_LEVELS {
        return Err(ApiError::new(
            "HierarchyLevelLimitExceededException",
            format!("A parameter hierarchy can have at most {MOST_LEVELS} levels."),
        ));
    }
    Ok(ParameterName::new(name))
}
