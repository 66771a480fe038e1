//! The service's settings: flags, then environment, then the file, then defaults; validated once.
//!
//! Raw values live only in this module; past `Settings` nothing is a string that could be wrong.
//! Unknown keys are refused, with the nearest known one named: a mistyped `store` that is silently
//! ignored would put orders where nobody looks for them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;

/// Where the settings file is looked for when none is named.
pub const DEFAULT_FILE: &str = "/etc/orders/orders.toml";
const DEFAULT_LISTEN: &str = "0.0.0.0:8080";
const DEFAULT_STORE: &str = "file:///var/lib/orders";
/// What the seeds' shop sells.
const DEFAULT_FLOWERS: [&str; 3] = ["romantic_roses", "spring_tulips", "blossom_mix"];
/// Longer than any order takes, shorter than systemd's patience in the unit (`TimeoutStopSec`).
const DEFAULT_DRAIN_SECONDS: u64 = 20;
/// A quarter of the minute that CloudWatch alarms look at.
const DEFAULT_METRICS_INTERVAL_SECONDS: u64 = 15;

/// The keys of the file, of the environment (upper case, after `ORDERS_`) and of the flags.
const KEYS: [&str; 7] = [
    "listen",
    "store",
    "metrics_namespace",
    "metrics_interval_seconds",
    "flowers",
    "drain_seconds",
    "s3",
];
const S3_KEYS: [&str; 2] = ["endpoint", "region"];
/// Variables with our prefix that are not keys of the file.
const OTHER_VARIABLES: [&str; 2] = ["ORDERS_CONFIG", "ORDERS_LOG"];

/// Everything the service needs to know before it starts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where orders are kept.
    pub store: StoreAddress,
    /// Where the `OrderCount` metric goes; `None` when it is not published.
    pub metrics: Option<MetricsSettings>,
    /// The flowers on sale.
    pub flowers: Vec<String>,
    /// How long requests under way may take to finish after SIGTERM.
    pub drain: Duration,
    /// How AWS is reached.
    pub aws: AwsSettings,
    /// What looks wrong but does not stop the service; logged at the start.
    pub warnings: Vec<String>,
}

/// Where and how often the metric is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsSettings {
    /// The CloudWatch namespace.
    pub namespace: String,
    /// Time between two data points.
    pub interval: Duration,
}

/// Where orders are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAddress {
    /// A folder: `file:///path`.
    File(PathBuf),
    /// A bucket: `s3://bucket/prefix`.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// What every key starts with, without a slash at either end; may be empty.
        prefix: String,
    },
}

impl std::str::FromStr for StoreAddress {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        const HINT: &str = "hint: write file:///var/lib/orders or s3://bucket/prefix";
        if let Some(path) = text.strip_prefix("file://") {
            if !path.starts_with('/') {
                bail!("store {text:?} is not an absolute path; {HINT}");
            }
            return Ok(Self::File(PathBuf::from(path)));
        }
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c);
            if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(fits) {
                bail!("store {text:?} has no valid bucket name; {HINT}");
            }
            return Ok(Self::S3 {
                bucket: bucket.to_owned(),
                prefix: prefix.trim_matches('/').to_owned(),
            });
        }
        bail!("store {text:?} has an unknown scheme; {HINT}")
    }
}

impl std::fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(folder) => write!(f, "file://{}", folder.display()),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// The standard `AWS_*` variables as they were at the start, and what the file says about S3.
#[derive(Clone, Default)]
pub struct AwsSettings {
    variables: BTreeMap<String, String>,
    s3_endpoint: Option<String>,
    region: Option<String>,
}

// By hand, because the variables may hold a secret key.
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
    /// Settings made of `AWS_*` variables alone.
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

    /// The endpoint to use for `service` (`S3`, `CLOUDWATCH`) instead of the region's own.
    #[must_use]
    pub fn endpoint(&self, service: &str) -> Option<&str> {
        self.variable(&format!("AWS_ENDPOINT_URL_{service}"))
            .or_else(|| self.variable("AWS_ENDPOINT_URL"))
            .or_else(|| self.s3_endpoint.as_deref().filter(|_| service == "S3"))
            .map(|endpoint| endpoint.trim_end_matches('/'))
    }

    /// The region, when one is set; else the instance is asked.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.variable("AWS_REGION")
            .or_else(|| self.variable("AWS_DEFAULT_REGION"))
            .or(self.region.as_deref())
    }

    /// Where the instance metadata service is; `None` when it is switched off.
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

