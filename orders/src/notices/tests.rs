use std::sync::Mutex;

use anyhow::bail;
use tokio::sync::{Notify, oneshot};

use super::*;
use crate::store::contract;
use crate::store::memory::MemoryStore;

/// A topic that records what it accepted, and refuses while the test requires it.
#[derive(Default)]
struct Remembering {
    taken: Mutex<Vec<OrderId>>,
    refusing: AtomicBool,
    asked: AtomicUsize,
    changed: Notify,
}

impl Remembering {
    fn taken(&self) -> Vec<OrderId> {
        self.taken.lock().unwrap().clone()
    }

    async fn until(&self, mut is_so: impl FnMut() -> bool) {
        while !is_so() {
            self.changed.notified().await;
        }
    }
}

#[async_trait]
impl Topic for Remembering {
    async fn send(&self, notice: &Notice) -> anyhow::Result<()> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_one();
        if self.refusing.load(Ordering::SeqCst) {
            bail!("refused by the test");
        }
        self.taken.lock().unwrap().push(notice.id);
        Ok(())
    }
}

/// An order received `seconds` ago, stored with its notice.
async fn kept(store: &dyn Store, seconds: i64) -> Order {
    let mut order = contract::order("Ada");
    let then = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(seconds);
    let mut bytes = *order.id.as_bytes();
    bytes[..6].copy_from_slice(&OrderId::floor(then).as_bytes()[..6]);
    order.id = OrderId::from_bytes(bytes);
    let entry = crate::store::Entry {
        notice: true,
        ..order.clone().into()
    };
    store.create(&entry).await.unwrap();
    order
}

struct Scene {
    store: Arc<MemoryStore>,
    topic: Arc<Remembering>,
    outbox: Outbox,
    relay: Relay,
}

fn scene() -> Scene {
    let store = Arc::new(MemoryStore::default());
    let topic = Arc::<Remembering>::default();
    let (outbox, relay) = Relay::new(
        Arc::<MemoryStore>::clone(&store),
        Arc::<Remembering>::clone(&topic),
    );
    Scene {
        store,
        topic,
        outbox,
        relay,
    }
}

#[test]
fn a_notice_names_neither_customer_nor_address() {
    let order = contract::order("Ada");
    let text = serde_json::to_string(&Notice::from(&order)).unwrap();
    let expected = format!(
        r#"{{"id":"{}","received_at":"1970-01-01T00:00:00Z","flower":"spring_tulips"}}"#,
        order.id
    );
    assert_eq!(text, expected);
}

#[tokio::test(start_paused = true)]
async fn a_queued_notice_is_sent_at_once_and_settled_once() {
    let scene = scene();
    let mut ids = Vec::new();
    for _ in 0..20 {
        let order = kept(&*scene.store, 0).await;
        scene.outbox.enqueue(&order);
        ids.push(order.id);
    }
    assert_eq!(scene.outbox.waiting(), 20);
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(scene.relay.run(async { drop(stopped.await) }));
    let begun = tokio::time::Instant::now();
    scene.topic.until(|| scene.topic.taken().len() == 20).await;
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "no sweep was waited for"
    );
    drop(stop);
    running.await.unwrap();
    assert_eq!(scene.topic.taken(), ids);
    assert_eq!(scene.store.notices(10).await.unwrap(), []);
    assert_eq!(scene.outbox.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_sweep_sends_old_notices_but_not_recent_ones() {
    let scene = scene();
    let mut old = Vec::new();
    // More than one batch.
    for age in (0..250).rev() {
        old.push(kept(&*scene.store, 61 + age).await.id);
    }
    let young = kept(&*scene.store, 5).await.id;
    let ahead = kept(&*scene.store, -5).await.id;
    // From an instance whose clock was 400 days ahead.
    old.push(kept(&*scene.store, -400 * 86_400).await.id);
    let running = tokio::spawn(scene.relay.run(std::future::pending()));
    scene.topic.until(|| scene.topic.taken().len() >= 251).await;
    // Time for the last to be settled, and for sweeps that would take the recent one.
    tokio::time::sleep(5 * SWEEP_EVERY).await;
    assert_eq!(scene.store.notices(10).await.unwrap(), [young, ahead]);
    assert_eq!(scene.topic.taken(), old);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_failing_topic_delays_no_order_and_loses_no_notice() {
    let scene = scene();
    scene.topic.refusing.store(true, Ordering::SeqCst);
    let running = tokio::spawn(scene.relay.run(std::future::pending()));
    let mut ids = Vec::new();
    // More than the queue holds: queueing does not wait, and the rest becomes the backlog.
    for age in (0..QUEUE as i64 + 100).rev() {
        let order = kept(&*scene.store, 61 + age).await;
        scene.outbox.enqueue(&order);
        ids.push(order.id);
    }
    assert_eq!(scene.outbox.waiting(), QUEUE);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let asked = scene.topic.asked.load(Ordering::SeqCst);
    // Eight at once, each every five seconds, plus the sweeps.
    assert!((10..150).contains(&asked), "{asked}");
    assert_eq!(scene.topic.taken(), []);
    assert_eq!(scene.store.notices(10_000).await.unwrap(), ids);
    assert!(scene.outbox.waiting() > 0);
    scene.topic.refusing.store(false, Ordering::SeqCst);
    while !scene.store.notices(1).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let mut taken = scene.topic.taken();
    taken.sort();
    taken.dedup();
    assert_eq!(taken, ids);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_stop_sends_queued_notices() {
    let scene = scene();
    let order = kept(&*scene.store, 0).await;
    scene.outbox.enqueue(&order);
    scene.relay.run(std::future::ready(())).await;
    assert_eq!(scene.topic.taken(), [order.id]);
    assert_eq!(scene.store.notices(10).await.unwrap(), []);
}
