//! One interface for three kinds of database: statements, values in, columns out.
//!
//! Owns the pools and the differences in the types of sqlx's drivers. Does not know orders. A connection
//! whose statement failed or was given up is closed instead of returned to its pool, since its state is
//! unknown.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::mysql::{MySqlConnectOptions, MySqlRow};
use sqlx::pool::{PoolConnection, PoolOptions};
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor, MySql, MySqlConnection, PgConnection,
    Pool, Postgres, Row, Sqlite, SqliteConnection,
};

/// A connection that was idle for longer is pinged before use.
const IDLE: Duration = Duration::from_secs(5);
/// Time limit for a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// Time limit for getting a connection from the pool; a longer wait would leave no time for a retry.
const ACQUIRE: Duration = Duration::from_secs(5);
/// Maximum age of a connection: servers and network devices drop old ones.
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// A value bound to a `?` of a statement.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    /// Text.
    Text(&'a str),
    /// Text, or NULL.
    MaybeText(Option<&'a str>),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A whole number.
    Number(i64),
}

/// The columns of a row, by position.
pub(super) trait Columns: Send {
    /// Text.
    fn text(&self, column: usize) -> sqlx::Result<String>;
    /// Text, or `None` for NULL.
    fn maybe_text(&self, column: usize) -> sqlx::Result<Option<String>>;
    /// Bytes.
    fn bytes(&self, column: usize) -> sqlx::Result<Vec<u8>>;
    /// A whole number.
    fn number(&self, column: usize) -> sqlx::Result<i64>;
}

/// A connection in use.
#[async_trait]
pub(super) trait Session: Send {
    /// Runs a statement without values and rows, such as BEGIN.
    async fn run(&mut self, sql: &str) -> sqlx::Result<()>;

    /// Runs a statement with a value for each `?`; returns how many rows it changed.
    async fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> sqlx::Result<u64>;

    /// Returns the rows of a query.
    async fn rows(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
    ) -> sqlx::Result<Vec<Box<dyn Columns>>>;

    /// Returns the connection to its pool. No transaction may be open and no statement in progress. A session
    /// that is dropped without this call is closed.
    fn done(self: Box<Self>);
}

/// Opens connections and pools.
#[async_trait]
pub(super) trait Connects: Send + Sync {
    /// Opens a connection that belongs to no pool.
    async fn connect(&self) -> sqlx::Result<Box<dyn Session>>;

    /// Creates a pool of at most `connections`, opened when needed; each runs `first` when opened. Must be
    /// called within the runtime.
    fn pool(&self, connections: u32, first: &'static str) -> Box<dyn Sessions>;
}

/// A source of sessions.
#[async_trait]
pub(super) trait Sessions: Send + Sync {
    /// Takes a session from the pool.
    async fn session(&self) -> sqlx::Result<Box<dyn Session>>;
}

/// A pool, and since when its idle connections may be broken.
struct Pooled<DB: sqlx::Database> {
    pool: Pool<DB>,
    doubt: Doubt,
}

/// When a session last failed or was given up. Connections that were idle at that time are pinged before use,
/// so that a server restart does not fail one order per connection.
#[derive(Debug, Clone, Default)]
struct Doubt(Arc<Mutex<Option<Instant>>>);

impl Doubt {
    fn begin(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether a connection that was idle for this long must be pinged.
    fn reaches(&self, idle: Duration) -> bool {
        let began = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle >= IDLE || began.is_some_and(|began| idle > began.elapsed())
    }
}

/// A connection, and whether it can be reused.
struct Lease<DB: sqlx::Database> {
    connection: Held<DB>,
    doubt: Doubt,
    done: bool,
}

/// Who owns a connection.
enum Held<DB: sqlx::Database> {
    /// A pool.
    Pooled(PoolConnection<DB>),
    /// The session itself; it is closed with it.
    Own(DB::Connection),
}

impl<DB: sqlx::Database> Held<DB> {
    fn get(&mut self) -> &mut DB::Connection {
        match self {
            Self::Pooled(connection) => connection,
            Self::Own(connection) => connection,
        }
    }
}

impl<DB: sqlx::Database> Drop for Lease<DB> {
    fn drop(&mut self) {
        if let (Held::Pooled(connection), false) = (&mut self.connection, self.done) {
            connection.close_on_drop();
            self.doubt.begin();
        }
    }
}

/// Replaces each `?` by `$1`, `$2`, …
fn numbered(sql: &str) -> String {
    let mut text = String::with_capacity(sql.len() + 16);
    for (index, part) in sql.split('?').enumerate() {
        if index > 0 {
            text.push('$');
            text.push_str(&index.to_string());
        }
        text.push_str(part);
    }
    text
}

macro_rules! impl_sessions {
    ($database:ty, $row:ty, $connection:ty, $options:ty, $placeholders:expr) => {
        impl Columns for $row {
            fn text(&self, column: usize) -> sqlx::Result<String> {
                self.try_get(column)
            }
            fn maybe_text(&self, column: usize) -> sqlx::Result<Option<String>> {
                self.try_get(column)
            }
            fn bytes(&self, column: usize) -> sqlx::Result<Vec<u8>> {
                self.try_get(column)
            }
            fn number(&self, column: usize) -> sqlx::Result<i64> {
                self.try_get(column)
            }
        }

        #[async_trait]
        impl Session for Lease<$database> {
            async fn run(&mut self, sql: &str) -> sqlx::Result<()> {
                let connection: &mut $connection = self.connection.get();
                connection
                    .execute(sqlx::raw_sql(AssertSqlSafe(sql)))
                    .await?;
                Ok(())
            }

            async fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> sqlx::Result<u64> {
                let mut query = sqlx::query::<$database>(AssertSqlSafe($placeholders(sql)));
                for value in values {
                    query = match *value {
                        Value::Text(text) => query.bind(text),
                        Value::MaybeText(text) => query.bind(text),
                        Value::Bytes(bytes) => query.bind(bytes),
                        Value::Number(number) => query.bind(number),
                    };
                }
                let connection: &mut $connection = self.connection.get();
                Ok(query.execute(connection).await?.rows_affected())
            }

            async fn rows(
                &mut self,
                sql: &str,
                values: &[Value<'_>],
            ) -> sqlx::Result<Vec<Box<dyn Columns>>> {
                let mut query = sqlx::query::<$database>(AssertSqlSafe($placeholders(sql)));
                for value in values {
                    query = match *value {
                        Value::Text(text) => query.bind(text),
                        Value::MaybeText(text) => query.bind(text),
                        Value::Bytes(bytes) => query.bind(bytes),
                        Value::Number(number) => query.bind(number),
                    };
                }
                let connection: &mut $connection = self.connection.get();
                let rows = query.fetch_all(connection).await?;
                Ok(rows
                    .into_iter()
                    .map(|row| Box::new(row) as Box<dyn Columns>)
                    .collect())
            }

            fn done(mut self: Box<Self>) {
                self.done = true;
            }
        }

        #[async_trait]
        impl Sessions for Pooled<$database> {
            async fn session(&self) -> sqlx::Result<Box<dyn Session>> {
                Ok(Box::new(Lease {
                    connection: Held::Pooled(self.pool.acquire().await?),
                    doubt: self.doubt.clone(),
                    done: false,
                }))
            }
        }

        #[async_trait]
        impl Connects for $options {
            async fn connect(&self) -> sqlx::Result<Box<dyn Session>> {
                Ok(Box::new(Lease::<$database> {
                    connection: Held::Own(ConnectOptions::connect(self).await?),
                    doubt: Doubt::default(),
                    done: false,
                }))
            }

            fn pool(&self, connections: u32, first: &'static str) -> Box<dyn Sessions> {
                Box::new(pool::<$database>(connections, self.clone(), first))
            }
        }
    };
}

impl_sessions!(
    Sqlite,
    SqliteRow,
    SqliteConnection,
    SqliteConnectOptions,
    str::to_owned
);
impl_sessions!(
    MySql,
    MySqlRow,
    MySqlConnection,
    MySqlConnectOptions,
    str::to_owned
);
impl_sessions!(Postgres, PgRow, PgConnection, PgConnectOptions, numbered);

/// Creates a pool of at most `connections`, opened when needed; each runs `first` when opened.
fn pool<DB: sqlx::Database>(
    connections: u32,
    options: <DB::Connection as Connection>::Options,
    first: &'static str,
) -> Pooled<DB>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    let doubt = Doubt::default();
    let shared = doubt.clone();
    let pool = PoolOptions::<DB>::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE)
        .max_lifetime(LIFETIME)
        // A timeout is reported by the caller; the driver need not log it too.
        .acquire_slow_threshold(LIFETIME)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                if !first.is_empty() {
                    connection.execute(first).await?;
                }
                Ok(())
            })
        })
        // The pool's own ping would cost every order a round trip.
        .test_before_acquire(false)
        .before_acquire(move |connection, meta| {
            let ask = shared.reaches(meta.idle_for);
            Box::pin(async move {
                if ask {
                    return alive::<DB>(connection).await;
                }
                Ok(true)
            })
        })
        // Replaces the pool's own ping after use, which has no time limit: with a dead host it would hold the
        // slot until TCP gives up.
        .after_release(|connection, _| Box::pin(alive::<DB>(connection)))
        .connect_lazy_with(options);
    Pooled { pool, doubt }
}

async fn alive<DB: sqlx::Database>(connection: &mut DB::Connection) -> sqlx::Result<bool> {
    match tokio::time::timeout(PING_TIMEOUT, connection.ping()).await {
        Ok(answered) => answered.map(|()| true),
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}