/// One layer of settings: every value may be absent.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSettings {
    /// See [`Settings::listen`].
    pub listen: Option<String>,
    /// See [`Settings::store`].
    pub store: Option<String>,
    /// The metric's namespace; empty switches it off.
    pub metrics_namespace: Option<String>,
    /// See [`MetricsSettings::interval`].
    pub metrics_interval_seconds: Option<u64>,
    /// See [`Settings::flowers`].
    pub flowers: Option<Vec<String>>,
    /// See [`Settings::drain`].
    pub drain_seconds: Option<u64>,
    /// How S3 is reached.
    #[serde(default)]
    pub s3: RawS3,
}

/// The `[s3]` table of the file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawS3 {
    /// An S3-speaking server other than the region's own.
    pub endpoint: Option<String>,
    /// The region, when neither environment nor instance says it.
    pub region: Option<String>,
}

impl RawSettings {
    /// Takes from `below` what is absent here.
    #[must_use]
    fn over(self, below: Self) -> Self {
        Self {
            listen: self.listen.or(below.listen),
            store: self.store.or(below.store),
            metrics_namespace: self.metrics_namespace.or(below.metrics_namespace),
            metrics_interval_seconds: self
                .metrics_interval_seconds
                .or(below.metrics_interval_seconds),
            flowers: self.flowers.or(below.flowers),
            drain_seconds: self.drain_seconds.or(below.drain_seconds),
            s3: RawS3 {
                endpoint: self.s3.endpoint.or(below.s3.endpoint),
                region: self.s3.region.or(below.s3.region),
            },
        }
    }

    /// The layer that the environment is.
    fn from_environment(environment: &BTreeMap<String, String>) -> anyhow::Result<Self> {
        let get = |name: &str| environment.get(name).filter(|v| !v.is_empty()).cloned();
        let number = |name: &str| {
            get(name)
                .map(|text| {
                    text.parse()
                        .with_context(|| format!("{name}={text} is not a number"))
                })
                .transpose()
        };
        Ok(Self {
            listen: get("ORDERS_LISTEN"),
            store: get("ORDERS_STORE"),
            // Empty means off, and wins over the file.
            metrics_namespace: environment.get("ORDERS_METRICS_NAMESPACE").cloned(),
            metrics_interval_seconds: number("ORDERS_METRICS_INTERVAL_SECONDS")?,
            flowers: get("ORDERS_FLOWERS").map(|list| {
                list.split(',')
                    .map(|flower| flower.trim().to_owned())
                    .collect()
            }),
            drain_seconds: number("ORDERS_DRAIN_SECONDS")?,
            s3: RawS3::default(),
        })
    }

    /// The layer that the text of a settings file is.
    fn from_toml(text: &str, place: &Path) -> anyhow::Result<Self> {
        let table: toml::Table =
            toml::from_str(text).with_context(|| format!("read {}", place.display()))?;
        let nested = table.get("s3").and_then(toml::Value::as_table);
        for (within, key, known) in table.keys().map(|key| ("", key, &KEYS[..])).chain(
            nested
                .into_iter()
                .flat_map(|s3| s3.keys())
                .map(|key| ("s3.", key, &S3_KEYS[..])),
        ) {
            if !known.contains(&key.as_str()) {
                bail!(
                    "{}: unknown key `{within}{key}`; {}",
                    place.display(),
                    nearest(key, known)
                );
            }
        }
        toml::from_str(text).with_context(|| format!("read {}", place.display()))
    }
}

/// Names the key that was probably meant, or all of them.
fn nearest(key: &str, known: &[&str]) -> String {
    known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(key, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 3)
        .map_or_else(
            || format!("hint: the keys are {}", known.join(", ")),
            |(_, candidate)| format!("hint: did you mean `{candidate}`?"),
        )
}

impl Settings {
    /// Settings from `flags`, the `environment`, the file (`named` by a flag, or by
    /// `ORDERS_CONFIG`, or the default one when it is there) and the defaults, in this order.
    ///
    /// # Errors
    /// What is wrong, where, and what would be right.
    pub fn load(
        flags: RawSettings,
        named: Option<PathBuf>,
        environment: &BTreeMap<String, String>,
    ) -> anyhow::Result<Self> {
        let named = named.or_else(|| {
            let path = environment
                .get("ORDERS_CONFIG")
                .filter(|path| !path.is_empty());
            path.map(PathBuf::from)
        });
        let (path, must_be_there) =
            named.map_or_else(|| (PathBuf::from(DEFAULT_FILE), false), |path| (path, true));
        let file = match std::fs::read_to_string(&path) {
            Ok(text) => RawSettings::from_toml(&text, &path)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_be_there => {
                RawSettings::default()
            }
            Err(error) => {
                return Err(error).with_context(|| format!("read settings {}", path.display()));
            }
        };
        Self::validate(
            flags
                .over(RawSettings::from_environment(environment)?)
                .over(file),
            environment,
        )
    }

