//! The real cloud, by the official SDK: the only folder that names `aws_sdk_*`.
//!
//! Translates requests, answers and errors; decides nothing. Endpoints, region and credentials come from the SDK's
//! standard places, so any AWS-compatible endpoint will do.

mod error;
mod fleet;
mod identity;
mod images;
mod instances;
mod keys;
mod objects;
mod parameters;
mod permissions;
mod targets;
mod templates;
mod timeouts;

use std::sync::Arc;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::meta::region::ProvideRegion as _;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_ec2::config::ProvideCredentials as _;

use self::error::with_causes;
use self::timeouts::{ATTEMPT_TIMEOUT, ATTEMPTS, CONNECT_TIMEOUT, IMDS_TIMEOUT};
use super::{Cloud, ConnectError};

/// An account and region, with credentials that were found; no service has been called yet.
#[derive(Clone, Debug)]
pub struct Account {
    /// The region's name.
    pub region: String,
    config: aws_config::SdkConfig,
}

impl Account {
    /// All services that a command calls.
    pub fn cloud(&self) -> Cloud {
        clients(self.region.clone(), None, &self.config)
    }

    /// Signing keys in KMS.
    pub fn signing_keys(&self) -> Arc<dyn super::SigningKeys> {
        Arc::new(keys::Kms(aws_sdk_kms::Client::new(&self.config)))
    }

    /// The objects of a bucket in S3.
    pub fn objects(&self, bucket: &str) -> anyhow::Result<Arc<dyn object_store::ObjectStore>> {
        objects::bucket(&self.config, &self.region, bucket)
    }
}

/// Connects, refusing at once when there are no credentials or no region.
pub async fn connect(region: Option<&str>) -> Result<Cloud, ConnectError> {
    let Account { region, config } = account(region).await?;
    let ec2_endpoint = std::env::var("AWS_ENDPOINT_URL_EC2")
        .ok()
        .or_else(|| config.endpoint_url().map(ToOwned::to_owned));
    if let Some(endpoint) = &ec2_endpoint {
        answers(endpoint).await?;
    }
    Ok(clients(region, ec2_endpoint, &config))
}

/// Finds region and credentials in the SDK's standard places, refusing at once when there are none.
pub async fn account(region: Option<&str>) -> Result<Account, ConnectError> {
    let imds = aws_config::imds::Client::builder()
        .max_attempts(1)
        .connect_timeout(IMDS_TIMEOUT)
        .read_timeout(IMDS_TIMEOUT)
        .build();
    // The environment overrides the file, so that the same configuration can be used in another region.
    let region = aws_config::environment::EnvironmentVariableRegionProvider::new()
        .region()
        .await
        .or_else(|| region.map(|name| Region::new(name.to_owned())));
    let mut chain = DefaultCredentialsChain::builder().imds_client(imds);
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                .build(),
        );
    if let Some(region) = region {
        chain = chain.region(region.clone());
        loader = loader.region(region);
    } else {
        let profile = aws_config::profile::ProfileFileRegionProvider::new();
        chain = chain.region(profile.region().await);
        loader = loader.region(profile);
    }
    let config = loader
        .credentials_provider(chain.build().await)
        .load()
        .await;
    let Some(region) = config.region().map(ToString::to_string) else {
        return Err(ConnectError::new(
            "no AWS region is set",
            "set AWS_REGION, or `region` in [bake] of the configuration",
        ));
    };
    if let Some(provider) = config.credentials_provider()
        && let Err(error) = provider.provide_credentials().await
    {
        let real = match std::env::var("AWS_PROFILE") {
            Ok(profile) => format!(
                "AWS_PROFILE is `{profile}`: `aws configure list-profiles` shows which there are, `aws login` or `aws sso login` renews one"
            ),
            Err(_) => "for a real account: `aws login`, or set AWS_PROFILE".to_owned(),
        };
        return Err(ConnectError {
            cause: Some(anyhow::anyhow!("{}", with_causes(&error))),
            ..ConnectError::new(
                "no AWS credentials were found",
                format!("{real}\nfor the rehearsal cloud: `rehearsal exec DIR -- imagebuilder …`"),
            )
        });
    }
    Ok(Account { region, config })
}

/// Refuses at once an endpoint where nothing listens: the SDK's retries would take a minute to fail.
async fn answers(endpoint: &str) -> Result<(), ConnectError> {
    let refuse = |why: String| {
        ConnectError::new(
            format!("nothing answers at the endpoint {endpoint}: {why}"),
            "AWS_ENDPOINT_URL or AWS_ENDPOINT_URL_EC2 names it: start what should answer there, or unset it to use AWS itself",
        )
    };
    let Some((scheme, rest)) = endpoint.split_once("://") else {
        return Err(refuse("it is not a URL".to_owned()));
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let has_port = authority
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = match scheme {
        _ if has_port => authority.to_owned(),
        "http" => format!("{authority}:80"),
        _ => format!("{authority}:443"),
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, tokio::net::TcpStream::connect(&address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(refuse(error.to_string())),
        Err(_) => Err(refuse(format!(
            "no connection within {} s",
            CONNECT_TIMEOUT.as_secs()
        ))),
    }
}

fn clients(region: String, ec2_endpoint: Option<String>, config: &aws_config::SdkConfig) -> Cloud {
    let ec2 = aws_sdk_ec2::Client::new(config);
    Cloud {
        region,
        ec2_endpoint,
        identity: Arc::new(identity::Sts(
            aws_sdk_sts::Client::new(config),
            config.credentials_provider(),
        )),
        images: Arc::new(images::Ec2Images(ec2.clone())),
        instances: Arc::new(instances::Ec2Instances(ec2.clone())),
        parameters: Arc::new(parameters::Ssm(aws_sdk_ssm::Client::new(config))),
        fleet: Arc::new(fleet::AutoScaling(aws_sdk_autoscaling::Client::new(config))),
        templates: Arc::new(templates::Ec2Templates(ec2)),
        targets: Arc::new(targets::Elb(aws_sdk_elasticloadbalancingv2::Client::new(
            config,
        ))),
        permissions: Arc::new(permissions::Iam(aws_sdk_iam::Client::new(config))),
        alarms: Arc::new(permissions::CloudWatch(aws_sdk_cloudwatch::Client::new(
            config,
        ))),
    }
}
