//! Starts host processes that cannot outlive this one.
//!
//! Linux kills a process with `PR_SET_PDEATHSIG` when the *thread* that started it ends. So one thread starts them all
//! and runs as long as the VM host: however the daemon ends, its guests end with it.

use std::ffi::OsString;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use anyhow::Context as _;

/// A process to start, and where its three streams go.
pub(super) struct SpawnRequest {
    /// The program and its arguments.
    pub(super) command: Vec<OsString>,
    /// Completes the command: folder, environment, streams.
    pub(super) finish: Box<dyn FnOnce(&mut Command) + Send>,
}

type Job = (SpawnRequest, mpsc::Sender<std::io::Result<Child>>);

/// The thread that starts processes.
#[derive(Clone)]
pub(super) struct Spawner(mpsc::Sender<Job>);

impl Spawner {
    /// Starts the thread; it ends when the last clone of the spawner is dropped.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn new() -> anyhow::Result<Self> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("guests".to_owned())
            .spawn(move || {
                for (request, answer) in inbox {
                    // A caller that no longer waits does not need the child.
                    if let Err(mpsc::SendError(Ok(mut child))) = answer.send(spawn(request)) {
                        let _ = child.kill();
                        let _ = child.wait();
                    }
                }
            })
            .context("start the thread that starts guests")?;
        Ok(Self(jobs))
    }

    /// Starts a process that is killed when this one ends.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn spawn(&self, request: SpawnRequest) -> anyhow::Result<Child> {
        let (answer, answered) = mpsc::channel();
        self.0
            .send((request, answer))
            .ok()
            .context("the thread that starts guests has ended")?;
        answered
            .recv()
            .context("the thread that starts guests has ended")?
            .context("start setpriv\nhint: apt-get install util-linux")
    }
}

fn spawn(request: SpawnRequest) -> std::io::Result<Child> {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .args(request.command)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // A process group of its own, so that Ctrl-C on the daemon's terminal does not kill guests, and the children of the
    // guest's process can be killed with it.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    (request.finish)(&mut command);
    command.spawn()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _};
    use std::process::{Command, Stdio};

    use super::{SpawnRequest, Spawner};

    const CHILD: &str = "REHEARSAL_TEST_SPAWNER";

    /// Runs itself again as the "daemon", which starts a process that would live on for ever; then
    /// kills the daemon with SIGKILL. The process holds the pipe: end of file proves that it has ended.
    #[test]
    fn processes_die_with_the_daemon_even_when_it_is_killed() {
        if std::env::var_os(CHILD).is_some() {
            let spawner = Spawner::new().unwrap();
            let request = SpawnRequest {
                command: vec!["sh".into(), "-c".into(), "echo up; exec sleep 1000".into()],
                finish: Box::new(|command| {
                    command.stdout(Stdio::inherit());
                }),
            };
            spawner.spawn(request).unwrap().wait().unwrap();
            return;
        }
        let mut daemon = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("guests::spawner::tests::processes_die_with_the_daemon_even_when_it_is_killed")
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(daemon.stdout.take().unwrap());
        let mut line = String::new();
        while line.trim_end() != "up" && !line.ends_with("up\n") {
            line.clear();
            assert_ne!(
                output.read_line(&mut line).unwrap(),
                0,
                "the process started"
            );
        }
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        let mut rest = Vec::new();
        output.read_to_end(&mut rest).unwrap();
    }
}
