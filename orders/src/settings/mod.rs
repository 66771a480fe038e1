//! The service's settings: flags, then environment, then the file, then defaults; validated once.
//!
//! Unvalidated values exist only in `raw.rs`. Unknown keys are refused with a suggestion: a mistyped `store`
//! that is silently ignored would put orders in the wrong place.

mod address;
mod aws;
mod home;
mod raw;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};

pub use address::{CandidatesAddress, Engine, FILE_STORE, SqlAddress, StoreAddress};
pub use aws::AwsSettings;
pub use raw::{RawS3, RawSettings};

use crate::listen;

/// The settings file if none is named.
pub const DEFAULT_FILE: &str = "/etc/orders/orders.toml";
const DEFAULT_STORE: &str = "file:///var/lib/orders";
/// The flowers of the seeds' shop.
const DEFAULT_FLOWERS: [&str; 3] = ["romantic_roses", "spring_tulips", "blossom_mix"];
/// Longer than any order takes. Together with the lame-duck time and the steps after it, shorter than the
/// unit's `TimeoutStopSec`.
const DEFAULT_DRAIN_SECONDS: u64 = 20;
/// Long enough for a balancer that polls every 5 s, and for one more response to clients that keep
/// connections. A restart takes this much longer, while the service keeps serving.
const DEFAULT_LAME_DUCK_SECONDS: u64 = 5;
/// A quarter of the minute that CloudWatch alarms evaluate.
const DEFAULT_METRICS_INTERVAL_SECONDS: u64 = 15;
/// Enough to hide a database's latency; ten instances stay below PostgreSQL's default of 100.
const DEFAULT_CONNECTIONS: u32 = 8;
/// Shorter tokens can be guessed.
const TOKEN_LENGTH: usize = 16;

/// The service's validated settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address to listen on; `None` means systemd's socket or the default.
    pub listen: Option<SocketAddr>,
    /// Where orders are stored.
    pub store: StoreAddress,
    /// How to connect to a SQL store.
    pub sql: SqlSettings,
    /// Where the `OrderCount` metric is published; `None` if it is not.
    pub metrics: Option<MetricsSettings>,
    /// The flowers on sale.
    pub flowers: Vec<String>,
    /// What to do with unknown fields of an order.
    pub unknown_fields: UnknownFields,
    /// How long to keep serving after SIGTERM while reporting not ready.
    pub lame_duck: Duration,
    /// Time limit for requests in progress after that.
    pub drain: Duration,
    /// Token for reading the list of all orders; without one it is refused.
    pub operator_token: Option<Secret>,
    /// Address of the operator's listener: metrics and details without a token.
    pub operator_listen: Option<SocketAddr>,
    /// The URL by which customers reach the shop, if configured.
    pub public_url: Option<PublicUrl>,
    /// Where candidates are stored; `None` if the module is off.
    pub candidates: Option<CandidatesAddress>,
    /// Whether accounts are on.
    pub accounts: bool,
    /// How many of our own proxies a request passes, each of which appends to `X-Forwarded-For`.
    pub forwarded_hops: usize,
    /// The ARN of the SNS topic for notices; `None` if none are sent.
    pub notices_topic: Option<String>,
    /// How to connect to AWS.
    pub aws: AwsSettings,
    /// Suspicious settings, logged at the start.
    pub warnings: Vec<String>,
}

/// How to connect to a SQL store.
#[derive(Debug, Clone)]
pub struct SqlSettings {
    /// The user's password.
    pub password: Option<Secret>,
    /// Most connections at once.
    pub connections: u32,
    /// How TLS is used.
    pub tls: Tls,
    /// Certificates (PEM) to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
}

/// How TLS is used with a SQL server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// Not at all.
    Off,
    /// Always; the server's certificate and name must be valid.
    Verify,
}

/// What to do with unknown fields of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownFields {
    /// Store them with the order, within limits.
    Keep,
    /// Refuse the order.
    Refuse,
}

/// The URL by which customers reach the shop, such as `https://shop.example.org`, without a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    /// The origin as browsers send it in `Origin`.
    pub origin: String,
    /// Whether it uses TLS.
    pub secure: bool,
}

impl PublicUrl {
    fn parse(text: String) -> anyhow::Result<Self> {
        let wrong = || {
            anyhow::anyhow!(
                "public_url {text:?} is not a valid base URL\nhint: write https://shop.example.org, without a path"
            )
        };
        let url: reqwest::Url = text.parse().map_err(|_| wrong())?;
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let named = url.has_host() && url.username().is_empty() && url.password().is_none();
        if !bare || !named || !matches!(url.scheme(), "http" | "https") {
            return Err(wrong());
        }
        Ok(Self {
            origin: url.origin().ascii_serialization(),
            secure: url.scheme() == "https",
        })
    }
}

