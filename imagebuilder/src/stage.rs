//! The stage: everything that goes into an image, gathered from disk and rendered, and its digest.
//!
//! Written into a run folder it is complete: `packer build` there needs nothing else of this machine. Reads the files
//! the configuration names; knows neither cloud nor Packer.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use contract::layout::CHANNEL;

use crate::channel::verify;
use crate::config::{Config, Service};
use crate::exit::Exit;
use crate::ids::{Digest, ServiceName};
use crate::image::{self, Inputs};
use crate::template::{self, Facts, Subscription, Templates};

/// The rendered Packer template's name in the run folder.
pub(crate) const TEMPLATE: &str = "image.pkr.hcl";
/// The folder that Packer uploads, by its name on the builder as well.
const UPLOAD: &str = "imagebuilder";
/// The folder of the provisioning scripts.
const PROVISION: &str = "provision";
/// Where the image says what it is.
const IMAGE_JSON: &str = "/etc/imagebuilder/image.json";
/// Where the agent is on the image.
const AGENT_BINARY: &str = "/usr/lib/imagebuilder-agent/factory/imagebuilder-agent";
/// Where its settings are.
const AGENT_TOML: &str = "/etc/imagebuilder/agent.toml";

/// Where the certificates for the channel are.
const CHANNEL_CA: &str = "/etc/imagebuilder/channel-ca.pem";

/// One file of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Staged {
    /// Its mode, octal.
    pub(crate) mode: String,
    /// What is in it.
    pub(crate) content: Vec<u8>,
}

/// Everything that goes into an image.
#[derive(Debug)]
pub(crate) struct Stage {
    templates: Templates,
    /// The image's files by absolute path.
    pub(crate) files: BTreeMap<String, Staged>,
    /// The units to enable.
    units: Vec<String>,
    /// The provisioning scripts by name, in order.
    scripts: BTreeMap<String, String>,
    /// The agent's digest.
    pub(crate) agent: Digest,
    /// The services' digests, for those that bring a binary.
    pub(crate) services: BTreeMap<String, Digest>,
    /// The channel's metadata by absolute path: on the image, but no input of it. It is signed anew every day, and
    /// only tells a new box what to take no step behind; what decides, the root and the settings, is an input.
    snapshot: BTreeMap<String, Staged>,
}

impl Stage {
    /// Gathers and renders what does not depend on a run. `root` is where relative paths start.
    /// `region` is where the configured bucket is taken to be.
    pub(crate) fn gather(
        config: &Config,
        root: &Path,
        region: Option<&str>,
    ) -> anyhow::Result<Self> {
        let folder = |path: &Option<PathBuf>| path.as_ref().map(|path| root.join(path));
        let templates = Templates::load(folder(&config.image.template).as_deref())?;
        let mut stage = Self {
            templates,
            files: BTreeMap::new(),
            units: Vec::new(),
            scripts: template::provision(folder(&config.image.provision).as_deref())?,
            agent: image::sha256(b""),
            services: BTreeMap::new(),
            snapshot: BTreeMap::new(),
        };
        let subscription = stage.subscribe(config, root, region)?;
        let agent = read(root, &config.image.agent.binary, "[image.agent] binary")?;
        stage.agent = image::sha256(&agent);
        stage.put(AGENT_BINARY, "0755", agent);
        stage.put(
            AGENT_TOML,
            "0644",
            stage
                .templates
                .agent(config, subscription.as_ref())?
                .into_bytes(),
        );
        for (name, service) in &config.services {
            let table = format!("[services.{name}]");
            if let Some(binary) = &service.binary {
                let content = read(root, binary, &format!("{table} binary"))?;
                stage
                    .services
                    .insert(name.to_string(), image::sha256(&content));
                stage.put(&Service::installed(name), "0755", content);
            }
            if let Some(settings) = &service.settings {
                let content = read(root, settings, &format!("{table} settings"))?;
                stage.put(&format!("/etc/{name}/{name}.toml"), "0644", content);
            }
        }
        for payload in &config.image.payload {
            let content = read(root, &payload.source, "[[image.payload]] source")?;
            stage.put(&payload.dest, &payload.mode, content);
        }
        for unit in template::AGENT_UNITS {
            let text = stage.templates.unit(config, unit, None)?;
            stage.unit(unit, text);
        }
        for (name, service) in &config.services {
            let unit = service.unit_name(name);
            let brought = stage
                .files
                .keys()
                .any(|dest| dest.ends_with(&format!("/{unit}")));
            if stage.templates.has(&template::unit_template(&unit)) {
                let text = stage.templates.unit(config, &unit, Some(name))?;
                stage.unit(&unit, text);
                stage.socket(config, &unit, name)?;
            } else if brought {
                stage.units.push(unit);
            } else {
                return Err(Exit::Usage
                    .error(format!("no unit {unit} for service {name}"))
                    .hint(format!(
                        "put {} into the folder `template` of [image], or bring the unit as a payload",
                        template::unit_template(&unit)
                    ))
                    .into());
            }
        }
        Ok(stage)
    }

