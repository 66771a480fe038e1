//! Errors in AWS's formats.

use std::borrow::Cow;

use super::xml::escape_into;

/// An error for the caller, with AWS's code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    /// e.g. `InvalidAMIID.NotFound`; SDKs branch on it.
    pub(crate) code: Cow<'static, str>,
    /// The message.
    pub(crate) message: String,
    /// HTTP status; below 500 it is the caller's (`Sender`) error.
    pub(crate) status: u16,
}

/// A service's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// EC2's own dialect of the query protocol.
    Ec2,
    /// The query protocol of Auto Scaling, ELB, STS and IAM.
    Query,
    /// `application/x-amz-json-1.1`, SSM's protocol.
    Json,
}

impl ApiError {
    /// An error of the caller (400).
    pub(crate) fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            status: 400,
        }
    }

    /// The same error with another HTTP status.
    pub(crate) fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// A required parameter is missing.
    pub(crate) fn missing(name: &str) -> Self {
        Self::new(
            "MissingParameter",
            format!("The request must contain the parameter {name}"),
        )
    }

    /// A value is not valid.
    pub(crate) fn invalid_value(name: &str, value: &str, why: &str) -> Self {
        Self::new(
            "InvalidParameterValue",
            format!("Value ({value}) for parameter {name} is invalid: {why}"),
        )
    }

    /// Auto Scaling's and ELB's error for invalid input.
    pub(crate) fn validation(message: impl Into<String>) -> Self {
        Self::new("ValidationError", message)
    }

    /// AWS's error for an unknown action, also used for those that are not implemented here.
    pub(crate) fn invalid_action(action: &str) -> Self {
        Self::new(
            "InvalidAction",
            format!("The action {action} is not valid for this web service."),
        )
    }

    /// An internal error (500).
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new("InternalError", message).with_status(500)
    }

    /// The body in `protocol`, with its content type.
    pub(crate) fn render(&self, protocol: Protocol, request_id: &str) -> (&'static str, String) {
        let mut code = String::new();
        let mut message = String::new();
        escape_into(&mut code, &self.code);
        escape_into(&mut message, &self.message);
        match protocol {
            Protocol::Ec2 => (
                "text/xml;charset=UTF-8",
                format!(
                    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{code}</Code>\
                     <Message>{message}</Message></Error></Errors><RequestID>{request_id}</RequestID></Response>"
                ),
            ),
            Protocol::Query => {
                let kind = if self.status < 500 {
                    "Sender"
                } else {
                    "Receiver"
                };
                (
                    "text/xml",
                    format!(
                        "<ErrorResponse><Error><Type>{kind}</Type><Code>{code}</Code><Message>{message}</Message>\
                         </Error><RequestId>{request_id}</RequestId></ErrorResponse>"
                    ),
                )
            }
            Protocol::Json => (
                "application/x-amz-json-1.1",
                serde_json::json!({ "__type": self.code, "message": self.message }).to_string(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protocol_gets_its_own_shape() {
        let error = ApiError::new(
            "InvalidAMIID.NotFound",
            "The image id '[ami-<1>]' does not exist",
        );
        let (_, ec2) = error.render(Protocol::Ec2, "r-1");
        assert!(ec2.ends_with(
            "<Response><Errors><Error><Code>InvalidAMIID.NotFound</Code><Message>The image id '[ami-&lt;1&gt;]' does \
             not exist</Message></Error></Errors><RequestID>r-1</RequestID></Response>"
        ));
        let (_, query) = ApiError::validation("no").render(Protocol::Query, "r-1");
        assert_eq!(
            query,
            "<ErrorResponse><Error><Type>Sender</Type><Code>ValidationError</Code><Message>no</Message></Error>\
             <RequestId>r-1</RequestId></ErrorResponse>"
        );
        let (kind, json) = ApiError::new("ParameterNotFound", "x").render(Protocol::Json, "r-1");
        assert_eq!(kind, "application/x-amz-json-1.1");
        assert_eq!(json, r#"{"__type":"ParameterNotFound","message":"x"}"#);
    }
}
