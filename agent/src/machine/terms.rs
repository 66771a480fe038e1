//! The machine's share of the settings.

use std::time::Duration;

use crate::notice::NoticeTerms;
use crate::settings::{Drain, Gate, HookNames, OnFailure, Serving, Settings};

/// What the settings ask of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// The gate.
    pub(crate) gate: Gate,
    /// The watch after it.
    pub(crate) serving: Serving,
    /// The way out.
    pub(crate) drain: Drain,
    /// Which of EC2's notices lead there.
    pub(crate) notices: NoticeTerms,
    /// The target groups to keep the box in.
    pub(crate) target_groups: Vec<String>,
    /// Which hooks are ours.
    pub(crate) hooks: HookNames,
}

impl Terms {
    /// The machine's share of the settings.
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

    /// What holds before settings are known, and when they are refused. Never asks for a
    /// replacement: a box is not known to be sick because its settings are.
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
                on_failure: OnFailure::Continue,
            },
            notices: NoticeTerms::default(),
            target_groups: Vec::new(),
            hooks: HookNames::default(),
        }
    }
}
