//! The command line: parsing, and the only place that writes to stdout and stderr.

use std::fs::File;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand, ValueEnum};
use hyper::Method;
use support::shell::quoted_path;

use crate::account::REGION;
use crate::guests::accelerator::Wanted;
use crate::guests::{HostKind, probe};
use crate::{admin, faults};
use crate::{base_image, control, daemon, doctor, egress, imds_relay, status};

/// The endpoint's port without `--port`.
const DEFAULT_PORT: u16 = 4800;
/// A new cloud may first convert a base image, which takes seconds on a slow disk, and probe the host's accelerator.
const START_PATIENCE: Duration = Duration::from_secs(60 + probe::LIMIT.as_secs());
/// How often the daemon is polled while it starts or ends.
const POLL: Duration = Duration::from_millis(20);
/// Guests are powered off first, which includes the time to sync their disks.
const DOWN_PATIENCE: Duration = Duration::from_secs(60);
/// The environment variable that selects the accelerator without `--accelerator`.
const ACCELERATOR: &str = "REHEARSAL_ACCELERATOR";
/// Exit code of `status` when the cloud is down.
const IS_DOWN: u8 = 3;
/// Exit code of `doctor` on a host that cannot run guests, as of `imagebuilder doctor`.
const IS_WRONG: u8 = 3;
/// Exit code of `exec` when the command cannot be run, as of shells and `env`.
const CANNOT_RUN: u8 = 127;

/// Run an AWS-compatible cloud on loopback, backed by virtual machines and kept in one folder
#[derive(Debug, Parser)]
#[command(version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the cloud in a folder; create it if the folder holds none
    Up(Up),
    /// Stop the cloud in a folder and all its guests; the state is kept
    Down(Folder),
    /// Show the groups, instances, images and listeners of a running cloud
    Status(Status),
    /// Check this host's accelerator, QEMU, firmware, memory, disk, ports and moto
    Doctor(Doctor),
    /// Run a command whose AWS SDKs and tools use this cloud
    Exec(Exec),
    /// List all dials or set one: injected faults, and switches for behavior that AWS does not document
    Dial(Dial),
    /// Build the machine image that a new cloud starts with, unless it is cached; print its path
    BaseImage(BaseImage),
    /// Relay one connection between a guest and its metadata service
    #[command(hide = true)]
    ImdsRelay(ImdsRelay),
}

