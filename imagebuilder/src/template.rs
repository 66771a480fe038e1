//! Templates: (configuration, facts) → text.
//!
//! The built-in templates are embedded; a folder named in the configuration replaces them file by file. Rendering is
//! pure; only [`Templates::load`] reads that folder. `staging` decides what is rendered.

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/embedded.rs"));
}

use std::collections::BTreeMap;
use std::path::Path;

use contract::checks::CheckTable;
use serde::Serialize;
use tera::{Kwargs, Tera, Value};

use crate::config::{Config, Encryption, Hops, Service};
use crate::mappings;
use crate::shebang;
use cloud::ids::{ImageId, RunId, ServiceName};
use cloud::{Disk, Tags};
use run::exit::{Exit, Failure};

/// The Packer template.
pub(crate) const PACKER: &str = "image.pkr.hcl.tera";
/// The agent's settings.
pub(crate) const AGENT: &str = "agent.toml.tera";
/// The units of the agent: those that start at boot, in their order, then those that others start.
pub(crate) const AGENT_UNITS: [&str; 9] = [
    "imagebuilder-agent-configure.service",
    "imagebuilder-agent.service",
    "imagebuilder-agent-update.timer",
    "imagebuilder-agent-update.path",
    "imagebuilder-agent-restart.path",
    "imagebuilder-agent-update.service",
    "imagebuilder-agent-restart.service",
    "imagebuilder-agent-trial.service",
    "imagebuilder-agent-factory.service",
];

/// What a rendering needs beyond the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The region the builder runs in.
    pub(crate) region: String,
    /// The endpoint of EC2, when it is not the region's own.
    pub(crate) endpoint: Option<String>,
    /// The resolved source image.
    pub(crate) source: ImageId,
    /// Its EBS volumes; none when they are not known.
    pub(crate) disks: Vec<Disk>,
    /// The device that it boots from.
    pub(crate) root_device: String,
    /// The run; none when nothing is to be created.
    pub(crate) run: Option<RunId>,
    /// The name the image gets.
    pub(crate) ami_name: String,
    /// The tags everything gets.
    pub(crate) tags: Tags,
    /// Whether this Packer takes its Amazon builder from a plugin.
    pub(crate) plugins: bool,
    /// The provisioning scripts, in order.
    pub(crate) scripts: Vec<Script>,
    /// The key pair's name.
    pub(crate) key_name: String,
}

impl Facts {
    /// Facts without a bake: nothing that depends on a run or a region.
    pub(crate) fn of_no_bake(source: ImageId) -> Self {
        Self {
            region: String::new(),
            endpoint: None,
            source,
            disks: Vec::new(),
            root_device: ROOT_DEVICE.to_owned(),
            run: None,
            ami_name: String::new(),
            tags: Tags::new(),
            plugins: false,
            scripts: Vec::new(),
            key_name: String::new(),
        }
    }
}

/// A provisioning script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Script {
    /// Its path, relative to the run folder.
    pub(crate) path: String,
    /// What runs it, before its path.
    pub(crate) interpreter: Vec<String>,
    /// Whether the builder is rebooted after it.
    pub(crate) reboot: bool,
}

/// The signed channel that instances of an image follow, as their agent's settings have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Subscription {
    /// The channel's name.
    pub(crate) channel: String,
    /// Where instances read it.
    pub(crate) url: String,
    /// Whether `url` may begin with http://.
    pub(crate) plain_http: bool,
    /// Where the image has the certificates that instances trust for it.
    pub(crate) ca_file: Option<&'static str>,
}

/// The provisioning script after which the record of packages is downloaded, relative to the run folder.
const RECORD: &str = "provision/80-record.sh";
/// The root device of most images, shown where the source image is not known.
const ROOT_DEVICE: &str = "/dev/xvda";
/// The script that waits for cloud-init, relative to the run folder.
pub(crate) const WAIT: &str = "wait-for-cloud-init.sh";
/// The builder's user data, relative to the run folder.
pub(crate) const USER_DATA: &str = "user-data";
/// The private key's file, relative to the run folder.
pub(crate) const KEY_FILE: &str = "key";
/// Seconds between two of Packer's polls; EC2 changes states no faster.
const POLL_SECONDS: u32 = 2;
/// Snapshots may take hours: the bake's own deadline ends a wait, not Packer's count of polls.
const POLL_ATTEMPTS: u32 = 7200;

