//! A database: connects to its address, migrates it once, pools connections.
//!
//! Owns how each engine is connected to and the settings of every connection: durability, strict types,
//! isolation, TLS. Does not know orders.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use sqlx::ConnectOptions;
use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use tokio::sync::OnceCell;

use super::file::DatabaseFile;
use super::retry;
use super::schema;
use super::session::{Connects, Session, Sessions};
use crate::settings::{Engine, SqlAddress, SqlSettings, Tls};

/// How long to wait while another process holds SQLite's write lock.
const BUSY: Duration = Duration::from_secs(5);
/// Run on every new connection. Strict mode: values that do not fit are refused instead of truncated. Read
/// committed: fewer gap locks, so fewer deadlocks. The lock timeout is shorter than the operation's.
const MYSQL_FIRST: &str = "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', \
    innodb_lock_wait_timeout = 5; SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";
/// Likewise, in milliseconds.
const POSTGRES_FIRST: &str = "SET lock_timeout = 5000";

/// A database and its connections.
pub(super) struct Database {
    /// The engine.
    pub(super) engine: Engine,
    /// The address, without secrets.
    address: String,
    options: Box<dyn Connects>,
    connections: u32,
    /// SQLite's file.
    file: Option<DatabaseFile>,
    /// Whether a disk error may have left SQLite's write-ahead log incomplete.
    disk_failed: AtomicBool,
    pools: OnceCell<Pools>,
}

/// The pools of a migrated database.
pub(super) struct Pools {
    /// For reads.
    pub(super) read: Box<dyn Sessions>,
    /// For writes. SQLite has a single connection, on which callers wait in order; for a server it is the
    /// same as `read`.
    write: Option<Box<dyn Sessions>>,
}

impl Database {
    /// The database at `address`. Touches neither disk nor network.
    pub(super) fn new(address: &SqlAddress, settings: &SqlSettings) -> anyhow::Result<Self> {
        let mut file = None;
        let options: Box<dyn Connects> = match address.engine {
            Engine::Sqlite => {
                let path = address.url.strip_prefix("sqlite://").unwrap_or_default();
                file = Some(DatabaseFile::new(PathBuf::from(path)));
                Box::new(
                    SqliteConnectOptions::new()
                        .filename(path)
                        .journal_mode(SqliteJournalMode::Wal)
                        // Syncs every commit: with NORMAL a power cut loses the last ones.
                        .synchronous(SqliteSynchronous::Full)
                        .busy_timeout(BUSY)
                        .disable_statement_logging(),
                )
            }
            Engine::MySql => {
                let mut options = MySqlConnectOptions::from_str(&address.url)
                    .with_context(|| format!("read the address {}", address.url))?
                    .disable_statement_logging();
                if options.get_database().is_none() {
                    bail!(
                        "store {} names no database\nhint: write mysql://user@host/database",
                        address.url
                    );
                }
                options = match settings.tls {
                    Tls::Off => options.ssl_mode(MySqlSslMode::Disabled),
                    Tls::Verify => options.ssl_mode(MySqlSslMode::VerifyIdentity),
                };
                if let Some(ca) = &settings.ca_file {
                    options = options.ssl_ca(ca);
                }
                if let Some(password) = &settings.password {
                    options = options.password(password.reveal());
                }
                Box::new(options)
            }
            Engine::Postgres => {
                let mut options = PgConnectOptions::from_str(&address.url)
                    .with_context(|| format!("read the address {}", address.url))?
                    .application_name("orders")
                    .disable_statement_logging();
                if options.get_database().is_none() {
                    bail!(
                        "store {} names no database\nhint: write postgres://user@host/database",
                        address.url
                    );
                }
                options = match settings.tls {
                    Tls::Off => options.ssl_mode(PgSslMode::Disable),
                    Tls::Verify => options.ssl_mode(PgSslMode::VerifyFull),
                };
                if let Some(ca) = &settings.ca_file {
                    options = options.ssl_root_cert(ca);
                }
                if let Some(password) = &settings.password {
                    options = options.password(password.reveal());
                }
                Box::new(options)
            }
        };
        Ok(Self {
            engine: address.engine,
            address: address.url.clone(),
            options,
            connections: settings.connections,
            file,
            disk_failed: AtomicBool::new(false),
            pools: OnceCell::new(),
        })
    }

    /// The pools; connects and migrates at the first call.
    pub(super) async fn pools(&self) -> anyhow::Result<&Pools> {
        self.pools
            .get_or_try_init(|| async {
                if let Some(file) = &self.file {
                    file.prepare().await?;
                }
                let mut session = self.connect().await?;
                schema::migrate(self.engine, &mut *session)
                    .await
                    .map_err(retry::explain)
                    .with_context(|| format!("migrate {}", self.address))?;
                if let Some(file) = &self.file {
                    file.remember()?;
                }
                self.warn_of_unsafe_settings(&mut *session).await;
                let first = first(self.engine);
                Ok(Pools {
                    read: self.options.pool(self.connections, first),
                    write: (self.engine == Engine::Sqlite).then(|| self.options.pool(1, first)),
                })
            })
            .await
    }

