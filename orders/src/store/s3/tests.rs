use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::super::{contract, faults};
use super::*;
use crate::flaky::{Fate, Flaky};
use crate::moto::Moto;
use crate::settings::AwsSettings;
use crate::versitygw::VersityGw;

/// What the tests run on: moto, or, where `ORDERS_TEST_VERSITYGW` says where it is, versitygw.
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

#[tokio::test]
async fn keeps_the_contract() {
    let server = Server::with_bucket("shop").await;
    let open = || -> Box<dyn Store> { Box::new(store(&server.endpoint, "shop")) };
    contract::holds(&open).await;
    contract::keeps_claims(&open).await;
    contract::lists_in_order(&open).await;
    contract::gives_out_notices(&open).await;
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
async fn who_may_read_but_not_write_is_not_ready() {
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
    let told = "writing s3://shop/orders/here is not allowed: ";
    assert!(error.starts_with(told), "{error}");
    let hint = "hint: the role needs s3:PutObject";
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
async fn a_bad_network_is_borne() {
    let server = Server::with_bucket("shop").await;
    let busy =
        "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
    let reach = |endpoint: &str| -> Box<dyn Store> { Box::new(store(endpoint, "shop")) };
    let busy = Fate::Answered(503, busy.to_owned());
    faults::are_borne(&reach, &server.endpoint, busy).await;
}

/// As S3 does it while it makes room for a new rate of requests: more refusals in a row than a few quick
/// tries outlast.
#[tokio::test]
async fn a_server_that_asks_to_slow_down_is_waited_for() {
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

/// S3 keeps the order and every answer is lost: nobody may say that it was not accepted.
#[tokio::test]
async fn an_order_whose_every_answer_is_lost_is_not_said_to_be_refused() {
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
async fn a_put_that_met_another_one_is_tried_again() {
    // What S3 answers while somebody else's put to the same key is under way, which then fails.
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
async fn who_died_after_the_claim_has_the_order_finished_by_the_next_try() {
    let server = Server::with_bucket("shop").await;
    // The claim arrives, nothing after it does: as when the box is lost in between.
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

#[tokio::test]
async fn a_notice_whose_order_never_came_is_not_given_out_and_dropped_in_the_end() {
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
    let long_ago = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(11);
    assert!(!store.is_due(order.id, long_ago).await.unwrap());
    let gone = client.head(&store.notice_key(order.id)).await;
    assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
}

#[test]
fn keys_have_no_empty_parts_and_orders_a_folder_of_their_own() {
    let keys = |prefix: &str| {
        let store = S3Store::new("b".into(), prefix, Aws::new(AwsSettings::default()));
        [store.orders, store.claims, store.notices].map(|folder| folder.join("x").to_string())
    };
    assert_eq!(keys(""), ["x", "claims/x", "notices/x"]);
    assert_eq!(
        keys("orders"),
        ["orders/x", "orders-claims/x", "orders-notices/x"]
    );
    assert_eq!(keys("/a//b/"), ["a/b/x", "a/b-claims/x", "a/b-notices/x"]);
    let probe = Path::from("orders").join(PROBE);
    assert_eq!(
        id_in(&probe, ".json"),
        None,
        "what a probe makes is no order"
    );
}
