//! The file store: its contract, and the faults of a broken disk.

mod damage;
mod power_cut;

use crate::candidates::all;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::join_all;

use super::super::contract::{Clocks, Follower};
use super::super::{Claim, contract};
use super::*;

/// Time limit for everything here.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Faults that a test injects into the disk, and the disk's operations.
#[derive(Debug, Default)]
pub(super) struct Injected {
    write_fails: AtomicBool,
    sync_fails: AtomicBool,
    /// Bytes by which the free space is reported smaller.
    taken: AtomicU64,
    /// Treat every file as a large one.
    large: AtomicBool,
    /// While a test holds it, every fsync waits.
    gate: Mutex<()>,
    journal: Mutex<Option<Vec<Did>>>,
}

/// An operation of the disk.
#[derive(Debug, Clone)]
pub(super) enum Did {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
}

impl Injected {
    pub(super) fn before_write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.did(Did::Write(offset, data.to_vec()));
        fail_if(&self.write_fails)
    }

    pub(super) fn before_sync(&self) -> io::Result<()> {
        drop(self.gate.lock().unwrap_or_else(PoisonError::into_inner));
        fail_if(&self.sync_fails)
    }

    pub(super) fn room(&self, room: u64) -> u64 {
        room.saturating_sub(self.taken.load(Ordering::Acquire))
    }

    pub(super) fn is_large(&self) -> bool {
        self.large.load(Ordering::Acquire)
    }

    pub(super) fn did(&self, did: Did) {
        if let Some(journal) = &mut *self.journal.lock().unwrap() {
            journal.push(did);
        }
    }
}

fn fail_if(armed: &AtomicBool) -> io::Result<()> {
    if armed.load(Ordering::Acquire) {
        return Err(io::Error::from_raw_os_error(5));
    }
    Ok(())
}

fn store(folder: &Path) -> FileStore {
    FileStore::new(folder.to_owned()).unwrap()
}

fn message<T: std::fmt::Debug>(outcome: anyhow::Result<T>) -> String {
    format!("{:#}", outcome.unwrap_err())
}

/// The reason for which the store refuses; nothing was stored, and where that is certain it is reported so.
async fn refusal(store: &FileStore) -> String {
    match store.create(&contract::order("Eve").into()).await {
        Err(CreateError::Unavailable(error) | CreateError::NotKept(error)) => format!("{error:#}"),
        other => panic!("{other:?}"),
    }
}

/// Waits until it accepts orders again, which depends on the pace of its own attempts.
async fn recovered(store: &FileStore) {
    let working = async {
        while store.probe().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, working).await.unwrap();
}

async fn place(store: &FileStore) -> Order {
    let order = contract::order("Ada");
    store.create(&order.clone().into()).await.unwrap();
    order
}

#[tokio::test]
async fn keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("made/on/first/use"));
    // Only one process can have it open: a second instance is a second handle on the same one, and a restart
    // closes and reopens the file.
    let open = || -> Box<dyn Store> {
        store.handle.close();
        Box::new(store.clone())
    };
    contract::holds(&open).await;
    contract::keeps_claims(&open).await;
    contract::lists_in_order(&open).await;
    contract::is_followed(&|_| open(), Clocks::Wild, true).await;
    contract::refuses_what_is_ahead(&open).await;
    contract::gives_out_notices(&open).await;
    for happenings in contract::some_happenings(8) {
        contract::is_followed_through(&|_| open(), Clocks::Wild, true, &happenings).await;
    }
}

fn remove_numbers(folder: &Path, which: impl Fn(u64) -> bool) {
    let redb = redb::Database::create(folder.join("orders.redb")).unwrap();
    let transaction = redb.begin_write().unwrap();
    let mut sequence = transaction.open_table(database::SEQUENCE).unwrap();
    sequence.retain(|number, _| !which(number)).unwrap();
    drop(sequence);
    transaction.commit().unwrap();
}

/// A file of a release without numbers has none; one that such a release used in between lacks some.
#[tokio::test]
async fn orders_without_a_number_get_one_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let follow = async |store: &FileStore| {
        let mut follower = Follower {
            at: Position::BEGINNING,
            seen: Vec::new(),
        };
        follower.poll(store, 100).await;
        follower.seen
    };
    let first = store(folder.path());
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(place(&first).await.id);
    }
    first.close().await;
    remove_numbers(folder.path(), |_| true);
    let second = store(folder.path());
    ids.sort();
    assert_eq!(follow(&second).await, ids, "in the order of ids");
    let mut follower = Follower::begin(&second).await;
    second.close().await;
    // The last ones, which the other release did not number.
    let third = store(folder.path());
    let late: Vec<OrderId> = vec![place(&third).await.id, place(&third).await.id];
    third.close().await;
    remove_numbers(folder.path(), |number| number > 20);
    let fourth = store(folder.path());
    follower.poll(&fourth, 1).await;
    follower.seen.sort();
    let mut sorted = late.clone();
    sorted.sort();
    assert_eq!(follower.seen, sorted);
    assert_eq!(follow(&fourth).await.len(), 22, "each once");
}

