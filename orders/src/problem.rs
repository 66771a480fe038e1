//! Refusals, as `application/problem+json` (RFC 9457): one shape for every error of the service.
//!
//! Must not leak what a store said: its words go to the log, under the request's id.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::order::Fault;

/// One refusal.
#[derive(Debug, Serialize)]
pub struct Problem {
    title: &'static str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Fault>,
    #[serde(skip)]
    retry_after: Option<u32>,
    #[serde(skip)]
    challenge: bool,
    #[serde(skip)]
    close: bool,
}

impl Problem {
    /// A refusal with `status`, and `detail` that tells the client what would be right.
    #[must_use]
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: Some(detail.into()),
            errors: Vec::new(),
            retry_after: None,
            challenge: false,
            close: false,
        }
    }

    /// An order whose fields do not fit (422).
    #[must_use]
    pub fn faults(faults: Vec<Fault>) -> Self {
        Self::unfit("the order's fields do not fit", faults)
    }

    /// Fields that do not fit (422), each with its fault.
    #[must_use]
    pub fn unfit(detail: impl Into<String>, faults: Vec<Fault>) -> Self {
        Self {
            errors: faults,
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
        }
    }

    /// The client asked too often (429); it may again after `seconds`.
    #[must_use]
    pub fn too_many(seconds: u32, detail: impl Into<String>) -> Self {
        Self {
            retry_after: Some(seconds),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, detail)
        }
    }

    /// The caller did not prove who they are (401): what is asked for needs a bearer token.
    #[must_use]
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self {
            challenge: true,
            ..Self::new(StatusCode::UNAUTHORIZED, detail)
        }
    }

    /// The client was too slow (408): the connection is closed after the answer.
    #[must_use]
    pub fn too_slow(detail: impl Into<String>) -> Self {
        Self {
            close: true,
            ..Self::new(StatusCode::REQUEST_TIMEOUT, detail)
        }
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The service cannot take it now (503); the client may try again after `seconds`.
    #[must_use]
    pub fn try_again(seconds: u32, detail: impl Into<String>) -> Self {
        Self {
            retry_after: Some(seconds),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let (retry_after, challenge, close) = (self.retry_after, self.challenge, self.close);
        let mut response = (status, axum::Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if challenge {
            // RFC 9110 §11.6.1: a 401 says how to prove it.
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if close {
            // RFC 9110 §15.5.9: the rest of the request is not waited for.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
