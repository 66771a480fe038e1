//! Power cuts: what was not synced may be on the disk, torn or missing.
//!
//! Records the disk's operations while orders are placed, then cuts the power at many points of the record:
//! what came before the last fsync is on the disk; of what came after it only a random part, some of it torn
//! at a sector. A store on such a disk must have every order that was confirmed by then.

use super::*;

/// Disks write whole sectors of this size or nothing.
const SECTOR: usize = 512;
const CUTS: usize = 60;

/// The state of the disk after a power cut before operation `cut`.
fn after_cut(journal: &[Did], cut: usize, chance: &mut fastrand::Rng) -> Vec<u8> {
    let synced = journal[..cut]
        .iter()
        .rposition(|did| matches!(did, Did::Sync))
        .map_or(0, |last| last + 1);
    let mut disk = Vec::new();
    for (index, did) in journal[..cut].iter().enumerate() {
        let is_safe = index < synced;
        match did {
            Did::Sync => {}
            Did::SetLen(len) => {
                if is_safe || chance.bool() {
                    disk.resize(usize::try_from(*len).unwrap(), 0);
                }
            }
            Did::Write(offset, data) => {
                let offset = usize::try_from(*offset).unwrap();
                let end = offset + data.len();
                if is_safe {
                    disk[offset..end].copy_from_slice(data);
                    continue;
                }
                let whole = chance.bool();
                for (sector, piece) in data.chunks(SECTOR).enumerate() {
                    let at = offset + sector * SECTOR;
                    // Data beyond the length of the file is lost.
                    if (whole || chance.bool()) && at + piece.len() <= disk.len() {
                        disk[at..at + piece.len()].copy_from_slice(piece);
                    }
                }
            }
        }
    }
    disk
}

#[tokio::test]
async fn a_power_cut_loses_no_answered_order() {
    lose_none(false).await;
}

/// Of a large file, less is read after a crash.
#[tokio::test]
async fn a_power_cut_loses_no_answered_order_of_a_large_file() {
    lose_none(true).await;
}

async fn lose_none(large: bool) {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("recorded"));
    let injected = store.handle.injected();
    injected.large.store(large, Ordering::Release);
    let doings = || injected.journal.lock().unwrap().as_ref().unwrap().len();
    *injected.journal.lock().unwrap() = Some(Vec::new());
    // The length of the record when these orders had been confirmed.
    let mut answered: Vec<(usize, Vec<Order>)> = Vec::new();
    for round in 0..25 {
        let entries: Vec<Entry> = (0..1 + round % 7 * 5)
            .map(|n| {
                let mut entry = Entry::from(contract::order(&format!("Ada {round} {n}")));
                entry.notice = n % 2 == 0;
                entry.claim = (n % 3 == 0).then(|| Claim {
                    key: own_key(&entry.order),
                    fingerprint: [round; 32],
                });
                entry
            })
            .collect();
        for outcome in join_all(entries.iter().map(|entry| store.create(entry))).await {
            assert_eq!(outcome.unwrap(), Kept::Now);
        }
        let orders = entries.into_iter().map(|entry| entry.order).collect();
        answered.push((doings(), orders));
    }
    let journal = injected.journal.lock().unwrap().take().unwrap();
    let first = answered[0].0;
    let seed = 0x0_5eed;
    let mut chance = fastrand::Rng::with_seed(seed);
    for number in 0..CUTS {
        let cut = chance.usize(first..=journal.len());
        let place = folder.path().join(number.to_string());
        fs::create_dir(&place).unwrap();
        fs::write(
            place.join("orders.redb"),
            after_cut(&journal, cut, &mut chance),
        )
        .unwrap();
        let store = super::store(&place);
        store
            .handle
            .injected()
            .large
            .store(large, Ordering::Release);
        let here = format!("cut {number} before doing {cut} of seed {seed:#x}");
        store
            .probe()
            .await
            .unwrap_or_else(|error| panic!("{here}: {error:#}"));
        let kept = store.list(OrderId::from_bytes([0; 16]), usize::MAX).await;
        let kept = kept.unwrap_or_else(|error| panic!("{here}: {error:#}"));
        let known = answered.iter().flat_map(|(_, orders)| orders);
        for (doings, orders) in &answered {
            if *doings <= cut {
                for order in orders {
                    assert!(kept.contains(order), "{here}: lost {}", order.id);
                }
            }
        }
        let unknown = kept
            .iter()
            .filter(|order| !known.clone().any(|known| known == *order));
        assert_eq!(unknown.count(), 0, "{here}");
        store.close().await;
        fs::remove_dir_all(&place).unwrap();
    }
}

/// A key for this order only.
fn own_key(order: &Order) -> [u8; 32] {
    let mut key = [0; 32];
    key[..16].copy_from_slice(order.id.as_bytes());
    key
}