#[derive(Serialize)]
struct Pair<'a> {
    key: &'a str,
    value: &'a str,
}

fn pairs(map: &BTreeMap<String, String>) -> Vec<Pair<'_>> {
    map.iter().map(|(key, value)| Pair { key, value }).collect()
}

#[derive(Serialize)]
struct ServiceView<'a> {
    name: &'a ServiceName,
    unit: String,
    binary: String,
    health_url: Option<&'a str>,
    checks: Vec<CheckView<'a>>,
    /// The names as a TOML array; absent when there are none.
    after: Option<String>,
    version_url: Option<&'a str>,
    environment: Vec<Pair<'a>>,
}

#[derive(Serialize)]
struct CheckView<'a> {
    name: &'a str,
    /// The keys, each with its value as TOML.
    keys: Vec<KeyView>,
}

#[derive(Serialize)]
struct KeyView {
    key: String,
    value: String,
}

fn check_view<'a>((name, check): (&'a String, &'a CheckTable)) -> CheckView<'a> {
    CheckView {
        name,
        keys: key_views(check),
    }
}

/// The keys of a table that are set, each with its value as TOML.
fn key_views(table: &impl Serialize) -> Vec<KeyView> {
    let keys = toml::Table::try_from(table).unwrap_or_default().into_iter();
    let view = |(key, value): (String, toml::Value)| KeyView {
        key,
        value: value.to_string(),
    };
    keys.map(view).collect()
}

fn service_view<'a>(name: &'a ServiceName, service: &'a Service) -> ServiceView<'a> {
    ServiceView {
        name,
        unit: service.unit_name(name),
        binary: Service::installed(name),
        health_url: service.health_url.as_deref(),
        checks: service.checks.iter().map(check_view).collect(),
        after: (!service.after.is_empty())
            .then(|| toml::Value::from(service.after.clone()).to_string()),
        version_url: service.version_url.as_deref(),
        environment: pairs(&service.environment),
    }
}

/// The templates of one bake.
#[derive(Debug)]
pub(crate) struct Templates {
    tera: Tera,
    /// Where each template came from, for messages.
    places: BTreeMap<String, String>,
}

impl Templates {
    /// The embedded templates, with those of `folder` laid over.
    pub(crate) fn load(folder: Option<&Path>) -> anyhow::Result<Self> {
        let mut sources: BTreeMap<String, (String, String)> = embedded::TEMPLATES
            .iter()
            .map(|(name, text)| {
                (
                    (*name).to_owned(),
                    (format!("templates/{name}"), (*text).to_owned()),
                )
            })
            .collect();
        if let Some(folder) = folder {
            for (name, text) in read_folder(folder, "tera")? {
                let place = folder.join(&name).display().to_string();
                sources.insert(name, (place, text));
            }
        }
        let mut tera = Tera::default();
        tera.autoescape_on(Vec::<String>::new());
        tera.register_filter("hcl", |value: Value, _: Kwargs, _: &tera::State| {
            defined(&value).map(hcl)
        });
        // Packer's own template language is wanted in this one.
        tera.register_filter("packer", |value: Value, _: Kwargs, _: &tera::State| {
            defined(&value).map(|value| hcl_quoted(value.as_str().unwrap_or_default()))
        });
        tera.register_filter("toml", |value: Value, _: Kwargs, _: &tera::State| {
            defined(&value).map(toml_text)
        });
        let places = sources
            .iter()
            .map(|(name, (place, _))| (name.clone(), place.clone()))
            .collect();
        let templates = sources
            .iter()
            .map(|(name, (_, text))| (name.clone(), text.clone()));
        let added = tera.add_raw_templates(templates.collect::<Vec<_>>());
        let templates = Self { tera, places };
        added.map_err(|error| templates.refusal("", &error))?;
        Ok(templates)
    }

