//! The Auto Scaling group: the instance's membership, the lifecycle hooks, and the calls that the agent makes.
//!
//! Types and the trait only; [`crate::aws`] implements it, [`crate::lifecycle`] decides when to call.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;

use crate::fleet::Fleet;
use crate::settings::HookNames;

/// The instance's place in its group, from `DescribeAutoScalingInstances`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    /// The group's name.
    pub(crate) group: String,
    /// The instance's lifecycle state in the group.
    pub(crate) phase: Phase,
}

/// A lifecycle state, as far as the agent distinguishes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// `Pending`: no hook is active yet.
    Pending,
    /// `Pending:Wait`: the launch hooks wait for an answer.
    PendingWait,
    /// `Pending:Proceed`: all launch hooks are answered.
    PendingProceed,
    /// `InService`.
    InService,
    /// `Terminating`: load balancers are deregistering the instance, no hook is active yet.
    Terminating,
    /// `Terminating:Wait`: the termination hooks wait for an answer.
    TerminatingWait,
    /// `Terminating:Proceed` or `Terminated`.
    TerminatingProceed,
    /// `Warmed:Pending`: entering the warm pool, no hook is active yet.
    WarmPending,
    /// `Warmed:Pending:Wait`: entering the warm pool, the launch hooks wait for an answer.
    WarmPendingWait,
    /// Standby, detaching, in the warm pool, or a state that AWS adds later.
    Other(String),
}

impl Phase {
    /// Reads a lifecycle state as AWS writes it.
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "Pending" => Self::Pending,
            "Pending:Wait" => Self::PendingWait,
            "Pending:Proceed" => Self::PendingProceed,
            "InService" => Self::InService,
            // A warm pool ends its instances through the same hooks.
            "Terminating" | "Warmed:Terminating" => Self::Terminating,
            "Terminating:Wait" | "Warmed:Terminating:Wait" => Self::TerminatingWait,
            "Terminating:Proceed"
            | "Terminated"
            | "Warmed:Terminating:Proceed"
            | "Warmed:Terminated" => Self::TerminatingProceed,
            "Warmed:Pending" => Self::WarmPending,
            "Warmed:Pending:Wait" => Self::WarmPendingWait,
            other => Self::Other(other.to_owned()),
        }
    }

    /// Whether the instance is entering service and a launch hook may wait for an answer.
    pub(crate) fn is_arriving(&self) -> bool {
        matches!(self, Self::Pending | Self::PendingWait)
    }

    /// Whether the instance is entering the warm pool and a launch hook may wait for an answer.
    pub(crate) fn is_warming(&self) -> bool {
        matches!(self, Self::WarmPending | Self::WarmPendingWait)
    }

    /// Whether the group is terminating the instance.
    pub(crate) fn is_terminating(&self) -> bool {
        matches!(
            self,
            Self::Terminating | Self::TerminatingWait | Self::TerminatingProceed
        )
    }
}

/// One lifecycle hook of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    /// Its name.
    pub(crate) name: String,
    /// How long it waits for a heartbeat or an answer.
    pub(crate) timeout: Duration,
}

impl Hook {
    /// The longest time that it holds an instance, with any number of heartbeats: a hundred times its timeout, and
    /// two days at most (PutLifecycleHook, "GlobalTimeout").
    pub(crate) fn longest(&self) -> Duration {
        (self.timeout * 100).min(Duration::from_secs(contract::drain::LONGEST))
    }
}

/// All hooks of the group, by transition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hooks {
    /// On `autoscaling:EC2_INSTANCE_LAUNCHING`.
    pub(crate) launching: Vec<Hook>,
    /// On `autoscaling:EC2_INSTANCE_TERMINATING`.
    pub(crate) terminating: Vec<Hook>,
}

/// The hooks that the agent answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OurHooks {
    /// The one on launching.
    pub(crate) launch: Option<Hook>,
    /// The one on terminating.
    pub(crate) terminate: Option<Hook>,
    /// Why the agent answers none of them, for messages.
    pub(crate) unclear: Option<String>,
}

/// Prefix of the agent's hook among several.
const OUR_PREFIX: &str = "imagebuilder";

