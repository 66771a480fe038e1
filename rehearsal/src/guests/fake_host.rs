//! A VM host without processes, for tests of the cloud alone.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::accelerator::{Accelerator, Choice};
use super::{Failure, Firmware, Guest, GuestSpec, GuestState, VmHost};
use crate::ids::InstanceId;

/// Guests that react at once.
#[derive(Debug)]
pub(crate) struct FakeHost {
    guests: Mutex<BTreeMap<InstanceId, (Guest, GuestSpec)>>,
    /// The host's accelerator.
    pub(crate) accelerator: Accelerator,
    notes: Mutex<Vec<String>>,
}

impl Default for FakeHost {
    fn default() -> Self {
        Self::under(Accelerator::Tcg)
    }
}

impl FakeHost {
    /// A host of guests under `accelerator`.
    pub(crate) fn under(accelerator: Accelerator) -> Self {
        Self {
            guests: Mutex::default(),
            accelerator,
            notes: Mutex::default(),
        }
    }

    /// Lines that were appended to consoles.
    pub(crate) fn notes(&self) -> Vec<String> {
        let notes = self.notes.lock();
        notes.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the guest's specification asked for emulation.
    pub(crate) fn is_emulated(&self, id: &InstanceId) -> bool {
        self.guests()[id].1.emulated
    }

    /// The firmware that booted the guest.
    pub(crate) fn firmware(&self, id: &InstanceId) -> Firmware {
        self.guests()[id].1.firmware
    }

    /// Makes a running guest fail, or recover.
    pub(crate) fn fail(&self, id: &InstanceId, failure: Option<Failure>) {
        if let Some((guest, _)) = self.guests().get_mut(id) {
            guest.failure = failure;
        }
    }

    fn guests(&self) -> MutexGuard<'_, BTreeMap<InstanceId, (Guest, GuestSpec)>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, id: &InstanceId, state: GuestState) {
        if let Some((guest, _)) = self.guests().get_mut(id) {
            guest.state = state;
        }
    }
}

impl VmHost for FakeHost {
    fn start(&self, guest: &GuestSpec) -> anyhow::Result<()> {
        let started = Guest {
            state: GuestState::Running,
            failure: None,
        };
        self.guests()
            .insert(guest.id.clone(), (started, guest.clone()));
        Ok(())
    }

    fn power_off(&self, id: &InstanceId) {
        self.end(id, GuestState::PoweredOff);
    }

    fn kill(&self, id: &InstanceId) {
        self.end(id, GuestState::Dead);
    }

    fn guest(&self, id: &InstanceId) -> Guest {
        let guests = self.guests();
        guests
            .get(id)
            .map(|(guest, _)| guest.clone())
            .unwrap_or_default()
    }

    fn resume(&self, id: &InstanceId) {
        self.fail(id, None);
    }

    fn choice(&self) -> Option<Choice> {
        Some(Choice {
            accelerator: self.accelerator,
            why: "of a test".to_owned(),
        })
    }

    fn append_to_console(&self, id: &InstanceId, line: &str) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.push(format!("{id} {line}"));
    }

    fn console(&self, _id: &InstanceId) -> Vec<u8> {
        Vec::new()
    }

    fn forget(&self, id: &InstanceId) {
        self.guests().remove(id);
    }

    fn pid(&self, _id: &InstanceId) -> Option<u32> {
        None
    }
}
