//! Proxies: for AWS's APIs, and never for the metadata service or a check.

use test_support::proxy::{Behaviour, Proxy};

use super::*;

/// Whether every request was one of AWS's APIs.
fn only_apis(proxy: &Proxy) -> bool {
    let seen = proxy.seen();
    assert!(!seen.is_empty());
    seen.iter()
        .all(|request| request.line.starts_with("POST http://"))
}

#[tokio::test]
async fn metadata_and_checks_never_go_through_a_proxy() {
    let house = Box::new("").await;
    house.cloud.change(|facts| {
        facts.target = Some("InService");
        facts.lifecycle = Some("Pending:Wait");
    });
    let proxy = Proxy::start();
    let (code, _, log) = {
        let mut configure = house.agent(&["configure"]);
        let output = configure
            .env("HTTP_PROXY", proxy.url())
            .output()
            .await
            .unwrap();
        (
            output.status.code(),
            (),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(proxy.seen(), []);
    let mut command = house.agent(&["run"]);
    let agent = command
        .env("HTTP_PROXY", proxy.url())
        .env("ALL_PROXY", proxy.url())
        .spawn()
        .unwrap();
    house.until_verdict(Verdict::Fit).await;
    house
        .cloud
        .until(|facts| facts.lifecycle == Some("InService"))
        .await;
    assert!(only_apis(&proxy));
    stop(agent).await;
}

#[tokio::test]
async fn the_proxy_of_the_settings_wins_and_keeps_its_secret() {
    let proxy = Proxy::start();
    proxy.behave(Behaviour::Demands("Basic dXNlcjpodXNo"));
    let settings = format!(
        "[proxy]\nhttp = \"http://user:hush@{}\"\nno_proxy = []\n[update]\nurl = \"https://u.example\"\n",
        proxy.address
    );
    let house = Box::new(&settings).await;
    let (code, _, log) = house.output(&["--log", "debug", "configure"]).await;
    assert_eq!(code, Some(0), "{log}");
    assert!(
        log.contains("a proxy's password can be read by every user"),
        "{log}"
    );
    assert!(!log.contains("hush"), "{log}");
    assert!(!house.file("update.json").contains("hush"));
    assert!(house.file("proxy.json").contains("hush"));
    let path = house.dir.path().join("run/proxy.json");
    let mode = fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);

    let mut command = house.agent(&["--log", "debug", "run"]);
    let agent = command
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("NO_PROXY", "*")
        .spawn()
        .unwrap();
    house.until_verdict(Verdict::Fit).await;
    assert!(only_apis(&proxy));
    let (_, log) = stop(agent).await;
    assert!(
        log.contains(&format!("http by http://{}", proxy.address)),
        "{log}"
    );
    for secret in ["hush", "dXNlcjpodXNo"] {
        assert!(!log.contains(secret), "{log}");
    }
    // No proxies any more: what was written is removed.
    house.reset(|text| text.replace(&settings, ""));
    let (code, _, log) = house.output(&["configure"]).await;
    assert_eq!(code, Some(0), "{log}");
    assert!(!house.dir.path().join("run/proxy.json").exists());
}
