//! The contract suite on every database, and tests for single engines.

mod network_faults;
mod wire;

use std::path::Path;

use futures_util::future::join_all;

use super::database::Database;
use super::servers::{Kind, PASSWORD, Server};
use super::session::{Session, Value};
use super::{SqlStore, schema};
use crate::order::OrderId;
use crate::settings::{Engine, Secret, SqlAddress, SqlSettings, StoreAddress, Tls};
use crate::store::contract::{Clocks, Follower};
use crate::store::{Position, Store, contract};

fn address(url: &str) -> SqlAddress {
    match url.parse().unwrap() {
        StoreAddress::Sql(address) => address,
        other => panic!("{other} is no SQL store"),
    }
}

fn sqlite(path: &Path) -> SqlStore {
    let address = address(&format!("sqlite://{}", path.display()));
    SqlStore::new(&address, &settings()).unwrap()
}

fn settings() -> SqlSettings {
    SqlSettings {
        password: Some(Secret::from(PASSWORD.to_owned())),
        connections: 8,
        tls: Tls::Off,
        ca_file: None,
    }
}

fn store(server: &Server) -> SqlStore {
    store_at(server, server.port())
}

/// The server's store, reached through another port of this machine.
fn store_at(server: &Server, port: u16) -> SqlStore {
    let password = std::fs::read_to_string(server.password_file()).unwrap();
    let settings = SqlSettings {
        password: Some(Secret::from(password.trim_end().to_owned())),
        ..settings()
    };
    SqlStore::new(&address(&server.url_at(port)), &settings).unwrap()
}

/// A connection for the test itself.
async fn session(server: &Server) -> Box<dyn Session> {
    let address = address(&server.url_at(server.port()));
    let database = Database::new(&address, &settings()).unwrap();
    database.connect().await.unwrap()
}

async fn number(session: &mut dyn Session, sql: &str) -> i64 {
    session.rows(sql, &[]).await.unwrap()[0].number(0).unwrap()
}

async fn keeps_the_contract(open: &(dyn Fn() -> Box<dyn Store> + Sync), exact: bool) {
    contract::holds(open).await;
    contract::keeps_claims(open).await;
    contract::lists_in_order(open).await;
    contract::is_followed(&|_| open(), Clocks::Wild, exact).await;
    contract::refuses_what_is_ahead(open).await;
    for happenings in contract::some_happenings(4) {
        contract::is_followed_through(&|_| open(), Clocks::Wild, exact, &happenings).await;
    }
    contract::gives_out_notices(open).await;
    contract::keeps_accounts(open).await;
}

#[tokio::test]
async fn sqlite_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made/on/first/use/orders.db");
    keeps_the_contract(&|| Box::new(sqlite(&path)), true).await;
}

#[tokio::test]
async fn mariadb_keeps_the_contract() {
    let server = Server::start(Kind::MariaDb);
    instances_that_start_at_once_migrate_once(&server).await;
    keeps_the_contract(&|| Box::new(store(&server)), false).await;
    a_transaction_that_ends_late_is_waited_for(&server).await;
    is_followed_from_the_schema_before(&server).await;
    forgets_old_claims(&server).await;
    many_under_one_key_make_one_order(&server).await;
    bears_a_half_done_migration(&server).await;
    leaves_a_newer_schema_alone(&server).await;
}

#[tokio::test]
async fn postgres_keeps_the_contract() {
    let server = Server::start(Kind::Postgres);
    instances_that_start_at_once_migrate_once(&server).await;
    keeps_the_contract(&|| Box::new(store(&server)), false).await;
    a_transaction_that_ends_late_is_waited_for(&server).await;
    is_followed_from_the_schema_before(&server).await;
    forgets_old_claims(&server).await;
    many_under_one_key_make_one_order(&server).await;
    leaves_a_newer_schema_alone(&server).await;
    refuses_where_nothing_can_be_written(&server).await;
}

