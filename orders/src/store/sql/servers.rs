//! Real MariaDB and PostgreSQL servers for tests, from Debian's packages, each in its own folder. Test code
//! only; the tests of the built binary include this file too, so it uses nothing of the crate. If the
//! programs are missing, tests fail with a hint.
//!
//! A server stops when its value is dropped, and with the thread that started it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use test_support::Port;

/// Time limit for a start on a busy machine.
const TEST_TIMEOUT: Duration = Duration::from_secs(120);
/// User id for the servers if the tests run as root, since PostgreSQL refuses root: "nobody".
const UNPRIVILEGED: u32 = 65534;
/// The password of every user.
pub(crate) const PASSWORD: &str = "a pass/word: with @ and %";

/// The kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    MariaDb,
    Postgres,
}

/// A running server with an empty database.
pub(crate) struct Server {
    kind: Kind,
    folder: TempDir,
    port: Port,
    tls: bool,
    child: Option<Child>,
    /// What it logged since its last start.
    log: Arc<Mutex<String>>,
    /// Reads the log, until the server ends.
    reader: Option<JoinHandle<()>>,
    /// Whether InnoDB starts without its purge, see [`Server::start_again_if_aborted`].
    without_purge: bool,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let (Kind::Postgres, Some(child)) = (self.kind, &mut self.child) {
            // Stops the server immediately, with its children; SIGKILL would leave those running for a while.
            let pid = child.id().to_string();
            let stopped = Command::new("kill").args(["-s", "QUIT", &pid]).status();
            if stopped.is_ok_and(|status| status.success()) {
                // Errors cannot be reported here.
                let _ = child.wait();
            }
        }
        self.kill();
    }
}

impl Server {
    /// Starts a new server without TLS.
    pub(crate) fn start(kind: Kind) -> Self {
        Self::prepare(kind, false)
    }

    /// Starts a new server that requires TLS, with a certificate for 127.0.0.1 signed by [`Server::ca_file`].
    pub(crate) fn start_with_tls(kind: Kind) -> Self {
        Self::prepare(kind, true)
    }

    fn prepare(kind: Kind, tls: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        fs::create_dir(path.join("tmp")).expect("a folder");
        fs::write(path.join("password"), format!("{PASSWORD}\n")).expect("write");
        if tls {
            make_certificates(path);
        }
        match kind {
            Kind::MariaDb => {
                fs::create_dir(path.join("data")).expect("a folder");
                fs::write(path.join("boot.sql"), mariadb_tables()).expect("write");
                let quoted = PASSWORD.replace('\'', "''");
                let require = if tls { "REQUIRE SSL" } else { "" };
                let first = format!(
                    "CREATE DATABASE IF NOT EXISTS shop;\n\
                     CREATE USER IF NOT EXISTS 'shop'@'127.0.0.1' IDENTIFIED BY '{quoted}' {require};\n\
                     GRANT ALL ON *.* TO 'shop'@'127.0.0.1';\n"
                );
                fs::write(path.join("init.sql"), first).expect("write");
                give_away(path);
                let mut command = as_unprivileged_user(&program(Kind::MariaDb, "mariadbd"));
                command
                    .args(["--no-defaults", "--bootstrap", "--innodb-log-file-size=4M"])
                    .arg(at("--datadir=", &path.join("data")))
                    .arg(at("--tmpdir=", &path.join("tmp")))
                    .stdin(fs::File::open(path.join("boot.sql")).expect("open"));
                run(command);
            }
            Kind::Postgres => {
                give_away(path);
                let mut command = as_unprivileged_user(&program(Kind::Postgres, "initdb"));
                command
                    // A plain-text password: hashing it would take much CPU time in an unoptimised build.
                    // With TLS it is SCRAM.
                    .args(["--no-sync", "--auth=password", "--username=shop"])
                    .args(["--encoding=UTF8", "--locale=C.UTF-8"])
                    .arg(at("--pgdata=", &path.join("data")))
                    .arg(at("--pwfile=", &path.join("password")));
                run(command);
                if tls {
                    let rules = "hostssl all all 127.0.0.1/32 scram-sha-256\n";
                    fs::write(path.join("data/pg_hba.conf"), rules).expect("write");
                }
            }
        }
        let mut server = Self {
            kind,
            folder,
            port: Port::reserve(),
            tls,
            child: None,
            log: Arc::default(),
            reader: None,
            without_purge: false,
        };
        server.start_again();
        server
    }

