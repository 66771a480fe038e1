//! `imagebuilder.toml` and the layers over it: text → types → validated [`Config`], every refusal with its place and fix.
//!
//! Reads the configuration's own files and nothing else: whether a payload file exists is found out where it is read.

mod architectures;
mod archives;
mod channel;
mod checks;
mod closed;
mod contents;
mod drain;
mod image_tests;
pub(crate) mod layers;
mod metadata;
mod near;
mod source;
mod tags;
#[cfg(test)]
mod tests;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;

pub(crate) use self::architectures::one_of;
#[cfg(test)]
pub(crate) use self::architectures::parse;
pub(crate) use self::archives::Archive;
pub(crate) use self::channel::{Channel, Expires, KeySource, Keys, Repository};
pub(crate) use self::closed::{ImagePath, KmsKey, Mode, Owner, SshInterface, UserName};
#[cfg(test)]
pub(crate) use self::contents::Written;
pub(crate) use self::contents::{Folder, Group, ImageScript, Packages, Unit, User, file_name};
pub(crate) use self::image_tests::Test;
use self::layers::Layers;
pub(crate) use self::metadata::{BootMode, Hops, Imds, ImdsNetwork};
#[cfg(test)]
use self::near::nearest;
pub(crate) use self::source::{By, ParameterName, Source};
pub(crate) use self::volumes::{ExtraVolume, RootVolume};
pub(crate) use cloud::Arch;
use cloud::ids::{AccountId, ImageName, SecurityGroupId, ServiceName, SubnetId, VpcId};
use contract::checks::CheckTable;
use roll::settings::{Fleet, Roll, Settings};
use run::exit::{Exit, Failure};
use run::pointers::Scope;

/// The whole configuration, valid.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// `[image]`: what is built.
    pub(crate) image: Image,
    /// `[services.<name>]`: the services on the instance that the agent checks.
    #[serde(default)]
    pub(crate) services: BTreeMap<ServiceName, Service>,
    /// `[bake]`: where and how it is built.
    #[serde(default)]
    pub(crate) bake: Bake,
    /// `[tags]`: the user's own tags on everything that a bake creates.
    #[serde(default)]
    pub(crate) tags: BTreeMap<String, String>,
    /// `[fleet]`: what is rolled. Commands that roll ask for it.
    pub(crate) fleet: Option<Fleet>,
    /// `[roll]`: how it is rolled.
    #[serde(default)]
    pub(crate) roll: Roll,
    /// `[channel]`: where instances take new agents from. Commands of the channel ask for it.
    pub(crate) channel: Option<Channel>,
    /// The architectures that the image is released for together, this one among them; empty when it is for one alone.
    #[serde(skip)]
    pub(crate) released: Vec<Arch>,
}

/// `[image]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Image {
    /// Names the AMIs, the pointers and the registry path.
    pub(crate) name: ImageName,
    /// The architecture of the image and its source.
    #[serde(default)]
    pub(crate) arch: Arch,
    /// A folder whose templates replace the built-in ones of the same name.
    pub(crate) template: Option<PathBuf>,
    /// A folder whose `provision/*.sh` replace the built-in scripts.
    pub(crate) provision: Option<PathBuf>,
    /// Who Packer logs in as.
    #[serde(default = "UserName::admin")]
    pub(crate) ssh_username: UserName,
    /// Which AMI to start from.
    pub(crate) source: Source,
    /// `[image.root_volume]`: its root volume, where that is not the source's.
    #[serde(default)]
    pub(crate) root_volume: RootVolume,
    /// `[[image.volume]]`: further volumes.
    #[serde(default)]
    pub(crate) volume: Vec<ExtraVolume>,
    /// The firmware it has to boot by; the source's when left out.
    pub(crate) boot_mode: Option<BootMode>,
    /// Whether its instances require IMDSv2.
    #[serde(default)]
    pub(crate) imds: Imds,
    /// How many hops an answer of the metadata service may go, on the builder and the gate's instance.
    pub(crate) imds_hops: Option<Hops>,
    /// What systemd-imdsd does with the network of the metadata service; the image's own default when left out.
    pub(crate) imds_network: Option<ImdsNetwork>,
    /// The agent.
    pub(crate) agent: Agent,
    /// Files and folders put onto the image.
    #[serde(default)]
    pub(crate) payload: Vec<Payload>,
    /// Packages.
    #[serde(default)]
    pub(crate) packages: Packages,
    /// Users by name.
    #[serde(default)]
    pub(crate) users: BTreeMap<String, User>,
    /// Groups by name.
    #[serde(default)]
    pub(crate) groups: BTreeMap<String, Group>,
    /// Folders without content.
    #[serde(default)]
    pub(crate) folder: Vec<Folder>,
    /// Units of systemd, and drop-ins.
    #[serde(default)]
    pub(crate) unit: Vec<Unit>,
    /// The kernel's settings.
    #[serde(default)]
    pub(crate) sysctl: BTreeMap<String, toml::Value>,
    /// Added to the kernel's command line.
    #[serde(default)]
    pub(crate) kernel_arguments: Vec<String>,
    /// Scripts that the builder runs when everything else is in place, in their order.
    #[serde(default)]
    pub(crate) script: Vec<ImageScript>,
    /// Tests that the gate has run on the candidate.
    #[serde(default)]
    pub(crate) test: Vec<Test>,
    /// Passed to the templates as `variables.<name>`.
    #[serde(default)]
    pub(crate) variables: BTreeMap<String, toml::Value>,
}

