//! `[fleet]` and `[roll]`: which group is rolled, and how; as written, then validated.
//!
//! Shapes only: whether the group exists, or the target group is attached, is checked by the plan.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde::Deserialize;

use cloud::ids::{GroupName, TemplateName};

/// `[fleet]` as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fleet {
    /// The Auto Scaling group to roll.
    pub group: GroupName,
    /// Name or id of the launch template the group must be on; unset takes what the group has.
    pub launch_template: Option<TemplateName>,
    /// Name or ARN of a target group that must be attached; all attached ones are watched anyway.
    pub target_group: Option<String>,
}

/// `[roll]` as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Roll {
    /// Share of the desired capacity that stays in service, healthy and warmed.
    pub min_healthy_percentage: u32,
    /// Largest size of the group during the roll, in percent of the desired capacity.
    pub max_healthy_percentage: u32,
    /// Seconds a new instance must stay healthy before it counts; unset takes the group's own.
    pub instance_warmup_seconds: Option<u32>,
    /// Percentages at which the refresh pauses.
    pub checkpoints: Vec<u32>,
    /// How long it pauses there; the smoke test has to answer within it.
    pub checkpoint_delay_seconds: u32,
    /// How long the service keeps watching the alarms after the last replacement.
    pub bake_seconds: u32,
    /// CloudWatch alarms that stop the roll.
    pub alarms: Vec<String>,
    /// Whether the service rolls back by itself when the refresh fails.
    pub auto_rollback: bool,
    /// A command that is run at every checkpoint and at the end; failing it rolls back.
    pub smoke_test: Vec<String>,
    /// How long one smoke test may take.
    pub smoke_test_timeout_seconds: u32,
    /// Instances of the new version that the image has cost, or that cannot be launched, after which we roll back without
    /// waiting for the service, which keeps relaunching for an hour: a number, or a share of the desired capacity such as
    /// `"20%"`. 0 disables it: the service alone decides.
    pub max_failed_launches: Tolerance,
    /// How many launch-template versions of earlier rolls stay when a verified roll deletes those that nothing uses; 0 deletes none.
    pub keep_template_versions: u32,
    /// How long to watch before detaching with the refresh still running; unset derives it from the fleet.
    pub watch_timeout_seconds: Option<u32>,
    /// Seconds between two polls.
    pub poll_seconds: u32,
    /// How long a finished fleet may take to be verified; unset derives it from the fleet.
    pub verify_timeout_seconds: Option<u32>,
    /// Consecutive polls in which every member must be healthy.
    pub healthy_rounds: u32,
}

impl Default for Roll {
    fn default() -> Self {
        Self {
            min_healthy_percentage: 100,
            max_healthy_percentage: 110,
            instance_warmup_seconds: None,
            checkpoints: Vec::new(),
            checkpoint_delay_seconds: 600,
            bake_seconds: 0,
            alarms: Vec::new(),
            auto_rollback: true,
            smoke_test: Vec::new(),
            smoke_test_timeout_seconds: 300,
            max_failed_launches: Tolerance::Number(3),
            keep_template_versions: 5,
            watch_timeout_seconds: None,
            poll_seconds: 5,
            verify_timeout_seconds: None,
            healthy_rounds: 3,
        }
    }
}

/// `[fleet]` and `[roll]`, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The group to roll.
    pub group: GroupName,
    /// Name or id of the launch template it must be on.
    pub launch_template: Option<TemplateName>,
    /// Name or ARN of a target group that must be attached.
    pub target_group: Option<String>,
    /// MinHealthyPercentage.
    pub min_percent: u32,
    /// MaxHealthyPercentage.
    pub max_percent: u32,
    /// InstanceWarmup, if the group's own is not wanted.
    pub warmup_seconds: Option<u32>,
    /// Ascending, unique, each below 100.
    pub checkpoints: Vec<u32>,
    /// CheckpointDelay.
    pub checkpoint_delay_seconds: u32,
    /// BakeTime.
    pub bake_seconds: u32,
    /// Alarm names, at most ten.
    pub alarms: Vec<String>,
    /// Whether to ask for AutoRollback where it is possible.
    pub auto_rollback: bool,
    /// Program and arguments; `None` when there is no smoke test.
    pub smoke_test: Option<SmokeTest>,
    /// See [`Roll::max_failed_launches`].
    pub max_failed_launches: Tolerance,
    /// How many versions of earlier rolls stay when unused ones are deleted; `None` deletes none.
    pub keep_versions: Option<usize>,
    /// How long to watch; `None` derives it.
    pub watch_timeout: Option<Duration>,
    /// Pause between two polls.
    pub poll: Duration,
    /// How long verification may take; `None` derives it.
    pub verify_timeout: Option<Duration>,
    /// Consecutive polls without flaws that verify a fleet.
    pub healthy_rounds: u32,
}

/// The command that tests the whole fleet from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmokeTest {
    /// What to run.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
}

