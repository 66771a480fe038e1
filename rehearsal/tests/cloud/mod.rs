//! A cloud for tests that use it from outside, as its users do.

#![allow(dead_code, reason = "each test program uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A cloud of puppets in a folder of its own, which ends with this.
pub(crate) struct Cloud {
    folder: tempfile::TempDir,
}

impl Cloud {
    /// Brings one up; `moto` is the program to answer what the cloud does not.
    pub(crate) fn up(moto: Option<&str>) -> Self {
        let cloud = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        cloud.rise(moto, &[]);
        cloud
    }

    /// One that is not up yet.
    pub(crate) fn down() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// Brings one up in which each instance runs `command`.
    pub(crate) fn of_puppets(command: &str) -> Self {
        let cloud = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        cloud.rise(None, &["--puppet-command", command]);
        cloud
    }

    /// Brings it up again, after a `down`.
    pub(crate) fn rise(&self, moto: Option<&str>, more: &[&str]) {
        let mut command = self.rehearsal("up");
        command.args(["--port", "0", "--guests", "puppets", "--detach"]);
        command.args(more);
        if let Some(moto) = moto {
            command.env("REHEARSAL_MOTO", moto);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", message(&output));
    }

    /// `rehearsal VERB` on its folder.
    pub(crate) fn rehearsal(&self, verb: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rehearsal"));
        command.arg(verb).arg(self.folder.path());
        command
    }

    /// Runs a program of the Python environment against the cloud.
    pub(crate) fn exec<I: AsRef<std::ffi::OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = I>,
    ) -> Output {
        let mut command = self.rehearsal("exec");
        command.arg("--").arg(beside_moto(program)).args(arguments);
        command.output().unwrap()
    }

    /// Runs a program that must succeed; returns its output.
    pub(crate) fn ok(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.exec(program, arguments);
        assert!(output.status.success(), "{}", message(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a protocol script beside these tests, which prints nothing on success.
    pub(crate) fn passes(&self, script: &str, arguments: &[&str]) {
        let script = format!("{}/tests/{script}", env!("CARGO_MANIFEST_DIR"));
        let arguments: Vec<&str> = std::iter::once(script.as_str())
            .chain(arguments.iter().copied())
            .collect();
        assert_eq!(self.ok("python3", &arguments), "");
    }

    /// Its folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file of its folder.
    pub(crate) fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(file)).unwrap()
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        // A test may have killed it already.
        let _ = self.rehearsal("down").output();
    }
}

/// Whether this user may listen at guests' ports, with the reason where not.
pub(crate) fn guests_can_listen() -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_rehearsal"))
        .args(["doctor", "--json", "--accelerator", "tcg"])
        .arg(folder.path())
        .output()
        .unwrap();
    let checks: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let ports = checks.iter().find(|check| check["subject"] == "ports");
    let ports = ports.unwrap();
    if ports["verdict"] == "ok" {
        return Ok(());
    }
    Err(ports["found"].to_string())
}

/// A program of the environment that moto is in.
fn beside_moto(program: &str) -> PathBuf {
    std::env::var_os("REHEARSAL_MOTO")
        .and_then(|moto| Path::new(&moto).parent().map(|bin| bin.join(program)))
        .unwrap_or_else(|| program.into())
}

fn message(output: &Output) -> String {
    format!(
        "{}{}\nhint: `make setup` installs moto, boto3 and the AWS CLI",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
