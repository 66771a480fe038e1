//! A fleet of ten thousand on a virtual clock: who runs what, when.
//!
//! Every instance looks at the channel as its timer makes it: every quarter of an hour and its own delay. Looks of
//! which the decision itself shows that they have no effect are left out, which is what makes six days of
//! ten thousand instances a matter of a second.

use super::*;

const INSTANCES: u32 = 10_000;

/// The timer: `OnUnitInactiveSec=15min` and up to `RandomizedDelaySec=5min`, fixed for each instance.
const PERIOD: i64 = 15 * 60;
const DELAY: i64 = 5 * 60;

/// A trial, from its start to its end.
const TRIAL: i64 = 150;

struct Host {
    id: String,
    /// Seconds from one check to the next.
    period: i64,
    current: Build,
    skipped: Vec<Skipped>,
    floor: Option<Version>,
    /// How far the instance's own clock is ahead, in seconds.
    skew: i64,
    /// Its next check, in seconds after hour 0.
    next: i64,
}

/// A trial that began.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Start {
    at: i64,
    host: usize,
    version: Version,
    ok: bool,
}

/// The channel's contents from a moment on.
struct Published {
    from: i64,
    offers: Vec<Offer>,
}

struct Fleet {
    hosts: Vec<Host>,
    starts: Vec<Start>,
}

fn seconds(now: Timestamp) -> i64 {
    now.as_second() - hour(0).as_second()
}

fn moment(seconds: i64) -> Timestamp {
    hour(0) + SignedDuration::from_secs(seconds)
}

impl Fleet {
    fn new(count: u32, on: &str) -> Self {
        let host = |number: u32| {
            let delay = i64::from(number.wrapping_mul(2_654_435_761) >> 8) % DELAY;
            Host {
                id: format!(
                    "i-{:017x}",
                    u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15)
                ),
                period: PERIOD + delay,
                current: build(on),
                skipped: Vec::new(),
                floor: None,
                skew: 0,
                // They did not boot together.
                next: i64::from(number.wrapping_mul(40_503) % 65_536) * PERIOD / 65_536,
            }
        };
        Self {
            hosts: (0..count).map(host).collect(),
            starts: Vec::new(),
        }
    }

    /// Advances the time to `end`. `fails` decides which trials fail.
    fn run(&mut self, published: &[Published], end: i64, fails: impl Fn(usize, &Version) -> bool) {
        for (index, host) in self.hosts.iter_mut().enumerate() {
            while host.next < end {
                let at = host.next;
                let Some(word) = published.iter().rev().find(|word| word.from <= at) else {
                    host.look_after(published[0].from);
                    continue;
                };
                let changes = published
                    .iter()
                    .map(|word| word.from)
                    .find(|from| *from > at);
                let local = at + host.skew;
                // Metadata is signed anew every hour for a day: to a clock beyond that it has expired.
                if local > at + 24 * 3600 {
                    host.look_after(at);
                    continue;
                }
                let windows = Windows::default();
                let view = View {
                    instance_id: &host.id,
                    arch: ARCH,
                    channel: "stable",
                    offers: &word.offers,
                    current: &host.current,
                    hold: None,
                    pin: None,
                    skipped: &host.skipped,
                    floor: host.floor.as_ref(),
                    windows: &windows,
                    failures: &[],
                    requested_at: None,
                    first_boot: false,
                    withheld: None,
                };
                let (decision, floor) = (decide(&view, moment(local)), floor(&view));
                host.floor = floor;
                let (Decision::Update { offer, .. } | Decision::Rollback { offer, .. }) = &decision
                else {
                    let wave = match decision {
                        Decision::WaitWave { at, .. } => Some(seconds(at) - host.skew),
                        _ => None,
                    };
                    let wake = [wave, changes].into_iter().flatten().min();
                    host.look_after(wake.unwrap_or(end));
                    continue;
                };
                let version = offer.release.version.clone();
                let build = Build {
                    version: version.clone(),
                    digest: offer.digest.clone(),
                };
                let ok = !fails(index, &version);
                if ok {
                    host.current = build;
                } else {
                    let reason = "it crashed".to_owned();
                    host.skipped.push(Skipped {
                        build,
                        reason,
                        at: moment(at),
                        attempts: Some(3),
                    });
                }
                self.starts.push(Start {
                    at,
                    host: index,
                    version,
                    ok,
                });
                host.look_after(at + TRIAL);
            }
        }
    }

    fn on(&self, version: &str) -> usize {
        self.hosts
            .iter()
            .filter(|host| host.current == build(version))
            .count()
    }

    /// Instances that ever tried a version, in order of their number.
    fn tried(&self, version: &str) -> Vec<usize> {
        let version = super::version(version);
        let tried = self.starts.iter().filter(|start| start.version == version);
        let mut hosts: Vec<usize> = tried.map(|start| start.host).collect();
        hosts.sort_unstable();
        hosts.dedup();
        hosts
    }

    /// The most trials that began within any minute of the clock.
    fn busiest_minute(&self) -> usize {
        let mut minutes = BTreeMap::new();
        for start in &self.starts {
            *minutes.entry(start.at / 60).or_insert(0) += 1;
        }
        minutes.into_values().max().unwrap_or(0)
    }
}

