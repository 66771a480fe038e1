//! `Idempotency-Key`: marks a request as a repetition of an earlier one with the same key.
//! <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>
//!
//! Owns the header and what is stored of it; stores ensure that one key makes one order.

use axum::http::{HeaderMap, HeaderName, StatusCode};
use sha2::{Digest, Sha256};

use crate::order::{AccountId, Draft};
use crate::problem::Problem;
use crate::store::Claim;

static KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Response header: this is the response of an earlier request.
pub(super) static REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Longest key, in characters.
const LIMIT: usize = 255;

/// A key as the client sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key<'a>(&'a [u8]);

impl<'a> Key<'a> {
    /// The key of a request, if it has one.
    ///
    /// # Errors
    /// 400 for an invalid key: if it were ignored, a retry would be a second order.
    pub(super) fn of(headers: &'a HeaderMap) -> Result<Option<Self>, Problem> {
        let mut values = headers.get_all(&KEY).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        let bytes = value.as_bytes();
        if values.next().is_some()
            || !(1..=LIMIT).contains(&bytes.len())
            || !bytes.iter().all(u8::is_ascii_graphic)
        {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                format!("Idempotency-Key must be 1 to {LIMIT} visible ASCII characters, once"),
            ));
        }
        Ok(Some(Self(bytes)))
    }

    /// What the store keeps. Keys of different accounts, and of requests without one, are independent.
    pub(super) fn claim(self, account: Option<AccountId>, draft: &Draft) -> Claim {
        let mut key = Sha256::new();
        if let Some(account) = account {
            key.update(account.to_string());
        }
        key.update([0]);
        key.update(self.0);
        Claim {
            key: key.finalize().into(),
            fingerprint: draft.fingerprint(),
        }
    }
}
