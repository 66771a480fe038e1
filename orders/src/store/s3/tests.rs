use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::super::contract::{Clocks, Follower};
use super::super::{contract, network_faults};
use super::*;
use crate::flaky::{Fate, Flaky};
use crate::moto::Moto;
use crate::settings::AwsSettings;
use crate::versitygw::VersityGw;

/// The server for the tests: versitygw if `ORDERS_TEST_VERSITYGW` has its path, else moto.
struct Server {
    endpoint: String,
    _running: Box<dyn std::any::Any + Send>,
}

impl Server {
    async fn with_bucket(name: &str) -> Self {
        if let Some(program) = std::env::var_os("ORDERS_TEST_VERSITYGW") {
            let server = VersityGw::start(program.as_ref(), name);
            return Self {
                endpoint: server.endpoint.clone(),
                _running: Box::new(server),
            };
        }
        let moto = Moto::start();
        moto.make_bucket(name).await;
        Self {
            endpoint: moto.endpoint.clone(),
            _running: Box::new(moto),
        }
    }
}

fn store(endpoint: &str, bucket: &str) -> S3Store {
    S3Store::new(
        bucket.to_owned(),
        "orders/here",
        Aws::new(Moto::settings(endpoint)),
    )
}

/// The store of a host with this clock.
fn by(clock: &Clock, endpoint: &str) -> S3Store {
    S3Store {
        clock: clock.clone(),
        ..store(endpoint, "shop")
    }
}

#[tokio::test]
async fn keeps_the_contract() {
    let server = Server::with_bucket("shop").await;
    let open = || -> Box<dyn Store> { Box::new(store(&server.endpoint, "shop")) };
    contract::holds(&open).await;
    contract::keeps_claims(&open).await;
    contract::lists_in_order(&open).await;
    contract::refuses_what_is_ahead(&open).await;
    contract::gives_out_notices(&open).await;
}

#[tokio::test]
async fn a_follower_misses_none_whatever_happens() {
    let server = Server::with_bucket("shop").await;
    let open = |clock: &Clock| -> Box<dyn Store> { Box::new(by(clock, &server.endpoint)) };
    contract::is_followed(&open, Clocks::Checked, false).await;
    for happenings in contract::some_happenings(3) {
        contract::is_followed_through(&open, Clocks::Checked, false, &happenings).await;
    }
}

#[tokio::test]
async fn a_missing_bucket_is_named() {
    let server = Server::with_bucket("shop").await;
    let store = store(&server.endpoint, "nowhere");
    let error = format!("{:#}", store.probe().await.unwrap_err());
    assert_eq!(error, "the bucket nowhere does not exist");
    let order = contract::order("Ada");
    assert!(matches!(
        store.create(&order.clone().into()).await,
        Err(CreateError::Unavailable(_))
    ));
    assert!(
        store.get(order.id).await.is_err(),
        "no bucket is not the same as no order"
    );
}

#[tokio::test]
async fn without_write_permission_the_store_is_not_ready() {
    let asked = Arc::new(AtomicUsize::new(0));
    let refused = Arc::new(AtomicBool::new(true));
    let (asking, refusing) = (Arc::clone(&asked), Arc::clone(&refused));
    let flaky = Flaky::before("", move |head| {
        if !head.line().starts_with("PUT ") {
            return Fate::Answered(404, "<Error><Code>NoSuchKey</Code></Error>".to_owned());
        }
        asking.fetch_add(1, Ordering::SeqCst);
        let code = if refusing.load(Ordering::SeqCst) {
            (403, "AccessDenied")
        } else {
            (412, "PreconditionFailed")
        };
        Fate::Answered(code.0, format!("<Error><Code>{}</Code></Error>", code.1))
    })
    .await;
    let store = store(&flaky.endpoint, "shop");
    let error = format!("{:#}", store.probe().await.unwrap_err());
    let expected = "writing s3://shop/orders/here is not allowed: ";
    assert!(error.starts_with(expected), "{error}");
    let hint = "hint: allow the role s3:PutObject";
    assert!(error.contains(hint), "{error}");

    refused.store(false, Ordering::SeqCst);
    store.probe().await.unwrap();
    asked.store(0, Ordering::SeqCst);
    for _ in 0..3 {
        store.probe().await.unwrap();
    }
    assert_eq!(
        asked.load(Ordering::SeqCst),
        0,
        "from then on it costs a read"
    );

    refused.store(true, Ordering::SeqCst);
    store.probe().await.unwrap();
    let order = contract::order("Ada");
    assert!(store.create(&order.into()).await.is_err());
    assert!(store.probe().await.is_err(), "until an order failed");
    refused.store(false, Ordering::SeqCst);
    store.probe().await.unwrap();
}

