//! Auto Scaling by the AWS SDK, its only client here. The few calls of other services are made by [`call`].
//!
//! It translates, and retries within one call as the SDK does; [`crate::lifecycle`] decides when to call again.

pub(crate) mod call;
mod monitoring;
mod parameters;
mod proxies;
mod signature;

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use async_trait::async_trait;
use aws_config::environment::{
    EnvironmentVariableCredentialsProvider, EnvironmentVariableRegionProvider,
};
use aws_config::imds;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::meta::region::RegionProviderChain;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_autoscaling::config::http::HttpResponse;
use aws_sdk_autoscaling::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_autoscaling::types::InstanceRefreshStatus;
use tokio::sync::OnceCell;

pub(crate) use self::proxies::Proxies;
use crate::connections::connections;
use crate::fleet::{Fleet, Member};
use crate::hooks::{Answer, Group, Hook, Hooks, Membership, Phase, Receipt};
use crate::metrics::{Fault, Meter};

/// One attempt at one call: long enough for a slow instance with its first TLS handshake to do.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(8);

/// One call with the SDK's own retries: two attempts and a pause, and still within the shortest
/// timeout a hook can have (30 s).
const CALL_LIMIT: Duration = Duration::from_secs(18);

/// Timeout of a hook for which the API returns none: the API's own default.
const DEFAULT_HOOK_TIMEOUT: Duration = Duration::from_secs(3600);

/// The clients, created at the first call: before that the network that provides the region may be down.
#[derive(Debug)]
pub(crate) struct Aws {
    imds: imds::Client,
    proxies: Proxies,
    meter: Meter,
    clients: OnceCell<Clients>,
}

#[derive(Debug)]
struct Clients {
    config: SdkConfig,
    autoscaling: aws_sdk_autoscaling::Client,
}

impl Aws {
    /// Takes region and credentials from the environment, else from the metadata service.
    pub(crate) fn new(imds: imds::Client, proxies: Proxies, meter: Meter) -> Self {
        Self {
            imds,
            proxies,
            meter,
            clients: OnceCell::new(),
        }
    }

    async fn clients(&self) -> Result<&Clients> {
        self.clients
            .get_or_try_init(|| async {
                let config = self.load().await?;
                // Without a region every call would fail forever; this error is retried.
                config.region().ok_or_else(|| {
                    anyhow!("neither the environment nor the metadata service has the region")
                })?;
                Ok(Clients {
                    autoscaling: aws_sdk_autoscaling::Client::new(&config),
                    config,
                })
            })
            .await
    }

    /// The SDK's default chain without what an instance has no use for: profiles, containers and assumed
    /// roles would need one more service client.
    async fn load(&self) -> Result<SdkConfig> {
        let connections = connections(self.proxies.config()?);
        let limits = TimeoutConfig::builder()
            .operation_attempt_timeout(ATTEMPT_LIMIT)
            .operation_timeout(CALL_LIMIT)
            .build();
        let from_imds = ImdsRegionProvider::builder()
            .imds_client(self.imds.clone())
            .build();
        let region = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
            .or_else(from_imds)
            .region()
            .await;
        let from_imds = ImdsCredentialsProvider::builder()
            .imds_client(self.imds.clone())
            .build();
        let credentials = CredentialsProviderChain::first_try(
            "environment",
            EnvironmentVariableCredentialsProvider::new(),
        )
        .or_else("metadata service", from_imds);
        let mut config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(region)
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .retry_config(RetryConfig::standard())
            .timeout_config(limits)
            .http_client(connections);
        let endpoint = std::env::var("AWS_ENDPOINT_URL");
        config.set_endpoint_url(endpoint.ok().filter(|url| !url.is_empty()));
        Ok(config.build())
    }

    /// Counts a call and passes its answer on.
    #[expect(
        clippy::result_large_err,
        reason = "the SDK's own type, passed through"
    )]
    fn counted<T, E>(
        &self,
        call: &'static str,
        answer: Result<T, SdkError<E, HttpResponse>>,
    ) -> Result<T, SdkError<E, HttpResponse>>
    where
        SdkError<E, HttpResponse>: ProvideErrorMetadata,
    {
        self.meter.called(call, answer.as_ref().err().map(fault));
        answer
    }

    async fn autoscaling(&self) -> Result<&aws_sdk_autoscaling::Client> {
        Ok(&self.clients().await?.autoscaling)
    }
}

/// "No active Lifecycle Action found with instance ID …" is a plain `ValidationError`; only its
/// message distinguishes it from a wrong parameter.
fn is_not_active(error: &impl ProvideErrorMetadata) -> bool {
    error.code() == Some("ValidationError")
        && error
            .message()
            .is_some_and(|message| message.contains("No active Lifecycle Action"))
}

fn fault<E>(error: &SdkError<E, HttpResponse>) -> Fault
where
    SdkError<E, HttpResponse>: ProvideErrorMetadata,
{
    if let SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) = error {
        return Fault::Unreachable;
    }
    Fault::of_code(error.code().unwrap_or_default())
}

/// A refresh whose status is not one of these is under way: statuses that AWS may add count as that.
fn is_over(status: &InstanceRefreshStatus) -> bool {
    matches!(
        status,
        InstanceRefreshStatus::Successful
            | InstanceRefreshStatus::Failed
            | InstanceRefreshStatus::Cancelled
            | InstanceRefreshStatus::RollbackSuccessful
            | InstanceRefreshStatus::RollbackFailed
    )
}

