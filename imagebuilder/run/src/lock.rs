//! A lock on a file that ends when its holder is done with it.
//!
//! Closing a locked file does not unlock it as long as another process has it open, and a child has it open from its fork
//! until its exec. So the lock is released before the file is closed. Who may hold what, and what a
//! refusal means, is the callers' business.

use std::fs::{File, TryLockError};

/// A locked file; unlocked when dropped, or when the process ends.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Locks the file for this holder alone; `None` when another has it.
    ///
    /// # Errors
    /// When it cannot be locked at all.
    pub fn of(file: File) -> std::io::Result<Option<Self>> {
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.0
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing it comes next, and does the same as soon as no child has it open.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_even_if_a_child_has_the_file_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = || Lock::of(File::create(&path).unwrap()).unwrap();
        let held = lock().unwrap();
        let of_a_child = held.file().try_clone().unwrap();
        assert!(lock().is_none());
        drop(held);
        assert!(lock().is_some());
        drop(of_a_child);
    }
}
