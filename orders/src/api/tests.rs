//! The rules of the router that need no server.

use super::*;
use crate::aws::Aws;
use crate::order::Order;
use crate::settings::AwsSettings;
use crate::settings::RawSettings;
use crate::store::{CreateError, Entry, Kept};
use axum::body::Body;
use futures_util::stream;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

/// A store that hangs.
struct Stuck;

#[async_trait::async_trait]
impl Store for Stuck {
    async fn create(&self, _: &Entry) -> Result<Kept, CreateError> {
        std::future::pending().await
    }
    async fn get(&self, _: OrderId) -> anyhow::Result<Option<Order>> {
        std::future::pending().await
    }
    async fn list(&self, _: OrderId, _: usize) -> anyhow::Result<Vec<Order>> {
        std::future::pending().await
    }
    async fn notices(&self, _: usize) -> anyhow::Result<Vec<OrderId>> {
        std::future::pending().await
    }
    async fn settle_notice(&self, _: OrderId) -> anyhow::Result<()> {
        std::future::pending().await
    }
    async fn probe(&self) -> anyhow::Result<()> {
        Ok(())
    }
}

fn service() -> (Router, Shop) {
    let flags = RawSettings {
        flowers: Some(vec!["rose".to_owned()]),
        ..RawSettings::default()
    };
    let off = [("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned())];
    let shop = Shop {
        store: Arc::new(Stuck),
        readiness: Readiness::default(),
        settings: Arc::new(
            Settings::load(
                flags,
                Some("/dev/null".into()),
                &std::collections::BTreeMap::new(),
            )
            .unwrap(),
        ),
        count: OrderCount::default(),
        instance: InstanceId::new(Aws::new(AwsSettings::from_variables(off))),
        places: Shop::places(),
        desk: None,
    };
    (router(shop.clone()), shop)
}

fn order(body: Body) -> Request {
    Request::post("/order")
        .header("content-type", "application/json")
        .body(body)
        .unwrap()
}

fn good() -> Body {
    Body::from(r#"{"name":"Ada","address":"1 Row","flower":"rose"}"#)
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_cut_off() {
    let (router, _) = service();
    let endless = Body::from_stream(stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let answer = router.oneshot(order(endless)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_stuck_store_refuses_within_its_time() {
    let (router, _) = service();
    let answer = router.oneshot(order(good())).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()[header::RETRY_AFTER], "2");
}

#[tokio::test]
async fn a_full_house_sends_away_and_health_does_not_wait_behind_it() {
    let (router, shop) = service();
    let _all = shop
        .places
        .acquire_many(u32::try_from(ORDERS_AT_ONCE).unwrap())
        .await
        .unwrap();
    let answer = router.clone().oneshot(order(good())).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()[header::RETRY_AFTER], "1");
    let gtg = Request::get("/gtg?details").body(Body::empty()).unwrap();
    let answer = router.oneshot(gtg).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let details: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(details["connected"], "false");
    assert_eq!(
        details["detail"],
        "waiting for the first answer of the store"
    );
}