    /// Puts the configured channel's root of trust onto the image, and says how boxes follow it.
    fn subscribe(
        &mut self,
        config: &Config,
        root: &Path,
        region: Option<&str>,
    ) -> anyhow::Result<Option<Subscription>> {
        let Some(channel) = &config.channel else {
            return Ok(None);
        };
        let known = verify::known(&root.join(&channel.root))?;
        self.put(&format!("{CHANNEL}/root.json"), "0644", known.to_vec());
        if let Some(ca_file) = &channel.ca_file {
            let content = read(root, ca_file, "[channel] ca_file")?;
            self.put(CHANNEL_CA, "0644", content);
        }
        Ok(Some(Subscription {
            channel: channel.name.to_string(),
            url: channel.url(root, region),
            plain_http: channel.plain_http,
            ca_file: channel.ca_file.as_ref().map(|_| CHANNEL_CA),
        }))
    }

    /// Puts what the channel says now onto the image, by file name.
    pub(crate) fn remember(&mut self, metadata: BTreeMap<String, Vec<u8>>) {
        for (name, content) in metadata {
            let mode = "0644".to_owned();
            self.snapshot.insert(
                format!("{CHANNEL}/metadata/{name}"),
                Staged { mode, content },
            );
        }
    }

    fn put(&mut self, dest: &str, mode: &str, content: Vec<u8>) {
        let mode = mode.to_owned();
        self.files.insert(dest.to_owned(), Staged { mode, content });
    }

    /// The socket of a service's `unit`, if there is a template of it, unless a payload brings one.
    fn socket(&mut self, config: &Config, unit: &str, name: &ServiceName) -> anyhow::Result<()> {
        let Some(stem) = unit.strip_suffix(".service") else {
            return Ok(());
        };
        let socket = format!("{stem}.socket");
        let brought = |dest: &String| dest.ends_with(&format!("/{socket}"));
        if self.templates.has(&template::unit_template(&socket)) && !self.files.keys().any(brought)
        {
            let text = self.templates.unit(config, &socket, Some(name))?;
            self.unit(&socket, text);
        }
        Ok(())
    }

    /// A rendered unit. Enabled if it can be: one without `[Install]` waits for another to start it.
    fn unit(&mut self, unit: &str, text: String) {
        if text.lines().any(|line| line.trim() == "[Install]") {
            self.units.push(unit.to_owned());
        }
        self.put(
            &format!("/etc/systemd/system/{unit}"),
            "0644",
            text.into_bytes(),
        );
    }

    /// The scripts as the Packer template names them.
    pub(crate) fn script_paths(&self) -> Vec<String> {
        self.scripts
            .keys()
            .map(|name| format!("{PROVISION}/{name}"))
            .collect()
    }

    /// The Packer template.
    pub(crate) fn packer(&self, config: &Config, facts: &Facts) -> anyhow::Result<String> {
        Ok(self.templates.packer(config, facts)?)
    }