/// How many failed launches are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub enum Tolerance {
    /// Only the service decides.
    Unlimited,
    /// This many.
    Number(u32),
    /// This share of the desired capacity, in percent.
    Percent(u32),
}

impl Tolerance {
    /// The number for a group of this size, at least one; `None` when there is no limit.
    pub fn of(self, desired: u32) -> Option<usize> {
        let number = match self {
            Self::Unlimited => return None,
            Self::Number(number) => u64::from(number),
            Self::Percent(percent) => (u64::from(desired) * u64::from(percent))
                .div_ceil(100)
                .max(1),
        };
        Some(usize::try_from(number).unwrap_or(usize::MAX))
    }
}

/// [`Tolerance`] as written.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a number, or a percentage such as \"20%\"")]
enum Written {
    Number(u32),
    Text(String),
}

impl TryFrom<Written> for Tolerance {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let text = match written {
            Written::Number(0) => return Ok(Self::Unlimited),
            Written::Number(number) => return Ok(Self::Number(number)),
            Written::Text(text) => text,
        };
        match text.strip_suffix('%').map(str::parse::<u32>) {
            Some(Ok(0)) => Ok(Self::Unlimited),
            Some(Ok(percent @ 1..=100)) => Ok(Self::Percent(percent)),
            _ => Err(format!(
                "\"{text}\" is neither a number nor a percentage up to \"100%\""
            )),
        }
    }
}

/// The service's own limit on CheckpointDelay and BakeTime: two days.
const LONGEST_PAUSE_SECONDS: u32 = 172_800;

/// The service's own limit on alarms in one refresh.
const MOST_ALARMS: usize = 10;

impl Settings {
    /// Validates what was written; errors name the key.
    pub fn validate(fleet: &Fleet, roll: &Roll) -> Result<Self> {
        roll.check_capacity()?;
        roll.check_checkpoints()?;
        roll.check_limits()?;
        Ok(Self {
            group: fleet.group.clone(),
            launch_template: fleet.launch_template.clone(),
            target_group: fleet.target_group.clone(),
            min_percent: roll.min_healthy_percentage,
            max_percent: roll.max_healthy_percentage,
            warmup_seconds: roll.instance_warmup_seconds,
            checkpoints: roll.checkpoints.clone(),
            checkpoint_delay_seconds: roll.checkpoint_delay_seconds,
            bake_seconds: roll.bake_seconds,
            alarms: roll.alarms.clone(),
            auto_rollback: roll.auto_rollback,
            smoke_test: roll.smoke_test()?,
            max_failed_launches: roll.max_failed_launches,
            keep_versions: usize::try_from(roll.keep_template_versions)
                .ok()
                .filter(|number| *number > 0),
            watch_timeout: roll.watch_timeout_seconds.map(seconds),
            poll: seconds(roll.poll_seconds),
            verify_timeout: roll.verify_timeout_seconds.map(seconds),
            healthy_rounds: roll.healthy_rounds,
        })
    }
}

impl Roll {
    /// How many instances the service may take away and add.
    fn check_capacity(&self) -> Result<()> {
        ensure!(
            self.min_healthy_percentage <= 100,
            "roll.min_healthy_percentage is {}; it must be 0 to 100",
            self.min_healthy_percentage
        );
        ensure!(
            (100..=200).contains(&self.max_healthy_percentage),
            "roll.max_healthy_percentage is {}; it must be 100 to 200",
            self.max_healthy_percentage
        );
        ensure!(
            self.max_healthy_percentage - self.min_healthy_percentage <= 100,
            "roll.max_healthy_percentage {} is more than 100 above roll.min_healthy_percentage {}",
            self.max_healthy_percentage,
            self.min_healthy_percentage
        );
        Ok(())
    }

    /// Where the refresh pauses.
    fn check_checkpoints(&self) -> Result<()> {
        ensure!(
            self.checkpoints
                .is_sorted_by(|earlier, later| earlier < later),
            "roll.checkpoints {:?} must ascend and not repeat",
            self.checkpoints
        );
        if let Some(odd) = self
            .checkpoints
            .iter()
            .find(|percent| !(1..100).contains(*percent))
        {
            bail!(
                "roll.checkpoints contains {odd}; each must be 1 to 99, 100 is always added so that the roll completes"
            );
        }
        Ok(())
    }

