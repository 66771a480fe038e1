//! The agent's settings, in three steps: *fragments* (raw TOML of one source, everything optional, unknown keys
//! refused) → *inputs* (merged in order, later ones override) → *settings* (defaults filled in, validated, parsed
//! into types; the only form that other modules use).
//!
//! This module must not use the network: user data is passed in as text. It must not repeat values of user data in an
//! error either, since they may be secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_update::proxy::ProxySettings;
use agent_update::subscription::Subscription;
use anyhow::{Context, Result};
use contract::checks::CheckTable;
use hyper::Uri;
use serde::Deserialize;

use self::identity::IdentityFragment;
use self::proxy::ProxyFragment;
use self::refusal::{number, refused, seconds};
use self::update::UpdateFragment;
use crate::notice::NoticeTerms;

mod drain;
mod metrics;
mod refusal;

pub(crate) use drain::{Drain, DrainCheck, DrainCheckKind, OnFailure};
pub(crate) use metrics::Metrics;
pub(crate) use refusal::Refused;

/// The first line of user data that is a fragment of the agent's settings.
pub(crate) const USER_DATA_MARK: &str = "#imagebuilder-agent";

/// Declares a fragment table: every key optional, unknown keys refused, and `over` to merge.
macro_rules! fragment {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(in crate::settings) struct $name { $($field: Option<$type>),* }

        impl $name {
            /// This table with every key that `later` names taken from `later`.
            pub(in crate::settings) fn over(self, later: Self) -> Self {
                Self { $($field: later.$field.or(self.$field)),* }
            }
        }
    };
}

fragment!(GateFragment {
    passes: u32,
    interval_seconds: u64,
    deadline_seconds: u64,
});
fragment!(ServingFragment {
    passes: u32,
    failures: u32,
    window: u32,
    window_failure_percent: u32,
    interval_seconds: u64,
    restart: bool,
    fleet_guard_percent: u32,
    target_groups: Vec<String>,
    replace: bool,
    replace_after_seconds: u64,
});
fragment!(NoticesFragment {
    drain_on_rebalance: bool,
    drain_before_seconds: u64,
});
fragment!(MetricsFragment {
    listen: String,
    cloudwatch_namespace: String,
});
fragment!(HooksFragment {
    launch: String,
    terminate: String
});

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceFragment {
    unit: Option<String>,
    health_url: Option<String>,
    version_url: Option<String>,
    after: Option<Vec<String>>,
    #[serde(default)]
    checks: BTreeMap<String, CheckTable>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fragment {
    image: Option<String>,
    #[serde(default)]
    identity: IdentityFragment,
    #[serde(default)]
    gate: GateFragment,
    #[serde(default)]
    serving: ServingFragment,
    #[serde(default)]
    drain: contract::drain::Drain,
    #[serde(default)]
    notices: NoticesFragment,
    #[serde(default)]
    hooks: HooksFragment,
    update: Option<UpdateFragment>,
    #[serde(default)]
    proxy: ProxyFragment,
    #[serde(default)]
    metrics: MetricsFragment,
    #[serde(default)]
    services: BTreeMap<String, ServiceFragment>,
}

impl Fragment {
    fn over(mut self, later: Self) -> Self {
        for (name, service) in later.services {
            let kept = self.services.entry(name).or_default();
            kept.unit = service.unit.or(kept.unit.take());
            kept.health_url = service.health_url.or(kept.health_url.take());
            kept.version_url = service.version_url.or(kept.version_url.take());
            kept.after = service.after.or(kept.after.take());
            for (name, check) in service.checks {
                let earlier = kept.checks.remove(&name).unwrap_or_default();
                kept.checks.insert(name, earlier.over(check));
            }
            kept.environment.extend(service.environment);
        }
        Self {
            image: later.image.or(self.image),
            identity: self.identity.over(later.identity),
            gate: self.gate.over(later.gate),
            serving: self.serving.over(later.serving),
            drain: self.drain.over(later.drain),
            notices: self.notices.over(later.notices),
            hooks: self.hooks.over(later.hooks),
            update: match (self.update, later.update) {
                (Some(kept), Some(later)) => Some(kept.over(later)),
                (kept, later) => later.or(kept),
            },
            proxy: self.proxy.over(later.proxy),
            metrics: self.metrics.over(later.metrics),
            services: self.services,
        }
    }
}

/// Where a fragment came from, as errors name it.
#[derive(Clone, Copy, Debug)]
enum Source<'a> {
    File(&'a Path),
    UserData,
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::UserData => f.write_str("user data"),
        }
    }
}