/// `[[image.payload]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Payload {
    /// The file or folder here, relative to the configuration.
    pub(crate) source: PathBuf,
    /// The absolute path on the image.
    pub(crate) dest: ImagePath,
    /// Its mode, octal; of a folder, the mode of its files.
    pub(crate) mode: Option<Mode>,
    /// Its owner.
    #[serde(default = "contents::root")]
    pub(crate) owner: String,
    /// Its group.
    #[serde(default = "contents::root")]
    pub(crate) group: String,
    /// Whether it is rendered first, with `variables`.
    #[serde(default)]
    pub(crate) template: bool,
}

/// `[image.agent]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Agent {
    /// The agent's binary here.
    pub(crate) binary: PathBuf,
    /// When an instance is fit.
    #[serde(default)]
    pub(crate) gate: AgentGate,
    /// How an instance drains.
    #[serde(default)]
    pub(crate) drain: contract::drain::Drain,
}

/// `[image.agent.gate]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AgentGate {
    /// Passes in a row that make an instance fit.
    pub(crate) passes: u32,
    /// Seconds between two checks.
    pub(crate) interval_seconds: u32,
    /// Seconds after which an instance that is not fit is unfit.
    pub(crate) deadline_seconds: u32,
}

impl Default for AgentGate {
    fn default() -> Self {
        Self {
            passes: 3,
            interval_seconds: 2,
            deadline_seconds: 120,
        }
    }
}

impl AgentGate {
    /// The agent's own limits: refused here, not by the instance at the end of a bake.
    fn validate(&self) -> Result<(), String> {
        for (key, value, most) in [
            ("passes", self.passes, 1_000),
            ("interval_seconds", self.interval_seconds, 3_600),
            ("deadline_seconds", self.deadline_seconds, 172_800),
        ] {
            if !(1..=most).contains(&value) {
                return Err(format!(
                    "[image.agent.gate] {key} is {value}; it must be 1 to {most}"
                ));
            }
        }
        if self.interval_seconds.saturating_mul(self.passes - 1) >= self.deadline_seconds {
            return Err(format!(
                "[image.agent.gate] deadline_seconds is {}: {} passes {} s apart do not fit into it",
                self.deadline_seconds, self.passes, self.interval_seconds
            ));
        }
        Ok(())
    }
}

/// `[services.<name>]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Service {
    /// The service's binary here; installed as `/usr/lib/<name>/<name>`. Left out when a payload brings it.
    pub(crate) binary: Option<PathBuf>,
    /// Its systemd unit's name.
    pub(crate) unit: Option<String>,
    /// Whether the unit comes with a package or the source image.
    #[serde(default)]
    pub(crate) installed: bool,
    /// The URL that the agent requests to check its health. Without it and `checks`, the unit must be active.
    pub(crate) health_url: Option<String>,
    /// The agent's other checks, by name.
    #[serde(default)]
    pub(crate) checks: BTreeMap<String, CheckTable>,
    /// The services that must pass before this one is checked.
    #[serde(default)]
    pub(crate) after: Vec<String>,
    /// The URL that the agent requests for its version.
    pub(crate) version_url: Option<String>,
    /// Its settings file here; installed as `/etc/<name>/<name>.toml`.
    pub(crate) settings: Option<PathBuf>,
    /// Its environment, unless user data overrides it.
    #[serde(default)]
    pub(crate) environment: BTreeMap<String, String>,
}

