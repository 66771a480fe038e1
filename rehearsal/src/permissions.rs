//! Which calls are denied: those that match a dial `deny.<service>:<Action>`, and no others.
//!
//! Rule: a denied call changes nothing and fails with its service's own access-denied error, before any other check. A
//! call also fails when an action that it needs besides its own is denied, as with IAM (tags at creation, a role to
//! pass, a group's launch template).

use std::ops::Range;

use crate::account::ACCOUNT;
use crate::cloud::Region;
use crate::ec2;
use crate::faults::Faults;
use crate::wire::error::Protocol;
use crate::wire::{ApiError, Params, Xml};

/// The ARN of the only caller, as GetCallerIdentity returns it.
pub(crate) fn caller() -> String {
    format!("arn:aws:iam::{ACCOUNT}:user/rehearsal")
}

/// AWS's message for a denied `action` (e.g. `ec2:RunInstances`).
pub(crate) fn message(action: &str) -> String {
    format!(
        "User: {} is not authorized to perform: {action} on resource: * with an explicit deny in an identity-based policy",
        caller()
    )
}

/// A call of a service that this cloud implements itself.
pub(crate) struct Call<'a> {
    /// The service's name in IAM's actions.
    pub(crate) service: &'a str,
    /// Its protocol.
    pub(crate) protocol: Protocol,
    /// The API action.
    pub(crate) action: &'a str,
    /// Of the query protocols.
    pub(crate) params: &'a Params,
    /// Of the JSON protocol.
    pub(crate) json: &'a serde_json::Value,
}

impl Call<'_> {
    /// Refuses a call that is denied, or that needs a denied action.
    ///
    /// # Errors
    /// The service's access-denied error.
    pub(crate) fn check(&self, region: &Region) -> Result<(), ApiError> {
        let faults = &region.faults;
        if !faults.denies_any() {
            return Ok(());
        }
        let denied = |needs: Vec<String>| needs.into_iter().find(|need| faults.denies(need));
        if let Some(action) = denied(self.needs(&region.ec2)) {
            return Err(refusal(self.protocol, &action));
        }
        if let Some(template) = self.group_template()
            && denied(launch_needs(&region.ec2, &template, &Params::default())).is_some()
        {
            let name = template.text("LaunchTemplateName");
            let name = name.or(template.text("LaunchTemplateId"));
            return Err(ApiError::new(
                "AccessDenied",
                format!(
                    "You are not authorized to use launch template: {}",
                    name.unwrap_or_default()
                ),
            )
            .with_status(403));
        }
        Ok(())
    }

    /// The IAM actions that it needs.
    fn needs(&self, ec2: &ec2::State) -> Vec<String> {
        let mut needs = vec![format!("{}:{}", self.service, self.action)];
        let mut also = |condition: bool, action: &str| {
            if condition {
                needs.push(action.to_owned());
            }
        };
        let params = self.params;
        match (self.service, self.action) {
            ("ec2", "RunInstances") => {
                let template = params.structure("LaunchTemplate");
                needs = launch_needs(ec2, &template, params);
            }
            ("ec2", "DeregisterImage") => also(
                matches!(params.boolean("DeleteAssociatedSnapshots"), Ok(Some(true))),
                "ec2:DeleteSnapshot",
            ),
            ("ec2", _) => also(params.has("TagSpecification"), "ec2:CreateTags"),
            ("autoscaling", "CreateAutoScalingGroup") => {
                also(params.has("Tags"), "autoscaling:CreateOrUpdateTags");
            }
            ("elasticloadbalancing", action) if action.starts_with("Create") => {
                also(params.has("Tags"), "elasticloadbalancing:AddTags");
            }
            ("ssm", "PutParameter") => {
                also(!self.json["Tags"].is_null(), "ssm:AddTagsToResource");
                also(
                    self.json["DataType"] == "aws:ec2:image",
                    "ec2:DescribeImages",
                );
            }
            _ => {}
        }
        needs
    }

    /// The launch template that a call gives to a group.
    fn group_template(&self) -> Option<Params> {
        let name = match (self.service, self.action) {
            ("autoscaling", "CreateAutoScalingGroup" | "UpdateAutoScalingGroup") => {
                "LaunchTemplate"
            }
            ("autoscaling", "StartInstanceRefresh") => "DesiredConfiguration.LaunchTemplate",
            _ => return None,
        };
        Some(self.params.structure(name)).filter(|template| !template.is_empty())
    }
}

