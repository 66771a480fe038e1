//! The candidate service's contract: `/candidate/{name}` and `/candidates`.
//!
//! Off unless `candidates` is set. Its responses equal those of the service it replaces byte by byte (status,
//! type, spacing and escapes of JSON, HTML of errors), because clients compare them. So errors are not
//! problem+json, and every failure is `Not Found`, as it was there. Names are customers' data: none is
//! logged.

use std::fmt::Write;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use axum::routing::{any, get};
use futures_util::{StreamExt, stream};
use percent_encoding::percent_decode_str;

use super::shop::{STORE_TIMEOUT, within};
use crate::candidates::Candidates;
use support::one_line;

/// The path before a candidate's name.
pub(super) const PREFIX: &str = "/candidate/";
/// Longest name, in bytes: DynamoDB's limit for a key, applied to every store.
const NAME_LIMIT: usize = 2048;
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
const NOT_FOUND: &str = "Not Found";
const NO_SUCH_PAGE: &str = "<!doctype html>\n<html lang=en>\n<title>404 Not Found</title>\n\
    <h1>Not Found</h1>\n<p>The requested URL was not found on the server. If you entered the URL \
    manually please check your spelling and try again.</p>\n";
const WRONG_METHOD: &str = "<!doctype html>\n<html lang=en>\n\
    <title>405 Method Not Allowed</title>\n<h1>Method Not Allowed</h1>\n\
    <p>The method is not allowed for the requested URL.</p>\n";
const ALLOW_ONE: &str = "HEAD, GET, POST, OPTIONS";
const ALLOW_ALL: &str = "HEAD, GET, OPTIONS";

type Shared = State<Arc<dyn Candidates>>;

/// The module's routes.
pub(super) fn router(candidates: Arc<dyn Candidates>) -> Router {
    let one = get(show)
        .post(keep)
        .options(async || allowed(StatusCode::OK, ALLOW_ONE, ""))
        .fallback(async || allowed(StatusCode::METHOD_NOT_ALLOWED, ALLOW_ONE, WRONG_METHOD));
    let all = get(list)
        .options(async || allowed(StatusCode::OK, ALLOW_ALL, ""))
        .fallback(async || allowed(StatusCode::METHOD_NOT_ALLOWED, ALLOW_ALL, WRONG_METHOD));
    let nothing = || any(async || answer(StatusCode::NOT_FOUND, HTML, NO_SUCH_PAGE));
    Router::new()
        .route("/candidate/{name}", one)
        .route("/candidates", all)
        .route(PREFIX, nothing())
        .route("/candidate", nothing())
        .route("/candidates/", nothing())
        .with_state(candidates)
}

async fn show(State(candidates): Shared, uri: Uri) -> Response {
    let Some(name) = name(&uri) else {
        return answer(StatusCode::NOT_FOUND, HTML, NO_SUCH_PAGE);
    };
    if name.len() > NAME_LIMIT {
        return answer(StatusCode::NOT_FOUND, HTML, NOT_FOUND);
    }
    match within(STORE_TIMEOUT, candidates.has(&name)).await {
        Ok(true) => answer(StatusCode::OK, HTML, array([&name])),
        Ok(false) => answer(StatusCode::NOT_FOUND, HTML, NOT_FOUND),
        Err(error) => {
            failed("look up a candidate", &error);
            answer(StatusCode::NOT_FOUND, HTML, NOT_FOUND)
        }
    }
}

