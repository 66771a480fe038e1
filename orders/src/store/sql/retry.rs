//! Which failures pass by themselves, how often one is waited for, and what is said of one that stays.

use std::time::Duration;

use anyhow::anyhow;
use sqlx::mysql::MySqlDatabaseError;
use sqlx::postgres::PgDatabaseError;
use sqlx::sqlite::SqliteError;

use super::database::Database;

/// How often an operation is tried in all.
const TRIES: u32 = 6;
/// Before the second try; it doubles with each. Two that made each other wait must not meet again,
/// so half of it is left to chance.
const PAUSE: Duration = Duration::from_millis(10);

/// Runs `work`, once more after each failure that passes by itself, until it is done or was tried
/// often enough. Each try begins from nothing, on a connection of its own.
pub(super) async fn tried<T, Once>(
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
        if of_the_disk(&error) {
            database.distrust();
        }
        failures += 1;
        if failures >= TRIES || !passes(&error) {
            return Err(error);
        }
        let pause = PAUSE * 2_u32.pow(failures - 1);
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
    }
}

/// Whether the disk failed under SQLite (SQLITE_IOERR with its extended codes).
fn of_the_disk(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else {
        return false;
    };
    error.try_downcast_ref::<SqliteError>().is_some()
        && error
            .code()
            .is_some_and(|code| code.parse().is_ok_and(|code: u32| code & 0xff == 10))
}

/// Whether the same thing may work a moment later.
fn passes(error: &sqlx::Error) -> bool {
    match error {
        // The connection is gone, and with it what was not committed. What was, is found again.
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        // A claim that was there and is not any more.
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

/// The error, with words of our own where the driver's do not help or tell too much.
pub(super) fn explained(error: sqlx::Error) -> anyhow::Error {
    match error {
        sqlx::Error::PoolTimedOut => anyhow!(
            "no connection to the database was free or could be made in time; \
             hint: is it up, and is store_connections enough?"
        ),
        sqlx::Error::Protocol(text) if text.starts_with("RSA auth backend disabled") => {
            anyhow!("the server wants this user's password over TLS; hint: set store_tls to verify")
        }
        // Without the driver's words around them, which only repeat theirs.
        sqlx::Error::Io(error) => error.into(),
        sqlx::Error::Database(error) => {
            if let Some(error) = error.try_downcast_ref::<MySqlDatabaseError>() {
                // Duplicate key, wrong or cut values: their messages hold the value.
                if matches!(error.number(), 1062 | 1292 | 1366 | 1406 | 1525) {
                    return anyhow!("the database refused a value (error {})", error.number());
                }
            } else if error.try_downcast_ref::<SqliteError>().is_some() {
                let code = error.code().unwrap_or_default();
                // SQLITE_CORRUPT and SQLITE_NOTADB.
                if matches!(&*code, "11" | "26") {
                    return anyhow!(
                        "{error}; hint: put back a copy, or save what can be read with \
                         `sqlite3 orders.db .recover`"
                    );
                }
            }
            anyhow!("{error}")
        }
        error => error.into(),
    }
}
