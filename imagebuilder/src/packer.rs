//! Packer: find it, check its version, run it, understand its machine-readable output.
//!
//! Packer writes its output straight into a file of the run folder, and we read along. So it neither dies of a broken
//! pipe when we are killed, nor is a line of its story lost: whoever finds the run dead reads the same file. This
//! module knows nothing of the cloud.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

use crate::cancel::Cancel;
use crate::exit::Exit;

/// The oldest release the template is rendered for: Debian 12's.
const OLDEST: Version = Version(1, 6, 6);
/// From this release on the Amazon builder is a plugin and `required_plugins` is understood.
const PLUGINS_SINCE: Version = Version(1, 7, 0);
/// Where Packer's machine-readable output goes, in the run folder.
pub(crate) const OUTPUT: &str = "packer.out";
/// Where what Packer says outside of it goes.
pub(crate) const ERRORS: &str = "packer.err";
/// Where its process group is written down.
const GROUP: &str = "packer.pid";
/// Packer's own debug log.
const LOG: &str = "packer.log";
/// How often we look whether Packer wrote more: fast enough to record an id before anybody can miss it.
const LOOK: Duration = Duration::from_millis(50);
/// How long Packer may take to clean up after it was asked to stop: terminating an instance takes minutes on EC2.
const CLEAN_UP: Duration = Duration::from_secs(600);

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

/// A Packer that was found and is new enough.
#[derive(Clone, Debug)]
pub(crate) struct Packer {
    path: PathBuf,
    /// Its release.
    pub(crate) version: Version,
}

/// How a build ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// Packer came to its end.
    Exited(ExitStatus),
    /// The operator asked to stop.
    Cancelled,
    /// The bake's deadline went by.
    TimedOut,
    /// What was waited for beside it happened.
    Interrupted,
}

impl Packer {
    /// Finds Packer on PATH and checks its version.
    pub(crate) async fn find() -> anyhow::Result<Self> {
        let path = std::env::var_os("PATH")
            .and_then(|path| {
                std::env::split_paths(&path)
                    .map(|folder| folder.join("packer"))
                    .find(|at| executable(at))
            })
            .ok_or_else(|| Exit::Refused.error("packer is not on PATH").hint(INSTALL))?;
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
                    "{} is {version}, {OLDEST} is the oldest that will do",
                    path.display()
                ))
                .hint(INSTALL)
                .into());
        }
        Ok(Self { path, version })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Installs the plugins the template asks for; needs no network when they are there.
    pub(crate) async fn init(&self, folder: &Path, template: &str) -> anyhow::Result<()> {
        if !self.version.has_plugins() {
            return Ok(());
        }
        let output = base(&self.path)
            .current_dir(folder)
            .args(["init", template])
            .output()
            .await
            .context("run packer init")?;
        if output.status.success() {
            return Ok(());
        }
        Err(Exit::Refused
            .error(format!("packer init failed: {}", last_words(&output.stdout, &output.stderr)))
            .hint("without network, install the plugin beforehand: `packer plugins install github.com/hashicorp/amazon`")
            .into())
    }

    /// Has Packer check the template.
    pub(crate) async fn validate(&self, folder: &Path, template: &str) -> anyhow::Result<()> {
        let output = base(&self.path)
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
                last_words(&output.stdout, &output.stderr)
            ))
            .hint(
                "the template is rendered from image.pkr.hcl.tera; `imagebuilder render` shows it",
            )
            .into())
    }

    /// Starts a build in a process group of its own, its output going to files in `folder`.
    ///
    /// The shell that becomes Packer writes the group down itself: if we are killed at this very moment, it is known
    /// all the same.
    pub(crate) fn start(
        &self,
        folder: &Path,
        template: &str,
        lock: File,
    ) -> anyhow::Result<Running> {
        let create =
            |name: &str| File::create(folder.join(name)).with_context(|| format!("create {name}"));
        let child = base(Path::new("/bin/sh"))
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

/// What a shell would take: a file that may be executed.
fn executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path)
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
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

