use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::super::contract::Clocks;
use super::super::{contract, network_faults};
use super::*;
use crate::flaky::{Fate, Flaky};
use crate::moto::Moto;

fn store(endpoint: &str, table: &str) -> DynamoDbStore {
    DynamoDbStore::new(table.to_owned(), Aws::new(Moto::settings(endpoint)))
}

/// The store of a host with this clock.
fn by(clock: &Clock, endpoint: &str) -> DynamoDbStore {
    DynamoDbStore {
        clock: clock.clone(),
        ..store(endpoint, "shop")
    }
}

#[tokio::test]
async fn keeps_the_contract() {
    let moto = Moto::start();
    moto.make_table("shop", &["pk", "sk"]).await;
    let open = || -> Box<dyn Store> { Box::new(store(&moto.endpoint, "shop")) };
    contract::holds(&open).await;
    contract::keeps_claims(&open).await;
    contract::lists_in_order(&open).await;
    contract::refuses_what_is_ahead(&open).await;
    contract::gives_out_notices(&open).await;
}

#[tokio::test]
async fn a_follower_misses_none_whatever_happens() {
    let moto = Moto::start();
    moto.make_table("shop", &["pk", "sk"]).await;
    let open = |clock: &Clock| -> Box<dyn Store> { Box::new(by(clock, &moto.endpoint)) };
    contract::is_followed(&open, Clocks::Checked, false).await;
    for happenings in contract::some_happenings(2) {
        contract::is_followed_through(&open, Clocks::Checked, false, &happenings).await;
    }
}

#[tokio::test]
async fn a_table_that_is_missing_or_has_other_keys_is_named() {
    let moto = Moto::start();
    let missing = store(&moto.endpoint, "nowhere");
    let error = format!("{:#}", missing.probe().await.unwrap_err());
    assert!(error.contains("table nowhere"), "{error}");
    assert!(error.contains("hint: create the table"), "{error}");
    assert!(matches!(
        missing.create(&contract::order("Ada").into()).await,
        Err(CreateError::Unavailable(_))
    ));
    moto.make_table("other", &["CandidateName"]).await;
    let error = store(&moto.endpoint, "other").probe().await.unwrap_err();
    let error = format!("{error:#}");
    assert!(
        error.contains("hint: create the table with the keys"),
        "{error}"
    );
}

/// A clock that was wrong while the id was made. No request is sent to the table.
#[tokio::test]
async fn an_order_with_an_old_id_is_refused() {
    let store = by(&Clock::default(), "http://127.0.0.1:1");
    for hours in [-400 * 24, -1, 1, 400 * 24] {
        let wrong = Clock::ahead_by(jiff::SignedDuration::from_hours(hours));
        let refused = store
            .create(&contract::order_by(&wrong, "Ada").into())
            .await;
        let Err(CreateError::NotKept(error)) = refused else {
            panic!("{refused:?}");
        };
        let message = support::one_line(&error);
        assert!(message.contains("this host's clock was wrong"), "{message}");
    }
}

#[tokio::test]
async fn a_clock_that_dynamodb_refuses_is_named() {
    let flaky = Flaky::before("", |_| {
        let body = r#"{"__type":"com.amazon.coral.service#InvalidSignatureException","message":
            "Signature expired: 20251026T100000Z is now earlier than 20261130T095500Z (20261130T100000Z - 5 min.)"}"#;
        Fate::Answered(400, body.to_owned())
    })
    .await;
    let error = store(&flaky.endpoint, "shop").probe().await.unwrap_err();
    let message = support::one_line(&error);
    assert!(
        message.contains("this host's clock is too far from AWS's; hint: set it"),
        "{message}"
    );
}

