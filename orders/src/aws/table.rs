//! Calls on a DynamoDB table, in DynamoDB's JSON.
//!
//! Owns the request format and the hints; the caller defines the items.

use anyhow::anyhow;
use serde_json::{Value, json};

use super::Aws;
use super::call::{CallError, DYNAMODB};

/// A table.
#[derive(Debug)]
pub(crate) struct Table {
    name: String,
    aws: Aws,
}

impl Table {
    pub(crate) fn new(name: String, aws: Aws) -> Self {
        Self { name, aws }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Calls `action` on this table.
    pub(crate) async fn call(&self, action: &str, mut body: Value) -> Result<Value, CallError> {
        body["TableName"] = json!(self.name);
        self.call_on_any(action, &body).await
    }

    /// Calls `action`, whose body names the tables.
    pub(crate) async fn call_on_any(&self, action: &str, body: &Value) -> Result<Value, CallError> {
        let target = format!("DynamoDB_20120810.{action}");
        let headers = [
            ("content-type", "application/x-amz-json-1.0"),
            ("x-amz-target", target.as_str()),
        ];
        let body = body.to_string().into_bytes().into();
        let answer = self.aws.call(&DYNAMODB, None, &headers, body).await?;
        serde_json::from_slice(&answer).map_err(|error| CallError::Unreachable(error.into()))
    }

    /// The error with its context and, if known, a hint.
    pub(crate) fn explain(&self, action: &str, error: CallError) -> anyhow::Error {
        let hint = match error.code() {
            "ResourceNotFoundException" => "hint: create the table as described in docs/orders.md",
            "AccessDeniedException" => {
                "hint: give the role the permissions listed in docs/orders.md"
            }
            "ValidationException" => {
                "hint: create the table with the keys described in docs/orders.md"
            }
            _ => return anyhow!(error).context(format!("{action} on table {}", self.name)),
        };
        anyhow!("{action} on table {} {error}\n{hint}", self.name)
    }
}

/// The text of an item's attribute; empty if there is none.
pub(crate) fn text<'a>(item: &'a Value, attribute: &str) -> &'a str {
    item[attribute]["S"].as_str().unwrap_or_default()
}
