//! The slots in a temporary directory.

use std::os::unix::fs::symlink;

use super::*;

struct Box_ {
    _dir: tempfile::TempDir,
    slots: Slots,
}

fn bare() -> Box_ {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let layout = Layout {
        factory: root.join("factory"),
        slots: root.join("slots"),
        channel: root.join("channel"),
        state: root.join("state"),
        run: root.join("run"),
    };
    for dir in ["factory", "slots/versions", "slots/staging"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::write(layout.factory.join(layout::BINARY), "factory").unwrap();
    symlink(&layout.factory, layout.slots.join("stable")).unwrap();
    Box_ {
        _dir: dir,
        slots: Slots::new(layout),
    }
}

impl Box_ {
    /// A release, fetched.
    fn fetched(&self, version: &str, bytes: &str) -> Build {
        let hex: String = Sha256::digest(bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let build = Build {
            version: version.parse().unwrap(),
            digest: Digest::parse(&hex).unwrap(),
        };
        fs::write(self.slots.part(&build.digest), bytes).unwrap();
        build
    }

    fn admitted(&self, version: &str) -> Build {
        let build = self.fetched(version, &format!("agent {version}"));
        self.slots.admit(&build).unwrap();
        build
    }

    fn named(&self, dir: &str) -> Vec<String> {
        let mut names: Vec<String> = entries(&self.slots.layout.slots.join(dir))
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn a_part_becomes_a_complete_slot_with_an_executable() {
    let it = bare();
    let build = it.fetched("1.2.0", "agent");
    it.slots.admit(&build).unwrap();
    let dir = it.slots.dir(&build);
    assert_eq!(
        dir.file_name().unwrap().to_string_lossy(),
        format!("1.2.0-{}", build.digest.short())
    );
    let mode = |name: &str| {
        let data = fs::metadata(dir.join(name)).unwrap();
        data.permissions().mode() & 0o777
    };
    assert_eq!((mode(layout::BINARY), mode(COMPLETE)), (0o755, 0o644));
    assert_eq!(
        fs::read_to_string(dir.join(COMPLETE)).unwrap(),
        format!("{}\n", build.digest)
    );
    assert_eq!(entries(&dir).len(), 2);
    assert_eq!(it.named("staging"), [""; 0]);
    assert_eq!(it.slots.complete(), std::slice::from_ref(&build));
    // Once more, without a part: nothing to do.
    it.slots.admit(&build).unwrap();
}

#[test]
fn a_part_of_other_bytes_is_refused_and_goes() {
    let it = bare();
    let build = it.fetched("1.2.0", "agent");
    fs::write(it.slots.part(&build.digest), "other").unwrap();
    let error = it.slots.admit(&build).unwrap_err().to_string();
    assert!(error.contains("has digest"), "{error}");
    assert_eq!(it.named("staging"), [""; 0]);
    assert_eq!(it.slots.complete(), []);
    assert!(it.slots.admit(&build).is_err());
}

/// The remains of a slot after a power loss do not count, and are replaced.
#[test]
fn a_slot_that_is_not_whole_is_none_and_is_made_anew() {
    type Damage = fn(&Path, &Build);
    let damages: [(&str, Damage); 6] = [
        ("no COMPLETE", |dir, _| {
            fs::remove_file(dir.join(COMPLETE)).unwrap()
        }),
        ("an empty COMPLETE", |dir, _| {
            fs::write(dir.join(COMPLETE), "").unwrap()
        }),
        ("half a COMPLETE", |dir, build| {
            fs::write(dir.join(COMPLETE), build.digest.short()).unwrap();
        }),
        ("COMPLETE without its end", |dir, build| {
            fs::write(dir.join(COMPLETE), build.digest.as_str()).unwrap();
        }),
        ("no binary", |dir, _| {
            fs::remove_file(dir.join(layout::BINARY)).unwrap()
        }),
        ("a truncated binary", |dir, _| {
            fs::write(dir.join(layout::BINARY), "ag").unwrap()
        }),
    ];
    for (name, damage) in damages {
        let it = bare();
        let build = it.fetched("1.2.0", "agent");
        it.slots.admit(&build).unwrap();
        damage(&it.slots.dir(&build), &build);
        assert!(it.slots.verify(&build).is_err(), "{name}");
        assert!(it.slots.arm(&build).is_err(), "{name}");
        assert!(it.slots.promote(&build).is_err(), "{name}");
        assert_eq!(it.slots.leads(Link::Stable), Leads::Factory, "{name}");
        assert_eq!(it.slots.leads(Link::Trial), Leads::Nowhere, "{name}");
        it.fetched("1.2.0", "agent");
        it.slots.admit(&build).unwrap();
        it.slots.verify(&build).unwrap();
    }
}

#[test]
fn links_lead_to_the_factory_to_a_slot_or_nowhere() {
    let it = bare();
    let build = it.admitted("1.2.0");
    assert_eq!(it.slots.leads(Link::Stable), Leads::Factory);
    assert_eq!(it.slots.leads(Link::Trial), Leads::Nowhere);
    it.slots.arm(&build).unwrap();
    assert_eq!(it.slots.leads(Link::Trial), Leads::Slot(build.clone()));
    it.slots.promote(&build).unwrap();
    it.slots.promote(&build).unwrap();
    assert_eq!(it.slots.leads(Link::Stable), Leads::Slot(build.clone()));
    let link = it.slots.layout.slots.join("stable");
    let target = fs::read_link(&link).unwrap();
    assert_eq!(
        target.to_string_lossy(),
        format!("versions/1.2.0-{}", build.digest.short())
    );
    it.slots.disarm().unwrap();
    it.slots.disarm().unwrap();
    assert_eq!(it.slots.leads(Link::Trial), Leads::Nowhere);
    it.slots.fall_back().unwrap();
    assert_eq!(it.slots.leads(Link::Stable), Leads::Factory);
    // A link to another place does not count, whatever is there.
    let elsewhere = it.slots.layout.slots.join("elsewhere");
    fs::rename(it.slots.dir(&build), &elsewhere).unwrap();
    files::point(&link, &elsewhere).unwrap();
    assert_eq!(it.slots.leads(Link::Stable), Leads::Nowhere);
    fs::remove_dir_all(&it.slots.layout.factory).unwrap();
    it.slots.fall_back().unwrap();
    assert_eq!(it.slots.leads(Link::Stable), Leads::Nowhere);
}

/// A slot's name and its `COMPLETE` must agree.
#[test]
fn a_slot_under_a_wrong_name_is_none() {
    let it = bare();
    let build = it.admitted("1.2.0");
    let dir = it.slots.dir(&build);
    for name in ["1.2.0-000000000000", "1.2.0", "x-", build.digest.short()] {
        let wrong = dir.with_file_name(name);
        fs::rename(&dir, &wrong).unwrap();
        assert_eq!(it.slots.complete(), [], "{name}");
        fs::rename(&wrong, &dir).unwrap();
    }
    assert_eq!(it.slots.complete(), [build]);
}

#[test]
fn collecting_keeps_slots_in_use_and_the_current_part() {
    let it = bare();
    let [old, previous, stable, trial] =
        ["1.0.1", "1.1.0", "1.2.0", "1.3.0"].map(|version| it.admitted(version));
    it.slots.promote(&stable).unwrap();
    it.slots.arm(&trial).unwrap();
    let incomplete = it.slots.layout.slots.join("versions/1.4.0-000000000000");
    fs::create_dir(&incomplete).unwrap();
    fs::write(incomplete.join(layout::BINARY), "half").unwrap();
    let coming = it.fetched("1.5.0", "coming");
    it.fetched("1.6.0", "forgotten");
    fs::create_dir(it.slots.layout.slots.join("staging/dir")).unwrap();
    let keep = [previous.clone()];
    it.slots.collect(&keep, Some(&coming.digest)).unwrap();
    assert_eq!(it.slots.complete(), [previous, stable, trial]);
    assert!(!it.slots.dir(&old).exists() && !incomplete.exists());
    assert_eq!(it.named("staging"), [format!("{}.part", coming.digest)]);
    it.slots.collect(&keep, None).unwrap();
    assert_eq!(it.named("staging"), [""; 0]);
    assert!(it.slots.layout.factory.join(layout::BINARY).exists());
}

#[test]
fn there_must_be_room_for_twice_the_length_and_a_reserve() {
    let it = bare();
    it.slots.room_for(1024).unwrap();
    let disk = rustix::fs::statvfs(&it.slots.layout.slots).unwrap();
    let free = disk.f_bavail * disk.f_frsize;
    // Twice what is free, so that it stays too much while others give room back.
    let error = it.slots.room_for(free).unwrap_err().to_string();
    assert!(
        error.contains("bytes free") && error.contains("needed"),
        "{error}"
    );
    assert!(it.slots.room_for(u64::MAX).is_err());
}

#[test]
fn one_holds_the_lock_until_it_is_let_go() {
    let it = bare();
    let first = it.slots.lock().unwrap();
    assert!(first.is_some());
    assert!(it.slots.lock().unwrap().is_none());
    drop(first);
    // What another test forks has a copy of the descriptor until it executes.
    while it.slots.lock().unwrap().is_none() {
        std::thread::yield_now();
    }
}

#[test]
fn no_other_user_can_open_the_lock() {
    let it = bare();
    let path = it.slots.layout.run.join(LOCK);
    // As an older version left it.
    fs::create_dir_all(&it.slots.layout.run).unwrap();
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    for _ in 0..2 {
        let _ = it.slots.lock().unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_file_is_replaced_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    files::replace(&path, b"old", 0o600).unwrap();
    // A leftover of another run has other bytes and another mode.
    fs::write(dir.path().join("file.new"), "leftover").unwrap();
    files::replace(&path, b"new", 0o600).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let target = dir.path().join("directory");
    fs::create_dir(&target).unwrap();
    assert!(files::replace(&target, b"new", 0o600).is_err());
    assert!(files::point(&target, Path::new("x")).is_err());
    let mut left: Vec<_> = entries(dir.path());
    left.sort();
    assert_eq!(left, [target, path]);
}