    fn validate(raw: RawSettings, environment: &BTreeMap<String, String>) -> anyhow::Result<Self> {
        let listen = raw.listen.as_deref().unwrap_or(DEFAULT_LISTEN);
        let listen = listen.parse().map_err(|_| {
            anyhow::anyhow!("listen {listen:?} is not an address; hint: write {DEFAULT_LISTEN}")
        })?;
        let store = raw.store.as_deref().unwrap_or(DEFAULT_STORE).parse()?;
        let flowers = raw
            .flowers
            .unwrap_or_else(|| DEFAULT_FLOWERS.map(str::to_owned).to_vec());
        if flowers.is_empty() {
            bail!(
                "flowers is empty; hint: leave it out to sell {}",
                DEFAULT_FLOWERS.join(", ")
            );
        }
        for flower in &flowers {
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            if flower.is_empty() || flower.len() > 64 || !flower.chars().all(fits) {
                bail!("flowers has {flower:?}; hint: use letters, digits, _ and -, at most 64");
            }
        }
        let interval = raw
            .metrics_interval_seconds
            .unwrap_or(DEFAULT_METRICS_INTERVAL_SECONDS);
        if !(1..=60).contains(&interval) {
            bail!("metrics_interval_seconds is {interval}; hint: choose 1 to 60");
        }
        let metrics = raw
            .metrics_namespace
            .filter(|namespace| !namespace.is_empty())
            .map(|namespace| {
                let fits = |c: char| c.is_ascii_alphanumeric() || "._-/#:".contains(c);
                if namespace.len() > 255
                    || !namespace.chars().all(fits)
                    || namespace.starts_with("AWS/")
                {
                    bail!(
                        "metrics_namespace {namespace:?} is not one CloudWatch takes; \
                         hint: letters, digits and ._-/#: , not starting with AWS/"
                    );
                }
                Ok(MetricsSettings {
                    namespace,
                    interval: Duration::from_secs(interval),
                })
            })
            .transpose()?;
        let drain = raw.drain_seconds.unwrap_or(DEFAULT_DRAIN_SECONDS);
        if drain > 300 {
            bail!("drain_seconds is {drain}; hint: choose at most 300");
        }
        let aws = AwsSettings {
            s3_endpoint: raw.s3.endpoint,
            region: raw.s3.region,
            ..AwsSettings::from_variables(environment.clone())
        };
        for service in ["S3", "CLOUDWATCH"] {
            if let Some(endpoint) = aws.endpoint(service)
                && !["http://", "https://"]
                    .iter()
                    .any(|scheme| endpoint.starts_with(scheme))
            {
                bail!("the endpoint {endpoint:?} is not a URL; hint: write http://host:port");
            }
        }
        Ok(Self {
            listen,
            store,
            metrics,
            flowers,
            drain: Duration::from_secs(drain),
            aws,
            warnings: unknown_variables(environment),
        })
    }
}