    /// Starts it again with its data, on the same port.
    pub(crate) fn start_again(&mut self) {
        // Processes of the crashed server may take a moment to exit.
        let deadline = Instant::now() + TEST_TIMEOUT;
        while !self.listens() {
            let late = Instant::now() > deadline;
            assert!(!late, "{:?} did not start again", self.kind);
        }
    }

    /// Starts a MariaDB again that was killed, came back, and then aborted by itself of
    /// <https://jira.mariadb.org/browse/MDEV-36845>: InnoDB's purge may refuse a history that it recovered. Without the purge it runs
    /// and has all its data.
    ///
    /// # Panics
    /// When it ended for another reason; with its log.
    pub(crate) fn start_again_if_aborted(&mut self) {
        let ended = self.child.as_mut().map(Child::try_wait);
        if matches!(ended, Some(Ok(None))) {
            return;
        }
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the log's reader");
        }
        let log = self.log.lock().expect("log").clone();
        let known = log.contains("Failing assertion: tail.trx_no <= last_trx_no");
        assert!(known, "{:?} ended:\n{log}", self.kind);
        self.kill();
        self.without_purge = true;
        self.start_again();
    }

    /// Kills it, like a crash.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have exited already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The port it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port.number()
    }

    /// The address of its database as a `store` setting, at `port` of this machine.
    pub(crate) fn url_at(&self, port: u16) -> String {
        match self.kind {
            Kind::MariaDb => format!("mysql://shop@127.0.0.1:{port}/shop"),
            Kind::Postgres => format!("postgres://shop@127.0.0.1:{port}/postgres"),
        }
    }

    /// The file with the password.
    pub(crate) fn password_file(&self) -> PathBuf {
        self.folder.path().join("password")
    }

    /// The certificate that signed the server's.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Starts the process and waits until it accepts connections; returns whether it does.
    fn listens(&mut self) -> bool {
        let path = self.folder.path();
        let mut command;
        match self.kind {
            Kind::MariaDb => {
                command = as_unprivileged_user(&program(Kind::MariaDb, "mariadbd"));
                command
                    .args([
                        "--no-defaults",
                        "--skip-name-resolve",
                        "--bind-address=127.0.0.1",
                    ])
                    .args(["--innodb-log-file-size=4M", "--innodb-buffer-pool-size=16M"])
                    .arg(format!("--port={}", self.port()))
                    .arg(at("--datadir=", &path.join("data")))
                    .arg(at("--tmpdir=", &path.join("tmp")))
                    .arg(at("--socket=", &path.join("tmp/socket")))
                    .arg(at("--pid-file=", &path.join("tmp/pid")))
                    .arg(at("--init-file=", &path.join("init.sql")));
                if self.without_purge {
                    command.arg("--innodb-force-recovery=2");
                }
                if self.tls {
                    command
                        .arg(at("--ssl-cert=", &path.join("server.pem")))
                        .arg(at("--ssl-key=", &path.join("server.key")));
                }
            }
            Kind::Postgres => {
                command = as_unprivileged_user(&program(Kind::Postgres, "postgres"));
                command
                    .arg("-D")
                    .arg(path.join("data"))
                    .args([
                        "-c",
                        "listen_addresses=127.0.0.1",
                        "-c",
                        "logging_collector=off",
                    ])
                    .args([
                        "-c",
                        "unix_socket_directories=",
                        "-c",
                        "log_destination=stderr",
                    ])
                    .args(["-c", "lc_messages=C", "-c", "shared_buffers=16MB"])
                    .args(["-c", &format!("port={}", self.port())]);
                if self.tls {
                    command
                        .args(["-c", "ssl=on", "-c"])
                        .arg(at("ssl_cert_file=", &path.join("server.pem")))
                        .arg("-c")
                        .arg(at("ssl_key_file=", &path.join("server.key")));
                }
                // After a crash the lock file may contain the process id of another process.
                let _ = fs::remove_file(path.join("data/postmaster.pid"));
            }
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stderr = BufReader::new(child.stderr.take().expect("stderr"));
        self.child = Some(child);
        let (sender, lines) = channel();
        let log = Arc::new(Mutex::new(String::new()));
        self.log = Arc::clone(&log);
        // Its log must be read, or it blocks when the pipe is full.
        let reader = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut log = log.lock().expect("log");
                log.push_str(&line);
                log.push('\n');
                // The receiver is dropped once the server is up.
                let _ = sender.send(line);
            }
        });
        self.reader = Some(reader);
        // The log ends when the server does.
        while let Ok(line) = lines.recv_timeout(TEST_TIMEOUT) {
            // The last messages of a successful start.
            if line.contains("ready to accept connections") || line.starts_with("Version: ") {
                return true;
            }
        }
        self.kill();
        let log = self.log.lock().expect("log").clone();
        // The previous server's shared memory.
        assert!(log.contains("in use"), "{command:?} ended:\n{log}");
        false
    }
}

