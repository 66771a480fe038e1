//! Notifications to systemd: ready, status, watchdog, stopping. Without systemd they do nothing.

use sd_notify::NotifyState;

use crate::readiness::{Readiness, State};

/// Reports to systemd that the service listens and then, until the stop, whether the store works.
pub(crate) async fn report(readiness: Readiness, store: String) {
    let mut changes = readiness.changes();
    let mut message = vec![NotifyState::Ready];
    loop {
        let state = changes.borrow_and_update().clone();
        let status = match state.reason() {
            None => format!("taking orders into {store}"),
            // Already reported by the code that began the stop.
            Some(_) if state == State::Draining => return,
            Some(reason) => reason,
        };
        if matches!(state, State::Failing(_)) {
            tracing::warn!(status, "readiness");
        } else {
            tracing::info!(status, "readiness");
        }
        message.push(NotifyState::Status(&status));
        notify(&message);
        message = Vec::new();
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Reports that the service is stopping.
pub(crate) fn report_stop() {
    let status = State::Draining.reason().unwrap_or_default();
    tracing::info!(status, "stopping");
    notify(&[NotifyState::Stopping, NotifyState::Status(&status)]);
}

/// Notifies systemd's watchdog, if one is configured, at twice the required rate while the runtime makes
/// progress.
pub(crate) async fn notify_watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    loop {
        tokio::time::sleep(limit / 2).await;
        notify(&[NotifyState::Watchdog]);
    }
}

fn notify(message: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(message) {
        tracing::warn!(%error, "could not notify systemd");
    }
}
