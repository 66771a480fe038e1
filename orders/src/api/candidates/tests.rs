//! Every response of the candidate contract, byte by byte, as recorded from the service that it replaces.

use axum::extract::Request;
use axum::http::{HeaderMap, Method};
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;
use crate::candidates::{Names, PAGE};
use crate::store::memory::MemoryStore;

const PAGE_404: &str = NO_SUCH_PAGE;

async fn ask(router: &Router, method: &str, path: &str, body: &str) -> (u16, HeaderMap, String) {
    let request = Request::builder()
        .method(Method::from_bytes(method.as_bytes()).unwrap())
        .uri(path)
        .body(Body::from(body.to_owned()))
        .unwrap();
    let (parts, body) = router.clone().oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let body = String::from_utf8(body.into()).unwrap();
    (parts.status.as_u16(), parts.headers, body)
}

#[tokio::test]
async fn every_response_of_the_contract_is_byte_exact() {
    assert_eq!((PAGE_404.len(), WRONG_METHOD.len()), (207, 153));
    let router = router(Arc::new(MemoryStore::default()));
    let long = format!("/candidate/{}", "x".repeat(NAME_LIMIT + 1));
    let full = format!("/candidate/{}", "x".repeat(NAME_LIMIT));
    let kept_full = format!("{{\"CandidateName\":\"{}\"}}\n", "x".repeat(NAME_LIMIT));
    let odd = "/candidate/%C3%A9%F0%9F%8C%B9%22%5C%0A%7F%01%09";
    let john = "/candidate/John%20Smith";
    let not_utf8 = "/candidate/%ff%C3";
    let signs = "/candidate/a+b%3Cc%3E%26%27";
    let kept_john = "{\"CandidateName\":\"John Smith\"}\n";
    let kept_odd = "{\"CandidateName\":\"\\u00e9\\ud83c\\udf39\\\"\\\\\\n\\u007f\\u0001\\t\"}\n";
    let kept_not_utf8 = "{\"CandidateName\":\"\\ufffd\\ufffd\"}\n";
    let kept_signs = "{\"CandidateName\":\"a+b<c>&'\"}\n";
    let kept_dots = "{\"CandidateName\":\"..\"}\n";
    let one = "[{\"CandidateName\": \"John Smith\"}]";
    let other = "[{\"CandidateName\": \"\\u00e9\\ud83c\\udf39\\\"\\\\\\n\\u007f\\u0001\\t\"}]";
    let both = "[{\"CandidateName\": \"John Smith\"}, {\"CandidateName\": \"\\u00e9\\ud83c\\udf39\\\"\\\\\\n\\u007f\\u0001\\t\"}]";
    // Columns: method, path, body; status, type, body.
    let rows = [
        ("GET", "/candidates", "", 404, HTML, NOT_FOUND),
        ("GET", john, "", 404, HTML, NOT_FOUND),
        ("POST", john, "", 200, JSON, kept_john),
        ("POST", john, "party=ind", 200, JSON, kept_john),
        ("GET", "/candidate/John%20Smith?x=1", "", 200, HTML, one),
        ("HEAD", john, "", 200, HTML, ""),
        ("GET", "/candidates", "", 200, HTML, one),
        ("POST", odd, "", 200, JSON, kept_odd),
        ("GET", odd, "", 200, HTML, other),
        ("GET", "/candidates", "", 200, HTML, both),
        ("POST", not_utf8, "", 200, JSON, kept_not_utf8),
        ("POST", signs, "", 200, JSON, kept_signs),
        ("POST", "/candidate/..", "", 200, JSON, kept_dots),
        ("POST", &full, "", 200, JSON, &kept_full),
        ("POST", &long, "", 500, HTML, "Unable to update"),
        ("GET", &long, "", 404, HTML, NOT_FOUND),
        ("PUT", "/candidate/x", "", 405, HTML, WRONG_METHOD),
        ("DELETE", "/candidates", "", 405, HTML, WRONG_METHOD),
        ("OPTIONS", "/candidate/x", "", 200, HTML, ""),
        ("OPTIONS", "/candidates", "", 200, HTML, ""),
        ("GET", "/candidate/", "", 404, HTML, PAGE_404),
        ("POST", "/candidate/", "", 404, HTML, PAGE_404),
        ("GET", "/candidate/a%2Fb", "", 404, HTML, PAGE_404),
        ("POST", "/candidate/a%2fb", "", 404, HTML, PAGE_404),
        ("GET", "/candidate", "", 404, HTML, PAGE_404),
        ("GET", "/candidates/", "", 404, HTML, PAGE_404),
    ];
    for (method, path, body, status, media, expected) in rows {
        let (got, headers, answer) = ask(&router, method, path, body).await;
        let asked = format!("{method} {path:.80}");
        assert_eq!((got, answer.as_str()), (status, expected), "{asked}");
        assert_eq!(headers["content-type"], media, "{asked}");
        if method == "OPTIONS" || got == 405 {
            let post = path.starts_with(PREFIX);
            let allow = if post { ALLOW_ONE } else { ALLOW_ALL };
            assert_eq!(headers["allow"], allow, "{asked}");
            assert_eq!(headers.get_all("allow").iter().count(), 1, "{asked}");
        }
    }
}