    /// Whether there is a template of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// The Packer template.
    pub(crate) fn packer(&self, config: &Config, facts: &Facts) -> Result<String, Failure> {
        let mut context = common(config);
        let bake = &config.bake;
        let encryption = bake.encryption();
        context.insert(
            "image",
            &BTreeMap::from([
                ("name", config.image.name.as_str()),
                ("ami_name", &facts.ami_name),
                ("builder_name", &format!("{} builder", config.image.name)),
                (
                    "description",
                    &format!("{}, from {}", config.image.name, facts.source),
                ),
            ]),
        );
        context.insert(
            "source",
            &serde_json::json!({
                "ami": facts.source,
                "devices": facts.disks.iter().map(|disk| &disk.device).collect::<Vec<_>>(),
                "root_device": facts.root_device,
            }),
        );
        context.insert(
            "mappings",
            &mappings::packer(config, &facts.disks, &facts.root_device),
        );
        let imds = config.image.imds;
        context.insert(
            "imds",
            &serde_json::json!({
                "tokens": imds,
                "required": imds.is_required(),
                "hops": config.image.imds_hops.map(Hops::get),
            }),
        );
        context.insert("run", &serde_json::json!({ "id": facts.run }));
        context.insert("tags", &pairs(&facts.tags));
        context.insert(
            "key",
            &BTreeMap::from([("name", facts.key_name.as_str()), ("file", KEY_FILE)]),
        );
        context.insert(
            "packer",
            &serde_json::json!({
                "plugins": facts.plugins,
                "wait": {
                    "script": WAIT,
                    "execute_command": "sudo -n /bin/sh '{{ .Path }}'",
                },
                "scripts": facts.scripts.iter().map(|script| serde_json::json!({
                    "path": script.path,
                    "reboot": script.reboot,
                    "record": script.path == RECORD,
                    "execute_command": format!("sudo -n {} '{{{{ .Path }}}}'", shebang::quoted(&script.interpreter)),
                })).collect::<Vec<_>>(),
            }),
        );
        context.insert(
            "bake",
            &serde_json::json!({
                "region": facts.region,
                "endpoint": facts.endpoint,
                "instance_type": config.instance_type(),
                "instance_profile": bake.instance_profile,
                "user_data": bake.user_data.as_ref().map(|_| USER_DATA),
                "wait_for_cloud_init": bake.wait_for_cloud_init,
                "subnet": bake.subnet,
                "vpc": bake.vpc,
                "encrypt": encryption.is_some(),
                "kms_key": match &encryption {
                    Some(Encryption::Key(key)) => Some(key),
                    _ => None,
                },
                "ssh_username": config.image.ssh_username,
                "ssh_interface": bake.ssh_interface,
                "ssh_port": bake.ssh_port,
                "ssh_timeout_seconds": bake.ssh_timeout_seconds,
                "source_cidrs": bake.source_cidrs,
                "poll_seconds": POLL_SECONDS,
                "poll_attempts": POLL_ATTEMPTS,
            }),
        );
        self.render(PACKER, &context)
    }

    /// The agent's settings, with the channel it follows if there is one.
    pub(crate) fn agent(
        &self,
        config: &Config,
        subscription: Option<&Subscription>,
    ) -> Result<String, Failure> {
        let mut context = common(config);
        context.insert("update", &subscription);
        let gate = &config.image.agent.gate;
        context.insert(
            "gate",
            &BTreeMap::from([
                ("passes", gate.passes),
                ("interval_seconds", gate.interval_seconds),
                ("deadline_seconds", gate.deadline_seconds),
            ]),
        );
        context.insert("drain", &key_views(&config.image.agent.drain));
        self.render(AGENT, &context)
    }

