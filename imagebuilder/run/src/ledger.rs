//! The journal of a run: what is about to be created, what exists, what was removed.
//!
//! An intent is written *before* every call that creates, and every id the moment it is known, so that whichever command finds
//! the run dead can finish or undo it. Written by temp file, fsync and rename: a reader never sees half a journal.
//! This module only handles files; the sweep decides what to undo and how.
//!
//! Rule: an id gets in only as an [`Owned`], never as text. Ids that an earlier release recorded are not trusted: they
//! came from Packer's output.

mod earlier;
mod records;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use self::earlier::Earlier;
pub use self::records::{BakeRecord, ChannelVersions, Direction, Former, RollRecord, Target};
use crate::exit::Exit;
use crate::lock::Lock;
use cloud::ids::RunId;
use cloud::{Owned, TemplateRef};

/// The schema this program writes.
const SCHEMA: u32 = 3;
/// The oldest one it reads.
const OLDEST: u32 = 1;
/// The first one with ids that are the run's own; before, they were taken from Packer's output.
const OWN_IDS: u32 = 2;
/// The first one with typed records of a roll and a bake; before, they were texts under keys.
const RECORDS: u32 = 3;
const JOURNAL: &str = "ledger.json";
const LOCK: &str = "lock";
const PACKER_LOCK: &str = "packer.lock";

/// The kind of an entry's resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An instance; its registry record is removed with it.
    Instance,
    /// An image; its snapshots are removed with it.
    Image,
    /// A snapshot.
    Snapshot,
    /// A volume.
    Volume,
    /// A network interface.
    NetworkInterface,
    /// A key pair.
    KeyPair,
    /// A security group.
    SecurityGroup,
    /// An SSM parameter, by name.
    Parameter,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Instance => "instance",
            Self::Image => "image",
            Self::Snapshot => "snapshot",
            Self::Volume => "volume",
            Self::NetworkInterface => "network interface",
            Self::KeyPair => "key pair",
            Self::SecurityGroup => "security group",
            Self::Parameter => "parameter",
        })
    }
}

/// The state of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// About to be created; it may or may not exist.
    Intended,
    /// Created.
    Exists,
    /// Removed again.
    #[serde(rename = "gone")]
    Removed,
    /// The result of the run; it is kept.
    Kept,
}

/// One resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thing {
    /// What it is.
    pub kind: Kind,
    /// The name it was to be created with; empty where the service gives ids only.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its id, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Owned<String>>,
    /// Its state.
    pub state: State,
}

impl Thing {
    /// Its label in messages: its id, or else its name.
    pub fn label(&self) -> &str {
        self.id.as_ref().map_or(&*self.name, |id| id.id())
    }
}

/// One step of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepEntry {
    /// The step's stable id.
    pub step: String,
    /// When it began.
    pub began: jiff::Timestamp,
}

/// The content of `ledger.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    schema: u32,
    /// The run; also the value of the run tag.
    pub run: RunId,
    /// The command.
    pub verb: String,
    /// The image's configured name.
    pub image: String,
    /// The region.
    pub region: String,
    /// When it began.
    pub began: jiff::Timestamp,
    /// How it ended; none while it runs, or when it was killed.
    pub outcome: Option<String>,
    /// The steps begun.
    pub steps: Vec<StepEntry>,
    /// The resources.
    pub things: Vec<Thing>,
    /// Launch-template versions that this run made and that no run has deleted: they stay with the template, and a later roll
    /// deletes those that nothing uses any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub template_versions: Vec<Owned<TemplateRef>>,
    /// What a roll records for the commands that resume or reverse it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roll: Option<RollRecord>,
    /// What a bake records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bake: Option<BakeRecord>,
}

/// The part of a journal that every schema has.
#[derive(Deserialize)]
struct Form {
    schema: u32,
}

/// The journal of a run that this process owns: while it is open, no other process changes the run.
#[derive(Debug)]
pub struct Ledger {
    folder: PathBuf,
    journal: Journal,
    /// Whether a failed write is ignored, and the change kept in memory only.
    undoing: bool,
    _lock: Lock,
}

/// A lock on baking one image in one folder; released when dropped, or when the process ends.
#[derive(Debug)]
pub struct ImageLock {
    _lock: Lock,
}

