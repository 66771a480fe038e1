//! Tells systemd how the daemon fares. Outside of systemd every call does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// Whoever supervises the daemon.
pub(crate) trait Supervisor: Send {
    /// The daemon is up and its loop turns.
    fn ready(&mut self);
    /// What it waits for, in one line.
    fn status(&mut self, text: &str);
    /// It is alive.
    fn alive(&mut self);
    /// It is about to end.
    fn stopping(&mut self);
    /// How often it must say that it is alive, if at all.
    fn watchdog(&self) -> Option<Duration>;
}

/// systemd, by its notification socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Systemd;

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("cannot notify systemd: {error}");
    }
}

impl Supervisor for Systemd {
    fn ready(&mut self) {
        tell(&[NotifyState::Ready]);
    }

    fn status(&mut self, text: &str) {
        tell(&[NotifyState::Status(text)]);
    }

    fn alive(&mut self) {
        tell(&[NotifyState::Watchdog]);
    }

    fn stopping(&mut self) {
        tell(&[NotifyState::Stopping]);
    }

    fn watchdog(&self) -> Option<Duration> {
        sd_notify::watchdog_enabled()
    }
}
