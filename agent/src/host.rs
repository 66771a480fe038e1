//! What the daemon asks of the operating system it runs on.

use std::process::Stdio;

use async_trait::async_trait;
use tokio::process::Command;

/// The operating system.
#[async_trait]
pub(crate) trait Host: Send + Sync {
    /// Whether the whole system is going down, and not only the daemon.
    async fn is_shutting_down(&self) -> bool;
}

/// systemd, by its own `systemctl`: it says `stopping` from the moment a shutdown job is queued, for a power
/// button, a reboot and a command alike. Neither `/run/systemd/shutdown/scheduled` nor logind's signal covers
/// all three.
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
            // Its exit code only tells `running` from the rest.
            Ok(done) => done.stdout.trim_ascii() == b"stopping",
            Err(error) => {
                tracing::debug!("cannot ask systemd whether the system is going down: {error}");
                false
            }
        }
    }
}
