//! Staging: everything that goes into an image, gathered from disk and rendered, and its digest.
//!
//! The written run folder is complete: `packer build` needs nothing else of this machine. Reads the files
//! the configuration names; uses neither the cloud nor Packer.

mod contents;
mod doubts;
mod image_tests;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use contract::layout::CHANNEL;

use self::contents::Contents;
use crate::channel::verify;
use crate::config::{Config, Service};
use crate::image::{self, Inputs};
use crate::program::{self, Kind, Program};
use crate::requirements;
use crate::shebang;
use crate::template::{self, Facts, Script, Subscription, Templates};
use crate::user_data::UserData;
use cloud::ids::{Digest, ServiceName};
use run::exit::Exit;

/// The rendered Packer template's name in the run folder.
pub(crate) const TEMPLATE: &str = "image.pkr.hcl";
/// Waits for cloud-init: on the builder, before anything is uploaded.
const WAIT: &str = include_str!("../../packer/wait-for-cloud-init.sh");
/// The folder that Packer uploads, under the same name on the builder.
const UPLOAD: &str = "imagebuilder";
/// The folder of the provisioning scripts.
const PROVISION: &str = "provision";
/// The first of the scripts that come after those of the configuration.
const AFTER_SCRIPTS: &str = "80-";
/// The image's description of itself.
const IMAGE_JSON: &str = "/etc/imagebuilder/image.json";
/// Where the agent is on the image.
const AGENT_BINARY: &str = "/usr/lib/imagebuilder-agent/factory/imagebuilder-agent";
/// Where its settings are.
const AGENT_TOML: &str = "/etc/imagebuilder/agent.toml";

/// Where the certificates for the channel are.
const CHANNEL_CA: &str = "/etc/imagebuilder/channel-ca.pem";

/// One file of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StagedFile {
    /// Its mode, octal.
    pub(crate) mode: String,
    /// What is in it.
    pub(crate) content: Content,
}

/// What is in a file of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// These bytes, which were rendered or are small.
    Bytes(Vec<u8>),
    /// The content of a local file, however large: never read into memory as a whole.
    File {
        /// The file.
        path: PathBuf,
        /// What was in it when it was gathered.
        digest: Digest,
    },
}

impl Content {
    fn digest(&self) -> Digest {
        match self {
            Self::Bytes(bytes) => image::sha256(bytes),
            Self::File { digest, .. } => digest.clone(),
        }
    }

    fn write(&self, to: &Path) -> anyhow::Result<()> {
        match self {
            Self::Bytes(bytes) => write(to, bytes, 0o644),
            Self::File { path, digest } => copy(path, to, digest),
        }
    }
}

/// A provisioning script.
#[derive(Debug)]
struct Provision {
    text: String,
    interpreter: Vec<String>,
    /// Whether its first line names the interpreter.
    says_so: bool,
}

/// The staged content of an image.
#[derive(Debug)]
pub(crate) struct Staging {
    templates: Templates,
    /// The image's files by absolute path.
    pub(crate) files: BTreeMap<String, StagedFile>,
    /// The units to enable.
    units: Vec<String>,
    /// The provisioning scripts by name, in the order in which they run.
    scripts: BTreeMap<String, Provision>,
    /// What the image contains beside files.
    contents: Contents,
    /// The requirements of the programs among the files, by absolute path.
    programs: BTreeMap<String, Program>,
    /// The agent's digest.
    pub(crate) agent: Digest,
    /// The services' digests, for those that bring a binary.
    pub(crate) services: BTreeMap<String, Digest>,
    /// The channel's metadata by absolute path: on the image, but no input of its digest. It is signed again every day, and
    /// only sets the oldest metadata that a new instance accepts; the root and the settings, which decide, are inputs.
    snapshot: BTreeMap<String, StagedFile>,
    /// The builder's user data: not on the image, but what it does there is.
    user_data: Option<Vec<u8>>,
}