fn parse(source: Source<'_>, text: &str) -> Result<Fragment> {
    toml::from_str(text).or_else(|error| refused(explain(source, text, &error)))
}

/// Turns a TOML error into place, error and hint. Only keys and expected types of the parser's message are kept: the
/// rest may quote a value.
fn explain(source: Source<'_>, text: &str, error: &toml::de::Error) -> String {
    let (line, column) = error.span().map_or((1, 1), |span| place(text, span.start));
    let message = error.message();
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if let (true, Some((unknown, known))) =
        (message.starts_with("unknown field"), quoted.split_first())
    {
        let hint = support::nearest(unknown, known.iter().copied()).map_or_else(
            || format!("known keys: {}", known.join(", ")),
            |key| format!("did you mean `{key}`?"),
        );
        return format!("{source}:{line}:{column}: unknown key `{unknown}`\nhint: {hint}");
    }
    match message.rsplit_once(", expected ") {
        Some((_, expected)) => format!("{source}:{line}:{column}: expected {expected}"),
        None if matches!(source, Source::UserData) => {
            format!("{source}:{line}:{column}: this is not valid TOML")
        }
        None => format!("{source}:{line}:{column}: {message}"),
    }
}

fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .map_or(0, |rest| rest.chars().count())
        + 1;
    (line, column)
}

/// The files of the image's settings.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    /// The image's settings file.
    pub(crate) file: PathBuf,
    /// The directory of drop-ins, read in the order of their names; may be absent.
    pub(crate) drop_ins: PathBuf,
}

impl Sources {
    /// Reads and merges every source and validates the result.
    ///
    /// User data that does not begin with [`USER_DATA_MARK`] is for other programs and is ignored.
    pub(crate) fn load(&self, user_data: Option<&str>) -> Result<Settings> {
        let mut inputs = self.image_inputs()?;
        if let Some(text) = user_data.filter(|text| is_ours(text)) {
            let fragment = parse(Source::UserData, text)?;
            identity::refuse_in_user_data(&fragment)?;
            inputs = inputs.over(fragment);
        }
        Settings::validate(inputs)
    }

    /// The image's name from the image's own files: enough to write a registry record that the settings were refused.
    pub(crate) fn image_name(&self) -> Option<ImageName> {
        let inputs = self.image_inputs().ok()?;
        ImageName::parse(&inputs.image?).ok()
    }

    /// The proxies of the image's own files: enough to report that the rest was refused.
    pub(crate) fn image_proxy(&self) -> ProxySettings {
        let inputs = self.image_inputs().ok();
        let valid = inputs.and_then(|inputs| inputs.proxy.validate().ok());
        valid.unwrap_or_default()
    }

    /// The units that the image's own files list as services, regardless of user data.
    pub(crate) fn image_units(&self) -> Result<BTreeSet<String>> {
        let services = self.image_inputs()?.services.into_iter();
        let units = services.map(|(name, service)| {
            let unit = service.unit;
            unit.unwrap_or_else(|| format!("{name}.service"))
        });
        Ok(units.collect())
    }