/// Stores the name; a request body is never read.
async fn keep(State(candidates): Shared, uri: Uri) -> Response {
    let Some(name) = name(&uri) else {
        return answer(StatusCode::NOT_FOUND, HTML, NO_SUCH_PAGE);
    };
    let refused = || answer(StatusCode::INTERNAL_SERVER_ERROR, HTML, "Unable to update");
    if name.len() > NAME_LIMIT {
        return refused();
    }
    match within(STORE_TIMEOUT, candidates.put(&name)).await {
        Ok(()) => {
            let mut body = String::from(r#"{"CandidateName":"#);
            write_json(&mut body, &name);
            body.push_str("}\n");
            answer(StatusCode::OK, JSON, body)
        }
        Err(error) => {
            failed("keep a candidate", &error);
            refused()
        }
    }
}

/// All names, one page at a time as the client reads them, so that memory does not grow with their number. If
/// the store fails in the middle, the response is cut off, which the client notices.
async fn list(State(candidates): Shared) -> Response {
    let page = match within(STORE_TIMEOUT, candidates.page(None)).await {
        Ok(page) => page,
        Err(error) => {
            failed("list the candidates", &error);
            return answer(StatusCode::NOT_FOUND, HTML, NOT_FOUND);
        }
    };
    if page.names.is_empty() {
        return answer(StatusCode::NOT_FOUND, HTML, NOT_FOUND);
    }
    let mut text = String::from("[");
    write_names(&mut text, &page.names);
    let Some(next) = page.next else {
        text.push(']');
        return answer(StatusCode::OK, HTML, text);
    };
    let first = stream::once(std::future::ready(Ok(text)));
    let rest = stream::try_unfold(Some(next), move |after| {
        let candidates = Arc::clone(&candidates);
        async move {
            let Some(after) = after else { return Ok(None) };
            let page = within(STORE_TIMEOUT, candidates.page(Some(&after))).await;
            let page = page.inspect_err(|error| failed("list the candidates", error))?;
            let mut text = String::new();
            if !page.names.is_empty() {
                text.push_str(", ");
                write_names(&mut text, &page.names);
            }
            if page.next.is_none() {
                text.push(']');
            }
            anyhow::Ok(Some((text, page.next)))
        }
    });
    answer(StatusCode::OK, HTML, Body::from_stream(first.chain(rest)))
}

/// The name in a path, decoded as its clients expect: bytes that are not UTF-8 become U+FFFD. `None` if there
/// is none: an escaped slash is a slash, and there is nothing below a name.
pub(super) fn name(uri: &Uri) -> Option<String> {
    let name = uri.path().strip_prefix(PREFIX)?;
    let name = percent_decode_str(name).decode_utf8_lossy();
    (!name.is_empty() && !name.contains('/')).then(|| name.into_owned())
}

/// `[{"CandidateName": "…"}, …]`, with the spaces that clients expect.
pub(super) fn array<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let mut text = String::from("[");
    write_names(&mut text, names);
    text.push(']');
    text
}

fn write_names<T: AsRef<str>>(into: &mut String, names: impl IntoIterator<Item = T>) {
    for (index, name) in names.into_iter().enumerate() {
        if index > 0 {
            into.push_str(", ");
        }
        into.push_str(r#"{"CandidateName": "#);
        write_json(into, name.as_ref());
        into.push('}');
    }
}

/// Writes a JSON string in printable ASCII; everything else is escaped in lower case, with surrogate pairs.
fn write_json(into: &mut String, text: &str) {
    into.push('"');
    for character in text.chars() {
        match character {
            '"' => into.push_str("\\\""),
            '\\' => into.push_str("\\\\"),
            '\n' => into.push_str("\\n"),
            '\r' => into.push_str("\\r"),
            '\t' => into.push_str("\\t"),
            '\u{8}' => into.push_str("\\b"),
            '\u{c}' => into.push_str("\\f"),
            ' '..='~' => into.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    // Writing into a String cannot fail.
                    let _ = write!(into, "\\u{unit:04x}");
                }
            }
        }
    }
    into.push('"');
}

fn failed(what: &str, error: &anyhow::Error) {
    tracing::error!(what, error = one_line(error), "candidates failed");
}

fn answer(status: StatusCode, media: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

fn allowed(status: StatusCode, methods: &'static str, body: &'static str) -> Response {
    let mut response = answer(status, HTML, body);
    let headers = response.headers_mut();
    headers.insert(header::ALLOW, HeaderValue::from_static(methods));
    response
}

#[cfg(test)]
mod tests;