/// A backup is restored: followers that were further get an error instead of silently missing orders.
#[tokio::test]
async fn a_restored_store_refuses_positions_past_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let (file, copy) = (
        folder.path().join("orders.redb"),
        folder.path().join("copy"),
    );
    let store_then = store(folder.path());
    place(&store_then).await;
    let early = store_then.end().await.unwrap();
    store_then.close().await;
    fs::copy(&file, &copy).unwrap();
    let store_later = store(folder.path());
    place(&store_later).await;
    let further = store_later.end().await.unwrap();
    store_later.close().await;
    fs::copy(&copy, &file).unwrap();
    let put_back = store(folder.path());
    for _ in 0..2 {
        let refused = put_back.follow(&further, 10).await.unwrap_err().to_string();
        assert!(
            refused.contains("put back to an earlier state"),
            "{refused}"
        );
        // Even if there are as many orders as before.
        place(&put_back).await;
    }
    assert_eq!(put_back.follow(&early, 10).await.unwrap().orders.len(), 2);
}

#[tokio::test]
async fn keeps_candidates() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let candidates = store.candidates().unwrap();
    assert_eq!(all(&*candidates).await, Vec::<String>::new());
    for name in ["John Smith", "Åsa", "John Smith", "%2F"] {
        candidates.put(name).await.unwrap();
    }
    store.handle.close();
    assert!(candidates.has("Åsa").await.unwrap());
    assert!(!candidates.has("asa").await.unwrap());
    assert_eq!(all(&*candidates).await, ["%2F", "John Smith", "Åsa"]);
}

#[tokio::test]
async fn an_unusable_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();
    let store = store(&file.join("below"));
    let error = message(store.probe().await);
    assert!(
        error.contains("create the folder") && error.contains("file/below"),
        "{error}"
    );
    refusal(&store).await;
    // It recovers by itself when the folder does.
    fs::remove_file(&file).unwrap();
    recovered(&store).await;
    place(&store).await;
}

#[tokio::test]
async fn only_its_user_can_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("orders");
    store(&place).probe().await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place), 0o700);
    assert_eq!(mode(&place.join("orders.redb")), 0o600);
}

#[tokio::test]
async fn a_second_process_takes_over_when_the_first_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let first = store(folder.path());
    let order = place(&first).await;
    let second = store(folder.path());
    let error = message(second.get(order.id).await);
    assert!(
        error.contains("another process has it open") && error.contains("hint: stop it"),
        "{error}"
    );
    refusal(&second).await;
    first.close().await;
    assert!(refusal(&first).await.contains("the store is closed"));
    recovered(&second).await;
    assert_eq!(second.get(order.id).await.unwrap(), Some(order));
}

/// A write or an fsync that fails: no confirmed order is lost, refusals are reported, and the store resumes
/// with the disk.
#[tokio::test]
async fn a_failing_disk_is_reported_and_used_again_later() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let mut kept = vec![place(&store).await];
    let injected = store.handle.injected();
    for (name, failing) in [
        ("sync", &injected.sync_fails),
        ("write", &injected.write_fails),
    ] {
        failing.store(true, Ordering::Release);
        let error = refusal(&store).await;
        assert!(
            error.contains("write to") && error.contains("os error 5"),
            "{name}: {error}"
        );
        assert!(
            store.probe().await.is_err(),
            "{name}: it must not report ready meanwhile"
        );
        refusal(&store).await;
        failing.store(false, Ordering::Release);
        recovered(&store).await;
        kept.push(place(&store).await);
        for order in &kept {
            let found = store.get(order.id).await.unwrap();
            assert_eq!(found.as_ref(), Some(order), "{name}");
        }
    }
}

#[tokio::test]
async fn a_full_disk_refuses_before_it_is_full_and_reads_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let order = place(&store).await;
    let taken = &store.handle.injected().taken;
    taken.store(u64::MAX, Ordering::Release);
    let error = refusal(&store).await;
    assert!(
        error.contains("is full: 0 MiB left, 16 are needed\nhint:"),
        "{error}"
    );
    assert!(store.probe().await.is_err());
    assert_eq!(store.get(order.id).await.unwrap(), Some(order));
    taken.store(0, Ordering::Release);
    recovered(&store).await;
    place(&store).await;
}

