//! Packer: find it, check its version, run it, understand its machine-readable output.
//!
//! Packer writes its output straight into a file of the run folder, which we poll. So it is not killed by a broken
//! pipe when we are killed, and no line is lost: a command that finds the run dead reads the same file. This
//! module does not use the cloud.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

use cloud::Credentials;
use run::cancel::Cancel;
use run::exit::Exit;

/// The oldest release the template is rendered for: Debian 12's.
const OLDEST: Version = Version(1, 6, 6);
/// From this release on the Amazon builder is a plugin and `required_plugins` is understood.
const PLUGINS_SINCE: Version = Version(1, 7, 0);
/// The file of Packer's machine-readable output, in the run folder.
pub(crate) const OUTPUT: &str = "packer.out";
/// The file of everything else that Packer prints.
pub(crate) const ERRORS: &str = "packer.err";
/// The file of its process group.
const GROUP: &str = "packer.pid";
/// Packer's own debug log.
const LOG: &str = "packer.log";
/// How often we check whether Packer wrote more.
const POLL: Duration = Duration::from_millis(50);
/// How long Packer may take to clean up after an interrupt. It waits until its instance is terminated, which takes
/// minutes on EC2; whatever is left of it then, the sweep finds by its tag.
const CLEAN_UP: Duration = Duration::from_secs(120);
/// How many bytes of a line are read: a provisioner may print lines of any length.
const LONGEST: usize = 1 << 16;

/// A release of Packer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u32, u32, u32);

impl Version {
    /// Whether the Amazon builder comes as a plugin.
    pub(crate) fn has_plugins(self) -> bool {
        self >= PLUGINS_SINCE
    }

    /// From `1.6.6` or what `packer version` prints.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.lines().find_map(|line| {
            let line = line.trim();
            line.strip_prefix("Packer v").or_else(|| {
                line.starts_with(|c: char| c.is_ascii_digit())
                    .then_some(line)
            })
        })?;
        let mut numbers = text
            .split(['.', '-', '+', ' '])
            .map_while(|part| part.parse::<u32>().ok());
        Some(Self(
            numbers.next()?,
            numbers.next()?,
            numbers.next().unwrap_or(0),
        ))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// The options of this call for Packer: its plugin makes calls of its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    /// The profile; while credentials are lent, those are used instead.
    pub(crate) profile: Option<String>,
    /// The region.
    pub(crate) region: Option<String>,
    /// The endpoint of every service.
    pub(crate) endpoint_url: Option<String>,
}

impl Environment {
    /// Replaces what the environment has of each: an option is over a variable.
    fn apply(&self, command: &mut Command) {
        if let Some(profile) = &self.profile {
            for name in KEYS {
                command.env_remove(name);
            }
            command.env("AWS_PROFILE", profile);
        }
        if let Some(region) = &self.region {
            command
                .env("AWS_REGION", region)
                .env("AWS_DEFAULT_REGION", region);
        }
        if let Some(url) = &self.endpoint_url {
            for (name, _) in std::env::vars_os() {
                if name.to_string_lossy().starts_with("AWS_ENDPOINT_URL_") {
                    command.env_remove(name);
                }
            }
            command
                .env_remove("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")
                .env("AWS_ENDPOINT_URL", url);
        }
    }
}

/// Variables with credentials, or the name of some.
const KEYS: [&str; 6] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
];

/// A Packer that was found and is new enough.
#[derive(Clone, Debug)]
pub(crate) struct Packer {
    path: PathBuf,
    environment: Environment,
    /// Its release.
    pub(crate) version: Version,
}

/// How a build ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// Packer exited.
    Exited(ExitStatus),
    /// The operator requested a stop.
    Cancelled,
    /// The bake's deadline passed.
    TimedOut,
    /// The future that was awaited in parallel completed.
    Interrupted,
}