fn last_words(stdout: &[u8], stderr: &[u8]) -> String {
    let text = [stdout, stderr].map(String::from_utf8_lossy).concat();
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines.join("; ")
}

/// A build under way.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    group: i32,
    reader: Reader,
}

impl Running {
    /// Follows the build to its end, handing over every line. When asked to stop, past the deadline, or once `enough`
    /// has ended, Packer is interrupted once and given time to clean up; asked again, it is killed.
    pub(crate) async fn follow(
        mut self,
        cancel: &Cancel,
        deadline: Duration,
        enough: impl Future<Output = ()>,
        mut on_line: impl FnMut(&Line) -> anyhow::Result<()>,
    ) -> anyhow::Result<Ended> {
        let mut enough = std::pin::pin!(enough);
        let mut beat = tokio::time::interval(LOOK);
        let deadline = tokio::time::Instant::now() + deadline;
        let mut stopping = None;
        let mut give_up = None;
        loop {
            tokio::select! {
                status = self.child.wait() => {
                    let status = status.context("wait for packer")?;
                    self.reader.read(&mut on_line)?;
                    return Ok(stopping.unwrap_or(Ended::Exited(status)));
                }
                _ = beat.tick() => self.reader.read(&mut on_line)?,
                () = cancel.asked(), if stopping.is_none() => {
                    interrupt(self.group);
                    stopping = Some(Ended::Cancelled);
                    give_up = Some(tokio::time::Instant::now() + CLEAN_UP);
                }
                () = tokio::time::sleep_until(deadline), if stopping.is_none() => {
                    interrupt(self.group);
                    stopping = Some(Ended::TimedOut);
                    give_up = Some(tokio::time::Instant::now() + CLEAN_UP);
                }
                () = &mut enough, if stopping.is_none() => {
                    interrupt(self.group);
                    stopping = Some(Ended::Interrupted);
                    give_up = Some(tokio::time::Instant::now() + CLEAN_UP);
                }
                () = cancel.asked_times(2), if give_up.is_some() => {
                    kill(self.group);
                    give_up = None;
                }
                () = at(give_up), if give_up.is_some() => {
                    kill(self.group);
                    give_up = None;
                }
            }
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

/// Ends a Packer that does not end by itself.
pub(crate) fn kill(group: i32) {
    signal(group, Signal::KILL);
}

fn signal(group: i32, signal: Signal) {
    if let Some(group) = Pid::from_raw(group) {
        // It fails only when the group is gone already, which is what was wanted.
        let _ = kill_process_group(group, signal);
    }
}

/// Reads what Packer wrote since the last look.
#[derive(Debug)]
pub(crate) struct Reader {
    file: File,
    rest: Vec<u8>,
}

impl Reader {
    /// Opens a run folder's output from its beginning.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Self> {
        let mut file = File::open(folder.join(OUTPUT)).context("open packer's output")?;
        file.seek(SeekFrom::Start(0))
            .context("rewind packer's output")?;
        Ok(Self {
            file,
            rest: Vec::new(),
        })
    }

    /// Hands over every complete line written since.
    pub(crate) fn read(
        &mut self,
        on_line: &mut impl FnMut(&Line) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.file
            .read_to_end(&mut self.rest)
            .context("read packer's output")?;
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            if let Some(line) = Line::parse(String::from_utf8_lossy(&line).trim_end()) {
                on_line(&line)?;
            }
        }
        Ok(())
    }
}

/// A line of Packer's machine-readable output, as far as we listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Something for people; the target's prefix is taken off.
    Say(String),
    /// An error for people.
    Error(String),
    /// A security group of this name is about to be created.
    SecurityGroup(String),
    /// The builder exists.
    Instance(String),
    /// Packer waits until the builder answers on SSH.
    WaitingForSsh,
    /// The builder answers.
    Connected,
    /// An image of this name is about to be created.
    CreatingImage(String),
    /// The image exists. Packer only now begins to wait for it.
    Image(String),
    /// A provisioning script begins.
    Script(String),
}

