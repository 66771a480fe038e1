//! Accounts and sessions in a SQL database.

use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use jiff::Timestamp;

use super::database::Database;
use super::entry::{ORDER_COLUMNS, read_order};
use super::session::{Columns, Value};
use super::statement::{Writes, decode_error, limited, rows, write};
use crate::accounts::{Account, Accounts, Registered};
use crate::order::{AccountId, Order, OrderId};

/// Sorts after every id.
const ABOVE_ALL: &str = "g";

/// The accounts of a database.
pub(super) struct SqlAccounts {
    database: Arc<Database>,
}

impl SqlAccounts {
    /// The accounts in `database`.
    pub(super) fn new(database: Arc<Database>) -> Self {
        Self { database }
    }

    async fn by(&self, sql: &str, key: &str) -> anyhow::Result<Option<Account>> {
        let rows = rows(&self.database, "read an account", sql, &[Value::Text(key)]).await?;
        let account = rows.first().map(|row| read_account(&**row)).transpose();
        account.context("read an account")
    }

    async fn write(
        &self,
        what: &'static str,
        how: Writes,
        sql: &str,
        values: &[Value<'_>],
    ) -> anyhow::Result<u64> {
        write(&self.database, what, how, sql, values).await
    }
}

fn read_account(row: &dyn Columns) -> sqlx::Result<Account> {
    Ok(Account {
        id: row.text(0)?.parse().map_err(decode_error)?,
        login: row.text(1)?,
        password_hash: row.text(2)?,
        created_at: row.text(3)?.parse().map_err(decode_error)?,
    })
}

#[async_trait]
impl Accounts for SqlAccounts {
    async fn register(&self, account: &Account) -> anyhow::Result<Registered> {
        let id = account.id.to_string();
        let created_at = account.created_at.to_string();
        let inserted = self
            .write(
                "register an account",
                Writes::UnlessTaken,
                "INSERT INTO accounts (id, login, password_hash, created_at) VALUES (?, ?, ?, ?)",
                &[
                    Value::Text(&id),
                    Value::Text(&account.login),
                    Value::Text(&account.password_hash),
                    Value::Text(&created_at),
                ],
            )
            .await?;
        // An earlier attempt whose response was lost may have succeeded.
        let ours = inserted > 0 || self.by_id(account.id).await?.is_some();
        Ok(if ours {
            Registered::Now
        } else {
            Registered::LoginTaken
        })
    }

    async fn by_login(&self, login: &str) -> anyhow::Result<Option<Account>> {
        let sql = "SELECT id, login, password_hash, created_at FROM accounts WHERE login = ?";
        let account = self.by(sql, login).await?;
        // MySQL ignores trailing spaces in comparisons.
        Ok(account.filter(|account| account.login == login))
    }

    async fn by_id(&self, id: AccountId) -> anyhow::Result<Option<Account>> {
        let sql = "SELECT id, login, password_hash, created_at FROM accounts WHERE id = ?";
        self.by(sql, &id.to_string()).await
    }

    async fn open_session(
        &self,
        token: [u8; 32],
        account: AccountId,
        expires_at: Timestamp,
    ) -> anyhow::Result<()> {
        // Tokens are random: an existing one is from an earlier attempt of this call.
        let sql = "INSERT INTO sessions (token, account, expires_at) VALUES (?, ?, ?)";
        let account = account.to_string();
        let values = [
            Value::Bytes(&token),
            Value::Text(&account),
            Value::Number(expires_at.as_microsecond()),
        ];
        self.write("open a session", Writes::UnlessTaken, sql, &values)
            .await?;
        Ok(())
    }

    async fn session(&self, token: [u8; 32], now: Timestamp) -> anyhow::Result<Option<AccountId>> {
        let sql = "SELECT account FROM sessions WHERE token = ? AND expires_at > ?";
        let values = [Value::Bytes(&token), Value::Number(now.as_microsecond())];
        let rows = rows(&self.database, "read a session", sql, &values).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        Ok(Some(row.text(0)?.parse().context("read a session")?))
    }

    async fn close_session(&self, token: [u8; 32]) -> anyhow::Result<()> {
        let sql = "DELETE FROM sessions WHERE token = ?";
        self.write(
            "close a session",
            Writes::Always,
            sql,
            &[Value::Bytes(&token)],
        )
        .await?;
        Ok(())
    }

    async fn sweep_sessions(&self, now: Timestamp) -> anyhow::Result<()> {
        let sql = "DELETE FROM sessions WHERE expires_at <= ?";
        let values = [Value::Number(now.as_microsecond())];
        self.write("delete expired sessions", Writes::Always, sql, &values)
            .await?;
        Ok(())
    }

    async fn orders(
        &self,
        account: AccountId,
        before: Option<OrderId>,
        limit: usize,
    ) -> anyhow::Result<Vec<Order>> {
        let sql = format!(
            "SELECT {ORDER_COLUMNS} FROM orders WHERE account = ? AND id < ? \
             ORDER BY id DESC LIMIT ?"
        );
        let account = account.to_string();
        let before = before.map_or_else(|| ABOVE_ALL.to_owned(), |id| id.to_string());
        let values = [Value::Text(&account), Value::Text(&before), limited(limit)];
        let rows = rows(&self.database, "list an account's orders", &sql, &values).await?;
        let orders: sqlx::Result<_> = rows.iter().map(|row| read_order(&**row)).collect();
        orders.context("list an account's orders")
    }
}
