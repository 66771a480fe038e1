//! The tables, and the migration of a database to this release's schema.
//!
//! Owns every CREATE and ALTER. Steps are only ever added. One instance at a time migrates, under a lock that
//! is released with its connection. A schema newer than this release's is used as it is, so that a fleet can
//! return to the previous release.

use super::session::{Session, Value};
use crate::settings::Engine;

/// The steps, oldest first. On MySQL and MariaDB every statement commits by itself and a crash may come
/// between two, so each must be repeatable.
fn steps(engine: Engine) -> &'static [&'static [&'static str]] {
    match engine {
        Engine::Sqlite => &[SQLITE_1, SQLITE_2],
        Engine::MySql => &[MYSQL_1, MYSQL_2],
        Engine::Postgres => &[POSTGRES_1, POSTGRES_2],
    }
}

// Ids are text as customers, logs and the API show them, so that support can paste them into a query. Times
// of orders are text because no engine's type keeps their nanoseconds.
const SQLITE_1: &[&str] = &[
    "CREATE TABLE orders (
        id TEXT NOT NULL PRIMARY KEY,
        received_at TEXT NOT NULL,
        account TEXT,
        name TEXT NOT NULL,
        address TEXT NOT NULL,
        flower TEXT NOT NULL,
        extra TEXT NOT NULL
    ) STRICT, WITHOUT ROWID",
    "CREATE INDEX orders_by_account ON orders (account, id) WHERE account IS NOT NULL",
    "CREATE TABLE claims (
        claim_key BLOB NOT NULL PRIMARY KEY,
        fingerprint BLOB NOT NULL,
        order_id TEXT NOT NULL,
        made_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID",
    "CREATE INDEX claims_by_age ON claims (made_at)",
    "CREATE TABLE notices (order_id TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID",
    "CREATE TABLE accounts (
        id TEXT NOT NULL PRIMARY KEY,
        login TEXT NOT NULL UNIQUE,
        password_hash TEXT NOT NULL,
        created_at TEXT NOT NULL
    ) STRICT, WITHOUT ROWID",
    "CREATE TABLE sessions (
        token BLOB NOT NULL PRIMARY KEY,
        account TEXT NOT NULL,
        expires_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID",
    "CREATE INDEX sessions_by_end ON sessions (expires_at)",
    "CREATE TABLE probes (id TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID",
];

const MYSQL_1: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS orders (
        id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
        received_at VARCHAR(40) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        account CHAR(36) CHARACTER SET ascii COLLATE ascii_bin,
        name TEXT NOT NULL,
        address TEXT NOT NULL,
        flower VARCHAR(255) NOT NULL,
        extra MEDIUMTEXT NOT NULL,
        KEY orders_by_account (account, id)
    ) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "CREATE TABLE IF NOT EXISTS claims (
        claim_key BINARY(32) NOT NULL PRIMARY KEY,
        fingerprint BINARY(32) NOT NULL,
        order_id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        made_at BIGINT NOT NULL,
        KEY claims_by_age (made_at)
    ) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS notices (
        order_id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY
    ) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS accounts (
        id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
        login VARCHAR(255) NOT NULL UNIQUE,
        password_hash TEXT NOT NULL,
        created_at VARCHAR(40) CHARACTER SET ascii COLLATE ascii_bin NOT NULL
    ) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "CREATE TABLE IF NOT EXISTS sessions (
        token BINARY(32) NOT NULL PRIMARY KEY,
        account CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        expires_at BIGINT NOT NULL,
        KEY sessions_by_end (expires_at)
    ) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS probes (
        id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY
    ) ENGINE=InnoDB",
];

// Collation "C" compares bytes: ids sort by time whatever the database's language is.
const POSTGRES_1: &[&str] = &[
    r#"CREATE TABLE orders (
        id TEXT COLLATE "C" PRIMARY KEY,
        received_at TEXT NOT NULL,
        account TEXT COLLATE "C",
        name TEXT NOT NULL,
        address TEXT NOT NULL,
        flower TEXT NOT NULL,
        extra TEXT NOT NULL
    )"#,
    "CREATE INDEX orders_by_account ON orders (account, id) WHERE account IS NOT NULL",
    "CREATE TABLE claims (
        claim_key BYTEA PRIMARY KEY,
        fingerprint BYTEA NOT NULL,
        order_id TEXT NOT NULL,
        made_at BIGINT NOT NULL
    )",
    "CREATE INDEX claims_by_age ON claims (made_at)",
    r#"CREATE TABLE notices (order_id TEXT COLLATE "C" PRIMARY KEY)"#,
    r#"CREATE TABLE accounts (
        id TEXT COLLATE "C" PRIMARY KEY,
        login TEXT COLLATE "C" NOT NULL UNIQUE,
        password_hash TEXT NOT NULL,
        created_at TEXT NOT NULL
    )"#,
    "CREATE TABLE sessions (
        token BYTEA PRIMARY KEY,
        account TEXT NOT NULL,
        expires_at BIGINT NOT NULL
    )",
    "CREATE INDEX sessions_by_end ON sessions (expires_at)",
    r#"CREATE TABLE probes (id TEXT COLLATE "C" PRIMARY KEY)"#,
];