#[tokio::test]
async fn a_bad_network_is_survived() {
    let server = Server::with_bucket("shop").await;
    let busy =
        "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
    let reach = |endpoint: &str| -> Box<dyn Store> { Box::new(store(endpoint, "shop")) };
    let busy = Fate::Answered(503, busy.to_owned());
    network_faults::are_survived(&reach, &server.endpoint, busy).await;
}

/// Like S3 while it scales up for a new request rate: more refusals in a row than a few quick retries
/// survive.
#[tokio::test]
async fn slow_down_responses_are_retried() {
    for (status, code) in [(503, "SlowDown"), (500, "InternalError"), (429, "")] {
        let server = Server::with_bucket("shop").await;
        let puts = AtomicUsize::new(0);
        let flaky = Flaky::before(&server.endpoint, move |head| {
            if head.line().starts_with("PUT ") && puts.fetch_add(1, Ordering::SeqCst) < 7 {
                let body = format!("<Error><Code>{code}</Code></Error>");
                return Fate::Answered(status, body);
            }
            Fate::Passes
        })
        .await;
        let order = contract::order("Ada");
        let kept = store(&flaky.endpoint, "shop").create(&order.into()).await;
        assert_eq!(kept.unwrap(), Kept::Now, "{code}");
    }
}

/// S3 stores the order and every response is lost: it must not be reported as refused.
#[tokio::test]
async fn lost_responses_are_not_reported_as_a_refusal() {
    let server = Server::with_bucket("shop").await;
    let flaky = Flaky::before(&server.endpoint, |_| Fate::AnswerLost).await;
    let order = contract::order("Ada");
    let entry = Entry::from(order.clone());
    let outcome = store(&flaky.endpoint, "shop").create(&entry).await;
    assert!(
        matches!(outcome, Err(CreateError::Unavailable(_))),
        "{outcome:?}"
    );
    let there = store(&server.endpoint, "shop").get(order.id).await.unwrap();
    assert_eq!(there, Some(order));
}

#[tokio::test]
async fn a_conflicting_put_is_retried() {
    // S3's response while another put to the same key is in progress, which then fails.
    let server = Server::with_bucket("shop").await;
    let puts = AtomicUsize::new(0);
    let flaky = Flaky::before(&server.endpoint, move |head| {
        if head.line().starts_with("PUT ") && puts.fetch_add(1, Ordering::SeqCst) == 0 {
            let body = "<Error><Code>ConditionalRequestConflict</Code></Error>";
            return Fate::Answered(409, body.to_owned());
        }
        Fate::Passes
    })
    .await;
    let order = contract::order("Ada");
    let entry = Entry::from(order.clone());
    let kept = store(&flaky.endpoint, "shop").create(&entry).await;
    assert_eq!(kept.unwrap(), Kept::Now);
    let there = store(&server.endpoint, "shop").get(order.id).await.unwrap();
    assert_eq!(there, Some(order));
}