async fn instances_that_start_at_once_migrate_once(server: &Server) {
    let instances: Vec<SqlStore> = (0..6).map(|_| store(server)).collect();
    for outcome in join_all(instances.iter().map(Store::probe)).await {
        outcome.unwrap();
    }
    let mut session = session(server).await;
    let versions = "SELECT COUNT(*) FROM orders_schema";
    assert_eq!(number(&mut *session, versions).await, 2);
    let probes = "SELECT COUNT(*) FROM probes";
    assert_eq!(
        number(&mut *session, probes).await,
        0,
        "a probe leaves nothing"
    );
}

/// Enough concurrent calls for every connection of every instance, all for one order.
async fn many_under_one_key_make_one_order(server: &Server) {
    let instances: Vec<SqlStore> = (0..3).map(|_| store(server)).collect();
    for round in 0..5_u8 {
        let entries: Vec<_> = (0..48)
            .map(|_| contract::claimed("Ada", 100 + round, 1))
            .collect();
        let kept = join_all(
            entries
                .iter()
                .enumerate()
                .map(|(index, entry)| instances[index % 3].create(entry)),
        )
        .await;
        let kept: Vec<_> = kept.into_iter().map(Result::unwrap).collect();
        let now = kept.iter().filter(|kept| **kept == crate::store::Kept::Now);
        assert_eq!(now.count(), 1, "{kept:?}");
    }
}

/// Inserts an order like a release before the sequence; identified by `name`.
async fn insert_plainly(session: &mut dyn Session, name: &str) -> OrderId {
    let order = contract::order(name);
    let id = order.id.to_string();
    let values = [Value::Text(&id), Value::Text(&order.name)];
    let insert = "INSERT INTO orders (id, received_at, account, name, address, flower, extra) \
         VALUES (?, '2026-01-01T00:00:00Z', NULL, ?, 'B', 'rose', '{}')";
    session.execute(insert, &values).await.unwrap();
    order.id
}

/// A number that was assigned and is not visible yet is waited for, until what is above it is older than any
/// transaction.
async fn a_transaction_that_ends_late_is_waited_for(server: &Server) {
    let store = store(server);
    let (mut slow, mut clerk) = (session(server).await, session(server).await);
    // So that earlier orders are behind the follower.
    let age = match address(&server.url_at(0)).engine {
        Engine::Postgres => "UPDATE orders SET stored_at = stored_at - INTERVAL '16 minutes'",
        _ => "UPDATE orders SET stored_at = stored_at - INTERVAL 16 MINUTE",
    };
    clerk.run(age).await.unwrap();
    let mut follower = Follower::begin(&store).await;
    for commits in [true, false] {
        slow.run("BEGIN").await.unwrap();
        let late = insert_plainly(&mut *slow, "Late").await;
        let mut ids = Vec::new();
        for _ in 0..3 {
            let order = contract::order("Ada");
            store.create(&order.clone().into()).await.unwrap();
            ids.push(order.id);
        }
        follower.seen.clear();
        for _ in 0..2 {
            follower.poll(&store, 2).await;
        }
        assert_eq!(follower.saw(late), 0, "commits: {commits}");
        assert!(
            ids.iter().all(|id| follower.saw(*id) == 2),
            "commits: {commits}; shown again while it is open"
        );
        slow.run(if commits { "COMMIT" } else { "ROLLBACK" })
            .await
            .unwrap();
        follower.seen.clear();
        follower.poll(&store, 2).await;
        assert_eq!(
            follower.saw(late),
            usize::from(commits),
            "commits: {commits}"
        );
        if !commits {
            clerk.run(age).await.unwrap();
            follower.poll(&store, 2).await;
        }
        follower.seen.clear();
        follower.poll(&store, 2).await;
        assert_eq!(
            follower.seen,
            [],
            "commits: {commits}; nothing is open any more"
        );
    }
    // An order that was deleted by hand leaves a gap with no open transaction.
    let last = insert_plainly(&mut *slow, "Deleted").await;
    follower.poll(&store, 2).await;
    let delete = "DELETE FROM orders WHERE id = ?";
    let id = last.to_string();
    slow.execute(delete, &[Value::Text(&id)]).await.unwrap();
    let next = insert_plainly(&mut *slow, "Next").await;
    follower.poll(&store, 2).await;
    assert_eq!(follower.saw(next), 1);
}