/// The cloud's folder.
#[derive(Debug, clap::Args)]
struct Folder {
    /// Folder of the cloud
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Guests {
    /// Virtual machines in QEMU
    Qemu,
    /// Simulated instances: one host process each, or none without --puppet-command
    Puppets,
}

/// The accelerator flag.
#[derive(Debug, clap::Args)]
struct Accelerator {
    /// Accelerator of the virtual machines [default: $REHEARSAL_ACCELERATOR, else auto]
    #[arg(long, value_enum)]
    accelerator: Option<Wanted>,
}

impl Accelerator {
    /// The value of the flag, else of the environment variable, else the default.
    ///
    /// # Errors
    /// When the environment variable names no accelerator.
    fn wanted(&self) -> anyhow::Result<Wanted> {
        if let Some(wanted) = self.accelerator {
            return Ok(wanted);
        }
        match std::env::var_os(ACCELERATOR) {
            Some(name) if !name.is_empty() => {
                let name = name.to_string_lossy();
                Wanted::from_str(&name, false).map_err(|_| {
                    anyhow::anyhow!(
                        "unknown accelerator {name:?} in {ACCELERATOR}\nhint: set it to auto, kvm, hvf or tcg"
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
    /// Disk image to register under Debian's owner id, as printed by `rehearsal base-image`; required for a new cloud
    /// of virtual machines
    #[arg(long, value_name = "FILE")]
    base_image: Option<PathBuf>,
    /// Port of the endpoint on 127.0.0.1; 0 picks a free one
    #[arg(long, default_value_t = DEFAULT_PORT)]
    port: u16,
    /// How instances run
    #[arg(long, value_enum, default_value = "qemu")]
    guests: Guests,
    #[command(flatten)]
    accelerator: Accelerator,
    /// Command to run for each simulated instance, split at spaces [default: none]
    #[arg(long, value_name = "CMD")]
    puppet_command: Option<String>,
    /// Forward this port of every instance, besides 22, 80, 443, 8080 and those of target groups; repeatable
    #[arg(long = "guest-port", value_name = "PORT")]
    guest_ports: Vec<u16>,
    /// Run the cloud in the background; return as soon as the endpoint answers
    #[arg(long)]
    detach: bool,
}

#[derive(Debug, clap::Args)]
struct Status {
    #[command(flatten)]
    folder: Folder,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Doctor {
    /// Folder of the cloud, existing or not; its disk is checked
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    #[command(flatten)]
    accelerator: Accelerator,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Exec {
    #[command(flatten)]
    folder: Folder,
    /// Command to run and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct Dial {
    #[command(flatten)]
    folder: Folder,
    /// Dial to set; without it, all dials are listed
    #[arg(requires = "value")]
    name: Option<String>,
    /// New value of the dial
    value: Option<String>,
}

#[derive(Debug, clap::Args)]
struct BaseImage {
    /// Folder that keeps built images
    #[arg(long, value_name = "DIR")]
    cache: PathBuf,
}

#[derive(Debug, clap::Args)]
struct ImdsRelay {
    /// Unix socket of the guest's metadata service
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// When the command fails; the chain of causes ends with a hint where a fix is known.
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
            // The environment variable may stay set; the flag would have no effect, so it is refused.
            Guests::Puppets if self.accelerator.accelerator.is_some() => bail!(
                "--accelerator has no effect on puppets, which are not virtual machines\nhint: omit it, or use `--guests qemu`"
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

    /// Reports the running cloud; refuses another port or accelerator than it has.
    fn is_up(&self, info: &control::DaemonInfo, guests: &HostKind) -> anyhow::Result<()> {
        let folder = self.folder.folder.display();
        let quoted = quoted_path(&self.folder.folder);
        if ![0, DEFAULT_PORT, info.port].contains(&self.port) {
            bail!(
                "the cloud in {folder} is already up on port {}\nhint: run `rehearsal down {quoted}` first",
                info.port
            );
        }
        if let (Some(has), HostKind::Qemu(wanted)) = (info.accelerator, guests)
            && !wanted.allows(has)
        {
            bail!(
                "the cloud in {folder} is already up with the accelerator {has}\nhint: run `rehearsal down {quoted}` first"
            );
        }
        progress(&format!("the cloud in {folder} is already up"));
        print_line(&format!("http://127.0.0.1:{}", info.port));
        Ok(())
    }

    /// Starts this program again without `--detach`, and waits until its endpoint answers.
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
        // A process group of its own, so that Ctrl-C on the caller's terminal does not end the cloud.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().context("start the daemon")?;
        let end = Instant::now() + START_PATIENCE;
        let runtime = runtime()?;
        loop {
            if let Some(status) = child.try_wait().context("watch the daemon")? {
                let message = std::fs::read_to_string(&log_path).unwrap_or_default();
                match last_error(&message) {
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
                    "the cloud did not come up within {} s\nhint: see {}",
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
                "the cloud did not end within {} s\nhint: check its daemon, process {}",
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
            // A killed daemon leaves its files behind; only the lock shows that it runs.
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
            print_line(&serde_json::to_string(&checks).context("encode the checks")?);
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
        // Replaces this process, so that Ctrl-C, signals and the exit code are the command's own.
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
                // Keeps the user's own account out of a rehearsal.
                .env("AWS_CONFIG_FILE", "/dev/null")
                .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
                .env("AWS_EC2_METADATA_DISABLED", "true")
                // Keeps clients that do not read AWS_ENDPOINT_URL away from it as well.
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
        let request = serde_json::to_string(&request).context("encode the request")?;
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

/// Sends a request to the admin API of the cloud in `folder`.
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

#[expect(clippy::print_stderr, reason = "progress of long steps goes to stderr")]
fn progress(step: &str) {
    eprintln!("rehearsal: {step}");
}

/// Prints an error's chain once, the hints it carries last.
#[expect(clippy::print_stderr, reason = "the one place that reports an error")]
pub(crate) fn print_error(error: &anyhow::Error) {
    eprintln!("{}", support::Report::of(error));
}

/// The error that a daemon printed before it ended, at the end of its log.
fn last_error(log: &str) -> Option<&str> {
    let from = log.rfind("\nerror: ").map_or(0, |at| at + 1);
    Some(log[from..].strip_prefix("error: ")?.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemons_error_is_printed_without_its_log() {
        let log = "2026 INFO ready\nerror: no such disk\nhint: make one\n";
        assert_eq!(last_error(log), Some("no such disk\nhint: make one"));
        assert_eq!(last_error("error: taken\n"), Some("taken"));
        assert_eq!(last_error("thread panicked\n"), None);
    }

    #[test]
    fn the_command_line_is_well_formed() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
