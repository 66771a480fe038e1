//! A local server for S3, DynamoDB, SNS and CloudWatch: moto on its own port, started by
//! `orders/tests/moto_in_turn.py`. Test code only. If moto is missing, tests fail with a hint.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::aws;
use crate::settings::AwsSettings;

/// Time limit for requests that prepare a test: at the first one moto loads a service's code, and the machine
/// may be busy.
const TEST_TIMEOUT: Duration = Duration::from_secs(120);

/// A running server; stops when dropped.
pub(crate) struct Moto {
    child: Child,
    pub(crate) endpoint: String,
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Moto {
    pub(crate) fn start() -> Self {
        let mut child = Command::new(python())
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/moto_in_turn.py"))
            .env("PYTHONUNBUFFERED", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "moto does not start: {error}\nhint: run `make setup`, or \
                     `pip install 'moto[server]'` and set ORDERS_TEST_MOTO to moto_server's path"
                )
            });
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let endpoint = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                line.split_once("Running on ")
                    .map(|(_, url)| url.trim().to_owned())
            })
            .expect("moto ended before it listened\nhint: install moto for this Python");
        // Its log must be read, or it blocks when the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, endpoint }
    }

    /// Settings that lead to the server, or to `endpoint` in front of it.
    pub(crate) fn settings(endpoint: &str) -> AwsSettings {
        AwsSettings::from_variables(
            [
                ("AWS_ENDPOINT_URL", endpoint),
                ("AWS_REGION", "eu-north-1"),
                ("AWS_ACCESS_KEY_ID", "test"),
                ("AWS_SECRET_ACCESS_KEY", "test"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        )
    }

    /// Creates a bucket.
    pub(crate) async fn make_bucket(&self, name: &str) {
        let body = "<CreateBucketConfiguration><LocationConstraint>eu-north-1\
                    </LocationConstraint></CreateBucketConfiguration>";
        let url = format!("{}/{name}", self.endpoint);
        self.prepare(Method::PUT, &url, "s3", &[], body.to_owned())
            .await;
    }

    /// Calls `service` by the query protocol and returns the response.
    pub(crate) async fn ask(&self, service: &str, form: &str) -> String {
        let url = format!("{}/", self.endpoint);
        let header = ("content-type", "application/x-www-form-urlencoded");
        self.prepare(Method::POST, &url, service, &[header], form.to_owned())
            .await
    }

    /// Creates a table with these text keys: the first is the hash key, the second the sort key.
    pub(crate) async fn make_table(&self, name: &str, keys: &[&str]) {
        let of = |kind: &str, values: [&str; 2]| -> Vec<Value> {
            let pairs = keys.iter().zip(values);
            pairs
                .map(|(key, value)| json!({"AttributeName": key, kind: value}))
                .collect()
        };
        let body = json!({
            "TableName": name,
            "AttributeDefinitions": of("AttributeType", ["S", "S"]),
            "KeySchema": of("KeyType", ["HASH", "RANGE"]),
            "BillingMode": "PAY_PER_REQUEST",
        });
        let url = format!("{}/", self.endpoint);
        let headers = [
            ("content-type", "application/x-amz-json-1.0"),
            ("x-amz-target", "DynamoDB_20120810.CreateTable"),
        ];
        self.prepare(Method::POST, &url, "dynamodb", &headers, body.to_string())
            .await;
    }

    /// Sends a request once, with a long time limit. The service's own calls have a short one and retry,
    /// which would create a table twice.
    async fn prepare(
        &self,
        method: Method,
        url: &str,
        service: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> String {
        let client = aws::client(url, TEST_TIMEOUT).unwrap();
        let mut request = client
            .request(method, url)
            .header("authorization", signed_for(service))
            .body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{url}: {status} {text}");
        text
    }
}

/// The server reads service and region from this header and does not verify it.
fn signed_for(service: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential=test/20260101/eu-north-1/{service}/aws4_request, \
         SignedHeaders=host, Signature=0"
    )
}

/// The Python interpreter that has moto: the one next to `moto_server`.
fn python() -> PathBuf {
    if let Some(path) = std::env::var_os("ORDERS_TEST_MOTO") {
        return Path::new(&path).with_file_name("python3");
    }
    let set_up = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/venv/bin/python3");
    if set_up.exists() {
        set_up
    } else {
        "python3".into()
    }
}