/// `option` and a path as one argument.
fn at(option: &str, path: &Path) -> String {
    format!("{option}{}", path.display())
}

fn is_root() -> bool {
    fs::metadata("/proc/self").expect("/proc/self").uid() == 0
}

/// A command for `program` as an unprivileged user, killed by the kernel when our thread ends.
fn as_unprivileged_user(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig=KILL");
    if is_root() {
        command.args([
            format!("--reuid={UNPRIVILEGED}"),
            format!("--regid={UNPRIVILEGED}"),
            "--clear-groups".to_owned(),
        ]);
    }
    // Keeps the test runner's environment from the server.
    command
        .arg("--")
        .arg(program)
        .env_clear()
        .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/");
    command
}

/// Makes the server's user the owner of the folder and its content.
fn give_away(path: &Path) {
    let own = |path: &Path| {
        if is_root() {
            chown(path, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).expect("chown");
        }
    };
    own(path);
    for entry in fs::read_dir(path).expect("read the folder") {
        let path = entry.expect("entry").path();
        if path.extension().is_some_and(|extension| extension == "key") {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        }
        own(&path);
    }
}

fn run(mut command: Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Finds a server program where Debian installs it, or in `PATH`.
fn program(kind: Kind, name: &str) -> PathBuf {
    let mut places: Vec<PathBuf> = match kind {
        Kind::MariaDb => vec!["/usr/sbin".into()],
        // Each release has its own folder; the newest sorts last.
        Kind::Postgres => fs::read_dir("/usr/lib/postgresql")
            .map(|entries| {
                let mut places: Vec<PathBuf> = entries
                    .map_while(Result::ok)
                    .map(|entry| entry.path().join("bin"))
                    .collect();
                places.sort();
                places
            })
            .unwrap_or_default(),
    };
    places.reverse();
    places.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    places
        .iter()
        .map(|place| place.join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| {
            panic!(
                "no {name}\nhint: run `make/setup.sh test`, or install Debian's \
                 mariadb-server-core and postgresql"
            )
        })
}

/// The statements that create MariaDB's system tables.
fn mariadb_tables() -> Vec<u8> {
    let mut sql = b"CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\n\
                    SET @skip_auth_anonymous=1;\n"
        .to_vec();
    for name in [
        "system_tables.sql",
        "performance_tables.sql",
        "system_tables_data.sql",
    ] {
        // Older releases call them mysql_, newer ones mariadb_.
        let found = ["/usr/share/mysql", "/usr/share/mariadb"]
            .iter()
            .flat_map(|folder| ["mysql", "mariadb"].map(|of| format!("{folder}/{of}_{name}")))
            .find_map(|path| fs::read(path).ok());
        let found = found
            .unwrap_or_else(|| panic!("no {name} of MariaDB's\nhint: run `make/setup.sh test`"));
        sql.extend_from_slice(&found);
    }
    sql
}

/// Creates a certificate authority and the server's certificate for 127.0.0.1.
fn make_certificates(path: &Path) {
    let openssl = |args: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(args).current_dir(path);
        run(command);
    };
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    let authority = [
        "-subj",
        "/CN=test authority",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
    ];
    openssl(&[&["req", "-x509", "-days", "2"][..], &key, &authority].concat());
    let request = [
        "-subj",
        "/CN=server",
        "-keyout",
        "server.key",
        "-out",
        "server.csr",
    ];
    openssl(&[&["req", "-new"][..], &key, &request].concat());
    fs::write(path.join("names"), "subjectAltName=IP:127.0.0.1\n").expect("write");
    openssl(&[
        "x509",
        "-req",
        "-days",
        "2",
        "-in",
        "server.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-extfile",
        "names",
        "-out",
        "server.pem",
    ]);
}
