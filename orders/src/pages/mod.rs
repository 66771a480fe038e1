//! The shop page: one page, its style, its script and its icon, embedded; no build step.
//!
//! Owns what a browser gets and the policy it gets it under. The page speaks to the same contract
//! as every other client and has no powers of its own. Everything is compressed once, at the start.

use std::io::Write;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::RawQuery;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

const PAGE: &str = include_str!("shop.html");
const STYLE: &str = include_str!("shop.css");
const SCRIPT: &str = include_str!("shop.js");
/// The account part and its script, where accounts are on.
const ACCOUNT: &str = include_str!("account.html");
const ACCOUNT_SCRIPT: &str = include_str!("account.js");
const ICON: &str = include_str!("shop.svg");

/// Nothing from elsewhere, nothing inline, nobody may frame it.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
    connect-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; \
    frame-ancestors 'none'";
/// During a roll boxes of two releases answer side by side: a browser must ask each time, and is
/// mostly told that nothing changed.
const ASK: &str = "no-cache";
/// For what was asked for by its version and has it: it never changes.
const KEEP: &str = "public, max-age=31536000, immutable";

const ACCOUNT_LINK: &str = "<script src=\"account.js\" defer></script>";

/// The page and its parts, as they go out.
#[derive(Debug, Clone)]
pub struct Pages {
    page: Part,
    style: Part,
    script: Part,
    icon: Part,
    account_script: Option<Part>,
}

impl Pages {
    /// The page for these `flowers` (settings allow only letters, digits, `_` and `-` in them, so
    /// there is nothing to escape), with the account part or without it.
    #[must_use]
    pub fn new(flowers: &[String], accounts: bool) -> Self {
        let style = Part::new("text/css; charset=utf-8", STYLE);
        let script = Part::new("text/javascript; charset=utf-8", SCRIPT);
        let icon = Part::new("image/svg+xml", ICON);
        let account_script =
            accounts.then(|| Part::new("text/javascript; charset=utf-8", ACCOUNT_SCRIPT));
        let mut page = PAGE
            .replace("<!--flowers-->", &choices(flowers))
            .replace("<!--account-->", if accounts { ACCOUNT } else { "" })
            .replace(
                "<!--account-script-->",
                if accounts { ACCOUNT_LINK } else { "" },
            );
        let named = [
            ("shop.css", Some(&style)),
            ("shop.js", Some(&script)),
            ("shop.svg", Some(&icon)),
            ("account.js", account_script.as_ref()),
        ];
        for (name, part) in named {
            let Some(part) = part else { continue };
            let version = &part.0.version;
            page = page.replace(&format!("\"{name}\""), &format!("\"{name}?v={version}\""));
        }
        Self {
            page: Part::new("text/html; charset=utf-8", &page),
            style,
            script,
            icon,
            account_script,
        }
    }

    /// The routes of the page and its parts.
    pub fn router(self) -> Router {
        let router = Router::new()
            .route("/", self.page.route())
            .route("/shop.css", self.style.route())
            .route("/shop.js", self.script.route())
            .route("/shop.svg", self.icon.route());
        match self.account_script {
            None => router,
            Some(script) => router.route("/account.js", script.route()),
        }
    }
}

/// One thing a browser asks for; copies are cheap.
#[derive(Debug, Clone)]
struct Part(Arc<Content>);

#[derive(Debug)]
struct Content {
    media: &'static str,
    version: String,
    plain: Spelling,
    gzip: Spelling,
}

/// Content in one encoding. Each has a tag of its own: they are not the same bytes.
#[derive(Debug)]
struct Spelling {
    tag: String,
    bytes: Bytes,
}

impl Part {
    fn new(media: &'static str, text: &str) -> Self {
        let version = URL_SAFE_NO_PAD.encode(&Sha256::digest(text)[..12]);
        let spelling = |tag: &str, bytes: Vec<u8>| Spelling {
            tag: format!("\"{version}{tag}\""),
            bytes: bytes.into(),
        };
        Self(Arc::new(Content {
            media,
            plain: spelling("", text.into()),
            gzip: spelling("-gzip", gzip(text.as_bytes())),
            version,
        }))
    }

    fn route(self) -> axum::routing::MethodRouter {
        get(move |RawQuery(query): RawQuery, headers: HeaderMap| {
            std::future::ready(self.answer(query.as_deref(), &headers))
        })
    }

    fn answer(&self, query: Option<&str>, asked: &HeaderMap) -> Response {
        let content = &*self.0;
        let zipped = takes_gzip(asked);
        let spelling = if zipped {
            &content.gzip
        } else {
            &content.plain
        };
        // Another release's version gets what there is, and must not keep it under that name.
        let keep = query.and_then(|query| query.strip_prefix("v=")) == Some(&*content.version);
        let mut response = if has_already(asked, &spelling.tag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            let mut response = Body::from(spelling.bytes.clone()).into_response();
            let headers = response.headers_mut();
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static(content.media),
            );
            if zipped {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            response
        };
        let headers = response.headers_mut();
        // Base64 and quotes are always a header's text.
        if let Ok(tag) = HeaderValue::from_str(&spelling.tag) {
            headers.insert(header::ETAG, tag);
        }
        for (name, value) in [
            (header::CACHE_CONTROL, if keep { KEEP } else { ASK }),
            (header::VARY, "accept-encoding"),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::REFERRER_POLICY, "no-referrer"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        for (name, value) in [
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
            (
                "permissions-policy",
                "camera=(), geolocation=(), microphone=(), payment=()",
            ),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // A Vec takes everything.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// Whether the client names gzip among the encodings it reads, and not to forbid it.
fn takes_gzip(asked: &HeaderMap) -> bool {
    list(asked, &header::ACCEPT_ENCODING).any(|item| {
        let mut parts = item.split(';').map(str::trim);
        let gzip = parts
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let weight = parts.find_map(|part| part.strip_prefix("q="));
        gzip && weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0))
    })
}

/// Whether the client holds what has this `tag`. A proxy may have made the tag a weak one (`W/`).
fn has_already(asked: &HeaderMap, tag: &str) -> bool {
    list(asked, &header::IF_NONE_MATCH)
        .any(|item| item == "*" || item.strip_prefix("W/").unwrap_or(item) == tag)
}

/// The items of a header that is a list.
fn list<'a>(
    headers: &'a HeaderMap,
    name: &header::HeaderName,
) -> impl Iterator<Item = &'a str> + use<'a> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// The flowers on sale as choices of the form, the first one chosen.
fn choices(flowers: &[String]) -> String {
    let choice = |(place, flower): (usize, &String)| {
        let checked = if place == 0 { " checked" } else { "" };
        let (drawing, title) = (drawing(flower), title(flower));
        format!(
            "<label class=\"flower\"><input type=\"radio\" name=\"flower\" value=\"{flower}\" \
             required{checked}><svg class=\"{drawing}\" viewBox=\"0 0 120 120\" aria-hidden=\"true\" \
             focusable=\"false\"><use href=\"#{drawing}\"/></svg><span>{title}</span></label>"
        )
    };
    flowers.iter().enumerate().map(choice).collect()
}

/// Which of the page's drawings comes nearest to a flower.
fn drawing(flower: &str) -> &'static str {
    let flower = flower.to_ascii_lowercase();
    if flower.contains("rose") {
        "roses"
    } else if flower.contains("tulip") {
        "tulips"
    } else {
        "blossoms"
    }
}

/// `romantic_roses` as people read it: `Romantic roses`.
fn title(flower: &str) -> String {
    let words = flower.replace(['_', '-'], " ");
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

#[cfg(test)]
mod tests;