/// A secret text, hidden from `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Reads the first line of the file at `path`, the value of `key`.
    ///
    /// # Errors
    /// If the file cannot be read, or its first line is empty.
    pub fn read(key: &str, path: &str) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {key} {path}"))?;
        let line = text.lines().next().unwrap_or_default();
        if line.is_empty() {
            bail!("{key} {path} is empty\nhint: write the secret into its first line");
        }
        Ok(Self(line.to_owned()))
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where and how often the metric is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsSettings {
    /// The CloudWatch namespace.
    pub namespace: String,
    /// Time between two data points.
    pub interval: Duration,
}

/// The process's variables. Those that are not UTF-8 cannot be ours.
#[must_use]
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

impl Settings {
    /// Loads settings from `flags`, the `environment`, the file (`named` by a flag, else by `ORDERS_CONFIG`,
    /// else the default one if it exists) and the defaults, in this order.
    ///
    /// # Errors
    /// What is wrong, where, and what would be valid.
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
        let raw = flags.over(&RawSettings::from_environment(environment)?.over(&file)?)?;
        Self::validate(raw, environment)
    }

    fn validate(raw: RawSettings, environment: &BTreeMap<String, String>) -> anyhow::Result<Self> {
        let (listen, operator_listen) = listeners(raw.listen, raw.operator_listen)?;
        let store = match raw.store.as_deref() {
            Some(store) => store.parse()?,
            None => StoreAddress::File(home::folder(environment)),
        };
        Ok(Self {
            listen,
            operator_listen,
            metrics: metrics(raw.metrics_namespace, raw.metrics_interval_seconds)?,
            drain: stop_time("drain_seconds", raw.drain_seconds, DEFAULT_DRAIN_SECONDS)?,
            lame_duck: stop_time(
                "lame_duck_seconds",
                raw.lame_duck_seconds,
                DEFAULT_LAME_DUCK_SECONDS,
            )?,
            operator_token: operator_token(raw.operator_token_file)?,
            candidates: candidates(raw.candidates, &store)?,
            accounts: accounts(raw.accounts, &store)?,
            store,
            forwarded_hops: forwarded_hops(raw.forwarded_hops)?,
            notices_topic: notices_topic(raw.notices_topic)?,
            aws: AwsSettings::new(environment, raw.s3)?,
            sql: SqlSettings {
                password: secret("store_password_file", raw.store_password_file)?,
                connections: connections(raw.store_connections)?,
                tls: tls(raw.store_tls.as_deref())?,
                ca_file: raw.store_ca_file.map(PathBuf::from),
            },
            flowers: flowers(raw.flowers)?,
            unknown_fields: unknown_fields(raw.unknown_fields.as_deref())?,
            public_url: given(raw.public_url).map(PublicUrl::parse).transpose()?,
            warnings: raw::unknown_variables(environment),
        })
    }
}

/// The addresses for customers and for the operator.
fn listeners(
    listen: Option<String>,
    operator_listen: Option<String>,
) -> anyhow::Result<(Option<SocketAddr>, Option<SocketAddr>)> {
    let listen = address("listen", listen, listen::DEFAULT)?;
    let operator_listen = address("operator_listen", operator_listen, "127.0.0.1:9151")?;
    if operator_listen.is_some_and(|own| own.port() != 0 && listen == Some(own)) {
        bail!("operator_listen is the same as `listen`\nhint: choose another port");
    }
    Ok((listen, operator_listen))
}

fn address(key: &str, raw: Option<String>, like: &str) -> anyhow::Result<Option<SocketAddr>> {
    given(raw)
        .map(|address| {
            address.parse().map_err(|_| {
                anyhow::anyhow!("{key} {address:?} is not an address\nhint: write {like}")
            })
        })
        .transpose()
}

/// A part of the time that a stop takes.
fn stop_time(key: &str, raw: Option<u64>, default: u64) -> anyhow::Result<Duration> {
    let seconds = raw.unwrap_or(default);
    if seconds > 300 {
        bail!("{key} is {seconds}\nhint: choose at most 300");
    }
    Ok(Duration::from_secs(seconds))
}

/// The secret in the file that `key` names, if it names one.
fn secret(key: &str, path: Option<String>) -> anyhow::Result<Option<Secret>> {
    path.map(|path| Secret::read(key, &path)).transpose()
}

