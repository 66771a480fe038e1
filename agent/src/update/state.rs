//! What the updater remembers between runs: phase, attempt, skip list, floor; written by rename, rebuilt
//! when it cannot be read.
//!
//! Two files with one writer each: `state.json` is the updater's, `overrides.json` (hold and pin) is written
//! by an operator's command, which must not wait for a running attempt. It decides nothing:
//! [`super::phases`] and [`super::plan`] do.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use semver::Version;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::blame::{self, CRASHES, FailureKind, Failures};
use super::build::Build;
use super::channel::Digest;
use super::durable;
use super::permission::Withheld;
use super::phases::{Note, Phase, Withdrawals};
use super::status::{Hold, Skipped};
use crate::text;

/// The updater's file in its state directory.
pub const FILE: &str = "state.json";

/// The operator's.
pub const OVERRIDES: &str = "orders.json";

/// The one schema number written. Whatever is found is read field by field, so that an agent that went
/// back a version keeps all that it understands of a newer one's state.
pub const SCHEMA: u32 = 1;

/// How many skipped, withdrawn and forgiven releases are remembered: far more than a channel ever offers at one
/// time.
const REMEMBERED: usize = 64;

/// How long a promoted release must have been stable to be done with its crashes: longer than systemd takes to give a
/// unit up, and its repair.
const SETTLED: SignedDuration = SignedDuration::from_mins(10);

/// What the updater remembers. All fields have defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The instance this state is of: an image may be made of an instance that had one.
    pub instance_id: String,
    /// Where the attempt under way is.
    pub phase: Phase,
    /// What soaked and proved itself on this instance, or came with its image: only such builds become stable.
    pub confirmed: Vec<Build>,
    /// What was stable before; where a broken stable steps down to.
    pub previous: Option<Build>,
    /// What is condemned here: not tried again until somebody forgives it.
    pub skipped: Vec<Skipped>,
    /// What is held against releases that are tried again, by cause.
    pub failures: Vec<Failures>,
    /// What verified metadata withdrew, as far as it was ever seen.
    pub withdrawn: Vec<Build>,
    /// Which of the operator's pardons were granted.
    pub forgiven: Vec<Forgiveness>,
    /// Since when the daemon has withheld its permission to be restarted.
    pub withheld: Option<Withheld>,
    /// The highest floor that signed metadata ever named.
    floor: Option<Version>,
    /// Versions of root, timestamp, snapshot, targets last verified.
    pub metadata: Option<[u64; 4]>,
    /// When the timestamp role expires.
    pub metadata_expires: Option<Timestamp>,
    /// The last check, whatever came of it.
    pub checked_at: Option<Timestamp>,
    /// The last check that verified.
    pub verified_at: Option<Timestamp>,
    /// The last promotion.
    pub updated_at: Option<Timestamp>,
    /// The word for the last failure; empty while all is well.
    pub code: String,
    /// The last failure, or what is waited for, in one line.
    pub reason: String,
}

/// What an operator ordered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overrides {
    /// The instance it was ordered on; an image made of that instance does not take the orders along.
    pub instance_id: String,
    /// No update until it ends or is released.
    pub hold: Option<Hold>,
    /// This version and no other.
    pub pin: Option<Version>,
    /// When somebody last wanted an attempt at once: pauses for failures before that are over.
    pub now: Option<Timestamp>,
    /// Releases whose failures are to be forgotten, each once.
    pub forgiven: Vec<Forgiveness>,
}

/// An operator's order to forget what is held against a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgiveness {
    /// The release.
    pub version: Version,
    /// When it was given: what tells it from another one for the same release.
    pub at: Timestamp,
}

/// What was found in the place of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// This instance's state, whole.
    Whole,
    /// Nothing: the instance's first run.
    Nothing,
    /// Some of it could not be read; it was moved aside, and what could be read is kept.
    Broken {
        /// Where the old file is now.
        aside: PathBuf,
        /// What could not be read.
        why: String,
    },
    /// Another instance's: this one was started from an image of it. Only the floor and what
    /// was withdrawn are kept.
    Foreign {
        /// The other instance.
        instance_id: String,
    },
}

/// The state directory.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
    /// What this host is called without a metadata service, where it can be told.
    machine: Option<String>,
}

impl State {
    /// The floor: it only ever rises.
    #[must_use]
    pub fn floor(&self) -> Option<&Version> {
        self.floor.as_ref()
    }

