//! The smoke test: a command of the operator that tests the whole fleet from outside.
//!
//! Runs it and reads its verdict; [`watch`](super::watch) decides what follows from it.

use std::pin::pin;
use std::process::Stdio;

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

use crate::settings::SmokeTest;
use cloud::ids::{GroupName, ImageId};

/// What a smoke test is given, as environment variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occasion {
    /// `IMAGEBUILDER_GROUP`.
    pub group: GroupName,
    /// `IMAGEBUILDER_IMAGE`.
    pub image: ImageId,
    /// `IMAGEBUILDER_PERCENT`: how much of the fleet is new.
    pub percent: u32,
}

/// Runs smoke tests.
#[async_trait]
pub trait Smoke: Send + Sync {
    /// Runs one; `Err` is why it failed, in one line.
    async fn run(&self, test: &SmokeTest, occasion: &Occasion) -> Result<(), String>;
}

/// Runs them as local processes.
pub struct Processes;

#[async_trait]
impl Smoke for Processes {
    async fn run(&self, test: &SmokeTest, occasion: &Occasion) -> Result<(), String> {
        let started = Command::new(&test.program)
            .args(&test.arguments)
            .env("IMAGEBUILDER_GROUP", occasion.group.as_str())
            .env("IMAGEBUILDER_IMAGE", occasion.image.as_str())
            .env("IMAGEBUILDER_PERCENT", occasion.percent.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        let cannot = |error| format!("cannot run {}: {error}", test.program);
        let child = started.map_err(cannot)?;
        let group = child.id();
        let mut ended = pin!(child.wait_with_output());
        // Dropped before the child, whose process keeps the group's number from being reused.
        let mut running = Running(group);
        let output = match tokio::time::timeout(test.timeout, &mut ended).await {
            Err(_) => return Err(format!("no answer within {} s", test.timeout.as_secs())),
            Ok(output) => output.map_err(cannot)?,
        };
        running.0 = None;
        if output.status.success() {
            return Ok(());
        }
        let last = [&output.stderr, &output.stdout]
            .into_iter()
            .filter_map(|stream| {
                let text = String::from_utf8_lossy(stream);
                text.lines()
                    .rev()
                    .map(str::trim)
                    .find(|line| !line.is_empty())
                    .map(ToOwned::to_owned)
            })
            .next();
        Err(match last {
            Some(line) => format!("{}: {line}", output.status),
            None => output.status.to_string(),
        })
    }
}

/// The processes of a smoke test that has not ended: all of them are killed as soon as nothing waits for it any more.
struct Running(Option<u32>);

impl Drop for Running {
    fn drop(&mut self) {
        let group = self.0.and_then(|group| i32::try_from(group).ok());
        if let Some(group) = group.and_then(Pid::from_raw) {
            // An error means that all of them have ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _};
    use std::time::Duration;

    use super::*;

    async fn run(script: &str, timeout: Duration) -> Result<(), String> {
        let test = SmokeTest {
            program: "sh".into(),
            arguments: vec!["-c".into(), script.into()],
            timeout,
        };
        let occasion = Occasion {
            group: GroupName::parse("shop").unwrap(),
            image: ImageId::parse("ami-2").unwrap(),
            percent: 50,
        };
        Processes.run(&test, &occasion).await
    }

    const LONG: Duration = Duration::from_secs(120);

    #[tokio::test]
    async fn a_failure_has_the_exit_status_and_the_last_line() {
        let script = "test \"$IMAGEBUILDER_GROUP $IMAGEBUILDER_IMAGE $IMAGEBUILDER_PERCENT\" = 'shop ami-2 50'";
        assert_eq!(run(script, LONG).await, Ok(()));
        assert_eq!(
            run("echo fine; echo order lost >&2; exit 3", LONG).await,
            Err("exit status: 3: order lost".into())
        );
        assert_eq!(run("exit 1", LONG).await, Err("exit status: 1".into()));
    }

    #[tokio::test]
    async fn it_does_not_wait_for_ever() {
        let answer = run("sleep 600", Duration::from_millis(50)).await;
        assert_eq!(answer, Err("no answer within 0 s".into()));
    }

    #[tokio::test]
    async fn its_children_end_when_it_is_abandoned() {
        let folder = tempfile::tempdir().unwrap();
        let held = folder.path().join("held");
        let made = std::process::Command::new("mkfifo").arg(&held).status();
        assert!(made.unwrap().success());
        let script = format!(
            "exec 3>{}; sleep infinity & echo up >&3; wait",
            held.display()
        );
        let (up, is_up) = tokio::sync::oneshot::channel();
        let (closed, is_gone) = std::sync::mpsc::channel();
        // On a thread that a broken test can leave behind.
        std::thread::spawn(move || {
            let mut pipe = BufReader::new(std::fs::File::open(held).unwrap());
            pipe.read_line(&mut String::new()).unwrap();
            up.send(()).unwrap();
            pipe.read_to_end(&mut Vec::new()).unwrap();
            closed.send(()).unwrap();
        });
        tokio::select! {
            answer = run(&script, LONG) => panic!("{answer:?}"),
            last = is_up => last.unwrap(),
        }
        is_gone.recv_timeout(LONG).expect("the sleeper ends");
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let test = SmokeTest {
            program: "/nowhere/probe".into(),
            arguments: Vec::new(),
            timeout: LONG,
        };
        let occasion = Occasion {
            group: GroupName::parse("shop").unwrap(),
            image: ImageId::parse("ami-2").unwrap(),
            percent: 100,
        };
        let answer = Processes.run(&test, &occasion).await.unwrap_err();
        assert!(answer.starts_with("cannot run /nowhere/probe:"), "{answer}");
    }
}
