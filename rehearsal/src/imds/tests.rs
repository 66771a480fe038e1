//! The router, as a table.

use super::*;
use crate::ids::InstanceId;
use crate::imds_source::Notices;

struct Fixed(Option<ImdsFacts>);

impl ImdsSource for Fixed {
    fn facts(&self, instance_id: &InstanceId) -> Option<ImdsFacts> {
        self.0
            .clone()
            .filter(|facts| facts.instance_id == *instance_id)
    }
}

fn facts() -> ImdsFacts {
    ImdsFacts {
        instance_id: "i-1".into(),
        image_id: "ami-1".into(),
        instance_type: "t3.micro".to_owned(),
        region: "us-east-1".to_owned(),
        zone: "us-east-1a".to_owned(),
        account_id: "123456789012".to_owned(),
        private_ip: "127.70.1.2".to_owned(),
        architecture: "x86_64".to_owned(),
        pending_time: "2026-01-01T00:00:00Z".to_owned(),
        user_data: b"\x1f\x8b raw".to_vec(),
        public_keys: BTreeMap::from([("mine".to_owned(), "ssh-ed25519 AAAA mine".to_owned())]),
        role: Some(RoleCredentials {
            role: "shop".to_owned(),
            access_key_id: "ASIA1".to_owned(),
            secret_access_key: "secret".to_owned(),
            token: "token".to_owned(),
            expiration: "2026-01-01T06:00:00Z".to_owned(),
        }),
        target_lifecycle_state: Some("InService".to_owned()),
        spot: false,
        notices: Notices::default(),
        tags: Some(BTreeMap::from([("Name".to_owned(), "shop".to_owned())])),
        tokens_required: false,
        endpoint_port: 4800,
    }
}

fn imds(facts: ImdsFacts) -> Imds {
    let id = facts.instance_id.clone();
    Imds::new(Arc::new(Fixed(Some(facts))), &id)
}