impl ImageLock {
    /// Locks the image for a run that is about to begin.
    ///
    /// The lock file names its holder; that line remains when the lock is released, and then means nothing.
    pub fn take(runs: &Path, image: &str, run: &RunId) -> anyhow::Result<Self> {
        std::fs::create_dir_all(runs)
            .with_context(|| format!("create the folder of runs {}", runs.display()))?;
        let path = runs.with_file_name(format!("{image}.lock"));
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        let lock = Lock::of(file).with_context(|| format!("lock {}", path.display()))?;
        let Some(lock) = lock else {
            let holder = std::fs::read_to_string(&path).unwrap_or_default();
            return Err(Exit::Refused
                .error(format!(
                    "image {image} is being baked here already, by {}",
                    holder.trim()
                ))
                .hint("wait until it has ended, or end it with Ctrl-C and run `imagebuilder reap`")
                .into());
        };
        let mut file = lock.file();
        file.set_len(0)
            .and_then(|()| writeln!(file, "process {}, run {run}", std::process::id()))
            .with_context(|| format!("write {}", path.display()))?;
        Ok(Self { _lock: lock })
    }
}

/// A run folder as `reap` and `status` find it.
#[derive(Debug)]
pub enum Found {
    /// Its process is running.
    Alive(RunId),
    /// Its process has ended; the journal is ours now.
    Dead(Box<Ledger>),
    /// Its process has ended, and its journal cannot be read.
    Unreadable(Unreadable),
}

/// A dead run whose journal cannot be read: damaged, or of a later release.
#[derive(Debug)]
pub struct Unreadable {
    /// The run, after its folder's name.
    pub run: RunId,
    /// What is wrong with the file, and where it is.
    pub why: String,
    folder: PathBuf,
    lock: Lock,
}

impl Unreadable {
    /// Renames the file to `ledger.json.unreadable`, and starts an empty journal for the run.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn begin_anew(self, verb: &str, image: &str, region: &str) -> anyhow::Result<Ledger> {
        let path = self.folder.join(JOURNAL);
        std::fs::rename(&path, path.with_extension("json.unreadable"))
            .with_context(|| format!("put {} aside", path.display()))?;
        let ledger = Ledger {
            folder: self.folder,
            journal: Journal::new(self.run, verb, image, region),
            undoing: false,
            _lock: self.lock,
        };
        ledger.write()?;
        Ok(ledger)
    }
}

impl Journal {
    fn new(run: RunId, verb: &str, image: &str, region: &str) -> Self {
        Self {
            schema: SCHEMA,
            run,
            verb: verb.to_owned(),
            image: image.to_owned(),
            region: region.to_owned(),
            began: jiff::Timestamp::now(),
            outcome: None,
            steps: Vec::new(),
            things: Vec::new(),
            template_versions: Vec::new(),
            roll: None,
            bake: None,
        }
    }
}

