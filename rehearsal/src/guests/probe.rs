//! Tests whether an accelerator runs guest code on this host: boots the firmware under it until that writes to its
//! serial port.
//!
//! A verdict holds until the host boots again or QEMU, the firmware or their options change, and is cached in the
//! user's cache folder. A verdict by timeout is not cached: the host may have been busy.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::Failure;
use super::FailureKind;
use super::Firmware;
use super::accelerator::{self, Accelerator, Choice, Wanted};
use super::failure::error_line;
use super::qmp::{self, Message};
use super::spawner::{SpawnRequest, Spawner};
use crate::files::write_durably;

/// How long the firmware may take to its first output. Under emulation, on two busy cores, it takes 3 to 10 s; an
/// accelerator that needs longer than this limit is useless.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// The firmware that is booted. The verdict is about the accelerator, and holds for the other firmware as well.
const PROBED: Firmware = Firmware::Uefi;
/// How often its serial port is read meanwhile.
const POLL: Duration = Duration::from_millis(20);
/// What the firmware (EDK II) writes first: it clears the terminal, then names what it boots.
const SIGNS: [&[u8]; 2] = [b"\x1b[2J", b"BdsDxe"];
/// The file with the verdicts in the cache folder.
const CACHE_FILE: &str = "accelerators.json";

/// The programs that run guests.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// QEMU.
    pub(crate) qemu: PathBuf,
    /// The UEFI firmware. QEMU comes with the other, SeaBIOS.
    pub(crate) firmware: PathBuf,
}

impl Programs {
    /// QEMU's options for probe and guests alike.
    pub(super) fn arguments(&self, accelerator: Accelerator, firmware: Firmware) -> Vec<OsString> {
        // Without graphics SeaBIOS and what it boots print on the serial port, as EDK II does anyway.
        let machine = match firmware {
            Firmware::Uefi => "q35,smbus=off,sata=off,usb=off,vmport=off",
            Firmware::Bios => "q35,smbus=off,sata=off,usb=off,vmport=off,graphics=off",
        };
        let mut arguments: Vec<OsString> = vec![self.qemu.clone().into()];
        arguments.extend(
            [
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-machine",
                machine,
            ]
            .map(OsString::from),
        );
        arguments.extend(accelerator.arguments().map(OsString::from));
        if firmware == Firmware::Uefi {
            arguments.extend(["-bios".into(), self.firmware.clone().into()]);
        }
        arguments
    }

    /// Everything that a verdict depends on, except the host's boot.
    fn key(&self, accelerator: Accelerator) -> String {
        let mut key = String::new();
        for argument in self.arguments(accelerator, PROBED) {
            key.push_str(&argument.to_string_lossy());
            key.push(' ');
        }
        for file in [&self.qemu, &self.firmware] {
            let changed =
                std::fs::metadata(file).and_then(|found| Ok((found.len(), found.modified()?)));
            let Ok((length, changed)) = changed else {
                continue;
            };
            let seconds = changed.duration_since(UNIX_EPOCH).unwrap_or_default();
            key.push_str(&format!("{length} {} ", seconds.as_nanos()));
        }
        if accelerator == Accelerator::Kvm {
            // It may appear with a kernel module, and this user's access to it with a group.
            let opened = File::options().read(true).write(true).open("/dev/kvm");
            key.push_str(
                &opened.map_or_else(|error| error.kind().to_string(), |_| "usable".to_owned()),
            );
        }
        key
    }
}

/// Boots the firmware under `accelerator`; `Ok` once it wrote to its serial port.
///
/// # Errors
/// Why it did not, within `limit`.
fn run(programs: &Programs, accelerator: Accelerator, limit: Duration) -> Result<(), Verdict> {
    match boot(programs, accelerator, limit) {
        Ok(outcome) => outcome,
        Err(error) => Err(Verdict::passing(&format!("cannot be tried: {error:#}"))),
    }
}

/// A negative verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Verdict {
    failure: Failure,
    /// Whether it can be cached.
    lasts: bool,
}