#[tokio::test]
async fn a_deleted_file_is_not_recreated() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().join("orders");
    let away = folder.path().join("away");
    let store = store(&here);
    let order = place(&store).await;
    fs::rename(&here, &away).unwrap();
    let error = refusal(&store).await;
    assert!(
        error.contains("was deleted while it was in use\nhint:"),
        "{error}"
    );
    assert!(store.probe().await.is_err());
    assert!(!here.exists(), "nothing is made in its place");
    fs::create_dir(&here).unwrap();
    assert!(refusal(&store).await.contains("was deleted"));
    fs::remove_dir(&here).unwrap();
    fs::rename(&away, &here).unwrap();
    recovered(&store).await;
    let second = place(&store).await;
    for order in [order, second] {
        assert_eq!(store.get(order.id).await.unwrap(), Some(order));
    }
}

#[tokio::test]
async fn a_replaced_file_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let restored = store(&second);
    let from_copy = place(&restored).await;
    restored.close().await;
    let store = store(&first);
    place(&store).await;
    fs::rename(second.join("orders.redb"), first.join("orders.redb")).unwrap();
    let new = place(&store).await;
    let orders = store.list(OrderId::from_bytes([0; 16]), 10).await.unwrap();
    assert_eq!(orders, [from_copy, new]);
}

#[tokio::test]
async fn a_damaged_file_is_reported_and_not_modified() {
    let folder = tempfile::tempdir().unwrap();
    let sound = folder.path().join("sound");
    let filled = store(&sound);
    let entries: Vec<Entry> = (0..200)
        .map(|n| contract::order(&format!("Ada {n}")).into())
        .collect();
    join_all(entries.iter().map(|entry| filled.create(entry))).await;
    filled.close().await;
    let content = fs::read(sound.join("orders.redb")).unwrap();
    // The page that contains an order, and the pages that contained it before: which one is used is unknown.
    let needle = b"Ada 100";
    let mut flipped = content.clone();
    for at in 0..=content.len() - needle.len() {
        if content[at..].starts_with(needle) {
            flipped[at] ^= 1;
        }
    }
    assert!(flipped != content);
    let mut header = content.clone();
    header[..512].fill(0);
    let table: [(&str, Vec<u8>); 4] = [
        ("another program's file", b"hello\n".repeat(1000)),
        ("a missing header", header),
        ("a truncated file", content[..content.len() / 2].to_vec()),
        ("a bit flipped in an order", flipped),
    ];
    for (what, content) in table {
        let place = folder.path().join(what);
        fs::create_dir(&place).unwrap();
        let file = place.join("orders.redb");
        fs::write(&file, &content).unwrap();
        let store = store(&place);
        let error = message(store.probe().await);
        assert!(
            error.contains("is damaged or not an order store\nhint: move it away"),
            "{what}: {error}"
        );
        assert!(!error.contains("Rose Row"), "{what}: {error}");
        refusal(&store).await;
        assert!(
            fs::read(&file).unwrap() == content,
            "{what}: was written to"
        );
        // A restored backup is used.
        fs::copy(sound.join("orders.redb"), &file).unwrap();
        recovered(&store).await;
        let id = entries[100].order.id;
        assert!(store.get(id).await.unwrap().is_some(), "{what}");
    }
}

#[tokio::test]
async fn a_file_with_a_newer_format_is_not_modified() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("orders.redb");
    let newer = redb::Database::create(&file).unwrap();
    let transaction = newer.begin_write().unwrap();
    let mut facts = transaction.open_table(database::FACTS).unwrap();
    facts.insert("format", 2).unwrap();
    drop(facts);
    transaction.commit().unwrap();
    newer.close().unwrap();
    let error = message(store(folder.path()).probe().await);
    assert!(
        error.contains("has format 2, this program supports 1\nhint:"),
        "{error}"
    );
}

