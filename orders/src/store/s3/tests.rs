use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, copy_bidirectional, split};
use tokio::net::{TcpListener, TcpStream};

use super::super::contract;
use super::*;
use crate::moto::Moto;

fn store(endpoint: &str, bucket: &str) -> S3Store {
    S3Store::new(bucket.to_owned(), "orders/here", Moto::settings(endpoint))
}

#[tokio::test]
async fn keeps_the_contract() {
    let moto = Moto::start();
    moto.make_bucket("shop").await;
    let open = || -> Box<dyn Store> { Box::new(store(&moto.endpoint, "shop")) };
    contract::holds(&open).await;
    contract::keeps_claims(&open).await;
    contract::lists_in_order(&open).await;
    contract::gives_out_notices(&open).await;
}

#[tokio::test]
async fn a_missing_bucket_is_named() {
    let moto = Moto::start();
    let store = store(&moto.endpoint, "nowhere");
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
async fn an_answer_lost_on_the_way_is_no_second_order_and_no_refusal() {
    let moto = Moto::start();
    moto.make_bucket("shop").await;
    let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", door.local_addr().unwrap());
    let inside = moto.endpoint.trim_start_matches("http://").to_owned();
    let cut = std::sync::Arc::new(AtomicBool::new(false));
    let first = std::sync::Arc::clone(&cut);
    let proxy = tokio::spawn(async move {
        while let Ok((mut client, _)) = door.accept().await {
            let mut server = TcpStream::connect(&inside).await.unwrap();
            let first = std::sync::Arc::clone(&first);
            tokio::spawn(async move {
                if first.swap(true, Ordering::SeqCst) {
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                    return;
                }
                // The first answer: the server has acted, and the client never hears of it.
                let (mut from_client, _to_client) = split(client);
                let (mut from_server, mut to_server) = split(server);
                tokio::select! {
                    _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
                    _ = from_server.read_u8() => {}
                }
            });
        }
    });
    let order = contract::order("Ada");
    store(&endpoint, "shop")
        .create(&order.clone().into())
        .await
        .unwrap();
    assert!(cut.load(Ordering::SeqCst));
    assert_eq!(
        store(&moto.endpoint, "shop").get(order.id).await.unwrap(),
        Some(order)
    );
    proxy.abort();
}

#[test]
fn keys_have_no_empty_parts_and_orders_a_folder_of_their_own() {
    let keys = |prefix: &str| {
        let store = S3Store::new("b".into(), prefix, AwsSettings::default());
        [store.orders, store.claims, store.notices].map(|folder| folder.join("x").to_string())
    };
    assert_eq!(keys(""), ["x", "claims/x", "notices/x"]);
    assert_eq!(
        keys("orders"),
        ["orders/x", "orders-claims/x", "orders-notices/x"]
    );
    assert_eq!(keys("/a//b/"), ["a/b/x", "a/b-claims/x", "a/b-notices/x"]);
}
