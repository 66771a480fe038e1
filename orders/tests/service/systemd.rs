//! The units on real systemd: under load a restart and a crash refuse no connection, and after a permanent
//! failure the port is closed.
//!
//! Uses the container of the agent's tests (`agent/tests/systemd`), on this host's network.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use test_support::Port;

use crate::support::{Answer, ORDER, TEST_TIMEOUT, answer};
use crate::unit::rendered;

/// The path of the program under test in the container.
const BINARY: &str = "/usr/lib/imagebuilder-agent/real";

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/tests/systemd")
}

/// A container with the order service; stopped when dropped.
struct Machine {
    files: TempDir,
    holder: Child,
    orders: Option<ChildStdin>,
    init: u32,
    port: Port,
}

impl Machine {
    fn boot() -> Self {
        let base = Command::new("bash")
            .arg(scripts().join("base.sh"))
            .arg(scripts().join("../../../.cache"))
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(base.status.success(), "the tree to boot from was not built");
        let base = String::from_utf8(base.stdout).unwrap();
        let base = fs::canonicalize(base.trim()).unwrap();

        let port = Port::reserve();
        let files = tempfile::tempdir().unwrap();
        let file = |path: &str, text: &str| {
            let path = files.path().join("root").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        };
        let listen = port.address().to_string();
        let environment = [("ORDERS_LISTEN", &*listen)];
        for unit in ["orders.service", "orders.socket"] {
            let text = rendered(unit, BINARY, &environment);
            file(&format!("etc/systemd/system/{unit}"), &text);
        }
        file(
            "etc/systemd/system/orders.service.d/test.conf",
            &format!(
                "[Service]\nEnvironment=ORDERS_LISTEN={listen} AWS_EC2_METADATA_DISABLED=true\n\
                 EnvironmentFile=\n"
            ),
        );
        // Run while the image is prepared.
        file(
            "root/20-agent.sh",
            "systemctl --quiet enable orders.service\n",
        );
        file(&BINARY[1..], "");

        let mut holder = Command::new("setpriv")
            // The container must not outlive its test.
            .args(["--pdeathsig", "KILL"])
            .args(["unshare", "--mount", "--propagation", "private", "--pid"])
            .args(["--fork", "--kill-child", "--mount-proc", "bash"])
            .arg(scripts().join("container.sh"))
            .arg(base)
            .arg(files.path())
            .arg(format!("orders-test-{}", std::process::id()))
            .arg(env!("CARGO_BIN_EXE_orders"))
            .env("MACHINE_NETWORK", "")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut made = String::new();
        BufReader::new(holder.stdout.take().unwrap())
            .read_line(&mut made)
            .unwrap();
        assert_eq!(made, "made\n", "the container was not prepared: see above");
        let mut orders = holder.stdin.take().unwrap();
        writeln!(orders, "boot").unwrap();
        let mut machine = Self {
            orders: Some(orders),
            init: 0,
            holder,
            files,
            port,
        };
        let begun = Instant::now();
        machine.init = loop {
            if let Some(init) = init_below(machine.holder.id()) {
                break init;
            }
            assert!(begun.elapsed() < TEST_TIMEOUT, "{}", machine.console());
            std::thread::park_timeout(Duration::from_millis(50));
        };
        machine.wait("the service to be ready", |it| it.get("/gtg") == Some(200));
        machine
    }

