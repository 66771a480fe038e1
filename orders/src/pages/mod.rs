//! The shop page: one page, its style and its script, embedded; no build step.
//!
//! Owns what a browser gets and the policy it gets it under. The page speaks to the same contract
//! as every other client and has no powers of its own.

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

const PAGE: &str = include_str!("shop.html");
const STYLE: &str = include_str!("shop.css");
const SCRIPT: &str = include_str!("shop.js");

/// Nothing from elsewhere, nothing inline, nobody may frame it.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
    connect-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; \
    frame-ancestors 'none'";
/// During a roll boxes of two releases answer side by side: a browser must ask each time.
const FRESH: &str = "no-cache";

/// The page with the flowers on sale written into it.
#[derive(Debug, Clone)]
pub struct Shop {
    page: String,
}

impl Shop {
    /// The page for these `flowers` (settings allow only letters, digits, `_` and `-` in them, so
    /// there is nothing to escape).
    #[must_use]
    pub fn new(flowers: &[String]) -> Self {
        let choices: Vec<String> = flowers
            .iter()
            .map(|flower| format!("<option value=\"{flower}\">{}</option>", title(flower)))
            .collect();
        Self {
            page: PAGE.replace("<!--flowers-->", &choices.join("")),
        }
    }

    /// The routes of the page and its parts.
    pub fn router(self) -> Router {
        Router::new()
            .route(
                "/",
                get(move || std::future::ready(part("text/html", self.page.clone()))),
            )
            .route(
                "/shop.css",
                get(|| std::future::ready(part("text/css", STYLE))),
            )
            .route(
                "/shop.js",
                get(|| std::future::ready(part("text/javascript", SCRIPT))),
            )
    }
}

fn part(media: &str, content: impl IntoResponse) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, format!("{media}; charset=utf-8")),
        (header::CACHE_CONTROL, FRESH.to_owned()),
        (header::CONTENT_SECURITY_POLICY, POLICY.to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
    ];
    (headers, content)
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
mod tests {
    use super::*;

    #[test]
    fn offers_the_flowers_on_sale() {
        let shop = Shop::new(&["romantic_roses".to_owned(), "fern".to_owned()]);
        assert!(
            shop.page
                .contains("<option value=\"romantic_roses\">Romantic roses</option>")
        );
        assert!(shop.page.contains("<option value=\"fern\">Fern</option>"));
        assert!(!shop.page.contains("<!--flowers-->"));
    }

    #[test]
    fn keeps_its_own_policy() {
        for inline in [
            "<script>", "<style", "style=", "onclick", "onsubmit", "http://", "https://",
        ] {
            assert!(!PAGE.contains(inline), "{inline}");
        }
    }
}