impl Packer {
    /// Finds Packer on PATH and checks its version.
    pub(crate) async fn find() -> anyhow::Result<Self> {
        let path = which::which("packer")
            .map_err(|_| Exit::Refused.error("packer is not on PATH").hint(INSTALL))?;
        let output = base(&path)
            .arg("version")
            .output()
            .await
            .with_context(|| format!("run {} version", path.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let Some(version) = Version::parse(&text) else {
            return Err(Exit::Refused
                .error(format!("{} is not HashiCorp's Packer", path.display()))
                .hint("cracklib also ships a program called packer: put HashiCorp's first on PATH")
                .into());
        };
        if version < OLDEST {
            return Err(Exit::Refused
                .error(format!(
                    "{} is {version}, {OLDEST} is the oldest supported release",
                    path.display()
                ))
                .hint(INSTALL)
                .into());
        }
        Ok(Self {
            path,
            environment: Environment::default(),
            version,
        })
    }

    /// With the options of this call in its environment.
    pub(crate) fn with_environment(self, environment: Environment) -> Self {
        Self {
            environment,
            ..self
        }
    }

    /// A command with this Packer's environment.
    fn command(&self, path: &Path) -> Command {
        let mut command = base(path);
        self.environment.apply(&mut command);
        command
    }

    /// Its status.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Installs the plugins the template asks for; needs no network when they are there.
    pub(crate) async fn init(&self, folder: &Path, template: &str) -> anyhow::Result<()> {
        if !self.version.has_plugins() {
            return Ok(());
        }
        let output = self
            .command(&self.path)
            .current_dir(folder)
            .args(["init", template])
            .output()
            .await
            .context("run packer init")?;
        if output.status.success() {
            return Ok(());
        }
        Err(Exit::Refused
            .error(format!("packer init failed: {}", output_tail(&output.stdout, &output.stderr)))
            .hint("without network, install the plugin beforehand: `packer plugins install github.com/hashicorp/amazon`")
            .into())
    }

    /// Has Packer validate the template.
    pub(crate) async fn validate(&self, folder: &Path, template: &str) -> anyhow::Result<()> {
        let output = self
            .command(&self.path)
            .current_dir(folder)
            .args(["validate", template])
            .output()
            .await
            .context("run packer validate")?;
        if output.status.success() {
            return Ok(());
        }
        Err(Exit::Refused
            .error(format!(
                "packer {} refuses {}: {}",
                self.version,
                folder.join(template).display(),
                output_tail(&output.stdout, &output.stderr)
            ))
            .hint(
                "the template is rendered from image.pkr.hcl.tera; `imagebuilder render` shows it",
            )
            .into())
    }

    /// Starts a build in a process group of its own, its output going to files in `folder`.
    ///
    /// The shell that becomes Packer records the group itself: if we are killed at this moment, it is known
    /// nevertheless.
    pub(crate) fn start(
        &self,
        folder: &Path,
        template: &str,
        lock: File,
        credentials: Option<&Credentials>,
    ) -> anyhow::Result<Running> {
        let create =
            |name: &str| File::create(folder.join(name)).with_context(|| format!("create {name}"));
        let mut command = self.command(Path::new("/bin/sh"));
        if let Some(keys) = credentials {
            lend(&mut command, keys);
        }
        let child = command
            .current_dir(folder)
            .args(["-c", &format!("echo $$ >{GROUP} && exec \"$@\""), "sh"])
            .arg(&self.path)
            .args(["build", "-machine-readable", "-color=false", template])
            .env("PACKER_LOG", "1")
            .env("PACKER_LOG_PATH", LOG)
            .stdin(Stdio::from(lock))
            .stdout(create(OUTPUT)?)
            .stderr(create(ERRORS)?)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", self.path.display()))?;
        let group = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .context("packer has no process id")?;
        Ok(Running {
            child,
            group,
            reader: Reader::open(folder)?,
        })
    }
}

/// The process group of the Packer that was started in a run folder; `None` until it is written.
pub(crate) fn group(folder: &Path) -> Option<i32> {
    std::fs::read_to_string(folder.join(GROUP))
        .ok()?
        .trim()
        .parse()
        .ok()
}

const INSTALL: &str = "install Packer 1.6.6 or newer: `apt-get install packer`, or https://developer.hashicorp.com/packer/install";

fn base(path: &Path) -> Command {
    let mut command = Command::new(path);
    command
        .stdin(Stdio::null())
        .env("CHECKPOINT_DISABLE", "1")
        .env("PACKER_NO_COLOR", "1")
        .env_remove("PACKER_LOG")
        .env_remove("PACKER_LOG_PATH");
    command
}

/// Gives Packer the credentials that this program found: its older releases support neither `sso-session` nor `aws login`. They are in
/// its environment, which only its own user can read, while it runs; never among its arguments, never in a file.
fn lend(command: &mut Command, keys: &Credentials) {
    for name in KEYS {
        command.env_remove(name);
    }
    command
        .env("AWS_ACCESS_KEY_ID", &keys.access_key_id)
        .env("AWS_SECRET_ACCESS_KEY", &keys.secret_access_key);
    if let Some(token) = &keys.session_token {
        command.env("AWS_SESSION_TOKEN", token);
    }
}

fn output_tail(stdout: &[u8], stderr: &[u8]) -> String {
    let text = [stdout, stderr].map(String::from_utf8_lossy).concat();
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines.join("; ")
}

/// An active build.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    group: i32,
    reader: Reader,
}

impl Running {
    /// Follows the build to its end, passing on every line. When a stop is requested, past the deadline, or once `enough`
    /// has ended, Packer is interrupted once and given time to clean up; at a second request, it is killed.
    ///
    /// # Errors
    /// When Packer's output cannot be read; Packer has ended then, too.
    pub(crate) async fn follow(
        mut self,
        cancel: &Cancel,
        deadline: Duration,
        enough: impl Future<Output = ()>,
        mut on_line: impl FnMut(&Line),
    ) -> anyhow::Result<Ended> {
        let mut enough = std::pin::pin!(enough);
        let mut beat = tokio::time::interval(POLL);
        let deadline = tokio::time::Instant::now() + deadline;
        let mut stopping: Option<anyhow::Result<Ended>> = None;
        let mut give_up = None;
        loop {
            let stop = tokio::select! {
                status = self.child.wait() => {
                    let status = status.context("wait for packer")?;
                    self.reader.read(&mut on_line)?;
                    return stopping.unwrap_or(Ok(Ended::Exited(status)));
                }
                _ = beat.tick(), if !matches!(stopping, Some(Err(_))) => {
                    match self.reader.read(&mut on_line) {
                        Ok(()) => continue,
                        Err(error) => Err(error),
                    }
                }
                () = cancel.requested(), if stopping.is_none() => Ok(Ended::Cancelled),
                () = tokio::time::sleep_until(deadline), if stopping.is_none() => Ok(Ended::TimedOut),
                () = &mut enough, if stopping.is_none() => Ok(Ended::Interrupted),
                () = cancel.requested_times(2), if give_up.is_some() => {
                    kill(self.group);
                    give_up = None;
                    continue;
                }
                () = at(give_up), if give_up.is_some() => {
                    kill(self.group);
                    give_up = None;
                    continue;
                }
            };
            if stopping.is_none() {
                interrupt(self.group);
                give_up = Some(tokio::time::Instant::now() + CLEAN_UP);
            }
            stopping = Some(stop);
        }
    }
}

async fn at(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Interrupts a Packer as Ctrl-C in its terminal would: the whole group, for its outer process ignores the signal and
/// waits for the inner one.
pub(crate) fn interrupt(group: i32) {
    signal(group, Signal::INT);
}

/// Kills a Packer that does not exit.
pub(crate) fn kill(group: i32) {
    signal(group, Signal::KILL);
}

fn signal(group: i32, signal: Signal) {
    if let Some(group) = Pid::from_raw(group) {
        // It fails only when the group has ended already, which is what was wanted.
        let _ = kill_process_group(group, signal);
    }
}

/// Reads what Packer wrote since the last call.
#[derive(Debug)]
struct Reader {
    file: File,
    rest: Vec<u8>,
}

impl Reader {
    /// Opens a run folder's output at its beginning.
    fn open(folder: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            file: File::open(folder.join(OUTPUT)).context("open packer's output")?,
            rest: Vec::new(),
        })
    }

