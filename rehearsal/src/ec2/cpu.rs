//! Processors: the options of a launch, and the credits of burstable types.
//!
//! Rule: CPU options that every instance of the type has anyway are accepted, others are refused by name; credits are
//! kept and shown, and change nothing, because a guest runs at the host's speed.

use serde::{Deserialize, Serialize};

use super::instance_types::InstanceType;
use crate::wire::{ApiError, Params};

/// Refuses CPU options of a launch that are not those of its type
/// (<https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CpuOptionsRequest.html>).
///
/// # Errors
/// `MissingParameter` for one count without the other, as on EC2; `UnsupportedOperation` for options that this cloud
/// does not support, and for a type whose CPU options cannot be specified (t2; EC2's code for that is not published).
pub(super) fn check_options(kind: InstanceType, params: &Params) -> Result<(), ApiError> {
    let options = params.structure("CpuOptions");
    for (name, value) in options.iter() {
        let usual = match name {
            "CoreCount" | "ThreadsPerCore" => true,
            "AmdSevSnp" | "NestedVirtualization" => value == "disabled",
            _ => false,
        };
        if !usual {
            return Err(unsupported(name, value));
        }
    }
    let count = |name: &str| options.integer(name);
    let (cores, threads) = match (count("CoreCount")?, count("ThreadsPerCore")?) {
        (None, None) => return Ok(()),
        (Some(cores), Some(threads)) => (cores, threads),
        _ => {
            return Err(ApiError::new(
                "MissingParameter",
                "When specifying CpuOptions you must specify both CoreCount and ThreadsPerCore.",
            ));
        }
    };
    if kind.hypervisor == "xen" {
        return Err(ApiError::new(
            "UnsupportedOperation",
            format!(
                "The {} instance type does not support specifying CpuOptions.",
                kind.name
            ),
        ));
    }
    if cores != i64::from(kind.cores()) {
        return Err(unsupported("CoreCount", &cores.to_string()));
    }
    if threads != i64::from(kind.vcpus / kind.cores()) {
        return Err(unsupported("ThreadsPerCore", &threads.to_string()));
    }
    Ok(())
}

fn unsupported(name: &str, value: &str) -> ApiError {
    ApiError::new(
        "UnsupportedOperation",
        format!("CpuOptions.{name} ({value}) of a launch cannot be honoured here"),
    )
}

/// Whether a burstable instance may use more than its credits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Credits {
    /// `standard`
    Standard,
    /// `unlimited`
    Unlimited,
}

impl Credits {
    /// A type's default: `standard` for T2, `unlimited` for later burstable types, and none for the others
    /// (<https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreditSpecificationRequest.html>).
    pub(super) fn of_type(kind: InstanceType) -> Option<Self> {
        let later = if kind.name.starts_with("t2.") {
            Self::Standard
        } else {
            Self::Unlimited
        };
        kind.burstable().then_some(later)
    }

    /// Reads a launch's `CreditSpecification`, or its type's default.
    ///
    /// # Errors
    /// `InvalidParameterValue`; `InstanceCreditSpecification.NotSupported` for a type that is not burstable, as of EC2
    /// when the template or the request is launched.
    pub(super) fn of_launch(kind: InstanceType, params: &Params) -> Result<Option<Self>, ApiError> {
        let asked = params.structure("CreditSpecification");
        if let Some((name, value)) = asked.iter().find(|(name, _)| *name != "CpuCredits") {
            return Err(ApiError::new(
                "UnsupportedOperation",
                format!("CreditSpecification.{name} ({value}) of a launch cannot be honoured here"),
            ));
        }
        match asked.text("CpuCredits") {
            None => Ok(Self::of_type(kind)),
            Some(text) => {
                let credits = Self::read(text)?;
                if kind.burstable() {
                    Ok(Some(credits))
                } else {
                    Err(not_burstable(kind.name))
                }
            }
        }
    }

