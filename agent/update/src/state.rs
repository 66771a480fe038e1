//! The updater's state between runs: phase, attempt, skip list, floor. Written by rename, rebuilt when it cannot be
//! read.
//!
//! Two files with one writer each: `state.json` is the updater's, `orders.json` (hold and pin) is written by an
//! operator's command, which must not wait for a running attempt. It decides nothing: [`super::phases`] and
//! [`super::plan`] do.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use semver::Version;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use support::{files, text};

use super::blame::{self, CRASHES, FailureKind, Failures};
use super::build::Build;
use super::channel::Digest;
use super::permission::Withheld;
use super::phases::{Note, Phase, Withdrawals};
use super::status::{Hold, Skipped};

/// The updater's file in its state directory.
pub(crate) const FILE: &str = "state.json";

/// The operator's file.
pub(crate) const OVERRIDES: &str = "orders.json";

/// The schema number that is written. Files are read field by field, so that an agent that went back a version keeps
/// all that it understands of a newer one's state.
pub(crate) const SCHEMA: u32 = 1;

/// Most skipped, withdrawn and forgiven releases that are kept: far more than a channel offers at one time.
const REMEMBERED: usize = 64;

/// How long a promoted release must have been stable before its crashes are forgotten: longer than systemd takes to
/// give a unit up, and its repair.
const SETTLED: SignedDuration = SignedDuration::from_mins(10);

/// The updater's state. All fields have defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    /// [`SCHEMA`].
    pub(crate) schema: u32,
    /// The instance of this state: an image may be made of an instance with a state.
    pub(crate) instance_id: String,
    /// The phase of the attempt.
    pub(crate) phase: Phase,
    /// Builds that soaked and passed their self-test on this instance, or came with its image: only these become
    /// stable.
    pub(crate) confirmed: Vec<Build>,
    /// The previous stable build, to which a repair goes back.
    pub(crate) previous: Option<Build>,
    /// Releases that are not tried again on this host until an operator forgives them.
    pub(crate) skipped: Vec<Skipped>,
    /// Failures of releases that are tried again, by cause.
    pub(crate) failures: Vec<Failures>,
    /// Every withdrawal that verified metadata ever contained.
    pub(crate) withdrawn: Vec<Build>,
    /// The operator's orders to forgive that were applied.
    pub(crate) forgiven: Vec<Forgiveness>,
    /// Since when the daemon has withheld its permission to be restarted.
    pub(crate) withheld: Option<Withheld>,
    /// The highest floor that signed metadata ever contained.
    floor: Option<Version>,
    /// Versions of root, timestamp, snapshot, targets last verified.
    pub(crate) metadata: Option<[u64; 4]>,
    /// When the timestamp role expires.
    pub(crate) metadata_expires: Option<Timestamp>,
    /// The last check, with any result.
    pub(crate) checked_at: Option<Timestamp>,
    /// The last check that verified.
    pub(crate) verified_at: Option<Timestamp>,
    /// The last promotion.
    pub(crate) updated_at: Option<Timestamp>,
    /// The code of the last failure; empty while all is well.
    pub(crate) code: String,
    /// The reason of the last failure, or what is waited for, in one line.
    pub(crate) reason: String,
}

/// The operator's overrides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Overrides {
    /// The instance of these overrides; an image made of it does not inherit them.
    pub(crate) instance_id: String,
    /// No update until it ends or is released.
    pub(crate) hold: Option<Hold>,
    /// This version and no other.
    pub(crate) pin: Option<Version>,
    /// When an operator last requested an attempt at once: pauses after earlier failures are over.
    pub(crate) now: Option<Timestamp>,
    /// Releases whose failures are forgotten, once for each entry.
    pub(crate) forgiven: Vec<Forgiveness>,
}

/// An operator's order to forget the failures of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Forgiveness {
    /// The release.
    pub(crate) version: Version,
    /// When it was given, which distinguishes it from another one for the same release.
    pub(crate) at: Timestamp,
}

/// What was found at the path of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A readable state of this instance.
    Whole,
    /// Nothing: the instance's first run.
    Nothing,
    /// A state of which some fields could not be read; the file was moved aside, and what could be read is kept.
    Broken {
        /// Where the old file is now.
        aside: PathBuf,
        /// What could not be read.
        why: String,
    },
    /// A state of another instance, of which this one is a copy. Only the floor and the withdrawals are kept.
    Foreign {
        /// The other instance.
        instance_id: String,
    },
}

/// The state directory.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    /// This host's name without a metadata service, if it has one.
    other_name: Option<String>,
}

