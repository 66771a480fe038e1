//! The one contract suite, run on every store. Test code only; a new store adds one call to it.

use futures_util::future::join_all;
use serde_json::json;

use super::{CreateError, Store};
use crate::order::{Draft, Order, OrderId};

/// An order of `name`'s.
pub(crate) fn order(name: &str) -> Order {
    Draft::judge(
        json!({"name": name, "address": "1 Rose Row\nÅrhus", "flower": "spring_tulips", "qty": 2})
            .as_object()
            .unwrap()
            .clone(),
        &["spring_tulips".to_owned()],
    )
    .unwrap()
    .take(OrderId::new(), jiff::Timestamp::UNIX_EPOCH)
}

/// Proves the contract. `open` opens the same place anew, as a restart or a second box would.
pub(crate) async fn holds(open: &(dyn Fn() -> Box<dyn Store> + Sync)) {
    let store = open();
    store.probe().await.unwrap();

    let first = order("Ada");
    assert_eq!(store.get(first.id).await.unwrap(), None, "unknown before");
    store.create(&first).await.unwrap();
    assert_eq!(store.get(first.id).await.unwrap(), Some(first.clone()));
    assert_eq!(
        open().get(first.id).await.unwrap(),
        Some(first.clone()),
        "after a restart"
    );

    open().create(&first).await.unwrap();

    let usurper = Order {
        id: first.id,
        ..order("Eve")
    };
    assert!(matches!(
        open().create(&usurper).await,
        Err(CreateError::Exists)
    ));
    assert_eq!(
        store.get(first.id).await.unwrap(),
        Some(first),
        "not overwritten"
    );

    // Of many that race for one id, exactly one wins, and it is the one that is kept.
    let id = OrderId::new();
    let rivals: Vec<Order> = (0..8)
        .map(|n| Order {
            id,
            ..order(&format!("Rival {n}"))
        })
        .collect();
    let outcomes = join_all(rivals.iter().map(|rival| store.create(rival))).await;
    let winners: Vec<&Order> = rivals
        .iter()
        .zip(&outcomes)
        .filter(|(_, o)| o.is_ok())
        .map(|(r, _)| r)
        .collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    assert_eq!(store.get(id).await.unwrap().as_ref(), Some(winners[0]));

    let many: Vec<Order> = (0..100).map(|n| order(&format!("Many {n}"))).collect();
    for outcome in join_all(many.iter().map(|order| store.create(order))).await {
        outcome.unwrap();
    }
    let reopened = open();
    for order in many {
        assert_eq!(reopened.get(order.id).await.unwrap(), Some(order));
    }
}