impl Ledger {
    /// Begins a run in a folder of its own below `runs`.
    pub fn begin(
        runs: &Path,
        run: RunId,
        verb: &str,
        image: &str,
        region: &str,
    ) -> anyhow::Result<Self> {
        let folder = runs.join(run.as_str());
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("create run folder {}", folder.display()))?;
        let lock = File::create(folder.join(LOCK)).context("create the run's lock")?;
        let lock = Lock::of(lock).context("lock the run")?;
        let lock = lock.with_context(|| format!("run {run} is held by another process"))?;
        let ledger = Self {
            folder,
            journal: Journal::new(run, verb, image, region),
            undoing: false,
            _lock: lock,
        };
        ledger.write()?;
        Ok(ledger)
    }

    /// Opens one run; `None` when the folder contains no journal (killed before the first write: nothing was created), or is
    /// no run's.
    pub fn find(folder: &Path) -> anyhow::Result<Option<Found>> {
        let path = folder.join(JOURNAL);
        let name = folder.file_name().and_then(|name| name.to_str());
        let Some(run) = name.and_then(|name| RunId::parse(name).ok()) else {
            return Ok(None);
        };
        if !path
            .try_exists()
            .with_context(|| format!("find {}", path.display()))?
        {
            return Ok(None);
        }
        let lock = File::create(folder.join(LOCK)).context("open the run's lock")?;
        let Some(lock) = Lock::of(lock).context("lock the run")? else {
            return Ok(Some(Found::Alive(run)));
        };
        Ok(Some(match read(&path) {
            Ok(journal) => Found::Dead(Box::new(Self {
                folder: folder.to_owned(),
                journal,
                undoing: false,
                _lock: lock,
            })),
            Err(error) => Found::Unreadable(Unreadable {
                run,
                why: support::Report::of(&error).message,
                folder: folder.to_owned(),
                lock,
            }),
        }))
    }

    /// All runs below `runs`, oldest first.
    pub fn all(runs: &Path) -> anyhow::Result<Vec<Found>> {
        let mut folders: Vec<PathBuf> = match std::fs::read_dir(runs) {
            Ok(entries) => entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("list {}", runs.display())),
        };
        folders.sort();
        let mut found = Vec::new();
        for folder in folders {
            found.extend(Self::find(&folder)?);
        }
        Ok(found)
    }

    /// The run's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The run.
    pub fn run(&self) -> &RunId {
        &self.journal.run
    }

    /// Everything recorded.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Records that a step begins.
    pub fn step(&mut self, step: &str) -> anyhow::Result<()> {
        self.journal.steps.push(StepEntry {
            step: step.to_owned(),
            began: jiff::Timestamp::now(),
        });
        self.write()
    }

    /// Records that something is about to be created. To be called before the call that creates it.
    pub fn intend(&mut self, kind: Kind, name: &str) -> anyhow::Result<()> {
        let known =
            self.journal.things.iter().any(|thing| {
                thing.kind == kind && thing.name == name && thing.state != State::Removed
            });
        if known {
            return Ok(());
        }
        self.journal.things.push(Thing {
            kind,
            name: name.to_owned(),
            id: None,
            state: State::Intended,
        });
        self.write()
    }

    /// Records that something exists, fulfilling the intent of the same kind and name if there is one.
    pub fn exists<T: std::fmt::Display>(
        &mut self,
        kind: Kind,
        name: &str,
        id: &Owned<T>,
    ) -> anyhow::Result<()> {
        let id = id.text();
        let things = &mut self.journal.things;
        if things
            .iter()
            .any(|thing| thing.kind == kind && thing.id.as_ref() == Some(&id))
        {
            return Ok(());
        }
        let intended = things.iter_mut().find(|thing| {
            thing.kind == kind && thing.state == State::Intended && thing.name == name
        });
        match intended {
            Some(thing) => {
                thing.id = Some(id);
                thing.state = State::Exists;
            }
            None => things.push(Thing {
                kind,
                name: name.to_owned(),
                id: Some(id),
                state: State::Exists,
            }),
        }
        self.write()
    }

    /// Records a new state of something, by its id or name.
    pub fn mark(&mut self, kind: Kind, label: &str, state: State) -> anyhow::Result<()> {
        for thing in &mut self.journal.things {
            if thing.kind == kind && (thing.label() == label || thing.name == label) {
                thing.state = state;
            }
        }
        self.write()
    }

    /// The ids of all resources of a kind that this run ever had, in any state.
    pub fn ever(&self, kind: Kind) -> impl Iterator<Item = &Owned<String>> {
        let things = self.journal.things.iter();
        things
            .filter(move |thing| thing.kind == kind)
            .filter_map(|thing| thing.id.as_ref())
    }

    /// Records a launch-template version that this run made.
    pub fn made_version(&mut self, version: Owned<TemplateRef>) -> anyhow::Result<()> {
        if !self.journal.template_versions.contains(&version) {
            self.journal.template_versions.push(version);
        }
        self.write()
    }

    /// Records that a launch-template version is deleted.
    pub fn version_deleted(&mut self, version: &Owned<TemplateRef>) -> anyhow::Result<()> {
        self.journal
            .template_versions
            .retain(|made| made != version);
        self.write()
    }

    /// Records a roll, in place of an earlier one of this run: a rollback after a failed smoke test is of the same run.
    pub fn begin_roll(&mut self, record: RollRecord) -> anyhow::Result<()> {
        self.journal.roll = Some(record);
        self.write()
    }

    /// Changes the record of the roll, if there is one.
    pub fn update_roll(&mut self, change: impl FnOnce(&mut RollRecord)) -> anyhow::Result<()> {
        if let Some(roll) = &mut self.journal.roll {
            change(roll);
        }
        self.write()
    }

    /// Records a bake.
    pub fn begin_bake(&mut self, record: BakeRecord) -> anyhow::Result<()> {
        self.journal.bake = Some(record);
        self.write()
    }

    /// Changes the record of the bake, if there is one.
    pub fn update_bake(&mut self, change: impl FnOnce(&mut BakeRecord)) -> anyhow::Result<()> {
        if let Some(bake) = &mut self.journal.bake {
            change(bake);
        }
        self.write()
    }

    /// A lock for Packer to inherit as its standard input: it is held while Packer or a plugin of it runs. No [`Lock`]:
    /// when this process releases it, Packer still holds it.
    pub fn packer_lock(&self) -> anyhow::Result<File> {
        let lock = File::create(self.folder.join(PACKER_LOCK)).context("create Packer's lock")?;
        lock.try_lock().context("lock the run for Packer")?;
        Ok(lock)
    }

    /// Whether a Packer of this run is still running.
    pub fn packer_lives(&self) -> anyhow::Result<bool> {
        let lock = match File::open(self.folder.join(PACKER_LOCK)) {
            Ok(lock) => lock,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error).context("open Packer's lock"),
        };
        Ok(Lock::of(lock).context("try Packer's lock")?.is_none())
    }

    /// What may exist and was neither removed nor kept, newest first: the order to undo it in.
    pub fn open_things(&self) -> Vec<Thing> {
        self.journal
            .things
            .iter()
            .rev()
            .filter(|thing| matches!(thing.state, State::Intended | State::Exists))
            .cloned()
            .collect()
    }

    /// From now on nothing is created, only removed: a ledger that cannot be written (full disk) must not prevent
    /// removals. Removing something twice does no harm, and what is missing in the ledger is found by its tag.
    pub fn undoing(&mut self) {
        self.undoing = true;
    }

    /// Records how the run ended.
    pub fn end(&mut self, outcome: &str) -> anyhow::Result<()> {
        self.journal.outcome = Some(outcome.to_owned());
        self.write()
    }

    fn write(&self) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(&self.journal).context("serialize the ledger")?;
        match support::files::replace(&self.folder.join(JOURNAL), text.as_bytes(), 0o644) {
            Err(_) if self.undoing => Ok(()),
            written => written.context("write the ledger"),
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Journal> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    parse(&text).with_context(|| format!("read {}", path.display()))
}

