//! STS: who is calling.

use async_trait::async_trait;

use super::{failed, incomplete};
use crate::cloud::{Answer, Caller, Identity};
use crate::ids::AccountId;

pub(super) struct Sts(pub(super) aws_sdk_sts::Client);

#[async_trait]
impl Identity for Sts {
    async fn caller(&self) -> Answer<Caller> {
        const OPERATION: &str = "ask STS who is calling";
        let answer = self
            .0
            .get_caller_identity()
            .send()
            .await
            .map_err(failed(OPERATION))?;
        Ok(Caller {
            account: answer
                .account()
                .and_then(|id| AccountId::parse(id).ok())
                .ok_or_else(|| incomplete(OPERATION, "account"))?,
            arn: answer.arn().unwrap_or_default().to_owned(),
        })
    }
}