impl Service {
    /// What the agent would refuse.
    fn findings(&self, name: &ServiceName) -> Vec<String> {
        let mut findings = checks::findings(name, &self.unit_name(name), &self.checks);
        for (key, url) in [
            ("health_url", self.health_url.as_ref()),
            ("version_url", self.version_url.as_ref()),
        ] {
            if let Some(url) = url
                && url.strip_prefix("http://").is_none_or(str::is_empty)
            {
                findings.push(format!(
                    "[services.{name}] {key} `{url}` is not a URL that the agent can request, such as http://127.0.0.1:8080/gtg"
                ));
            }
        }
        if let Some(unit) = &self.unit
            && !unit_name(unit)
        {
            findings.push(format!(
                "[services.{name}] unit `{}` is not the name of a systemd unit, such as {name}.service",
                unit.escape_debug()
            ));
        }
        findings.extend(environment_findings(
            &format!("[services.{name}.environment]"),
            &self.environment,
        ));
        findings
    }

    /// The systemd unit's name.
    pub(crate) fn unit_name(&self, name: &ServiceName) -> String {
        self.unit
            .clone()
            .unwrap_or_else(|| format!("{name}.service"))
    }

    /// Where the service's binary is on the image.
    pub(crate) fn installed(name: &ServiceName) -> String {
        format!("/usr/lib/{name}/{name}")
    }
}

/// What no environment can have; `at` names the table.
fn environment_findings(at: &str, environment: &BTreeMap<String, String>) -> Vec<String> {
    let mut findings = Vec::new();
    for (key, value) in environment {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if key.is_empty() || key.starts_with(|c: char| c.is_ascii_digit()) || !key.chars().all(fits)
        {
            findings.push(format!(
                "{at} `{}` is not the name of an environment variable",
                key.escape_debug()
            ));
        }
        if value.chars().any(|c| c.is_control() && c != '\t') {
            findings.push(format!(
                "{at} the value of {} has a line break or another control character",
                key.escape_debug()
            ));
        }
    }
    findings
}

/// Whether systemd takes it as a unit's name (systemd.unit(5)).
fn unit_name(text: &str) -> bool {
    unit_kind(text, &["service", "socket", "timer", "target", "path"])
}

/// Whether systemd takes it as the name of a unit of one of these kinds.
fn unit_kind(text: &str, kinds: &[&str]) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    text.len() <= 255
        && text.chars().all(fits)
        && text
            .rsplit_once('.')
            .is_some_and(|(stem, kind)| !stem.is_empty() && kinds.contains(&kind))
}

/// `[bake]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Bake {
    /// The region, unless the environment names one.
    pub(crate) region: Option<String>,
    /// The builder's instance type; see [`Config::instance_type`].
    instance_type: Option<String>,
    /// The builder's instance profile, by name.
    pub(crate) instance_profile: Option<String>,
    /// User data for the builder.
    pub(crate) user_data: Option<PathBuf>,
    /// Whether the first step on the builder waits until cloud-init has ended.
    pub(crate) wait_for_cloud_init: bool,
    /// The builder's subnet.
    pub(crate) subnet: Option<SubnetId>,
    /// The builder's VPC.
    pub(crate) vpc: Option<VpcId>,
    /// Which of the builder's addresses Packer dials; Packer's choice when left out.
    pub(crate) ssh_interface: Option<SshInterface>,
    /// The port Packer dials.
    pub(crate) ssh_port: u16,
    /// Seconds until SSH must have answered.
    pub(crate) ssh_timeout_seconds: u32,
    /// Who may reach the builder's SSH port; any address when empty.
    pub(crate) source_cidrs: Vec<IpNet>,
    /// Whether the image's snapshots are encrypted; see [`Bake::encryption`].
    encrypt: bool,
    /// With which KMS key.
    kms_key: Option<KmsKey>,
    /// Accounts that may launch the image.
    pub(crate) share: Vec<AccountId>,
    /// Regions the image is copied to: refused.
    copy: Vec<String>,
    /// Seconds Packer may take altogether.
    pub(crate) timeout_seconds: u32,
    /// The instance that tests the candidate.
    pub(crate) gate: Gate,
}

