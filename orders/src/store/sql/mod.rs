//! The SQL store: orders, claims, notices and accounts in SQLite, MySQL or MariaDB, or PostgreSQL.
//!
//! Most statements are the same for all engines; differences are in `database.rs` (connections), `schema.rs`
//! (tables), `session.rs` (types) and `follow.rs` (following orders). An order, its claim and its notice are
//! one transaction. Every operation can be repeated, so one that failed temporarily (a deadlock, a lost
//! connection) is run again.

mod accounts;
mod database;
mod entry;
mod file;
mod follow;
mod retry;
mod schema;
#[cfg(test)]
mod servers;
mod session;
mod statement;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::Mutex;

use self::accounts::SqlAccounts;
use self::database::Database;
use self::entry::{ORDER_COLUMNS, Outcome, keep, read_order};
use self::session::{Columns, Session, Value};
use self::statement::{Writes, in_time, limited, rows, write};
use self::writer::Writer;
use super::{CreateError, Entry, FollowError, Followed, Kept, Position, Store};
use crate::accounts::Accounts;
use crate::clock::Sweeps;
use crate::order::{Order, OrderId};
use crate::settings::{Engine, SqlAddress, SqlSettings};

/// Lifetime of a claim: programs retry within minutes, people within a day.
const CLAIM_SECONDS: i64 = 72 * 3600;
/// How often old claims are deleted.
const PURGE_INTERVAL: Duration = Duration::from_secs(600);
/// Claims deleted in one transaction, which must not hold locks for long.
const PURGE_BATCH: i64 = 1000;

/// Orders in a SQL database.
pub struct SqlStore {
    database: Arc<Database>,
    /// For SQLite: one transaction for all waiting orders.
    writer: Option<Writer>,
    /// The probe's own connection: a probe must not wait behind orders.
    probe: Mutex<Option<Box<dyn Session>>>,
    purges: std::sync::Mutex<Sweeps>,
}

impl SqlStore {
    /// A store at `address`. Touches neither disk nor network.
    ///
    /// # Errors
    /// If the address is invalid.
    pub fn new(address: &SqlAddress, settings: &SqlSettings) -> anyhow::Result<Self> {
        let database = Arc::new(Database::new(address, settings)?);
        Ok(Self {
            writer: (address.engine == Engine::Sqlite).then(|| Writer::new(Arc::clone(&database))),
            database,
            probe: Mutex::new(None),
            purges: std::sync::Mutex::new(Sweeps::every(PURGE_INTERVAL)),
        })
    }

    async fn keep(&self, entry: &Entry) -> Result<Outcome, CreateError> {
        if let Some(writer) = &self.writer {
            return Ok(writer.keep(entry).await?);
        }
        let database = &self.database;
        let pools = database.pools().await.map_err(CreateError::NotKept)?;
        let outcome = retry::with_retries(database, || async move {
            let mut session = database.write(pools).await?;
            session.run(database.begin()).await?;
            let outcome = keep(database, &mut *session, entry).await?;
            // Even if nothing was written: the transaction must end.
            session.run(outcome.end()).await?;
            session.done();
            Ok(outcome)
        });
        let context = || format!("create order {}", entry.order.id);
        Ok(outcome
            .await
            .map_err(retry::explain)
            .with_context(context)?)
    }

    async fn rows(
        &self,
        what: &'static str,
        sql: &str,
        values: &[Value<'_>],
    ) -> anyhow::Result<Vec<Box<dyn Columns>>> {
        rows(&self.database, what, sql, values).await
    }

    /// Deletes old claims in the background if the sweep is due.
    fn purge(&self) {
        let due = {
            let mut purges = self.purges.lock().unwrap_or_else(PoisonError::into_inner);
            purges.due(Instant::now(), Timestamp::now())
        };
        let Some(now) = due else {
            return;
        };
        let before = now.as_second() - CLAIM_SECONDS;
        let database = Arc::clone(&self.database);
        tokio::spawn(async move {
            if let Err(error) = purge_claims(&database, before).await {
                tracing::warn!(error = format!("{error:#}"), "could not purge old claims");
            }
        });
    }
}

/// Deletes claims made before `time` (seconds since 1970).
async fn purge_claims(database: &Database, time: i64) -> anyhow::Result<()> {
    // MySQL does not support LIMIT in a direct IN subquery, so it is wrapped once more.
    let sql = "DELETE FROM claims WHERE claim_key IN (SELECT claim_key FROM \
               (SELECT claim_key FROM claims WHERE made_at < ? LIMIT ?) AS old)";
    let values = [Value::Number(time), Value::Number(PURGE_BATCH)];
    loop {
        let purged = write(database, "purge claims", Writes::Always, sql, &values).await?;
        if purged < PURGE_BATCH.unsigned_abs() {
            return Ok(());
        }
    }
}

/// Runs a whole transaction that must be synced, to detect a read-only replica, a full disk and a standby
/// that does not confirm. Leaves nothing behind. Each instance uses its own row, so that none waits for
/// another.
async fn probe_write(database: &Database, session: &mut dyn Session) -> sqlx::Result<()> {
    let id = OrderId::new().to_string();
    let values = [Value::Text(&id)];
    session.run(database.begin()).await?;
    let insert = "INSERT INTO probes (id) VALUES (?)";
    session.execute(insert, &values).await?;
    session
        .execute("DELETE FROM probes WHERE id = ?", &values)
        .await?;
    session.run("COMMIT").await
}

#[async_trait]
impl Store for SqlStore {
    async fn create(&self, entry: &Entry) -> Result<Kept, CreateError> {
        match in_time(&self.database, "create an order", self.keep(entry)).await? {
            Outcome::Kept(kept) => Ok(kept),
            Outcome::Exists => Err(CreateError::Exists),
            Outcome::KeyReused => Err(CreateError::KeyReused),
        }
    }