/// A journal of any schema that this program knows, in its current form.
fn parse(text: &str) -> anyhow::Result<Journal> {
    // First: a later schema may have another shape.
    let Form { schema } = serde_json::from_str(text)?;
    anyhow::ensure!(
        (OLDEST..=SCHEMA).contains(&schema),
        "it has schema {schema}, this program knows {OLDEST} to {SCHEMA}"
    );
    let mut journal: Journal = serde_json::from_str(text)?;
    if schema < OWN_IDS {
        // Found by its tag or not at all.
        for thing in &mut journal.things {
            thing.id = None;
        }
    }
    if schema < RECORDS {
        let earlier: Earlier = serde_json::from_str(text)?;
        journal.roll = earlier.roll();
        journal.bake = earlier.bake();
    }
    journal.schema = SCHEMA;
    Ok(journal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloud::ids::Digest;

    fn begun(runs: &Path, run: &str) -> Ledger {
        Ledger::begin(
            runs,
            RunId::parse(run).unwrap(),
            "bake",
            "shop",
            "us-east-1",
        )
        .unwrap()
    }

    /// As an earlier run of this program wrote it down.
    fn owned(id: &str) -> Owned<String> {
        serde_json::from_value(id.into()).unwrap()
    }

    #[test]
    fn an_intent_becomes_a_thing_and_is_undone_newest_first() {
        let runs = tempfile::tempdir().unwrap();
        let mut ledger = begun(runs.path(), "r1");
        ledger.intend(Kind::KeyPair, "key").unwrap();
        ledger.exists(Kind::KeyPair, "key", &owned("key")).unwrap();
        ledger.intend(Kind::Instance, "gate").unwrap();
        ledger
            .exists(Kind::Instance, "gate", &owned("i-1"))
            .unwrap();
        ledger.intend(Kind::Image, "shop-1").unwrap();
        let labels: Vec<String> = ledger
            .open_things()
            .iter()
            .map(|t| t.label().to_owned())
            .collect();
        assert_eq!(labels, ["shop-1", "i-1", "key"]);
        ledger.mark(Kind::Instance, "i-1", State::Removed).unwrap();
        ledger.mark(Kind::Image, "shop-1", State::Kept).unwrap();
        let labels: Vec<String> = ledger
            .open_things()
            .iter()
            .map(|t| t.label().to_owned())
            .collect();
        assert_eq!(labels, ["key"]);
    }

    #[test]
    fn a_run_is_alive_while_its_ledger_is_held_and_dead_after() {
        let runs = tempfile::tempdir().unwrap();
        let ledger = begun(runs.path(), "r1");
        assert!(matches!(
            &Ledger::all(runs.path()).unwrap()[..],
            [Found::Alive(_)]
        ));
        drop(ledger);
        let found = Ledger::all(runs.path()).unwrap();
        let [Found::Dead(dead)] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(dead.run().as_str(), "r1");
        assert_eq!(dead.journal().outcome, None);
    }

    #[test]
    fn packer_is_running_while_its_lock_is_held() {
        let runs = tempfile::tempdir().unwrap();
        let ledger = begun(runs.path(), "r1");
        assert!(!ledger.packer_lives().unwrap());
        let held = ledger.packer_lock().unwrap();
        assert!(ledger.packer_lives().unwrap());
        // As when its last holder ends: a child that another test forks just now would hold what is only dropped.
        held.unlock().unwrap();
        assert!(!ledger.packer_lives().unwrap());
    }

    #[test]
    fn a_folder_killed_before_the_first_write_is_no_run() {
        let runs = tempfile::tempdir().unwrap();
        std::fs::create_dir(runs.path().join("r0")).unwrap();
        assert!(Ledger::all(runs.path()).unwrap().is_empty());
    }

    fn unreadable(runs: &Path) -> Unreadable {
        let mut found = Ledger::all(runs).unwrap();
        match found.pop() {
            Some(Found::Unreadable(unreadable)) => unreadable,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_journal_that_cannot_be_read_is_one_finding_among_others() {
        let runs = tempfile::tempdir().unwrap();
        for run in ["r1", "r2", "r3"] {
            drop(begun(runs.path(), run));
        }
        for (run, text) in [("r2", "{"), ("r3", "\0\0\0")] {
            std::fs::write(runs.path().join(run).join(JOURNAL), text).unwrap();
        }
        let found = Ledger::all(runs.path()).unwrap();
        assert!(
            matches!(
                &found[..],
                [Found::Dead(_), Found::Unreadable(a), Found::Unreadable(b)]
                    if a.run.as_str() == "r2" && b.run.as_str() == "r3"
            ),
            "{found:?}"
        );
    }

    #[test]
    fn a_later_schema_is_named_and_can_be_put_aside() {
        let runs = tempfile::tempdir().unwrap();
        drop(begun(runs.path(), "r1"));
        let path = runs.path().join("r1").join(JOURNAL);
        let text = std::fs::read_to_string(&path)
            .unwrap()
            .replace(&format!("\"schema\": {SCHEMA}"), "\"schema\": 9");
        std::fs::write(&path, &text).unwrap();
        let unreadable = unreadable(runs.path());
        assert!(unreadable.why.contains("schema 9"), "{}", unreadable.why);
        drop(unreadable.begin_anew("reap", "shop", "us-east-1").unwrap());
        assert!(matches!(
            &Ledger::all(runs.path()).unwrap()[..],
            [Found::Dead(_)]
        ));
        let aside = path.with_extension("json.unreadable");
        assert_eq!(std::fs::read_to_string(aside).unwrap(), text);
    }

    #[test]
    fn ids_of_schema_1_ledgers_are_not_trusted() {
        let runs = tempfile::tempdir().unwrap();
        let mut ledger = begun(runs.path(), "r1");
        ledger
            .exists(Kind::Image, "shop-1", &owned("ami-1"))
            .unwrap();
        drop(ledger);
        let path = runs.path().join("r1").join(JOURNAL);
        let text = std::fs::read_to_string(&path)
            .unwrap()
            .replace(&format!("\"schema\": {SCHEMA}"), "\"schema\": 1");
        std::fs::write(&path, text).unwrap();
        let found = Ledger::all(runs.path()).unwrap();
        let [Found::Dead(dead)] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(dead.ever(Kind::Image).count(), 0);
        assert_eq!(dead.open_things()[0].name, "shop-1");
    }

    /// A journal of an earlier schema with these facts.
    fn literal(schema: u32, verb: &str, facts: &str) -> String {
        format!(
            r#"{{
                "schema": {schema}, "run": "r1", "verb": "{verb}", "image": "shop", "region": "us-east-1",
                "began": "2026-01-02T03:04:05Z", "outcome": null,
                "steps": [{{"step": "refresh", "began": "2026-01-02T03:04:06Z"}}],
                "things": [{{"kind": "image", "name": "shop-1", "id": "ami-9", "state": "exists"}}],
                "facts": {{{facts}}}
            }}"#
        )
    }

    #[test]
    fn facts_of_earlier_rolls_become_records() {
        let target = |version: u64| Target {
            template_id: "lt-1".into(),
            version,
            image: format!("ami-{version}").parse().unwrap(),
        };
        let started = RollRecord {
            group: "shop".parse().unwrap(),
            direction: Direction::Forward,
            previous: Some(target(7)),
            target: Some(target(8)),
            intended: Some("2026-01-02T03:04:06Z".parse().unwrap()),
            refresh: Some("r-1".into()),
            stopped: None,
        };
        let prepared = RollRecord {
            target: None,
            intended: None,
            refresh: None,
            ..started.clone()
        };
        let back = RollRecord {
            direction: Direction::Back,
            stopped: Some("the smoke test failed: 503".into()),
            ..started.clone()
        };
        let previous = r#""group": "shop", "previous": "lt-1:7:ami-7""#;
        let refresh = r#""target": "lt-1:8:ami-8", "refresh-intended": "2026-01-02T03:04:06Z", "refresh": "r-1""#;
        let stopped = r#""back": "yes", "stopped": "the smoke test failed: 503""#;
        for (name, facts, want) in [
            ("nothing yet", String::new(), None),
            ("prepared", previous.to_owned(), Some(prepared)),
            ("started", format!("{previous}, {refresh}"), Some(started)),
            (
                "back",
                format!("{previous}, {refresh}, {stopped}"),
                Some(back),
            ),
        ] {
            for schema in [1, 2] {
                let journal = parse(&literal(schema, "roll", &facts)).unwrap();
                assert_eq!(journal.roll, want, "schema {schema}: {name}");
                assert_eq!(journal.bake, None, "schema {schema}: {name}");
            }
        }
    }

    #[test]
    fn facts_of_earlier_bakes_become_records() {
        let digest = |digit: &str| Digest::parse(digit.repeat(64)).unwrap();
        let begun = BakeRecord {
            digest: digest("a"),
            inputs: [("source".to_owned(), digest("b"))].into(),
            source: None,
            source_parameter: None,
            channel: None,
            candidate_before: None,
        };
        let published = BakeRecord {
            channel: Some(ChannelVersions {
                root: 1,
                timestamp: 4,
                snapshot: 3,
                targets: 2,
            }),
            candidate_before: Some(Former::Image("ami-8".parse().unwrap())),
            ..begun.clone()
        };
        let first = BakeRecord {
            candidate_before: Some(Former::None),
            ..begun.clone()
        };
        let (whole, source) = (digest("a"), digest("b"));
        let inputs = format!(r#""digest": "{whole}", "input source": "{source}""#);
        let channel = r#""channel": "root 1, timestamp 4, snapshot 3, targets 2""#;
        let pointer = r#""candidate-before": "ami-8""#;
        let none = r#""candidate-before": """#;
        for (name, facts, want) in [
            ("nothing yet", String::new(), None),
            ("begun", inputs.clone(), Some(begun)),
            (
                "published",
                format!("{inputs}, {channel}, {pointer}"),
                Some(published),
            ),
            ("the first", format!("{inputs}, {none}"), Some(first)),
        ] {
            for schema in [1, 2] {
                let journal = parse(&literal(schema, "bake", &facts)).unwrap();
                assert_eq!(journal.bake, want, "schema {schema}: {name}");
                assert_eq!(journal.roll, None, "schema {schema}: {name}");
                let id = journal.things[0].id.as_ref();
                assert_eq!(id.is_some(), schema == 2, "schema {schema}: {name}");
            }
        }
    }

    #[test]
    fn a_journal_is_written_in_the_current_schema() {
        let facts = r#""group": "shop", "previous": "lt-1:7:ami-7", "target": "lt-1:8:ami-8""#;
        let journal = parse(&literal(2, "roll", facts)).unwrap();
        let text = serde_json::to_string_pretty(&journal).unwrap();
        assert_eq!(parse(&text).unwrap(), journal);
        insta::assert_snapshot!(text, @r#"
        {
          "schema": 3,
          "run": "r1",
          "verb": "roll",
          "image": "shop",
          "region": "us-east-1",
          "began": "2026-01-02T03:04:05Z",
          "outcome": null,
          "steps": [
            {
              "step": "refresh",
              "began": "2026-01-02T03:04:06Z"
            }
          ],
          "things": [
            {
              "kind": "image",
              "name": "shop-1",
              "id": "ami-9",
              "state": "exists"
            }
          ],
          "roll": {
            "group": "shop",
            "direction": "forward",
            "previous": {
              "template_id": "lt-1",
              "version": 7,
              "image": "ami-7"
            },
            "target": {
              "template_id": "lt-1",
              "version": 8,
              "image": "ami-8"
            }
          }
        }
        "#);
    }
}