    /// Takes a floor from verified metadata; a lower one is nothing new.
    pub fn raise_floor(&mut self, floor: &Version) {
        if self.floor.as_ref().is_none_or(|known| known < floor) {
            self.floor = Some(floor.clone());
        }
    }

    /// Whether a build proved itself here, or came with the image.
    #[must_use]
    pub fn is_confirmed(&self, digest: &Digest) -> bool {
        self.confirmed.iter().any(|build| build.digest == *digest)
    }

    /// Lists a build as one that may be stable.
    pub fn confirm(&mut self, build: &Build) {
        self.confirmed.retain(|known| known.digest != build.digest);
        self.confirmed.push(build.clone());
    }

    /// Takes a build off the list of those that may be stable: it did not run.
    pub fn unconfirm(&mut self, build: &Build) {
        self.confirmed.retain(|known| known.digest != build.digest);
    }

    /// Counts a failed attempt at a build, and condemns it if that was enough. Returns whether it did.
    pub fn fail(&mut self, build: &Build, kind: FailureKind, reason: &str, at: Timestamp) -> bool {
        blame::count(&mut self.failures, build, kind, reason, at);
        let crashes = blame::of(&self.failures, build).map_or(0, Failures::crashes);
        let skipped = kind == FailureKind::Crashed && crashes >= CRASHES;
        if skipped {
            let reason = format!("{reason}, as in {} attempts before", crashes - 1);
            self.skip_release(build, &reason, at);
        }
        skipped
    }

