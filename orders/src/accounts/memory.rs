//! Accounts in memory, for tests of the code above the storage.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use async_trait::async_trait;
use jiff::Timestamp;

use super::{Account, Accounts, Registered};
use crate::order::{AccountId, Order, OrderId};

/// Accounts in memory, without orders; `down` makes every call fail.
#[derive(Default)]
pub(crate) struct MemoryAccounts {
    pub(crate) accounts: Mutex<Vec<Account>>,
    pub(crate) sessions: Mutex<HashMap<[u8; 32], (AccountId, Timestamp)>>,
    pub(crate) down: AtomicBool,
    pub(crate) sweeps: AtomicU32,
}

impl MemoryAccounts {
    fn up(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.down.load(Ordering::Relaxed), "down");
        Ok(())
    }
}

#[async_trait]
impl Accounts for MemoryAccounts {
    async fn register(&self, account: &Account) -> anyhow::Result<Registered> {
        self.up()?;
        let mut accounts = self.accounts.lock().unwrap();
        if accounts.iter().any(|kept| kept.login == account.login) {
            return Ok(Registered::LoginTaken);
        }
        accounts.push(account.clone());
        Ok(Registered::Now)
    }
    async fn by_login(&self, login: &str) -> anyhow::Result<Option<Account>> {
        self.up()?;
        let accounts = self.accounts.lock().unwrap();
        Ok(accounts.iter().find(|kept| kept.login == login).cloned())
    }
    async fn by_id(&self, id: AccountId) -> anyhow::Result<Option<Account>> {
        self.up()?;
        let accounts = self.accounts.lock().unwrap();
        Ok(accounts.iter().find(|kept| kept.id == id).cloned())
    }
    async fn open_session(
        &self,
        token: [u8; 32],
        account: AccountId,
        expires_at: Timestamp,
    ) -> anyhow::Result<()> {
        self.up()?;
        let mut sessions = self.sessions.lock().unwrap();
        sessions.insert(token, (account, expires_at));
        Ok(())
    }
    async fn session(&self, token: [u8; 32], now: Timestamp) -> anyhow::Result<Option<AccountId>> {
        self.up()?;
        let sessions = self.sessions.lock().unwrap();
        let alive = sessions.get(&token).filter(|(_, end)| *end > now);
        Ok(alive.map(|(account, _)| *account))
    }
    async fn close_session(&self, token: [u8; 32]) -> anyhow::Result<()> {
        self.up()?;
        self.sessions.lock().unwrap().remove(&token);
        Ok(())
    }
    async fn sweep_sessions(&self, _: Timestamp) -> anyhow::Result<()> {
        self.sweeps.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    async fn orders(
        &self,
        _: AccountId,
        _: Option<OrderId>,
        _: usize,
    ) -> anyhow::Result<Vec<Order>> {
        Ok(Vec::new())
    }
}