impl State {
    /// The floor, which never falls.
    #[must_use]
    pub(crate) fn floor(&self) -> Option<&Version> {
        self.floor.as_ref()
    }

    /// Raises the floor; a lower one is ignored.
    pub(crate) fn raise_floor(&mut self, floor: &Version) {
        if self.floor.as_ref().is_none_or(|known| known < floor) {
            self.floor = Some(floor.clone());
        }
    }

    /// Whether a build was confirmed here, or came with the image.
    #[must_use]
    pub(crate) fn is_confirmed(&self, digest: &Digest) -> bool {
        self.confirmed.iter().any(|build| build.digest == *digest)
    }

    /// Adds a build to those that may be stable.
    pub(crate) fn confirm(&mut self, build: &Build) {
        self.confirmed.retain(|known| known.digest != build.digest);
        self.confirmed.push(build.clone());
    }

    /// Removes a build from those that may be stable, because it did not run.
    pub(crate) fn unconfirm(&mut self, build: &Build) {
        self.confirmed.retain(|known| known.digest != build.digest);
    }

    /// Counts a failed attempt at a build, and skips the build if it crashed too often. Returns whether it did.
    pub(crate) fn fail(
        &mut self,
        build: &Build,
        kind: FailureKind,
        reason: &str,
        at: Timestamp,
    ) -> bool {
        blame::count(&mut self.failures, build, kind, reason, at);
        let crashes = blame::of(&self.failures, build).map_or(0, Failures::crashes);
        let skipped = kind == FailureKind::Crashed && crashes >= CRASHES;
        if skipped {
            let reason = format!("{reason}, as in {} attempts before", crashes - 1);
            self.skip_release(build, &reason, at);
        }
        skipped
    }

    /// Removes a build from those that may be stable, and does not try it again.
    pub(crate) fn skip_release(&mut self, build: &Build, reason: &str, at: Timestamp) {
        self.unconfirm(build);
        self.skipped
            .retain(|known| known.build.digest != build.digest);
        let crashes = blame::of(&self.failures, build).map_or(0, Failures::crashes);
        self.skipped.push(Skipped {
            build: build.clone(),
            reason: text::line(reason, text::REASON),
            at,
            attempts: Some(crashes.max(1)),
        });
        bound(&mut self.skipped);
        self.failures
            .retain(|known| known.build.digest != build.digest);
    }

    /// Forgets the failures of the releases that an operator forgave; each order applies once.
    pub(crate) fn forgive(&mut self, forgiven: &[Forgiveness]) {
        let new = forgiven.iter().filter(|it| !self.forgiven.contains(it));
        for Forgiveness { version, .. } in new {
            tracing::info!(version = %version, "forgetting the failures of {version}");
            self.skipped.retain(|it| it.build.version != *version);
            self.failures.retain(|it| it.build.version != *version);
        }
        self.forgiven = forgiven.to_vec();
    }

    /// Whether a version has failures or is skipped.
    #[must_use]
    pub(crate) fn holds_against(&self, version: &Version) -> bool {
        self.skipped.iter().any(|it| it.build.version == *version)
            || self.failures.iter().any(|it| it.build.version == *version)
    }

    /// Why a build is not suitable to go back to; `None` if it is.
    #[must_use]
    pub(crate) fn barred(&self, build: &Build) -> Option<String> {
        let same = |other: &Build| other.digest == build.digest || other.version == build.version;
        if self.withdrawn.iter().any(same) {
            return Some(format!("{} was withdrawn", build.version));
        }
        if let Some(floor) = self.floor().filter(|floor| build.version < **floor) {
            return Some(format!("{} is below the floor {floor}", build.version));
        }
        let skipped = self
            .skipped
            .iter()
            .find(|it| it.build.digest == build.digest);
        if let Some(it) = skipped {
            return Some(format!("{} failed here: {}", build.version, it.reason));
        }
        let causes = blame::of(&self.failures, build)?.causes.iter();
        let mut bad = causes
            .filter(|(kind, _)| matches!(kind, FailureKind::Unhealthy | FailureKind::Crashed));
        let (_, count) = bad.next()?;
        Some(format!("{} failed here: {}", build.version, count.reason))
    }

    /// Stores the withdrawals of verified metadata, and removes those that it no longer contains.
    fn withdraw(&mut self, seen: &Withdrawals) {
        let valid = |known: &Build| seen.valid.iter().any(|it| it.digest == known.digest);
        self.withdrawn.retain(|known| !valid(known));
        for build in &seen.withdrawn {
            if !self.withdrawn.contains(build) {
                self.withdrawn.push(build.clone());
            }
        }
        // Builds on this host are kept in preference to others.
        let here =
            |build: &Build| self.previous.as_ref() == Some(build) || self.confirmed.contains(build);
        let mut withdrawn = std::mem::take(&mut self.withdrawn);
        withdrawn.sort_by_key(|build| (here(build), build.version.clone()));
        bound(&mut withdrawn);
        self.withdrawn = withdrawn;
    }

