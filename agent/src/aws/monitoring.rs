//! `PutMetricData`: one call a minute does not justify another service client.

use anyhow::{Result, anyhow};
use async_trait::async_trait;

use super::Aws;
use super::call::{CallError, Protocol, Service};
use crate::metrics::cloudwatch::Sink;

const SERVICE: Service = Service {
    name: "monitoring",
    variable: "AWS_ENDPOINT_URL_CLOUDWATCH",
    protocol: Protocol::Query,
};

#[async_trait]
impl Sink for Aws {
    async fn put(&self, form: String) -> Result<()> {
        let sent = self.call(&SERVICE, "PutMetricData", form).await;
        sent.map(|_| ()).map_err(explained)
    }
}

/// The error as it is logged. Without the API's message, which names the account and the role.
fn explained(error: CallError) -> anyhow::Error {
    match error {
        CallError::Refused { status, code, .. } => anyhow!(
            "PutMetricData answered {status} {code}; the role needs cloudwatch:PutMetricData"
        ),
        error => anyhow::Error::from(error).context("PutMetricData"),
    }
}

#[cfg(test)]
mod tests;