    fn image_inputs(&self) -> Result<Fragment> {
        let text = match fs::read_to_string(&self.file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return refused(format!(
                    "{}: no such file\nhint: pass the settings file with --settings",
                    self.file.display()
                ));
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", self.file.display()));
            }
        };
        let mut inputs = parse(Source::File(&self.file), &text)?;
        proxy::warn_if_exposed(&self.file, &inputs.proxy);
        for path in self.drop_in_files()? {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let fragment = parse(Source::File(&path), &text)?;
            proxy::warn_if_exposed(&path, &fragment.proxy);
            inputs = inputs.over(fragment);
        }
        Ok(inputs)
    }

    fn drop_in_files(&self) -> Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.drop_ins) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot list {}", self.drop_ins.display()));
            }
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry
                .with_context(|| format!("cannot list {}", self.drop_ins.display()))?
                .path();
            if path
                .extension()
                .is_some_and(|extension| extension == "toml")
            {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}

/// Whether user data is a fragment of the agent's settings.
pub(crate) fn is_ours(user_data: &str) -> bool {
    user_data
        .lines()
        .next()
        .is_some_and(|first| first.trim_end() == USER_DATA_MARK)
}

/// Declares a name that becomes part of a path or a parameter: letters, digits, `-`, `_` and `.`.
macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) struct $type(String);

        impl $type {
            /// Parses a name, or refuses it.
            pub(crate) fn parse(text: &str) -> Result<Self> {
                let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                if text.is_empty() || text.starts_with('.') || !text.chars().all(fits) {
                    return refused(concat!(
                        $what,
                        ": not a name\nhint: letters, digits, `-`, `_` and `.`, not beginning with `.`"
                    ));
                }
                Ok(Self(text.to_owned()))
            }

            /// The name as text.
            pub(crate) fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The image's name, which is part of the registry record's parameter.
    ImageName,
    "image"
);
name!(
    /// A service's name, which is the name of its environment file.
    ServiceName,
    "services"
);

mod checks;
// After the macros that they use.
mod identity;
mod proxy;
mod update;

pub(crate) use contract::checks::{Check, CheckKind, HttpCheck, Purpose};

/// The agent's validated settings.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The image's name.
    pub(crate) image: ImageName,
    /// The gate before the first verdict.
    pub(crate) gate: Gate,
    /// The checks after it.
    pub(crate) serving: Serving,
    /// Target groups that are not attached to the Auto Scaling group, by ARN.
    pub(crate) target_groups: Vec<String>,
    /// How an instance drains.
    pub(crate) drain: Drain,
    /// How its services are asked whether they are still busy, if they are.
    pub(crate) drain_check: Option<DrainCheck>,
    /// Which of EC2's notices start a drain.
    pub(crate) notices: NoticeTerms,
    /// Which of the group's hooks are the agent's, if the group has several.
    pub(crate) hooks: HookNames,
    /// The channel from which the agent is updated; `None`: it is not.
    pub(crate) update: Option<Subscription>,
    /// The proxies of the channel and of AWS's APIs.
    pub(crate) proxy: ProxySettings,
    /// Where metrics are published.
    pub(crate) metrics: Metrics,
    /// The services to check; never empty.
    pub(crate) services: Vec<Service>,
}

/// The gate: consecutive passes before the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gate {
    /// Consecutive rounds in which every service must pass.
    pub(crate) passes: u32,
    /// Pause between two rounds.
    pub(crate) interval: Duration,
    /// Counted from when the settings are known.
    pub(crate) deadline: Duration,
}

/// The checks of an instance in service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Serving {
    /// Consecutive passes after which an unfit instance is fit again.
    pub(crate) passes: u32,
    /// Consecutive failures after which a fit instance is unfit.
    pub(crate) failures: u32,
    /// Number of recent rounds that the failure rate is computed over.
    pub(crate) window: u32,
    /// The failure rate, in percent, at which a fit instance becomes unfit.
    pub(crate) window_failure_percent: u32,
    /// Pause between two rounds.
    pub(crate) interval: Duration,
    /// Whether failing services are restarted.
    pub(crate) restart: bool,
    /// The share of the group's other instances, in percent, that may be unfit as well when the group is asked to
    /// replace this one.
    pub(crate) fleet_guard_percent: u32,
    /// How long an instance must have been unfit before the group is asked to replace it; `None`: never.
    pub(crate) replace_after: Option<Duration>,
}

