//! `PutMetricData`, signed here: one call a minute does not justify another service client.
//!
//! It is signed by [`super::signature`] and sent once over the agent's own HTTP/1.1 client.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use async_trait::async_trait;
use aws_config::SdkConfig;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::Aws;
use super::signature::signed;
use crate::metrics::cloudwatch::Sink;

/// One call, with the TLS handshake of a slow instance. The next minute has its own.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// An error document is read up to here.
const LONGEST_ANSWER: usize = 16 * 1024;

/// The way to CloudWatch.
#[derive(Debug)]
pub(super) struct Monitoring {
    config: SdkConfig,
    endpoint: String,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Monitoring {
    /// `config` must have a region.
    pub(super) fn new(config: SdkConfig) -> Result<Self> {
        let region = config
            .region()
            .ok_or_else(|| anyhow!("no region for CloudWatch"))?;
        let named = ["AWS_ENDPOINT_URL_CLOUDWATCH", "AWS_ENDPOINT_URL"]
            .into_iter()
            .find_map(|name| std::env::var(name).ok().filter(|url| !url.is_empty()));
        let endpoint = named.unwrap_or_else(|| {
            let china = if region.as_ref().starts_with("cn-") {
                ".cn"
            } else {
                ""
            };
            format!("https://monitoring.{region}.amazonaws.com{china}")
        });
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::aws_lc_rs::default_provider())
            .context("cannot read this system's certificate authorities")?
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self {
            endpoint: format!("{}/", endpoint.trim_end_matches('/')),
            client: Client::builder(TokioExecutor::new())
                // Once a minute: a connection kept would be one that the other side closed.
                .pool_max_idle_per_host(0)
                .build(connector),
            config,
        })
    }

    async fn send(&self, form: &str) -> Result<()> {
        let form = signed(&self.config, "monitoring", &self.endpoint, form.to_owned())
            .await
            .context("cannot sign PutMetricData")?;
        let mut request = Request::post(&self.endpoint);
        for (name, value) in form.headers {
            request = request.header(name, value);
        }
        let request = request
            .body(Full::new(Bytes::from(form.body)))
            .context("cannot form PutMetricData")?;
        let answer = self
            .client
            .request(request)
            .await
            .context("no answer to PutMetricData")?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let body = Limited::new(answer.into_body(), LONGEST_ANSWER)
            .collect()
            .await;
        let text = body.map(|body| body.to_bytes()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let code = text
            .split_once("<Code>")
            .and_then(|(_, rest)| rest.split_once("</Code>"))
            .map_or("no code", |(code, _)| code);
        bail!(
            "PutMetricData answered {status}: {}\nhint: the role needs cloudwatch:PutMetricData",
            code.chars()
                .filter(char::is_ascii_alphanumeric)
                .take(60)
                .collect::<String>()
        );
    }
}

#[async_trait]
impl Sink for Aws {
    async fn put(&self, form: String) -> Result<()> {
        let monitoring = &self.clients().await?.monitoring;
        tokio::time::timeout(CALL_LIMIT, monitoring.send(&form))
            .await
            .unwrap_or_else(|_| Err(anyhow!("no answer to PutMetricData in time")))
    }
}

#[cfg(test)]
mod tests;
