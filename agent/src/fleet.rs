//! The other instances of the group, which an unfit instance checks before it asks to be replaced.
//!
//! One failed dependency makes a whole fleet unfit at once, and replacing instances then turns a disturbance into an
//! outage. This module chooses the sample and evaluates it; it makes no calls.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use contract::registry::{Record, Verdict};

/// Most records of peers that are read: three calls of ten names each, which is what GetParameters takes. Enough to
/// distinguish a share of 20 % from one of 40 % in a fleet of any size.
const SAMPLE: usize = 30;

/// A group, from `DescribeAutoScalingGroups`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fleet {
    /// Every instance of the group, including this one.
    pub(crate) members: Vec<Member>,
    /// The target groups that are attached to the group.
    pub(crate) target_groups: Vec<String>,
}

/// One instance of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// `i-…`
    pub(crate) instance: String,
    /// Whether its health status in the group is unhealthy: it is being replaced.
    pub(crate) reported: bool,
}

/// The health of the peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peers {
    /// All of them.
    pub(crate) total: usize,
    /// Those the group is replacing already.
    pub(crate) reported: usize,
    /// Those whose records were requested.
    pub(crate) asked: usize,
    /// Those of the sample that are unfit or being replaced.
    pub(crate) sick: usize,
}

impl Fleet {
    /// The peers whose records are read. Each instance draws its own sample, the same one every time.
    pub(crate) fn sample<'a>(&'a self, me: &'a str) -> Vec<&'a Member> {
        let lot = |member: &Member| {
            let mut hasher = DefaultHasher::new();
            (me, &member.instance).hash(&mut hasher);
            hasher.finish()
        };
        let mut peers: Vec<&Member> = self.peers(me).collect();
        peers.sort_by_key(|member| lot(member));
        peers.truncate(SAMPLE);
        peers
    }

    fn peers<'a>(&'a self, me: &'a str) -> impl Iterator<Item = &'a Member> {
        self.members
            .iter()
            .filter(move |member| member.instance != me)
    }

    /// Evaluates the records of the sample, by instance. A peer without a readable record counts as fit: it may be
    /// too young to have one.
    pub(crate) fn weigh(&self, me: &str, records: &BTreeMap<String, String>) -> Peers {
        let unfit = |member: &Member| {
            records
                .get(&member.instance)
                .and_then(|json| serde_json::from_str::<Record>(json).ok())
                .is_some_and(|record| record.readable() && record.verdict == Verdict::Unfit)
        };
        let sample = self.sample(me);
        let sick = sample.iter().filter(|peer| peer.reported || unfit(peer));
        Peers {
            total: self.peers(me).count(),
            reported: self.peers(me).filter(|peer| peer.reported).count(),
            asked: sample.len(),
            sick: sick.count(),
        }
    }
}

impl Peers {
    /// Why an instance should not ask to be replaced now: more than `percent` of its peers are unfit or being
    /// replaced as well.
    pub(crate) fn holds_back(&self, percent: u32) -> Option<String> {
        let percent = usize::try_from(percent).unwrap_or(usize::MAX);
        let over = |some: usize, all: usize| some * 100 > all.saturating_mul(percent);
        if over(self.sick, self.asked) {
            return Some(format!(
                "{} of {} other instances checked are unfit as well",
                self.sick, self.asked
            ));
        }
        over(self.reported, self.total).then(|| {
            format!(
                "{} of {} other instances are being replaced already",
                self.reported, self.total
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(peers: usize, reported: usize) -> Fleet {
        let member = |n: usize| Member {
            instance: format!("i-{n}"),
            reported: n <= reported && n > 0,
        };
        Fleet {
            members: (0..=peers).map(member).collect(),
            target_groups: Vec::new(),
        }
    }

    fn record(instance: &str, verdict: &str) -> String {
        format!(
            r#"{{"schema":1,"instance_id":"{instance}","image_id":"ami-1","verdict":"{verdict}",
            "since":"","agent":""}}"#
        )
    }

    #[test]
    fn a_sample_is_bounded_excludes_itself_and_differs_by_instance() {
        let fleet = fleet(200, 0);
        let names = |me: &str| -> Vec<String> {
            let mut names: Vec<String> = fleet
                .sample(me)
                .iter()
                .map(|member| member.instance.clone())
                .collect();
            names.sort();
            names.dedup();
            names
        };
        assert_eq!(names("i-0").len(), SAMPLE);
        assert!(!names("i-0").contains(&"i-0".to_owned()));
        assert_eq!(names("i-0"), names("i-0"));
        assert_ne!(names("i-0"), names("i-1"));
    }

    #[test]
    fn more_than_the_share_of_the_peers_and_at_least_one_holds_back() {
        for (peers, sick, percent, holds) in [
            (0, 0, 20, false),
            (2, 0, 20, false),
            (2, 1, 20, true),
            (5, 1, 20, false),
            (5, 2, 20, true),
            (5, 5, 100, false),
            (9, 0, 0, false),
            (9, 1, 0, true),
        ] {
            let fleet = fleet(peers, 0);
            let records = (1..=peers)
                .map(|n| {
                    let name = format!("i-{n}");
                    let verdict = if n <= sick { "unfit" } else { "fit" };
                    (name.clone(), record(&name, verdict))
                })
                .collect();
            let weighed = fleet.weigh("i-0", &records);
            assert_eq!(
                (weighed.total, weighed.asked, weighed.sick),
                (peers, peers, sick),
                "{sick} of {peers} at {percent} %"
            );
            let held = weighed.holds_back(percent);
            assert_eq!(held.is_some(), holds, "{sick} of {peers} at {percent} %");
        }
    }

    #[test]
    fn replaced_peers_count_and_unreadable_records_do_not() {
        let fleet = fleet(100, 21);
        let held = fleet.weigh("i-0", &BTreeMap::new()).holds_back(20).unwrap();
        assert!(held.contains("other instances"), "{held}");
        let fleet = self::fleet(3, 0);
        let records = BTreeMap::from([
            ("i-1".to_owned(), "{".to_owned()),
            (
                "i-2".to_owned(),
                record("i-2", "unfit").replace("\"schema\":1", "\"schema\":2"),
            ),
            ("i-3".to_owned(), record("i-3", "judging")),
        ]);
        assert_eq!(fleet.weigh("i-0", &records).sick, 0);
    }
}
