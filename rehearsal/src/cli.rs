//! The command line: parsing, and the only place that writes to stdout and stderr.

use std::fs::File;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand, ValueEnum};
use hyper::Method;

use crate::account::REGION;
use crate::guests::accelerator::Wanted;
use crate::guests::{HostKind, probe};
use crate::{admin, faults};
use crate::{base_image, control, daemon, doctor, egress, imds_relay, status};

/// The endpoint's port when none is asked for.
const DEFAULT_PORT: u16 = 4800;
/// A founding daemon may convert a base image first, which takes seconds on a slow disk; and find out what
/// accelerator the host has.
const START_PATIENCE: Duration = Duration::from_secs(60 + probe::LIMIT.as_secs());
/// How often the daemon is asked whether it is there.
const POLL: Duration = Duration::from_millis(20);
/// Guests get their power button pressed and some time to sync their disks.
const DOWN_PATIENCE: Duration = Duration::from_secs(60);
/// Names the accelerator where no flag does.
const ACCELERATOR: &str = "REHEARSAL_ACCELERATOR";
/// `status` of a cloud that is down ends with this.
const IS_DOWN: u8 = 3;
/// `doctor` of a host that cannot run guests ends with this, as `imagebuilder doctor` does.
const IS_WRONG: u8 = 3;
/// `exec` of what cannot be run ends as shells and `env` do.
const CANNOT_RUN: u8 = 127;

/// The cloud in a folder: an AWS-shaped endpoint on loopback with real virtual machines behind it.
#[derive(Debug, Parser)]
#[command(version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Bring the cloud in a folder up (founding it, if it is none yet), and keep it up.
    Up(Up),
    /// End the cloud in a folder and every guest in it; its state stays.
    Down(Folder),
    /// Show what is in the cloud.
    Status(Status),
    /// Check what this host has for guests: accelerator, QEMU, firmware, memory, disk, ports, moto.
    Doctor(Doctor),
    /// Run a command with the environment that makes AWS SDKs and tools use this cloud.
    Exec(Exec),
    /// Show every dial, or turn one: faults to play and choices AWS leaves open.
    Dial(Dial),
    /// Build the machine image that a new cloud starts with, or find it in the cache; print its path.
    BaseImage(BaseImage),
    /// Carry one connection between a guest and its metadata service.
    #[command(hide = true)]
    ImdsRelay(ImdsRelay),
}

/// The cloud's folder.
#[derive(Debug, clap::Args)]
struct Folder {
    /// The cloud's folder.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Guests {
    /// Real boots in QEMU.
    Qemu,
    /// Scripted instances: host processes, or nothing at all.
    Puppets,
}

/// What guests run under.
#[derive(Debug, clap::Args)]
struct Accelerator {
    /// What virtual machines run under [default: REHEARSAL_ACCELERATOR, else auto].
    #[arg(long, value_enum)]
    accelerator: Option<Wanted>,
}

impl Accelerator {
    /// The flag, else the environment's, else the default.
    ///
    /// # Errors
    /// When the environment names none that there is.
    fn wanted(&self) -> anyhow::Result<Wanted> {
        if let Some(wanted) = self.accelerator {
            return Ok(wanted);
        }
        match std::env::var_os(ACCELERATOR) {
            Some(name) if !name.is_empty() => {
                let name = name.to_string_lossy();
                Wanted::from_str(&name, false).map_err(|_| {
                    anyhow::anyhow!(
                        "{ACCELERATOR} is {name:?}, which is no accelerator\nhint: set it to auto, kvm, hvf or tcg"
                    )
                })
            }
            _ => Ok(Wanted::default()),
        }
    }
}