    /// A systemd unit; `service` when it is a service's own.
    pub(crate) fn unit(
        &self,
        config: &Config,
        unit: &str,
        service: Option<&ServiceName>,
    ) -> Result<String, Failure> {
        let mut context = common(config);
        if let Some((name, service)) = service.and_then(|name| config.services.get_key_value(name))
        {
            context.insert("binary", &Service::installed(name));
            context.insert("service", &service_view(name, service));
        }
        self.render(&unit_template(unit), &context)
    }

    /// A text of the configuration's own, with the variables that every template has; `path` is its name in errors.
    pub(crate) fn text(
        &mut self,
        config: &Config,
        path: &str,
        text: &str,
    ) -> Result<String, Failure> {
        // No template has such a name, so none is replaced.
        let name = format!("the image's own/{path}");
        self.places.insert(name.clone(), path.to_owned());
        let added = self.tera.add_raw_templates([(name.as_str(), text)]);
        added.map_err(|error| self.refusal(&name, &error))?;
        self.render(&name, &common(config))
    }

    fn render(&self, name: &str, context: &tera::Context) -> Result<String, Failure> {
        self.tera
            .render(name, context)
            .map_err(|error| self.refusal(name, &error))
    }

    fn refusal(&self, name: &str, error: &tera::Error) -> Failure {
        // Tera reports `error: <message>`, then `--> <template>:<line>:<column>`, then the line itself.
        let report = error.to_string();
        let first = report.lines().next().unwrap_or_default();
        let message = first
            .strip_prefix("error: ")
            .unwrap_or(first)
            .trim_end_matches('.');
        let place = match report
            .lines()
            .find_map(|line| line.trim_start().strip_prefix("--> "))
        {
            Some(place) => {
                let mut parts = place.split(':');
                let (file, line) = (parts.next().unwrap_or(name), parts.next().unwrap_or("1"));
                format!("{}:{line}", self.place(file))
            }
            None => self.place(name).to_owned(),
        };
        // The line that is marked below shows which variable it is.
        let line = report
            .lines()
            .find_map(|line| line.split_once("{{").map(|(_, rest)| rest));
        let shown = line
            .and_then(|rest| rest.split_once("}}"))
            .map(|(inner, _)| inner.trim());
        let failure = Exit::Usage.error(match shown {
            Some(shown) => format!("{place}: `{shown}`: {message}"),
            None => format!("{place}: {message}"),
        });
        if message.contains("not found")
            || message.contains("undefined")
            || message.contains("not defined")
        {
            failure.hint("set it in [image.variables] and use `variables.<name>`, or correct the template's spelling")
        } else {
            failure
        }
    }

    fn place<'a>(&'a self, name: &'a str) -> &'a str {
        self.places.get(name).map_or(name, String::as_str)
    }
}

/// The name of a unit's template.
pub(crate) fn unit_template(unit: &str) -> String {
    format!("systemd/{unit}.tera")
}

/// The built-in templates and, below `provision/`, the built-in scripts.
pub(crate) fn built_in() -> BTreeMap<String, String> {
    let templates = embedded::TEMPLATES
        .iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    let scripts = embedded::PROVISION
        .iter()
        .map(|(name, text)| (format!("provision/{name}"), (*text).to_owned()));
    templates.chain(scripts).collect()
}

/// The provisioning scripts: the embedded ones, with those of `folder` laid over, in name order.
pub(crate) fn provision(folder: Option<&Path>) -> anyhow::Result<BTreeMap<String, String>> {
    let mut scripts: BTreeMap<String, String> = embedded::PROVISION
        .iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect();
    if let Some(folder) = folder {
        let found = read_folder(folder, "sh")?;
        // They run as root, in the order of their names: only what lies in the folder itself.
        scripts.extend(found.into_iter().filter(|(name, _)| !name.contains('/')));
    }
    Ok(scripts)
}

