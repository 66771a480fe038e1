//! Which failures are temporary, how often they are retried, and how permanent ones are reported.

use std::time::Duration;

use anyhow::anyhow;
use sqlx::mysql::MySqlDatabaseError;
use sqlx::postgres::PgDatabaseError;
use sqlx::sqlite::SqliteError;

use super::database::Database;

/// Attempts per operation.
const TRIES: u32 = 6;
/// Pause before the second attempt; doubles with each. Half of it is random, so that two transactions that
/// deadlocked do not collide again.
const PAUSE: Duration = Duration::from_millis(10);

/// Runs `work`, and again after each temporary failure, up to [`TRIES`] times. Each attempt starts from
/// scratch on its own connection.
pub(super) async fn with_retries<T, Once>(
    database: &Database,
    mut work: impl FnMut() -> Once,
) -> sqlx::Result<T>
where
    Once: Future<Output = sqlx::Result<T>>,
{
    let mut failures = 0;
    loop {
        let error = match work().await {
            Err(error) => error,
            done => return done,
        };
        if is_disk_error(&error) {
            database.report_disk_failure();
        }
        failures += 1;
        if failures >= TRIES || !is_transient(&error) {
            return Err(error);
        }
        let pause = PAUSE * 2_u32.pow(failures - 1);
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
    }
}

/// Whether the disk failed under SQLite (SQLITE_IOERR with its extended codes).
fn is_disk_error(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else {
        return false;
    };
    error.try_downcast_ref::<SqliteError>().is_some()
        && error
            .code()
            .is_some_and(|code| code.parse().is_ok_and(|code: u32| code & 0xff == 10))
}

/// Whether the same operation may succeed a moment later.
fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        // The connection was lost, and with it what was not committed. What was committed is found by the
        // next attempt.
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        // A claim was deleted in between.
        sqlx::Error::RowNotFound => true,
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            if let Some(error) = error.try_downcast_ref::<MySqlDatabaseError>() {
                // Deadlock; lock wait timeout; server shutdown (twice); too many connections.
                return matches!(error.number(), 1213 | 1205 | 1053 | 1927 | 1040);
            }
            if error.try_downcast_ref::<PgDatabaseError>().is_some() {
                // Serialization failure, deadlock; shutdown, crash, starting up; too many connections.
                return matches!(
                    &*code,
                    "40001" | "40P01" | "57P01" | "57P02" | "57P03" | "53300" | "55P03"
                );
            }
            // SQLITE_BUSY and SQLITE_LOCKED with their extended codes.
            code.parse()
                .is_ok_and(|code: u32| matches!(code & 0xff, 5 | 6))
        }
        _ => false,
    }
}

/// The error, reworded where the driver's message is unclear or reveals too much.
pub(super) fn explain(error: sqlx::Error) -> anyhow::Error {
    match error {
        sqlx::Error::PoolTimedOut => anyhow!(
            "no database connection became available in time; \
             hint: check that the server is up, or increase store_connections"
        ),
        sqlx::Error::Protocol(text) if text.starts_with("RSA auth backend disabled") => {
            anyhow!(
                "the server requires TLS for this user's password\nhint: set store_tls to verify"
            )
        }
        // Without the driver's text, which only repeats it.
        sqlx::Error::Io(error) => error.into(),
        sqlx::Error::Database(error) => {
            if let Some(error) = error.try_downcast_ref::<MySqlDatabaseError>() {
                // Duplicate key, invalid or truncated values: their messages contain the value.
                if matches!(error.number(), 1062 | 1292 | 1366 | 1406 | 1525) {
                    return anyhow!("the database refused a value (error {})", error.number());
                }
            } else if error.try_downcast_ref::<SqliteError>().is_some() {
                let code = error.code().unwrap_or_default();
                // SQLITE_CORRUPT and SQLITE_NOTADB.
                if matches!(&*code, "11" | "26") {
                    return anyhow!(
                        "{error}\nhint: restore a backup, or save what can be read with \
                         `sqlite3 orders.db .recover`"
                    );
                }
            }
            anyhow!("{error}")
        }
        error => error.into(),
    }
}