    /// Applies a note of the state machine.
    pub(crate) fn note(&mut self, note: &Note) {
        match note {
            Note::SkipRelease { build, reason, at } => self.skip_release(build, reason, *at),
            Note::Failed {
                build,
                kind,
                reason,
                at,
            } => blame::count(&mut self.failures, build, *kind, reason, *at),
            Note::Withheld(withheld) => {
                self.withheld = Some(Withheld {
                    reason: text::line(&withheld.reason, text::REASON),
                    ..withheld.clone()
                });
            }
            Note::NotWithheld => self.withheld = None,
            Note::Withdrawals(seen) => self.withdraw(seen),
            Note::Well => {
                for failures in &mut self.failures {
                    failures.causes.remove(&FailureKind::Environment);
                }
                self.failures.retain(|it| !it.causes.is_empty());
            }
            Note::Floor(floor) => self.raise_floor(floor),
            Note::Runs { build, at } => {
                let settled = |since: Timestamp| at.duration_since(since) >= SETTLED;
                if self.updated_at.is_none_or(settled) {
                    self.failures
                        .retain(|known| known.build.digest != build.digest);
                }
            }
            Note::Promoted { build, at } => {
                for failures in &mut self.failures {
                    if failures.build.digest == build.digest {
                        failures
                            .causes
                            .retain(|kind, _| *kind == FailureKind::Crashed);
                    }
                }
                self.failures.retain(|it| !it.causes.is_empty());
                self.updated_at = Some(*at);
            }
        }
    }

    /// A release that an earlier version skipped for a single failed attempt counts as one failure: it is tried again
    /// after its pause. Other counters of that version are dropped.
    fn recount(&mut self) {
        let (old, kept) = std::mem::take(&mut self.skipped)
            .into_iter()
            .partition(|it: &Skipped| it.attempts.is_none());
        self.skipped = kept;
        for it in old {
            let Skipped {
                build, reason, at, ..
            } = it;
            blame::count(
                &mut self.failures,
                &build,
                FailureKind::Crashed,
                &reason,
                at,
            );
        }
    }

    /// Parses what can be parsed: every invalid field is left out. Never fails and never panics, whatever the bytes
    /// are.
    ///
    /// The second part is the reason why fields were left out; `None` if all are valid.
    #[must_use]
    pub(crate) fn read(bytes: &[u8]) -> (Self, Option<String>) {
        salvage(bytes)
    }
}

impl Overrides {
    /// As [`State::read`].
    #[must_use]
    pub(crate) fn read(bytes: &[u8]) -> (Self, Option<String>) {
        salvage(bytes)
    }
}

/// Keeps the last entries, up to the limit.
fn bound<T>(all: &mut Vec<T>) {
    let over = all.len().saturating_sub(REMEMBERED);
    all.drain(..over);
}

/// Parses field by field if the whole cannot be parsed.
fn salvage<T: Default + DeserializeOwned>(bytes: &[u8]) -> (T, Option<String>) {
    let fields = match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => return (T::default(), Some("it is not a JSON object".to_owned())),
        Err(error) => return (T::default(), Some(error.to_string())),
    };
    let whole = match serde_json::from_value(Value::Object(fields.clone())) {
        Ok(read) => return (read, None),
        Err(error) => error.to_string(),
    };
    let mut kept = Map::new();
    for (key, value) in fields {
        let alone = Map::from_iter([(key.clone(), value.clone())]);
        if serde_json::from_value::<T>(Value::Object(alone)).is_ok() {
            kept.insert(key, value);
        }
    }
    let read = serde_json::from_value(Value::Object(kept)).unwrap_or_default();
    (read, Some(whole))
}