impl Host {
    /// Its first check after the current one that is not before `moment`.
    fn look_after(&mut self, moment: i64) {
        let periods = (moment - self.next).max(1).div_euclid(self.period);
        self.next += periods.max(1) * self.period;
        if self.next < moment {
            self.next += self.period;
        }
    }
}

/// What a share of the fleet may be off by: four standard deviations of drawing so many instances.
fn tolerance(percent: u8) -> f64 {
    let share = f64::from(percent) / 100.0;
    4.0 * (f64::from(INSTANCES) * share * (1.0 - share)).sqrt() + 1.0
}

const DAY: i64 = 24 * 3600;

/// Six days, as Bottlerocket does it.
const WAVES: [(u8, i64); 7] = [
    (1, 0),
    (5, 24),
    (15, 48),
    (40, 72),
    (60, 96),
    (90, 120),
    (100, 144),
];

#[test]
fn each_wave_reaches_its_share_evenly_spread() {
    let mut fleet = Fleet::new(INSTANCES, "1.0.0");
    let published = [Published {
        from: 0,
        offers: vec![offer("1.1.0").waves(&WAVES)],
    }];
    let mut last = 0;
    for (number, (percent, _)) in WAVES.iter().enumerate() {
        // Until the next wave, and the last check of this one's last instance.
        let end = (i64::try_from(number).unwrap() + 1) * DAY;
        fleet.run(&published, end, |_, _| false);
        let reached = fleet.on("1.1.0");
        let off = (f64::from(*percent) / 100.0).mul_add(-f64::from(INSTANCES), reached as f64);
        assert!(
            off.abs() <= tolerance(*percent) + 50.0,
            "{reached} at {percent} %"
        );
        assert!(reached > last);
        last = reached;
        // Exactly those whose place it is.
        let digest = build("1.1.0").digest;
        for host in fleet
            .hosts
            .iter()
            .filter(|host| host.current == build("1.1.0"))
        {
            let place = u32::from(position(&digest, &host.id));
            assert!(
                place * 100 < u32::from(*percent) * u32::from(POSITIONS),
                "{}",
                host.id
            );
        }
    }
    fleet.run(&published, 7 * DAY + 3600, |_, _| false);
    assert_eq!(fleet.on("1.1.0"), INSTANCES as usize);
    // An instance takes it once, and the busiest day brings 3,000 instances, two a minute.
    assert_eq!(fleet.starts.len(), INSTANCES as usize);
    let busiest = fleet.busiest_minute();
    assert!(busiest <= 15, "{busiest} in a minute");
}

#[test]
fn a_release_without_waves_is_spread_by_the_timers() {
    let mut fleet = Fleet::new(INSTANCES, "1.0.0");
    fleet.run(
        &[Published {
            from: 3600,
            offers: vec![offer("1.1.0")],
        }],
        2 * 3600,
        |_, _| false,
    );
    assert_eq!(fleet.on("1.1.0"), INSTANCES as usize);
    let busiest = fleet.busiest_minute();
    assert!(busiest <= 1_000, "{busiest} in a minute");
}

#[test]
fn every_release_has_other_canaries() {
    let digests = [build("1.1.0").digest, build("1.2.0").digest];
    let canaries = digests.map(|digest| {
        let ids = Fleet::new(INSTANCES, "1.0.0")
            .hosts
            .into_iter()
            .map(|host| host.id);
        let first = ids.filter(|id| position(&digest, id) < POSITIONS / 20);
        first.collect::<std::collections::BTreeSet<_>>()
    });
    let [one, two] = &canaries;
    let both = one.intersection(two).count();
    // Five in a hundred of five in a hundred: 25.
    assert!(
        one.len() > 400 && two.len() > 400,
        "{} {}",
        one.len(),
        two.len()
    );
    assert!(both < 50, "{both} of {} are canaries twice", one.len());
}