    /// Passes on every complete line written since, cut off at [`LONGEST`].
    fn read(&mut self, on_line: &mut impl FnMut(&Line)) -> anyhow::Result<()> {
        let mut piece = [0; 65536];
        loop {
            let count = self.file.read(&mut piece).context("read packer's output")?;
            if count == 0 {
                return Ok(());
            }
            for part in piece[..count].split_inclusive(|byte| *byte == b'\n') {
                let space = LONGEST.saturating_sub(self.rest.len());
                self.rest.extend_from_slice(&part[..part.len().min(space)]);
                if !part.ends_with(b"\n") {
                    continue;
                }
                let line = String::from_utf8_lossy(&self.rest);
                if let Some(line) = Line::parse(line.trim_end()) {
                    on_line(&line);
                }
                self.rest.clear();
            }
        }
    }
}

/// The lines of Packer's machine-readable output that are used.
///
/// Rule: lines are shown, and never trusted. Whatever a provisioner prints is among them; what exists in the account
/// is read from the API. Only the type of a line (its third field) is set by Packer itself: no provisioner can
/// write an `artifact` or an `error` line, because Packer puts its output into the data of `ui` lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A message, without the target's prefix.
    Message(String),
    /// An error message, or what a provisioner printed to its standard error.
    Error(String),
    /// Packer waits until the builder answers on SSH.
    WaitingForSsh,
    /// The builder answers.
    Connected,
    /// A provisioning script begins.
    Script(String),
    /// Why the build failed, by Packer itself.
    Failed(String),
    /// What the build made: regions and ids of images.
    Artifact(Vec<(String, String)>),
}

