//! The operating system's state, as the daemon reads it.

use std::process::Stdio;

use async_trait::async_trait;
use tokio::process::Command;

/// The operating system.
#[async_trait]
pub(crate) trait Host: Send + Sync {
    /// Whether the operating system is shutting down, and not only the daemon.
    async fn is_shutting_down(&self) -> bool;
}

/// systemd, through `systemctl`: it reports `stopping` from the moment a shutdown job is queued, by a power button, a
/// reboot or a command. Neither `/run/systemd/shutdown/scheduled` nor logind's signal covers all three.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Systemctl;

#[async_trait]
impl Host for Systemctl {
    async fn is_shutting_down(&self) -> bool {
        let asked = Command::new("systemctl")
            .arg("is-system-running")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await;
        match asked {
            // Its exit code only distinguishes `running` from everything else.
            Ok(done) => done.stdout.trim_ascii() == b"stopping",
            Err(error) => {
                tracing::debug!("cannot read the system state from systemd: {error}");
                false
            }
        }
    }
}