    /// What has a smallest or largest value, by itself or by the service's rule.
    fn check_limits(&self) -> Result<()> {
        for (key, seconds) in [
            ("checkpoint_delay_seconds", self.checkpoint_delay_seconds),
            ("bake_seconds", self.bake_seconds),
        ] {
            ensure!(
                seconds <= LONGEST_PAUSE_SECONDS,
                "roll.{key} is {seconds}; the service allows at most {LONGEST_PAUSE_SECONDS}"
            );
        }
        ensure!(
            self.alarms.len() <= MOST_ALARMS,
            "roll.alarms contains {}; the service allows at most {MOST_ALARMS}",
            self.alarms.len()
        );
        for (key, number) in [
            (
                "smoke_test_timeout_seconds",
                self.smoke_test_timeout_seconds,
            ),
            (
                "watch_timeout_seconds",
                self.watch_timeout_seconds.unwrap_or(1),
            ),
            (
                "verify_timeout_seconds",
                self.verify_timeout_seconds.unwrap_or(1),
            ),
            ("poll_seconds", self.poll_seconds),
            ("healthy_rounds", self.healthy_rounds),
        ] {
            ensure!(number > 0, "roll.{key} is 0; it must be at least 1");
        }
        Ok(())
    }

    /// The command of the smoke test, which has to answer while the refresh pauses.
    fn smoke_test(&self) -> Result<Option<SmokeTest>> {
        let mut command = self.smoke_test.iter().cloned();
        let Some(program) = command.next() else {
            return Ok(None);
        };
        ensure!(
            !program.is_empty(),
            "roll.smoke_test names an empty program"
        );
        ensure!(
            self.checkpoints.is_empty()
                || self.smoke_test_timeout_seconds <= self.checkpoint_delay_seconds,
            "roll.smoke_test_timeout_seconds {} is longer than roll.checkpoint_delay_seconds {}: \
             the service would continue before the test has answered",
            self.smoke_test_timeout_seconds,
            self.checkpoint_delay_seconds
        );
        Ok(Some(SmokeTest {
            program,
            arguments: command.collect(),
            timeout: seconds(self.smoke_test_timeout_seconds),
        }))
    }
}

/// A duration of whole seconds.
fn seconds(number: u32) -> Duration {
    Duration::from_secs(u64::from(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validate(roll: &str) -> Result<Settings> {
        let fleet = toml::from_str("group = \"shop\"").unwrap();
        Settings::validate(&fleet, &toml::from_str(roll).unwrap())
    }

    #[test]
    fn an_empty_table_gives_the_safe_defaults() {
        let settings = validate("").unwrap();
        assert_eq!((settings.min_percent, settings.max_percent), (100, 110));
        assert!(settings.auto_rollback);
        assert_eq!(settings.max_failed_launches, Tolerance::Number(3));
        assert_eq!(settings.watch_timeout, None);
        assert_eq!(settings.verify_timeout, None);
        assert_eq!(settings.smoke_test, None);
    }

    #[test]
    fn max_failed_launches_is_a_number_or_a_share_or_zero() {
        for (text, desired, limit) in [
            ("0", 10, None),
            ("\"0%\"", 10, None),
            ("3", 10, Some(3)),
            ("\"20%\"", 10, Some(2)),
            ("\"20%\"", 11, Some(3)),
            ("\"20%\"", 1, Some(1)),
            ("\"20%\"", 0, Some(1)),
        ] {
            let settings = validate(&format!("max_failed_launches = {text}")).unwrap();
            assert_eq!(settings.max_failed_launches.of(desired), limit, "{text}");
        }
        for text in ["\"101%\"", "\"3\"", "\"many\"", "-1", "0.5"] {
            let read = toml::from_str::<Roll>(&format!("max_failed_launches = {text}"));
            let error = read.unwrap_err().to_string();
            assert!(error.contains("percentage"), "{text}: {error}");
        }
    }

    #[test]
    fn what_the_service_would_refuse_is_refused_here_by_key() {
        for (text, expected) in [
            (
                "min_healthy_percentage = 101",
                "roll.min_healthy_percentage is 101",
            ),
            (
                "max_healthy_percentage = 99",
                "roll.max_healthy_percentage is 99",
            ),
            (
                "min_healthy_percentage = 50\nmax_healthy_percentage = 151",
                "more than 100 above",
            ),
            ("checkpoints = [50, 20]", "must ascend"),
            ("checkpoints = [20, 20]", "must ascend"),
            ("checkpoints = [0, 50]", "roll.checkpoints contains 0"),
            ("checkpoints = [50, 100]", "roll.checkpoints contains 100"),
            (
                "checkpoint_delay_seconds = 172801",
                "roll.checkpoint_delay_seconds is 172801",
            ),
            ("bake_seconds = 172801", "roll.bake_seconds is 172801"),
            (
                "alarms = [\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"10\",\"11\"]",
                "roll.alarms contains 11",
            ),
            ("poll_seconds = 0", "roll.poll_seconds is 0"),
            ("healthy_rounds = 0", "roll.healthy_rounds is 0"),
            ("smoke_test = [\"\"]", "empty program"),
            (
                "smoke_test = [\"true\"]\ncheckpoints = [50]\ncheckpoint_delay_seconds = 10",
                "before the test has answered",
            ),
        ] {
            let error = validate(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(toml::from_str::<Roll>("warmup = 3").is_err());
        assert!(toml::from_str::<Fleet>("group = \"a\"\nsubnet = \"b\"").is_err());
    }
}
