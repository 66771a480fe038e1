//! SDK errors as this program's: their kind by the service's code, their causes on one line.

use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};

use crate::{CloudError, Kind};

/// Turns any SDK error into a [`CloudError`]. `operation` names what was attempted and on which id.
pub(super) fn failed<E, R>(
    operation: impl Into<String>,
) -> impl FnOnce(SdkError<E, R>) -> CloudError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug + 'static,
{
    let operation = operation.into();
    move |error| match &error {
        SdkError::ServiceError(service) => {
            let code = service.err().code().unwrap_or_default();
            match service.err().message() {
                Some(message) => CloudError::new(kind(code, message), operation, code, message),
                None => CloudError::new(kind(code, ""), operation, code, with_causes(&error)),
            }
        }
        SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) => {
            CloudError::new(Kind::Unreachable, operation, "", with_causes(&error))
        }
        _ => CloudError::new(Kind::Other, operation, "", with_causes(&error)),
    }
}

/// An error and its causes on one line, without the SDK's debug dumps.
pub(super) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut causes: Vec<String> = Vec::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        let text = error.to_string();
        if causes.last() != Some(&text) {
            causes.push(text);
        }
        cause = error.source();
    }
    causes.join(": ")
}

/// An answer without the part that was requested.
pub(super) fn incomplete(operation: &str, missing: &str) -> CloudError {
    CloudError::new(
        Kind::Other,
        operation,
        "",
        format!("the answer has no {missing}"),
    )
}

/// The kinds by EC2's, SSM's and Auto Scaling's codes. The message is read only where one code has two causes:
/// services with signature version 4 answer a wrong clock with the same code as a wrong key.
fn kind(code: &str, message: &str) -> Kind {
    let skewed = ["Signature expired", "Signature not yet current"];
    match code {
        "RequestExpired" | "RequestTimeTooSkewed" | "RequestInTheFuture" => Kind::Clock,
        "SignatureDoesNotMatch" | "InvalidSignatureException"
            if skewed.iter().any(|prefix| message.starts_with(prefix)) =>
        {
            Kind::Clock
        }
        "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" => Kind::Denied,
        "AuthFailure"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException" => Kind::Credentials,
        "RequestLimitExceeded" | "Throttling" | "ThrottlingException" | "RequestThrottled" => {
            Kind::Throttled
        }
        "DependencyViolation" | "ResourceInUse" => Kind::InUse,
        _ if code.ends_with("InUse") => Kind::InUse,
        "ParameterNotFound" | "NoSuchEntity" => Kind::NotFound,
        _ if code.ends_with(".NotFound")
            || code.ends_with(".Unavailable") && code.starts_with("InvalidAMIID") =>
        {
            Kind::NotFound
        }
        "ValidationError" | "ValidationException" | "MissingParameter" | "InvalidRequest" => {
            Kind::Invalid
        }
        _ if code.starts_with("Invalid") => Kind::Invalid,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_become_kinds() {
        for (code, want) in [
            ("InvalidInstanceID.NotFound", Kind::NotFound),
            ("InvalidAMIID.Unavailable", Kind::NotFound),
            ("InvalidSnapshot.InUse", Kind::InUse),
            ("VolumeInUse", Kind::InUse),
            ("DependencyViolation", Kind::InUse),
            ("UnauthorizedOperation", Kind::Denied),
            ("RequestLimitExceeded", Kind::Throttled),
            ("InvalidAMIID.Malformed", Kind::Invalid),
            ("ParameterNotFound", Kind::NotFound),
            ("AuthFailure", Kind::Credentials),
            ("RequestExpired", Kind::Clock),
            ("RequestTimeTooSkewed", Kind::Clock),
            ("SignatureDoesNotMatch", Kind::Credentials),
            ("InvalidSignatureException", Kind::Credentials),
            ("InternalError", Kind::Other),
        ] {
            assert_eq!(kind(code, ""), want, "{code}");
        }
        let expired = "Signature expired: 20261130T010000Z is now earlier than 20261130T020000Z";
        for code in ["SignatureDoesNotMatch", "InvalidSignatureException"] {
            assert_eq!(kind(code, expired), Kind::Clock, "{code}");
            let hint = CloudError::new(kind(code, expired), "ask", code, expired);
            assert!(hint.hint().unwrap().contains("clock"), "{code}");
        }
    }
}
