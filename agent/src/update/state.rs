//! What the updater remembers between runs: phase, attempt, skip list, floor; written by rename, rebuilt
//! when it cannot be read.
//!
//! Two files with one writer each: `state.json` is the updater's, `orders.json` (hold and pin) is written
//! by an operator's command, which must not wait for a running attempt. It decides nothing:
//! [`super::machine`] and [`super::plan`] do.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::Timestamp;
use semver::Version;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::board::{Build, Hold, Skipped};
use super::channel::Digest;
use super::durable;
use super::machine::{Note, Phase};
use super::plan::Setback;

/// The updater's file in its state directory.
pub const FILE: &str = "state.json";

/// The operator's.
pub const ORDERS: &str = "orders.json";

/// The one schema number written. Whatever is found is read field by field, so that an agent that went
/// back a version keeps all that it understands of a newer one's state.
pub const SCHEMA: u32 = 1;

/// How many failed digests are remembered: far more than a channel ever offers at one time.
const SKIPPED: usize = 64;

/// What the updater remembers. All fields have defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The box this state is of: an image may be made of a box that had one.
    pub instance_id: String,
    /// Where the attempt under way is.
    pub phase: Phase,
    /// What soaked and proved itself on this box, or came with its image: only such builds become stable.
    pub confirmed: Vec<Build>,
    /// What was stable before; where a broken stable steps down to.
    pub previous: Option<Build>,
    /// How often an attempt at a digest was cut short.
    pub strikes: BTreeMap<Digest, u32>,
    /// What failed here.
    pub skipped: Vec<Skipped>,
    /// Failures in a row that were no release's fault.
    pub setback: Option<Setback>,
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
pub struct Orders {
    /// The box it was ordered on; an image made of that box does not take the orders along.
    pub instance_id: String,
    /// No update until it ends or is released.
    pub hold: Option<Hold>,
    /// This version and no other.
    pub pin: Option<Version>,
    /// When somebody last wanted an attempt at once: he may have mended what setbacks before it were due to.
    pub now: Option<Timestamp>,
}

/// What was found in the place of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// This box's state, whole.
    Whole,
    /// Nothing: the box's first run.
    Nothing,
    /// Some of it could not be read; it was moved aside, and what could be read is kept.
    Broken {
        /// Where the old file is now.
        aside: PathBuf,
        /// What could not be read.
        why: String,
    },
    /// Another box's: this one was started from an image of it. Only the floor is kept.
    Foreign {
        /// The other box.
        instance_id: String,
    },
}

/// The state directory.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
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

    /// Takes a build off the list of those that may be stable, and skips it.
    pub fn skip(&mut self, build: &Build, reason: &str, at: Timestamp) {
        self.confirmed.retain(|known| known.digest != build.digest);
        self.skipped
            .retain(|known| known.build.digest != build.digest);
        self.skipped.push(Skipped {
            build: build.clone(),
            reason: reason.to_owned(),
            at,
        });
        let over = self.skipped.len().saturating_sub(SKIPPED);
        self.skipped.drain(..over);
    }

    /// Takes the machine's notes in.
    pub fn note(&mut self, note: &Note) {
        match note {
            Note::Skip { build, reason, at } => {
                self.strikes.remove(&build.digest);
                self.skip(build, reason, *at);
            }
            Note::Strike(build) => *self.strikes.entry(build.digest.clone()).or_default() += 1,
            Note::Setback { build, reason, at } => {
                let same = |setback: &&Setback| setback.digest == build.digest;
                let failures = self.setback.as_ref().filter(same).map_or(0, |s| s.failures);
                self.setback = Some(Setback {
                    digest: build.digest.clone(),
                    failures: failures.saturating_add(1),
                    at: *at,
                    reason: reason.clone(),
                });
            }
            Note::Well => self.setback = None,
            Note::Floor(floor) => self.raise_floor(floor),
            Note::Promoted { build, at } => {
                self.strikes.remove(&build.digest);
                self.setback = None;
                self.updated_at = Some(*at);
            }
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

impl Orders {
    /// A setback, unless somebody wanted an attempt at once since.
    #[must_use]
    pub fn past<'a>(&self, setback: Option<&'a Setback>) -> Option<&'a Setback> {
        setback.filter(|setback| self.now.is_none_or(|now| now < setback.at))
    }

    /// As [`State::read`].
    #[must_use]
    pub fn read(bytes: &[u8]) -> (Self, Option<String>) {
        salvage(bytes)
    }
}

/// Whether a state of `known` is one of the box that is now called `now`. A box goes by a name of its
/// own making while its metadata service is out of reach: that name proves nothing against an instance id.
fn same_box(known: &str, now: &str) -> bool {
    known.is_empty() || known == now || known.starts_with("i-") && !now.starts_with("i-")
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
        }
    }

    /// What is remembered of the box `instance_id`, whose `stable` is what it is: whatever `stable`
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
        let found = if same_box(&state.instance_id, instance_id) {
            found
        } else {
            let foreign = state.instance_id;
            state = State {
                floor: state.floor,
                ..State::default()
            };
            Found::Foreign {
                instance_id: foreign,
            }
        };
        state.schema = SCHEMA;
        if state.instance_id.is_empty() {
            instance_id.clone_into(&mut state.instance_id);
        }
        if let Some(stable) = stable
            && !state.is_confirmed(&stable.digest)
        {
            state.confirm(stable);
        }
        Ok((state, found))
    }

    /// The box that the state is of; `None` when there is none, or it does not say.
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

    /// What an operator ordered on this box; nothing when that cannot be read, with the reason logged:
    /// an unreadable hold must not stop a box's updates for ever.
    #[must_use]
    pub fn orders(&self, instance_id: &str) -> Orders {
        let path = self.dir.join(ORDERS);
        let nothing = Orders {
            instance_id: instance_id.to_owned(),
            ..Orders::default()
        };
        let orders = match fs::read(&path) {
            Ok(bytes) => match Orders::read(&bytes) {
                (orders, None) => orders,
                (orders, Some(why)) => {
                    tracing::warn!("{} is not as written: {why}", path.display());
                    orders
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return nothing,
            Err(error) => {
                tracing::warn!("cannot read {}: {error}", path.display());
                return nothing;
            }
        };
        if same_box(&orders.instance_id, instance_id) {
            orders
        } else {
            nothing
        }
    }

    /// Keeps an operator's orders: when this returns, they last.
    ///
    /// # Errors
    /// The disk's.
    pub fn order(&self, orders: &Orders) -> Result<()> {
        self.write(ORDERS, orders)
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