/// Orders from before the sequence have numbers after the migration, and so do those that a release without
/// it writes afterwards.
async fn is_followed_from_the_schema_before(server: &Server) {
    let mut session = session(server).await;
    let engine = address(&server.url_at(0)).engine;
    for table in [
        "orders",
        "claims",
        "notices",
        "accounts",
        "sessions",
        "probes",
        "orders_schema",
    ] {
        session.run(&format!("DROP TABLE {table}")).await.unwrap();
    }
    schema::migrate_to(engine, &mut *self::session(server).await, 1)
        .await
        .unwrap();
    follows_what_was_there(&mut *session, &|| Box::new(store(server))).await;
}

async fn follows_what_was_there(
    session: &mut dyn Session,
    open: &(dyn Fn() -> Box<dyn Store> + Sync),
) {
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(insert_plainly(session, "Before").await);
    }
    let mut follower = Follower {
        at: Position::BEGINNING,
        seen: Vec::new(),
    };
    follower.poll(&*open(), 2).await;
    follower.missed_none(&ids, true);
    let order = contract::order("Ada");
    open().create(&order.clone().into()).await.unwrap();
    ids.push(order.id);
    ids.push(insert_plainly(session, "Between").await);
    follower.poll(&*open(), 2).await;
    follower.missed_none(&ids, true);
}

#[tokio::test]
async fn sqlite_is_followed_from_the_schema_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.db");
    // The file as the store creates it.
    sqlite(&path).probe().await.unwrap();
    let address = address(&format!("sqlite://{}", path.display()));
    let database = Database::new(&address, &settings()).unwrap();
    let mut session = database.connect().await.unwrap();
    for undone in [
        "DROP TRIGGER orders_in_sequence",
        "DROP TABLE orders_sequence",
        "DELETE FROM orders_schema WHERE version = 2",
    ] {
        session.run(undone).await.unwrap();
    }
    follows_what_was_there(&mut *session, &|| Box::new(sqlite(&path))).await;
}

async fn forgets_old_claims(server: &Server) {
    let mut session = session(server).await;
    let claims = "SELECT COUNT(*) FROM claims";
    let before = number(&mut *session, claims).await;
    let insert =
        "INSERT INTO claims (claim_key, fingerprint, order_id, made_at) VALUES (?, ?, ?, ?)";
    for key in 0..3_u8 {
        let bytes = [200 + key; 32];
        let made_at = Value::Number(1000 + i64::from(key));
        let values = [
            Value::Bytes(&bytes),
            Value::Bytes(&bytes),
            Value::Text("x"),
            made_at,
        ];
        session.execute(insert, &values).await.unwrap();
    }
    let database = Database::new(&address(&server.url_at(server.port())), &settings()).unwrap();
    super::purge_claims(&database, 1002).await.unwrap();
    assert_eq!(number(&mut *session, claims).await, before + 1);
    super::purge_claims(&database, 1003).await.unwrap();
    assert_eq!(number(&mut *session, claims).await, before);
}

/// MySQL commits each statement of a migration by itself, and a crash may come after any of them.
async fn bears_a_half_done_migration(server: &Server) {
    let mut session = session(server).await;
    session.run("DROP TABLE sessions").await.unwrap();
    session.run("DELETE FROM orders_schema").await.unwrap();
    store(server).probe().await.unwrap();
    assert_eq!(
        number(&mut *session, "SELECT COUNT(*) FROM sessions").await,
        0
    );
}

async fn leaves_a_newer_schema_alone(server: &Server) {
    let mut session = session(server).await;
    let newer = "INSERT INTO orders_schema (version) VALUES (99)";
    session.run(newer).await.unwrap();
    schema::migrate(
        address(&server.url_at(0)).engine,
        &mut *self::session(server).await,
    )
    .await
    .unwrap();
    store(server).probe().await.unwrap();
    session
        .run("DELETE FROM orders_schema WHERE version = 99")
        .await
        .unwrap();
}

