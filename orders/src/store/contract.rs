//! The contract suite, run on every store. Test code only; a new store must call every part.

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use serde_json::json;

use super::{Claim, CreateError, Entry, FollowError, Kept, Position, Store};
use crate::accounts::{Account, Registered};
use crate::clock::Clock;
use crate::order::{AccountId, Draft, Order, OrderId};
use crate::receipt::Receipt;
use crate::settings::UnknownFields;

/// Concurrent orders: few enough that none times out on a busy machine with a server that handles one at a
/// time.
const AT_ONCE: usize = 16;

/// An order by `name`.
pub(crate) fn order(name: &str) -> Order {
    Draft::validate(
        json!({"name": name, "address": "1 Rose Row\nÅrhus", "flower": "spring_tulips", "qty": 2})
            .as_object()
            .unwrap()
            .clone(),
        &["spring_tulips".to_owned()],
        UnknownFields::Keep,
    )
    .unwrap()
    .into_order(
        OrderId::new(),
        jiff::Timestamp::UNIX_EPOCH,
        Receipt::new().unwrap(),
    )
}

/// An order whose id has a later millisecond than `than`: ids of one millisecond are in no order.
pub(crate) fn later(name: &str, than: OrderId) -> Order {
    loop {
        let order = order(name);
        if order.id.as_bytes()[..6] > than.as_bytes()[..6] {
            return order;
        }
        std::hint::spin_loop();
    }
}

/// An order by `name` whose id is made by this clock.
pub(crate) fn order_by(clock: &Clock, name: &str) -> Order {
    Order {
        id: OrderId::at(clock.now()),
        ..order(name)
    }
}

/// Checks the contract. `open` reopens the same store, like a restart or a second instance.
pub(crate) async fn holds(open: &(dyn Fn() -> Box<dyn Store> + Sync)) {
    let store = open();
    store.probe().await.unwrap();

    let first = order("Ada");
    assert_eq!(store.get(first.id).await.unwrap(), None, "unknown before");
    store.create(&first.clone().into()).await.unwrap();
    assert_eq!(store.get(first.id).await.unwrap(), Some(first.clone()));
    assert_eq!(
        open().get(first.id).await.unwrap(),
        Some(first.clone()),
        "after a restart"
    );

    open().create(&first.clone().into()).await.unwrap();

    // As releases before receipts wrote them.
    let old = Order {
        receipt: None,
        ..order("Old")
    };
    store.create(&old.clone().into()).await.unwrap();
    assert_eq!(open().get(old.id).await.unwrap(), Some(old));

    let usurper = Order {
        id: first.id,
        ..order("Eve")
    };
    assert!(matches!(
        open().create(&usurper.into()).await,
        Err(CreateError::Exists)
    ));
    assert_eq!(
        store.get(first.id).await.unwrap(),
        Some(first),
        "not overwritten"
    );

    // Of many that race for one id, exactly one succeeds, and that one is stored.
    let id = OrderId::new();
    let rivals: Vec<Order> = (0..8)
        .map(|n| Order {
            id,
            ..order(&format!("Rival {n}"))
        })
        .collect();
    let entries: Vec<Entry> = rivals.iter().cloned().map(Entry::from).collect();
    let outcomes = join_all(entries.iter().map(|rival| store.create(rival))).await;
    let winners: Vec<&Order> = rivals
        .iter()
        .zip(&outcomes)
        .filter(|(_, o)| o.is_ok())
        .map(|(r, _)| r)
        .collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    assert_eq!(store.get(id).await.unwrap().as_ref(), Some(winners[0]));

    let many: Vec<Order> = (0..100).map(|n| order(&format!("Many {n}"))).collect();
    let entries: Vec<Entry> = many.iter().cloned().map(Entry::from).collect();
    stream::iter(&entries)
        .for_each_concurrent(AT_ONCE, |entry| {
            let store = &store;
            async move { assert_eq!(store.create(entry).await.unwrap(), Kept::Now) }
        })
        .await;
    let reopened = open();
    for order in many {
        assert_eq!(reopened.get(order.id).await.unwrap(), Some(order));
    }
}

/// An entry by `name` whose claim consists of these bytes.
pub(crate) fn claimed(name: &str, key: u8, fingerprint: u8) -> Entry {
    Entry {
        claim: Some(Claim {
            key: [key; 32],
            fingerprint: [fingerprint; 32],
        }),
        ..order(name).into()
    }
}