fn operator_token(path: Option<String>) -> anyhow::Result<Option<Secret>> {
    let token = secret("operator_token_file", path)?;
    if let Some(token) = &token
        && token.reveal().len() < TOKEN_LENGTH
    {
        bail!(
            "the token in operator_token_file is shorter than {TOKEN_LENGTH} characters\n\
             hint: head -c 24 /dev/urandom | base64"
        );
    }
    Ok(token)
}

fn candidates(
    raw: Option<String>,
    store: &StoreAddress,
) -> anyhow::Result<Option<CandidatesAddress>> {
    let candidates = given(raw).map(|text| text.parse()).transpose()?;
    if candidates == Some(CandidatesAddress::Embedded) && !matches!(store, StoreAddress::File(_)) {
        bail!(
            "candidates are configured for the embedded store, but orders are stored in {store}\n\
             hint: write candidates = \"dynamodb://Candidates\", or store = \"{DEFAULT_STORE}\""
        );
    }
    Ok(candidates)
}

fn accounts(raw: Option<bool>, store: &StoreAddress) -> anyhow::Result<bool> {
    let accounts = raw.unwrap_or(false);
    if accounts && !matches!(store, StoreAddress::Sql(_)) {
        bail!(
            "accounts need a SQL store, but orders are stored in {store}\n\
             hint: write store = \"sqlite:///var/lib/orders/orders.db\""
        );
    }
    Ok(accounts)
}

fn forwarded_hops(raw: Option<u8>) -> anyhow::Result<usize> {
    let hops = raw.unwrap_or(0);
    if hops > 10 {
        bail!("forwarded_hops is {hops}\nhint: choose the number of your own proxies, 0 to 10");
    }
    Ok(hops.into())
}

fn notices_topic(raw: Option<String>) -> anyhow::Result<Option<String>> {
    let topic = given(raw);
    if let Some(topic) = &topic
        && !is_topic(topic)
    {
        bail!(
            "notices_topic {topic:?} is not the ARN of a topic\n\
             hint: write arn:aws:sns:eu-north-1:123456789012:order-notices"
        );
    }
    Ok(topic)
}

/// Treats an empty text as absent.
fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn flowers(raw: Option<Vec<String>>) -> anyhow::Result<Vec<String>> {
    let flowers = raw.unwrap_or_else(|| DEFAULT_FLOWERS.map(str::to_owned).to_vec());
    if flowers.is_empty() {
        bail!(
            "flowers is empty\nhint: leave it out to sell {}",
            DEFAULT_FLOWERS.join(", ")
        );
    }
    for (index, flower) in flowers.iter().enumerate() {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if flower.is_empty() || flower.len() > 64 || !flower.chars().all(fits) {
            bail!("flowers contains {flower:?}\nhint: use letters, digits, _ and -, at most 64");
        }
        if flowers[..index].contains(flower) {
            bail!("flowers contains {flower:?} twice\nhint: name each once");
        }
    }
    Ok(flowers)
}

