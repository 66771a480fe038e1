use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde_json::json;

use super::table::Table;
use super::*;
use crate::flaky::{Fate, Flaky, Head};

/// Instance metadata: IMDSv2 only, with a role whose keys last `seconds` and differ each time.
async fn instance(seconds: i64) -> (Flaky, Arc<AtomicUsize>) {
    let given = Arc::new(AtomicUsize::new(0));
    let giving = Arc::clone(&given);
    let metadata = Flaky::before("", move |head| {
        let answer = |text: &str| Fate::Answered(200, text.to_owned());
        let role = "/latest/meta-data/iam/security-credentials/";
        let mut line = head.line().split(' ');
        let (method, path) = (line.next().unwrap(), line.next().unwrap());
        if (method, path) == ("PUT", "/latest/api/token") {
            let lasts = head.header("x-aws-ec2-metadata-token-ttl-seconds");
            assert_ne!(lasts, "");
            return answer("the token");
        }
        if head.header("x-aws-ec2-metadata-token") != "the token" {
            return Fate::Answered(401, String::new());
        }
        match path.strip_prefix(role) {
            _ if path == "/latest/meta-data/placement/region" => answer("eu-north-1"),
            Some("") => answer("instance-role"),
            Some("instance-role") => {
                let number = giving.fetch_add(1, Ordering::SeqCst) + 1;
                let until = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
                let keys = json!({
                    "Code": "Success",
                    "AccessKeyId": format!("KEY{number}"),
                    "SecretAccessKey": "secret",
                    "Token": format!("session {number}"),
                    "Expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                });
                answer(&keys.to_string())
            }
            _ => Fate::Answered(404, String::new()),
        }
    })
    .await;
    (metadata, given)
}

/// A service that accepts everything and records who signed it.
async fn service() -> (Flaky, Arc<Mutex<Vec<String>>>) {
    let signed = Arc::<Mutex<Vec<String>>>::default();
    let noting = Arc::clone(&signed);
    let service = Flaky::before("", move |head: &Head| {
        let by = head.header("authorization");
        let by = by.split_once("Credential=").unwrap().1;
        let token = head.header("x-amz-security-token");
        let by = by.split_once(", ").unwrap().0;
        noting.lock().unwrap().push(format!("{by} {token}"));
        Fate::Answered(200, "{}".to_owned())
    })
    .await;
    (service, signed)
}

fn on_instance(metadata: &Flaky, service: &Flaky) -> Aws {
    Aws::new(AwsSettings::from_variables(
        [
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &metadata.endpoint),
            ("AWS_ENDPOINT_URL", &service.endpoint),
        ]
        .map(|(name, value)| (name.to_owned(), value.clone())),
    ))
}

async fn use_all(aws: &Aws) {
    let bucket = aws
        .s3()
        .await
        .unwrap()
        .with_bucket_name("shop")
        .build()
        .unwrap();
    bucket.delete(&Path::from("order")).await.unwrap();
    let table = Table::new("shop".to_owned(), aws.clone());
    table.call("GetItem", json!({})).await.unwrap();
    aws.call(&SNS, None, &[], "".into()).await.unwrap();
}

#[tokio::test]
async fn the_instances_role_is_read_once_and_signs_every_call() {
    let (metadata, given) = instance(6 * 3600).await;
    let (service, signed) = service().await;
    let aws = on_instance(&metadata, &service);
    use_all(&aws).await;
    use_all(&aws.clone()).await;
    assert_eq!(given.load(Ordering::SeqCst), 1, "kept until they expire");
    let today = jiff::Timestamp::now().strftime("%Y%m%d").to_string();
    let by = |service: &str| format!("KEY1/{today}/eu-north-1/{service}/aws4_request session 1");
    let once = ["s3", "dynamodb", "sns"].map(by);
    // At midnight the dates differ; then only the number of calls is checked.
    let signed = signed.lock().unwrap();
    assert_eq!(signed.len(), 6);
    if signed.iter().all(|by| by.contains(&today)) {
        assert_eq!(signed[..3], once);
        assert_eq!(signed[3..], once);
    }
}

#[tokio::test]
async fn keys_about_to_expire_are_renewed() {
    let (metadata, given) = instance(30).await;
    let (service, signed) = service().await;
    let aws = on_instance(&metadata, &service);
    // Not with every call: lookups are at least 100 ms apart.
    let renewed = async {
        while given.load(Ordering::SeqCst) < 2 {
            use_all(&aws).await;
        }
        use_all(&aws).await;
    };
    tokio::time::timeout(Duration::from_secs(60), renewed)
        .await
        .expect("the keys are renewed");
    let signed = signed.lock().unwrap();
    assert!(signed[0].starts_with("KEY1/"), "{signed:?}");
    assert!(!signed.last().unwrap().starts_with("KEY1/"), "{signed:?}");
}

#[tokio::test]
async fn without_credentials_the_reason_is_reported() {
    let metadata = Flaky::before("", |_| Fate::Answered(404, String::new())).await;
    let (service, signed) = service().await;
    let aws = on_instance(&metadata, &service);
    let error = format!("{:#}", aws.region().await.unwrap_err());
    assert!(error.contains("hint: set AWS_REGION"), "{error}");
    let table = Table::new("shop".to_owned(), aws);
    let error = table.call("GetItem", json!({})).await.unwrap_err();
    assert!(error.to_string().contains("find the region"), "{error}");
    assert_eq!(signed.lock().unwrap().len(), 0);
}