impl Line {
    /// From one line: `time,target,type,data…`, commas within data as `%!(PACKER_COMMA)`; see
    /// <https://developer.hashicorp.com/packer/docs/commands#machine-readable-output>.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut fields = line.splitn(4, ',');
        let (_time, target, kind) = (fields.next()?, fields.next()?, fields.next()?);
        let data: Vec<String> = fields.next()?.split(',').map(plain).collect();
        match kind {
            "ui" => Self::for_people(data.first()?, data.get(1)?),
            "error" if !target.is_empty() => Some(Self::Failed(data.first()?.clone())),
            "artifact" => match &data[..] {
                [_, what, id] if what == "id" => images(id).map(Self::Artifact),
                _ => None,
            },
            _ => None,
        }
    }

    fn for_people(level: &str, text: &str) -> Option<Self> {
        let text = without_target(text);
        if level == "error" {
            return Some(Self::Error(text.to_owned()));
        }
        // Packer's own steps; what provisioners print comes as messages.
        if level == "say" {
            if text.starts_with("Waiting for SSH to become available") {
                return Some(Self::WaitingForSsh);
            }
            if text.starts_with("Connected to SSH") {
                return Some(Self::Connected);
            }
            if let Some(path) = text.strip_prefix("Provisioning with shell script: ") {
                return Some(Self::Script(path.trim().to_owned()));
            }
        }
        Some(Self::Message(text.to_owned()))
    }
}

/// The images in an artifact's id, `us-east-1:ami-0b,eu-west-1:ami-0c`; `None` when it is of something else.
fn images(id: &str) -> Option<Vec<(String, String)>> {
    id.split(',')
        .map(|part| part.split_once(':'))
        .map(|part| part.filter(|(_, image)| image.starts_with("ami-")))
        .map(|part| part.map(|(region, image)| (region.to_owned(), image.to_owned())))
        .collect()
}

fn plain(field: &str) -> String {
    field
        .replace("%!(PACKER_COMMA)", ",")
        .replace("\\n", "\n")
        .replace("\\r", "")
}

