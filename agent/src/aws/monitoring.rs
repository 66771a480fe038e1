//! `PutMetricData`, signed by hand: one call a minute is no reason to link a further service client.
//!
//! Signature Version 4 and the credentials are the SDK's own; the call goes over the agent's own HTTP/1.1
//! client. It sends what it is given, once.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, bail};
use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::Aws;
use crate::metrics::cloudwatch::Sink;

/// One call, with the TLS handshake of a slow box. The next minute has its own.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// An error document is read up to here.
const LONGEST_ANSWER: usize = 16 * 1024;

const CONTENT_TYPE: &str = "application/x-www-form-urlencoded; charset=utf-8";

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
        let credentials = self
            .config
            .credentials_provider()
            .ok_or_else(|| anyhow!("no credentials for CloudWatch"))?
            .provide_credentials()
            .await
            .context("cannot get credentials for CloudWatch")?
            .into();
        let mut request = Request::post(&self.endpoint)
            .header(header::CONTENT_TYPE, CONTENT_TYPE)
            .body(Full::new(Bytes::from(form.to_owned())))
            .context("cannot form PutMetricData")?;
        let region = self.config.region().map_or("", AsRef::as_ref);
        let settings = SigningParams::builder()
            .identity(&credentials)
            .region(region)
            .name("monitoring")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .context("cannot sign PutMetricData")?
            .into();
        let signable = SignableRequest::new(
            "POST",
            &self.endpoint,
            [("content-type", CONTENT_TYPE)].into_iter(),
            SignableBody::Bytes(form.as_bytes()),
        )
        .context("cannot sign PutMetricData")?;
        let (instructions, _) = sign(signable, &settings)
            .context("cannot sign PutMetricData")?
            .into_parts();
        instructions.apply_to_request_http1x(&mut request);
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