    /// Runs `systemctl` in it.
    fn systemctl(&self, arguments: &[&str]) -> Output {
        Command::new("timeout")
            .args(["--kill-after=5", "60", "nsenter", "--target"])
            .arg(self.init.to_string())
            .args([
                "--mount",
                "--pid",
                "--uts",
                "--ipc",
                "--cgroup",
                "systemctl",
            ])
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn ok(&self, arguments: &[&str]) {
        let done = self.systemctl(arguments);
        let printed = String::from_utf8_lossy(&done.stderr);
        assert!(
            done.status.success(),
            "{arguments:?}: {printed}\n{}",
            self.console()
        );
    }

    fn state(&self, unit: &str) -> String {
        let done = self.systemctl(&["is-active", unit]);
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    }

    /// When a unit became active, in microseconds since the boot.
    fn active_since(&self, unit: &str) -> u64 {
        let property = "--property=ActiveEnterTimestampMonotonic";
        let done = self.systemctl(&["show", "--value", property, unit]);
        let printed = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        printed
            .parse()
            .unwrap_or_else(|_| panic!("{unit}: {printed:?}"))
    }

    /// Sets or removes a line of the service's environment.
    fn set(&self, line: Option<&str>) {
        let folder = format!("/proc/{}/root/etc/systemd/system", self.init);
        let path = format!("{folder}/orders.service.d/broken.conf");
        match line {
            Some(line) => fs::write(path, format!("[Service]\nEnvironment={line}\n")).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        self.ok(&["daemon-reload"]);
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(self.port.address())?;
        stream.set_read_timeout(Some(TEST_TIMEOUT))?;
        Ok(stream)
    }

    fn get(&self, path: &str) -> Option<u16> {
        let mut stream = self.connect().ok()?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n"
        )
        .ok()?;
        answer(&mut stream).map(|answer| answer.status)
    }

    /// Places an order over a new connection.
    fn place(&self) -> std::io::Result<Option<Answer>> {
        let mut stream = self.connect()?;
        let sent = write!(
            stream,
            "POST /order HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{ORDER}",
            ORDER.len()
        );
        Ok(sent.ok().and_then(|()| answer(&mut stream)))
    }

    fn wait(&self, what: &str, so: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !so(self) {
            let console = || self.console();
            assert!(
                begun.elapsed() < TEST_TIMEOUT,
                "timed out waiting for {what}\n{}",
                console()
            );
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    fn refused(&self) -> bool {
        self.connect()
            .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    }

    fn console(&self) -> String {
        let status = if self.init == 0 {
            Vec::new()
        } else {
            self.systemctl(&["status", "--no-pager", "orders.service", "orders.socket"])
                .stdout
        };
        let console = fs::read_to_string(self.files.path().join("console"));
        format!(
            "{}\n{}",
            console.unwrap_or_default(),
            String::from_utf8_lossy(&status)
        )
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The holder stops the container and cleans up.
        drop(self.orders.take());
        let _ = self.holder.wait();
    }
}

/// The container's systemd: the child of systemd-nspawn, which the holder's shell started.
fn init_below(holder: u32) -> Option<u32> {
    let nspawn = child_named(child_named(holder, "bash")?, "systemd-nspawn")?;
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

/// Whether to skip this test because it was requested; otherwise containers must boot.
fn left_out() -> bool {
    if std::env::var_os("IMAGEBUILDER_SKIP_NSPAWN").is_some_and(|value| value == "1") {
        // Bypasses the capture of test output.
        let line = "LEFT OUT by IMAGEBUILDER_SKIP_NSPAWN=1: orders' units on real systemd\n";
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        return true;
    }
    assert!(
        rustix::process::geteuid().is_root(),
        "no machine with a systemd of its own can be booted here: only root may; \
         hint: leave this out with IMAGEBUILDER_SKIP_NSPAWN=1"
    );
    false
}

#[test]
fn restarts_refuse_no_connection_and_failure_closes_the_port() {
    if left_out() {
        return;
    }
    let machine = Machine::boot();
    // A check that only connects must not see a booting instance as healthy.
    let early = machine.active_since("network-online.target");
    assert!(machine.active_since("orders.socket") >= early);
    let (placed, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    // Connections that a crash may cut off; a restart may not.
    let crashing = AtomicBool::new(false);
    let trouble = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    let crash = crashing.load(Ordering::SeqCst);
                    let outcome = match machine.place() {
                        Ok(Some(answer)) if answer.status == 200 => {
                            placed.fetch_add(1, Ordering::SeqCst);
                            continue;
                        }
                        Ok(_) if crash || crashing.load(Ordering::SeqCst) => continue,
                        Ok(other) => format!("{other:?}"),
                        Err(error) => format!("{error}"),
                    };
                    trouble.lock().unwrap().push(outcome);
                }
            });
        }
        let more = |what: &str| {
            let before = placed.load(Ordering::SeqCst);
            machine.wait(what, |_| {
                placed.load(Ordering::SeqCst) > before + 20 || !trouble.lock().unwrap().is_empty()
            });
        };
        more("orders before");
        for _ in 0..3 {
            machine.ok(&["restart", "orders.service"]);
            more("orders after a restart");
        }
        crashing.store(true, Ordering::SeqCst);
        machine.ok(&["kill", "--signal=KILL", "orders.service"]);
        more("orders after a crash");
        over.store(true, Ordering::SeqCst);
    });
    let trouble = trouble.into_inner().unwrap();
    assert!(trouble.is_empty(), "{trouble:?}\n{}", machine.console());

    // This many starts in so little time would count as a permanent failure.
    machine.ok(&["reset-failed", "orders.service"]);
    // Stopping for good stops both; starting the service starts the socket.
    machine.ok(&["stop", "orders.socket", "orders.service"]);
    assert!(machine.refused(), "the port is still open");
    machine.ok(&["start", "orders.service"]);
    assert_eq!(machine.state("orders.socket"), "active");
    machine.wait("the service to be back", |it| it.get("/gtg") == Some(200));

    // A service that cannot start is given up; then its port must be closed.
    machine.set(Some("ORDERS_STORE=nonsense"));
    machine.systemctl(&["restart", "orders.service"]);
    machine.wait("the port to be closed", Machine::refused);
    assert_eq!(machine.state("orders.service"), "failed");
    assert_eq!(machine.state("orders.socket"), "failed");
    // As the agent does.
    machine.set(None);
    machine.ok(&["reset-failed", "--", "orders.service"]);
    machine.ok(&["restart", "--no-block", "--", "orders.service"]);
    machine.wait("the service to recover", |it| it.get("/gtg") == Some(200));
    assert_eq!(machine.state("orders.socket"), "active");
}