impl Staging {
    /// Gathers and renders what does not depend on a run. `root` is where relative paths start.
    /// `region` is the region of the configured bucket.
    pub(crate) fn gather(
        config: &Config,
        root: &Path,
        region: Option<&str>,
    ) -> anyhow::Result<Self> {
        let template = folder(root, config.image.template.as_deref(), "template")?;
        let provision = folder(root, config.image.provision.as_deref(), "provision")?;
        let templates = Templates::load(template.as_deref())?;
        let mut staging = Self {
            templates,
            files: BTreeMap::new(),
            units: Vec::new(),
            scripts: scripts(provision.as_deref())?,
            contents: Contents::default(),
            programs: BTreeMap::new(),
            agent: image::sha256(b""),
            services: BTreeMap::new(),
            snapshot: BTreeMap::new(),
            user_data: UserData::read(config, root)?.builder,
        };
        let subscription = staging.subscribe(config, root, region)?;
        let agent = file(root, &config.image.agent.binary, "[image.agent] binary")?;
        staging.agent = agent.digest();
        staging.program(
            AGENT_BINARY,
            &agent,
            config,
            Scripts::Refused,
            "[image.agent] binary",
        )?;
        staging.put(AGENT_BINARY, "0755", agent)?;
        staging.put(
            AGENT_TOML,
            "0644",
            staging
                .templates
                .agent(config, subscription.as_ref())?
                .into_bytes(),
        )?;
        for (name, service) in &config.services {
            let table = format!("[services.{name}]");
            if let Some(binary) = &service.binary {
                let key = format!("{table} binary");
                let content = file(root, binary, &key)?;
                let dest = Service::installed(name);
                staging.program(&dest, &content, config, Scripts::Allowed, &key)?;
                staging.services.insert(name.to_string(), content.digest());
                staging.put(&Service::installed(name), "0755", content)?;
            }
            if let Some(settings) = &service.settings {
                let content = file(root, settings, &format!("{table} settings"))?;
                staging.put(&format!("/etc/{name}/{name}.toml"), "0644", content)?;
            }
        }
        for payload in &config.image.payload {
            if requirements::is_lock(&payload.source) {
                let text = read_text(root, &payload.source, "[[image.payload]] source")?;
                requirements::check(&root.join(&payload.source), &text)?;
            }
        }
        staging.contents(config, root)?;
        staging.image_tests(config, root)?;
        for unit in template::AGENT_UNITS {
            let text = staging.templates.unit(config, unit, None)?;
            staging.unit(unit, text)?;
        }
        for (name, service) in &config.services {
            staging.service_unit(config, name, service)?;
        }
        Ok(staging)
    }

    /// The unit of a service: on the image already, one of the configuration's own, rendered, or a payload.
    fn service_unit(
        &mut self,
        config: &Config,
        name: &ServiceName,
        service: &Service,
    ) -> anyhow::Result<()> {
        let unit = service.unit_name(name);
        let brought = |dest: &String| dest.ends_with(&format!("/{unit}"));
        if service.installed {
            self.contents.expects(&unit);
            self.enable(&unit);
        } else if self.contents.brings(&unit) {
            // Enabled as its own table has it.
        } else if self.templates.has(&template::unit_template(&unit)) {
            let text = self.templates.unit(config, &unit, Some(name))?;
            self.unit(&unit, text)?;
            self.socket(config, &unit, name)?;
        } else if self.files.keys().any(brought) {
            self.enable(&unit);
        } else {
            return Err(Exit::Usage
                .error(format!("no unit {unit} for service {name}"))
                .hint(format!(
                    "bring it with [[image.unit]], or set `installed = true` in [services.{name}] if a package brings it"
                ))
                .into());
        }
        Ok(())
    }

    fn enable(&mut self, unit: &str) {
        if !self.units.iter().any(|enabled| enabled == unit) {
            self.units.push(unit.to_owned());
        }
    }

