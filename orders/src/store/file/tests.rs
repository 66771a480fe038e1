//! The file store alone: its contract, and its faults as a broken disk would bring them.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::contract;
use super::*;

/// Failures of the disk on demand.
#[derive(Debug, Default)]
pub(super) struct Injected {
    pub(super) write: AtomicBool,
    pub(super) sync: AtomicBool,
}

impl Injected {
    pub(super) fn before_write(&self) -> io::Result<()> {
        fail_if(&self.write)
    }

    pub(super) fn before_sync(&self) -> io::Result<()> {
        fail_if(&self.sync)
    }
}

fn fail_if(armed: &AtomicBool) -> io::Result<()> {
    if armed.load(Ordering::Acquire) {
        return Err(io::Error::from_raw_os_error(5));
    }
    Ok(())
}

#[tokio::test]
async fn keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::new(folder.path().join("made/on/first/use")).unwrap();
    // Only one process can have it open: a second box is a second handle on the same one, and a
    // restart is the file closed and opened under it.
    let open = || -> Box<dyn Store> {
        store.place.close();
        Box::new(store.clone())
    };
    contract::holds(&open).await;
    contract::keeps_claims(&open).await;
    contract::lists_in_order(&open).await;
    contract::gives_out_notices(&open).await;
}