#[async_trait]
impl Group for Aws {
    async fn membership(&self, instance: &str) -> Result<Option<Membership>> {
        let sent = self
            .autoscaling()
            .await?
            .describe_auto_scaling_instances()
            .instance_ids(instance)
            .send()
            .await;
        let answer = self
            .counted("DescribeAutoScalingInstances", sent)
            .context("cannot describe this instance's place in its group")?;
        let ours = answer
            .auto_scaling_instances()
            .iter()
            .find(|details| details.instance_id() == Some(instance));
        Ok(ours.and_then(|details| {
            Some(Membership {
                group: details.auto_scaling_group_name()?.to_owned(),
                phase: Phase::parse(details.lifecycle_state()?),
            })
        }))
    }

    async fn fleet(&self, group: &str) -> Result<Fleet> {
        let sent = self
            .autoscaling()
            .await?
            .describe_auto_scaling_groups()
            .auto_scaling_group_names(group)
            .send()
            .await;
        let answer = self
            .counted("DescribeAutoScalingGroups", sent)
            .with_context(|| format!("cannot describe group {group}"))?;
        let Some(found) = answer.auto_scaling_groups().first() else {
            bail!("there is no group {group}");
        };
        let members = found.instances().iter().filter_map(|instance| {
            Some(Member {
                instance: instance.instance_id()?.to_owned(),
                reported: instance.health_status() == Some("Unhealthy"),
            })
        });
        Ok(Fleet {
            members: members.collect(),
            target_groups: found.target_group_arns().to_vec(),
        })
    }

    async fn hooks(&self, group: &str) -> Result<Hooks> {
        let sent = self
            .autoscaling()
            .await?
            .describe_lifecycle_hooks()
            .auto_scaling_group_name(group)
            .send()
            .await;
        let answer = self
            .counted("DescribeLifecycleHooks", sent)
            .with_context(|| format!("cannot describe the hooks of group {group}"))?;
        let mut hooks = Hooks::default();
        for hook in answer.lifecycle_hooks() {
            let Some(name) = hook.lifecycle_hook_name() else {
                continue;
            };
            let timeout = hook
                .heartbeat_timeout()
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map_or(DEFAULT_HOOK_TIMEOUT, Duration::from_secs);
            let ours = Hook {
                name: name.to_owned(),
                timeout,
            };
            match hook.lifecycle_transition() {
                Some("autoscaling:EC2_INSTANCE_LAUNCHING") => hooks.launching.push(ours),
                Some("autoscaling:EC2_INSTANCE_TERMINATING") => hooks.terminating.push(ours),
                _ => {}
            }
        }
        Ok(hooks)
    }

    async fn complete(
        &self,
        group: &str,
        hook: &str,
        instance: &str,
        answer: Answer,
    ) -> Result<Receipt> {
        let sent = self
            .autoscaling()
            .await?
            .complete_lifecycle_action()
            .auto_scaling_group_name(group)
            .lifecycle_hook_name(hook)
            .instance_id(instance)
            .lifecycle_action_result(answer.as_str())
            .send()
            .await;
        let sent = self.counted("CompleteLifecycleAction", sent);
        match sent {
            Ok(_) => Ok(Receipt::Accepted),
            Err(error) if is_not_active(&error) => Ok(Receipt::NotActive),
            Err(error) => Err(error)
                .with_context(|| format!("cannot answer hook {hook} with {}", answer.as_str())),
        }
    }

    async fn heartbeat(&self, group: &str, hook: &str, instance: &str) -> Result<Receipt> {
        let sent = self
            .autoscaling()
            .await?
            .record_lifecycle_action_heartbeat()
            .auto_scaling_group_name(group)
            .lifecycle_hook_name(hook)
            .instance_id(instance)
            .send()
            .await;
        let sent = self.counted("RecordLifecycleActionHeartbeat", sent);
        match sent {
            Ok(_) => Ok(Receipt::Accepted),
            Err(error) if is_not_active(&error) => Ok(Receipt::NotActive),
            Err(error) => Err(error).with_context(|| format!("cannot keep hook {hook} waiting")),
        }
    }

    async fn report_unhealthy(&self, instance: &str) -> Result<()> {
        let sent = self
            .autoscaling()
            .await?
            .set_instance_health()
            .instance_id(instance)
            .health_status("Unhealthy")
            .should_respect_grace_period(true)
            .send()
            .await;
        self.counted("SetInstanceHealth", sent)
            .context("cannot ask the group for a replacement")?;
        Ok(())
    }

    async fn refreshing(&self, group: &str) -> Result<Option<String>> {
        // The newest come first, and only the newest can still be under way; a few more cost nothing.
        let sent = self
            .autoscaling()
            .await?
            .describe_instance_refreshes()
            .auto_scaling_group_name(group)
            .max_records(5)
            .send()
            .await;
        let answer = self
            .counted("DescribeInstanceRefreshes", sent)
            .with_context(|| format!("cannot describe the instance refreshes of group {group}"))?;
        let current = answer
            .instance_refreshes()
            .iter()
            .find(|refresh| refresh.status().is_some_and(|status| !is_over(status)));
        Ok(current.map(|refresh| {
            let id = refresh.instance_refresh_id();
            id.unwrap_or("without an id").to_owned()
        }))
    }
}