/// The IAM actions that a launch from `template`, overridden by `params`, needs.
fn launch_needs(ec2: &ec2::State, template: &Params, params: &Params) -> Vec<String> {
    let version = template.text("Version").unwrap_or("$Default");
    let found = ec2.template_named(template).ok();
    let data = found.and_then(|template| template.resolve(version).ok());
    let data = data.map(|(_, version)| Params::from(version.data.0.clone()));
    let has = |name: &str| params.has(name) || data.as_ref().is_some_and(|data| data.has(name));
    let mut needs = vec!["ec2:RunInstances".to_owned()];
    if has("TagSpecification") {
        needs.push("ec2:CreateTags".to_owned());
    }
    if has("IamInstanceProfile") {
        needs.push("iam:PassRole".to_owned());
    }
    needs
}

fn refusal(protocol: Protocol, action: &str) -> ApiError {
    let message = message(action);
    match protocol {
        Protocol::Ec2 => ApiError::new(
            "UnauthorizedOperation",
            format!("You are not authorized to perform this operation. {message}"),
        )
        .with_status(403),
        Protocol::Query => ApiError::new("AccessDenied", message).with_status(403),
        Protocol::Json => ApiError::new("AccessDeniedException", message),
    }
}

/// The largest page of SimulatePrincipalPolicy, and the default.
const PAGE: (i64, i64) = (1000, 100);

/// IAM's SimulatePrincipalPolicy, answered from the dials `deny.…`.
///
/// # Errors
/// `InvalidInput` for an invalid action or entity, and for policies, which are not evaluated.
pub(crate) fn simulate(faults: &Faults, params: &Params) -> Result<Xml, ApiError> {
    check_entity(params.required("PolicySourceArn")?)?;
    check_no_policies(params)?;
    let actions = params.list("ActionNames");
    check_actions(&actions)?;
    let page = page(params, actions.len())?;
    let resources = params.list("ResourceArns");
    let mut xml = Xml::new();
    let shown = actions.get(page.clone()).unwrap_or_default();
    xml.list("EvaluationResults", "member", shown, |x, action| {
        write_evaluation(x, action, faults.denies(action), &resources);
    });
    let is_truncated = page.end < actions.len();
    xml.text("IsTruncated", is_truncated)
        .maybe("Marker", is_truncated.then_some(page.end));
    Ok(xml)
}

fn invalid_input(message: String) -> ApiError {
    ApiError::new("InvalidInput", message)
}

/// Refuses an ARN that is not of a user, role or group of this account.
fn check_entity(arn: &str) -> Result<(), ApiError> {
    let entity = arn.strip_prefix("arn:aws:iam::").and_then(|rest| {
        let (account, entity) = rest.split_once(':')?;
        let (kind, name) = entity.split_once('/')?;
        let is_kind = ["user", "role", "group"].contains(&kind);
        (is_kind && !name.is_empty()).then_some((account, name))
    });
    match entity {
        None => Err(invalid_input(format!(
            "Invalid Entity Arn: {arn} does not clearly define entity type and name."
        ))),
        Some((ACCOUNT, _)) => Ok(()),
        Some((account, name)) => Err(ApiError::new(
            "NoSuchEntity",
            format!("The entity {name} of account {account} cannot be found."),
        )
        .with_status(404)),
    }
}