#[tokio::test]
async fn an_order_is_completed_after_a_crash_past_the_claim() {
    let server = Server::with_bucket("shop").await;
    // The claim arrives, nothing after it: as if the instance crashed in between.
    let flaky = Flaky::before(&server.endpoint, |head| {
        if head.line().contains("-claims/") {
            Fate::Passes
        } else {
            Fate::Answered(400, String::new())
        }
    })
    .await;
    let claim = Claim {
        key: [7; 32],
        fingerprint: [7; 32],
    };
    let entry = |received: i64| {
        let mut order = contract::order("Ada");
        order.received_at = jiff::Timestamp::from_second(received).unwrap();
        Entry {
            order,
            claim: Some(claim),
            notice: true,
        }
    };
    let first = entry(1);
    let lost = store(&flaky.endpoint, "shop").create(&first).await;
    assert!(matches!(lost, Err(CreateError::Unavailable(_))), "{lost:?}");
    let store = store(&server.endpoint, "shop");
    assert_eq!(store.get(first.order.id).await.unwrap(), None);
    let second = entry(2);
    let kept = store.create(&second).await.unwrap();
    assert_eq!(kept, Kept::Before(first.order.id));
    assert_eq!(
        store.get(first.order.id).await.unwrap(),
        Some(first.order.clone())
    );
    assert_eq!(store.get(second.order.id).await.unwrap(), None);
    assert_eq!(store.notices(10).await.unwrap(), [first.order.id]);
}

/// The claim is hours old when the customer retries, and every follower is past its time by then.
#[tokio::test]
async fn an_order_that_is_completed_late_is_followed() {
    let server = Server::with_bucket("shop").await;
    let flaky = Flaky::before(&server.endpoint, |head| {
        if head.line().contains("-claims/") {
            Fate::Passes
        } else {
            Fate::Answered(400, String::new())
        }
    })
    .await;
    let claimed = |clock: &Clock| Entry {
        claim: Some(Claim {
            key: [7; 32],
            fingerprint: [7; 32],
        }),
        ..contract::order_by(clock, "Ada").into()
    };
    let clock = Clock::default();
    let first = claimed(&clock);
    let lost = by(&clock, &flaky.endpoint).create(&first).await;
    assert!(matches!(lost, Err(CreateError::Unavailable(_))), "{lost:?}");
    for round in 1..4 {
        clock.set_ahead(jiff::SignedDuration::from_hours(round));
        let store = by(&clock, &server.endpoint);
        let order = contract::order_by(&clock, "Eve");
        store.create(&order.clone().into()).await.unwrap();
        let mut follower = Follower::begin(&store).await;
        follower.poll(&store, 1).await;
        follower.missed_none(&[order.id], false);
        follower.seen.clear();
        let kept = store.create(&claimed(&clock)).await.unwrap();
        assert_eq!(kept, Kept::Before(first.order.id), "round {round}");
        follower.poll(&store, 1).await;
        let times = follower.saw(first.order.id);
        assert_eq!(times, usize::from(round == 1), "round {round}");
    }
}

/// A clock that is wrong while the id is made, or is set before the order is written.
#[tokio::test]
async fn an_order_with_an_old_id_is_refused() {
    let server = Server::with_bucket("shop").await;
    let clock = Clock::default();
    let store = by(&clock, &server.endpoint);
    for hours in [-400 * 24, -1, 1, 400 * 24] {
        let wrong = Clock::ahead_by(jiff::SignedDuration::from_hours(hours));
        let order = contract::order_by(&wrong, "Ada");
        let refused = store.create(&order.clone().into()).await;
        let Err(CreateError::NotKept(error)) = refused else {
            panic!("{hours} h: {refused:?}");
        };
        assert!(
            error.to_string().contains("this host's clock was wrong"),
            "{hours} h: {error}"
        );
        assert_eq!(store.get(order.id).await.unwrap(), None, "{hours} h");
    }
    // Wrong when the order starts, and corrected before a successful attempt. What was signed by the wrong
    // clock S3 refuses itself, however often it is sent.
    clock.set_ahead(jiff::SignedDuration::from_hours(9600));
    let order = contract::order_by(&clock, "Ada");
    let tries = AtomicUsize::new(0);
    let setting = clock.clone();
    let flaky = Flaky::before(&server.endpoint, move |head| {
        setting.set_ahead(jiff::SignedDuration::ZERO);
        if head.line().starts_with("PUT ") && tries.fetch_add(1, Ordering::SeqCst) == 0 {
            let body = "<Error><Code>ConditionalRequestConflict</Code></Error>";
            return Fate::Answered(409, body.to_owned());
        }
        Fate::Passes
    })
    .await;
    let outcome = by(&clock, &flaky.endpoint)
        .create(&order.clone().into())
        .await;
    let Err(CreateError::Unavailable(error)) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(error.to_string().contains("was set just now"), "{error}");
    assert_eq!(store.get(order.id).await.unwrap(), None);
}