/// Names of the agent's hooks, if the settings have them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HookNames {
    /// The hook on launching.
    pub(crate) launch: Option<String>,
    /// The hook on terminating.
    pub(crate) terminate: Option<String>,
}

/// One service on this instance.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// Its name.
    pub(crate) name: ServiceName,
    /// The systemd unit that runs it, for messages.
    pub(crate) unit: String,
    /// Its checks; never empty.
    pub(crate) checks: Vec<Check>,
    /// The services that must pass before this one's checks are made.
    pub(crate) after: Vec<String>,
    /// Its version URL, if it has one.
    pub(crate) version: Option<Uri>,
    /// The environment that `configure` writes for it.
    pub(crate) environment: BTreeMap<String, String>,
}

impl Settings {
    fn validate(inputs: Fragment) -> Result<Self> {
        let order = inputs.services.iter().map(|(name, service)| {
            let after = service.after.as_deref().unwrap_or_default();
            (name.as_str(), after)
        });
        checks::refuse_bad_order(&order.collect())?;
        let machine = identity::validate(&inputs)?;
        let Some(image) = inputs.image else {
            return refused("image: missing\nhint: image = \"NAME\" in the image's settings file");
        };
        if inputs.services.is_empty() {
            return refused(
                "services: none configured\nhint: add [services.NAME] with its unit; an instance without \
                 services is never fit",
            );
        }
        let proxy = inputs.proxy.validate()?;
        let mut serving = Serving::validate(&inputs.serving)?;
        if machine {
            serving.replace_after = None;
        }
        let (drain, drain_check) = drain::validate(inputs.drain)?;
        Ok(Self {
            gate: Gate::validate(&inputs.gate)?,
            serving,
            image: ImageName::parse(&image)?,
            target_groups: target_groups(inputs.serving.target_groups.unwrap_or_default())?,
            drain,
            drain_check,
            notices: notice_terms(&inputs.notices)?,
            hooks: HookNames {
                launch: inputs.hooks.launch,
                terminate: inputs.hooks.terminate,
            },
            update: match inputs.update {
                Some(table) => table.validate(&proxy)?,
                None => None,
            },
            proxy,
            metrics: Metrics::validate(inputs.metrics.listen, inputs.metrics.cloudwatch_namespace)?,
            services: inputs
                .services
                .into_iter()
                .map(|(name, service)| Service::validate(&name, service))
                .collect::<Result<_>>()?,
        })
    }
}

impl Gate {
    fn validate(table: &GateFragment) -> Result<Self> {
        let gate = Self {
            passes: number("gate.passes", table.passes, 3, 1, 1_000)?,
            interval: seconds("gate.interval_seconds", table.interval_seconds, 2, 1, 3_600)?,
            // Two days: what AWS allows a lifecycle hook in all.
            deadline: seconds(
                "gate.deadline_seconds",
                table.deadline_seconds,
                120,
                1,
                172_800,
            )?,
        };
        if gate.interval * (gate.passes - 1) >= gate.deadline {
            return refused(format!(
                "gate.deadline_seconds: {} passes {} s apart do not fit into {} s",
                gate.passes,
                gate.interval.as_secs(),
                gate.deadline.as_secs()
            ));
        }
        Ok(gate)
    }
}