/// Variables with our prefix that we do not know: not refused, since the environment is not ours
/// alone, but said.
fn unknown_variables(environment: &BTreeMap<String, String>) -> Vec<String> {
    let known: Vec<String> = KEYS
        .iter()
        .filter(|key| **key != "s3")
        .map(|key| format!("ORDERS_{}", key.to_uppercase()))
        .chain(OTHER_VARIABLES.map(str::to_owned))
        .collect();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    environment
        .keys()
        .filter(|name| name.starts_with("ORDERS_") && !known.contains(&name.as_str()))
        .map(|name| format!("unknown variable {name}; {}", nearest(name, &known)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn load(flags: RawSettings, env: &[(&str, &str)], file: &str) -> anyhow::Result<Settings> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.toml");
        std::fs::write(&path, file).unwrap();
        Settings::load(flags, Some(path), &environment(env))
    }

    #[test]
    fn flags_win_over_environment_over_file_over_defaults() {
        let file = "listen = '1.1.1.1:1'\nstore = 's3://bucket/a/'\nmetrics_namespace = 'F'\n\
                    flowers = ['rose']\ndrain_seconds = 3\n[s3]\nregion = 'eu-north-1'\n\
                    endpoint = 'http://file:1/'";
        let env = [
            ("ORDERS_LISTEN", "2.2.2.2:2"),
            ("ORDERS_METRICS_NAMESPACE", ""),
        ];
        let flags = RawSettings {
            listen: Some("3.3.3.3:3".into()),
            ..RawSettings::default()
        };
        let settings = load(flags, &env, file).unwrap();
        assert_eq!(settings.listen.to_string(), "3.3.3.3:3");
        assert_eq!(settings.store.to_string(), "s3://bucket/a");
        assert_eq!(settings.metrics, None, "switched off by an empty variable");
        assert_eq!(settings.flowers, ["rose"]);
        assert_eq!(settings.drain.as_secs(), 3);
        assert_eq!(settings.aws.region(), Some("eu-north-1"));
        assert_eq!(settings.aws.endpoint("S3"), Some("http://file:1"));
        assert_eq!(settings.aws.endpoint("CLOUDWATCH"), None);

        let settings = load(RawSettings::default(), &env, file).unwrap();
        assert_eq!(settings.listen.to_string(), "2.2.2.2:2");

        let settings = load(RawSettings::default(), &[], "").unwrap();
        assert_eq!(settings.listen.to_string(), "0.0.0.0:8080");
        assert_eq!(settings.store.to_string(), "file:///var/lib/orders");
        assert_eq!(settings.flowers, DEFAULT_FLOWERS);
        assert_eq!(settings.metrics, None);
    }

    #[test]
    fn standard_variables_say_where_aws_is() {
        let aws = |pairs: &[(&str, &str)]| AwsSettings::from_variables(environment(pairs));
        let both = aws(&[
            ("AWS_ENDPOINT_URL", "http://a/"),
            ("AWS_ENDPOINT_URL_S3", "http://b"),
        ]);
        assert_eq!(both.endpoint("S3"), Some("http://b"));
        assert_eq!(both.endpoint("CLOUDWATCH"), Some("http://a"));
        assert_eq!(both.metadata_endpoint(), Some("http://169.254.169.254"));
        let imds = [(
            "AWS_EC2_METADATA_SERVICE_ENDPOINT",
            "http://127.0.0.1:1338/",
        )];
        assert_eq!(
            aws(&imds).metadata_endpoint(),
            Some("http://127.0.0.1:1338")
        );
        assert_eq!(
            aws(&[("AWS_EC2_METADATA_DISABLED", "TRUE")]).metadata_endpoint(),
            None
        );
        let secret = aws(&[("AWS_SECRET_ACCESS_KEY", "hush")]);
        assert!(!format!("{secret:?}").contains("hush"));
    }

    #[test]
    fn refuses_with_the_cure() {
        type Row = (
            &'static [(&'static str, &'static str)],
            &'static str,
            &'static str,
        );
        let table: [Row; 13] = [
            (
                &[],
                "stroe = 'x'",
                "unknown key `stroe`; hint: did you mean `store`?",
            ),
            (&[], "zzz = 1", "hint: the keys are listen, store,"),
            (
                &[],
                "[s3]\nregoin = 'x'",
                "unknown key `s3.regoin`; hint: did you mean `region`?",
            ),
            (
                &[],
                "drain_seconds = 'x'",
                "invalid type: string \"x\", expected u64",
            ),
            (&[], "= 1", "orders.toml"),
            (
                &[("ORDERS_STORE", "ftp://x")],
                "",
                "has an unknown scheme; hint: write file:///",
            ),
            (
                &[("ORDERS_STORE", "file://x")],
                "",
                "is not an absolute path",
            ),
            (
                &[("ORDERS_STORE", "s3:///x")],
                "",
                "has no valid bucket name",
            ),
            (
                &[("ORDERS_LISTEN", "8080")],
                "",
                "is not an address; hint: write 0.0.0.0:8080",
            ),
            (
                &[("ORDERS_DRAIN_SECONDS", "ten")],
                "",
                "ORDERS_DRAIN_SECONDS=ten is not a number",
            ),
            (&[("ORDERS_FLOWERS", "a,<b>")], "", "flowers has \"<b>\""),
            (
                &[("ORDERS_METRICS_NAMESPACE", "AWS/EC2")],
                "",
                "not starting with AWS/",
            ),
            (
                &[("AWS_ENDPOINT_URL", "localhost:4800")],
                "",
                "is not a URL",
            ),
        ];
        for (env, file, expected) in table {
            let error = format!("{:#}", load(RawSettings::default(), env, file).unwrap_err());
            assert!(
                error.contains(expected),
                "{error}\n  does not say: {expected}"
            );
        }
    }

    #[test]
    fn a_named_file_must_be_there_and_an_unknown_variable_is_said() {
        let missing = Settings::load(
            RawSettings::default(),
            Some("/nonexistent/orders.toml".into()),
            &BTreeMap::new(),
        );
        let error = format!("{:#}", missing.unwrap_err());
        assert!(
            error.contains("read settings /nonexistent/orders.toml"),
            "{error}"
        );
        let settings = load(RawSettings::default(), &[("ORDERS_STROE", "x")], "").unwrap();
        assert_eq!(
            settings.warnings,
            ["unknown variable ORDERS_STROE; hint: did you mean `ORDERS_STORE`?"]
        );
    }
}