/// Checks claims, on which `Idempotency-Key` is based.
pub(crate) async fn keeps_claims(open: &(dyn Fn() -> Box<dyn Store> + Sync)) {
    let store = open();
    let first = claimed("Ada", 1, 1);
    assert_eq!(store.create(&first).await.unwrap(), Kept::Now);
    // The same entry again, as after a lost response: either call may have stored it, under the same id.
    match store.create(&first).await.unwrap() {
        Kept::Now => {}
        Kept::Before(id) => assert_eq!(id, first.order.id),
    }
    let again = claimed("Ada", 1, 1);
    assert_eq!(
        open().create(&again).await.unwrap(),
        Kept::Before(first.order.id),
        "on another instance"
    );
    assert_eq!(store.get(again.order.id).await.unwrap(), None);
    let other = claimed("Eve", 1, 2);
    assert!(matches!(
        open().create(&other).await,
        Err(CreateError::KeyReused)
    ));
    assert_eq!(store.get(other.order.id).await.unwrap(), None);

    // Of many calls with one key on two instances, one makes the order, and all return it.
    let second = open();
    let rivals: Vec<Entry> = (0..8).map(|_| claimed("Ada", 2, 1)).collect();
    let outcomes = join_all(rivals.iter().enumerate().map(|(index, rival)| {
        let box_ = if index % 2 == 0 { &store } else { &second };
        box_.create(rival)
    }))
    .await;
    let mut kept = Vec::new();
    for rival in &rivals {
        kept.extend(store.get(rival.order.id).await.unwrap());
    }
    assert_eq!(kept.len(), 1, "{outcomes:?}");
    for (rival, outcome) in rivals.iter().zip(outcomes) {
        match outcome.unwrap() {
            Kept::Now => assert_eq!(rival.order.id, kept[0].id),
            Kept::Before(id) => assert_eq!(id, kept[0].id),
        }
    }
}

/// Checks the list.
pub(crate) async fn lists_in_order(open: &(dyn Fn() -> Box<dyn Store> + Sync)) {
    let store = open();
    // Above every order that other parts of the suite stored.
    let before = later("Nobody", OrderId::new()).id;
    let mut orders: Vec<Order> = (0..7).map(|_| later("Ada", before)).collect();
    orders.sort_by_key(|order| order.id);
    // Not in the order of their ids.
    for order in orders.iter().rev() {
        store.create(&order.clone().into()).await.unwrap();
    }
    let store = open();
    assert_eq!(store.list(before, 100).await.unwrap(), orders);
    assert_eq!(store.list(before, 3).await.unwrap(), orders[..3]);
    assert_eq!(store.list(orders[2].id, 3).await.unwrap(), orders[3..6]);
    assert_eq!(store.list(orders[6].id, 3).await.unwrap(), []);
    assert_eq!(
        store
            .list(OrderId::from_bytes([0; 16]), 1)
            .await
            .unwrap()
            .len(),
        1,
        "from the beginning"
    );
}

/// How wrong the clocks of a store's hosts may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clocks {
    /// Arbitrarily: the store has its own sequence.
    Wild,
    /// As far as AWS allows: a quarter of an hour, in either direction.
    Checked,
}

impl Clocks {
    /// The page size to use instead of `limit`: stores that return the last minutes again and again, with
    /// many requests each, use larger pages.
    fn page(self, limit: usize) -> usize {
        match self {
            Self::Wild => limit,
            Self::Checked => limit * 16,
        }
    }

    /// The furthest that a clock may be off, in minutes.
    pub(crate) fn furthest(self) -> i64 {
        match self {
            Self::Wild => 400 * 24 * 60,
            Self::Checked => 14,
        }
    }
}

/// A follower that continues from the last position it got, and the orders it has seen.
pub(crate) struct Follower {
    pub(crate) at: Position,
    pub(crate) seen: Vec<OrderId>,
}

impl Follower {
    /// A follower that begins now.
    pub(crate) async fn begin(store: &dyn Store) -> Self {
        Self {
            at: store.end().await.unwrap(),
            seen: Vec::new(),
        }
    }

    /// Reads all new orders, in pages of `limit`.
    pub(crate) async fn poll(&mut self, store: &dyn Store, limit: usize) {
        let mut at = self.at;
        loop {
            let page = store.follow(&at, limit).await.unwrap();
            assert!(page.orders.len() <= limit);
            for (order, behind) in page.orders {
                self.seen.push(order.id);
                at = behind;
            }
            if let Some(end) = page.end {
                self.at = end;
                return;
            }
        }
    }

    /// How often it has seen this order.
    pub(crate) fn saw(&self, id: OrderId) -> usize {
        self.seen.iter().filter(|seen| **seen == id).count()
    }