/// A store that fails.
struct Broken;

#[async_trait::async_trait]
impl Candidates for Broken {
    async fn put(&self, _: &str) -> anyhow::Result<()> {
        anyhow::bail!("away")
    }
    async fn has(&self, _: &str) -> anyhow::Result<bool> {
        anyhow::bail!("away")
    }
    async fn page(&self, _: Option<&str>) -> anyhow::Result<Names> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_store_responds_like_the_candidate_service() {
    let router = router(Arc::new(Broken));
    for (method, path, status, expected) in [
        ("GET", "/candidate/x", 404, NOT_FOUND),
        ("POST", "/candidate/x", 500, "Unable to update"),
        ("GET", "/candidates", 404, NOT_FOUND),
    ] {
        let (got, headers, answer) = ask(&router, method, path, "").await;
        assert_eq!(
            (got, answer.as_str()),
            (status, expected),
            "{method} {path}"
        );
        assert_eq!(headers["content-type"], HTML, "{method} {path}");
    }
}

/// Many readers that read a little and then stop hold one page each, not the list.
#[tokio::test]
async fn slow_readers_of_a_long_list_hold_one_page_each() {
    let store = Arc::new(MemoryStore::default());
    let names: Vec<String> = (0..6000)
        .map(|n| format!("{n:04}{}", "x".repeat(2000)))
        .collect();
    for name in &names {
        store.put(name).await.unwrap();
    }
    let router = router(store);
    let request = || Request::get("/candidates").body(Body::empty()).unwrap();
    let mut readers = Vec::new();
    for _ in 0..60 {
        let mut body = router.clone().oneshot(request()).await.unwrap().into_body();
        let read = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(read.len() <= PAGE * 2100, "{}", read.len());
        readers.push((body, read));
    }
    // The response equals that of an unpaged list.
    let (body, read) = readers.pop().unwrap();
    let rest = body.collect().await.unwrap().to_bytes();
    assert!(rest.len() > 10_000_000);
    let whole = [&read[..], &rest].concat();
    assert!(whole == array(&names).into_bytes());
    for count in [1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE] {
        let store = Arc::new(MemoryStore::default());
        for name in &names[..count] {
            store.put(name).await.unwrap();
        }
        let (status, _, body) = ask(&super::router(store), "GET", "/candidates", "").await;
        assert_eq!(status, 200, "{count}");
        assert!(body == array(&names[..count]), "{count}");
    }
}

/// A store that returns one page and then fails.
struct Halfway;

#[async_trait::async_trait]
impl Candidates for Halfway {
    async fn put(&self, _: &str) -> anyhow::Result<()> {
        Ok(())
    }
    async fn has(&self, _: &str) -> anyhow::Result<bool> {
        Ok(true)
    }
    async fn page(&self, after: Option<&str>) -> anyhow::Result<Names> {
        anyhow::ensure!(after.is_none(), "down");
        let names = vec!["Ada".to_owned()];
        Ok(Names {
            names,
            next: Some("Ada".to_owned()),
        })
    }
}

#[tokio::test]
async fn a_list_that_fails_in_the_middle_is_cut_off() {
    let request = Request::get("/candidates").body(Body::empty()).unwrap();
    let answer = router(Arc::new(Halfway)).oneshot(request).await.unwrap();
    assert!(answer.into_body().collect().await.is_err());
}