impl Verdict {
    fn lasting(text: &str) -> Self {
        Self {
            failure: Failure::new(FailureKind::Accelerator, text),
            lasts: true,
        }
    }

    fn passing(text: &str) -> Self {
        Self {
            lasts: false,
            ..Self::lasting(text)
        }
    }
}

/// A QEMU process that is killed when this value is dropped.
struct Trial(Child);

impl Drop for Trial {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn boot(
    programs: &Programs,
    accelerator: Accelerator,
    limit: Duration,
) -> anyhow::Result<Result<(), Verdict>> {
    let folder = tempfile::tempdir().context("create a temporary folder")?;
    let (serial, errors) = (folder.path().join("serial"), folder.path().join("errors"));
    let mut command = programs.arguments(accelerator, PROBED);
    // A comma in the folder's path would end the option's value; two stand for one.
    let path = serial.display().to_string().replace(',', ",,");
    command.extend(["-m", "128", "-net", "none", "-serial"].map(OsString::from));
    command.push(format!("file:{path}").into());
    command.extend(["-qmp", "stdio"].map(OsString::from));
    let log = File::create(&errors).with_context(|| format!("create {}", errors.display()))?;
    let spawner = Spawner::new()?;
    let child = spawner.spawn(SpawnRequest {
        command,
        finish: Box::new(move |command| {
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(log);
        }),
    })?;
    let mut trial = Trial(child);
    let mut stdin = trial.0.stdin.take().context("QEMU without a stdin")?;
    let stdout = trial.0.stdout.take().context("QEMU without a stdout")?;
    // A broken pipe is a QEMU that ended; its output's end shows that, too.
    let _ = stdin.write_all(qmp::HELLO);
    let (send, messages) = mpsc::channel();
    std::thread::Builder::new()
        .name("probe".to_owned())
        .spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(message) = qmp::parse(&line)
                    && send.send(message).is_err()
                {
                    return;
                }
            }
        })
        .context("start the thread that reads QEMU's messages")?;
    let error_line = || error_line(&std::fs::read_to_string(&errors).unwrap_or_default());
    let end = Instant::now() + limit;
    loop {
        if wrote(&serial) {
            return Ok(Ok(()));
        }
        match messages.recv_timeout(POLL) {
            Ok(Message::Stopped) => {
                let _ = stdin.write_all(qmp::QUERY_STATUS);
            }
            Ok(Message::Status(false, state)) => {
                let why = error_line().unwrap_or_else(|| format!("QEMU stopped it: {state}"));
                return Ok(Err(Verdict::lasting(&why)));
            }
            Ok(_) => {}
            Err(RecvTimeoutError::Disconnected) => {
                // It has ended, or is of no use without its monitor.
                let _ = trial.0.kill();
                let status = trial.0.wait().context("wait for QEMU")?;
                let why = error_line().unwrap_or_else(|| format!("QEMU ended with {status}"));
                return Ok(Err(Verdict::lasting(&why)));
            }
            Err(RecvTimeoutError::Timeout) if Instant::now() >= end => {
                let why = format!("the firmware printed nothing within {} s", limit.as_secs());
                return Ok(Err(Verdict::passing(&why)));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

fn wrote(serial: &Path) -> bool {
    let written = std::fs::read(serial).unwrap_or_default();
    SIGNS
        .iter()
        .any(|sign| written.windows(sign.len()).any(|bytes| bytes == *sign))
}

/// Verdicts of this boot of the host.
pub(crate) struct Cache(Option<PathBuf>);

#[derive(Default, Serialize, Deserialize)]
struct Kept {
    /// The boot they are of.
    boot: String,
    /// By [`Programs::key`]: no failure is a positive verdict.
    verdicts: BTreeMap<String, Option<Failure>>,
}

impl Cache {
    /// The cache in the user's cache folder (`$XDG_CACHE_HOME/rehearsal`, else `~/.cache/rehearsal`).
    pub(crate) fn of_user() -> Self {
        let absolute = |name: &str| {
            let path = PathBuf::from(std::env::var_os(name)?);
            path.is_absolute().then_some(path)
        };
        let folder = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
        Self(folder.map(|folder| folder.join("rehearsal").join(CACHE_FILE)))
    }

    /// Whether `accelerator` runs guest code, from the cache or by a probe.
    ///
    /// # Errors
    /// Why it does not.
    pub(super) fn probe(
        &self,
        programs: &Programs,
        accelerator: Accelerator,
    ) -> Result<(), Failure> {
        self.probe_for(programs, accelerator, &host_boot(), LIMIT)
    }

    /// Removes all verdicts, so that the next probe runs again.
    pub(crate) fn forget(&self) {
        if let Some(path) = &self.0 {
            // A missing file is fine.
            let _ = std::fs::remove_file(path);
        }
    }

    fn probe_for(
        &self,
        programs: &Programs,
        accelerator: Accelerator,
        boot: &str,
        limit: Duration,
    ) -> Result<(), Failure> {
        let key = programs.key(accelerator);
        let mut kept = self.read();
        if kept.boot != boot {
            kept = Kept {
                boot: boot.to_owned(),
                verdicts: BTreeMap::new(),
            };
        }
        // Without the host's boot id it is unknown whether a verdict still holds.
        if !boot.is_empty()
            && let Some(verdict) = kept.verdicts.get(&key)
        {
            return verdict.clone().map_or(Ok(()), Err);
        }
        let outcome = run(programs, accelerator, limit);
        let lasts = outcome.as_ref().err().is_none_or(|verdict| verdict.lasts);
        let verdict = outcome.map_err(|verdict| verdict.failure);
        if lasts {
            kept.verdicts.insert(key, verdict.clone().err());
            self.write(&kept);
        }
        verdict
    }

    fn read(&self) -> Kept {
        let read = |path: &PathBuf| serde_json::from_slice(&std::fs::read(path).ok()?).ok();
        self.0.as_ref().and_then(read).unwrap_or_default()
    }

    /// Writes the verdicts where that is possible; else the next probe runs again.
    fn write(&self, kept: &Kept) {
        let write = |path: &Path| -> anyhow::Result<()> {
            let folder = path.parent().context("no folder")?;
            std::fs::create_dir_all(folder)
                .with_context(|| format!("create {}", folder.display()))?;
            write_durably(
                path,
                &serde_json::to_vec(kept).context("encode the verdicts")?,
            )
        };
        if let Some(path) = &self.0
            && let Err(error) = write(path)
        {
            tracing::debug!(error = format!("{error:#}"), "verdicts are not cached");
        }
    }
}

/// The id of the host's boot; empty where the system has none.
fn host_boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// Chooses the accelerator of guests on this host, from the request and from what runs guest code.
///
/// # Errors
/// When an accelerator was asked for by name and does not run guest code.
pub(crate) fn choose_accelerator(
    programs: &Programs,
    wanted: Wanted,
    cache: &Cache,
) -> anyhow::Result<Choice> {
    accelerator::choose(wanted, |accelerator| cache.probe(programs, accelerator))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long enough that only what never comes meets it.
    const AMPLE: Duration = Duration::from_secs(120);

    /// A QEMU of a few lines of shell, which counts its starts in `runs` and has its serial file in `$serial`.
    fn played(folder: &Path, script: &str) -> Programs {
        let qemu = folder.join("qemu-system-x86_64");
        let runs = folder.join("runs");
        let text = format!(
            "#!/bin/sh\necho run >>'{}'\n\
             serial=$(printf '%s\\n' \"$@\" | sed -n 's/^file://p')\n\
             printf '%s\\n' '{{\"QMP\": {{}}}}'\n{script}\n",
            runs.display()
        );
        test_support::write_program(&qemu, &text);
        let firmware = folder.join("OVMF.fd");
        std::fs::write(&firmware, "firmware").unwrap();
        Programs { qemu, firmware }
    }

    fn runs(folder: &Path) -> usize {
        let text = std::fs::read_to_string(folder.join("runs")).unwrap_or_default();
        text.lines().count()
    }

    const WORKS: &str = r#"printf '\033[2J' >"$serial"; while read -r line; do :; done"#;
    /// As a para-virtual KVM without VMX or SVM does.
    const INTERNAL_ERROR: &str = r#"echo 'KVM internal error. Suberror: 1' >&2
echo 'emulation failure' >&2
echo '{"event": "STOP"}'
while read -r line; do case $line in *query-status*)
  echo '{"return": {"status": "internal-error", "running": false}, "id": "status"}';; esac; done"#;
    const ENDS: &str =
        "echo 'qemu-system-x86_64: error: failed to set MSR 0x10a to 0x69' >&2; exit 134";
    const SILENT: &str = "while read -r line; do :; done";
    const DEAF: &str = "exec cat >/dev/null";

    #[test]
    fn an_accelerator_works_once_the_firmware_wrote() {
        for (script, limit, expected) in [
            (WORKS, AMPLE, Ok(())),
            (
                INTERNAL_ERROR,
                AMPLE,
                Err("KVM internal error. Suberror: 1: emulation failure"),
            ),
            (ENDS, AMPLE, Err("failed to set MSR 0x10a to 0x69")),
            (
                SILENT,
                Duration::from_secs(1),
                Err("the firmware printed nothing within 1 s"),
            ),
            (DEAF, AMPLE, Err("QEMU ended with signal: 9 (SIGKILL)")),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let programs = played(folder.path(), script);
            let outcome = run(&programs, Accelerator::Kvm, limit);
            let outcome = outcome.map_err(|verdict| verdict.failure.to_string());
            assert_eq!(outcome, expected.map_err(ToOwned::to_owned), "{script}");
        }
    }

    #[test]
    fn a_verdict_holds_until_the_host_boots_again() {
        let folder = tempfile::tempdir().unwrap();
        let programs = played(folder.path(), ENDS);
        let cache = Cache(Some(folder.path().join("cache/accelerators.json")));
        let probe = |boot: &str| cache.probe_for(&programs, Accelerator::Kvm, boot, AMPLE);
        let first = probe("boot 1");
        assert!(first.is_err());
        assert_eq!(probe("boot 1"), first);
        assert_eq!(runs(folder.path()), 1);
        assert_eq!(probe("boot 2"), first);
        assert_eq!(runs(folder.path()), 2);
        cache.forget();
        assert_eq!(probe("boot 2"), first);
        assert_eq!(runs(folder.path()), 3);

        // Another QEMU is another verdict.
        test_support::write_program(&programs.qemu, &format!("#!/bin/sh\n{ENDS} # changed\n"));
        assert_eq!(probe("boot 2"), first);
        std::fs::write(&programs.firmware, "another firmware").unwrap();
        let kept: Kept =
            serde_json::from_slice(&std::fs::read(cache.0.as_ref().unwrap()).unwrap()).unwrap();
        assert_eq!(kept.verdicts.len(), 2);
        assert!(probe("boot 2").is_err());
    }

    #[test]
    fn a_verdict_by_timeout_is_not_cached() {
        let folder = tempfile::tempdir().unwrap();
        let programs = played(folder.path(), SILENT);
        let cache = Cache(Some(folder.path().join("accelerators.json")));
        for run in 1..=2 {
            let short = Duration::from_millis(100);
            let outcome = cache.probe_for(&programs, Accelerator::Kvm, "boot", short);
            assert!(outcome.is_err());
            assert_eq!(runs(folder.path()), run);
        }
    }

    /// The real thing, where the machine has it: emulation runs guest code everywhere.
    #[test]
    fn emulation_boots_the_real_firmware() {
        let programs = match crate::guests::qemu::programs() {
            Ok(programs) => programs,
            Err(error) => panic!("{error:#}"),
        };
        assert_eq!(run(&programs, Accelerator::Tcg, AMPLE), Ok(()));
    }
}
