//! A headless Chromium for a test, driven over WebDriver.
//!
//! Owns its processes: every wait has a time limit, and however a test ends, chromedriver, the browser and
//! its children are killed by their ids. One at a time, since two would slow each other down.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use axum::http::Method;
use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use reqwest::Url;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::TEST_TIMEOUT;

/// Time limit for a whole test including the browser's start, on a busy machine.
const WHOLE_TEST_TIMEOUT: Duration = Duration::from_secs(600);

static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Runs `test` with a fresh browser and closes it.
pub(crate) fn with_browser(test: impl AsyncFnOnce(&Browser)) {
    // A failed test poisons the lock but leaves nothing behind.
    let _turn = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let driver = Driver::start();
    runtime.block_on(async {
        let all = async {
            let browser = Browser::open(&driver).await;
            test(&browser).await;
        };
        let ended = tokio::time::timeout(WHOLE_TEST_TIMEOUT, all).await;
        ended.expect("the test ends in time");
    });
}

/// chromedriver and its browser; both are stopped when dropped.
struct Driver {
    child: Child,
    port: u16,
    profile: tempfile::TempDir,
}

impl Driver {
    fn start() -> Self {
        // If the tests are killed, the kernel kills chromedriver; the browser then loses its control pipe and
        // exits.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "chromedriver", "--port=0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start setpriv");
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, printed) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // Its output must be read, or it blocks when the pipe is full.
                let _ = sender.send(line);
            }
        });
        let mut driver = Self {
            child,
            port: 0,
            profile: tempfile::tempdir().unwrap(),
        };
        while driver.port == 0 {
            let line = printed.recv_timeout(TEST_TIMEOUT).expect(
                "chromedriver prints its port\nhint: make/setup.sh test installs chromium-driver",
            );
            if let Some((_, port)) = line.split_once("successfully on port ") {
                driver.port = port.trim_end_matches('.').parse().unwrap();
            }
        }
        driver
    }

    /// Kills the current processes; returns whether there were any.
    fn kill_all(&self) -> bool {
        let profile = self.profile.path();
        let mut pids = family(self.child.id());
        pids.extend(processes().filter(|pid| names(*pid, profile)));
        pids.retain(|pid| *pid != self.child.id());
        for pid in &pids {
            let pid = i32::try_from(*pid).ok().and_then(Pid::from_raw);
            // It may have exited already.
            let _ = kill_process(pid.unwrap(), Signal::KILL);
        }
        !pids.is_empty()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let deadline = Instant::now() + TEST_TIMEOUT;
        while self.kill_all() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Also kills what it was about to start.
        while self.kill_all() && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// A process with all of its descendants.
fn family(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = processes()
        .filter_map(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // pid (name) state parent …; the name may contain anything.
            let mut rest = stat.rsplit_once(')')?.1.split_whitespace();
            let zombie = rest.next()? == "Z";
            (!zombie).then_some((pid, rest.next()?.parse().ok()?))
        })
        .collect();
    let mut family = vec![root];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        family.extend(
            parents
                .iter()
                .filter(|(_, p)| *p == parent)
                .map(|(pid, _)| pid),
        );
        next += 1;
    }
    family
}

/// Whether the process was started with this `profile` folder.
fn names(pid: u32, profile: &Path) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).contains(profile.to_str().unwrap())
}

/// A browser with one tab.
pub(crate) struct Browser {
    pub(crate) client: Client,
}

impl Browser {
    async fn open(driver: &Driver) -> Self {
        let profile = format!("--user-data-dir={}", driver.profile.path().display());
        let options = json!({
            "args": [
                "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
                "--lang=en-GB", profile,
            ],
        });
        let mut wanted = Capabilities::new();
        wanted.insert("goog:chromeOptions".into(), options);
        wanted.insert("goog:loggingPrefs".into(), json!({"browser": "ALL"}));
        let seconds = u64::try_from(TEST_TIMEOUT.as_millis()).unwrap();
        wanted.insert(
            "timeouts".into(),
            json!({"script": seconds, "pageLoad": seconds, "implicit": 0}),
        );
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(wanted);
        let url = format!("http://127.0.0.1:{}", driver.port);
        // chromedriver's time limit for starting a browser is fixed at 60 s; on a busy machine the next
        // attempt finds the files in the page cache.
        let mut refused = Vec::new();
        while refused.len() < 3 {
            match builder.connect(&url).await {
                Ok(client) => return Self { client },
                Err(error) => refused.push(error),
            }
            driver.kill_all();
        }
        panic!("no browser: {refused:?}");
    }

    /// Runs a script in the page and returns its result.
    pub(crate) async fn run(&self, script: &str) -> Value {
        let ran = self.client.execute(script, Vec::new()).await;
        ran.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Waits until the expression is true in the page.
    pub(crate) async fn until(&self, expression: &str) {
        let deadline = Instant::now() + TEST_TIMEOUT;
        let script = format!("return Boolean({expression})");
        while self.run(&script).await != true {
            if Instant::now() > deadline {
                let text = self.run("return document.body.innerText").await;
                panic!(
                    "never true: {expression}\n{text:#}\n{:?}",
                    self.complaints().await
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends a command of the DevTools protocol.
    /// <https://chromedevtools.github.io/devtools-protocol/>
    pub(crate) async fn devtools(&self, command: &'static str, params: Value) -> Value {
        let body = json!({"cmd": command, "params": params});
        let path = "goog/cdp/execute";
        let answer = self.client.issue_cmd(Extension { path, body }).await;
        answer.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Sets the window's size, like a phone or a desktop, and the preferred color scheme.
    pub(crate) async fn set_window(&self, width: u32, height: u32, scheme: &str) {
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", size)
            .await;
        let features = json!({"features": [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]});
        self.devtools("Emulation.setEmulatedMedia", features).await;
    }

    /// The browser's log since the last call: policy violations, script errors, error responses.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let body = json!({"type": "browser"});
        let path = "se/log";
        let log = self
            .client
            .issue_cmd(Extension { path, body })
            .await
            .unwrap();
        let entries = log.as_array().cloned().unwrap_or_default();
        let severe = entries.iter().filter(|entry| entry["level"] == "SEVERE");
        severe.map(|entry| entry["message"].to_string()).collect()
    }
}

/// A command that only chromedriver supports.
#[derive(Debug)]
struct Extension {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Extension {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, <Url as FromStr>::Err> {
        base.join(&format!(
            "session/{}/{}",
            session.unwrap_or_default(),
            self.path
        ))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}