/// Variables every template has.
fn common(config: &Config) -> tera::Context {
    let mut context = tera::Context::new();
    let services: Vec<ServiceView<'_>> = config
        .services
        .iter()
        .map(|(name, service)| service_view(name, service))
        .collect();
    context.insert("services", &services);
    context.insert(
        "image",
        &BTreeMap::from([("name", config.image.name.as_str())]),
    );
    context.insert("variables", &config.image.variables);
    context
}

/// All files below a folder with an extension, by their path relative to it.
fn read_folder(folder: &Path, extension: &str) -> anyhow::Result<BTreeMap<String, String>> {
    fn walk(
        top: &Path,
        at: &Path,
        extension: &str,
        into: &mut BTreeMap<String, String>,
    ) -> std::io::Result<()> {
        for entry in std::fs::read_dir(at)? {
            let path = entry?.path();
            if path.is_dir() {
                walk(top, &path, extension, into)?;
            } else if path.extension().is_some_and(|kind| kind == extension)
                && let Ok(relative) = path.strip_prefix(top)
            {
                into.insert(
                    relative.display().to_string(),
                    std::fs::read_to_string(&path)?,
                );
            }
        }
        Ok(())
    }
    let mut files = BTreeMap::new();
    walk(folder, folder, extension, &mut files).map_err(|error| {
        Exit::Usage
            .error(format!("cannot read the folder {}", folder.display()))
            .because(error)
            .hint(
                "`template` and `provision` in [image] are folders, relative to the configuration",
            )
    })?;
    Ok(files)
}

/// Tera passes an undefined variable to a filter without an error; an empty setting must not be baked.
fn defined(value: &Value) -> tera::TeraResult<&Value> {
    if value.is_undefined() {
        return Err(tera::Error::message("this variable is undefined"));
    }
    Ok(value)
}

/// A value as an HCL expression: a quoted string, a number, a bool, or a list of these.
fn hcl(value: &Value) -> String {
    if let Some(text) = value.as_str() {
        return hcl_string(text);
    }
    if let Some(list) = value.as_array() {
        let items: Vec<String> = list.iter().map(hcl).collect();
        return format!("[{}]", items.join(", "));
    }
    value.to_string()
}