impl Line {
    /// From one line: `time,target,type,data…`, commas within data as `%!(PACKER_COMMA)`.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut fields = line.splitn(4, ',');
        let (_time, _target, kind) = (fields.next()?, fields.next()?, fields.next()?);
        let data: Vec<String> = fields.next()?.split(',').map(plain).collect();
        if kind != "ui" {
            return None;
        }
        let (level, text) = (data.first()?, data.get(1)?);
        let text = without_target(text);
        if level == "error" {
            return Some(Self::Error(text.to_owned()));
        }
        // Packer's own steps; what provisioners print comes as messages.
        if level == "say" && text.starts_with("Waiting for SSH to become available") {
            return Some(Self::WaitingForSsh);
        }
        if level == "say" && text.starts_with("Connected to SSH") {
            return Some(Self::Connected);
        }
        Some(Self::told(text))
    }

    fn told(text: &str) -> Self {
        let after = |prefix: &str| text.strip_prefix(prefix).map(|rest| rest.trim().to_owned());
        if let Some(name) = after("Creating temporary security group for this instance: ") {
            return Self::SecurityGroup(name);
        }
        if let Some(id) = after("Instance ID: ") {
            return Self::Instance(id);
        }
        if let Some(name) = after("Creating AMI ")
            .and_then(|rest| Some(rest.split_once(" from instance ")?.0.to_owned()))
        {
            return Self::CreatingImage(name);
        }
        if let Some(id) = after("AMI: ").filter(|id| id.starts_with("ami-")) {
            return Self::Image(id);
        }
        if let Some(path) = after("Provisioning with shell script: ") {
            return Self::Script(path);
        }
        Self::Say(text.to_owned())
    }
}

fn plain(field: &str) -> String {
    field
        .replace("%!(PACKER_COMMA)", ",")
        .replace("\\n", "\n")
        .replace("\\r", "")
}

/// Takes `==> amazon-ebs.image: ` or `    amazon-ebs.image: ` off.
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
    fn ids_are_heard_the_moment_they_are_named() {
        for (line, want) in [
            (
                "1,amazon-ebs.image,ui,say,==> amazon-ebs.image: Creating temporary security group for this instance: packer_5f",
                Line::SecurityGroup("packer_5f".into()),
            ),
            (
                "1,amazon-ebs.image,ui,message,    amazon-ebs.image: Instance ID: i-0a",
                Line::Instance("i-0a".into()),
            ),
            (
                "1,amazon-ebs.image,ui,say,==> amazon-ebs.image: Creating AMI shop-1 from instance i-0a",
                Line::CreatingImage("shop-1".into()),
            ),
            (
                "1,amazon-ebs.image,ui,message,    amazon-ebs.image: AMI: ami-0b",
                Line::Image("ami-0b".into()),
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
                Line::Say("Waiting for SSH to become available...".into()),
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
                Line::Say("Build 'amazon-ebs.image' finished.".into()),
            ),
        ] {
            assert_eq!(Line::parse(line), Some(want), "{line}");
        }
        assert_eq!(
            Line::parse("1,amazon-ebs.image,artifact,0,id,us-east-1:ami-0b"),
            None
        );
        assert_eq!(Line::parse("garbage"), None);
    }

    #[test]
    fn half_a_line_waits_for_its_other_half() {
        use std::io::Write as _;
        let folder = tempfile::tempdir().unwrap();
        let mut file = File::create(folder.path().join(OUTPUT)).unwrap();
        let mut reader = Reader::open(folder.path()).unwrap();
        let mut heard = Vec::new();
        write!(file, "1,,ui,say,Instance").unwrap();
        reader
            .read(&mut |line| {
                heard.push(line.clone());
                Ok(())
            })
            .unwrap();
        assert!(heard.is_empty());
        writeln!(file, " ID: i-1").unwrap();
        reader
            .read(&mut |line| {
                heard.push(line.clone());
                Ok(())
            })
            .unwrap();
        assert_eq!(heard, [Line::Instance("i-1".into())]);
    }
}
