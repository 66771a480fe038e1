//! Marker files for panics inside redb.
//!
//! redb trusts a file that was closed cleanly, and may panic over damage that it finds when opening a large
//! file or at a later read. The marker next to the file is read by the next start, even if the build aborts on
//! panics, to check the whole file first; a check reports damage instead of panicking.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use anyhow::Context;

thread_local! {
    /// The marker of the file that this thread is working on.
    static AT_WORK: RefCell<Option<Arc<Path>>> = const { RefCell::new(None) };
}

/// The marker of a file.
#[derive(Debug)]
pub(super) struct PanicMarker(Arc<Path>);

impl PanicMarker {
    /// The marker of `file`.
    pub(super) fn of(file: &Path) -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let previous = take_hook();
            set_hook(Box::new(move |panic| {
                write_marker(panic);
                previous(panic);
            }));
        });
        let mut path = file.as_os_str().to_owned();
        path.push(".panicked");
        Self(PathBuf::from(path).into())
    }

    /// Whether the last work on the file panicked, or may have.
    pub(super) fn exists(&self) -> bool {
        fs::exists(&self.0).unwrap_or(true)
    }

    /// Removes the marker, after the file was checked.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.0.display()))
            }
            _ => Ok(()),
        }
    }

    /// Runs `work` on the file; `None` if it panicked and the build unwinds.
    pub(super) fn run<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        AT_WORK.set(Some(Arc::clone(&self.0)));
        // Inconsistent state is never used again: the file is reopened.
        let outcome = catch_unwind(AssertUnwindSafe(work));
        AT_WORK.set(None);
        outcome.ok()
    }
}

/// Writes the marker if the panicking thread was working on a file.
fn write_marker(panic: &PanicHookInfo<'_>) {
    let Some(marker) = AT_WORK.take() else {
        return;
    };
    let location = panic.location().map(ToString::to_string);
    let location = location.unwrap_or_default();
    // The panic's message is not logged: it may quote what is in the file.
    tracing::error!(
        file = %marker.with_extension("").display(),
        location,
        "the database panicked; its file may be damaged and is checked before it is used again"
    );
    if let Err(error) = fs::write(&marker, format!("{location}\n")) {
        tracing::error!(marker = %marker.display(), %error, "could not write the marker that requires a check");
    }
}
