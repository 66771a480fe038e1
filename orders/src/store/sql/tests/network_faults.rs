//! Servers that are slow, refuse, disappear and come back; a file that is full, deleted or not a database.
//! Every acknowledged order must be there; every other caller must have got an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::super::SqlStore;
use super::super::servers::{Kind, Server};
use super::wire::{Mode, Wire};
use super::{sqlite, store, store_at};
use crate::order::Order;
use crate::store::{CreateError, Entry, Kept, Store, contract};

fn entry() -> Entry {
    Entry {
        notice: true,
        ..contract::order("Ada").into()
    }
}

fn unavailable(outcome: Result<Kept, CreateError>) -> String {
    match outcome {
        Err(CreateError::Unavailable(error) | CreateError::NotKept(error)) => format!("{error:#}"),
        other => panic!("{other:?}"),
    }
}

async fn are_there(store: &dyn Store, orders: &[Order]) {
    for order in orders {
        let kept = store.get(order.id).await.unwrap();
        assert_eq!(kept.as_ref(), Some(order), "an acknowledged order is lost");
    }
}

#[tokio::test]
async fn mariadb_faults_lose_nothing() {
    fails_in_every_way(Kind::MariaDb).await;
}

#[tokio::test]
async fn postgres_faults_lose_nothing() {
    fails_in_every_way(Kind::Postgres).await;
}

async fn fails_in_every_way(kind: Kind) {
    let server = Server::start(kind);
    nothing_listens(&server).await;
    let wire = Wire::to(server.port()).await;
    let store = store_at(&server, wire.port);
    store.probe().await.unwrap();
    a_lost_answer_is_no_second_order(&store, &wire).await;
    a_cut_is_survived_by_the_retry(&store, &wire).await;
    silence_ends_in_a_refusal(&store, &wire).await;
    // The same store works again afterwards.
    wire.set(Mode::Through);
    store.probe().await.unwrap();
    store.create(&entry()).await.unwrap();
}

async fn nothing_listens(server: &Server) {
    // Nothing listens on port 1.
    let store = store_at(server, 1);
    let error = format!("{:#}", store.probe().await.unwrap_err());
    assert!(
        error.contains("connect to") && error.contains("efused"),
        "{error}"
    );
    let error = unavailable(store.create(&entry()).await);
    assert!(error.contains("efused"), "{error}");
}

async fn a_lost_answer_is_no_second_order(store: &SqlStore, wire: &Wire) {
    let before = store.notices(1000).await.unwrap().len();
    wire.set(Mode::LosesACommit);
    let lost = entry();
    assert_eq!(store.create(&lost).await.unwrap(), Kept::Now);
    assert_eq!(wire.mode(), Mode::Through, "nothing was lost");
    are_there(store, &[lost.order]).await;
    assert_eq!(store.notices(1000).await.unwrap().len(), before + 1);

    let lost = contract::claimed("Ada", 50, 1);
    wire.set(Mode::LosesACommit);
    assert_eq!(store.create(&lost).await.unwrap(), Kept::Now);
    assert_eq!(wire.mode(), Mode::Through, "nothing was lost");
    let again = contract::claimed("Ada", 50, 1);
    let kept = store.create(&again).await.unwrap();
    assert_eq!(kept, Kept::Before(lost.order.id));
}

/// As when a server restarts, or a network device drops its connections.
async fn a_cut_is_survived_by_the_retry(store: &SqlStore, wire: &Wire) {
    // All connections of the pool are open, and then broken.
    let entries: Vec<Entry> = (0..16).map(|_| entry()).collect();
    for outcome in join_all(entries.iter().map(|entry| store.create(entry))).await {
        outcome.unwrap();
    }
    wire.set(Mode::Cut);
    wire.set(Mode::Through);
    for _ in 0..4 {
        store.create(&entry()).await.unwrap();
    }
    store.probe().await.unwrap();
}

/// The paused clock jumps to the next deadline when all tasks wait.
async fn silence_ends_in_a_refusal(store: &SqlStore, wire: &Wire) {
    let acked: Vec<Entry> = (0..8).map(|_| entry()).collect();
    for outcome in join_all(acked.iter().map(|entry| store.create(entry))).await {
        outcome.unwrap();
    }
    wire.set(Mode::Silent);
    tokio::time::pause();
    let entries: Vec<Entry> = (0..16).map(|_| entry()).collect();
    for outcome in join_all(entries.iter().map(|entry| store.create(entry))).await {
        let error = unavailable(outcome);
        assert!(
            error.contains("did not answer within 12 s")
                || error.contains("no database connection"),
            "{error}"
        );
    }
    let probe = tokio::time::timeout(Duration::from_secs(5), store.probe()).await;
    assert!(
        !matches!(probe, Ok(Ok(()))),
        "a silent server is no ready one"
    );
    tokio::time::resume();
    wire.set(Mode::Through);
    // Its connections were given up, and new ones are opened.
    store.probe().await.unwrap();
    store.create(&entry()).await.unwrap();
    let orders: Vec<Order> = acked.into_iter().map(|entry| entry.order).collect();
    are_there(store, &orders).await;
}