/// Whether IAM takes it as a profile's name.
fn profile_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "+=,.@_-".contains(c);
    (1..=128).contains(&name.len()) && name.chars().all(fits)
}

/// How the image's snapshots are encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Encryption {
    /// With the account's default key for EBS.
    Default,
    /// With this key.
    Key(KmsKey),
}

impl Bake {
    /// How the image's snapshots are encrypted; `None` when they are not.
    pub(crate) fn encryption(&self) -> Option<Encryption> {
        self.encrypt.then(|| match &self.kms_key {
            Some(key) => Encryption::Key(key.clone()),
            None => Encryption::Default,
        })
    }

    /// Settings that conflict, or are not supported yet.
    fn findings(&self) -> impl Iterator<Item = String> {
        let finding = |wrong: bool, what: &str| wrong.then(|| format!("[bake] {what}"));
        let least = |key: &str, value: u32| {
            finding(value == 0, &format!("{key} is 0: it is a limit in seconds"))
        };
        [
            finding(
                !self.encrypt && self.kms_key.is_some(),
                "kms_key is set without encrypt: add `encrypt = true`, or remove the key",
            ),
            finding(
                self.encrypt && self.kms_key.is_none() && !self.share.is_empty(),
                "share needs kms_key with encrypt: what the account's default key encrypts cannot be shared",
            ),
            finding(
                self.vpc.is_some() && self.subnet.is_none(),
                "vpc needs subnet: the builder is launched into a subnet",
            ),
            finding(
                !self.copy.is_empty(),
                "copy is not supported yet: bake once per region, with `--region`",
            ),
            finding(self.ssh_port == 0, "ssh_port is 0"),
            least("ssh_timeout_seconds", self.ssh_timeout_seconds),
            least("timeout_seconds", self.timeout_seconds),
            least("gate.timeout_seconds", self.gate.timeout_seconds),
            finding(
                self.instance_type.as_deref() == Some("") || self.gate.instance_type.as_deref() == Some(""),
                "instance_type is empty",
            ),
            finding(
                [&self.instance_profile, &self.gate.instance_profile]
                    .into_iter()
                    .flatten()
                    .any(|name| !profile_name(name)),
                "instance_profile is not the name of an instance profile: use its name, not its ARN",
            ),
        ]
        .into_iter()
        .flatten()
    }
}

impl Default for Bake {
    fn default() -> Self {
        Self {
            region: None,
            instance_type: None,
            instance_profile: None,
            user_data: None,
            wait_for_cloud_init: true,
            subnet: None,
            vpc: None,
            ssh_interface: None,
            ssh_port: 22,
            ssh_timeout_seconds: 300,
            source_cidrs: Vec::new(),
            encrypt: false,
            kms_key: None,
            share: Vec::new(),
            copy: Vec::new(),
            timeout_seconds: 5400,
            gate: Gate::default(),
        }
    }
}

/// `[bake.gate]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Gate {
    /// The gate instance's type; the builder's when left out.
    pub(crate) instance_type: Option<String>,
    /// The instance profile that lets its agent write the registry record.
    pub(crate) instance_profile: Option<String>,
    /// Its subnet; the builder's when left out.
    pub(crate) subnet: Option<SubnetId>,
    /// Its security groups; the VPC's default group when empty.
    pub(crate) security_groups: Vec<SecurityGroupId>,
    /// Seconds until the agent must have given its verdict.
    pub(crate) timeout_seconds: u32,
    /// User data for the gate instance.
    pub(crate) user_data: Option<PathBuf>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            instance_type: None,
            instance_profile: None,
            subnet: None,
            security_groups: Vec::new(),
            timeout_seconds: 600,
            user_data: None,
        }
    }
}

impl Config {
    /// The valid configurations of all layers: one for each architecture.
    pub(crate) fn of(layers: &Layers) -> Result<Vec<Self>, Failure> {
        architectures::of(layers, &|finding| layers.place_of(finding))
    }

