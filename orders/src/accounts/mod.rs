//! Customers' accounts: who they are, their sessions. Off unless set, and only with a SQL store.
//!
//! Owns what a place of accounts can do, passwords, sessions and their rate limits; the HTTP
//! contract is in `api/accounts.rs`.

mod desk;
mod limits;
#[cfg(test)]
pub(crate) mod memory;
mod password;
mod session;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::order::{AccountId, Order, OrderId};

pub use desk::{Desk, Origin, Refusal, Session};
pub use session::{DEVICE_LIFETIME, DeviceToken, SESSION_LIFETIME, SessionToken};

/// An account as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// The name to log in with, lower case, unique.
    pub login: String,
    /// The password's hash, a PHC string.
    pub password_hash: String,
    /// Since when.
    pub created_at: Timestamp,
}

/// Whether an account was registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// It was.
    Now,
    /// The login belongs to somebody.
    Taken,
}

/// A place that keeps accounts and sessions.
#[async_trait]
pub trait Accounts: Send + Sync {
    /// Keeps a new account.
    async fn register(&self, account: &Account) -> anyhow::Result<Registered>;

    /// The account with this login.
    async fn by_login(&self, login: &str) -> anyhow::Result<Option<Account>>;

    /// The account with this id.
    async fn by_id(&self, id: AccountId) -> anyhow::Result<Option<Account>>;

    /// Keeps a session: only the SHA-256 of its token, so that who reads the database cannot use it.
    async fn open_session(
        &self,
        token: [u8; 32],
        account: AccountId,
        expires_at: Timestamp,
    ) -> anyhow::Result<()>;

    /// The account of a session that has not expired by `now`.
    async fn session(&self, token: [u8; 32], now: Timestamp) -> anyhow::Result<Option<AccountId>>;

    /// Ends a session; one that is not there is ended already.
    async fn close_session(&self, token: [u8; 32]) -> anyhow::Result<()>;

    /// Forgets sessions that expired by `now`.
    async fn sweep_sessions(&self, now: Timestamp) -> anyhow::Result<()>;

    /// The account's orders with ids below `before`, newest first, at most `limit`.
    async fn orders(
        &self,
        account: AccountId,
        before: Option<OrderId>,
        limit: usize,
    ) -> anyhow::Result<Vec<Order>>;
}