    /// The digest over everything that goes into the image. `facts` must be neutral: the same for equal inputs.
    pub(crate) fn digest(
        &self,
        config: &Config,
        facts: &Facts,
        source_created: &str,
        packer: &str,
    ) -> anyhow::Result<(Digest, Vec<(String, Digest)>)> {
        let mut inputs = Inputs::default();
        inputs.add("source", facts.source.as_str().as_bytes());
        inputs.add("source created", source_created.as_bytes());
        inputs.add("packer", packer.as_bytes());
        inputs.add("template", self.packer(config, facts)?.as_bytes());
        for (name, text) in &self.scripts {
            inputs.add(&format!("script {name}"), text.as_bytes());
        }
        for (dest, file) in &self.files {
            inputs.add(&format!("mode {dest}"), file.mode.as_bytes());
            inputs.add(&format!("file {dest}"), &file.content);
        }
        inputs.add("units", self.units.join("\n").as_bytes());
        Ok(inputs.finish())
    }

    /// Writes a run folder that Packer can build from. `image_json` is what the image will say of itself.
    pub(crate) fn write(
        &self,
        folder: &Path,
        template: &str,
        image_json: &serde_json::Value,
    ) -> anyhow::Result<()> {
        let upload = folder.join(UPLOAD);
        let mut list = String::new();
        for (dest, file) in self.files.iter().chain(&self.snapshot) {
            let _ = writeln!(list, "{} {dest}", file.mode);
            write(
                &upload.join("root").join(dest.trim_start_matches('/')),
                &file.content,
                0o644,
            )?;
        }
        let _ = writeln!(list, "0644 {IMAGE_JSON}");
        let json = format!("{image_json:#}\n");
        write(
            &upload.join("root").join(IMAGE_JSON.trim_start_matches('/')),
            json.as_bytes(),
            0o644,
        )?;
        write(&upload.join("files"), list.as_bytes(), 0o644)?;
        let units: String = self.units.iter().map(|unit| format!("{unit}\n")).collect();
        write(&upload.join("units"), units.as_bytes(), 0o644)?;
        for (name, text) in &self.scripts {
            write(&folder.join(PROVISION).join(name), text.as_bytes(), 0o755)?;
        }
        write(&folder.join(TEMPLATE), template.as_bytes(), 0o644)
    }
}

/// Writes a file and the folders above it.
pub(crate) fn write(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(content))
        .with_context(|| format!("write {}", path.display()))
}

fn read(root: &Path, path: &Path, key: &str) -> anyhow::Result<Vec<u8>> {
    let path = root.join(path);
    std::fs::read(&path).map_err(|error| {
        Exit::Usage
            .error(format!("cannot read {}", path.display()))
            .because(error)
            .hint(format!(
                "{key} names it; relative paths start at the configuration"
            ))
            .into()
    })
}

/// Reads a text file the configuration names under `key`.
pub(crate) fn read_text(root: &Path, path: &Path, key: &str) -> anyhow::Result<String> {
    String::from_utf8(read(root, path, key)?).map_err(|_| {
        Exit::Usage
            .error(format!("{key}: {} is not text", path.display()))
            .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOP: &str = r#"
[image]
name = "shop"
[image.source]
owners = ["136693071363"]
name = "debian-12-*"
[image.agent]
binary = "binary"
[services.orders]
binary = "binary"
health_url = "http://127.0.0.1:9090/gtg"
[services.orders.environment]
ORDERS_LISTEN = "127.0.0.1:9090"
"#;
    const SOCKET: &str = "/etc/systemd/system/orders.socket";

    fn gather(text: &str) -> Stage {
        let root = tempfile::tempdir().unwrap();
        for name in ["binary", "orders.socket"] {
            std::fs::write(root.path().join(name), name).unwrap();
        }
        let config = Config::parse(text, "test.toml").unwrap();
        Stage::gather(&config, root.path(), None).unwrap()
    }

    #[test]
    fn a_services_socket_comes_along_and_is_the_services_to_start() {
        let stage = gather(SHOP);
        let socket = String::from_utf8_lossy(&stage.files[SOCKET].content);
        assert!(socket.contains("ListenStream=127.0.0.1:9090\n"), "{socket}");
        assert!(stage.units.contains(&"orders.service".to_owned()));
        assert!(!stage.units.contains(&"orders.socket".to_owned()));
    }

    #[test]
    fn a_socket_that_a_payload_brings_is_left_as_it_is() {
        let payload = format!(
            "{SHOP}[[image.payload]]\nsource = \"orders.socket\"\ndest = \"{SOCKET}\"\nmode = \"0644\"\n"
        );
        assert_eq!(gather(&payload).files[SOCKET].content, b"orders.socket");
    }
}
