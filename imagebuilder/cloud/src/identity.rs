//! Who is calling, and with which credentials.

use std::fmt;

use async_trait::async_trait;

use super::Answer;
use crate::ids::AccountId;

/// Who is calling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The account.
    pub account: AccountId,
    /// The principal.
    pub arn: String,
}

/// Temporary credentials. Never shown, never written.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The access key's id.
    pub access_key_id: String,
    /// The secret.
    pub secret_access_key: String,
    /// The token of a session, if they are of one.
    pub session_token: Option<String>,
    /// When they end, if they do.
    pub expires: Option<jiff::Timestamp>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// The identity of the caller.
#[async_trait]
pub trait Identity: Send + Sync {
    /// The caller, by STS.
    async fn caller(&self) -> Answer<Caller>;
    /// The caller's credentials, for a program that this one starts; `None` when calls are not signed.
    async fn credentials(&self) -> Answer<Option<Credentials>>;
}