async fn refuses_where_nothing_can_be_written(server: &Server) {
    let store = store(server);
    let kept = contract::order("Ada");
    store.create(&kept.clone().into()).await.unwrap();
    let mut session = session(server).await;
    let read_only = "ALTER ROLE shop SET default_transaction_read_only = on";
    session.run(read_only).await.unwrap();
    let replica = self::store(server);
    let error = format!("{:#}", replica.probe().await.unwrap_err());
    assert!(error.contains("read-only transaction"), "{error}");
    let refused = replica.create(&contract::order("Eve").into()).await;
    assert!(matches!(
        refused,
        Err(crate::store::CreateError::Unavailable(_))
    ));
    assert_eq!(
        replica.get(kept.id).await.unwrap(),
        Some(kept),
        "still read"
    );
    session
        .run("SET default_transaction_read_only = off")
        .await
        .unwrap();
    session
        .run("ALTER ROLE shop RESET default_transaction_read_only")
        .await
        .unwrap();
}

#[tokio::test]
async fn tls_verifies_the_servers_certificate() {
    for kind in [Kind::MariaDb, Kind::Postgres] {
        let server = Server::start_with_tls(kind);
        let address = address(&server.url_at(server.port()));
        let probe = async |tls, ca_file, password: &str| {
            let settings = SqlSettings {
                tls,
                ca_file,
                password: Some(Secret::from(password.to_owned())),
                ..settings()
            };
            let outcome = SqlStore::new(&address, &settings).unwrap().probe().await;
            outcome.map_err(|error| format!("{error:#}"))
        };
        // The server accepts nothing else.
        let plain = probe(Tls::Off, None, PASSWORD).await.unwrap_err();
        assert!(plain.contains("connect to"), "{plain}");
        probe(Tls::Verify, Some(server.ca_file()), PASSWORD)
            .await
            .unwrap();
        let strange = probe(Tls::Verify, None, PASSWORD).await.unwrap_err();
        assert!(strange.contains("certificate"), "{strange}");
        let password = "not this one";
        let ca_file = Some(server.ca_file());
        let wrong = probe(Tls::Verify, ca_file, password).await.unwrap_err();
        assert!(
            wrong.contains("shop@127.0.0.1") && !wrong.contains(password),
            "{wrong}"
        );
    }
    // A name that is not in the certificate.
    let server = Server::start_with_tls(Kind::Postgres);
    let url = server
        .url_at(server.port())
        .replace("127.0.0.1", "localhost");
    let settings = SqlSettings {
        tls: Tls::Verify,
        ca_file: Some(server.ca_file()),
        ..settings()
    };
    let store = SqlStore::new(&address(&url), &settings).unwrap();
    let error = format!("{:#}", store.probe().await.unwrap_err());
    assert!(error.contains("not valid for name"), "{error}");
}

/// Like MySQL's caching_sha2_password; MariaDB, which the tests use, does not have it.
#[test]
fn a_password_that_requires_tls_has_a_hint() {
    let error = sqlx::Error::Protocol("RSA auth backend disabled; enable feature `rsa`".into());
    let message = super::retry::explain(error).to_string();
    assert!(
        message.contains("password\nhint: set store_tls"),
        "{message}"
    );
}

#[test]
fn an_address_without_a_database_is_refused_with_a_hint() {
    for (url, hint) in [
        ("mysql://shop@db", "hint: write mysql://user@host/database"),
        (
            "postgres://shop@db/",
            "hint: write postgres://user@host/database",
        ),
    ] {
        let error = SqlStore::new(&address(url), &settings())
            .map(|_| ())
            .unwrap_err();
        assert!(error.to_string().contains(hint), "{error}");
    }
    let unspoken = address("mysql://shop@db/shop");
    assert_eq!(unspoken.engine, Engine::MySql);
    assert!(
        SqlStore::new(&unspoken, &settings()).is_ok(),
        "not reached for"
    );
}