    /// Puts the configured channel's root of trust onto the image, and the agent's settings for following it.
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
        self.put(&format!("{CHANNEL}/root.json"), "0644", known.to_vec())?;
        if let Some(ca_file) = &channel.ca_file {
            let content = file(root, ca_file, "[channel] ca_file")?;
            self.put(CHANNEL_CA, "0644", content)?;
        }
        Ok(Some(Subscription {
            channel: channel.name.to_string(),
            url: channel.url(root, region),
            plain_http: channel.plain_http,
            ca_file: channel.ca_file.as_ref().map(|_| CHANNEL_CA),
        }))
    }

    /// Puts the channel's current metadata onto the image, by file name.
    pub(crate) fn remember(&mut self, metadata: BTreeMap<String, Vec<u8>>) {
        for (name, content) in metadata {
            let mode = "0644".to_owned();
            self.snapshot.insert(
                format!("{CHANNEL}/metadata/{name}"),
                StagedFile {
                    mode,
                    content: Content::Bytes(content),
                },
            );
        }
    }

    fn put(&mut self, dest: &str, mode: &str, content: impl Into<Content>) -> anyhow::Result<()> {
        let staged = StagedFile {
            mode: mode.to_owned(),
            content: content.into(),
        };
        if self.files.insert(dest.to_owned(), staged).is_some() {
            return Err(Exit::Usage
                .error(format!("two files are to be {dest} on the image"))
                .hint("one of them is this program's own, or a service's: give the payload another `dest`, or remove it")
                .into());
        }
        Ok(())
    }

    /// Refuses what the image could not run, and records the requirements of the rest, which the builder checks.
    fn program(
        &mut self,
        dest: &str,
        content: &Content,
        config: &Config,
        scripts: Scripts,
        key: &str,
    ) -> anyhow::Result<()> {
        let Content::File { path, .. } = content else {
            return Ok(());
        };
        let arch = config.image.arch;
        let why = match program::read(path)? {
            Kind::Elf(program) if program.machine == arch => {
                self.programs.insert(dest.to_owned(), program);
                return Ok(());
            }
            Kind::Script if scripts == Scripts::Allowed => return Ok(()),
            Kind::Elf(program) => format!(
                "is a program for {}, and the image is {}",
                program.machine.as_str(),
                arch.as_str()
            ),
            Kind::Script => "is a script, not a program".to_owned(),
            Kind::Other(what) => format!("is {what}"),
        };
        Err(Exit::Usage
            .error(format!("{key}: {} {why}", path.display()))
            .hint(format!("name a program for Linux on {}", arch.as_str()))
            .into())
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
            self.unit(&socket, text)?;
        }
        Ok(())
    }

    /// A rendered unit. Enabled if it can be: one without `[Install]` waits for another to start it.
    fn unit(&mut self, unit: &str, text: String) -> anyhow::Result<()> {
        if text.lines().any(|line| line.trim() == "[Install]") {
            self.enable(unit);
        }
        self.put(
            &format!("/etc/systemd/system/{unit}"),
            "0644",
            text.into_bytes(),
        )
    }

    /// The scripts as the Packer template names them: the configuration's own when everything else is in place.
    pub(crate) fn scripts(&self) -> Vec<Script> {
        let script = |(name, script): (&String, &Provision)| Script {
            path: format!("{PROVISION}/{name}"),
            interpreter: script.interpreter.clone(),
            reboot: false,
        };
        let before = self.scripts.range(..AFTER_SCRIPTS.to_owned()).map(script);
        let after = self.scripts.range(AFTER_SCRIPTS.to_owned()..).map(script);
        before.chain(self.contents.scripts()).chain(after).collect()
    }

    /// The scripts whose first line names no interpreter.
    pub(crate) fn without_shebang(&self) -> impl Iterator<Item = &str> {
        let all = self.scripts.iter();
        all.filter(|(_, script)| !script.says_so)
            .map(|(name, _)| name.as_str())
    }

    /// The Packer template.
    pub(crate) fn packer(&self, config: &Config, facts: &Facts) -> anyhow::Result<String> {
        Ok(self.templates.packer(config, facts)?)
    }

    /// The digest over everything that goes into the image. `facts` must be neutral: the same for equal inputs.
    ///
    /// Rule: it covers what is in the image, not how it was built. Where the builder ran, who could reach it and how long
    /// the time limits are make no other image, so the template counts as it is rendered without them. The user's own tags are on
    /// the image, not in it: a reused image gets them when it is published. The builder's user data changes what is in it.
    pub(crate) fn digest(
        &self,
        config: &Config,
        facts: &Facts,
        source_created: &str,
    ) -> anyhow::Result<(Digest, Vec<(String, Digest)>)> {
        let mut inputs = Inputs::default();
        inputs.add("source", facts.source.as_str().as_bytes());
        inputs.add("source created", source_created.as_bytes());
        let template = self.packer(&config.of_the_image_only(), facts)?;
        inputs.add("template", template.as_bytes());
        for (name, script) in &self.scripts {
            inputs.add(&format!("script {name}"), script.text.as_bytes());
        }
        for (dest, file) in &self.files {
            inputs.add(&format!("mode {dest}"), file.mode.as_bytes());
            inputs.add_digest(&format!("file {dest}"), file.content.digest());
        }
        inputs.add("units", self.units.join("\n").as_bytes());
        self.contents.digest(&mut inputs);
        if let Some(user_data) = &self.user_data {
            inputs.add("user data", user_data);
        }
        Ok(inputs.finish())
    }

    /// Writes a run folder that Packer can build from. `image_json` is the image's description of itself.
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
            let at = upload.join("root").join(dest.trim_start_matches('/'));
            file.content.write(&at)?;
        }
        let _ = writeln!(list, "0644 {IMAGE_JSON}");
        let json = format!("{image_json:#}\n");
        write(
            &upload.join("root").join(IMAGE_JSON.trim_start_matches('/')),
            json.as_bytes(),
            0o644,
        )?;
        write(&upload.join("files"), list.as_bytes(), 0o644)?;
        let mut programs = String::new();
        for (dest, program) in &self.programs {
            let loader = program.loader.as_deref().unwrap_or("-");
            let glibc = program
                .glibc
                .map(|(major, minor)| format!("{major}.{minor}"));
            let _ = writeln!(
                programs,
                "{dest} {loader} {}",
                glibc.as_deref().unwrap_or("-")
            );
        }
        write(&upload.join("programs"), programs.as_bytes(), 0o644)?;
        let units: String = self.units.iter().map(|unit| format!("{unit}\n")).collect();
        write(&upload.join("units"), units.as_bytes(), 0o644)?;
        self.contents.write(folder)?;
        for (name, script) in &self.scripts {
            let path = folder.join(PROVISION).join(name);
            write(&path, script.text.as_bytes(), 0o755)?;
        }
        write(&folder.join(template::WAIT), WAIT.as_bytes(), 0o755)?;
        if let Some(user_data) = &self.user_data {
            write(&folder.join(template::USER_DATA), user_data, 0o600)?;
        }
        write(&folder.join(TEMPLATE), template.as_bytes(), 0o644)
    }
}

