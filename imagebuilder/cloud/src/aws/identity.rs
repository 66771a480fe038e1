//! STS: who is calling, and with which keys.

use async_trait::async_trait;
use aws_sdk_sts::config::{ProvideCredentials as _, SharedCredentialsProvider};

use super::error::{failed, incomplete, with_causes};
use crate::ids::AccountId;
use crate::{Answer, Caller, CloudError, Credentials, Identity, Kind};

pub(super) struct Sts(
    pub(super) aws_sdk_sts::Client,
    pub(super) Option<SharedCredentialsProvider>,
);

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

    async fn credentials(&self) -> Answer<Option<Credentials>> {
        let Some(provider) = &self.1 else {
            return Ok(None);
        };
        let keys = provider.provide_credentials().await.map_err(|error| {
            CloudError::new(
                Kind::Credentials,
                "find credentials",
                "",
                with_causes(&error),
            )
        })?;
        let expires = keys.expiry().and_then(|at| at.try_into().ok());
        Ok(Some(Credentials {
            access_key_id: keys.access_key_id().to_owned(),
            secret_access_key: keys.secret_access_key().to_owned(),
            session_token: keys.session_token().map(ToOwned::to_owned),
            expires,
        }))
    }
}
