//! Single statements: run with a time limit, repeated after a temporary failure.

use std::time::Duration;

use anyhow::{Context, anyhow};

use super::database::Database;
use super::retry;
use super::session::{Columns, Value};

/// Time limit for an operation; below the service's own limit for an order.
pub(super) const OPERATION: Duration = Duration::from_secs(12);

/// A column's value cannot be parsed.
pub(super) fn decode_error(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}

/// Runs a read-only statement.
pub(super) async fn rows(
    database: &Database,
    what: &'static str,
    sql: &str,
    values: &[Value<'_>],
) -> anyhow::Result<Vec<Box<dyn Columns>>> {
    let work = async {
        let pools = database.pools().await?;
        let rows = retry::with_retries(database, || async move {
            let mut session = pools.read.session().await?;
            let rows = session.rows(sql, values).await?;
            session.done();
            Ok(rows)
        });
        rows.await.map_err(retry::explain).context(what)
    };
    in_time(database, what, work).await
}

/// How a statement writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writes {
    /// Unconditionally.
    Always,
    /// Inserts one row unless its key exists. A retry may report that it exists because of the first attempt.
    UnlessTaken,
}

/// Runs a statement that writes and can be repeated; returns how many rows it changed.
pub(super) async fn write(
    database: &Database,
    what: &'static str,
    how: Writes,
    sql: &str,
    values: &[Value<'_>],
) -> anyhow::Result<u64> {
    let work = async {
        let pools = database.pools().await?;
        let changed = retry::with_retries(database, || async move {
            let mut session = database.write(pools).await?;
            let changed = match how {
                Writes::Always => session.execute(sql, values).await?,
                Writes::UnlessTaken => {
                    u64::from(database.insert(&mut *session, sql, values).await?)
                }
            };
            session.done();
            Ok(changed)
        });
        let changed = changed.await;
        database.still_there()?;
        changed.map_err(retry::explain).context(what)
    };
    in_time(database, what, work).await
}

/// Runs `work` for at most [`OPERATION`].
pub(super) async fn in_time<T, E: From<anyhow::Error>>(
    database: &Database,
    what: &str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::time::timeout(OPERATION, work)
        .await
        .unwrap_or_else(|_| {
            Err(E::from(anyhow!(
                "{what}: {} did not answer within {} s",
                database.address(),
                OPERATION.as_secs()
            )))
        })
}

pub(super) fn limited(limit: usize) -> Value<'static> {
    Value::Number(i64::try_from(limit).unwrap_or(i64::MAX))
}
