//! QEMU's machine protocol, as far as it is used to observe and control guests: commands as bytes, messages as
//! [`Message`]. Pure; `docs/interop/qmp-spec` and `qapi/run-state.json` of QEMU are the source.

use serde::Deserialize;
use serde_json::Value;

use super::{Failure, FailureKind};

/// Must come first; may be sent ahead of the greeting.
pub(super) const HELLO: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n";
/// After a kernel panic the guest keeps running, as on EC2: it hangs, or restarts if it is configured to.
/// QEMU before 6.0 has no such command and answers with an error.
pub(super) const PANIC_GOES_ON: &[u8] =
    b"{\"execute\":\"set-action\",\"arguments\":{\"panic\":\"none\"}}\n";
/// Requests a power-off (the power button).
pub(super) const POWER_DOWN: &[u8] = b"{\"execute\":\"system_powerdown\"}\n";
/// Resumes a stopped guest.
pub(super) const CONTINUE: &[u8] = b"{\"execute\":\"cont\"}\n";
/// Queries why a guest is stopped; the answer is a [`Message::Status`].
pub(super) const QUERY_STATUS: &[u8] = b"{\"execute\":\"query-status\",\"id\":\"status\"}\n";

/// A message of QEMU that matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The guest powered itself off (event SHUTDOWN, caused by the guest and not by a panic).
    PoweredOff,
    /// QEMU stopped the guest (event STOP); [`QUERY_STATUS`] queries why.
    Stopped,
    /// The guest continues (event RESUME), or restarts (event RESET).
    Resumed,
    /// The guest's kernel panicked (event GUEST_PANICKED).
    Panicked,
    /// The host failed to read or write the guest's disk, and the guest stops for it (event BLOCK_IO_ERROR).
    DiskError(Failure),
    /// Whether the guest runs, and QEMU's name for the state it is in (answer to [`QUERY_STATUS`]).
    Status(bool, String),
}

#[derive(Deserialize)]
struct Raw {
    event: Option<String>,
    #[serde(default)]
    data: Value,
    #[serde(rename = "return", default)]
    result: Value,
    #[serde(default)]
    id: Value,
}

/// Parses a line of QEMU's output; `None` for messages that do not matter here.
pub(super) fn parse(line: &str) -> Option<Message> {
    let raw: Raw = serde_json::from_str(line).ok()?;
    let Some(event) = raw.event else {
        let state = raw.result.get("status")?.as_str()?.to_owned();
        let runs = raw.result.get("running")?.as_bool()?;
        return (raw.id == "status").then_some(Message::Status(runs, state));
    };
    match event.as_str() {
        "SHUTDOWN" if raw.data["reason"] == "guest-panic" => Some(Message::Panicked),
        "SHUTDOWN" => (raw.data["guest"] == true).then_some(Message::PoweredOff),
        "STOP" => Some(Message::Stopped),
        "RESUME" | "RESET" => Some(Message::Resumed),
        "GUEST_PANICKED" => Some(Message::Panicked),
        "BLOCK_IO_ERROR" if raw.data["action"] == "stop" => {
            let reason = raw.data["reason"].as_str().unwrap_or("unknown error");
            let operation = raw.data["operation"].as_str().unwrap_or("use");
            Some(Message::DiskError(if raw.data["nospace"] == true {
                Failure::new(
                    FailureKind::DiskFull,
                    "no space left on the host's disk; the guest waits for free space",
                )
            } else {
                Failure::new(
                    FailureKind::Disk,
                    &format!("the host cannot {operation} the guest's disk: {reason}"),
                )
            }))
        }
        _ => None,
    }
}

/// The state of a guest according to QEMU's messages so far. Pass each message to [`Watch::take`]; [`Watch::failure`]
/// is the current failure.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Whether the guest powered itself off.
    pub(super) powered_off: bool,
    /// Why it makes no progress now.
    failure: Option<Failure>,
    /// The last error of its disk: the reason when QEMU's status is "io-error".
    disk: Option<Failure>,
}

impl Watch {
    /// Processes a message. `errors` reads QEMU's error stream, for the text of an internal error.
    pub(super) fn take(&mut self, message: Message, errors: impl FnOnce() -> Option<String>) {
        match message {
            Message::PoweredOff => self.powered_off = true,
            // Until the answer to QUERY_STATUS arrives, moments later.
            Message::Stopped => {
                self.failure
                    .get_or_insert_with(|| Failure::new(FailureKind::Stopped, "stopped by QEMU"));
            }
            Message::Resumed => self.failure = None,
            Message::Panicked => {
                self.failure = Some(Failure::new(FailureKind::Panic, "kernel panic"));
            }
            Message::DiskError(failure) => self.disk = Some(failure),
            Message::Status(true, _) => {}
            Message::Status(false, state) => {
                self.failure = Some(match state.as_str() {
                    "internal-error" => Failure::new(
                        FailureKind::Accelerator,
                        &errors().unwrap_or_else(|| "internal error of the accelerator".to_owned()),
                    ),
                    "guest-panicked" => Failure::new(FailureKind::Panic, "kernel panic"),
                    "io-error" => self.disk.clone().unwrap_or_else(|| {
                        Failure::new(FailureKind::Disk, "the host cannot use the guest's disk")
                    }),
                    other => Failure::new(
                        FailureKind::Stopped,
                        &format!("stopped by QEMU with the status {other}"),
                    ),
                });
            }
        }
    }