impl OurHooks {
    /// Picks by name from the settings; else the only hook there is; else the only one with our prefix. Another
    /// service's hook (a deployment service's, for example) must not be answered.
    pub(crate) fn pick(hooks: &Hooks, names: &HookNames) -> Self {
        let mut unclear = None;
        let mut one = |hooks: &[Hook], name: Option<&str>, key: &str| {
            if let Some(name) = name {
                let found = hooks.iter().find(|hook| hook.name == name);
                if found.is_none() && !hooks.is_empty() {
                    unclear = Some(format!("the group has no {key} hook named {name}"));
                }
                return found.cloned();
            }
            let ours: Vec<&Hook> = hooks
                .iter()
                .filter(|hook| hook.name.starts_with(OUR_PREFIX))
                .collect();
            match (hooks, ours.as_slice()) {
                ([only], _) => Some(only.clone()),
                (_, [ours]) => Some((*ours).clone()),
                ([], _) => None,
                _ => {
                    unclear = Some(format!(
                        "the group has {} {key} hooks: name ours with hooks.{key} in the settings",
                        hooks.len()
                    ));
                    None
                }
            }
        };
        let launch = one(&hooks.launching, names.launch.as_deref(), "launch");
        let terminate = one(&hooks.terminating, names.terminate.as_deref(), "terminate");
        Self {
            launch,
            terminate,
            unclear,
        }
    }
}

/// How a hook is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Proceed.
    Continue,
    /// Give up this instance.
    Abandon,
}

impl Answer {
    /// As the API spells it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Continue => "CONTINUE",
            Self::Abandon => "ABANDON",
        }
    }
}

/// The group's response to an answer or a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// Taken.
    Accepted,
    /// "No active Lifecycle Action": too early, too late, or never. Only the instance's lifecycle state shows which.
    NotActive,
}

/// The calls to the group, all by instance id.
#[async_trait]
pub(crate) trait Group: Send + Sync {
    /// The instance's place in its group; `None` when it has none.
    async fn membership(&self, instance: &str) -> Result<Option<Membership>>;
    /// The whole group: its members and its target groups.
    async fn fleet(&self, group: &str) -> Result<Fleet>;
    /// The hooks of a group.
    async fn hooks(&self, group: &str) -> Result<Hooks>;
    /// Answers a hook.
    async fn complete(
        &self,
        group: &str,
        hook: &str,
        instance: &str,
        answer: Answer,
    ) -> Result<Receipt>;
    /// Restarts a hook's timeout.
    async fn heartbeat(&self, group: &str, hook: &str, instance: &str) -> Result<Receipt>;
    /// Asks the group to replace the instance, respecting the grace period.
    async fn report_unhealthy(&self, instance: &str) -> Result<()>;
    /// The id of the group's active instance refresh, in whatever status; `None` if none is active.
    async fn refreshing(&self, group: &str) -> Result<Option<String>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(name: &str) -> Hook {
        Hook {
            name: name.to_owned(),
            timeout: Duration::from_secs(300),
        }
    }

    fn picked(launching: &[&str], name: Option<&str>) -> (Option<String>, Option<String>) {
        let hooks = Hooks {
            launching: launching.iter().map(|name| hook(name)).collect(),
            terminating: Vec::new(),
        };
        let names = HookNames {
            launch: name.map(str::to_owned),
            terminate: None,
        };
        let ours = OurHooks::pick(&hooks, &names);
        (ours.launch.map(|hook| hook.name), ours.unclear)
    }

    #[test]
    fn our_hook_is_the_named_the_only_or_the_prefixed_one() {
        let one = |name: &str| (Some(name.to_owned()), None);
        assert_eq!(picked(&[], None), (None, None));
        assert_eq!(picked(&["gate"], None), one("gate"));
        assert_eq!(picked(&["gate", "codedeploy"], Some("gate")), one("gate"));
        assert_eq!(
            picked(&["imagebuilder-launch", "codedeploy"], None),
            one("imagebuilder-launch")
        );
    }

    #[test]
    fn an_ambiguous_hook_is_not_answered() {
        let (hook, unclear) = picked(&["a", "b"], None);
        assert_eq!(hook, None);
        assert!(unclear.unwrap().contains("hooks.launch"));
        let (hook, unclear) = picked(&["a"], Some("gate"));
        assert_eq!(hook, None);
        assert_eq!(unclear.unwrap(), "the group has no launch hook named gate");
    }

    #[test]
    fn phases_are_read_as_aws_writes_them() {
        assert_eq!(Phase::parse("Pending:Wait"), Phase::PendingWait);
        assert_eq!(Phase::parse("Terminated"), Phase::TerminatingProceed);
        assert_eq!(Phase::parse("Warmed:Pending:Wait"), Phase::WarmPendingWait);
        assert_eq!(
            Phase::parse("Warmed:Terminating:Wait"),
            Phase::TerminatingWait
        );
        assert_eq!(
            Phase::parse("Warmed:Stopped"),
            Phase::Other("Warmed:Stopped".to_owned())
        );
    }
}