/// Needs several threads: the writers continue while this one waits for the server's start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_mariadb_loses_nothing() {
    a_killed_server_loses_nothing(Kind::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_postgres_loses_nothing() {
    a_killed_server_loses_nothing(Kind::Postgres).await;
}

/// Waits for so many orders. A server that aborts after its recovery would keep them waiting.
async fn acknowledged(orders: usize, receiver: &mut UnboundedReceiver<()>, server: &mut Server) {
    for _ in 0..orders {
        let order = loop {
            match tokio::time::timeout(Duration::from_secs(1), receiver.recv()).await {
                Ok(order) => break order,
                Err(_) => server.start_again_if_aborted(),
            }
        };
        order.expect("every writer has ended");
    }
}

async fn a_killed_server_loses_nothing(kind: Kind) {
    let mut server = Server::start(kind);
    let store = Arc::new(store(&server));
    store.probe().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, mut receiver) = unbounded_channel();
    let writers: Vec<_> = (0..12_u8)
        .map(|writer| {
            let (store, stop, sender) = (Arc::clone(&store), Arc::clone(&stop), sender.clone());
            tokio::spawn(async move {
                let mut acked = Vec::new();
                let mut number = 0_u32;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let mut entry = contract::claimed("Ada", 7, 1);
                    entry.notice = true;
                    let key = &mut entry.claim.as_mut().unwrap().key;
                    key[0] = writer;
                    key[1..5].copy_from_slice(&number.to_be_bytes());
                    match store.create(&entry).await {
                        Ok(kept) => {
                            assert_eq!(kept, Kept::Now);
                            acked.push(entry.order);
                            let _ = sender.send(());
                        }
                        // The outcome is unknown; it may be stored or not.
                        Err(CreateError::Unavailable(_)) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                }
                acked
            })
        })
        .collect();
    // The writers' own senders: without a writer there is nothing to wait for.
    drop(sender);
    for _ in 0..3 {
        acknowledged(60, &mut receiver, &mut server).await;
        server.kill();
        server.start_again();
    }
    while receiver.try_recv().is_ok() {}
    acknowledged(60, &mut receiver, &mut server).await;
    stop.store(true, Ordering::Relaxed);
    let acked: Vec<Order> = join_all(writers)
        .await
        .into_iter()
        .flat_map(Result::unwrap)
        .collect();
    assert!(acked.len() >= 240, "{}", acked.len());
    let reopened = self::store(&server);
    are_there(&reopened, &acked).await;
    let notices = reopened.notices(usize::MAX).await.unwrap();
    for order in &acked {
        assert!(notices.binary_search(&order.id).is_ok(), "a notice is lost");
    }
}

#[tokio::test]
async fn an_invalid_sqlite_file_is_named_and_not_modified() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.db");
    std::fs::write(&path, "these are my notes, not a database\n".repeat(100)).unwrap();
    let store = sqlite(&path);
    let error = format!("{:#}", store.probe().await.unwrap_err());
    assert!(
        error.contains("orders.db") && error.contains("not a database"),
        "{error}"
    );
    unavailable(store.create(&entry()).await);
    assert!(
        std::fs::read_to_string(&path)
            .unwrap()
            .starts_with("these are my notes")
    );
}

#[tokio::test]
async fn a_deleted_sqlite_file_loses_no_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.db");
    let store = sqlite(&path);
    store.create(&entry()).await.unwrap();
    std::fs::rename(&path, folder.path().join("elsewhere.db")).unwrap();
    let error = unavailable(store.create(&entry()).await);
    assert!(error.contains("read the metadata of"), "{error}");
    assert!(store.probe().await.is_err());
    // A replacement is not the file that is open.
    sqlite(&path).probe().await.unwrap_or_default();
    std::fs::write(&path, "").unwrap();
    let error = unavailable(store.create(&entry()).await);
    assert!(error.contains("was replaced while it was open"), "{error}");
}

#[tokio::test]
async fn sqlite_syncs_commits_and_is_private_to_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.db");
    let store = sqlite(&path);
    store.create(&entry()).await.unwrap();
    let mut session = store.database.connect().await.unwrap();
    let synchronous = super::number(&mut *session, "PRAGMA synchronous").await;
    assert_eq!(synchronous, 2, "FULL");
    let journal = session.rows("PRAGMA journal_mode", &[]).await.unwrap();
    assert_eq!(journal[0].text(0).unwrap(), "wal");
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", file.path());
    }
}

#[tokio::test]
async fn sqlites_log_is_restarted_after_a_disk_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.db");
    let log = folder.path().join("orders.db-wal");
    let store = sqlite(&path);
    let entries: Vec<Entry> = (0..200).map(|_| entry()).collect();
    for entry in &entries {
        store.create(entry).await.unwrap();
    }
    let before = std::fs::metadata(&log).unwrap().len();
    store.database.report_disk_failure();
    store.create(&entry()).await.unwrap();
    let after = std::fs::metadata(&log).unwrap().len();
    assert!(after < before / 4, "{after} of {before} bytes");
    let orders: Vec<Order> = entries.into_iter().map(|entry| entry.order).collect();
    are_there(&sqlite(&path), &orders).await;
}
