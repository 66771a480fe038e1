//! The smoke test: a command of the operator's that judges the whole fleet from outside.
//!
//! Runs it and hears its verdict; what follows from it is [`watch`](super::watch)'s to decide.

use std::process::Stdio;

use async_trait::async_trait;
use tokio::process::Command;

use crate::config::SmokeTest;
use crate::ids::{GroupName, ImageId};

/// What a smoke test is told, as environment variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Occasion {
    /// `IMAGEBUILDER_GROUP`.
    pub(crate) group: GroupName,
    /// `IMAGEBUILDER_IMAGE`.
    pub(crate) image: ImageId,
    /// `IMAGEBUILDER_PERCENT`: how much of the fleet is new.
    pub(crate) percent: u32,
}

/// Runs smoke tests.
#[async_trait]
pub(crate) trait Smoke: Send + Sync {
    /// Runs one; `Err` is why it failed, in one line.
    async fn run(&self, test: &SmokeTest, occasion: &Occasion) -> Result<(), String>;
}

/// Runs them as processes of this machine.
pub(crate) struct Processes;

#[async_trait]
impl Smoke for Processes {
    async fn run(&self, test: &SmokeTest, occasion: &Occasion) -> Result<(), String> {
        let child = Command::new(&test.program)
            .args(&test.arguments)
            .env("IMAGEBUILDER_GROUP", occasion.group.as_str())
            .env("IMAGEBUILDER_IMAGE", occasion.image.as_str())
            .env("IMAGEBUILDER_PERCENT", occasion.percent.to_string())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = match tokio::time::timeout(test.timeout, child).await {
            Err(_) => return Err(format!("no answer within {} s", test.timeout.as_secs())),
            Ok(Err(error)) => return Err(format!("cannot run {}: {error}", test.program)),
            Ok(Ok(output)) => output,
        };
        if output.status.success() {
            return Ok(());
        }
        let said = [&output.stderr, &output.stdout]
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
        Err(match said {
            Some(line) => format!("{}: {line}", output.status),
            None => output.status.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
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

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn it_hears_the_exit_status_and_the_last_line() {
        let told = "test \"$IMAGEBUILDER_GROUP $IMAGEBUILDER_IMAGE $IMAGEBUILDER_PERCENT\" = 'shop ami-2 50'";
        assert_eq!(run(told, LONG).await, Ok(()));
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