#[derive(Debug, clap::Args)]
struct Up {
    #[command(flatten)]
    folder: Folder,
    /// The disk image to register under Debian's owner id; see `rehearsal base-image`.
    #[arg(long, value_name = "FILE")]
    base_image: Option<PathBuf>,
    /// Port of the endpoint on 127.0.0.1; 0 picks a free one.
    #[arg(long, default_value_t = DEFAULT_PORT)]
    port: u16,
    /// Where instances run.
    #[arg(long, value_enum, default_value = "qemu")]
    guests: Guests,
    #[command(flatten)]
    accelerator: Accelerator,
    /// What each puppet runs.
    #[arg(long, value_name = "CMD")]
    puppet_command: Option<String>,
    /// A port of the instances that answers at their addresses, besides 22, 80, 443, 8080 and those of
    /// target groups.
    #[arg(long = "guest-port", value_name = "PORT")]
    guest_ports: Vec<u16>,
    /// Return as soon as the endpoint answers, and leave the cloud up.
    #[arg(long)]
    detach: bool,
}

#[derive(Debug, clap::Args)]
struct Status {
    #[command(flatten)]
    folder: Folder,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Doctor {
    /// The cloud's folder, or where one is to be: the disk it is on is checked.
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    #[command(flatten)]
    accelerator: Accelerator,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Exec {
    #[command(flatten)]
    folder: Folder,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct Dial {
    #[command(flatten)]
    folder: Folder,
    /// Which one; without it, all are shown.
    #[arg(requires = "value")]
    name: Option<String>,
    /// To what.
    value: Option<String>,
}

#[derive(Debug, clap::Args)]
struct BaseImage {
    /// Where images are kept from one rehearsal to the next.
    #[arg(long, value_name = "DIR")]
    cache: PathBuf,
}

#[derive(Debug, clap::Args)]
struct ImdsRelay {
    /// The unix socket that the guest's metadata is served on.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// When it could not be done; the chain tells why, with a hint where a cure is known.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let done = match self.command {
            Verb::Up(up) => up.run(),
            Verb::Down(folder) => down(&folder.folder),
            Verb::Status(status) => return status.run(),
            Verb::Doctor(doctor) => return doctor.run(),
            Verb::Exec(exec) => return exec.run(),
            Verb::Dial(dial) => dial.run(),
            Verb::BaseImage(base_image) => base_image.run(),
            Verb::ImdsRelay(relay) => {
                imds_relay::run(&relay.socket).context("relay to the metadata service")
            }
        };
        done.map(|()| ExitCode::SUCCESS)
    }
}

impl Up {
    fn run(self) -> anyhow::Result<()> {
        let folder = &self.folder.folder;
        control::check_can_create(folder)?;
        let guests = match self.guests {
            Guests::Qemu => HostKind::Qemu(self.accelerator.wanted()?),
            // The environment's is for virtual machines; a flag would be accepted and do nothing.
            Guests::Puppets if self.accelerator.accelerator.is_some() => bail!(
                "--accelerator is for virtual machines, and puppets are none\nhint: leave it out, or use `--guests qemu`"
            ),
            Guests::Puppets => HostKind::Puppets {
                command: self.puppet_command.clone(),
            },
        };
        if self.detach {
            return match control::running_daemon(folder)? {
                Some(info) => self.is_up(&info, &guests),
                None => self.detached(),
            };
        }
        log();
        let settings = daemon::Settings {
            folder: self.folder.folder,
            port: self.port,
            guests,
            guest_ports: self.guest_ports,
            base_image: self.base_image,
        };
        runtime()?.block_on(daemon::run(&settings))
    }

    /// Nothing to do, unless another port was asked for.
    fn is_up(&self, info: &control::DaemonInfo, guests: &HostKind) -> anyhow::Result<()> {
        let folder = self.folder.folder.display();
        if ![0, DEFAULT_PORT, info.port].contains(&self.port) {
            bail!(
                "the cloud in {folder} is up already, on port {}\nhint: `rehearsal down {folder}` first",
                info.port
            );
        }
        if let (Some(has), HostKind::Qemu(wanted)) = (info.accelerator, guests)
            && !wanted.allows(has)
        {
            bail!(
                "the cloud in {folder} is up already, its guests under {has}\nhint: `rehearsal down {folder}` first"
            );
        }
        progress(&format!("the cloud in {folder} is up already"));
        print_line(&format!("http://127.0.0.1:{}", info.port));
        Ok(())
    }

