//! A container with real systemd: a container booted by systemd-nspawn, with the agent's units and slots as on
//! an instance. It ends with the value.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::rendered;

/// The longest wait for anything: far more than a loaded host needs, so that only what is wrong gets there.
const PATIENCE: Duration = Duration::from_secs(180);

/// The longest a command in the container may take, in seconds: a run of the updater with its trial is one, and
/// takes a minute where it waits for a service to be well again.
const COMMAND: &str = "300";

/// Its name as the kernel keeps it, of fifteen characters.
const NSPAWN: &str = "systemd-nspawn";

pub(crate) const STABLE: &str = "imagebuilder-agent.service";
pub(crate) const TRIAL: &str = "imagebuilder-agent-trial.service";
pub(crate) const UPDATE: &str = "imagebuilder-agent-update.service";
pub(crate) const FACTORY: &str = "imagebuilder-agent-factory.service";

/// What is to be on a container's disk at its first boot.
pub(crate) struct Disk {
    dir: TempDir,
}

/// A container.
pub(crate) struct Container {
    files: TempDir,
    holder: Child,
    orders: Option<ChildStdin>,
    /// The process id of its systemd, on the host.
    init: u32,
}

/// The tree that all containers share, built once: of the Debian suite that `IMAGEBUILDER_TEST_SUITE` names, else of one that
/// fits this host.
fn base() -> &'static Path {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let done = Command::new("bash")
            .arg(here.join("tests/systemd/base.sh"))
            .arg(here.join("../.cache"))
            .args(std::env::var("IMAGEBUILDER_TEST_SUITE"))
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "the tree to boot from could not be built"
        );
        let path = String::from_utf8(done.stdout).unwrap();
        fs::canonicalize(path.trim()).unwrap()
    })
}

/// The agent whose updater runs in containers. A suite with an older C library than this host's needs a static one, which
/// `IMAGEBUILDER_TEST_AGENT` names.
fn real_agent() -> PathBuf {
    std::env::var_os("IMAGEBUILDER_TEST_AGENT").map_or_else(
        || env!("CARGO_BIN_EXE_imagebuilder-agent").into(),
        PathBuf::from,
    )
}

/// The script of an agent of this version that behaves so.
pub(crate) fn agent(version: &str, behaviour: &str) -> String {
    include_str!("agent.pl")
        .replace("@VERSION@", version)
        .replace("@BEHAVIOUR@", behaviour)
}

/// SHA-256 in hex.
pub(crate) fn digest(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Disk {
    /// An instance as baked, with an agent 1.0.0 in the factory slot that does well.
    pub(crate) fn new() -> Self {
        Self::with_factory("good")
    }

    /// The same with a factory's agent that behaves so.
    pub(crate) fn with_factory(behaviour: &str) -> Self {
        let disk = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let units = disk.at("/etc/systemd/system");
        fs::create_dir_all(&units).unwrap();
        rendered::into(&units);
        for unit in ["orders.service", "orders.socket"] {
            fs::remove_file(units.join(unit)).unwrap();
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packer/provision/20-agent.sh");
        disk.file(
            "/root/20-agent.sh",
            &fs::read_to_string(script).unwrap(),
            0o755,
        );
        disk.file(
            "/usr/lib/imagebuilder-agent/factory/imagebuilder-agent",
            &agent("1.0.0", behaviour),
            0o755,
        );
        // Where the container's binary of the real agent is bound to.
        disk.file("/usr/lib/imagebuilder-agent/real", "", 0o755);
        // Seconds instead of an instance's minutes.
        for unit in [STABLE, TRIAL] {
            disk.drop_in(unit, "[Service]\nRestartSec=100ms\n");
        }
        // On a busy host a test takes longer than the five minutes until the first run by the timer.
        disk.drop_in(
            "imagebuilder-agent-update.timer",
            "[Timer]\nOnBootSec=\nOnBootSec=1d\n",
        );
        disk
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir
            .path()
            .join("root")
            .join(path.trim_start_matches('/'))
    }

    /// A file.
    pub(crate) fn file(&self, path: &str, text: &str, mode: u32) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }

    /// A drop-in of a unit; the last setting of a kind wins.
    pub(crate) fn drop_in(&self, unit: &str, text: &str) {
        let mut number = 0;
        let dir = self.at(&format!("/etc/systemd/system/{unit}.d"));
        fs::create_dir_all(&dir).unwrap();
        while dir.join(format!("50-test-{number}.conf")).exists() {
            number += 1;
        }
        fs::write(dir.join(format!("50-test-{number}.conf")), text).unwrap();
    }

    /// A complete slot with an agent of this version that behaves so; its name.
    pub(crate) fn slot(&self, version: &str, behaviour: &str) -> String {
        let script = agent(version, behaviour);
        let digest = digest(&script);
        let slot = format!("versions/{version}-{}", &digest[..12]);
        let dir = format!("/opt/imagebuilder-agent/{slot}");
        self.file(&format!("{dir}/imagebuilder-agent"), &script, 0o755);
        self.file(&format!("{dir}/COMPLETE"), &format!("{digest}\n"), 0o644);
        slot
    }

    /// One of the links to the slots. `stable` is laid out by the image's script: only a container can move it.
    pub(crate) fn trial(&self, slot: &str) {
        symlink(slot, self.at("/opt/imagebuilder-agent/trial")).unwrap();
    }

    /// Boots it.
    pub(crate) fn boot(self) -> Container {
        let mut container = self.container();
        container.boot();
        container
    }

    /// The container, not booted.
    pub(crate) fn container(self) -> Container {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "imagebuilder-test-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd/container.sh");
        let mut holder = Command::new("setpriv")
            // Whatever happens to the test, its container does not outlive it.
            .args(["--pdeathsig", "KILL"])
            .args([
                "unshare",
                "--mount",
                "--propagation",
                "private",
                "--pid",
                "--fork",
            ])
            .args(["--kill-child", "--mount-proc", "bash"])
            .arg(script)
            .arg(base())
            .arg(self.dir.path())
            .arg(name)
            .arg(real_agent())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A group of its own: an interrupt at the terminal is the test's to pass on.
            .process_group(0)
            .spawn()
            .unwrap();
        let mut made = String::new();
        BufReader::new(holder.stdout.take().unwrap())
            .read_line(&mut made)
            .unwrap();
        assert_eq!(made, "made\n", "the container could not be made: see above");
        Container {
            orders: holder.stdin.take(),
            files: self.dir,
            holder,
            init: 0,
        }
    }
}

