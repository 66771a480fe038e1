//! A room in which nothing runs and everything claims to: for tests of the cloud alone.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{GuestSpec, GuestState, MachineRoom};

/// Guests that obey at once.
#[derive(Debug, Default)]
pub(crate) struct StillRoom(Mutex<BTreeMap<String, GuestState>>);

impl StillRoom {
    fn guests(&self) -> MutexGuard<'_, BTreeMap<String, GuestState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, id: &str, state: GuestState) {
        if let Some(guest) = self.guests().get_mut(id) {
            *guest = state;
        }
    }
}

impl MachineRoom for StillRoom {
    fn start(&self, guest: &GuestSpec) -> anyhow::Result<()> {
        self.guests().insert(guest.id.clone(), GuestState::Running);
        Ok(())
    }

    fn power_off(&self, id: &str) {
        self.end(id, GuestState::PoweredOff);
    }

    fn kill(&self, id: &str) {
        self.end(id, GuestState::Dead);
    }

    fn state(&self, id: &str) -> GuestState {
        self.guests().get(id).copied().unwrap_or(GuestState::Absent)
    }

    fn console(&self, _id: &str) -> Vec<u8> {
        Vec::new()
    }

    fn forget(&self, id: &str) {
        self.guests().remove(id);
    }

    fn pid(&self, _id: &str) -> Option<u32> {
        None
    }
}
