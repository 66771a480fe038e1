//! What is left of a panic inside redb.
//!
//! redb trusts a file that was closed cleanly, and may panic over damage it then meets, at the opening
//! of a large file or at any later read. Owns the mark beside the file that says so, since a build
//! that aborts has no other way to tell its next start: that one checks the whole file first, and a
//! check names damage instead of panicking over it.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use anyhow::Context;

thread_local! {
    /// The mark of the file that this thread is in the middle of.
    static AT_WORK: RefCell<Option<Arc<Path>>> = const { RefCell::new(None) };
}

/// The mark of a file.
#[derive(Debug)]
pub(super) struct Mark(Arc<Path>);

impl Mark {
    /// That of `file`.
    pub(super) fn of(file: &Path) -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let previous = take_hook();
            set_hook(Box::new(move |panic| {
                leave(panic);
                previous(panic);
            }));
        });
        let mut path = file.as_os_str().to_owned();
        path.push(".panicked");
        Self(PathBuf::from(path).into())
    }

    /// Whether the last one at work on the file panicked, or cannot be known not to have.
    pub(super) fn is_there(&self) -> bool {
        fs::exists(&self.0).unwrap_or(true)
    }

    /// The file was checked.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.0.display()))
            }
            _ => Ok(()),
        }
    }

    /// Runs `work` on the file; `None` when it panicked and the build lets that come back.
    pub(super) fn watch<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        AT_WORK.set(Some(Arc::clone(&self.0)));
        // What it leaves half done is never used again: the file is opened anew.
        let outcome = catch_unwind(AssertUnwindSafe(work));
        AT_WORK.set(None);
        outcome.ok()
    }
}

/// Leaves the mark when the thread was at work on a file.
fn leave(panic: &PanicHookInfo<'_>) {
    let Some(mark) = AT_WORK.take() else {
        return;
    };
    let place = panic.location().map(ToString::to_string);
    let place = place.unwrap_or_default();
    // The panic's own words stay out of the log: they may quote what is in the file.
    tracing::error!(
        file = %mark.with_extension("").display(),
        place,
        "the database panicked: its file may be damaged, and is checked before it is used again"
    );
    if let Err(error) = fs::write(&mark, format!("{place}\n")) {
        tracing::error!(mark = %mark.display(), %error, "the mark that has the file checked was not left");
    }
}