fn metrics(
    namespace: Option<String>,
    interval: Option<u64>,
) -> anyhow::Result<Option<MetricsSettings>> {
    let interval = interval.unwrap_or(DEFAULT_METRICS_INTERVAL_SECONDS);
    if !(1..=60).contains(&interval) {
        bail!("metrics_interval_seconds is {interval}\nhint: choose 1 to 60");
    }
    let Some(namespace) = given(namespace) else {
        return Ok(None);
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-/#:".contains(c);
    if namespace.len() > 255 || !namespace.chars().all(fits) || namespace.starts_with("AWS/") {
        bail!(
            "metrics_namespace {namespace:?} is not a valid CloudWatch namespace\n\
             hint: use letters, digits and ._-/#: , not starting with AWS/"
        );
    }
    Ok(Some(MetricsSettings {
        namespace,
        interval: Duration::from_secs(interval),
    }))
}

fn connections(raw: Option<u32>) -> anyhow::Result<u32> {
    let connections = raw.unwrap_or(DEFAULT_CONNECTIONS);
    if !(1..=100).contains(&connections) {
        bail!("store_connections is {connections}\nhint: choose 1 to 100");
    }
    Ok(connections)
}

fn tls(raw: Option<&str>) -> anyhow::Result<Tls> {
    match raw {
        None | Some("verify") => Ok(Tls::Verify),
        Some("off") => Ok(Tls::Off),
        Some(other) => bail!("store_tls {other:?} is unknown\nhint: write verify or off"),
    }
}

fn unknown_fields(raw: Option<&str>) -> anyhow::Result<UnknownFields> {
    match raw {
        None | Some("keep") => Ok(UnknownFields::Keep),
        Some("refuse") => Ok(UnknownFields::Refuse),
        Some(other) => bail!("unknown_fields {other:?} is unknown\nhint: write keep or refuse"),
    }
}

/// Whether `text` is the ARN of a standard topic; a FIFO topic would require a message group.
fn is_topic(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    matches!(&parts[..], ["arn", partition, "sns", region, account, name]
        if partition.starts_with("aws") && !region.is_empty() && !account.is_empty()
            && !name.is_empty() && !name.ends_with(".fifo"))
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
        assert_eq!(settings.listen.unwrap().to_string(), "3.3.3.3:3");
        assert_eq!(settings.store.to_string(), "s3://bucket/a");
        assert_eq!(settings.metrics, None, "switched off by an empty variable");
        assert_eq!(settings.flowers, ["rose"]);
        assert_eq!(settings.drain.as_secs(), 3);
        assert_eq!(settings.aws.region(), Some("eu-north-1"));
        assert_eq!(settings.aws.endpoint("S3"), Some("http://file:1"));
        assert_eq!(settings.aws.endpoint("CLOUDWATCH"), None);

        let settings = load(RawSettings::default(), &env, file).unwrap();
        assert_eq!(settings.listen.unwrap().to_string(), "2.2.2.2:2");

        let settings = load(RawSettings::default(), &[], "").unwrap();
        assert_eq!(settings.listen, None);
        assert_eq!(settings.store.to_string(), "file:///var/lib/orders");
        assert_eq!(settings.flowers, DEFAULT_FLOWERS);
        assert_eq!(settings.metrics, None);
    }

    #[test]
    fn standard_variables_configure_aws() {
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
    fn invalid_settings_are_refused_with_a_hint() {
        type Row = (
            &'static [(&'static str, &'static str)],
            &'static str,
            &'static str,
        );
        let table: [Row; 27] = [
            (
                &[],
                "stroe = 'x'",
                "unknown key `stroe`\nhint: did you mean `store`?",
            ),
            (&[], "zzz = 1", "hint: use one of listen, store,"),
            (
                &[],
                "[s3]\nregoin = 'x'",
                "unknown key `s3.regoin`\nhint: did you mean `region`?",
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
                "has an unknown scheme\nhint: write file:///",
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
                "is not an address\nhint: write 0.0.0.0:8080",
            ),
            (
                &[("ORDERS_DRAIN_SECONDS", "ten")],
                "",
                "ORDERS_DRAIN_SECONDS=ten is not a number",
            ),
            (
                &[("ORDERS_FLOWERS", "a,<b>")],
                "",
                "flowers contains \"<b>\"",
            ),
            (
                &[("ORDERS_FLOWERS", "a,b,a")],
                "",
                "flowers contains \"a\" twice",
            ),
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
            (
                &[("ORDERS_STORE", "postgres://shop:hush@db/shop")],
                "",
                "contains a password, which others can read in the list of processes\nhint: leave it out",
            ),
            (
                &[("ORDERS_STORE", "postgres://shop@db/shop?password=hush")],
                "",
                "contains a password",
            ),
            (
                &[("ORDERS_STORE", "sqlite:orders.db")],
                "",
                "has no scheme\nhint: write file:///",
            ),
            (
                &[("ORDERS_STORE", "dynamodb://x")],
                "",
                "has no valid table name",
            ),
            (
                &[("ORDERS_ACCOUNTS", "yes")],
                "",
                "ORDERS_ACCOUNTS=yes is neither true nor false",
            ),
            (&[], "accounts = true", "accounts need a SQL store"),
            (
                &[],
                "candidates = 'embedded'\nstore = 's3://bucket'",
                "are configured for the embedded store",
            ),
            (
                &[],
                "candidates = 'table'",
                "hint: write embedded or dynamodb://Candidates",
            ),
            (&[], "unknown_fields = 'drop'", "hint: write keep or refuse"),
            (&[], "store_tls = 'on'", "hint: write verify or off"),
            (&[], "store_connections = 0", "hint: choose 1 to 100"),
            (
                &[],
                "operator_token_file = '/nonexistent'",
                "read operator_token_file /nonexistent",
            ),
            (&[], "notices_topic = 'orders'", "is not the ARN of a topic"),
        ];
        for (env, file, expected) in table {
            let Err(error) = load(RawSettings::default(), env, file) else {
                panic!("accepted: {env:?} {file:?}");
            };
            let error = format!("{error:#}");
            assert!(!error.contains("hush"), "{env:?}: {error}");
            assert!(
                error.contains(expected),
                "{error}\n  does not contain: {expected}"
            );
        }
    }

    #[test]
    fn a_named_file_must_exist_and_unknown_variables_warn() {
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