#[tokio::test]
async fn a_damaged_order_is_named_and_affects_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let damaged = contract::order("Ada");
    let other = contract::order("Bob");
    let file = redb::Database::create(folder.path().join("orders.redb")).unwrap();
    let transaction = file.begin_write().unwrap();
    let mut orders = transaction.open_table(database::ORDERS).unwrap();
    let row = other.to_row().unwrap();
    let torn = &row[..row.len() - 1];
    orders.insert(damaged.id.as_bytes(), torn).unwrap();
    let astray = contract::order("Eve").id;
    orders.insert(astray.as_bytes(), &row[..]).unwrap();
    drop(orders);
    transaction.commit().unwrap();
    drop(file);
    let store = store(folder.path());
    let error = message(store.get(damaged.id).await);
    assert!(
        error.contains(&format!("the row of order {} is damaged", damaged.id)),
        "{error}"
    );
    assert!(!error.contains("Bob") && !error.contains("Rose"), "{error}");
    let error = message(store.get(astray).await);
    assert!(
        error.contains(&format!("is that of order {}", other.id)),
        "{error}"
    );
    assert!(matches!(
        store.create(&damaged.into()).await,
        Err(CreateError::Unavailable(_))
    ));
    let kept = place(&store).await;
    assert_eq!(store.get(kept.id).await.unwrap(), Some(kept));
}

/// Claims are deleted once no client retries any more, and no sooner.
#[tokio::test]
async fn old_claims_are_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let hours_ago = |hours: i64| {
        let time = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(hours);
        OrderId::floor(time)
    };
    let claimed = |id: OrderId, key: u8| {
        let mut entry = Entry::from(Order {
            id,
            ..contract::order("Ada")
        });
        entry.claim = Some(Claim {
            key: [key; 32],
            fingerprint: [1; 32],
        });
        entry
    };
    let (old, recent) = (claimed(hours_ago(73), 1), claimed(hours_ago(47), 2));
    let first = store(folder.path());
    for entry in [&old, &recent] {
        assert_eq!(first.create(entry).await.unwrap(), Kept::Now);
    }
    first.close().await;
    drop(first);
    let store = store(folder.path());
    // The first commit after a start deletes them.
    place(&store).await;
    let again = claimed(OrderId::new(), 2);
    assert_eq!(
        store.create(&again).await.unwrap(),
        Kept::Before(recent.order.id)
    );
    let again = claimed(OrderId::new(), 1);
    assert_eq!(store.create(&again).await.unwrap(), Kept::Now);
    let kept = store.get(old.order.id).await.unwrap();
    assert_eq!(kept, Some(old.order), "the order itself stays");
}

/// While one commit waits for the disk, reads continue, orders whose callers gave up are not stored, and the
/// rest share the next commit.
#[expect(
    clippy::await_holding_lock,
    reason = "who waits for the lock is a thread of its own, and is to wait"
)]
#[tokio::test]
async fn a_stuck_commit_blocks_no_reads_and_no_timeouts() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let known = place(&store).await;
    let injected = store.handle.injected();
    *injected.journal.lock().unwrap() = Some(Vec::new());
    let entries: Vec<Entry> = (0..WAITING + 300)
        .map(|n| contract::order(&format!("Ada {n}")).into())
        .collect();
    let gate = injected.gate.lock().unwrap();
    let mut creates: Vec<_> = entries.iter().map(|entry| store.create(entry)).collect();
    // Started, and waiting for the disk once the writer has begun to write.
    assert!((&mut creates[0]).now_or_never().is_none());
    while injected
        .journal
        .lock()
        .unwrap()
        .as_ref()
        .unwrap()
        .is_empty()
    {
        std::thread::yield_now();
    }
    assert_eq!(store.get(known.id).await.unwrap(), Some(known.clone()));
    assert_eq!(store.get(entries[0].order.id).await.unwrap(), None);
    let mut refused = 0;
    for create in &mut creates[1..] {
        match create.now_or_never() {
            None => {}
            Some(Err(CreateError::NotKept(error))) => {
                assert!(format!("{error:#}").contains("wait for the disk already"));
                refused += 1;
            }
            Some(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(refused, 299, "memory is bounded");
    // Two callers that give up: one queued, one in progress.
    drop(creates.remove(1));
    drop(creates.remove(0));
    drop(gate);
    let waiting = creates.drain(..WAITING - 1);
    for outcome in join_all(waiting).await {
        assert_eq!(outcome.unwrap(), Kept::Now);
    }
    let syncs = injected.journal.lock().unwrap().take().unwrap();
    let syncs = syncs.iter().filter(|did| matches!(did, Did::Sync)).count();
    assert!(syncs < 60, "{syncs} fsyncs for {WAITING} orders");
    assert!(store.get(entries[0].order.id).await.unwrap().is_some());
    assert_eq!(store.get(entries[1].order.id).await.unwrap(), None);
    assert!(
        store
            .get(entries[WAITING].order.id)
            .await
            .unwrap()
            .is_some()
    );
}
