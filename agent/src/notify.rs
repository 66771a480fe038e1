//! Reports the daemon's state to systemd. Outside of systemd every call does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// The daemon's supervisor.
pub(crate) trait Supervisor: Send {
    /// The daemon has started and its loop runs.
    fn ready(&mut self);
    /// What it waits for, in one line.
    fn status(&mut self, text: &str);
    /// It is alive.
    fn alive(&mut self);
    /// It is stopping.
    fn stopping(&mut self);
    /// Longest interval between two calls of `alive`, if there is one.
    fn watchdog(&self) -> Option<Duration>;
}

/// systemd, by its notification socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Systemd;

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("cannot notify systemd: {error}");
    }
}

impl Supervisor for Systemd {
    fn ready(&mut self) {
        notify(&[NotifyState::Ready]);
    }

    fn status(&mut self, text: &str) {
        notify(&[NotifyState::Status(text)]);
    }

    fn alive(&mut self) {
        notify(&[NotifyState::Watchdog]);
    }

    fn stopping(&mut self) {
        notify(&[NotifyState::Stopping]);
    }

    fn watchdog(&self) -> Option<Duration> {
        sd_notify::watchdog_enabled()
    }
}