#[tokio::test]
async fn a_clock_that_s3_refuses_is_named() {
    let flaky = Flaky::before("", |_| {
        let body = "<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time \
            and the current time is too large.</Message><MaxAllowedSkewMilliseconds>900000\
            </MaxAllowedSkewMilliseconds></Error>";
        Fate::Answered(403, body.to_owned())
    })
    .await;
    let store = store(&flaky.endpoint, "shop");
    let probed = store.probe().await.unwrap_err();
    let placed = match store.create(&contract::order("Ada").into()).await {
        Err(CreateError::Unavailable(error)) => error,
        other => panic!("{other:?}"),
    };
    let listed = store.list(OrderId::new(), 1).await.unwrap_err();
    for error in [probed, placed, listed] {
        let message = support::one_line(&error);
        let hint = message.split_once("; hint: ").expect(&message).1;
        assert!(
            message.contains("this host's clock is too far from AWS's"),
            "{message}"
        );
        assert!(
            hint.starts_with("set it") && !message.contains("allow the role"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_notice_without_an_order_is_dropped_in_the_end() {
    let server = Server::with_bucket("shop").await;
    let flaky = Flaky::before(&server.endpoint, |head| {
        if head.line().contains("-notices/") {
            Fate::Passes
        } else {
            Fate::Answered(400, String::new())
        }
    })
    .await;
    let order = contract::order("Ada");
    let entry = Entry {
        notice: true,
        ..order.clone().into()
    };
    let lost = store(&flaky.endpoint, "shop").create(&entry).await;
    assert!(matches!(lost, Err(CreateError::Unavailable(_))), "{lost:?}");
    let store = store(&server.endpoint, "shop");
    assert_eq!(store.notices(10).await.unwrap(), []);
    let client = store.client().await.unwrap();
    client
        .head(&store.notice_key(order.id))
        .await
        .expect("it may still come");
    // Written just now, and compared by clocks that S3 accepts, or that were set since.
    let (now, mins) = (jiff::Timestamp::now(), jiff::SignedDuration::from_mins);
    for ahead in [mins(14), -mins(14), -mins(400 * 24 * 60)] {
        store.clock.set_ahead(ahead);
        assert!(!store.is_due(order.id, now).await.unwrap(), "{ahead}");
        let there = client.head(&store.notice_key(order.id)).await;
        there.unwrap_or_else(|error| panic!("{ahead}: {error}"));
    }
    store.clock.set_ahead(mins(0));
    let long_ago = now - mins(31);
    assert!(!store.is_due(order.id, long_ago).await.unwrap());
    let dropped = client.head(&store.notice_key(order.id)).await;
    assert!(
        matches!(dropped, Err(Error::NotFound { .. })),
        "{dropped:?}"
    );
}

#[test]
fn keys_have_no_empty_parts_and_orders_their_own_folder() {
    let keys = |prefix: &str| {
        let store = S3Store::new("b".into(), prefix, Aws::new(AwsSettings::default()));
        [store.orders, store.claims, store.notices, store.late]
            .map(|folder| folder.join("x").to_string())
    };
    assert_eq!(keys(""), ["x", "claims/x", "notices/x", "late/x"]);
    assert_eq!(
        keys("orders"),
        [
            "orders/x",
            "orders-claims/x",
            "orders-notices/x",
            "orders-late/x"
        ]
    );
    assert_eq!(
        keys("/a//b/"),
        ["a/b/x", "a/b-claims/x", "a/b-notices/x", "a/b-late/x"]
    );
    let probe = Path::from("orders").join(PROBE);
    assert_eq!(
        id_in(&probe, ".json"),
        None,
        "what a probe makes is no order"
    );
}