impl Store {
    /// The state in `dir`, which need not exist.
    #[must_use]
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            other_name: None,
        }
    }

    /// Also accepts what was written under the name that this host has without a metadata service.
    #[must_use]
    pub(crate) fn also_called(self, other_name: Option<String>) -> Self {
        Self { other_name, ..self }
    }

    /// Whether what was written under the name `known` belongs to the host that is now named `now`.
    ///
    /// A host uses a derived name while its metadata service cannot be reached: such a name proves nothing against an
    /// instance id. What was written under this host's own derived name belongs to it.
    fn same_host(&self, known: &str, now: &str) -> bool {
        known.is_empty()
            || known == now
            || known.starts_with("i-") && !now.starts_with("i-")
            || self.other_name.as_deref() == Some(known)
    }

    /// Loads the state of `instance_id`, whose `stable` is given: it counts as confirmed, since only a promotion, or
    /// the image, ever points the link.
    ///
    /// # Errors
    /// The state cannot be read, or an invalid one cannot be moved aside, because of the disk: then nothing is
    /// overwritten. A state that is readable but invalid is no error.
    pub(crate) fn load(&self, instance_id: &str, stable: Option<&Build>) -> Result<(State, Found)> {
        let path = self.dir.join(FILE);
        let (mut state, found) = match fs::read(&path) {
            Ok(bytes) => match State::read(&bytes) {
                (state, None) => (state, Found::Whole),
                (state, Some(why)) => {
                    let aside = self.dir.join(format!("{FILE}.broken"));
                    fs::rename(&path, &aside)
                        .and_then(|()| files::sync_dir(&self.dir))
                        .with_context(|| format!("cannot move {} aside", path.display()))?;
                    (state, Found::Broken { aside, why })
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (State::default(), Found::Nothing)
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let found = if self.same_host(&state.instance_id, instance_id) {
            found
        } else {
            let foreign = state.instance_id;
            state = State {
                floor: state.floor,
                withdrawn: state.withdrawn,
                ..State::default()
            };
            Found::Foreign {
                instance_id: foreign,
            }
        };
        state.schema = SCHEMA;
        state.recount();
        // An instance id is preferred: it distinguishes an image made of this host.
        if state.instance_id.is_empty() || instance_id.starts_with("i-") {
            instance_id.clone_into(&mut state.instance_id);
        }
        if let Some(stable) = stable
            && !state.is_confirmed(&stable.digest)
        {
            state.confirm(stable);
        }
        Ok((state, found))
    }

    /// The state, for readers only; the default if it cannot be read.
    #[must_use]
    pub(crate) fn peek(&self) -> State {
        let bytes = fs::read(self.dir.join(FILE)).unwrap_or_default();
        let (mut state, _) = State::read(&bytes);
        state.recount();
        state
    }

    /// The instance of the state; `None` if there is none.
    #[must_use]
    pub(crate) fn owner(&self) -> Option<String> {
        let bytes = fs::read(self.dir.join(FILE)).ok()?;
        let (state, _) = State::read(&bytes);
        (!state.instance_id.is_empty()).then_some(state.instance_id)
    }

    /// Stores `state` durably.
    ///
    /// # Errors
    /// The disk's; the state on disk is then the old one, unless only the last fsync failed.
    pub(crate) fn save(&self, state: &State) -> Result<()> {
        self.write(FILE, state)
    }

    /// The operator's overrides of this instance; none if they cannot be read, with the reason logged: an unreadable
    /// hold must not stop updates forever.
    #[must_use]
    pub(crate) fn overrides(&self, instance_id: &str) -> Overrides {
        let path = self.dir.join(OVERRIDES);
        let nothing = Overrides {
            instance_id: instance_id.to_owned(),
            ..Overrides::default()
        };
        let mut overrides = match fs::read(&path) {
            Ok(bytes) => match Overrides::read(&bytes) {
                (overrides, None) => overrides,
                (overrides, Some(why)) => {
                    tracing::warn!("{} is invalid: {why}", path.display());
                    overrides
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return nothing,
            Err(error) => {
                tracing::warn!("cannot read {}: {error}", path.display());
                return nothing;
            }
        };
        if !self.same_host(&overrides.instance_id, instance_id) {
            return nothing;
        }
        if instance_id.starts_with("i-") {
            instance_id.clone_into(&mut overrides.instance_id);
        }
        overrides
    }

    /// Stores an operator's overrides durably.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn save_overrides(&self, overrides: &Overrides) -> Result<()> {
        self.write(OVERRIDES, overrides)
    }

    fn write(&self, name: &str, what: &impl Serialize) -> Result<()> {
        let path = self.dir.join(name);
        let mut json = serde_json::to_vec_pretty(what)
            .with_context(|| format!("cannot write {name} as JSON"))?;
        json.push(b'\n');
        self.make()
            .and_then(|()| files::replace(&path, &json, 0o600))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// systemd creates the directory (`StateDirectory=`); without systemd it is created here.
    fn make(&self) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        if self.dir.is_dir() {
            return Ok(());
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)?;
        files::sync_parent(&self.dir)
    }
}

#[cfg(test)]
mod tests;