    /// Why the guest makes no progress now.
    pub(super) fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFF: &str = r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}"#;
    const SIGNAL: &str =
        r#"{"event": "SHUTDOWN", "data": {"guest": false, "reason": "host-signal"}}"#;
    const DIES: &str = r#"{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-panic"}}"#;
    const STOP: &str = r#"{"event": "STOP"}"#;
    const RESUME: &str = r#"{"event": "RESUME"}"#;
    const RESET: &str = r#"{"event": "RESET", "data": {"guest": true, "reason": "guest-reset"}}"#;
    const PANIC: &str = r#"{"event": "GUEST_PANICKED", "data": {"action": "run"}}"#;
    const FULL: &str = r#"{"event": "BLOCK_IO_ERROR", "data": {"device": "root", "operation": "write", "action": "stop", "nospace": true, "reason": "No space left on device"}}"#;
    const BROKEN: &str = r#"{"event": "BLOCK_IO_ERROR", "data": {"device": "root", "operation": "read", "action": "stop", "nospace": false, "reason": "Input/output error"}}"#;
    const REPORTED: &str = r#"{"event": "BLOCK_IO_ERROR", "data": {"device": "root", "operation": "read", "action": "report", "nospace": false, "reason": "Input/output error"}}"#;
    const INTERNAL: &str = r#"{"return": {"status": "internal-error", "singlestep": false, "running": false}, "id": "status"}"#;
    const IO: &str = r#"{"return": {"status": "io-error", "running": false}, "id": "status"}"#;
    const SUSPENDED: &str =
        r#"{"return": {"status": "suspended", "running": false}, "id": "status"}"#;
    const RUNS: &str = r#"{"return": {"status": "running", "running": true}, "id": "status"}"#;

    /// Lines of QEMU's, whether the guest has powered itself off, and its failure.
    type Row = (
        &'static [&'static str],
        bool,
        Option<(FailureKind, &'static str)>,
    );

    #[test]
    fn messages_determine_the_state_of_the_guest() {
        use FailureKind::{Accelerator, Disk, DiskFull, Panic, Stopped};
        let full = "no space left on the host's disk; the guest waits for free space";
        let table: [Row; 15] = [
            (&[], false, None),
            (&[OFF], true, None),
            (&[SIGNAL], false, None),
            (
                &["no JSON", r#"{"return": {}}"#, r#"{"event": "POWERDOWN"}"#],
                false,
                None,
            ),
            (&[STOP], false, Some((Stopped, "stopped by QEMU"))),
            (
                &[STOP, INTERNAL],
                false,
                Some((Accelerator, "emulation failure")),
            ),
            (&[PANIC], false, Some((Panic, "kernel panic"))),
            // Of a QEMU that ends for a panic.
            (&[PANIC, STOP, DIES], false, Some((Panic, "kernel panic"))),
            // A guest that restarts itself after a panic.
            (&[PANIC, RESET], false, None),
            (&[FULL, STOP, IO], false, Some((DiskFull, full))),
            (&[FULL, STOP, IO, RESUME], false, None),
            (
                &[FULL, STOP, IO, RESUME, FULL, STOP, IO],
                false,
                Some((DiskFull, full)),
            ),
            (
                &[BROKEN, STOP, IO],
                false,
                Some((
                    Disk,
                    "the host cannot read the guest's disk: Input/output error",
                )),
            ),
            (&[REPORTED], false, None),
            (
                &[STOP, SUSPENDED],
                false,
                Some((Stopped, "stopped by QEMU with the status suspended")),
            ),
        ];
        for (lines, powered_off, failure) in table {
            let mut watch = Watch::default();
            for message in lines.iter().filter_map(|line| parse(line)) {
                watch.take(message, || Some("emulation failure".to_owned()));
            }
            assert_eq!(watch.powered_off, powered_off, "{lines:?}");
            let found = watch.failure().map(|it| (it.kind, it.to_string()));
            let failure = failure.map(|(kind, text)| (kind, text.to_owned()));
            assert_eq!(found, failure, "{lines:?}");
        }
    }

    #[test]
    fn an_answer_that_comes_late_does_not_clear_a_panic() {
        let mut watch = Watch::default();
        for line in [PANIC, RUNS] {
            watch.take(parse(line).unwrap(), || None);
        }
        assert!(watch.failure().is_some());
    }
}
