//! One instance by itself, then ten thousand against one quota on a virtual clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;

fn after(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

#[test]
fn a_single_instance_writes_at_once_and_then_within_a_minute() {
    let (start, mut pace) = (Instant::now(), Pace::default());
    assert!(pace.passing(start, 0.9).unwrap() >= after(start, 20));
    assert_eq!(pace.verdict(after(start, 4), 0.9), Some(after(start, 4)));
    pace.begun(after(start, 4));
    assert!(!pace.is_kept());
    let again = pace.written(after(start, 5), 0.5);
    assert!(pace.is_kept() && again > after(start, 20 * 3600) && again < after(start, 25 * 3600));
    let due = pace.verdict(after(start, 100), 1.0).unwrap();
    assert_eq!(due, after(start, 160));
    assert_eq!(
        pace.change(Urgency::Detail, due, 0.0),
        None,
        "it goes along"
    );
}

#[test]
fn changes_while_a_write_is_under_way_are_written_after_it() {
    let (start, mut pace) = (Instant::now(), Pace::default());
    pace.verdict(start, 0.0);
    pace.begun(start);
    assert!(pace.change(Urgency::Detail, start, 0.0).is_some());
    pace.written(start, 0.0);
    assert!(!pace.is_kept());
    pace.begun(start);
    // What was refused counts with what came meanwhile.
    pace.verdict(start, 0.0);
    pace.refused(start, 0.0);
    assert_eq!(pace.pending, Some(Urgency::News));
}

#[test]
fn a_restart_writes_nothing_that_is_written() {
    let (start, mut pace) = (Instant::now(), Pace::default());
    assert!(pace.resume(true, start, 0.0).unwrap() >= after(start, 20 * 3600));
    assert!(pace.is_kept());
    let mut pace = Pace::default();
    assert!(pace.resume(false, start, 1.0).unwrap() <= after(start, 60));
    assert!(!pace.is_kept());
}

const HOSTS: usize = 10_000;

/// `PutParameter` calls a second, for one account and region.
const QUOTA: f64 = 3.0;

struct Host {
    pace: Pace,
    due: Option<u64>,
    version: u32,
}

/// The fleet, its clock in milliseconds, and the parameter store's throttle: a bucket that holds one
/// second's worth.
struct Fleet {
    start: Instant,
    now: u64,
    hosts: Vec<Host>,
    timetable: BinaryHeap<Reverse<(u64, usize, bool)>>,
    bucket: f64,
    filled: u64,
    dice: u64,
    /// Calls and refusals by minute.
    calls: Vec<u32>,
    throttled: Vec<u32>,
}

impl Fleet {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            now: 0,
            hosts: (0..HOSTS)
                .map(|_| Host {
                    pace: Pace::default(),
                    due: None,
                    version: 0,
                })
                .collect(),
            timetable: BinaryHeap::new(),
            bucket: QUOTA,
            filled: 0,
            dice: 0x9e37_79b9_7f4a_7c15,
            calls: Vec::new(),
            throttled: Vec::new(),
        }
    }

    /// A fleet that has been up for long: every record is written.
    fn settled() -> Self {
        let mut fleet = Self::new();
        for host in &mut fleet.hosts {
            host.pace.resume(true, fleet.start, 0.0);
        }
        fleet
    }

    fn roll(&mut self) -> f64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        f64::from(u32::try_from(self.dice >> 32).unwrap()) / f64::from(u32::MAX)
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_millis(self.now)
    }

    fn put_down(&mut self, at: usize, due: Option<Instant>) {
        if let Some(due) = due {
            let due = u64::try_from((due - self.start).as_millis()).unwrap();
            if self.hosts[at].due.is_none_or(|old| due < old) {
                self.hosts[at].due = Some(due);
                self.timetable.push(Reverse((due, at, true)));
            }
        }
    }

    /// Something happens to a host at a second.
    fn happens(&mut self, second: f64, at: usize) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a test's clock"
        )]
        let when = (second * 1000.0) as u64;
        self.timetable.push(Reverse((when, at, false)));
    }

    fn minute(&self) -> usize {
        usize::try_from(self.now / 60_000).unwrap()
    }

    fn run(&mut self, hours: usize) {
        (self.calls, self.throttled) = (vec![0; hours * 60], vec![0; hours * 60]);
        let end = u64::try_from(hours).unwrap() * 3_600_000;
        while let Some(Reverse((when, at, write))) = self.timetable.pop() {
            if when >= end {
                break;
            }
            self.now = when;
            let (now, dice) = (self.instant(), self.roll());
            if !write {
                self.hosts[at].version += 1;
                let due = self.hosts[at].pace.verdict(now, dice);
                self.put_down(at, due);
                continue;
            }
            if self.hosts[at].due != Some(when) {
                continue; // It was put forward.
            }
            self.hosts[at].due = None;
            self.hosts[at].pace.begun(now);
            let minute = self.minute();
            self.calls[minute] += 1;
            #[expect(clippy::cast_precision_loss, reason = "a test's clock")]
            let passed = (when - self.filled) as f64 / 1000.0;
            self.bucket = (self.bucket + passed * QUOTA).min(QUOTA);
            self.filled = when;
            let due = if self.bucket >= 1.0 {
                self.bucket -= 1.0;
                self.hosts[at].pace.written(now, dice)
            } else {
                self.throttled[minute] += 1;
                self.hosts[at].pace.refused(now, dice)
            };
            self.put_down(at, Some(due));
        }
        self.now = end;
    }

    fn unwritten(&self) -> usize {
        self.hosts
            .iter()
            .filter(|host| !host.pace.is_kept())
            .count()
    }

    /// The busiest minute from one on, in calls a second.
    fn peak(&self, from: usize) -> f64 {
        f64::from(*self.calls[from..].iter().max().unwrap()) / 60.0
    }

    fn total(&self) -> (u32, u32) {
        (self.calls.iter().sum(), self.throttled.iter().sum())
    }
}

