//! The shop page with its style, script and icon, embedded in the binary; no build step.
//!
//! Owns what browsers get and under which policy. The page uses the same contract as every other client.
//! Everything is compressed once, at the start.

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
/// The account part and its script, if accounts are on.
const ACCOUNT: &str = include_str!("account.html");
const ACCOUNT_SCRIPT: &str = include_str!("account.js");
const ICON: &str = include_str!("shop.svg");

/// Nothing from other origins, nothing inline, no framing.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
    connect-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; \
    frame-ancestors 'none'";
/// During a roll, instances of two releases serve side by side, so a browser must revalidate each time;
/// mostly nothing has changed.
const REVALIDATE: &str = "no-cache";
/// For a part that was requested with its version: it never changes.
const IMMUTABLE: &str = "public, max-age=31536000, immutable";

const ACCOUNT_LINK: &str = "<script src=\"account.js\" defer></script>";

/// The page and its parts as they are served.
#[derive(Debug, Clone)]
pub struct Pages {
    page: Part,
    style: Part,
    script: Part,
    icon: Part,
    account_script: Option<Part>,
}

impl Pages {
    /// The page for these `flowers`, with or without the account part. Settings allow only letters, digits,
    /// `_` and `-` in flowers, so nothing needs escaping.
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

/// One part of the page; cheap to clone.
#[derive(Debug, Clone)]
struct Part(Arc<Content>);

#[derive(Debug)]
struct Content {
    media: &'static str,
    version: String,
    plain: Encoded,
    gzip: Encoded,
}

/// Content in one encoding. Each encoding has its own tag, since the bytes differ.
#[derive(Debug)]
struct Encoded {
    tag: String,
    bytes: Bytes,
}

impl Part {
    fn new(media: &'static str, text: &str) -> Self {
        let version = URL_SAFE_NO_PAD.encode(&Sha256::digest(text)[..12]);
        let encoded = |tag: &str, bytes: Vec<u8>| Encoded {
            tag: format!("\"{version}{tag}\""),
            bytes: bytes.into(),
        };
        Self(Arc::new(Content {
            media,
            plain: encoded("", text.into()),
            gzip: encoded("-gzip", gzip(text.as_bytes())),
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
        let encoded = if zipped {
            &content.gzip
        } else {
            &content.plain
        };
        // A request for another release's version gets the current content, which must not be cached under
        // that version.
        let keep = query.and_then(|query| query.strip_prefix("v=")) == Some(&*content.version);
        let mut response = if has_already(asked, &encoded.tag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            let mut response = Body::from(encoded.bytes.clone()).into_response();
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
        // Base64 and quotes are always valid in a header.
        if let Ok(tag) = HeaderValue::from_str(&encoded.tag) {
            headers.insert(header::ETAG, tag);
        }
        for (name, value) in [
            (
                header::CACHE_CONTROL,
                if keep { IMMUTABLE } else { REVALIDATE },
            ),
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
    // Writing to a Vec cannot fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// Whether the client accepts gzip.
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

/// Whether the client has the content with this `tag`. A proxy may have made the tag a weak one (`W/`).
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

/// The flowers on sale as radio buttons, the first one checked.
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

/// The page's drawing that is closest to a flower.
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

/// Formats `romantic_roses` for people: `Romantic roses`.
fn title(flower: &str) -> String {
    let words = flower.replace(['_', '-'], " ");
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

#[cfg(test)]
mod tests;
