//! What must exist and be allowed before a command changes anything.
//!
//! The rule: *preflight checks everything first, before anything is created or built; all findings come at once, each with its
//! fix, as exit code 3*. Permissions are asked for by dry run where EC2 has one, else by IAM's simulation; what neither
//! answers is reported as not checked, and is not a failure.
//!
//! Every command that changes something checks before its first change. The effect of a denial depends on the command ([`Verb::denial`]):
//! one that starts something is refused. One that continues a refresh, brings a fleet back or cleans up warns with the
//! action's name and continues; it waits for the answers no longer than [`PATIENCE`].
//!
//! [`Verb::denial`]: crate::permissions::Verb::denial

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;

use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::permissions::{Action, Asked, Denial, Need, Resource};
use cloud::ids::{GroupName, ImageName};
use cloud::{Caller, Cloud, CloudError, Kind, Simulated, Simulation};

/// How long a command that continues in any case waits for the answers of all services together. IAM is not reached from every
/// network, and the SDK asks for minutes.
const PATIENCE: Duration = Duration::from_secs(30);

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub what: String,
    /// What to do about it.
    pub fix: String,
}

/// All that a preflight found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What is wrong.
    pub wrong: Vec<Finding>,
    /// What could not be checked, by the reason.
    unchecked: BTreeMap<String, Vec<String>>,
    /// What is denied and not needed.
    without: Vec<&'static str>,
}

impl Findings {
    /// Adds what is wrong.
    pub fn wrong(&mut self, what: impl Into<String>, fix: impl Into<String>) {
        let finding = Finding {
            what: what.into(),
            fix: fix.into(),
        };
        if !self.wrong.contains(&finding) {
            self.wrong.push(finding);
        }
    }

    /// Adds what could not be checked.
    pub fn unchecked(&mut self, what: impl Into<String>, why: impl Into<String>) {
        let (what, all) = (what.into(), self.unchecked.entry(why.into()).or_default());
        if !all.contains(&what) {
            all.push(what);
        }
    }

    /// Adds what is allowed, denied and unknown.
    pub fn permissions(&mut self, answers: Vec<(&'static Action, Verdict)>, caller: &str) {
        let mut denied = Vec::new();
        for (action, verdict) in answers {
            match verdict {
                Verdict::Allowed => {}
                Verdict::Denied if action.need == Need::Optional => self.without.push(action.name),
                Verdict::Denied => denied.push(action.name),
                Verdict::Unknown(why) => self.unchecked(action.name, why),
            }
        }
        if !denied.is_empty() {
            let denied = denied.join(", ");
            self.wrong(
                format!("{caller} may not call {denied}"),
                format!("allow {denied} to {caller}"),
            );
        }
    }

    /// Adds the findings of another check.
    pub fn merge(&mut self, other: Self) {
        for one in other.wrong {
            self.wrong(one.what, one.fix);
        }
        for (why, what) in other.unchecked {
            for what in what {
                self.unchecked(what, why.clone());
            }
        }
        self.without.extend(other.without);
    }

    /// What could not be checked, in one line; `None` when everything was.
    pub fn not_checked(&self) -> Option<String> {
        let groups = self.unchecked.iter().map(|(why, what)| {
            let what = what.join(", ");
            format!("{what} ({why})")
        });
        let groups: Vec<String> = groups.collect();
        (!groups.is_empty()).then(|| format!("not checked: {}", groups.join("; ")))
    }

    /// What is denied and not needed, in one line.
    pub fn does_without(&self) -> Option<String> {
        (!self.without.is_empty())
            .then(|| format!("denied and not required: {}", self.without.join(", ")))
    }

    /// Refuses what is wrong, or only prints it.
    pub fn settle(self, denial: Denial, output: &Output) -> Result<(), Failure> {
        match denial {
            Denial::Refuses => self.conclude(output),
            Denial::Warns => {
                self.warn(output);
                Ok(())
            }
        }
    }

    /// Prints everything and refuses nothing.
    pub fn warn(self, output: &Output) {
        let wrong = self.wrong.iter().map(|one| one.what.clone());
        let others = [self.not_checked(), self.does_without()];
        for line in wrong.chain(others.into_iter().flatten()) {
            output.warn(line);
        }
    }

    /// Prints what was not checked, and refuses what is wrong.
    pub fn conclude(self, output: &Output) -> Result<(), Failure> {
        for line in [self.not_checked(), self.does_without()]
            .into_iter()
            .flatten()
        {
            output.info(line);
        }
        if self.wrong.is_empty() {
            return Ok(());
        }
        let what: Vec<String> = self.wrong.iter().map(|one| one.what.clone()).collect();
        let mut fixes: Vec<String> = Vec::new();
        for one in self.wrong {
            if !fixes.contains(&one.fix) {
                fixes.push(one.fix);
            }
        }
        Err(Exit::Refused
            .error(format!(
                "refused by preflight, nothing was changed: {}",
                what.join("; ")
            ))
            .hint(fixes.join("\n")))
    }
}

/// Whether the caller may do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Allowed,
    /// No.
    Denied,
    /// Unknown, and why.
    Unknown(String),
}

