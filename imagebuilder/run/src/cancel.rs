//! Cancellation: what Ctrl-C and SIGTERM mean while a command runs.
//!
//! The first signal requests a stop, and everything started is undone; the second gives up waiting. This module decides
//! nothing about what to undo.

use tokio::sync::watch;

/// Whether the operator requested a stop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cancel {
    requested: watch::Receiver<u32>,
}

impl Cancel {
    /// Listens for Ctrl-C and SIGTERM. Must be called inside the runtime.
    pub fn on_signals() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let (sender, requested) = watch::channel(0);
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    Some(()) = interrupt.recv() => {}
                    Some(()) = terminate.recv() => {}
                    else => return,
                }
                sender.send_modify(|times| *times += 1);
            }
        });
        Ok(Self { requested })
    }

    /// A cancellation that tests trigger themselves.
    #[cfg(any(test, feature = "testing"))]
    pub fn manual() -> (watch::Sender<u32>, Self) {
        let (sender, requested) = watch::channel(0);
        (sender, Self { requested })
    }

    /// Whether a stop was requested.
    pub fn is_requested(&self) -> bool {
        *self.requested.borrow() > 0
    }

    /// Waits until a stop is requested; for ever, if none can be requested any more.
    pub async fn requested(&self) {
        self.requested_times(1).await;
    }

    /// Waits until a stop was requested `times` times.
    pub async fn requested_times(&self, times: u32) {
        let mut requested = self.requested.clone();
        if requested.wait_for(|seen| *seen >= times).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
