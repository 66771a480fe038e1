//! Damage in a large file: redb trusts such a file and may panic over it, which must be reported, and make
//! the next start check the file.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use futures_util::future::join_all;

use super::super::{FileStore, Store};
use super::{Entry, OrderId, TEST_TIMEOUT, contract, recovered, store};

/// redb's page size.
const PAGE: usize = 4096;
const ORDERS: usize = 200;

/// The store in `folder`, treated as a large one.
fn large(folder: &Path) -> FileStore {
    let store = store(folder);
    store.handle.injected().large.store(true, Ordering::Release);
    store
}

/// Reads everything and writes something; returns the number of orders.
async fn use_all(store: &FileStore) -> anyhow::Result<usize> {
    store.probe().await?;
    let orders = store.list(OrderId::from_bytes([0; 16]), usize::MAX).await?;
    store.probe().await?;
    Ok(orders.len())
}

/// Waits until it reports the damage; its attempts have their own pace.
async fn says_so(store: &FileStore, what: &str) {
    let saying = async {
        loop {
            let error = format!("{:#}", use_all(store).await.expect_err(what));
            if error.contains("is damaged or not an order store\nhint: move it away") {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, saying)
        .await
        .expect(what);
}

#[tokio::test]
async fn after_a_panic_the_next_start_checks_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let sound = folder.path().join("sound");
    let filled = store(&sound);
    let entries: Vec<Entry> = (0..ORDERS)
        .map(|n| contract::order(&format!("Ada {n}")).into())
        .collect();
    for kept in join_all(entries.iter().map(|entry| filled.create(entry))).await {
        kept.unwrap();
    }
    filled.close().await;
    let sound = sound.join("orders.redb");
    let content = fs::read(&sound).unwrap();
    let mut panics = 0;
    for (page, bytes) in content.chunks(PAGE).enumerate().skip(1) {
        if bytes.iter().all(|byte| *byte == 0) {
            continue;
        }
        let what = format!("page {page}");
        let place = folder.path().join(&what);
        let (file, mark) = (
            place.join("orders.redb"),
            place.join("orders.redb.panicked"),
        );
        fs::create_dir(&place).unwrap();
        let mut damaged = content.clone();
        damaged[page * PAGE..][..PAGE].fill(0xff);
        fs::write(&file, damaged).unwrap();
        let first = large(&place);
        let error = match use_all(&first).await {
            // A page that is not used any more.
            Ok(orders) => {
                assert_eq!((orders, mark.exists()), (ORDERS, false), "{what}");
                continue;
            }
            Err(error) => format!("{error:#}"),
        };
        if mark.exists() {
            panics += 1;
            assert!(
                error.contains("panicked; the file is checked"),
                "{what}: {error}"
            );
            assert!(
                fs::read_to_string(&mark).unwrap().contains(".rs:"),
                "{what}"
            );
        }
        says_so(&first, &what).await;
        first.close().await;
        // Another process sees the marker and does not run into the damage again.
        let next = large(&place);
        if mark.exists() {
            let error = format!("{:#}", next.probe().await.unwrap_err());
            assert!(error.contains("is damaged"), "{what}: {error}");
        }
        says_so(&next, &what).await;
        fs::copy(&sound, &file).unwrap();
        recovered(&next).await;
        assert_eq!(use_all(&next).await.unwrap(), ORDERS, "{what}");
        assert!(!mark.exists(), "{what}: checked");
    }
    assert!(panics > 0, "redb panics no more: the mark can go");
}