#[test]
fn ten_thousand_idle_instances_stay_below_the_quota() {
    let mut fleet = Fleet::new();
    for at in 0..HOSTS {
        let dice = fleet.roll();
        let now = fleet.start;
        let due = fleet.hosts[at].pace.resume(true, now, dice);
        fleet.put_down(at, due);
    }
    fleet.run(72);
    // Three days, three refreshes each, in four hours of the first day and thinner after.
    let (calls, _) = fleet.total();
    assert!((20_000..=40_000).contains(&calls), "{calls}");
    assert!(fleet.peak(0) <= QUOTA / 3.0 * 1.5, "{}", fleet.peak(0));
}

#[test]
fn a_rolling_change_stays_below_the_quota() {
    // A release whose waves take four hours restarts every agent with another version.
    let mut fleet = Fleet::settled();
    for at in 0..HOSTS {
        let when = fleet.roll() * 4.0 * 3600.0;
        fleet.happens(when, at);
    }
    fleet.run(5);
    assert_eq!(fleet.unwritten(), 0);
    assert!(fleet.peak(0) < QUOTA / 2.0, "{}", fleet.peak(0));
}

#[test]
fn flapping_services_stay_below_the_quota() {
    // Every instance changes its verdict every five minutes for eight hours: 33 changes a second.
    let mut fleet = Fleet::settled();
    for at in 0..HOSTS {
        let first = fleet.roll() * 3600.0;
        for change in 0..96 {
            fleet.happens(first + f64::from(change) * 300.0, at);
        }
    }
    fleet.run(9);
    // In the first hours every instance spends what it had saved; from then on it has its share.
    assert!(fleet.peak(0) <= 3.0 * QUOTA, "{}", fleet.peak(0));
    assert!(fleet.peak(240) <= QUOTA, "{}", fleet.peak(240));
}

#[test]
fn a_boot_storm_is_written_in_the_time_the_quota_needs() {
    // RunInstances: a thousand instances at once, two a second from then on. Boots differ by half a
    // minute.
    let mut fleet = Fleet::new();
    for at in 0..HOSTS {
        let launched = f64::from(u32::try_from(at.saturating_sub(1000)).unwrap()) / 2.0;
        let when = launched + fleet.roll() * 30.0;
        fleet.happens(when, at);
    }
    fleet.run(5);
    assert_eq!(fleet.unwritten(), 0);
    // Beyond the first minutes, whose thousand instances no spreading could bring below the quota.
    assert!(fleet.peak(8) <= QUOTA * 1.1, "{}", fleet.peak(8));
    let (calls, throttled) = fleet.total();
    assert!(throttled < calls / 3, "{throttled} of {calls}");
}

#[test]
fn an_outage_everywhere_is_below_the_quota_within_minutes() {
    // No spreading brings ten thousand changes in fifteen seconds below three a second: that takes 56
    // minutes at best. What can be done is to stop hammering at once, and to get there.
    let mut fleet = Fleet::settled();
    for at in 0..HOSTS {
        let when = fleet.roll() * 15.0;
        fleet.happens(when, at);
    }
    fleet.run(8);
    assert_eq!(fleet.unwritten(), 0);
    assert!(fleet.peak(7) <= QUOTA * 1.1, "{}", fleet.peak(7));
    let (calls, _) = fleet.total();
    assert!(calls < 5 * u32::try_from(HOSTS).unwrap(), "{calls}");
}
