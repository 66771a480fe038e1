//! Who the caller is and what it may do, and the states of alarms.

use super::*;

/// The caller's permissions: everything, but for what is in `denied`.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Actions by their names in IAM.
    pub denied: BTreeSet<&'static str>,
    /// Actions that are allowed for what carries a run's tag, and so denied for whatever a dry run names.
    pub by_tag: BTreeSet<&'static str>,
    /// Whether IAM may not be asked either.
    pub silent: bool,
    /// Every action that was asked for.
    pub asked: BTreeSet<String>,
}

impl Policy {
    /// The error of a call that is denied.
    pub(super) fn check(&mut self, action: &str) -> Answer<()> {
        self.asked.insert(action.to_owned());
        if !self.denied.contains(action) && !self.by_tag.contains(action) {
            return Ok(());
        }
        let code = "UnauthorizedOperation";
        Err(CloudError::new(Kind::Denied, action, code, "as arranged"))
    }

    /// IAM's simulation.
    fn simulate(&mut self, simulation: &Simulation) -> Answer<BTreeMap<String, Simulated>> {
        if self.silent {
            return Err(denied("simulate"));
        }
        let mut found = BTreeMap::new();
        for action in &simulation.actions {
            let simulated = match self.check(action) {
                Ok(()) => Simulated::Allowed,
                Err(_) if self.by_tag.contains(action) => Simulated::NotAllowed,
                Err(_) => Simulated::Denied,
            };
            found.insert((*action).to_owned(), simulated);
        }
        Ok(found)
    }

    /// What a launch needs.
    pub(super) fn launch(&mut self) -> Answer<()> {
        for action in ["ec2:RunInstances", "ec2:CreateTags", "iam:PassRole"] {
            self.check(action)?;
        }
        Ok(())
    }
}

#[async_trait]
impl Identity for InMemoryAws {
    async fn caller(&self) -> Answer<Caller> {
        Ok(Caller {
            account: AccountId::parse(OWNER).unwrap(),
            arn: format!("arn:aws:iam::{OWNER}:user/test"),
        })
    }

    async fn credentials(&self) -> Answer<Option<Credentials>> {
        self.read("credentials", |_| Ok(None)).await
    }
}

#[async_trait]
impl Permissions for InMemoryAws {
    async fn role(&self, name: &str) -> Answer<Option<String>> {
        let arn = format!("arn:aws:iam::{OWNER}:role/{name}");
        self.read("role", |_| Ok(Some(arn))).await
    }

    async fn simulate(
        &self,
        _principal: &str,
        simulation: &Simulation,
    ) -> Answer<BTreeMap<String, Simulated>> {
        self.state().policy.simulate(simulation)
    }

    async fn instance_profile(&self, name: &str) -> Answer<Option<InstanceProfile>> {
        self.read("instance_profile", |aws| {
            aws.policy.check("iam:GetInstanceProfile")?;
            Ok(aws.profiles.contains(name).then(|| InstanceProfile {
                role: Some(format!("arn:aws:iam::{OWNER}:role/{name}")),
            }))
        })
        .await
    }
}

#[async_trait]
impl Alarms for InMemoryAws {
    async fn states(&self, names: &[String]) -> Answer<BTreeMap<String, String>> {
        let mut aws = self.state();
        aws.policy.check("cloudwatch:DescribeAlarms")?;
        let mut found = aws.alarms.clone();
        found.retain(|name, _| names.contains(name));
        Ok(found)
    }
}