#[test]
fn a_bad_release_stays_in_its_first_wave_and_is_reverted() {
    let mut fleet = Fleet::new(INSTANCES, "1.1.0");
    let waves = [(5, 0), (25, 24), (100, 48)];
    let good = || offer("1.1.0").floor("1.1.0");
    let withdrawn_at = 20 * 3600;
    let published = [
        Published {
            from: 0,
            offers: vec![offer("1.0.0"), good(), offer("1.2.0").waves(&waves)],
        },
        Published {
            from: withdrawn_at,
            offers: vec![
                offer("1.0.0"),
                good(),
                offer("1.2.0").waves(&waves).withdrawn(Some("1.1.0")),
            ],
        },
        Published {
            from: 30 * 3600,
            offers: vec![
                good(),
                offer("1.2.0").waves(&waves).withdrawn(Some("1.1.0")),
                offer("1.3.0"),
            ],
        },
    ];
    // A third of the instances sees at once that it is bad.
    let fails = |host: usize, version: &Version| {
        host.is_multiple_of(3) && *version == super::version("1.2.0")
    };
    fleet.run(&published, withdrawn_at, fails);
    let tried = fleet.tried("1.2.0");
    let digest = build("1.2.0").digest;
    for host in &tried {
        let place = position(&digest, &fleet.hosts[*host].id);
        assert!(place < 103, "{place} is beyond the first wave");
    }
    let ran = fleet.on("1.2.0");
    assert!(
        (200..=400).contains(&ran),
        "{ran} of {} kept it",
        tried.len()
    );
    // One round of the timers after the withdrawal, every instance is back, and no other has tried it.
    fleet.run(&published, withdrawn_at + PERIOD + DELAY, fails);
    assert_eq!(
        (fleet.on("1.1.0"), fleet.on("1.2.0")),
        (INSTANCES as usize, 0)
    );
    fleet.run(&published, 30 * 3600, fails);
    assert_eq!(fleet.tried("1.2.0"), tried);
    assert_eq!(fleet.tried("1.0.0"), [0_usize; 0]);
    // No instance tried it twice (I5) or changed more than there and back.
    assert_eq!(fleet.starts.len(), tried.len() + ran);
    // The release that fixes it reaches every instance.
    fleet.run(&published, 31 * 3600, fails);
    assert_eq!(fleet.on("1.3.0"), INSTANCES as usize);
}

#[test]
fn wrong_clocks_neither_update_early_nor_stop_updates() {
    let count = 1_000;
    let mut fleet = Fleet::new(count, "1.0.0");
    let years = 10 * 365 * DAY;
    let skews = [-years, -3600, 0, 3600, years];
    for (host, skew) in fleet.hosts.iter_mut().zip(skews.iter().cycle()) {
        host.skew = *skew;
    }
    let waves = [(50, 24), (100, 48)];
    let published = [Published {
        from: 0,
        offers: vec![offer("1.1.0").waves(&waves)],
    }];
    fleet.run(&published, 24 * 3600, |_, _| false);
    // A clock ahead by less than the metadata lives comes early by as much.
    let early =
        |start: &Start| start.at + 3600 >= 24 * 3600 && fleet.hosts[start.host].skew == 3600;
    assert!(fleet.starts.iter().all(early), "{:?}", fleet.starts);
    fleet.run(&published, 72 * 3600, |_, _| false);
    let on = |fleet: &Fleet, skew| {
        let these = fleet.hosts.iter().filter(|host| host.skew == skew);
        these.filter(|host| host.current == build("1.1.0")).count()
    };
    assert_eq!((on(&fleet, 0), on(&fleet, 3600)), (200, 200));
    // Years behind it is not yet time, years ahead nothing is fresh: both serve on as they are.
    assert_eq!((on(&fleet, -years), on(&fleet, years)), (0, 0));
    // The clocks are set right: within one round of the timers everybody has it.
    for host in &mut fleet.hosts {
        host.skew = 0;
        host.next = 72 * 3600 + host.next % PERIOD;
    }
    fleet.run(&published, 72 * 3600 + 2 * (PERIOD + DELAY), |_, _| false);
    assert_eq!(fleet.on("1.1.0"), count as usize);
}
