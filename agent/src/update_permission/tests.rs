//! Requests and answers on a simulated clock.

use super::*;

struct Counter {
    permission: UpdatePermission,
    start: Instant,
    clock: Timestamp,
    asked: Vec<u64>,
    refreshes: Result<Option<String>, NoAnswer>,
}

impl Counter {
    fn new() -> Self {
        Self {
            permission: UpdatePermission::default(),
            start: Instant::now(),
            clock: Timestamp::from_second(1_800_000_000).unwrap(),
            asked: Vec::new(),
            refreshes: Ok(None),
        }
    }

    fn clock(&self, second: u64) -> Timestamp {
        self.clock + SignedDuration::from_secs(second.cast_signed())
    }

    fn consider(&mut self, second: u64, readiness: Readiness) -> Option<(bool, &str)> {
        let (now, clock) = (self.start + Duration::from_secs(second), self.clock(second));
        if self
            .permission
            .consider(readiness.clone(), Some("fleet"), now, clock)
            .is_some()
        {
            self.asked.push(second);
            self.permission.refreshes_seen(self.refreshes.clone());
            assert_eq!(
                self.permission
                    .consider(readiness, Some("fleet"), now, clock),
                None
            );
        }
        let answer = self.permission.answer();
        answer.map(|leave| (leave.granted, leave.reason.as_str()))
    }
}

#[test]
fn without_a_request_nothing_is_queried_or_answered() {
    let mut counter = Counter::new();
    for second in 0..600 {
        assert_eq!(
            counter.consider(second, Readiness::Settled),
            None,
            "{second}"
        );
    }
    assert!(counter.asked.is_empty());
}

#[test]
fn the_group_is_queried_at_most_once_a_minute_and_decides() {
    let mut counter = Counter::new();
    counter.permission.set_request(Some(counter.clock));
    assert_eq!(counter.consider(0, Readiness::Settled), Some((true, "")));
    counter.refreshes = Ok(Some("r-1".into()));
    for second in 1..60 {
        assert_eq!(
            counter.consider(second, Readiness::Settled),
            Some((true, "")),
            "{second}"
        );
    }
    assert_eq!(
        counter.consider(60, Readiness::Settled),
        Some((false, "refresh r-1 of group fleet is under way"))
    );
    counter.refreshes = Err(NoAnswer);
    assert_eq!(
        counter.consider(125, Readiness::Settled),
        Some((false, "cannot read whether group fleet is being refreshed"))
    );
    assert_eq!(counter.asked, [0, 60, 125]);
}

#[test]
fn a_busy_instance_refuses_without_a_query() {
    let mut counter = Counter::new();
    counter.permission.set_request(Some(counter.clock));
    assert_eq!(counter.consider(1, Readiness::NotKnown), None);
    let busy = || Readiness::Busy("this instance is draining".into());
    assert_eq!(
        counter.consider(2, busy()),
        Some((false, "this instance is draining"))
    );
    assert!(counter.asked.is_empty());
}

#[test]
fn every_request_gets_its_own_answer_and_an_old_one_none() {
    let mut counter = Counter::new();
    counter.permission.set_request(Some(counter.clock(0)));
    counter.consider(1, Readiness::Settled);
    assert_eq!(counter.permission.answer().unwrap().at, counter.clock(1));
    counter.consider(2, Readiness::Settled);
    assert_eq!(
        counter.permission.answer().unwrap().at,
        counter.clock(1),
        "reported once"
    );
    counter.permission.set_request(Some(counter.clock(10)));
    counter.consider(11, Readiness::Settled);
    assert_eq!(counter.permission.answer().unwrap().at, counter.clock(11));
    assert_eq!(
        counter.consider(311, Readiness::Settled),
        None,
        "left behind"
    );
    counter.permission.set_request(Some(counter.clock(10_000)));
    assert_eq!(
        counter.consider(312, Readiness::Settled),
        None,
        "from a wrong clock"
    );
    counter.permission.set_request(None);
    assert_eq!(counter.consider(313, Readiness::Settled), None);
    assert_eq!(counter.asked.len(), 1);
}

#[test]
fn without_a_group_no_query_is_made() {
    let mut permission = UpdatePermission::default();
    let clock = Timestamp::from_second(1_800_000_000).unwrap();
    permission.set_request(Some(clock));
    assert_eq!(
        permission.consider(Readiness::Settled, None, Instant::now(), clock),
        None
    );
    assert!(permission.answer().unwrap().granted);
}
