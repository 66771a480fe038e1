//! Counters of the faults that the HTTP server injects: which request is refused, which answer is dropped.
//!
//! The counters end with the daemon. What is set durably is in `faults`; the server refuses requests and drops answers.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The counters.
#[derive(Debug, Default)]
pub(crate) struct FaultCounters(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Requests since the last refused one, by service.
    passed: BTreeMap<String, u32>,
    /// Answers still to be dropped, by service and action.
    to_lose: BTreeMap<(String, String), u32>,
}

impl FaultCounters {
    /// Counts a request to `service`, of which every `every`th is refused (none when 0); returns whether this is one.
    pub(crate) fn refuses(&self, service: &str, every: u32) -> bool {
        if every == 0 {
            return false;
        }
        let mut counts = self.lock();
        let passed = counts.passed.entry(service.to_owned()).or_default();
        *passed += 1;
        let refused = *passed >= every;
        if refused {
            *passed = 0;
        }
        refused
    }

    /// Has the next `times` answers to an action dropped.
    pub(crate) fn lose(&self, service: &str, action: &str, times: u32) {
        let key = (service.to_owned(), action.to_owned());
        let mut counts = self.lock();
        if times == 0 {
            counts.to_lose.remove(&key);
        } else {
            counts.to_lose.insert(key, times);
        }
    }

    /// Whether to drop the answer to this action; counts it off if so.
    pub(crate) fn loses(&self, service: &str, action: &str) -> bool {
        let mut counts = self.lock();
        let key = (service.to_owned(), action.to_owned());
        let Some(left) = counts.to_lose.get_mut(&key) else {
            return false;
        };
        *left -= 1;
        if *left == 0 {
            counts.to_lose.remove(&key);
        }
        true
    }

    /// Answers still to be dropped, by `service.Action`.
    pub(crate) fn to_lose(&self) -> Vec<(String, u32)> {
        self.lock()
            .to_lose
            .iter()
            .map(|((service, action), left)| (format!("{service}.{action}"), *left))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nth_request_of_a_service_is_refused() {
        let faults = FaultCounters::default();
        for (every, expected) in [
            (0, [false; 6]),
            (1, [true; 6]),
            (3, [false, false, true, false, false, true]),
        ] {
            let refused: Vec<bool> = (0..6).map(|_| faults.refuses("ec2", every)).collect();
            assert_eq!(refused, expected, "every {every}");
        }
        assert!(!faults.refuses("ec2", 2));
        assert!(!faults.refuses("ssm", 2), "services are counted apart");
        assert!(faults.refuses("ec2", 2));
    }

    #[test]
    fn exactly_the_requested_answers_are_dropped() {
        let faults = FaultCounters::default();
        faults.lose("ec2", "RunInstances", 2);
        assert_eq!(faults.to_lose(), [("ec2.RunInstances".to_owned(), 2)]);
        assert!(!faults.loses("ec2", "CreateImage"));
        assert!(faults.loses("ec2", "RunInstances"));
        assert!(faults.loses("ec2", "RunInstances"));
        assert!(!faults.loses("ec2", "RunInstances"));
        assert_eq!(faults.to_lose(), []);
        faults.lose("ec2", "RunInstances", 1);
        faults.lose("ec2", "RunInstances", 0);
        assert!(!faults.loses("ec2", "RunInstances"));
    }
}