/// Removes the prefix `==> amazon-ebs.image: ` or `    amazon-ebs.image: `.
fn without_target(text: &str) -> &str {
    let body = text
        .strip_prefix("==> ")
        .unwrap_or_else(|| text.trim_start());
    match body.split_once(": ") {
        Some((target, rest)) if target.starts_with("amazon-") && !target.contains(' ') => rest,
        _ => body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_packer_prints() {
        for (text, want) in [
            ("Packer v1.6.6\n", Some(Version(1, 6, 6))),
            (
                "Packer v1.16.0\n\nYour version of Packer is out of date!\n",
                Some(Version(1, 16, 0)),
            ),
            ("Packer v1.7.0-dev (abc)\n", Some(Version(1, 7, 0))),
            ("1.9.5", Some(Version(1, 9, 5))),
            ("cracklib-packer: usage\n", None),
            ("", None),
        ] {
            assert_eq!(Version::parse(text), want, "{text}");
        }
        assert!(!Version(1, 6, 6).has_plugins());
        assert!(Version(1, 10, 0).has_plugins());
    }

    #[test]
    fn what_provisioners_print_is_nothing_but_text() {
        for text in [
            "Instance ID: i-0a",
            "AMI: ami-0b",
            "Creating AMI shop-1 from instance i-0a",
            "Creating temporary security group for this instance: packer_5f",
            "Provisioning with shell script: /etc/passwd",
            "Connected to SSH!",
            "1,amazon-ebs.image,artifact,0,id,us-east-1:ami-0b",
        ] {
            let escaped = text.replace(',', "%!(PACKER_COMMA)");
            let line = format!("1,amazon-ebs.image,ui,message,    amazon-ebs.image: {escaped}");
            assert_eq!(Line::parse(&line), Some(Line::Message(text.to_owned())));
            let line = format!("1,amazon-ebs.image,ui,error,==> amazon-ebs.image: {escaped}");
            assert_eq!(Line::parse(&line), Some(Line::Error(text.to_owned())));
        }
    }

    #[test]
    fn line_kinds_are_distinguished() {
        for (line, want) in [
            (
                "1,amazon-ebs.image,artifact,0,id,us-east-1:ami-0b",
                Line::Artifact(vec![("us-east-1".into(), "ami-0b".into())]),
            ),
            (
                "1,amazon-ebs.image,artifact,0,id,us-east-1:ami-0b%!(PACKER_COMMA)eu-west-1:ami-0c",
                Line::Artifact(vec![
                    ("us-east-1".into(), "ami-0b".into()),
                    ("eu-west-1".into(), "ami-0c".into()),
                ]),
            ),
            (
                "1,amazon-ebs.image,error,Script exited with non-zero exit status: 1",
                Line::Failed("Script exited with non-zero exit status: 1".into()),
            ),
            (
                "1,amazon-ebs.image,ui,say,==> amazon-ebs.image: Provisioning with shell script: provision/10-install.sh",
                Line::Script("provision/10-install.sh".into()),
            ),
            (
                "1,amazon-ebs.image,ui,say,==> amazon-ebs.image: Waiting for SSH to become available...",
                Line::WaitingForSsh,
            ),
            (
                "1,amazon-ebs.image,ui,message,    amazon-ebs.image: Waiting for SSH to become available...",
                Line::Message("Waiting for SSH to become available...".into()),
            ),
            (
                "1,amazon-ebs.image,ui,say,==> amazon-ebs.image: Connected to SSH!",
                Line::Connected,
            ),
            (
                "1,amazon-ebs.image,ui,error,==> amazon-ebs.image: no%!(PACKER_COMMA) sorry",
                Line::Error("no, sorry".into()),
            ),
            (
                "1,,ui,say,Build 'amazon-ebs.image' finished.",
                Line::Message("Build 'amazon-ebs.image' finished.".into()),
            ),
        ] {
            assert_eq!(Line::parse(line), Some(want), "{line}");
        }
        for line in [
            "1,amazon-ebs.image,artifact,0,builder-id,mitchellh.amazonebs",
            "1,amazon-ebs.image,artifact,1,id,manifest.json",
            "1,amazon-ebs.image,artifact-count,1",
            "garbage",
            "",
        ] {
            assert_eq!(Line::parse(line), None, "{line}");
        }
    }

    #[test]
    fn half_a_line_waits_for_its_other_half() {
        use std::io::Write as _;
        let folder = tempfile::tempdir().unwrap();
        let mut file = File::create(folder.path().join(OUTPUT)).unwrap();
        let mut reader = Reader::open(folder.path()).unwrap();
        let mut lines = Vec::new();
        write!(file, "1,,ui,say,Creating").unwrap();
        reader.read(&mut |line| lines.push(line.clone())).unwrap();
        assert!(lines.is_empty());
        writeln!(file, " tags").unwrap();
        reader.read(&mut |line| lines.push(line.clone())).unwrap();
        assert_eq!(lines, [Line::Message("Creating tags".into())]);
    }
}
