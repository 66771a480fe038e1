//! Customers' accounts and sessions. Off unless configured, and only with a SQL store.
//!
//! Owns the storage trait, passwords, sessions and their rate limits; the HTTP contract is in
//! `api/accounts.rs`.

mod limits;
#[cfg(test)]
pub(crate) mod memory;
mod password;
mod service;
mod session;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::order::{AccountId, Order, OrderId};

pub use service::{AccountService, Origin, Refusal, Session};
pub use session::{DEVICE_LIFETIME, DeviceToken, SESSION_LIFETIME, SessionToken};

/// An account as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The account's id.
    pub id: AccountId,
    /// The login name: lower case, unique.
    pub login: String,
    /// The password's hash, a PHC string.
    pub password_hash: String,
    /// When it was registered.
    pub created_at: Timestamp,
}

/// Whether an account was registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// The account was stored.
    Now,
    /// Another account has this login.
    LoginTaken,
}

/// Storage for accounts and sessions.
#[async_trait]
pub trait Accounts: Send + Sync {
    /// Stores a new account.
    async fn register(&self, account: &Account) -> anyhow::Result<Registered>;

    /// Returns the account with this login.
    async fn by_login(&self, login: &str) -> anyhow::Result<Option<Account>>;

    /// Returns the account with this id.
    async fn by_id(&self, id: AccountId) -> anyhow::Result<Option<Account>>;

    /// Stores a session under the SHA-256 of its token, so that a reader of the database cannot use it.
    async fn open_session(
        &self,
        token: [u8; 32],
        account: AccountId,
        expires_at: Timestamp,
    ) -> anyhow::Result<()>;

    /// Returns the account of a session that has not expired by `now`.
    async fn session(&self, token: [u8; 32], now: Timestamp) -> anyhow::Result<Option<AccountId>>;

    /// Ends a session, if it exists.
    async fn close_session(&self, token: [u8; 32]) -> anyhow::Result<()>;

    /// Deletes sessions that expired by `now`.
    async fn sweep_sessions(&self, now: Timestamp) -> anyhow::Result<()>;

    /// Returns the account's orders with ids below `before`, newest first, at most `limit`.
    async fn orders(
        &self,
        account: AccountId,
        before: Option<OrderId>,
        limit: usize,
    ) -> anyhow::Result<Vec<Order>>;
}
