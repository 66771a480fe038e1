use super::super::contract;
use super::*;
use crate::moto::Moto;

fn store(endpoint: &str, table: &str) -> DynamoDbStore {
    DynamoDbStore::new(table.to_owned(), Moto::settings(endpoint))
}

#[tokio::test]
async fn keeps_the_contract() {
    let moto = Moto::start();
    moto.make_table("shop", &["pk", "sk"]).await;
    let open = || -> Box<dyn Store> { Box::new(store(&moto.endpoint, "shop")) };
    contract::holds(&open).await;
    contract::keeps_claims(&open).await;
    contract::lists_in_order(&open).await;
    contract::gives_out_notices(&open).await;
}

#[tokio::test]
async fn a_table_that_is_missing_or_has_other_keys_is_named() {
    let moto = Moto::start();
    let missing = store(&moto.endpoint, "nowhere");
    let error = format!("{:#}", missing.probe().await.unwrap_err());
    assert!(error.contains("table nowhere"), "{error}");
    assert!(error.contains("hint: make the table"), "{error}");
    assert!(matches!(
        missing.create(&contract::order("Ada").into()).await,
        Err(CreateError::Unavailable(_))
    ));
    moto.make_table("other", &["CandidateName"]).await;
    let error = store(&moto.endpoint, "other").probe().await.unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("hint: has the table the keys"), "{error}");
}

#[tokio::test]
async fn a_list_over_many_pages_misses_none() {
    let moto = Moto::start();
    moto.make_table("shop", &["pk", "sk"]).await;
    let store = store(&moto.endpoint, "shop");
    let before = contract::order("Nobody").id;
    let mut orders = Vec::new();
    for number in 0..60_u8 {
        let mut order = contract::order("Ada");
        // Most in one partition, so that it has to be read on while the others are at their end.
        let mut bytes = *order.id.as_bytes();
        bytes[15] = if number % 5 == 0 { number } else { 0x17 };
        order.id = OrderId::from_bytes(bytes);
        store.create(&order.clone().into()).await.unwrap();
        orders.push(order);
    }
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