    async fn get(&self, id: OrderId) -> anyhow::Result<Option<Order>> {
        let sql = format!("SELECT {ORDER_COLUMNS} FROM orders WHERE id = ?");
        let id = id.to_string();
        let rows = self
            .rows("read an order", &sql, &[Value::Text(&id)])
            .await?;
        let order = rows.first().map(|row| read_order(&**row)).transpose();
        order.with_context(|| format!("read order {id}"))
    }

    async fn list(&self, after: OrderId, limit: usize) -> anyhow::Result<Vec<Order>> {
        let sql = format!("SELECT {ORDER_COLUMNS} FROM orders WHERE id > ? ORDER BY id LIMIT ?");
        let after = after.to_string();
        let values = [Value::Text(&after), limited(limit)];
        let rows = self.rows("list orders", &sql, &values).await?;
        let orders: sqlx::Result<_> = rows.iter().map(|row| read_order(&**row)).collect();
        orders.context("list orders")
    }

    async fn end(&self) -> anyhow::Result<Position> {
        follow::end(&self.database).await
    }

    async fn follow(&self, from: &Position, limit: usize) -> Result<Followed, FollowError> {
        follow::follow(&self.database, from, limit).await
    }

    async fn probe(&self) -> anyhow::Result<()> {
        self.database.pools().await?;
        let mut held = self.probe.lock().await;
        // Dropped together with the session if the caller gives up.
        let mut session = match held.take() {
            // A connection that was idle since the last probe may have been closed, or the server restarted;
            // that alone does not mean that the next order would fail.
            Some(mut session) => match probe_write(&self.database, &mut *session).await {
                Ok(()) => Some(session),
                Err(_) => None,
            },
            None => None,
        };
        if session.is_none() {
            let mut fresh = self.probe_session().await?;
            probe_write(&self.database, &mut *fresh)
                .await
                .map_err(retry::explain)
                .with_context(|| format!("write into {}", self.database.address()))?;
            session = Some(fresh);
        }
        self.database.still_there()?;
        if self.database.engine == Engine::Sqlite {
            // SQLite has a single connection for writing.
            if let Some(session) = session {
                session.done();
            }
        } else {
            *held = session;
        }
        self.purge();
        Ok(())
    }

    async fn notices(&self, limit: usize) -> anyhow::Result<Vec<OrderId>> {
        let sql = "SELECT order_id FROM notices ORDER BY order_id LIMIT ?";
        let rows = self.rows("read notices", sql, &[limited(limit)]).await?;
        rows.iter()
            .map(|row| Ok(row.text(0)?.parse()?))
            .collect::<anyhow::Result<_>>()
            .context("read notices")
    }

    async fn settle_notice(&self, id: OrderId) -> anyhow::Result<()> {
        let sql = "DELETE FROM notices WHERE order_id = ?";
        let id = id.to_string();
        let values = [Value::Text(&id)];
        write(
            &self.database,
            "settle a notice",
            Writes::Always,
            sql,
            &values,
        )
        .await?;
        Ok(())
    }

    fn accounts(&self) -> Option<Arc<dyn Accounts>> {
        Some(Arc::new(SqlAccounts::new(Arc::clone(&self.database))))
    }
}

impl SqlStore {
    async fn probe_session(&self) -> anyhow::Result<Box<dyn Session>> {
        match self.database.engine {
            Engine::Sqlite => {
                let pools = self.database.pools().await?;
                let session = self.database.write(pools).await;
                session.map_err(retry::explain)
            }
            Engine::MySql | Engine::Postgres => self.database.connect().await,
        }
    }
}