/// A folder that [image] names. It must contain nothing else, since all of its files are used.
fn folder(root: &Path, path: Option<&Path>, key: &str) -> anyhow::Result<Option<PathBuf>> {
    let Some(path) = path.map(|path| root.join(path)) else {
        return Ok(None);
    };
    // A missing folder is refused when it is read.
    if let (Ok(folder), Ok(root)) = (path.canonicalize(), root.canonicalize())
        && root.starts_with(folder)
    {
        return Err(Exit::Usage
            .error(format!(
                "[image] {key}: {} contains the configuration",
                path.display()
            ))
            .hint("name a separate folder: all of its files are used")
            .into());
    }
    Ok(Some(path))
}

/// The built-in scripts with those of `folder` laid over, and what runs each.
fn scripts(folder: Option<&Path>) -> anyhow::Result<BTreeMap<String, Provision>> {
    let mut scripts = BTreeMap::new();
    for (name, text) in template::provision(folder)? {
        let (interpreter, says_so) = shebang::interpreter(&text).map_err(|why| {
            Exit::Usage
                .error(format!("provisioning script {name}: {why}"))
                .hint("begin it with a line such as #!/bin/sh or #!/usr/bin/env python3")
        })?;
        let script = Provision {
            text,
            interpreter,
            says_so,
        };
        scripts.insert(name, script);
    }
    Ok(scripts)
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

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

/// Copies a file piece by piece (or by reference, where the file system can), and verifies that it has not changed.
fn copy(from: &Path, to: &Path, digest: &Digest) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    std::fs::copy(from, to)
        .with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o644))
        .with_context(|| format!("set the mode of {}", to.display()))?;
    if image::sha256_of(to)? != *digest {
        return Err(Exit::Refused
            .error(format!("{} changed while it was read", from.display()))
            .hint("try again when its build has finished")
            .into());
    }
    Ok(())
}

