//! The signed call over the wire, against a listener that keeps what it is sent.

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::aws::call::send;

fn config(endpoint: String) -> SdkConfig {
    let credentials = Credentials::new(
        "AKIDBOX",
        "s3cr3t-of-the-instance",
        Some("t0k3n-of-the-instance".to_owned()),
        None,
        "test",
    );
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-north-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .endpoint_url(endpoint)
        .build()
}

/// Sends a form to a server with this answer; returns the request and the result.
async fn sent(answer: &'static str) -> (String, Result<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = config(format!("http://{}", listener.local_addr().unwrap()));
    let hearing = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"Action=X&Namespace=a%2Fb") {
            assert_ne!(stream.read_buf(&mut heard).await.unwrap(), 0, "cut short");
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(heard).unwrap()
    });
    let form = "Action=X&Namespace=a%2Fb".to_owned();
    let outcome = send(&config, &SERVICE, "PutMetricData", form).await;
    (hearing.await.unwrap(), outcome.map_err(explained))
}

#[tokio::test]
async fn a_form_is_signed_for_cloudwatch_and_carries_no_secret() {
    let (heard, outcome) = sent("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    outcome.unwrap();
    let heard = heard.to_ascii_lowercase();
    assert!(heard.starts_with("post / http/1.1\r\n"), "{heard}");
    for part in [
        "authorization: aws4-hmac-sha256 credential=akidbox/",
        "/eu-north-1/monitoring/aws4_request, signedheaders=content-type;host;x-amz-date;x-amz-security-token, signature=",
        "x-amz-security-token: t0k3n-of-the-instance\r\n",
        "content-type: application/x-www-form-urlencoded; charset=utf-8\r\n",
    ] {
        assert!(heard.contains(part), "{part} in {heard}");
    }
    assert!(!heard.contains("s3cr3t"), "{heard}");
}

#[tokio::test]
async fn an_api_error_shows_only_its_code_and_the_permission() {
    let (_, outcome) = sent(
        "HTTP/1.1 403 Forbidden\r\ncontent-length: 109\r\n\r\n\
         <ErrorResponse><Error><Code>AccessDenied\u{202e}</Code><Message>arn:aws:sts::1:x</Message></Error></ErrorResponse>",
    )
    .await;
    assert_eq!(
        format!("{:#}", outcome.unwrap_err()),
        "PutMetricData answered 403 AccessDenied; the role needs cloudwatch:PutMetricData"
    );
}