/// The resources of the actions.
#[derive(Clone, Debug, Default)]
pub struct Subject<'a> {
    /// The image whose parameters are used.
    pub image: Option<&'a ImageName>,
    /// The Auto Scaling group.
    pub group: Option<&'a GroupName>,
    /// The launch template's id.
    pub template: Option<&'a str>,
    /// The ARNs of the roles to pass, once all of them are known.
    pub roles: Vec<String>,
    /// The instance profiles' names.
    pub profiles: Vec<&'a str>,
    /// The parameter that names the source image.
    pub source_parameter: Option<&'a str>,
    /// The keys as they are configured.
    pub keys: Vec<&'a str>,
    /// The channel's bucket, and the prefix of its objects without slashes at either end.
    pub bucket: Option<(&'a str, &'a str)>,
    /// Whether dry runs answered that all launches would be done; `None` where they gave no answer.
    pub launched: Option<bool>,
}

/// A principal whose policies IAM can simulate.
#[derive(Debug, PartialEq, Eq)]
enum Principal {
    /// A user, by ARN.
    User(String),
    /// A role, of which a session's ARN shows the name and not the path.
    Role {
        partition: String,
        account: String,
        name: String,
    },
    /// Neither, and why.
    None(&'static str),
}

/// Reads the ARN that STS gives a caller.
fn principal(arn: &str) -> Principal {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let [_, partition, service, _, account, entity] = parts[..] else {
        return Principal::None("the caller has no ARN");
    };
    match (service, entity.split_once('/')) {
        ("iam", Some(("user", _))) => Principal::User(arn.to_owned()),
        ("sts", Some(("assumed-role", rest))) => Principal::Role {
            partition: partition.to_owned(),
            account: account.to_owned(),
            name: rest.split('/').next().unwrap_or_default().to_owned(),
        },
        ("sts", Some(("federated-user", _))) => {
            Principal::None("the caller is a federated user, which IAM does not simulate")
        }
        _ if entity == "root" => {
            Principal::None("the caller is the account's root, which IAM does not simulate")
        }
        _ => Principal::None("the caller is neither a user nor a role"),
    }
}

/// Checks all `actions`, by dry runs and simulations at the same time.
pub async fn ask(
    cloud: &Cloud,
    caller: &Caller,
    actions: &[&'static Action],
    subject: &Subject<'_>,
) -> Vec<(&'static Action, Verdict)> {
    let dry_runs = join_all(actions.iter().map(|action| async {
        match action.asked {
            Asked::DryRun(permission) => Some(
                cloud
                    .instances
                    .permitted(permission, subject.template)
                    .await,
            ),
            Asked::Launch | Asked::Simulation => None,
        }
    }));
    let (dry_runs, simulated) = tokio::join!(dry_runs, simulate(cloud, caller, actions, subject));
    let judged = actions.iter().zip(dry_runs).map(|(action, dry_run)| {
        let by_dry_run = match (dry_run, action.asked) {
            (Some(Ok(())), _) => Some(Verdict::Allowed),
            (Some(Err(error)), _)
                if error.kind == Kind::Denied && is_of_the_thing(action, subject) =>
            {
                Some(Verdict::Denied)
            }
            (None, Asked::Launch) if subject.launched == Some(true) => Some(Verdict::Allowed),
            _ => None,
        };
        let verdict = by_dry_run.unwrap_or_else(|| match simulated.get(action.name) {
            Some(Ok(Simulated::Allowed)) => Verdict::Allowed,
            Some(Ok(Simulated::Denied)) => Verdict::Denied,
            // A policy may allow it for just those that will be made.
            Some(Ok(Simulated::NotAllowed)) if matches!(action.resource, Resource::Ec2(_)) => {
                Verdict::Unknown("that depends on the resource".to_owned())
            }
            // IAM simulates the caller's policies only.
            Some(Ok(Simulated::NotAllowed)) if action.resource.has_own_policy() => {
                Verdict::Unknown("that depends on the resource's own policy".to_owned())
            }
            Some(Ok(Simulated::NotAllowed)) => Verdict::Denied,
            Some(Ok(Simulated::Depends(keys))) => {
                Verdict::Unknown(format!("that depends on {}", keys.join(", ")))
            }
            Some(Err(why)) => Verdict::Unknown(why.clone()),
            None => Verdict::Unknown("IAM's simulation did not answer".to_owned()),
        });
        (*action, verdict)
    });
    judged.collect()
}

/// Whether a dry run names the resource that the action will use. A denial for any other does not count: a policy that
/// allows an action for what carries our run's tag, as docs/operating.md proposes, denies it for the made-up id of a dry run.
fn is_of_the_thing(action: &Action, subject: &Subject<'_>) -> bool {
    match action.resource {
        Resource::Ec2("launch-template") => subject.template.is_some(),
        Resource::Ec2(_) => false,
        _ => true,
    }
}

/// The result of IAM's simulation for each action, or why there is none.
async fn simulate(
    cloud: &Cloud,
    caller: &Caller,
    actions: &[&'static Action],
    subject: &Subject<'_>,
) -> BTreeMap<&'static str, Result<Simulated, String>> {
    let silent = |why: &str| {
        let all = actions.iter();
        all.map(|action| (action.name, Err(why.to_owned())))
            .collect()
    };
    let principal = match source(cloud, caller).await {
        Ok(principal) => principal,
        Err(why) => return silent(&why),
    };
    let mut found = BTreeMap::new();
    let mut groups: BTreeMap<Vec<String>, Vec<&'static str>> = BTreeMap::new();
    for action in actions {
        match resources(action, cloud, caller, subject) {
            Ok(resources) => groups.entry(resources).or_default().push(action.name),
            Err(why) => {
                found.insert(action.name, Err(why.to_owned()));
            }
        }
    }
    let asked = groups.into_iter().map(|(resources, actions)| Simulation {
        actions,
        resources,
        context: vec![
            ("aws:RequestedRegion", cloud.region.clone()),
            ("iam:PassedToService", "ec2.amazonaws.com".to_owned()),
        ],
    });
    let answers = join_all(asked.map(|simulation| {
        let principal = &principal;
        async move {
            let answer = cloud.permissions.simulate(principal, &simulation).await;
            (simulation.actions, answer)
        }
    }));
    for (actions, answer) in answers.await {
        for action in actions {
            let answer = match &answer {
                Ok(found) => match found.get(action) {
                    Some(simulated) => Ok(simulated.clone()),
                    None => continue,
                },
                Err(error) => Err(silence(error)),
            };
            found.insert(action, answer);
        }
    }
    found
}

/// Why IAM gives no answer.
fn silence(error: &CloudError) -> String {
    match error.kind {
        Kind::Denied => "iam:SimulatePrincipalPolicy is denied".to_owned(),
        Kind::NotFound => "IAM does not know the caller's role by its name".to_owned(),
        _ => format!("IAM's simulation failed: {error}"),
    }
}

/// The ARN whose policies are simulated.
async fn source(cloud: &Cloud, caller: &Caller) -> Result<String, String> {
    match principal(&caller.arn) {
        Principal::User(arn) => Ok(arn),
        Principal::Role {
            partition,
            account,
            name,
        } => match cloud.permissions.role(&name).await {
            Ok(Some(arn)) => Ok(arn),
            Ok(None) => Err("IAM does not know the caller's role by its name".to_owned()),
            // Most roles have no path; a role that has one does not exist for the simulation.
            Err(_) => Ok(format!("arn:{partition}:iam::{account}:role/{name}")),
        },
        Principal::None(why) => Err(why.to_owned()),
    }
}

/// The ARNs of what an action is done to.
fn resources(
    action: &Action,
    cloud: &Cloud,
    caller: &Caller,
    subject: &Subject<'_>,
) -> Result<Vec<String>, &'static str> {
    let partition = caller.arn.split(':').nth(1).unwrap_or("aws");
    let (region, account) = (&cloud.region, &caller.account);
    let at = |service: &str, rest: String| {
        vec![format!(
            "arn:{partition}:{service}:{region}:{account}:{rest}"
        )]
    };
    match action.resource {
        Resource::Any => Ok(vec!["*".to_owned()]),
        Resource::Ec2("image" | "snapshot") => Ok(vec![format!(
            "arn:{partition}:ec2:{region}::{}/*",
            if action.name.contains("Snapshot") {
                "snapshot"
            } else {
                "image"
            }
        )]),
        Resource::Ec2(kind) => Ok(at("ec2", format!("{kind}/*"))),
        Resource::Parameters => match subject.image {
            Some(image) => {
                let own = at("ssm", format!("parameter/imagebuilder/{image}/candidate"));
                let source = subject.source_parameter;
                let source = source.filter(|_| action.name == "ssm:GetParameter");
                let source = source.map(|name| parameter(name, partition, region, account));
                Ok(own.into_iter().chain(source).collect())
            }
            None => Err("there is no image"),
        },
        Resource::Group => match subject.group {
            Some(group) => Ok(at(
                "autoscaling",
                format!("autoScalingGroup:*:autoScalingGroupName/{group}"),
            )),
            None => Err("there is no [fleet]"),
        },
        Resource::Role if subject.roles.is_empty() => {
            Err("the instance profile's role is not known")
        }
        Resource::Role => Ok(subject.roles.clone()),
        Resource::Profile if subject.profiles.is_empty() => Err("there is no instance profile"),
        Resource::Profile => {
            let all = subject.profiles.iter();
            let arn = |name| format!("arn:{partition}:iam::{account}:instance-profile/{name}");
            Ok(all.map(arn).collect())
        }
        Resource::Key if subject.keys.iter().all(|key| key.starts_with("arn:")) => {
            Ok(subject.keys.iter().map(|key| (*key).to_owned()).collect())
        }
        Resource::Key => Err("IAM answers for keys by their ARN only"),
        Resource::Bucket | Resource::Objects => {
            let Some((bucket, prefix)) = subject.bucket else {
                return Err("there is no bucket");
            };
            let objects = match prefix {
                "" => "/*".to_owned(),
                prefix => format!("/{prefix}/*"),
            };
            let rest = match action.resource {
                Resource::Objects => objects.as_str(),
                _ => "",
            };
            Ok(vec![format!("arn:{partition}:s3:::{bucket}{rest}")])
        }
    }
}

/// The ARN of a parameter, without its version. Public ones belong to no account.
fn parameter(name: &str, partition: &str, region: &str, account: &cloud::ids::AccountId) -> String {
    if name.starts_with("arn:") {
        return name.to_owned();
    }
    let name = name.split(':').next().unwrap_or(name);
    let path = name.trim_start_matches('/');
    if name.starts_with("/aws/service/") {
        return format!("arn:{partition}:ssm:{region}::parameter/{path}");
    }
    format!("arn:{partition}:ssm:{region}:{account}:parameter/{path}")
}

/// The findings within [`PATIENCE`]; a late answer refuses nothing.
pub async fn in_time(asking: impl Future<Output = Findings>) -> Findings {
    if let Ok(findings) = tokio::time::timeout(PATIENCE, asking).await {
        return findings;
    }
    let mut findings = Findings::default();
    let why = format!("no answer within {} s", PATIENCE.as_secs());
    findings.unchecked("permissions", why);
    findings
}

/// Who is calling; where that is unknown, what is therefore not checked.
pub async fn caller(cloud: &Cloud, findings: &mut Findings) -> Option<Caller> {
    match cloud.identity.caller().await {
        Ok(caller) => Some(caller),
        Err(error) => {
            findings.unchecked("permissions", format!("{error}"));
            None
        }
    }
}

/// The denied call in an error's chain, if no other cause is attached to it.
pub fn denied(error: &anyhow::Error) -> Option<&CloudError> {
    if Exit::of(error) != Exit::Unexpected {
        return None;
    }
    let call = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<CloudError>());
    call.filter(|call| call.kind == Kind::Denied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_arn_gives_the_principal_to_simulate() {
        let role = |partition: &str, name: &str| Principal::Role {
            partition: partition.into(),
            account: "123456789012".into(),
            name: name.into(),
        };
        for (arn, want) in [
            (
                "arn:aws:iam::123456789012:user/team/me",
                Principal::User("arn:aws:iam::123456789012:user/team/me".into()),
            ),
            (
                "arn:aws:sts::123456789012:assumed-role/ci/run-7",
                role("aws", "ci"),
            ),
            (
                "arn:aws-cn:sts::123456789012:assumed-role/ci/a@b",
                role("aws-cn", "ci"),
            ),
        ] {
            assert_eq!(principal(arn), want, "{arn}");
        }
        for (arn, want) in [
            ("arn:aws:iam::123456789012:root", "root"),
            ("arn:aws:sts::123456789012:federated-user/me", "federated"),
            ("", "no ARN"),
        ] {
            let found = principal(arn);
            assert!(
                matches!(found, Principal::None(why) if why.contains(want)),
                "{found:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_unchecked_and_refuses_nothing() {
        let in_time = tokio::time::timeout(2 * PATIENCE, in_time(std::future::pending()));
        let findings = in_time.await.unwrap();
        assert_eq!(findings.wrong, []);
        assert_eq!(
            findings.not_checked().as_deref(),
            Some("not checked: permissions (no answer within 30 s)")
        );
        let output = Output::captured();
        findings.settle(Denial::Refuses, &output).unwrap();
    }

    #[test]
    fn resources_are_named_as_policies_name_them() {
        use crate::permissions::ACTIONS;
        let caller = Caller {
            account: cloud::ids::AccountId::parse("123456789012").unwrap(),
            arn: "arn:aws-cn:iam::123456789012:user/me".to_owned(),
        };
        let cloud = cloud::testing::InMemoryAws::default().cloud();
        let of = |name: &str, subject: &Subject<'_>| {
            let action = ACTIONS.iter().find(|action| action.name == name).unwrap();
            resources(action, &cloud, &caller, subject).map(|all| all.join(" "))
        };
        for (prefix, objects) in [("", "/*"), ("agent", "/agent/*")] {
            let subject = Subject {
                bucket: Some(("shop", prefix)),
                ..Subject::default()
            };
            assert_eq!(
                of("s3:ListBucket", &subject).as_deref(),
                Ok("arn:aws-cn:s3:::shop"),
                "below {prefix:?}"
            );
            let want = format!("arn:aws-cn:s3:::shop{objects}");
            let found = of("s3:PutObject", &subject);
            assert_eq!(found, Ok(want), "below {prefix:?}");
        }
        let key = "arn:aws:kms:us-east-1:123456789012:key/1";
        for (keys, want) in [(vec![key], Ok(key)), (vec![key, "alias/b"], Err(()))] {
            let subject = Subject {
                keys,
                ..Subject::default()
            };
            let found = of("kms:Sign", &subject);
            assert_eq!(found.as_deref().map_err(|_| ()), want, "{:?}", subject.keys);
        }
        let image = cloud::ids::ImageName::parse("shop").unwrap();
        let own = "arn:aws-cn:ssm:us-east-1:123456789012:parameter/imagebuilder/shop/candidate";
        for (parameter, source) in [
            ("/aws/service/x/latest", ":parameter/aws/service/x/latest"),
            ("/base:3", "123456789012:parameter/base"),
            ("base", "123456789012:parameter/base"),
        ] {
            let subject = Subject {
                image: Some(&image),
                source_parameter: Some(parameter),
                ..Subject::default()
            };
            let want = format!("{own} arn:aws-cn:ssm:us-east-1:{source}");
            assert_eq!(of("ssm:GetParameter", &subject), Ok(want), "{parameter}");
            assert_eq!(of("ssm:PutParameter", &subject).as_deref(), Ok(own));
        }
        let nothing = Subject::default();
        for name in ["s3:PutObject", "ssm:PutParameter", "iam:PassRole"] {
            assert!(of(name, &nothing).is_err(), "{name}");
        }
    }

    #[test]
    fn all_findings_come_at_once_with_their_fixes() {
        let mut findings = Findings::default();
        findings.wrong("there is no subnet-1", "correct `subnet`");
        findings.wrong("there is no sg-1", "correct `security_groups`");
        findings.unchecked("ssm:PutParameter", "may not be asked");
        findings.unchecked("ssm:GetParameter", "may not be asked");
        let output = Output::captured();
        let error = anyhow::Error::from(findings.conclude(&output).unwrap_err());
        assert_eq!(Exit::of(&error), Exit::Refused);
        assert!(format!("{error:#}").ends_with("there is no subnet-1; there is no sg-1"));
        let hint = crate::exit::hint(&error).unwrap();
        assert_eq!(hint, "correct `subnet`\ncorrect `security_groups`");
        let line = "not checked: ssm:PutParameter, ssm:GetParameter (may not be asked)";
        assert!(
            output
                .messages()
                .iter()
                .any(|message| message.contains(line))
        );
    }
}