fn unreadable(path: &Path, key: &str, why: impl Into<anyhow::Error>) -> anyhow::Error {
    Exit::Usage
        .error(format!("cannot read {}", path.display()))
        .because(why)
        .hint(format!(
            "{key} names it; relative paths start at the configuration"
        ))
        .into()
}

/// A file that the configuration names under `key`.
fn file(root: &Path, path: &Path, key: &str) -> anyhow::Result<Content> {
    let path = root.join(path);
    let digest = image::sha256_of(&path).map_err(|error| unreadable(&path, key, error))?;
    Ok(Content::File { path, digest })
}

/// Reads a text file the configuration names under `key`.
fn read_text(root: &Path, path: &Path, key: &str) -> anyhow::Result<String> {
    let path = root.join(path);
    let bytes = std::fs::read(&path).map_err(|error| unreadable(&path, key, error))?;
    String::from_utf8(bytes).map_err(|_| {
        Exit::Usage
            .error(format!("{key}: {} is not text", path.display()))
            .into()
    })
}

/// Whether a script is accepted where a program is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scripts {
    Allowed,
    Refused,
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

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("binary"), test_support::elf(62, "")).unwrap();
        std::fs::write(root.path().join("orders.socket"), "orders.socket").unwrap();
        root
    }

    fn gather(text: &str) -> Staging {
        let config = Config::parse(text, "test.toml").unwrap();
        Staging::gather(&config, root().path(), None).unwrap()
    }

    fn text(staging: &Staging, dest: &str) -> String {
        match &staging.files[dest].content {
            Content::Bytes(bytes) => String::from_utf8(bytes.clone()).unwrap(),
            Content::File { path, .. } => path.file_name().unwrap().to_str().unwrap().to_owned(),
        }
    }

    fn refusal(text: &str, root: &Path) -> String {
        let config = Config::parse(text, "test.toml").unwrap();
        let error = Staging::gather(&config, root, None).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Usage);
        format!("{error:#}")
    }

    #[test]
    fn programs_that_no_instance_could_run_are_refused() {
        let root = root();
        let at = |name: &str, content: &[u8]| {
            std::fs::write(root.path().join(name), content).unwrap();
        };
        at("arm", &test_support::elf(183, ""));
        at("text", b"hello\n");
        at("empty", b"");
        at("script", b"#!/usr/bin/env python3\n");
        for (name, service, want) in [
            (
                "arm",
                true,
                "is a program for arm64, and the image is x86_64",
            ),
            ("text", true, "is neither a program nor a script"),
            ("empty", true, "is an empty file"),
            ("arm", false, "is a program for arm64"),
            ("text", false, "is neither a program nor a script"),
            ("empty", false, "is an empty file"),
            ("script", false, "is a script, not a program"),
        ] {
            let place = if service {
                "[services.orders]\n"
            } else {
                "[image.agent]\n"
            };
            let old = format!("{place}binary = \"binary\"");
            assert!(SHOP.contains(&old));
            let message = refusal(
                &SHOP.replace(&old, &format!("{place}binary = \"{name}\"")),
                root.path(),
            );
            assert!(
                message.contains(want),
                "{name}, a service {service}: {message}"
            );
        }
        let script = SHOP.replace(
            "[services.orders]\nbinary = \"binary\"",
            "[services.orders]\nbinary = \"script\"",
        );
        let config = Config::parse(&script, "test.toml").unwrap();
        Staging::gather(&config, root.path(), None).unwrap();
    }

    #[test]
    fn unstartable_programs_are_reported_on_the_builder() {
        let staging = tempfile::tempdir().unwrap();
        let check = |programs: &str| {
            std::fs::write(staging.path().join("programs"), programs).unwrap();
            let mut script = std::process::Command::new("sh");
            let script = script.arg("-s").env("IMAGEBUILDER_STAGE", staging.path());
            let path = staging.path().join("script");
            std::fs::write(&path, &template::built_in()["provision/05-programs.sh"]).unwrap();
            let output = script
                .stdin(std::fs::File::open(path).unwrap())
                .output()
                .unwrap();
            (
                output.status.success(),
                String::from_utf8(output.stderr).unwrap(),
            )
        };
        assert_eq!(
            check("/a - -\n/b /bin/sh 2.2.5\n/c /bin/sh 2.9\n"),
            (true, String::new())
        );
        let (good, text) = check("/a - -\n/b /bin/sh 99.1\n/c /lib/ld-none.so 2.9\n");
        assert!(!good);
        assert!(
            text.contains("/b needs the GNU C library 99.1, and this image has 2."),
            "{text}"
        );
        assert!(
            text.contains("/c is started by /lib/ld-none.so, which"),
            "{text}"
        );
    }

    #[test]
    fn the_wait_for_cloud_init_is_bounded_and_tolerant() {
        let folder = tempfile::tempdir().unwrap();
        let wait = |path: &Path| {
            let script = folder.path().join("wait");
            std::fs::write(&script, WAIT).unwrap();
            let mut command = std::process::Command::new("/bin/sh");
            let output = command.arg(script).env("PATH", path).output().unwrap();
            let printed = [output.stdout, output.stderr].concat();
            (output.status.code(), String::from_utf8(printed).unwrap())
        };
        // Without cloud-init.
        assert_eq!(wait(folder.path()), (Some(0), String::new()));
        let program = |name: &str, text: &str| {
            test_support::write_program(&folder.path().join(name), &format!("#!/bin/sh\n{text}\n"));
        };
        program("timeout", "shift; exec \"$@\"");
        for (code, exit, want) in [
            (0, 0, ""),
            (2, 0, "recoverable errors"),
            (1, 1, "failed on the builder (exit code 1)\nits details\n"),
            (124, 1, "did not end within 600 s"),
        ] {
            let text = format!(
                "case $2 in --wait) exit {code} ;; --long) echo its details; exit 1 ;; esac"
            );
            program("cloud-init", &text);
            let (found, printed) = wait(folder.path());
            assert_eq!(found, Some(exit), "{code}: {printed}");
            assert!(printed.contains(want), "{code}: {printed}");
        }
    }

    #[test]
    fn the_digest_is_of_what_is_in_the_image() {
        let root = root();
        let facts = Facts {
            plugins: true,
            ..Facts::of_no_bake(cloud::ids::ImageId::parse("ami-1").unwrap())
        };
        let digest = |text: &str| {
            let config = Config::parse(text, "test.toml").unwrap();
            let staging = Staging::gather(&config, root.path(), None).unwrap();
            staging.digest(&config, &facts, "").unwrap().0
        };
        let plain = digest(SHOP);
        for how in [
            "source_cidrs = [\"192.0.2.1/32\"]",
            "subnet = \"subnet-1\"\nvpc = \"vpc-1\"",
            "instance_type = \"c7i.large\"",
            "timeout_seconds = 60\nssh_timeout_seconds = 61",
            "ssh_interface = \"private_ip\"\nssh_port = 2222",
            "gate = { timeout_seconds = 60, instance_type = \"t3.large\" }",
            "share = [\"123456789012\"]",
            "region = \"eu-west-1\"",
            "instance_profile = \"bake\"",
            "wait_for_cloud_init = false",
        ] {
            assert_eq!(digest(&format!("{SHOP}[bake]\n{how}\n")), plain, "{how}");
        }
        let archives = "[image.packages]\narchives = [\"http://127.0.0.1/x sid main\"]\n";
        assert_eq!(digest(&format!("{SHOP}{archives}")), plain);
        let tagged = format!("{SHOP}[tags]\nteam = \"shop\"\n");
        assert_eq!(digest(&tagged), plain);
        let hops = SHOP.replace(
            "name = \"shop\"",
            "name = \"shop\"\nimds_hops = 2\nboot_mode = \"uefi\"",
        );
        assert_eq!(digest(&hops), plain);
        for what in [
            "[bake]\nencrypt = true\n",
            "[bake]\nuser_data = \"orders.socket\"\n",
            "[image.root_volume]\nsize_gib = 20\n",
            "[[image.volume]]\ndevice = \"/dev/sdf\"\nsize_gib = 20\n",
        ] {
            assert_ne!(digest(&format!("{SHOP}{what}")), plain, "{what}");
        }
        for key in ["imds = \"optional\"", "imds_network = \"unlocked\""] {
            let other = format!("name = \"shop\"\n{key}");
            assert_ne!(
                digest(&SHOP.replace("name = \"shop\"", &other)),
                plain,
                "{key}"
            );
        }
        let other = SHOP.replace("9090", "9091");
        assert_ne!(digest(&other), plain);
        std::fs::write(root.path().join("binary"), test_support::elf(62, "2")).unwrap();
        assert_ne!(digest(SHOP), plain);
    }

    #[test]
    fn a_file_that_changes_while_it_is_staged_is_refused() {
        let root = root();
        let config = Config::parse(SHOP, "test.toml").unwrap();
        let staging = Staging::gather(&config, root.path(), None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        staging
            .write(folder.path(), "", &serde_json::json!({}))
            .unwrap();
        std::fs::write(root.path().join("binary"), test_support::elf(62, "2")).unwrap();
        let error = staging.write(folder.path(), "", &serde_json::json!({}));
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("changed while it was read"), "{error}");
    }

    #[test]
    fn a_folder_that_holds_the_configuration_is_refused() {
        let root = root();
        let at = root.path().join("project");
        std::fs::create_dir_all(at.join("provision")).unwrap();
        std::fs::copy(root.path().join("binary"), at.join("binary")).unwrap();
        let absolute = root.path().display().to_string();
        for key in ["provision", "template"] {
            for folder in [".", "./", "..", "provision/..", "", &absolute] {
                let named = format!("name = \"shop\"\n{key} = \"{folder}\"");
                let message = refusal(&SHOP.replace("name = \"shop\"", &named), &at);
                assert!(message.contains("contains the configuration"), "{message}");
            }
        }
        let named = "name = \"shop\"\nprovision = \"provision\"";
        let own = SHOP.replace("name = \"shop\"", named);
        let config = Config::parse(&own, "test.toml").unwrap();
        Staging::gather(&config, &at, None).unwrap();
    }

    #[test]
    fn two_files_for_one_place_are_refused() {
        for dest in [AGENT_TOML, AGENT_BINARY, "/usr/lib/orders/orders"] {
            let payload =
                format!("{SHOP}[[image.payload]]\nsource = \"orders.socket\"\ndest = \"{dest}\"\n");
            let message = refusal(&payload, root().path());
            assert!(message.contains("two files are to be"), "{message}");
        }
    }

    #[test]
    fn a_services_socket_comes_along_and_is_the_services_to_start() {
        let staging = gather(SHOP);
        let socket = text(&staging, SOCKET);
        assert!(socket.contains("ListenStream=127.0.0.1:9090\n"), "{socket}");
        assert!(staging.units.contains(&"orders.service".to_owned()));
        assert!(!staging.units.contains(&"orders.socket".to_owned()));
    }

    #[test]
    fn a_socket_that_a_payload_brings_is_left_as_it_is() {
        let payload = format!(
            "{SHOP}[[image.payload]]\nsource = \"orders.socket\"\ndest = \"{SOCKET}\"\nmode = \"0644\"\n"
        );
        assert_eq!(text(&gather(&payload), SOCKET), "orders.socket");
    }
}