fn asked(imds: &Imds, method: Method, path: &str, headers: &[(&'static str, &str)]) -> Answer {
    let headers = headers
        .iter()
        .map(|(name, value)| {
            (
                hyper::header::HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            )
        })
        .collect();
    imds.answer(&method, path, &headers, Instant::now())
}

fn got(imds: &Imds, path: &str) -> Result<String, u16> {
    let answer = asked(imds, Method::GET, path, &[]);
    match answer.status {
        StatusCode::OK => Ok(String::from_utf8_lossy(&answer.body).into_owned()),
        status => Err(status.as_u16()),
    }
}

#[test]
fn paths_and_their_answers() {
    let imds = imds(facts());
    for (path, answer) in [
        ("/", Ok("latest")),
        ("/latest", Ok("dynamic\nmeta-data\nuser-data")),
        ("/latest/meta-data/ami-id", Ok("ami-1")),
        ("/2021-07-15/meta-data/instance-id", Ok("i-1")),
        (
            "/latest/meta-data/hostname",
            Ok("ip-127-70-1-2.ec2.internal"),
        ),
        ("/latest/meta-data/local-ipv4", Ok("127.70.1.2")),
        (
            "/latest/meta-data/placement",
            Ok("availability-zone\nregion"),
        ),
        (
            "/latest/meta-data/placement/",
            Ok("availability-zone\nregion"),
        ),
        ("/latest/meta-data/placement/region", Ok("us-east-1")),
        ("/latest/meta-data/public-keys/", Ok("0=mine")),
        ("/latest/meta-data/public-keys/0/", Ok("openssh-key")),
        (
            "/latest/meta-data/public-keys/0/openssh-key",
            Ok("ssh-ed25519 AAAA mine"),
        ),
        ("/latest/meta-data/iam/", Ok("info\nsecurity-credentials/")),
        ("/latest/meta-data/iam/security-credentials/", Ok("shop")),
        (
            "/latest/meta-data/autoscaling/target-lifecycle-state",
            Ok("InService"),
        ),
        ("/latest/meta-data/tags/instance", Ok("Name")),
        ("/latest/meta-data/tags/instance/Name", Ok("shop")),
        ("/latest/meta-data/services/rehearsal-port", Ok("4800")),
        ("/latest/meta-data/spot/instance-action", Err(404)),
        ("/latest/meta-data/plac", Err(404)),
        ("/latest/nonsense", Err(404)),
        ("/oldest/meta-data/ami-id", Err(404)),
    ] {
        assert_eq!(got(&imds, path), answer.map(str::to_owned), "{path}");
    }
    let names = got(&imds, "/latest/meta-data/").unwrap();
    assert!(
        names.contains("ami-id\n") && names.contains("placement/\n"),
        "{names}"
    );
    assert_eq!(
        asked(&imds, Method::GET, "/latest/user-data", &[]).body,
        Bytes::from_static(b"\x1f\x8b raw")
    );
}

#[test]
fn documents_are_json_that_sdks_read() {
    let imds = imds(facts());
    let parsed =
        |path| serde_json::from_str::<serde_json::Value>(&got(&imds, path).unwrap()).unwrap();
    let credentials = parsed("/latest/meta-data/iam/security-credentials/shop");
    assert_eq!(credentials["Code"], "Success");
    assert_eq!(credentials["AccessKeyId"], "ASIA1");
    assert_eq!(credentials["Expiration"], "2026-01-01T06:00:00Z");
    let identity = parsed("/latest/dynamic/instance-identity/document");
    assert_eq!(identity["region"], "us-east-1");
    assert_eq!(identity["instanceId"], "i-1");
    assert_eq!(
        parsed("/latest/meta-data/iam/info")["InstanceProfileArn"],
        "arn:aws:iam::123456789012:instance-profile/shop"
    );
}

#[test]
fn what_an_instance_does_not_have_is_not_found() {
    let imds = imds(ImdsFacts {
        user_data: Vec::new(),
        public_keys: BTreeMap::new(),
        role: None,
        target_lifecycle_state: None,
        tags: None,
        ..facts()
    });
    for path in [
        "/latest/user-data",
        "/latest/meta-data/public-keys/",
        "/latest/meta-data/iam/security-credentials/",
        "/latest/meta-data/autoscaling/target-lifecycle-state",
        "/latest/meta-data/tags/instance/Name",
    ] {
        assert_eq!(got(&imds, path), Err(404), "{path}");
    }
}

#[test]
fn a_token_is_required_issued_and_expires() {
    let imds = imds(ImdsFacts {
        tokens_required: true,
        ..facts()
    });
    let path = "/latest/meta-data/ami-id";
    assert_eq!(got(&imds, path), Err(401));

    let lent = asked(
        &imds,
        Method::PUT,
        "/latest/api/token",
        &[(TOKEN_TTL, "60")],
    );
    assert_eq!((lent.status, lent.ttl), (StatusCode::OK, Some(60)));
    let token = String::from_utf8(lent.body.to_vec()).unwrap();
    assert_eq!(
        asked(&imds, Method::GET, path, &[(TOKEN, &token)]).body,
        "ami-1"
    );
    let headers = HeaderMap::from_iter([(
        hyper::header::HeaderName::from_static(TOKEN),
        HeaderValue::from_str(&token).unwrap(),
    )]);
    let later = Instant::now() + Duration::from_secs(61);
    assert_eq!(
        imds.answer(&Method::GET, path, &headers, later).status,
        StatusCode::UNAUTHORIZED
    );
}

#[test]
fn a_wrong_token_is_refused_even_where_none_is_required() {
    let imds = imds(facts());
    let answer = asked(
        &imds,
        Method::GET,
        "/latest/meta-data/ami-id",
        &[(TOKEN, "stale")],
    );
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
}

#[test]
fn token_requests_that_are_refused() {
    let imds = imds(facts());
    let status = |headers: &[(&'static str, &str)]| {
        asked(&imds, Method::PUT, "/latest/api/token", headers)
            .status
            .as_u16()
    };
    assert_eq!(status(&[]), 400);
    assert_eq!(status(&[(TOKEN_TTL, "0")]), 400);
    assert_eq!(status(&[(TOKEN_TTL, "21601")]), 400);
    assert_eq!(status(&[(TOKEN_TTL, "soon")]), 400);
    assert_eq!(
        status(&[(TOKEN_TTL, "60"), ("x-forwarded-for", "10.0.0.1")]),
        403
    );
    assert_eq!(status(&[(TOKEN_TTL, "21600")]), 200);
    assert_eq!(
        asked(&imds, Method::PUT, "/latest/meta-data/ami-id", &[]).status,
        StatusCode::METHOD_NOT_ALLOWED
    );
    assert_eq!(
        asked(
            &imds,
            Method::POST,
            "/latest/api/token",
            &[(TOKEN_TTL, "60")]
        )
        .status,
        StatusCode::METHOD_NOT_ALLOWED
    );
}

#[test]
fn a_terminated_instance_gets_no_metadata() {
    let imds = Imds::new(Arc::new(Fixed(None)), &"i-1".into());
    assert_eq!(got(&imds, "/latest/meta-data/ami-id"), Err(404));
}

/// The whole way, as a guest's connection goes: the relay's socket, HTTP, one answer.
#[tokio::test]
async fn it_is_served_on_a_unix_socket_until_dropped() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/imds.sock");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "left behind by a killed daemon").unwrap();
    let serving = serve_unix(&path, Arc::new(Fixed(Some(facts()))), &"i-1".into()).unwrap();
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream
        .write_all(b"GET /latest/meta-data/ami-id HTTP/1.0\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("\r\n\r\nami-1"), "{answer}");
    assert!(answer.contains("content-length: 5"), "{answer}");
    drop(serving);
}

#[test]
fn notices_have_ec2s_format_and_are_absent_by_default() {
    let get = |facts: ImdsFacts, path: &str| {
        let answer = asked(
            &imds(facts),
            Method::GET,
            &format!("/latest/meta-data/{path}"),
            &[],
        );
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        (answer.status.as_u16(), text)
    };
    let spot = "spot/instance-action";
    let rebalance = "events/recommendations/rebalance";
    let scheduled = "events/maintenance/scheduled";
    assert_eq!(get(facts(), spot).0, 404);
    assert_eq!(get(facts(), rebalance).0, 404);
    assert_eq!(get(facts(), scheduled), (200, "[]".to_owned()));
    assert_eq!(get(facts(), "instance-life-cycle").1, "on-demand");
    let event = [
        "instance-stop",
        "instance-event-1",
        "21 Jan 2026 09:00:43 GMT",
        "21 Jan 2026 10:00:43 GMT",
    ];
    let message = || ImdsFacts {
        notices: Notices {
            spot: Some(("terminate".to_owned(), "2026-01-01T00:02:00Z".to_owned())),
            rebalance: Some("2026-01-01T00:00:00Z".to_owned()),
            event: Some(event.map(str::to_owned)),
        },
        ..facts()
    };
    let expected = r#"{"action":"terminate","time":"2026-01-01T00:02:00Z"}"#;
    assert_eq!(get(message(), spot), (200, expected.to_owned()));
    let expected = r#"{"noticeTime":"2026-01-01T00:00:00Z"}"#;
    assert_eq!(get(message(), rebalance), (200, expected.to_owned()));
    let events: serde_json::Value = serde_json::from_str(&get(message(), scheduled).1).unwrap();
    assert_eq!(events[0]["Code"], "instance-stop");
    assert_eq!(events[0]["NotBefore"], event[2]);
    assert_eq!(events[0]["State"], "active");
    assert_eq!(get(message(), "instance-life-cycle").1, "spot");
    let of_spot = ImdsFacts {
        spot: true,
        ..facts()
    };
    assert_eq!(get(of_spot.clone(), "instance-life-cycle").1, "spot");
    assert_eq!(get(of_spot, spot).0, 404);
}