    /// Validates configuration text; `place` is the file's name in errors.
    #[cfg(test)]
    pub(crate) fn parse(text: &str, place: &str) -> Result<Self, Failure> {
        let layers = Layers::of_one(text, place)?;
        let config: Self = layers.parse(&|_| ())?;
        refuse(&|_| place.to_owned(), &config.findings())?;
        Ok(config)
    }

    /// Whose pointers a bake of this configuration sets.
    pub(crate) fn pointers(&self) -> Scope {
        Scope::new(&self.image.name, self.several().then_some(self.image.arch))
    }

    /// Whether the image is released for several architectures, of which this is one.
    pub(crate) fn several(&self) -> bool {
        !self.released.is_empty()
    }

    /// The builder's instance type.
    pub(crate) fn instance_type(&self) -> &str {
        let own = self.bake.instance_type.as_deref();
        own.unwrap_or_else(|| default_type(self.image.arch))
    }

    /// What is rolled and how, for the commands that roll.
    pub(crate) fn settings(&self) -> Result<Settings, Failure> {
        let Some(fleet) = &self.fleet else {
            return Err(Exit::Usage
                .error("the configuration has no [fleet]")
                .hint("name the Auto Scaling group: `[fleet]` with `group = \"…\"`"));
        };
        Settings::validate(fleet, &self.roll).map_err(|error| Exit::Usage.error(error.to_string()))
    }

    /// The signed channel, for the commands that use it.
    pub(crate) fn channel(&self) -> Result<&Channel, Failure> {
        self.channel.as_ref().ok_or_else(|| {
            Exit::Usage.error("the configuration has no [channel]").hint(
                "set its repository: `[channel]` with `repository = \"channel\"` or `\"s3://bucket/prefix\"`",
            )
        })
    }

    /// The same configuration without what only determines how an image is built: who may reach the builder, where it runs,
    /// the time limits. Encryption is a property of the image.
    pub(crate) fn of_the_image_only(&self) -> Self {
        let mut config = self.clone();
        config.image.ssh_username = UserName::admin();
        config.image.imds_hops = None;
        config.bake = Bake {
            encrypt: self.bake.encrypt,
            kms_key: self.bake.kms_key.clone(),
            ..Bake::default()
        };
        config
    }

    /// Settings that are invalid or conflict. Each begins with `[table] key`, by which its place is found.
    fn findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        if let Some(fleet) = &self.fleet
            && let Err(error) = Settings::validate(fleet, &self.roll)
        {
            findings.push(error.to_string());
        }
        findings.extend(volumes::findings(
            &self.image.root_volume,
            &self.image.volume,
        ));
        findings.extend(tags::findings(&self.tags));
        findings.extend(self.image.agent.gate.validate().err());
        findings.extend(drain::findings(&self.image.agent.drain));
        if let Some(channel) = &self.channel {
            findings.extend(channel.validate().err());
        }
        for (name, service) in &self.services {
            findings.extend(service.findings(name));
        }
        let order = self
            .services
            .iter()
            .map(|(name, service)| (name.as_str(), service.after.as_slice()));
        findings.extend(checks::order_findings(&order.collect()));
        let mut dests = BTreeSet::new();
        for payload in &self.image.payload {
            if !dests.insert(&payload.dest) {
                findings.push(format!(
                    "two payloads have the dest `{}`",
                    payload.dest.as_str()
                ));
            }
        }
        findings.extend(contents::findings(self));
        findings.extend(image_tests::findings(
            &self.image.test,
            self.bake.gate.timeout_seconds,
        ));
        findings.extend(self.bake.findings());
        findings
    }
}

/// The error for a configuration with findings, each at its place.
fn refuse(place: &dyn Fn(&str) -> String, findings: &[String]) -> Result<(), Failure> {
    if findings.is_empty() {
        return Ok(());
    }
    let placed: Vec<String> = findings
        .iter()
        .map(|finding| format!("{}: {finding}", place(finding)))
        .collect();
    Err(Exit::Usage.error(placed.join("\n")))
}

/// The instance type of builders that no setting names one for: small, current and cheap.
pub(crate) fn default_type(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "t3.small",
        Arch::Arm64 => "t4g.small",
    }
}
