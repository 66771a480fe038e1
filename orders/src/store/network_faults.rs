//! Network faults that every store behind a network must survive. Test code only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use futures_util::{StreamExt, stream};

use super::{Claim, CreateError, Entry, Kept, Store, contract};
use crate::flaky::{Fate, Flaky};
use crate::order::{Order, OrderId};

/// Attempts a customer makes for one order.
const TRIES: usize = 40;

fn claimed(name: &str, key: u8) -> Entry {
    Entry {
        claim: Some(Claim {
            key: [key; 32],
            fingerprint: [key; 32],
        }),
        notice: key.is_multiple_of(2),
        ..contract::order(name).into()
    }
}

/// Runs all tests of this module on the store whose server is at `inside`. `reach` opens the store through an
/// endpoint; `busy` is the server's response when overloaded. Needs a single-threaded runtime.
pub(crate) async fn are_survived(
    reach: &(dyn Fn(&str) -> Box<dyn Store> + Sync),
    inside: &str,
    busy: Fate,
) {
    loses_nothing(reach, inside, busy).await;
    fails_at_once_when_nothing_listens(reach).await;
    tokio::time::pause();
    gives_up_on_silence(reach).await;
}

/// Places orders through a network that fails two of five requests in different ways; checks that every
/// acknowledged order is stored once, with its notice.
async fn loses_nothing(reach: &(dyn Fn(&str) -> Box<dyn Store> + Sync), inside: &str, busy: Fate) {
    let seed = fastrand::u64(..);
    let chance = Mutex::new(fastrand::Rng::with_seed(seed));
    let flaky = Flaky::before(inside, move |_| match chance.lock().unwrap().u8(..100) {
        0..12 => Fate::AnswerLost,
        12..20 => Fate::Lost,
        20..26 => Fate::Cut,
        26..34 => busy.clone(),
        34..40 => Fate::Late(Duration::from_millis(40)),
        _ => Fate::Passes,
    })
    .await;
    let store = reach(&flaky.endpoint);
    let before = OrderId::floor(jiff::Timestamp::now());

    // With a key the customer retries until it works; every attempt is a new order to the store.
    let kept: Mutex<BTreeMap<u8, OrderId>> = Mutex::default();
    stream::iter(0..24_u8)
        .for_each_concurrent(8, |key| {
            let (store, kept) = (&store, &kept);
            async move {
                for _ in 0..TRIES {
                    let entry = claimed(&format!("Key {key}"), key);
                    match store.create(&entry).await {
                        Ok(Kept::Now) => {
                            kept.lock().unwrap().insert(key, entry.order.id);
                            return;
                        }
                        Ok(Kept::Before(id)) => {
                            kept.lock().unwrap().insert(key, id);
                            return;
                        }
                        Err(CreateError::Unavailable(_)) => {}
                        Err(error) => panic!("key {key}, seed {seed}: {error:?}"),
                    }
                }
                panic!("key {key}, seed {seed}: never placed");
            }
        })
        .await;
    // Without a key the first response counts.
    let plain: Vec<Entry> = (0..24)
        .map(|number| Entry {
            notice: number % 2 == 0,
            ..contract::order(&format!("Plain {number}")).into()
        })
        .collect();
    let acked: Mutex<BTreeSet<OrderId>> = Mutex::default();
    stream::iter(&plain)
        .for_each_concurrent(8, |entry| {
            let (store, acked) = (&store, &acked);
            async move {
                match store.create(entry).await {
                    Ok(_) => drop(acked.lock().unwrap().insert(entry.order.id)),
                    Err(CreateError::Unavailable(_)) => {}
                    Err(error) => panic!("seed {seed}: {error:?}"),
                }
            }
        })
        .await;

    let store = reach(inside);
    let listed = store.list(before, 1000).await.unwrap();
    let listed: BTreeMap<OrderId, Order> =
        listed.into_iter().map(|order| (order.id, order)).collect();
    let due: BTreeSet<OrderId> = store.notices(1000).await.unwrap().into_iter().collect();
    let kept = kept.into_inner().unwrap();
    for (key, id) in &kept {
        let name = format!("Key {key}");
        let found: Vec<&OrderId> = listed
            .values()
            .filter(|order| order.name == name)
            .map(|order| &order.id)
            .collect();
        assert_eq!(found, [id], "one order a key; seed {seed}");
        assert_eq!(
            due.contains(id),
            key.is_multiple_of(2),
            "its notice; seed {seed}"
        );
    }
    let acked = acked.into_inner().unwrap();
    assert!(
        acked.len() > plain.len() / 3,
        "{} of them; seed {seed}",
        acked.len()
    );
    for entry in plain.iter().filter(|entry| acked.contains(&entry.order.id)) {
        let id = entry.order.id;
        assert_eq!(listed.get(&id), Some(&entry.order), "seed {seed}");
        assert_eq!(due.contains(&id), entry.notice, "its notice; seed {seed}");
    }
    // Nothing else is stored.
    for id in listed.keys() {
        let asked = kept.values().any(|kept| kept == id);
        assert!(
            asked || plain.iter().any(|entry| entry.order.id == *id),
            "seed {seed}"
        );
    }
}

/// Checks that the store gives up a server that never responds before the service does. Needs paused time.
async fn gives_up_on_silence(reach: &(dyn Fn(&str) -> Box<dyn Store> + Sync)) {
    let flaky = Flaky::before("", |_| Fate::Silence).await;
    let store = reach(&flaky.endpoint);
    let begun = tokio::time::Instant::now();
    let outcome = store.create(&contract::order("Ada").into()).await;
    assert!(
        matches!(outcome, Err(CreateError::Unavailable(_))),
        "{outcome:?}"
    );
    let taken = begun.elapsed();
    assert!(
        Duration::from_secs(5) < taken && taken < Duration::from_secs(15),
        "tried again, and not too often: {taken:?}"
    );
}

/// Checks that a server that is down is reported at once.
async fn fails_at_once_when_nothing_listens(reach: &(dyn Fn(&str) -> Box<dyn Store> + Sync)) {
    // Nothing listens on port 1.
    let store = reach("http://127.0.0.1:1");
    assert!(store.probe().await.is_err());
    assert!(matches!(
        store.create(&contract::order("Ada").into()).await,
        Err(CreateError::Unavailable(_))
    ));
    assert!(store.get(OrderId::new()).await.is_err());
    assert!(store.list(OrderId::new(), 1).await.is_err());
    assert!(store.notices(1).await.is_err());
}
