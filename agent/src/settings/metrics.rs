//! `[metrics]`: where metrics are published. Off by default.

use std::net::SocketAddr;

use anyhow::Result;

use super::refused;

/// Where the agent's metrics are published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metrics {
    /// Address that serves Prometheus text; `None`: none.
    pub(crate) listen: Option<SocketAddr>,
    /// CloudWatch namespace; `None`: not published.
    pub(crate) cloudwatch_namespace: Option<String>,
}

impl Metrics {
    pub(super) fn validate(listen: Option<String>, namespace: Option<String>) -> Result<Self> {
        let listen = listen
            .map(|text| match text.parse::<SocketAddr>() {
                Ok(address) if address.ip().is_loopback() => Ok(address),
                _ => refused(
                    "metrics.listen: not an address on this instance\nhint: such as \"127.0.0.1:9150\"; \
                     a collector on this instance carries them further",
                ),
            })
            .transpose()?;
        if let Some(namespace) = &namespace {
            // https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html
            let fits = |c: char| c.is_ascii_alphanumeric() || ".-_/#:".contains(c);
            if namespace.is_empty()
                || namespace.len() > 255
                || namespace.starts_with([':', '/'])
                || namespace.starts_with("AWS/")
                || !namespace.chars().all(fits)
            {
                return refused(
                    "metrics.cloudwatch_namespace: not a namespace of one's own\nhint: letters, digits \
                     and `.-_/#:`, not beginning with `AWS/`, such as \"shop/agents\"",
                );
            }
        }
        Ok(Self {
            listen,
            cloudwatch_namespace: namespace,
        })
    }
}