#[tokio::test]
async fn without_write_permission_the_store_is_not_ready() {
    let asked = Arc::new(AtomicUsize::new(0));
    let refused = Arc::new(AtomicBool::new(true));
    let (asking, refusing) = (Arc::clone(&asked), Arc::clone(&refused));
    let flaky = Flaky::before("", move |head| {
        if !head.header("x-amz-target").ends_with(".PutItem") {
            return Fate::Answered(200, "{}".to_owned());
        }
        asking.fetch_add(1, Ordering::SeqCst);
        let code = if refusing.load(Ordering::SeqCst) {
            "AccessDeniedException"
        } else {
            "ConditionalCheckFailedException"
        };
        Fate::Answered(400, format!(r#"{{"__type":"dynamodb#{code}"}}"#))
    })
    .await;
    let store = store(&flaky.endpoint, "shop");
    let error = format!("{:#}", store.probe().await.unwrap_err());
    let expected = "PutItem on table shop answered 400 AccessDeniedException";
    assert!(error.contains(expected), "{error}");

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
async fn a_list_over_many_pages_skips_none() {
    let moto = Moto::start();
    moto.make_table("shop", &["pk", "sk"]).await;
    let store = store(&moto.endpoint, "shop");
    let before = OrderId::floor(jiff::Timestamp::now());
    let mut orders = Vec::new();
    for number in 0..60_u8 {
        let mut order = contract::order("Ada");
        // Most in one partition, so that it needs more pages than the others.
        let mut bytes = *order.id.as_bytes();
        bytes[15] = if number % 5 == 0 { number } else { 0x17 };
        order.id = OrderId::from_bytes(bytes);
        store.create(&order.clone().into()).await.unwrap();
        orders.push(order);
    }
    orders.sort_by_key(|order| order.id);
    assert_eq!(store.list(before, 1000).await.unwrap(), orders);
    let mut listed: Vec<Order> = Vec::new();
    loop {
        let after = listed.last().map_or(before, |order| order.id);
        let page = store.list(after, 7).await.unwrap();
        if page.is_empty() {
            break;
        }
        listed.extend(page);
    }
    assert_eq!(listed, orders);
}

const THROTTLED: &str =
    r#"{"__type":"com.amazonaws.dynamodb.v20120810#ThrottlingException","message":"slow down"}"#;

#[tokio::test]
async fn a_bad_network_is_survived() {
    let moto = Moto::start();
    moto.make_table("shop", &["pk", "sk"]).await;
    let reach = |endpoint: &str| -> Box<dyn Store> { Box::new(store(endpoint, "shop")) };
    let busy = Fate::Answered(400, THROTTLED.to_owned());
    network_faults::are_survived(&reach, &moto.endpoint, busy).await;
}

#[tokio::test]
async fn endless_throttling_is_reported() {
    let asked = std::sync::Arc::new(AtomicUsize::new(0));
    let counting = std::sync::Arc::clone(&asked);
    let flaky = Flaky::before("", move |_| {
        counting.fetch_add(1, Ordering::SeqCst);
        Fate::Answered(400, THROTTLED.to_owned())
    })
    .await;
    let outcome = store(&flaky.endpoint, "shop")
        .create(&contract::order("Ada").into())
        .await;
    let Err(CreateError::Unavailable(error)) = outcome else {
        panic!("{outcome:?}");
    };
    let error = format!("{error:#}");
    assert!(error.contains("ThrottlingException: slow down"), "{error}");
    let asked = asked.load(Ordering::SeqCst);
    assert!(asked >= 8, "to the end of its time: {asked}");
}

#[tokio::test]
async fn a_conflicting_transaction_is_retried() {
    let moto = Moto::start();
    moto.make_table("shop", &["pk", "sk"]).await;
    let met = AtomicUsize::new(0);
    let flaky = Flaky::before(&moto.endpoint, move |head| {
        let writes = head.header("x-amz-target").ends_with(".TransactWriteItems");
        if writes && met.fetch_add(1, Ordering::SeqCst) < 2 {
            let body = r#"{"__type":"com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
                "Message":"cancelled","CancellationReasons":[{"Code":"None"},{"Code":"TransactionConflict"}]}"#;
            return Fate::Answered(400, body.to_owned());
        }
        Fate::Passes
    })
    .await;
    let order = contract::order("Ada");
    let entry = Entry {
        notice: true,
        ..order.clone().into()
    };
    let kept = store(&flaky.endpoint, "shop").create(&entry).await;
    assert_eq!(kept.unwrap(), Kept::Now);
    let there = store(&moto.endpoint, "shop").get(order.id).await.unwrap();
    assert_eq!(there, Some(order));
}