impl Serving {
    fn validate(table: &ServingFragment) -> Result<Self> {
        let after = seconds(
            "serving.replace_after_seconds",
            table.replace_after_seconds,
            180,
            10,
            86_400,
        )?;
        Ok(Self {
            passes: number("serving.passes", table.passes, 3, 1, 1_000)?,
            failures: number("serving.failures", table.failures, 3, 1, 1_000)?,
            window: number("serving.window", table.window, 20, 1, 1_000)?,
            window_failure_percent: number(
                "serving.window_failure_percent",
                table.window_failure_percent,
                40,
                1,
                100,
            )?,
            interval: seconds(
                "serving.interval_seconds",
                table.interval_seconds,
                5,
                1,
                3_600,
            )?,
            restart: table.restart.unwrap_or(true),
            fleet_guard_percent: number(
                "serving.fleet_guard_percent",
                table.fleet_guard_percent,
                20,
                0,
                100,
            )?,
            replace_after: table.replace.unwrap_or(true).then_some(after),
        })
    }
}

impl Service {
    fn validate(name: &str, inputs: ServiceFragment) -> Result<Self> {
        let at = |key: &str| format!("services.{name}.{key}");
        let unit = inputs.unit.unwrap_or_else(|| format!("{name}.service"));
        let mut checks = Vec::new();
        if let Some(text) = inputs.health_url {
            checks.push(Check::of_health_url(url(&at("health_url"), &text)?));
        }
        for (check, table) in inputs.checks {
            let place = at(&format!("checks.{check}"));
            checks.push(checks::validate(&place, &check, &unit, &table)?);
        }
        if checks.is_empty() {
            checks.push(Check::of_unit(&unit));
        }
        for (key, value) in &inputs.environment {
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if key.is_empty()
                || key.starts_with(|c: char| c.is_ascii_digit())
                || !key.chars().all(fits)
            {
                return refused(format!(
                    "{}: `{key}` is not the name of an environment variable",
                    at("environment")
                ));
            }
            if value.chars().any(|c| c.is_control() && c != '\t') {
                return refused(format!(
                    "{}: the value of {key} has a line break or another control character",
                    at("environment")
                ));
            }
        }
        Ok(Self {
            name: ServiceName::parse(name)?,
            unit,
            checks,
            after: inputs.after.unwrap_or_default(),
            version: inputs
                .version_url
                .map(|text| url(&at("version_url"), &text))
                .transpose()?,
            environment: inputs.environment,
        })
    }
}

fn notice_terms(table: &NoticesFragment) -> Result<NoticeTerms> {
    Ok(NoticeTerms {
        drain_on_rebalance: table.drain_on_rebalance.unwrap_or(false),
        drain_before: seconds(
            "notices.drain_before_seconds",
            table.drain_before_seconds,
            300,
            0,
            604_800,
        )?,
    })
}

/// `arn:aws:elasticloadbalancing:REGION:ACCOUNT:targetgroup/NAME/ID`, and nothing else: it is used in calls.
fn target_groups(names: Vec<String>) -> Result<Vec<String>> {
    let fits = |name: &String| {
        let parts: Vec<&str> = name.split(':').collect();
        matches!(parts[..], ["arn", _, "elasticloadbalancing", _, _, rest] if rest.starts_with("targetgroup/"))
            && !name.contains(char::is_whitespace)
    };
    if !names.iter().all(fits) {
        return refused(
            "serving.target_groups: not the ARN of a target group\nhint: \
             arn:aws:elasticloadbalancing:REGION:ACCOUNT:targetgroup/NAME/ID",
        );
    }
    Ok(names)
}

fn url(at: &str, text: &str) -> Result<Uri> {
    let parsed = text.parse::<Uri>().ok().filter(|uri| {
        uri.scheme_str() == Some("http")
            && uri.authority().is_some_and(|a| !a.as_str().contains('@'))
    });
    parsed.map_or_else(
        || {
            refused(format!(
                "{at}: not an address that the agent can request\nhint: use plain http on this instance, such as \
                 http://127.0.0.1:8080/gtg"
            ))
        },
        Ok,
    )
}

#[cfg(test)]
mod tests;