// Step 2: the sequence by which orders are followed. The database assigns the numbers, so that orders written
// by a release without them get theirs too, in a fleet of both. Existing orders are numbered.

// A table without row ids cannot have an autoincrement column, and a trigger is atomic with its statement.
const SQLITE_2: &[&str] = &[
    "CREATE TABLE orders_sequence (seq INTEGER PRIMARY KEY, order_id TEXT NOT NULL) STRICT",
    "INSERT INTO orders_sequence (order_id) SELECT id FROM orders ORDER BY id",
    "CREATE TRIGGER orders_in_sequence AFTER INSERT ON orders
        BEGIN INSERT INTO orders_sequence (order_id) VALUES (NEW.id); END",
];

// No trigger: on a server with a binary log only the administrator may create one. A single statement, since
// only MariaDB supports IF NOT EXISTS here; DO 0 does nothing.
const MYSQL_2: &[&str] = &["SET @step = IF(
        (SELECT COUNT(*) FROM information_schema.columns
         WHERE table_schema = DATABASE() AND table_name = 'orders' AND column_name = 'seq') = 0,
        'ALTER TABLE orders
            ADD COLUMN seq BIGINT NOT NULL AUTO_INCREMENT,
            ADD COLUMN stored_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
            ADD UNIQUE KEY orders_by_seq (seq)',
        'DO 0');
    PREPARE step FROM @step;
    EXECUTE step;
    DEALLOCATE PREPARE step"];

const POSTGRES_2: &[&str] = &[
    "ALTER TABLE orders
        ADD COLUMN seq BIGINT GENERATED BY DEFAULT AS IDENTITY,
        ADD COLUMN stored_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()",
    "CREATE UNIQUE INDEX orders_by_seq ON orders (seq)",
];

/// Migrates the database to this release's schema. `session` must be a connection of its own, since the lock
/// ends with it.
///
/// # Errors
/// The database's.
pub(super) async fn migrate(engine: Engine, session: &mut dyn Session) -> sqlx::Result<()> {
    migrate_to(engine, session, steps(engine).len()).await
}

/// Migrates with the first `known` steps only, like a release that knew no more.
pub(super) async fn migrate_to(
    engine: Engine,
    session: &mut dyn Session,
    known: usize,
) -> sqlx::Result<()> {
    match engine {
        Engine::Sqlite => session.run("BEGIN IMMEDIATE").await?,
        Engine::MySql => {
            // Locks are per server, so the name contains the database's, hashed because its length is
            // limited. The wait ends with the caller's timeout. Not SHA1, which MySQL 9.7 removed.
            session
                .run("DO GET_LOCK(CONCAT('orders-', LEFT(SHA2(DATABASE(), 256), 40)), 3600)")
                .await?;
        }
        Engine::Postgres => {
            session.run("BEGIN").await?;
            // Locks are per database; the number is "orders" in ASCII.
            session
                .run("SELECT pg_advisory_xact_lock(122550255182451)")
                .await?;
        }
    }
    // Checked first, so that a user without the right to create tables can use existing ones.
    let schema = match engine {
        Engine::Sqlite => "SELECT COUNT(*) FROM sqlite_master WHERE name = 'orders_schema'",
        Engine::MySql => {
            "SELECT COUNT(*) FROM information_schema.tables \
             WHERE table_schema = DATABASE() AND table_name = 'orders_schema'"
        }
        Engine::Postgres => {
            "SELECT COUNT(*) FROM pg_catalog.pg_class WHERE oid = to_regclass('orders_schema')"
        }
    };
    if number(session, schema).await? == 0 {
        let engine = match engine {
            Engine::MySql => " ENGINE=InnoDB",
            Engine::Sqlite | Engine::Postgres => "",
        };
        session
            .run(&format!(
                "CREATE TABLE orders_schema (version BIGINT NOT NULL PRIMARY KEY){engine}"
            ))
            .await?;
    }
    let has = number(
        session,
        "SELECT COALESCE(MAX(version), 0) FROM orders_schema",
    )
    .await?;
    let steps = &steps(engine)[..known];
    for (version, step) in (1..).zip(steps) {
        if version <= has {
            continue;
        }
        tracing::info!(version, "migrating the database");
        for statement in *step {
            session.run(statement).await?;
        }
        session
            .execute(
                "INSERT INTO orders_schema (version) VALUES (?)",
                &[Value::Number(version)],
            )
            .await?;
    }
    if has > steps.len() as i64 {
        tracing::warn!(
            version = has,
            "a newer release migrated the database; using it as it is"
        );
    }
    match engine {
        Engine::Sqlite | Engine::Postgres => session.run("COMMIT").await,
        Engine::MySql => {
            session
                .run("DO RELEASE_LOCK(CONCAT('orders-', LEFT(SHA2(DATABASE(), 256), 40)))")
                .await
        }
    }
}

async fn number(session: &mut dyn Session, sql: &str) -> sqlx::Result<i64> {
    let rows = session.rows(sql, &[]).await?;
    rows.first().map_or(Ok(0), |row| row.number(0))
}