    pub(super) fn read(text: &str) -> Result<Self, ApiError> {
        match text {
            "standard" => Ok(Self::Standard),
            "unlimited" => Ok(Self::Unlimited),
            other => Err(ApiError::invalid_value(
                "CpuCredits",
                other,
                "expecting standard or unlimited",
            )),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Unlimited => "unlimited",
        }
    }
}

pub(super) fn not_burstable(kind: &str) -> ApiError {
    ApiError::new(
        "InstanceCreditSpecification.NotSupported",
        format!("The {kind} instance type does not support T2 Unlimited."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ec2::instance_types::find;

    #[test]
    fn cpu_options_are_those_of_the_type() {
        for (kind, form, expected) in [
            ("t3.micro", "", None),
            ("t3.micro", "CoreCount=1&ThreadsPerCore=2", None),
            (
                "m5.xlarge",
                "CoreCount=2&ThreadsPerCore=2&AmdSevSnp=disabled",
                None,
            ),
            ("m5.xlarge", "NestedVirtualization=disabled", None),
            (
                "m5.xlarge",
                "CoreCount=1&ThreadsPerCore=2",
                Some("UnsupportedOperation: CpuOptions.CoreCount (1)"),
            ),
            (
                "m5.xlarge",
                "CoreCount=2&ThreadsPerCore=1",
                Some("UnsupportedOperation: CpuOptions.ThreadsPerCore (1)"),
            ),
            (
                "m5.xlarge",
                "AmdSevSnp=enabled",
                Some("UnsupportedOperation: CpuOptions.AmdSevSnp (enabled)"),
            ),
            (
                "m5.xlarge",
                "NestedVirtualization=enabled",
                Some("UnsupportedOperation: CpuOptions.NestedV"),
            ),
            (
                "m5.xlarge",
                "Sockets=1",
                Some("UnsupportedOperation: CpuOptions.Sockets (1)"),
            ),
            (
                "m5.xlarge",
                "CoreCount=2",
                Some("MissingParameter: When specifying CpuOptions"),
            ),
            (
                "m5.xlarge",
                "ThreadsPerCore=2",
                Some("MissingParameter: When specifying CpuOptions"),
            ),
            (
                "t2.micro",
                "CoreCount=1&ThreadsPerCore=1",
                Some("UnsupportedOperation: The t2.micro instance type"),
            ),
        ] {
            let form: Vec<String> = form
                .split_terminator('&')
                .map(|one| format!("CpuOptions.{one}"))
                .collect();
            let params = Params::parse(form.join("&").as_bytes());
            let found = check_options(find(kind).unwrap(), &params).err();
            let text = found.map(|error| format!("{}: {}", error.code, error.message));
            assert_eq!(
                text.is_some(),
                expected.is_some(),
                "{kind} {form:?}: {text:?}"
            );
            let expected = expected.unwrap_or_default();
            assert!(
                text.unwrap_or_default().starts_with(expected),
                "{kind} {form:?}"
            );
        }
    }

    #[test]
    fn credits_are_those_asked_for_or_the_types() {
        const NOT: Result<Option<Credits>, &str> = Err("InstanceCreditSpecification.NotSupported");
        for (kind, asked, expected) in [
            ("t2.micro", None, Ok(Some(Credits::Standard))),
            ("t3.micro", None, Ok(Some(Credits::Unlimited))),
            ("t3a.nano", None, Ok(Some(Credits::Unlimited))),
            ("m5.large", None, Ok(None)),
            ("t2.micro", Some("unlimited"), Ok(Some(Credits::Unlimited))),
            ("t3.micro", Some("standard"), Ok(Some(Credits::Standard))),
            ("t3.micro", Some("plenty"), Err("InvalidParameterValue")),
            ("m5.large", Some("standard"), NOT),
            ("m5.large", Some("unlimited"), NOT),
        ] {
            let form = asked.map_or_else(String::new, |asked| {
                format!("CreditSpecification.CpuCredits={asked}")
            });
            let found = Credits::of_launch(find(kind).unwrap(), &Params::parse(form.as_bytes()));
            let found = found.as_ref().map_err(|error| error.code.as_ref());
            assert_eq!(found.copied(), expected, "{kind} {asked:?}");
        }
    }
}