    /// Starts this very program again without `--detach`, and waits until its door answers.
    fn detached(self) -> anyhow::Result<()> {
        let folder = &self.folder.folder;
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let log_path = folder.join("daemon.log");
        let log =
            File::create(&log_path).with_context(|| format!("create {}", log_path.display()))?;
        let mut command = Command::new(std::env::current_exe().context("find this program")?);
        command.args(
            std::env::args_os()
                .skip(1)
                .filter(|argument| argument != "--detach"),
        );
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        // An own process group, so that Ctrl-C on the caller's terminal does not end the cloud.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().context("start the daemon")?;
        let end = Instant::now() + START_PATIENCE;
        let runtime = runtime()?;
        loop {
            if let Some(status) = child.try_wait().context("watch the daemon")? {
                let said = std::fs::read_to_string(&log_path).unwrap_or_default();
                match last_error(&said) {
                    Some(error_line) => bail!("{error_line}"),
                    None => bail!(
                        "the daemon ended with {status}\nhint: see {}",
                        log_path.display()
                    ),
                }
            }
            if let Ok(info) = control::daemon_info(folder)
                && info.pid == child.id()
                && runtime
                    .block_on(control::ask(&info, Method::GET, "health", String::new()))
                    .is_ok()
            {
                print_line(&format!("http://127.0.0.1:{}", info.port));
                return Ok(());
            }
            if Instant::now() > end {
                bail!(
                    "the cloud did not come up in {} s; see {}",
                    START_PATIENCE.as_secs(),
                    log_path.display()
                );
            }
            runtime.block_on(async { tokio::time::sleep(POLL).await });
        }
    }
}

fn down(folder: &Path) -> anyhow::Result<()> {
    let Some(info) = control::running_daemon(folder)? else {
        control::check_is_cloud(folder)?;
        progress(&format!(
            "nothing to do: the cloud in {} is down",
            folder.display()
        ));
        return Ok(());
    };
    let runtime = runtime()?;
    runtime.block_on(control::ask(&info, Method::POST, "down", String::new()))?;
    let end = Instant::now() + DOWN_PATIENCE;
    while control::is_up(folder)? {
        if Instant::now() > end {
            bail!(
                "the cloud did not end in {} s; its daemon is process {}",
                DOWN_PATIENCE.as_secs(),
                info.pid
            );
        }
        runtime.block_on(async { tokio::time::sleep(POLL).await });
    }
    Ok(())
}

impl Status {
    fn run(self) -> anyhow::Result<ExitCode> {
        let folder = &self.folder.folder;
        control::check_is_cloud(folder)?;
        if !control::is_up(folder)? {
            // What a killed daemon left behind says nothing.
            if self.json {
                print_line(r#"{"up":false}"#);
            } else {
                print_line(&format!("{}: down", folder.display()));
            }
            return Ok(ExitCode::from(IS_DOWN));
        }
        let text = ask(folder, Method::GET, "status", String::new())?;
        if self.json {
            print_line(&text);
        } else {
            let status: status::Status = serde_json::from_str(&text).context("read the status")?;
            print_line(status.to_text().trim_end());
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Doctor {
    fn run(self) -> anyhow::Result<ExitCode> {
        let checks = doctor::check(&self.folder, self.accelerator.wanted()?);
        if self.json {
            print_line(&serde_json::to_string(&checks).context("write down the checks")?);
        } else {
            for check in &checks {
                print_line(&check.line());
            }
        }
        let wrong = checks.iter().any(doctor::Check::is_wrong);
        Ok(if wrong {
            ExitCode::from(IS_WRONG)
        } else {
            ExitCode::SUCCESS
        })
    }
}

impl Exec {
    fn run(self) -> anyhow::Result<ExitCode> {
        let info = control::daemon_info(&self.folder.folder)?;
        let Some((program, arguments)) = self.command.split_first() else {
            bail!("no command given")
        };
        let proxies = egress::environment(info.port, |name| std::env::var(name).ok())?;
        // In this process's place: Ctrl-C, signals and the exit code are the command's own.
        let error = std::os::unix::process::CommandExt::exec(
            Command::new(program)
                .args(arguments)
                .env(
                    "AWS_ENDPOINT_URL",
                    format!("http://127.0.0.1:{}", info.port),
                )
                .env("AWS_REGION", REGION)
                .env("AWS_DEFAULT_REGION", REGION)
                .env("AWS_ACCESS_KEY_ID", "AKIAREHEARSAL0000000")
                .env("AWS_SECRET_ACCESS_KEY", "rehearsal")
                .env_remove("AWS_SESSION_TOKEN")
                .env_remove("AWS_PROFILE")
                // The user's own account stays out of a rehearsal.
                .env("AWS_CONFIG_FILE", "/dev/null")
                .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
                .env("AWS_EC2_METADATA_DISABLED", "true")
                // Clients that do not read AWS_ENDPOINT_URL stay out of it, too.
                .envs(proxies),
        );
        print_error(&anyhow::Error::from(error).context(format!("run {program}")));
        Ok(ExitCode::from(CANNOT_RUN))
    }
}

impl Dial {
    fn run(self) -> anyhow::Result<()> {
        let folder = &self.folder.folder;
        let (Some(name), Some(value)) = (self.name, self.value) else {
            let text = ask(folder, Method::GET, "dials", String::new())?;
            let all: Vec<faults::Dial> = serde_json::from_str(&text).context("read the dials")?;
            print_line(status::dials(&all).trim_end());
            return Ok(());
        };
        let request = admin::DialRequest { name, value };
        let request = serde_json::to_string(&request).context("write down what is asked")?;
        print_line(ask(folder, Method::PUT, "dials", request)?.trim_end());
        Ok(())
    }
}

impl BaseImage {
    fn run(self) -> anyhow::Result<()> {
        let path = base_image::find_or_build(&self.cache, progress)?;
        print_line(&path.display().to_string());
        Ok(())
    }
}

/// Asks the cloud in `folder` by its back door.
fn ask(folder: &Path, method: Method, path: &str, body: String) -> anyhow::Result<String> {
    let info = control::daemon_info(folder)?;
    runtime()?.block_on(control::ask(&info, method, path, body))
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Runtime::new().context("start the runtime")
}

fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("REHEARSAL_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // The log of a detached cloud is a file.
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

#[expect(
    clippy::print_stdout,
    reason = "stdout is where this program's data goes"
)]
fn print_line(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "what takes long says what it does")]
fn progress(step: &str) {
    eprintln!("rehearsal: {step}");
}

/// Prints an error's chain once, the hints it carries last.
#[expect(clippy::print_stderr, reason = "the one place that reports an error")]
pub(crate) fn print_error(error: &anyhow::Error) {
    eprintln!("rehearsal: {}", error_text(error));
}

/// What a daemon that ended at once complained of, in its log after everything else.
fn last_error(log: &str) -> Option<&str> {
    let from = log.rfind("\nrehearsal: ").map_or(0, |at| at + 1);
    Some(log[from..].strip_prefix("rehearsal: ")?.trim())
}

fn error_text(error: &anyhow::Error) -> String {
    let mut causes = Vec::new();
    let mut hints = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        match text.split_once("\nhint: ") {
            Some((cause, hint)) => {
                causes.push(cause.to_owned());
                hints.push(format!("\nhint: {hint}"));
            }
            None => causes.push(text),
        }
    }
    format!("{}{}", causes.join(": "), hints.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_told_last() {
        let error =
            anyhow::anyhow!("address in use").context("listen on 1\nhint: choose another port");
        assert_eq!(
            error_text(&error),
            "listen on 1: address in use\nhint: choose another port"
        );
    }

    #[test]
    fn a_daemons_complaint_is_told_without_its_log() {
        let log = "2026 INFO ready\nrehearsal: no such disk\nhint: make one\n";
        assert_eq!(last_error(log), Some("no such disk\nhint: make one"));
        assert_eq!(last_error("rehearsal: taken\n"), Some("taken"));
        assert_eq!(last_error("thread panicked\n"), None);
    }

    #[test]
    fn the_command_line_is_well_formed() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