/// A string that both HCL and Packer's own template language leave as it is.
fn hcl_string(text: &str) -> String {
    hcl_quoted(&text.replace("{{", r#"{{ "{{" }}"#))
}

/// A string that HCL leaves as it is.
fn hcl_quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            // `${` and `%{` would begin an interpolation.
            '$' | '%' if rest.peek() == Some(&'{') => {
                quoted.push(c);
                quoted.push(c);
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A value as a TOML value.
fn toml_text(value: &Value) -> String {
    match value.as_str() {
        Some(text) => toml::Value::String(text.to_owned()).to_string(),
        None => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = r#"
[image]
name = "shop"
[image.source]
owners = ["136693071363"]
name = "debian-12-*"
[image.agent]
binary = "agent"
[services.orders]
health_url = "http://127.0.0.1:8080/gtg"
"#;

    const EVERYTHING: &str = r#"
[image]
name = "shop"
ssh_username = "ubuntu"
[image.source]
owners = ["136693071363"]
name = "debian-12-*"
[image.agent]
binary = "agent"
[image.agent.gate]
passes = 5
[image.agent.drain]
command = ["/usr/lib/shop/busy", "--queue", "a \"b\""]
deadline_seconds = 7200
on_failure = "abandon"
[services.orders]
unit = "orders.service"
health_url = "http://127.0.0.1:8080/gtg"
version_url = "http://127.0.0.1:8080/version"
[services.orders.environment]
ORDERS_STORE = "s3://bucket/with \\"quotes\\""
[services.mail]
health_url = "http://127.0.0.1:2525/"
[services.web]
unit = "nginx.service"
after = ["db", "orders"]
[services.web.checks.page]
kind = "https"
url = "https://127.0.0.1/gtg"
ca_file = "/etc/ssl/own \"ca\".pem"
headers = { host = "shop.example", x-probe = "a 'b'" }
expect_status = ["200-299", "401"]
body_contains = "ok"
timeout_seconds = 9
purpose = ["readiness"]
[services.web.checks.socket]
kind = "unix"
socket = "/run/web.sock"
[services.db.checks."ping.1"]
kind = "exec"
command = ["/usr/bin/mysqladmin", "ping", "a\tb"]
purpose = ["startup", "readiness"]
[services.db.checks.port]
kind = "tcp"
address = "127.0.0.1:3306"
[services.db.checks.unit]
kind = "systemd"
[services.db.checks.plain]
kind = "http"
url = "http://127.0.0.1:1/"
[bake]
instance_type = "c7g.large"
subnet = "subnet-1"
vpc = "vpc-1"
ssh_interface = "private_ip"
ssh_port = 2222
ssh_timeout_seconds = 60
source_cidrs = ["10.0.0.0/8", "192.0.2.1/32"]
encrypt = true
kms_key = "alias/images"
"#;

    /// What a source image is given besides its files.
    const VOLUMES: &str = r#"
[image]
name = "shop"
imds = "optional"
[image.source]
ssm_parameter = "/aws/service/debian/release/13/latest/amd64"
[image.root_volume]
size_gib = 20
type = "gp3"
iops = 4000
throughput = 250
[[image.volume]]
device = "/dev/sdg"
size_gib = 100
delete_on_termination = false
[image.agent]
binary = "agent"
[bake]
instance_profile = "builder"
user_data = "builder.yaml"
wait_for_cloud_init = false
"#;

    fn config(text: &str) -> Config {
        Config::parse(&text.replace("\\\\", "\\"), "test.toml").unwrap()
    }

    fn facts(plugins: bool, endpoint: Option<&str>) -> Facts {
        Facts {
            region: "eu-central-1".to_owned(),
            endpoint: endpoint.map(ToOwned::to_owned),
            source: ImageId::parse("ami-0source").unwrap(),
            disks: ["/dev/xvda", "/dev/sdf"]
                .map(|device| Disk {
                    device: device.to_owned(),
                    size_gib: 8,
                    kind: "gp3".to_owned(),
                })
                .into(),
            root_device: "/dev/xvda".to_owned(),
            run: RunId::parse("20260102T030405Z-bake-abcdef").ok(),
            ami_name: "shop-20260102T030405Z-bake-abcdef-2d711642".to_owned(),
            tags: Tags::from([
                (
                    "imagebuilder:run".to_owned(),
                    "20260102T030405Z-bake-abcdef".to_owned(),
                ),
                ("imagebuilder:image".to_owned(), "shop".to_owned()),
            ]),
            plugins,
            scripts: vec![
                Script {
                    path: "provision/10-install.sh".to_owned(),
                    interpreter: vec!["/bin/sh".to_owned()],
                    reboot: false,
                },
                Script {
                    path: "provision/50-flask.py".to_owned(),
                    interpreter: vec!["/usr/bin/env".to_owned(), "python3".to_owned()],
                    reboot: true,
                },
                Script {
                    path: RECORD.to_owned(),
                    interpreter: vec!["/bin/sh".to_owned()],
                    reboot: false,
                },
            ],
            key_name: "imagebuilder-run".to_owned(),
        }
    }

    #[test]
    fn the_packer_template_for_1_6_6() {
        let templates = Templates::load(None).unwrap();
        insta::assert_snapshot!(
            templates
                .packer(&config(PLAIN), &facts(false, None))
                .unwrap()
        );
    }

    #[test]
    fn the_packer_template_for_a_current_release_with_everything() {
        let templates = Templates::load(None).unwrap();
        let facts = facts(true, Some("http://127.0.0.1:4800"));
        insta::assert_snapshot!(templates.packer(&config(EVERYTHING), &facts).unwrap());
    }

    #[test]
    fn the_packer_template_with_volumes_for_1_6_6() {
        let templates = Templates::load(None).unwrap();
        let facts = facts(false, None);
        insta::assert_snapshot!(templates.packer(&config(VOLUMES), &facts).unwrap());
    }

    #[test]
    fn the_packer_template_with_volumes_for_a_current_release() {
        let templates = Templates::load(None).unwrap();
        let facts = facts(true, None);
        let hops = VOLUMES.replace("imds = \"optional\"", "imds_hops = 2");
        insta::assert_snapshot!(templates.packer(&config(&hops), &facts).unwrap());
    }

    #[test]
    fn the_agents_settings() {
        let templates = Templates::load(None).unwrap();
        let subscription = Subscription {
            channel: "beta".to_owned(),
            url: "https://agents.example/a \"b\"".to_owned(),
            plain_http: true,
            ca_file: Some("/etc/imagebuilder/channel-ca.pem"),
        };
        let text = templates
            .agent(&config(EVERYTHING), Some(&subscription))
            .unwrap();
        let parsed: toml::Table = text.parse().unwrap();
        assert_eq!(
            parsed["services"]["orders"]["environment"]["ORDERS_STORE"].as_str(),
            Some("s3://bucket/with \"quotes\"")
        );
        assert_eq!(parsed["update"]["url"].as_str(), Some(&*subscription.url));
        insta::assert_snapshot!(text);
        let without: toml::Table = templates
            .agent(&config(EVERYTHING), None)
            .unwrap()
            .parse()
            .unwrap();
        assert!(!without.contains_key("update"));
    }

    #[test]
    fn the_units() {
        let templates = Templates::load(None).unwrap();
        let config = config(EVERYTHING);
        for unit in AGENT_UNITS {
            insta::assert_snapshot!(unit, templates.unit(&config, unit, None).unwrap());
        }
        let orders = ServiceName::parse("orders").unwrap();
        let text = templates
            .unit(&config, "orders.service", Some(&orders))
            .unwrap();
        assert!(
            text.contains("ExecStart=/usr/lib/orders/orders\n"),
            "{text}"
        );
        insta::assert_snapshot!("orders.service", text);
        let text = templates
            .unit(&config, "orders.socket", Some(&orders))
            .unwrap();
        insta::assert_snapshot!("orders.socket", text);
    }

    #[test]
    fn a_missing_variable_is_named_with_its_place_and_hint() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join(PACKER),
            "# first\nx = {{ variables.color | hcl }}\n",
        )
        .unwrap();
        let templates = Templates::load(Some(folder.path())).unwrap();
        let failure = templates
            .packer(&config(PLAIN), &facts(false, None))
            .unwrap_err();
        let error = anyhow::Error::from(failure);
        let printed = format!("{error:#}").replace(&folder.path().display().to_string(), "FOLDER");
        assert!(
            printed.starts_with("FOLDER/image.pkr.hcl.tera:2: "),
            "{printed}"
        );
        assert!(printed.contains("color"), "{printed}");
        assert_eq!(Exit::of(&error), Exit::Usage);
        assert!(
            run::exit::hint(&error)
                .unwrap()
                .contains("[image.variables]")
        );
    }

    #[test]
    fn a_broken_template_is_named_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        for (text, want) in [
            ("# first\n{% if %}\n", "image.pkr.hcl.tera:2: "),
            (
                "# first\n\n{{ image.name | nothing }}\n",
                "image.pkr.hcl.tera:3: ",
            ),
        ] {
            std::fs::write(folder.path().join(PACKER), text).unwrap();
            let printed = format!("{:#}", Templates::load(Some(folder.path())).unwrap_err());
            assert!(printed.contains(want), "{printed}");
        }
    }

    #[test]
    fn hcl_strings_begin_no_interpolation() {
        for (text, want) in [
            ("plain", r#""plain""#),
            ("a \"b\" \\ c", r#""a \"b\" \\ c""#),
            ("${var.x} %{if} $5 100%", r#""$${var.x} %%{if} $5 100%""#),
            ("two\nlines", r#""two\nlines""#),
        ] {
            assert_eq!(hcl_string(text), want);
        }
    }
}
