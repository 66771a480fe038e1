//! AWS settings from the environment and the file.

use std::collections::BTreeMap;

use anyhow::bail;

use super::RawS3;

/// The `AWS_*` variables at the start, and the file's `[s3]` table.
#[derive(Clone, Default)]
pub struct AwsSettings {
    variables: BTreeMap<String, String>,
    s3_endpoint: Option<String>,
    region: Option<String>,
}

// Written by hand, because the variables may contain a secret key.
impl std::fmt::Debug for AwsSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AwsSettings")
            .field("variables", &self.variables.keys())
            .field("s3_endpoint", &self.s3_endpoint)
            .field("region", &self.region)
            .finish()
    }
}

impl AwsSettings {
    /// Settings from the variables and the file's table. Refuses endpoints that are not URLs.
    pub(super) fn new(environment: &BTreeMap<String, String>, s3: RawS3) -> anyhow::Result<Self> {
        let settings = Self {
            s3_endpoint: s3.endpoint,
            region: s3.region,
            ..Self::from_variables(environment.clone())
        };
        for service in ["S3", "CLOUDWATCH", "DYNAMODB", "SNS"] {
            if let Some(endpoint) = settings.endpoint(service)
                && !["http://", "https://"]
                    .iter()
                    .any(|scheme| endpoint.starts_with(scheme))
            {
                bail!("the endpoint {endpoint:?} is not a URL\nhint: write http://host:port");
            }
        }
        Ok(settings)
    }

    /// Settings from `AWS_*` variables only.
    #[must_use]
    pub fn from_variables(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self {
            variables: variables
                .into_iter()
                .filter(|(name, value)| name.starts_with("AWS_") && !value.is_empty())
                .collect(),
            ..Self::default()
        }
    }

    /// All `AWS_*` variables that are set and not empty.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// The configured endpoint for `service` (`S3`, `CLOUDWATCH`, `DYNAMODB`, `SNS`), if it is not the
    /// region's default.
    #[must_use]
    pub fn endpoint(&self, service: &str) -> Option<&str> {
        self.variable(&format!("AWS_ENDPOINT_URL_{service}"))
            .or_else(|| self.variable("AWS_ENDPOINT_URL"))
            .or_else(|| self.s3_endpoint.as_deref().filter(|_| service == "S3"))
            .map(|endpoint| endpoint.trim_end_matches('/'))
    }

    /// The configured region; if there is none, the instance metadata has it.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.variable("AWS_REGION")
            .or_else(|| self.variable("AWS_DEFAULT_REGION"))
            .or(self.region.as_deref())
    }

    /// The endpoint of the instance metadata service; `None` if it is turned off.
    #[must_use]
    pub fn metadata_endpoint(&self) -> Option<&str> {
        if self
            .variable("AWS_EC2_METADATA_DISABLED")
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
        {
            return None;
        }
        Some(
            self.variable("AWS_EC2_METADATA_SERVICE_ENDPOINT")
                .unwrap_or("http://169.254.169.254")
                .trim_end_matches('/'),
        )
    }
}
