//! Which parts are served, how they are encoded, and how long they may be cached.

use std::io::Read;

use axum::http::Request;
use flate2::read::GzDecoder;
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;

fn pages() -> Pages {
    Pages::new(&["romantic_roses".to_owned(), "fern".to_owned()], true)
}

async fn ask(path: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    pages().router().oneshot(request).await.unwrap()
}

async fn body(response: Response) -> Vec<u8> {
    let body = response.into_body().collect().await.unwrap();
    body.to_bytes().into()
}

#[tokio::test]
async fn the_page_offers_the_flowers_on_sale() {
    let page = String::from_utf8(body(ask("/", &[]).await).await).unwrap();
    for part in [
        r#"name="flower" value="romantic_roses" required checked>"#,
        "<span>Romantic roses</span>",
        r#"name="flower" value="fern" required><svg class="blossoms""#,
        "<span>Fern</span>",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(!page.contains("<!--"), "nothing is left to fill in");
}

#[test]
fn the_page_keeps_its_own_policy() {
    for inline in [
        "<script>", "<style", "style=", "onclick", "onsubmit", "http://", "https://",
    ] {
        assert!(!PAGE.contains(inline), "{inline}");
        assert!(!ACCOUNT.contains(inline), "{inline}");
    }
    for sink in [
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
    ] {
        assert!(!SCRIPT.contains(sink), "{sink}");
        assert!(!ACCOUNT_SCRIPT.contains(sink), "{sink}");
    }
}

#[tokio::test]
async fn parts_are_compressed_for_clients_that_accept_gzip() {
    let plain = body(ask("/", &[]).await).await;
    let table = [
        ("gzip", true),
        ("br, GZIP;q=0.5", true),
        ("deflate, gzip;q=0", false),
        ("identity", false),
        ("xgzip", false),
    ];
    for (accepted, zipped) in table {
        let answer = ask("/", &[("accept-encoding", accepted)]).await;
        let encoding = answer.headers().get(header::CONTENT_ENCODING).cloned();
        assert_eq!(encoding.is_some(), zipped, "{accepted}");
        assert_eq!(
            answer.headers()[header::VARY],
            "accept-encoding",
            "{accepted}"
        );
        let sent = body(answer).await;
        if zipped {
            let mut read = Vec::new();
            GzDecoder::new(&*sent).read_to_end(&mut read).unwrap();
            assert_eq!(read, plain, "{accepted}");
            assert!(sent.len() * 2 < plain.len(), "{accepted}: worth it");
        } else {
            assert_eq!(sent, plain, "{accepted}");
        }
    }
}

#[tokio::test]
async fn a_current_copy_gets_304() {
    for path in ["/", "/shop.css", "/shop.js", "/shop.svg", "/account.js"] {
        let plain = ask(path, &[]).await.headers()[header::ETAG].clone();
        let zipped =
            ask(path, &[("accept-encoding", "gzip")]).await.headers()[header::ETAG].clone();
        assert_ne!(plain, zipped, "{path}: other bytes, another tag");
        let tag = plain.to_str().unwrap();
        let weak = format!("\"x\", W/{tag}");
        for (held, status) in [(tag, 304), (&*weak, 304), ("*", 304), ("\"x\"", 200)] {
            let answer = ask(path, &[("if-none-match", held)]).await;
            assert_eq!(answer.status(), status, "{path} {held}");
            assert_eq!(answer.headers()[header::ETAG], tag, "{path} {held}");
            let is_empty = body(answer).await.is_empty();
            assert_eq!(is_empty, status == 304, "{path} {held}");
        }
        let held = [("if-none-match", tag), ("accept-encoding", "gzip")];
        let status = ask(path, &held).await.status();
        assert_eq!(status, 200, "{path}: holds the other one");
    }
}

#[tokio::test]
async fn a_request_with_the_version_is_cacheable() {
    let page = String::from_utf8(body(ask("/", &[]).await).await).unwrap();
    assert_eq!(
        ask("/", &[]).await.headers()[header::CACHE_CONTROL],
        REVALIDATE
    );
    for name in ["shop.css", "shop.js", "shop.svg", "account.js"] {
        let start = page.find(&format!("{name}?v=")).unwrap();
        let link = page[start..].split('"').next().unwrap();
        for (path, kept) in [
            (format!("/{link}"), IMMUTABLE),
            (format!("/{name}"), REVALIDATE),
            (format!("/{name}?v=anotherrelease00"), REVALIDATE),
        ] {
            let answer = ask(&path, &[]).await;
            assert_eq!(answer.headers()[header::CACHE_CONTROL], kept, "{path}");
        }
    }
}

#[tokio::test]
async fn the_account_part_is_present_only_if_accounts_are_on() {
    for (accounts, status) in [(true, 200), (false, 404)] {
        let router = Pages::new(&["fern".to_owned()], accounts).router();
        let request = |path| Request::get(path).body(Body::empty()).unwrap();
        let page = router.clone().oneshot(request("/")).await.unwrap();
        let page = String::from_utf8(body(page).await).unwrap();
        assert_eq!(page.contains("account"), accounts, "{page}");
        assert!(!page.contains("<!--"), "accounts {accounts}: filled in");
        let script = router.oneshot(request("/account.js")).await.unwrap();
        assert_eq!(script.status(), status, "accounts {accounts}");
    }
}
