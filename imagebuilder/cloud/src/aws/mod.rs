//! The real cloud, by the official SDK: the only folder that names `aws_sdk_*`.
//!
//! Translates requests, answers and errors; decides nothing. Endpoints, region and credentials come from a [`Connection`] and the
//! SDK's standard places, so any AWS-compatible endpoint will do.

mod disks;
mod error;
mod fleet;
mod identity;
mod images;
mod instances;
mod keys;
mod objects;
mod parameters;
mod permissions;
mod profiles;
mod targets;
mod templates;
mod timeouts;

use std::sync::Arc;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::meta::region::ProvideRegion as _;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_ec2::config::{ProvideCredentials as _, SharedCredentialsProvider};

use self::error::with_causes;
pub use self::profiles::{profile_files, profiles};
use self::timeouts::{ATTEMPT_TIMEOUT, ATTEMPTS, CONNECT_TIMEOUT, IMDS_TIMEOUT};
use super::{Cloud, ConnectError};

/// Which account, region and endpoint. What is `None` is found in the SDK's standard places.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// The profile; over credentials in the environment.
    pub profile: Option<String>,
    /// The region; over the environment.
    pub region: Option<String>,
    /// The endpoint of every service; over the environment.
    pub endpoint_url: Option<String>,
    /// The region of a configuration; below the environment.
    pub configured_region: Option<String>,
}

/// An account and region, with credentials that were found; no service has been called yet.
#[derive(Clone, Debug)]
pub struct Account {
    /// The region's name.
    pub region: String,
    /// The endpoint of every service, over those that the environment names for one.
    endpoint_url: Option<String>,
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
        objects::bucket(
            &self.config,
            &self.region,
            self.endpoint_url.as_deref(),
            bucket,
        )
    }
}

/// Connects, refusing at once when there are no credentials or no region.
pub async fn connect(connection: &Connection) -> Result<Cloud, ConnectError> {
    let Account {
        region,
        endpoint_url,
        config,
    } = account(connection).await?;
    let option = endpoint_url.as_deref();
    let ec2_endpoint = option
        .map(ToOwned::to_owned)
        .or_else(|| std::env::var("AWS_ENDPOINT_URL_EC2").ok())
        .or_else(|| config.endpoint_url().map(ToOwned::to_owned));
    if let Some(endpoint) = &ec2_endpoint {
        let named = match option {
            Some(_) => {
                "--endpoint-url names it: start what should answer there, or leave it out to use AWS itself"
            }
            None => {
                "AWS_ENDPOINT_URL or AWS_ENDPOINT_URL_EC2 names it: start what should answer there, or unset it to use AWS itself"
            }
        };
        answers(endpoint, named).await?;
    }
    Ok(clients(region, ec2_endpoint, &config))
}

/// Finds region and credentials in the SDK's standard places, refusing at once when there are none.
pub async fn account(connection: &Connection) -> Result<Account, ConnectError> {
    let profile = connection.profile.as_deref();
    // The environment overrides the file, so that the same configuration can be used in another region.
    let region = match &connection.region {
        Some(region) => Some(Region::new(region.clone())),
        None => aws_config::environment::EnvironmentVariableRegionProvider::new()
            .region()
            .await
            .or_else(|| connection.configured_region.clone().map(Region::new)),
    };
    let region = match region {
        Some(region) => Some(region),
        None => {
            let mut provider = ProfileFileRegionProvider::builder();
            if let Some(profile) = profile {
                provider = provider.profile_name(profile);
            }
            provider.build().region().await
        }
    };
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .region(region.clone())
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                .build(),
        );
    if let Some(profile) = profile {
        loader = loader.profile_name(profile);
    }
    if let Some(url) = &connection.endpoint_url {
        loader = loader.endpoint_url(url);
    }
    let config = loader
        .credentials_provider(credentials(profile, region).await)
        .load()
        .await;
    let Some(region) = config.region().map(ToString::to_string) else {
        return Err(ConnectError::new(
            "no AWS region is set",
            "give --region, or set AWS_REGION, or `region` in [bake] of the configuration",
        ));
    };
    if let Some(provider) = config.credentials_provider()
        && let Err(error) = provider.provide_credentials().await
    {
        return Err(ConnectError {
            cause: Some(anyhow::anyhow!("{}", with_causes(&error))),
            ..no_credentials(profile)
        });
    }
    Ok(Account {
        region,
        endpoint_url: connection.endpoint_url.clone(),
        config,
    })
}

/// The SDK's chain; of a profile that was named on the command line that profile alone, as in the AWS CLI: keys in the environment would
/// otherwise win.
async fn credentials(profile: Option<&str>, region: Option<Region>) -> SharedCredentialsProvider {
    if let Some(profile) = profile {
        let provider = ProfileFileCredentialsProvider::builder()
            .configure(&ProviderConfig::without_region().with_region(region))
            .profile_name(profile)
            .build();
        return SharedCredentialsProvider::new(provider);
    }
    let imds = aws_config::imds::Client::builder()
        .max_attempts(1)
        .connect_timeout(IMDS_TIMEOUT)
        .read_timeout(IMDS_TIMEOUT)
        .build();
    let chain = DefaultCredentialsChain::builder()
        .imds_client(imds)
        .region(region);
    SharedCredentialsProvider::new(chain.build().await)
}

/// No credentials were found; with where they are looked for.
fn no_credentials(profile: Option<&str>) -> ConnectError {
    let list = "`aws configure list-profiles` shows which there are, `aws login` or `aws sso login` renews one";
    let real = match (profile, std::env::var("AWS_PROFILE")) {
        (Some(profile), _) => format!("--profile is `{profile}`: {list}"),
        (None, Ok(profile)) => format!("AWS_PROFILE is `{profile}`: {list}"),
        (None, Err(_)) => {
            "for a real account: `aws login`, or set AWS_PROFILE, or give --profile".to_owned()
        }
    };
    ConnectError::new(
        "no AWS credentials were found",
        format!("{real}\nfor the rehearsal cloud: `rehearsal exec DIR -- imagebuilder …`"),
    )
}

/// Refuses at once an endpoint where nothing listens: the SDK's retries would take a minute to fail.
async fn answers(endpoint: &str, named: &'static str) -> Result<(), ConnectError> {
    let refuse = |why: String| {
        ConnectError::new(
            format!("nothing answers at the endpoint {endpoint}: {why}"),
            named,
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