    /// Logs server settings that could lose acknowledged orders in a crash.
    async fn warn_of_unsafe_settings(&self, session: &mut dyn Session) {
        let settings: &[(&str, &str, &str)] = match self.engine {
            Engine::Sqlite => &[],
            Engine::MySql => &[(
                "SELECT CAST(@@GLOBAL.innodb_flush_log_at_trx_commit AS CHAR)",
                "1",
                "innodb_flush_log_at_trx_commit",
            )],
            Engine::Postgres => &[
                ("SELECT current_setting('fsync')", "on", "fsync"),
                (
                    "SELECT CASE current_setting('synchronous_commit') \
                     WHEN 'off' THEN 'off' ELSE 'on' END",
                    "on",
                    "synchronous_commit",
                ),
            ],
        };
        for (sql, safe, setting) in settings {
            // Some servers and users cannot read the setting.
            let Ok(rows) = session.rows(sql, &[]).await else {
                continue;
            };
            let value = rows.first().and_then(|row| row.text(0).ok());
            if let Some(value) = value
                && value != *safe
            {
                tracing::warn!(
                    setting,
                    value,
                    "this server may lose acknowledged orders in a crash\nhint: set it to {safe}"
                );
            }
        }
    }

    /// A connection that belongs to no pool.
    pub(super) async fn connect(&self) -> anyhow::Result<Box<dyn Session>> {
        let connect = async {
            let mut session = self.options.connect().await?;
            let first = first(self.engine);
            if !first.is_empty() {
                session.run(first).await?;
            }
            Ok::<_, sqlx::Error>(session)
        };
        connect
            .await
            .map_err(retry::explain)
            .with_context(|| format!("connect to {}", self.address))
    }

    /// A session for writing.
    pub(super) async fn write(&self, pools: &Pools) -> sqlx::Result<Box<dyn Session>> {
        let from = pools.write.as_deref().unwrap_or(&*pools.read);
        let mut session = from.session().await?;
        if self.disk_failed.load(Ordering::Relaxed) {
            // The kernel drops pages that it could not write: later entries of SQLite's write-ahead log would
            // be lost with the missing one. So the log is checkpointed and started over.
            let carried = session.rows("PRAGMA wal_checkpoint(TRUNCATE)", &[]).await?;
            let busy = carried.first().map_or(Ok(1), |row| row.number(0))?;
            if busy != 0 {
                return Err(sqlx::Error::Io(std::io::Error::other(
                    "could not restart the write-ahead log after a disk error",
                )));
            }
            self.disk_failed.store(false, Ordering::Relaxed);
        }
        Ok(session)
    }

    /// Records that the disk failed.
    pub(super) fn report_disk_failure(&self) {
        self.disk_failed.store(true, Ordering::Relaxed);
    }

    /// Fails if SQLite's file was deleted or replaced.
    pub(super) fn still_there(&self) -> anyhow::Result<()> {
        self.file.as_ref().map_or(Ok(()), DatabaseFile::still_there)
    }

    /// The address, for messages.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// The statement that begins a transaction that writes.
    pub(super) fn begin(&self) -> &'static str {
        match self.engine {
            // A transaction that starts with a read is refused at its first write if another one has written
            // meanwhile.
            Engine::Sqlite => "BEGIN IMMEDIATE",
            Engine::MySql | Engine::Postgres => "BEGIN",
        }
    }

    /// Inserts a row unless its key exists; returns whether it did. `insert` must be an INSERT.
    pub(super) async fn insert(
        &self,
        session: &mut dyn Session,
        insert: &str,
        values: &[super::session::Value<'_>],
    ) -> sqlx::Result<bool> {
        match self.engine {
            Engine::Sqlite | Engine::Postgres => {
                let changed = session
                    .execute(&format!("{insert} ON CONFLICT DO NOTHING"), values)
                    .await?;
                Ok(changed > 0)
            }
            // INSERT IGNORE would also ignore values that do not fit.
            Engine::MySql => match session.execute(insert, values).await {
                Ok(_) => Ok(true),
                Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(false),
                Err(error) => Err(error),
            },
        }
    }
}

fn first(engine: Engine) -> &'static str {
    match engine {
        Engine::Sqlite => "",
        Engine::MySql => MYSQL_FIRST,
        Engine::Postgres => POSTGRES_FIRST,
    }
}