/// Refuses policies in the request: none is evaluated here.
fn check_no_policies(params: &Params) -> Result<(), ApiError> {
    for policies in [
        "PolicyInputList",
        "PermissionsBoundaryPolicyInputList",
        "PolicyExclusionList",
        "ResourcePolicy",
    ] {
        if params.has(policies) {
            return Err(invalid_input(format!(
                "{policies}: the rehearsal cloud evaluates no policies, only its dials deny.<service>:<Action>"
            )));
        }
    }
    Ok(())
}

/// Refuses an empty list, and names that are not `service:Action`.
fn check_actions(actions: &[&str]) -> Result<(), ApiError> {
    if actions.is_empty() {
        return Err(ApiError::missing("ActionNames"));
    }
    let is_word = |word: &str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    let is_action = |action: &&&str| {
        action
            .split_once(':')
            .is_some_and(|(service, name)| is_word(service) && is_word(name))
    };
    match actions.iter().find(|action| !is_action(action)) {
        Some(action) => Err(invalid_input(format!("Invalid action name: {action}"))),
        None => Ok(()),
    }
}

/// Which of `total` results the requested page has, by `MaxItems` and `Marker`; a marker behind the last gives an empty
/// page.
fn page(params: &Params, total: usize) -> Result<Range<usize>, ApiError> {
    let limit = params.integer("MaxItems")?.unwrap_or(PAGE.1);
    if !(1..=PAGE.0).contains(&limit) {
        return Err(invalid_input(format!(
            "MaxItems is {limit}, expecting 1 to {}",
            PAGE.0
        )));
    }
    let begin = match params.text("Marker") {
        None => 0,
        Some(marker) => marker
            .parse::<usize>()
            .map_err(|_| invalid_input("Invalid Marker.".to_owned()))?
            .min(total),
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    Ok(begin..begin.saturating_add(limit).min(total))
}

/// One EvaluationResult, with one result for each resource.
fn write_evaluation(xml: &mut Xml, action: &str, denied: bool, resources: &[&str]) {
    let decision = if denied { "explicitDeny" } else { "allowed" };
    let write_statement = |xml: &mut Xml| {
        let statement = denied.then_some(());
        xml.list("MatchedStatements", "member", statement, |x, ()| {
            x.text("SourcePolicyId", "rehearsal-dials")
                .text("SourcePolicyType", "IAM Policy");
        })
        .list("MissingContextValues", "member", [(); 0], |_, ()| {});
    };
    xml.text("EvalActionName", action)
        .text("EvalResourceName", "*")
        .text("EvalDecision", decision);
    write_statement(xml);
    xml.list("ResourceSpecificResults", "member", resources, |x, name| {
        x.text("EvalResourceName", name)
            .text("EvalResourceDecision", decision);
        write_statement(x);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(denied: &[&str]) -> Region {
        let mut region = Region::default();
        for pattern in denied {
            region.faults.deny(pattern, true);
        }
        region
    }

    fn check(region: &Region, service: &str, protocol: Protocol, form: &str) -> Option<ApiError> {
        let params = Params::parse(form.as_bytes());
        let call = Call {
            service,
            protocol,
            action: params.text("Action").unwrap(),
            params: &params,
            json: &serde_json::Value::Null,
        };
        call.check(region).err()
    }

    #[test]
    fn actions_that_a_call_needs_are_denied_with_it() {
        let table = [
            ("ec2:RunInstances", "Action=RunInstances&DryRun=true", true),
            ("EC2:runinstances", "Action=RunInstances", true),
            ("ec2:Run*", "Action=RunInstances", true),
            ("ec2:CreateTags", "Action=RunInstances", false),
            (
                "ec2:CreateTags",
                "Action=RunInstances&TagSpecification.1.ResourceType=instance",
                true,
            ),
            (
                "iam:PassRole",
                "Action=RunInstances&IamInstanceProfile.Name=shop",
                true,
            ),
            (
                "ec2:CreateTags",
                "Action=CopyImage&TagSpecification.1.ResourceType=image",
                true,
            ),
            ("ec2:DeleteSnapshot", "Action=DeregisterImage", false),
            (
                "ec2:DeleteSnapshot",
                "Action=DeregisterImage&DeleteAssociatedSnapshots=true",
                true,
            ),
            ("ec2:RunInstances", "Action=DescribeInstances", false),
        ];
        for (denied, form, expected) in table {
            let refused = check(&region(&[denied]), "ec2", Protocol::Ec2, form);
            assert_eq!(refused.is_some(), expected, "{denied}: {form}");
        }
    }

    #[test]
    fn each_service_has_its_own_access_denied_error() {
        let region = region(&["ec2:*", "autoscaling:*", "ssm:*"]);
        for (service, protocol, code, status) in [
            ("ec2", Protocol::Ec2, "UnauthorizedOperation", 403),
            ("autoscaling", Protocol::Query, "AccessDenied", 403),
            ("ssm", Protocol::Json, "AccessDeniedException", 400),
        ] {
            let refused = check(&region, service, protocol, "Action=Anything").unwrap();
            assert_eq!(
                (&*refused.code, refused.status),
                (code, status),
                "{service}"
            );
            let expected = format!(
                "User: arn:aws:iam::123456789012:user/rehearsal is not authorized to perform: {service}:Anything"
            );
            assert!(refused.message.contains(&expected), "{}", refused.message);
        }
    }

    #[test]
    fn a_group_cannot_use_a_template_its_caller_may_not_launch() {
        let form = "Action=UpdateAutoScalingGroup&LaunchTemplate.LaunchTemplateName=shop";
        let of = |denied| check(&region(&[denied]), "autoscaling", Protocol::Query, form);
        let refused = of("ec2:RunInstances").unwrap();
        assert_eq!(refused.code, "AccessDenied");
        assert_eq!(
            refused.message,
            "You are not authorized to use launch template: shop"
        );
        assert!(of("ec2:DescribeInstances").is_none());
    }

    #[test]
    fn a_simulation_answers_from_the_dials_page_by_page() {
        let faults = region(&["ec2:RunInstances", "s3:*"]).faults;
        let simulate = |form: &str| {
            let form = format!("PolicySourceArn=arn:aws:iam::123456789012:{form}");
            super::simulate(&faults, &Params::parse(form.as_bytes()))
                .map(Xml::into_string)
                .map_err(|error| error.code.into_owned())
        };
        let three = "&ActionNames.member.1=ec2:RunInstances&ActionNames.member.2=ssm:PutParameter\
                     &ActionNames.member.3=s3:GetObject";
        let all = simulate(&format!("user/rehearsal{three}")).unwrap();
        let decisions: Vec<&str> = all
            .split("<EvalDecision>")
            .skip(1)
            .filter_map(|rest| rest.split('<').next())
            .collect();
        assert_eq!(decisions, ["explicitDeny", "allowed", "explicitDeny"]);
        assert!(all.contains("<IsTruncated>false</IsTruncated>") && !all.contains("Marker"));
        let first = simulate(&format!("role/shop{three}&MaxItems=2")).unwrap();
        assert!(
            first.ends_with("<IsTruncated>true</IsTruncated><Marker>2</Marker>"),
            "{first}"
        );
        let last = simulate(&format!("role/shop{three}&MaxItems=2&Marker=2")).unwrap();
        assert!(
            last.contains("s3:GetObject") && !last.contains("ssm:"),
            "{last}"
        );
        for (form, code) in [
            (format!("root{three}"), "InvalidInput"),
            ("user/rehearsal".to_owned(), "MissingParameter"),
            (
                "user/rehearsal&ActionNames.member.1=Run".to_owned(),
                "InvalidInput",
            ),
            (
                format!("user/x{three}&PolicyInputList.member.1={{}}"),
                "InvalidInput",
            ),
        ] {
            assert_eq!(simulate(&form), Err(code.to_owned()), "{form}");
        }
    }
}
