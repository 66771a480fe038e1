//! When each of the agent's recurring duties is next due: a timetable with backoff and jitter.
//!
//! Pure: the caller passes the time. What a duty means is defined in [`crate::lifecycle`].

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

/// Everything the agent does repeatedly. Each runs at most once at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Duty {
    /// Read the instance's identity and the settings.
    Identify,
    /// Check the services.
    Check,
    /// Read the target lifecycle state.
    TargetState,
    /// Read Spot's notices.
    Spot,
    /// Read the scheduled events.
    Schedule,
    /// Read the instance's membership of its group.
    Membership,
    /// Read the group's hooks.
    Hooks,
    /// Answer the hook that is waiting.
    Answer,
    /// Send a heartbeat for the hook that is waiting.
    Heartbeat,
    /// Write or remove the registry record.
    Record,
    /// Read which target groups the group manages itself.
    Attached,
    /// Register with the target groups that the agent manages.
    Register,
    /// Deregister from them.
    Deregister,
    /// Read the instance's target health.
    Traffic,
    /// Request a restart of the failing services.
    Restart,
    /// Read the health of the group's other instances.
    Peers,
    /// Ask the group to replace this instance.
    Report,
    /// Ask the services whether they are still busy.
    DrainCheck,
}

/// The first pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause: under a third of the shortest timeout a hook can have (30 s), so that an API
/// that comes back is used in time.
const LONGEST_PAUSE: Duration = Duration::from_secs(9);

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    due: Option<Instant>,
    under_way: bool,
    /// Removed from the timetable while it was running: it is not retried.
    dropped: bool,
    failures: u32,
}

/// The timetable.
#[derive(Debug)]
pub(crate) struct Duties {
    slots: BTreeMap<Duty, Slot>,
    seed: u64,
    draws: u64,
}

impl Duties {
    /// An empty timetable. The seed spreads the instances of a fleet over time.
    pub(crate) fn new(seed: &str) -> Self {
        Self {
            slots: BTreeMap::new(),
            seed: hash(seed),
            draws: 0,
        }
    }

    /// Spreads by the instance's id once it is known.
    pub(crate) fn reseed(&mut self, seed: &str) {
        self.seed = hash(seed);
    }

    /// Makes a duty due at `when`, or earlier if it already is.
    pub(crate) fn at(&mut self, duty: Duty, when: Instant) {
        let slot = self.slots.entry(duty).or_default();
        slot.due = Some(slot.due.map_or(when, |due| due.min(when)));
        slot.dropped = false;
    }

    /// Removes a duty from the timetable. One that is running still ends, but is not retried if it fails.
    pub(crate) fn drop(&mut self, duty: Duty) {
        if let Some(slot) = self.slots.get_mut(&duty) {
            slot.due = None;
            slot.failures = 0;
            slot.dropped = slot.under_way;
        }
    }

    /// Whether a duty is due at some time, or under way.
    pub(crate) fn has(&self, duty: Duty) -> bool {
        self.slots
            .get(&duty)
            .is_some_and(|slot| slot.due.is_some() || slot.under_way)
    }

    /// How often in a row a duty has failed.
    pub(crate) fn failures(&self, duty: Duty) -> u32 {
        self.slots.get(&duty).map_or(0, |slot| slot.failures)
    }

    /// The duties that are due now; they are under way from here on.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<Duty> {
        let mut taken = Vec::new();
        for (duty, slot) in &mut self.slots {
            if !slot.under_way && slot.due.is_some_and(|due| due <= now) {
                slot.due = None;
                slot.under_way = true;
                taken.push(*duty);
            }
        }
        taken
    }

    /// The next time anything is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.slots
            .values()
            .filter(|slot| !slot.under_way)
            .filter_map(|slot| slot.due)
            .min()
    }

    /// A duty succeeded.
    pub(crate) fn done(&mut self, duty: Duty) {
        let slot = self.slots.entry(duty).or_default();
        slot.under_way = false;
        slot.dropped = false;
        slot.failures = 0;
    }

    /// A duty failed. It is retried after a pause that doubles, half of it jitter, unless it was removed meanwhile.
    pub(crate) fn failed(&mut self, duty: Duty, now: Instant) {
        let jitter = self.jitter();
        let slot = self.slots.entry(duty).or_default();
        slot.under_way = false;
        if std::mem::take(&mut slot.dropped) {
            return;
        }
        let pause = (FIRST_PAUSE * 2_u32.saturating_pow(slot.failures.min(8))).min(LONGEST_PAUSE);
        slot.failures = slot.failures.saturating_add(1);
        slot.due = Some(now + pause.mul_f64(0.5 + jitter / 2.0));
    }

    /// A duty with its own retry times failed. It is retried at `again`, unless it was removed meanwhile.
    pub(crate) fn failed_until(&mut self, duty: Duty, again: Instant) {
        let slot = self.slots.entry(duty).or_default();
        slot.under_way = false;
        if !std::mem::take(&mut slot.dropped) {
            slot.due = Some(again);
        }
    }

    /// Evenly spread over 0..1, the same sequence for the same seed.
    pub(crate) fn jitter(&mut self) -> f64 {
        self.draws = self.draws.wrapping_add(1);
        let mut hasher = DefaultHasher::new();
        (self.seed, self.draws).hash(&mut hasher);
        f64::from(u32::try_from(hasher.finish() >> 32).unwrap_or(0)) / f64::from(u32::MAX)
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_back_off_to_a_limit_and_success_forgets_them() {
        let mut duties = Duties::new("i-1");
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            duties.at(Duty::Answer, now);
            assert_eq!(duties.take_due(now), [Duty::Answer]);
            duties.failed(Duty::Answer, now);
            let due = duties.next().unwrap();
            pauses.push(due - now);
            now = due;
        }
        assert!(pauses[0] >= FIRST_PAUSE / 2 && pauses[0] <= FIRST_PAUSE);
        assert!(pauses.iter().all(|pause| *pause <= LONGEST_PAUSE));
        assert!(pauses[6] >= LONGEST_PAUSE / 2);
        assert_eq!(duties.take_due(now), [Duty::Answer]);
        duties.done(Duty::Answer);
        assert_eq!(duties.failures(Duty::Answer), 0);
        assert_eq!(duties.next(), None);
    }

    #[test]
    fn a_duty_is_under_way_once_and_the_earlier_time_wins() {
        let mut duties = Duties::new("i-1");
        let now = Instant::now();
        duties.at(Duty::Check, now + Duration::from_secs(9));
        duties.at(Duty::Check, now);
        duties.at(Duty::Check, now + Duration::from_secs(9));
        assert_eq!(duties.take_due(now), [Duty::Check]);
        duties.at(Duty::Check, now);
        assert_eq!(duties.take_due(now), []);
        assert_eq!(duties.next(), None);
        duties.done(Duty::Check);
        assert_eq!(duties.take_due(now), [Duty::Check]);
    }

    #[test]
    fn two_instances_do_not_beat_together() {
        let draw = |seed| Duties::new(seed).jitter();
        assert_ne!(draw("i-1").to_bits(), draw("i-2").to_bits());
        let mut duties = Duties::new("i-1");
        assert!(
            (0..1000)
                .map(|_| duties.jitter())
                .all(|x| (0.0..=1.0).contains(&x))
        );
    }
}