    /// Fails if it has missed one of these or, if the store is `exact`, seen one twice.
    #[track_caller]
    pub(crate) fn missed_none(&self, ids: &[OrderId], exact: bool) {
        for (index, id) in ids.iter().enumerate() {
            let saw = self.saw(*id);
            assert!(
                saw > 0,
                "order {index} of {} ({}) was missed",
                ids.len(),
                id.time()
            );
            assert!(
                saw == 1 || !exact,
                "order {index}, {id}, was seen {saw} times"
            );
        }
    }
}

/// Checks that a follower misses no order. `open` reopens the store as a host with this clock; `exact` if
/// each order must be seen once.
pub(crate) async fn is_followed(
    open: &(dyn Fn(&Clock) -> Box<dyn Store> + Sync),
    clocks: Clocks,
    exact: bool,
) {
    let right = Clock::default();
    let minutes = jiff::SignedDuration::from_mins;
    let mut follower = Follower::begin(&*open(&right)).await;
    let mut ids = Vec::new();
    let far = clocks.furthest();
    // Right, ahead for one order, right again, after a restart, behind, two hosts seconds apart.
    for (round, error) in [0, far, 0, 0, -far, 0, 0].into_iter().enumerate() {
        let clock = Clock::ahead_by(minutes(error));
        let order = order_by(&clock, "Ada");
        open(&clock).create(&order.clone().into()).await.unwrap();
        ids.push(order.id);
        let page = clocks.page(1 + round % 3);
        follower.poll(&*open(&right), page).await;
        follower.missed_none(&ids, exact);
    }
    let seconds = jiff::SignedDuration::from_secs;
    let hosts = [-4, 0, 3].map(|error| Clock::ahead_by(seconds(error)));
    for host in hosts.iter().cycle().take(9) {
        let order = order_by(host, "Ada");
        open(host).create(&order.clone().into()).await.unwrap();
        ids.push(order.id);
        follower.poll(&*open(host), clocks.page(2)).await;
        follower.missed_none(&ids, exact);
    }

    // Many hosts write while it reads.
    let store = open(&right);
    let many = match clocks {
        Clocks::Wild => 120,
        Clocks::Checked => 24,
    };
    let entries: Vec<Entry> = (0..many)
        .map(|number| order_by(&hosts[number % 3_usize], "Many").into())
        .collect();
    ids.extend(entries.iter().map(|entry| entry.order.id));
    let writing = stream::iter(&entries).for_each_concurrent(AT_ONCE, |entry| {
        let store = &store;
        async move { assert_eq!(store.create(entry).await.unwrap(), Kept::Now) }
    });
    let reading = async {
        loop {
            follower.poll(&*store, clocks.page(7)).await;
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = writing => {}
        () = reading => {}
    }
    // Repeats the poll that was cut off.
    follower.poll(&*store, 100).await;
    follower.missed_none(&ids, false);

    // A list by ids, then followed from the position at its beginning.
    let then = store.end().await.unwrap();
    let mut walked = store
        .list(OrderId::from_bytes([0; 16]), 10_000)
        .await
        .unwrap();
    let late = order_by(&Clock::ahead_by(minutes(-far)), "Late");
    open(&Clock::ahead_by(minutes(-far)))
        .create(&late.clone().into())
        .await
        .unwrap();
    let mut follower = Follower {
        at: then,
        seen: walked.drain(..).map(|order| order.id).collect(),
    };
    follower.poll(&*store, 100).await;
    ids.push(late.id);
    follower.missed_none(&ids, false);
}

/// Checks that a position that is not valid for this store is refused.
pub(crate) async fn refuses_what_is_ahead(open: &(dyn Fn() -> Box<dyn Store> + Sync)) {
    let store = open();
    let end = store.end().await.unwrap();
    let ahead = match end {
        Position::Numbered { settled, .. } => Position::Numbered {
            settled: settled + 1000,
            last: Some(OrderId::new()),
            read: settled + 1000,
        },
        Position::Timed { .. } => {
            let id = OrderId::floor(Timestamp::now() + jiff::SignedDuration::from_hours(9600));
            Position::Timed {
                settled: id,
                late: id,
                read: id,
            }
        }
    };
    let refused = store.follow(&ahead, 10).await;
    assert!(
        matches!(refused, Err(FollowError::NotHere(_))),
        "{refused:?}"
    );
    let other_kind = match end {
        Position::Numbered { .. } => super::timed::end(Timestamp::now()),
        Position::Timed { .. } => Position::BEGINNING,
    };
    let refused = store.follow(&other_kind, 10).await;
    assert!(
        matches!(refused, Err(FollowError::NotHere(_))),
        "{refused:?}"
    );
}

/// An event on a store's hosts.
#[derive(Debug, Clone)]
pub(crate) enum Happening {
    /// This many minutes pass.
    Time(i64),
    /// A host's clock is set ahead, in thousandths of the furthest allowed.
    Clock(usize, i64),
    /// A host stores this many orders.
    Orders(usize, u8),
    /// The follower polls a host, in pages of this size.
    Poll(usize, usize),
}

/// Random events on two hosts.
pub(crate) fn happenings() -> impl proptest::strategy::Strategy<Value = Vec<Happening>> {
    use proptest::prelude::*;
    let host = || 0..2_usize;
    let one = prop_oneof![
        (0..60_i64).prop_map(Happening::Time),
        (host(), -1000..=1000_i64).prop_map(|(host, error)| Happening::Clock(host, error)),
        (host(), 1..4_u8).prop_map(|(host, count)| Happening::Orders(host, count)),
        (host(), 1..4_usize).prop_map(|(host, limit)| Happening::Poll(host, limit)),
    ];
    proptest::collection::vec(one, 1..30)
}

/// Checks that a follower misses no order, whatever happens to two hosts, which are restarted before each
/// event.
pub(crate) async fn is_followed_through(
    open: &(dyn Fn(&Clock) -> Box<dyn Store> + Sync),
    clocks: Clocks,
    exact: bool,
    happenings: &[Happening],
) {
    let hosts = [Clock::default(), Clock::default()];
    let mut errors = [0, 0];
    let mut time = 0;
    let mut follower = Follower::begin(&*open(&hosts[0])).await;
    let mut ids = Vec::new();
    // At the end two hosts with correct clocks are polled, so that everything has been polled.
    let last = [Happening::Poll(0, 3), Happening::Poll(1, 3)];
    for happening in happenings.iter().chain(&last) {
        match *happening {
            Happening::Time(minutes) => time += minutes,
            Happening::Clock(host, thousandths) => {
                errors[host] = clocks.furthest() * thousandths / 1000;
            }
            Happening::Orders(host, count) => {
                let store = open(&hosts[host]);
                for _ in 0..count {
                    let order = order_by(&hosts[host], "Ada");
                    store.create(&order.clone().into()).await.unwrap();
                    ids.push(order.id);
                }
            }
            Happening::Poll(host, limit) => {
                follower
                    .poll(&*open(&hosts[host]), clocks.page(limit))
                    .await;
                follower.missed_none(&ids, exact);
            }
        }
        for (host, error) in hosts.iter().zip(errors) {
            host.set_ahead(jiff::SignedDuration::from_mins(time + error));
        }
    }
}

/// A few random histories, for stores that are too slow for many.
pub(crate) fn some_happenings(count: usize) -> Vec<Vec<Happening>> {
    use proptest::strategy::{Strategy, ValueTree};
    let mut runner = proptest::test_runner::TestRunner::default();
    let mut some = || happenings().new_tree(&mut runner).unwrap().current();
    (0..count).map(|_| some()).collect()
}

/// Checks the outbox.
pub(crate) async fn gives_out_notices(open: &(dyn Fn() -> Box<dyn Store> + Sync)) {
    let store = open();
    let silent = Entry::from(order("Bob"));
    store.create(&silent).await.unwrap();
    let mut noticed: Vec<Entry> = (0..3)
        .map(|_| Entry {
            notice: true,
            ..order("Ada").into()
        })
        .collect();
    noticed.sort_by_key(|entry| entry.order.id);
    for entry in &noticed {
        store.create(entry).await.unwrap();
    }
    let ids: Vec<OrderId> = noticed.iter().map(|entry| entry.order.id).collect();
    assert_eq!(open().notices(10).await.unwrap(), ids);
    assert_eq!(open().notices(2).await.unwrap(), ids[..2]);
    store.settle_notice(ids[1]).await.unwrap();
    store.settle_notice(ids[1]).await.unwrap();
    assert_eq!(open().notices(10).await.unwrap(), [ids[0], ids[2]]);
    // A settled notice stays settled, even if the order is stored again.
    store.create(&noticed[1]).await.unwrap();
    assert_eq!(open().notices(10).await.unwrap(), [ids[0], ids[2]]);
    assert_eq!(
        store.get(ids[1]).await.unwrap().as_ref(),
        Some(&noticed[1].order)
    );
}

/// Checks accounts, on stores that support them.
pub(crate) async fn keeps_accounts(open: &(dyn Fn() -> Box<dyn Store> + Sync)) {
    let at = |second: i64| Timestamp::from_second(second).unwrap();
    let account = |login: &str| Account {
        id: AccountId::new(),
        login: login.to_owned(),
        password_hash: "$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA".to_owned(),
        created_at: at(1_700_000_000),
    };
    let (store, second) = (open(), open());
    let (accounts, elsewhere) = (store.accounts().unwrap(), second.accounts().unwrap());

    let (ada, bob) = (account("ada@example.org"), account("bøb"));
    for account in [&ada, &bob] {
        let login = &account.login;
        assert_eq!(accounts.by_login(login).await.unwrap(), None, "{login}");
        let registered = accounts.register(account).await.unwrap();
        assert_eq!(registered, Registered::Now, "{login}");
        let found = elsewhere.by_login(login).await.unwrap();
        assert_eq!(found.as_ref(), Some(account), "on another instance");
        let found = elsewhere.by_id(account.id).await.unwrap();
        assert_eq!(found.as_ref(), Some(account), "by id");
    }
    let usurper = account("ada@example.org");
    let registered = elsewhere.register(&usurper).await.unwrap();
    assert_eq!(registered, Registered::LoginTaken);
    assert_eq!(accounts.by_id(usurper.id).await.unwrap(), None);
    let found = accounts.by_login("ada@example.org").await.unwrap();
    assert_eq!(found, Some(ada.clone()), "not overwritten");
    for unlike in ["Ada@example.org", "ada@example.org ", "bob", ""] {
        assert_eq!(accounts.by_login(unlike).await.unwrap(), None, "{unlike:?}");
    }
    // Of many that race for one login, one gets it.
    let rivals: Vec<Account> = (0..8).map(|_| account("eve")).collect();
    let outcomes = join_all(rivals.iter().enumerate().map(|(index, rival)| {
        let place = if index % 2 == 0 {
            &accounts
        } else {
            &elsewhere
        };
        place.register(rival)
    }))
    .await;
    let outcomes: Vec<Registered> = outcomes.into_iter().map(Result::unwrap).collect();
    let winners: Vec<&Account> = rivals
        .iter()
        .zip(&outcomes)
        .filter(|(_, outcome)| **outcome == Registered::Now)
        .map(|(rival, _)| rival)
        .collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    let found = accounts.by_login("eve").await.unwrap();
    assert_eq!(found.as_ref(), Some(winners[0]));

    let (short, long) = ([1; 32], [0xff; 32]);
    accounts.open_session(short, ada.id, at(100)).await.unwrap();
    accounts.open_session(long, bob.id, at(200)).await.unwrap();
    let session = |token, now| {
        let elsewhere = &elsewhere;
        async move { elsewhere.session(token, at(now)).await.unwrap() }
    };
    assert_eq!(session(short, 99).await, Some(ada.id));
    assert_eq!(session(short, 100).await, None, "expired");
    assert_eq!(session(long, 199).await, Some(bob.id));
    assert_eq!(session([2; 32], 0).await, None, "never opened");
    accounts.sweep_sessions(at(100)).await.unwrap();
    assert_eq!(session(short, 0).await, None, "swept");
    assert_eq!(session(long, 0).await, Some(bob.id), "not swept");
    accounts.close_session(long).await.unwrap();
    accounts.close_session(long).await.unwrap();
    assert_eq!(session(long, 0).await, None, "closed");

    let placed = |by: Option<&Account>| Order {
        account: by.map(|account| account.id),
        ..order("Somebody")
    };
    let mut ids = [(); 5].map(|()| OrderId::new());
    ids.sort();
    let orders: Vec<Order> = [Some(&ada), None, Some(&bob), Some(&ada), Some(&ada)]
        .map(placed)
        .into_iter()
        .zip(ids)
        .map(|(order, id)| Order { id, ..order })
        .collect();
    for order in &orders {
        store.create(&order.clone().into()).await.unwrap();
    }
    let history = |account: AccountId, before: Option<OrderId>, limit| {
        let elsewhere = &elsewhere;
        async move { elsewhere.orders(account, before, limit).await.unwrap() }
    };
    let [first, _, bobs, third, fourth] = &orders[..] else {
        unreachable!()
    };
    let all = [fourth.clone(), third.clone(), first.clone()];
    assert_eq!(history(ada.id, None, 10).await, all);
    assert_eq!(history(ada.id, None, 2).await, all[..2]);
    assert_eq!(history(ada.id, Some(third.id), 2).await, all[2..]);
    assert_eq!(history(bob.id, None, 10).await, std::slice::from_ref(bobs));
    assert_eq!(history(usurper.id, None, 10).await, []);
}
