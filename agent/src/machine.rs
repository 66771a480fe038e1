//! A machine without a metadata service: who it is, and that nothing of AWS is there.
//!
//! `[identity] machine = true` selects it: a virtual machine of a developer, or a server on premises. Its services are
//! checked and judged as on an instance. It makes no request at all: there is no user data, no group and no role.

use std::collections::BTreeMap;

use agent_update::subscription::machine_name;
use anyhow::{Result, bail};
use async_trait::async_trait;

use crate::balancer::{Balancer, TargetHealth};
use crate::fleet::Fleet;
use crate::hooks::{Answer, Group, Hooks, Membership, Receipt};
use crate::identity::{Identity, Metadata, TargetState};
use crate::metrics::cloudwatch::Sink;
use crate::notice::{Scheduled, SpotNotices};
use crate::registry::Registry;

/// Takes the place of the metadata service and of every AWS service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine;

/// The result of a call that nothing leads to, since [`Group::membership`] reports that there is no group.
fn unavailable<T>() -> Result<T> {
    bail!("this machine has no metadata service, and so no role to call AWS with")
}

#[async_trait]
impl Metadata for Machine {
    async fn identity(&self) -> Result<Identity> {
        let host = rustix::system::uname();
        Ok(Identity {
            instance_id: machine_name()?,
            image_id: String::new(),
            host: Some(host.nodename().to_string_lossy().into_owned()),
        })
    }

    async fn user_data(&self) -> Result<Option<String>> {
        Ok(None)
    }

    async fn target_state(&self) -> Result<Option<TargetState>> {
        Ok(None)
    }

    async fn spot(&self) -> Result<SpotNotices> {
        Ok(SpotNotices::default())
    }

    async fn schedule(&self) -> Result<Vec<Scheduled>> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Group for Machine {
    async fn membership(&self, _: &str) -> Result<Option<Membership>> {
        Ok(None)
    }

    async fn fleet(&self, _: &str) -> Result<Fleet> {
        unavailable()
    }

    async fn hooks(&self, _: &str) -> Result<Hooks> {
        unavailable()
    }

    async fn complete(&self, _: &str, _: &str, _: &str, _: Answer) -> Result<Receipt> {
        unavailable()
    }

    async fn heartbeat(&self, _: &str, _: &str, _: &str) -> Result<Receipt> {
        unavailable()
    }

    async fn report_unhealthy(&self, _: &str) -> Result<()> {
        unavailable()
    }

    async fn refreshing(&self, _: &str) -> Result<Option<String>> {
        Ok(None)
    }
}

/// No record is kept: the verdict is in the status file and on the console. The status reports it as not recorded.
#[async_trait]
impl Registry for Machine {
    async fn put(&self, _: &str, _: &str) -> Result<()> {
        Ok(())
    }

    async fn get(&self, _: &[String]) -> Result<BTreeMap<String, String>> {
        unavailable()
    }

    async fn remove(&self, _: &str) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Balancer for Machine {
    async fn register(&self, _: &str, _: &str) -> Result<()> {
        unavailable()
    }

    async fn deregister(&self, _: &str, _: &str) -> Result<()> {
        unavailable()
    }

    async fn health(&self, _: &str, _: &str) -> Result<TargetHealth> {
        unavailable()
    }
}

#[async_trait]
impl Sink for Machine {
    async fn put(&self, _: String) -> Result<()> {
        unavailable()
    }
}
