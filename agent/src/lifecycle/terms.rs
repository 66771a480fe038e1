//! The settings that the lifecycle uses.

use std::time::Duration;

use crate::notice::NoticeTerms;
use crate::settings::{Drain, Gate, HookNames, OnFailure, Serving, Settings};

/// The settings that the lifecycle uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// The gate.
    pub(crate) gate: Gate,
    /// The checks after it.
    pub(crate) serving: Serving,
    /// The drain.
    pub(crate) drain: Drain,
    /// Which of EC2's notices start a drain.
    pub(crate) notices: NoticeTerms,
    /// The target groups to register the instance in.
    pub(crate) target_groups: Vec<String>,
    /// The names of the agent's hooks.
    pub(crate) hooks: HookNames,
}

impl Terms {
    /// The lifecycle's part of the settings.
    pub(crate) fn of(settings: &Settings) -> Self {
        Self {
            gate: settings.gate,
            serving: settings.serving,
            drain: settings.drain,
            notices: settings.notices,
            target_groups: settings.target_groups.clone(),
            hooks: settings.hooks.clone(),
        }
    }

    /// The terms before settings are known, and when they are refused. They never ask for a replacement: refused
    /// settings do not make an instance unhealthy.
    pub(crate) fn fallback() -> Self {
        let second = Duration::from_secs(1);
        Self {
            gate: Gate {
                passes: 1,
                interval: second,
                deadline: second,
            },
            serving: Serving {
                passes: 1,
                failures: 1,
                window: 1,
                window_failure_percent: 100,
                interval: second,
                replace_after: None,
                restart: false,
                fleet_guard_percent: 20,
            },
            drain: Drain {
                settle: second * 5,
                deadline: second * 600,
                poll: None,
                on_failure: OnFailure::Continue,
            },
            notices: NoticeTerms::default(),
            target_groups: Vec::new(),
            hooks: HookNames::default(),
        }
    }
}