impl Container {
    /// Boots, and waits until the boot is over.
    pub(crate) fn boot(&mut self) {
        self.power_on();
        self.wait("the boot to be over", |it| {
            let output = it.run(&["systemctl", "is-system-running"]);
            let output = String::from_utf8_lossy(&output.stdout);
            ["running", "degraded"].contains(&output.trim())
        });
    }

    /// The release of its systemd.
    pub(crate) fn systemd(&self) -> u32 {
        let version = self.ok(&["systemctl", "--version"]);
        version.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn power_on(&mut self) {
        let orders = self.orders.as_mut().unwrap();
        writeln!(orders, "boot").unwrap();
        self.init = 0;
        let holder = self.holder.id();
        self.init = self.wait_for("systemd to be there", |_| init_below(holder));
    }

    /// A power cut: every process ends at once.
    pub(crate) fn power_cut(&mut self) {
        let done = Command::new("kill")
            .args(["-KILL", &self.init.to_string()])
            .status();
        assert!(done.unwrap().success());
        self.await_off();
    }

    /// It reboots by itself.
    pub(crate) fn reboot(&mut self) {
        self.run(&["systemctl", "--no-block", "reboot"]);
        self.await_off();
        self.boot();
    }

    fn await_off(&mut self) {
        let holder = self.holder.id();
        self.init = 0;
        self.wait("the power to be off", |_| {
            child_named(holder, "bash").is_some_and(|bash| child_named(bash, NSPAWN).is_none())
        });
    }

    /// Runs a command in it.
    pub(crate) fn run(&self, command: &[&str]) -> Output {
        Command::new("timeout")
            .args(["--kill-after=5", COMMAND, "nsenter", "--target"])
            .arg(self.init.to_string())
            .args(["--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup"])
            .args(command)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs a command in it that must succeed, and returns its output.
    pub(crate) fn ok(&self, command: &[&str]) -> String {
        let done = self.run(command);
        let output = String::from_utf8_lossy(&done.stderr);
        assert!(
            done.status.success(),
            "{command:?}: {output}\n{}",
            self.journal()
        );
        String::from_utf8(done.stdout).unwrap()
    }

    /// A file's text; `None` when there is none.
    pub(crate) fn read(&self, path: &str) -> Option<String> {
        let done = self.run(&["cat", path]);
        done.status
            .success()
            .then(|| String::from_utf8(done.stdout).unwrap())
    }

    /// Writes a file into it.
    pub(crate) fn write(&self, path: &str, bytes: &[u8]) {
        let path = format!("/proc/{}/root{path}", self.init);
        fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Points a link of the slots, as an updater does: by one rename.
    pub(crate) fn point(&self, link: &str, to: &str) {
        let command = format!(
            "cd /opt/imagebuilder-agent && ln -sfn {to} .new && mv -T .new {link} && sync -f ."
        );
        self.ok(&["sh", "-c", &command]);
    }

    /// The target of a link of the slots.
    pub(crate) fn leads(&self, link: &str) -> String {
        let path = format!("/opt/imagebuilder-agent/{link}");
        String::from_utf8_lossy(&self.run(&["readlink", &path]).stdout)
            .trim()
            .to_owned()
    }

    /// A unit's properties.
    pub(crate) fn show(&self, unit: &str) -> BTreeMap<String, String> {
        let output = self.ok(&["systemctl", "show", unit]);
        output
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    /// `ActiveState=` and `Result=`.
    pub(crate) fn state(&self, unit: &str) -> (String, String) {
        let shown = self.show(unit);
        (shown["ActiveState"].clone(), shown["Result"].clone())
    }

    /// The version of the daemon that runs as the stable one and is ready; `None` while none does.
    pub(crate) fn serving(&self) -> Option<String> {
        self.version_in(STABLE)
    }

    /// The same for the one on trial.
    pub(crate) fn on_trial(&self) -> Option<String> {
        self.version_in(TRIAL)
    }

    fn version_in(&self, unit: &str) -> Option<String> {
        let shown = self.show(unit);
        if shown["ActiveState"] != "active" {
            return None;
        }
        let status = self.read("/run/imagebuilder-agent/status.json")?;
        let status: serde_json::Value = serde_json::from_str(&status).ok()?;
        let ours = status["pid"].as_u64()?.to_string() == shown["MainPID"];
        ours.then(|| status["agent"].as_str().unwrap().to_owned())
    }

    /// Waits until the stable unit runs this version.
    pub(crate) fn serves(&self, version: &str) {
        self.wait(&format!("{version} to be serving"), |it| {
            it.serving().as_deref() == Some(version)
        });
    }

    /// Waits until something is so.
    pub(crate) fn wait(&self, what: &str, so: impl Fn(&Self) -> bool) {
        self.wait_for(what, |it| so(it).then_some(()));
    }

    fn wait_for<T>(&self, what: &str, so: impl Fn(&Self) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(it) = so(self) {
                return it;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "waited in vain for {what}\n{}\n{}",
                self.console(),
                self.journal()
            );
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// The journal of this boot.
    pub(crate) fn journal(&self) -> String {
        self.journal_of(&[])
    }

    /// The same of one unit.
    pub(crate) fn log(&self, unit: &str) -> String {
        self.journal_of(&["--unit", unit])
    }

    fn journal_of(&self, which: &[&str]) -> String {
        if self.init == 0 {
            return String::new();
        }
        // A message reaches the journal a moment later, for longer where the host is busy.
        self.run(&["journalctl", "--sync"]);
        let show = [
            "journalctl",
            "--boot",
            "--no-pager",
            "--output=short-monotonic",
        ];
        let output = self.run(&[&show, which].concat());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn console(&self) -> String {
        fs::read_to_string(self.files.path().join("console")).unwrap_or_default()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The holder ends the container and clears up.
        drop(self.orders.take());
        let _ = self.holder.wait();
    }
}

/// The container's systemd: the child of systemd-nspawn, which the holder's shell started. Before it is
/// systemd it is systemd-nspawn's own, in other namespaces.
fn init_below(holder: u32) -> Option<u32> {
    let nspawn = child_named(child_named(holder, "bash")?, NSPAWN)?;
    child_named(nspawn, "systemd")
}

fn child_named(parent: u32, name: &str) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .find(|pid: &u32| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
        })
}

/// Whether containers are left out here, on request; otherwise they must boot, or the test reports why
/// they do not.
pub(crate) fn left_out() -> bool {
    static GROUND: OnceLock<bool> = OnceLock::new();
    *GROUND.get_or_init(|| {
        if std::env::var_os("IMAGEBUILDER_SKIP_NSPAWN").is_some_and(|value| value == "1") {
            report_left_out("IMAGEBUILDER_SKIP_NSPAWN=1: the agent's units on real systemd");
            return true;
        }
        if let Err(why) = ground() {
            panic!(
                "no container with a systemd of its own can be booted here: {why}\n\
                 hint: run as root where namespaces and cgroups may be made, or leave these tests out with \
                 IMAGEBUILDER_SKIP_NSPAWN=1"
            );
        }
        false
    })
}

/// Prints what is not tested, and why, past the capture of what tests print.
pub(crate) fn report_left_out(what: &str) {
    std::io::stderr()
        .write_all(format!("LEFT OUT by {what}\n").as_bytes())
        .unwrap();
}

/// Tries what a container needs of this host.
fn ground() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root may".to_owned());
    }
    let tried = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-euc"])
        .arg(
            "command -v systemd-nspawn >/dev/null || { echo no systemd-nspawn >&2; exit 1; }
             umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup
             mkdir /sys/fs/cgroup/imagebuilder-test-$$; rmdir /sys/fs/cgroup/imagebuilder-test-$$
             mount -t tmpfs none /mnt; mkdir /mnt/l /mnt/u /mnt/w /mnt/m
             mount -t overlay overlay -o lowerdir=/mnt/l,upperdir=/mnt/u,workdir=/mnt/w /mnt/m",
        )
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("unshare: {error}"))?;
    if tried.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&tried.stderr).trim().to_owned())
}