    /// Takes a build off the list of those that may be stable, and does not try it again.
    pub fn skip_release(&mut self, build: &Build, reason: &str, at: Timestamp) {
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

    /// Forgets what is held against the releases that an operator forgave; each order counts once.
    pub fn forgive(&mut self, forgiven: &[Forgiveness]) {
        let new = forgiven.iter().filter(|it| !self.forgiven.contains(it));
        for Forgiveness { version, .. } in new {
            tracing::info!(version = %version, "forgetting the failures of {version}");
            self.skipped.retain(|it| it.build.version != *version);
            self.failures.retain(|it| it.build.version != *version);
        }
        self.forgiven = forgiven.to_vec();
    }

    /// Whether anything is held against a version.
    #[must_use]
    pub fn holds_against(&self, version: &Version) -> bool {
        self.skipped.iter().any(|it| it.build.version == *version)
            || self.failures.iter().any(|it| it.build.version == *version)
    }

    /// Why a build is no version to go back to; `None` when it is one.
    #[must_use]
    pub fn barred(&self, build: &Build) -> Option<String> {
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

    /// Takes in what verified metadata withdrew, and what it has again.
    fn withdraw(&mut self, seen: &Withdrawals) {
        let valid = |known: &Build| seen.valid.iter().any(|it| it.digest == known.digest);
        self.withdrawn.retain(|known| !valid(known));
        for build in &seen.withdrawn {
            if !self.withdrawn.contains(build) {
                self.withdrawn.push(build.clone());
            }
        }
        // What is on this host is never forgotten for what is not.
        let here =
            |build: &Build| self.previous.as_ref() == Some(build) || self.confirmed.contains(build);
        let mut withdrawn = std::mem::take(&mut self.withdrawn);
        withdrawn.sort_by_key(|build| (here(build), build.version.clone()));
        bound(&mut withdrawn);
        self.withdrawn = withdrawn;
    }

    /// Takes the machine's notes in.
    pub fn note(&mut self, note: &Note) {
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

    /// What a release before this one condemned for a single failed attempt counts as that one attempt: it is
    /// tried again after its pause. Its strikes and its one setback are dropped.
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

    /// Reads what can be read: every field that is not what it should be is left out. Never fails and
    /// never panics, whatever the bytes are.
    ///
    /// The second part says what was left out; `None` when all was well.
    #[must_use]
    pub fn read(bytes: &[u8]) -> (Self, Option<String>) {
        salvage(bytes)
    }
}

impl Overrides {
    /// As [`State::read`].
    #[must_use]
    pub fn read(bytes: &[u8]) -> (Self, Option<String>) {
        salvage(bytes)
    }
}

/// The last ones, as many as are remembered.
fn bound<T>(all: &mut Vec<T>) {
    let over = all.len().saturating_sub(REMEMBERED);
    all.drain(..over);
}

/// Field by field, for a file that cannot be read as a whole.
fn salvage<T: Default + DeserializeOwned>(bytes: &[u8]) -> (T, Option<String>) {
    let fields = match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => return (T::default(), Some("it is no JSON object".to_owned())),
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
    /// The state in `dir`, which need not be there yet.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            machine: None,
        }
    }

    /// With the name that this host has without a metadata service: what was written under it is this host's too.
    #[must_use]
    pub fn also_called(self, machine: Option<String>) -> Self {
        Self { machine, ..self }
    }

    /// Whether what was written under the name `known` is of the host that is now called `now`.
    ///
    /// A host goes by a name of its own making while its metadata service is out of reach: that name proves nothing
    /// against an instance id. What was written under this host's own such name is its own.
    fn same_host(&self, known: &str, now: &str) -> bool {
        known.is_empty()
            || known == now
            || known.starts_with("i-") && !now.starts_with("i-")
            || self.machine.as_deref() == Some(known)
    }

    /// What is remembered of the instance `instance_id`, whose `stable` is what it is: whatever `stable`
    /// points to was confirmed, since only a promotion, or the image, ever points it.
    ///
    /// # Errors
    /// The state cannot be read, or a broken one cannot be moved aside: the disk's fault, so that nothing
    /// is overwritten. A state that reads but makes no sense is no error.
    pub fn load(&self, instance_id: &str, stable: Option<&Build>) -> Result<(State, Found)> {
        let path = self.dir.join(FILE);
        let (mut state, found) = match fs::read(&path) {
            Ok(bytes) => match State::read(&bytes) {
                (state, None) => (state, Found::Whole),
                (state, Some(why)) => {
                    let aside = self.dir.join(format!("{FILE}.broken"));
                    fs::rename(&path, &aside)
                        .and_then(|()| durable::sync_dir(&self.dir))
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
        // An instance id is the better name: an image made of this host is then told from it.
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

    /// What is remembered, for whoever only asks: nothing where nothing can be read.
    #[must_use]
    pub fn peek(&self) -> State {
        let bytes = fs::read(self.dir.join(FILE)).unwrap_or_default();
        let (mut state, _) = State::read(&bytes);
        state.recount();
        state
    }

    /// The instance that the state is of; `None` when there is none, or it does not say.
    #[must_use]
    pub fn owner(&self) -> Option<String> {
        let bytes = fs::read(self.dir.join(FILE)).ok()?;
        let (state, _) = State::read(&bytes);
        (!state.instance_id.is_empty()).then_some(state.instance_id)
    }

    /// Remembers `state`: when this returns, it lasts.
    ///
    /// # Errors
    /// The disk's; the state on disk is then the old one, unless only the last fsync failed.
    pub fn save(&self, state: &State) -> Result<()> {
        self.write(FILE, state)
    }

    /// What an operator ordered on this instance; nothing when that cannot be read, with the reason logged:
    /// an unreadable hold must not stop an instance's updates for ever.
    #[must_use]
    pub fn overrides(&self, instance_id: &str) -> Overrides {
        let path = self.dir.join(OVERRIDES);
        let nothing = Overrides {
            instance_id: instance_id.to_owned(),
            ..Overrides::default()
        };
        let mut overrides = match fs::read(&path) {
            Ok(bytes) => match Overrides::read(&bytes) {
                (overrides, None) => overrides,
                (overrides, Some(why)) => {
                    tracing::warn!("{} is not as written: {why}", path.display());
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

    /// Keeps an operator's overrides: when this returns, they last.
    ///
    /// # Errors
    /// The disk's.
    pub fn save_overrides(&self, overrides: &Overrides) -> Result<()> {
        self.write(OVERRIDES, overrides)
    }

    fn write(&self, name: &str, what: &impl Serialize) -> Result<()> {
        let path = self.dir.join(name);
        let mut json = serde_json::to_vec_pretty(what)
            .with_context(|| format!("cannot write {name} as JSON"))?;
        json.push(b'\n');
        self.make()
            .and_then(|()| durable::replace(&path, &json, 0o600))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The directory is systemd's to make (`StateDirectory=`); by hand it is made here.
    fn make(&self) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        if self.dir.is_dir() {
            return Ok(());
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)?;
        durable::sync_parent(&self.dir)
    }
}

#[cfg(test)]
mod tests;
