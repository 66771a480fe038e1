//! strace: what a run does to the disk, call by call; and a fault at any one of these calls.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::sandbox::Sandbox;

/// The calls by which a process reads a disk, changes what is on it, or makes that last.
const CALLS: &str = "read,openat,statx,readlink,mkdir,mkdirat,write,pwrite64,writev,ftruncate,fchmod,fchmodat,fsync,fdatasync,\
    rename,renameat,renameat2,symlink,symlinkat,link,linkat,unlink,unlinkat,rmdir,copy_file_range,sendfile";

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// Its name.
    pub(crate) name: String,
    /// The how manieth of its name it is in its thread, from 1.
    pub(crate) nth: usize,
    /// Its arguments, with the paths of descriptors.
    pub(crate) arguments: String,
}

impl Call {
    /// Every path that the call names, also by descriptor.
    pub(crate) fn paths(&self) -> Vec<&str> {
        let quoted = self.arguments.split('"').skip(1).step_by(2);
        let described = self
            .arguments
            .split('<')
            .skip(1)
            .filter_map(|rest| rest.split('>').next());
        quoted
            .chain(described)
            .filter(|path| !path.is_empty())
            .collect()
    }

    /// Whether it may change something.
    pub(crate) fn changes(&self) -> bool {
        !self.reads()
    }

    /// Whether it only reads.
    pub(crate) fn reads(&self) -> bool {
        match self.name.as_str() {
            "read" | "statx" | "readlink" => true,
            "openat" => !(self.arguments.contains("O_CREAT") || self.arguments.contains("O_TRUNC")),
            _ => false,
        }
    }
}

/// `strace` before the updater's command line. Children are detached when they execute another program.
fn strace(sandbox: &Sandbox, log: &Path, more: &[String]) -> Command {
    let mut command = sandbox.command("strace");
    command
        .args(["-f", "-b", "execve", "-qq", "-y", "-s", "0", "-o"])
        .arg(log)
        .arg(format!("--trace={CALLS}"))
        .args(more)
        .arg(env!("CARGO_BIN_EXE_imagebuilder-agent"))
        .args(["update", "run"]);
    command
}

/// Runs the updater undisturbed and returns every call that it made within the instance.
pub(crate) fn record(sandbox: &Sandbox) -> Vec<Call> {
    let log = sandbox.path("strace.log");
    let done = strace(sandbox, &log, &[])
        .output()
        .expect("strace is installed");
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let text = fs::read_to_string(&log).unwrap();
    fs::remove_file(&log).unwrap();
    let mut counts = BTreeMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        // `1234 name(arguments) = result`; what is resumed was counted before.
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let Some((name, arguments)) = rest.trim_start().split_once('(') else {
            continue;
        };
        if name.starts_with(['<', '-', '+']) {
            continue;
        }
        let nth = counts
            .entry((thread.to_owned(), name.to_owned()))
            .or_insert(0);
        *nth += 1;
        // What failed in the good run did nothing: a leftover that was not there.
        if arguments.contains(") = -1 ") {
            continue;
        }
        calls.push(Call {
            name: name.to_owned(),
            nth: *nth,
            arguments: arguments.to_owned(),
        });
    }
    let root = sandbox.root().to_str().unwrap();
    calls.retain(|call| call.paths().iter().any(|path| path.starts_with(root)));
    for call in &mut calls {
        // Another instance has another root.
        call.arguments = call.arguments.replace(root, "");
    }
    calls
}

/// Runs the updater with a fault at one call: `signal=KILL`, `error=ENOSPC`, ….
pub(crate) fn disturbed(sandbox: &Sandbox, call: &Call, fault: &str) -> Output {
    let log = sandbox.path("strace.log");
    let faults = match call.paths().first() {
        // How many reads a pipe takes is chance, which moves the count: so all reads of the one file.
        Some(path) if call.name == "read" => vec![
            format!("--inject=read:{fault}"),
            format!("--trace-path={}{path}", sandbox.root().display()),
        ],
        _ => vec![format!("--inject={}:{fault}:when={}", call.name, call.nth)],
    };
    let done = strace(sandbox, &log, &faults)
        .output()
        .expect("strace is installed");
    fs::remove_file(&log).unwrap();
    done
}
