//! `imagebuilder doctor`.

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::channel;
use crate::archives::{self, Limits};
use crate::bake::{self, resolve};
use crate::channel::session::{Access, ChannelSession};
use crate::channel::show::View;
use crate::config::{Arch, Config};
use crate::context::Context;
use crate::packer::Packer;
use crate::staging::{Staging, TEMPLATE};
use crate::template::Facts;
use crate::user_data::UserData;
use cloud::ids::{GroupName, ImageId};
use cloud::{Cloud, Group, GroupLaunches, Hook, HookMoment, Image};
use run::document::Document;
use run::exit::{self, Exit};
use run::output::Output;
use run::permissions::{Need, Verb};
use run::preflight::Findings;

/// Arguments of `doctor`.
///
/// Read-only: nothing is created. Exits with 3 when something is wrong.
#[derive(Debug, Args)]
pub(crate) struct Doctor {}

/// The result of a check.
enum Finding {
    /// Nothing is wrong.
    Fine(String),
    /// Works, but the operator should know.
    Odd(String, String),
    /// Wrong, with the fix where it is known.
    Wrong(String, Option<String>),
}

impl Finding {
    /// Wrong, with its fix.
    fn wrong(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Wrong(what.into(), Some(fix.into()))
    }

    /// As data.
    fn check(self, subject: &str) -> Check {
        let (verdict, found, fix) = match self {
            Self::Fine(found) => (CheckVerdict::Ok, found, None),
            Self::Odd(found, fix) => (CheckVerdict::Odd, found, Some(fix)),
            Self::Wrong(found, fix) => (CheckVerdict::Wrong, found, fix),
        };
        Check {
            subject: subject.to_owned(),
            verdict,
            found: one_line(&found, " "),
            // A fix of several lines lists alternatives.
            fix: fix.map(|fix| one_line(&fix, "; ")),
        }
    }
}

/// One check.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Check {
    /// What was checked.
    subject: String,
    /// Whether it is as it must be.
    verdict: CheckVerdict,
    /// What was found.
    found: String,
    /// How to fix it.
    #[serde(rename = "cure", skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

/// The verdict on one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum CheckVerdict {
    /// As it must be.
    Ok,
    /// It works, but may not be meant.
    Odd,
    /// A command will fail.
    Wrong,
}

impl Document for Check {
    const NAME: &'static str = "doctor";
}

impl Check {
    /// As one line.
    fn line(&self) -> String {
        let verdict = match self.verdict {
            CheckVerdict::Ok => "ok",
            CheckVerdict::Odd => "odd",
            CheckVerdict::Wrong => "WRONG",
        };
        let line = format!("{verdict:<6} {}: {}", self.subject, self.found);
        match &self.fix {
            Some(fix) => format!("{line}; {fix}"),
            None => line,
        }
    }
}

fn one_line(text: &str, between: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.join(between)
}

/// All checks so far.
struct Report<'a> {
    output: &'a Output,
    checks: Vec<Check>,
    wrong: usize,
    /// Which architecture the checks are for, when the image is released for several.
    arch: Option<Arch>,
}

impl Report<'_> {
    fn add(&mut self, subject: &str, finding: Finding) -> anyhow::Result<()> {
        if matches!(finding, Finding::Wrong(..)) {
            self.wrong += 1;
        }
        let subject = match self.arch {
            Some(arch) => format!("{subject} ({arch})"),
            None => subject.to_owned(),
        };
        let check = finding.check(&subject);
        if !self.output.wants_json() {
            self.output.data(check.line())?;
        }
        self.checks.push(check);
        Ok(())
    }

    /// Adds the result of an attempt, and returns its value.
    fn attempt<T>(
        &mut self,
        subject: &str,
        attempt: anyhow::Result<T>,
        fine: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<Option<T>> {
        match attempt {
            Ok(value) => {
                self.add(subject, Finding::Fine(fine(&value)))?;
                Ok(Some(value))
            }
            Err(error) => {
                let fix = exit::hint(&error);
                self.add(subject, Finding::Wrong(format!("{error:#}"), fix))?;
                Ok(None)
            }
        }
    }
}

impl Doctor {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let mut report = Report {
            output: &context.output,
            checks: Vec::new(),
            wrong: 0,
            arch: None,
        };
        let files = context.config_files().join(", ");
        let configs = report.attempt("configuration", context.configs(), |_| {
            match context.config_files().len() {
                1 => format!("{files} is valid"),
                _ => format!("{files} are valid together"),
            }
        })?;
        let packer = Packer::find().await;
        let packer = packer.map(|packer| packer.with_environment(context.packer_environment()));
        let packer = report.attempt("packer", packer, |packer| {
            format!("{} at {}", packer.version, packer.path().display())
        })?;
        for config in configs.iter().flatten() {
            if config.several() {
                report.arch = Some(config.image.arch);
            }
            let root = context.root();
            let staging = report.attempt("inputs", rendered(config, &root), |staging| {
                format!(
                    "templates render, {} files for the image were found",
                    staging.files.len()
                )
            })?;
            if let Some(staging) = &staging {
                for doubt in staging.doubts(config)? {
                    report.add("checks", Finding::Odd(doubt.what, doubt.fix))?;
                }
            }
            packages_check(&mut report, context, config).await?;
            if config.channel.is_some() {
                let finding = channel_check(context, config).await;
                report.add("channel", finding)?;
            }
            let cloud = report.attempt("credentials", context.cloud(config).await, |cloud| {
                format!("found; region {}", cloud.region)
            })?;
            if let Some(cloud) = cloud {
                let source = cloud_checks(&mut report, &cloud, config, &root).await?;
                if let Some(packer) = &packer {
                    for one in bake::volumes::of_packer(config, packer.version).wrong {
                        report.add("packer", Finding::wrong(one.what, one.fix))?;
                    }
                }
                if let (Some(packer), Some(staging), Some(source)) = (&packer, staging, source) {
                    let checked = packer_check(packer, &staging, config, &cloud, &source).await;
                    report.attempt("template", checked, |()| {
                        format!("packer {} accepts it", packer.version)
                    })?;
                }
            }
        }
        if context.output.wants_json() {
            context.output.json_list(&report.checks)?;
        }
        match report.wrong {
            0 => Ok(Exit::Done),
            1 => Err(Exit::Refused.error("one thing is wrong").into()),
            wrong => Err(Exit::Refused
                .error(format!("{wrong} things are wrong"))
                .into()),
        }
    }
}

/// Checks that packages exist; without archives to look them up in, nothing.
async fn packages_check(
    report: &mut Report<'_>,
    context: &Context,
    config: &Config,
) -> anyhow::Result<()> {
    let image = &config.image;
    let cache = archives::cache(&context.runs());
    let checked = archives::check(&image.packages, image.arch, &cache, Limits::default()).await;
    if checked.found > 0 && checked.wrong.is_empty() && checked.not_checked.is_empty() {
        let archives = image.packages.archives.len();
        let fine = format!("{} found in {archives} archives", checked.found);
        report.add("packages", Finding::Fine(fine))?;
    }
    for one in checked.wrong {
        report.add("packages", Finding::wrong(one.what, one.fix))?;
    }
    for line in checked.not_checked {
        let fix = "a bake continues without it".to_owned();
        report.add("packages", Finding::Odd(line, fix))?;
    }
    Ok(())
}

/// Checks that the signed channel can be read, verifies from this folder's root of trust, and does not expire soon.
async fn channel_check(context: &Context, config: &Config) -> Finding {
    let read = async {
        let session = ChannelSession::open(context, config, Access::Read).await?;
        let verified = session.verified().await?;
        anyhow::Ok((channel::current_view(&session, &verified, config), session))
    };
    match read.await {
        Ok((view, session)) => lasting(&view, &session.place(), session.now),
        Err(error) => {
            let fix = exit::hint(&error);
            Finding::Wrong(format!("{error:#}"), fix)
        }
    }
}

/// Expired metadata is wrong, since instances take nothing from it; what expires soon is a notice.
fn lasting(view: &View, place: &str, now: jiff::Timestamp) -> Finding {
    let mut warnings = view.warnings();
    warnings.sort_by_key(|warning| !warning.expired);
    let Some(first) = warnings.first() else {
        return Finding::Fine(format!("{place} verifies; expires: {}", view.expiries(now)));
    };
    let message: Vec<&str> = warnings
        .iter()
        .map(|warning| warning.message.as_str())
        .collect();
    let (message, fix) = (message.join(", "), first.fix.clone());
    if first.expired {
        Finding::Wrong(message, Some(fix))
    } else {
        Finding::Odd(message, fix)
    }
}

async fn cloud_checks(
    report: &mut Report<'_>,
    cloud: &Cloud,
    config: &Config,
    root: &std::path::Path,
) -> anyhow::Result<Option<Image>> {
    let caller = cloud.identity.caller().await.map_err(anyhow::Error::from);
    if report
        .attempt("identity", caller, |caller| {
            format!("{} in {}", caller.arn, caller.account)
        })?
        .is_none()
    {
        return Ok(None);
    }
    let source = report.attempt("source image", resolve(cloud, config).await, |image| {
        format!("{} {}", image.id, image.name)
    })?;
    let user_data = match config.bake.user_data.is_some() || config.bake.gate.user_data.is_some() {
        true => report
            .attempt("user data", UserData::read(config, root), UserData::sizes)?
            .unwrap_or_default(),
        false => UserData::default(),
    };
    let found = bake::preflight::findings(cloud, config, source.as_ref(), &user_data);
    preflight(report, "bake", found.await)?;
    if config.bake.gate.instance_profile.is_none() {
        report.add(
            "gate",
            Finding::Odd(
                "its instance has no instance profile".to_owned(),
                "name one as `instance_profile` in [bake.gate]: its agent reports to Systems Manager".to_owned(),
            ),
        )?;
    }
    if config.fleet.is_some() {
        group_checks(report, cloud, config).await?;
    }
    Ok(source)
}

/// Adds the findings of a verb's preflight.
fn preflight(report: &mut Report<'_>, verb: &str, found: Findings) -> anyhow::Result<()> {
    let is_fine = found.wrong.is_empty();
    let odd = [found.not_checked(), found.does_without()];
    for one in found.wrong {
        report.add(verb, Finding::wrong(one.what, one.fix))?;
    }
    if is_fine {
        let fine = "everything it needs exists, and nothing is denied".to_owned();
        report.add(verb, Finding::Fine(fine))?;
    }
    for line in odd.into_iter().flatten() {
        let fix = format!("a {verb} continues without it");
        report.add(verb, Finding::Odd(line, fix))?;
    }
    Ok(())
}

async fn group_checks(
    report: &mut Report<'_>,
    cloud: &Cloud,
    config: &Config,
) -> anyhow::Result<()> {
    let Some(settings) = report.attempt(
        "fleet settings",
        config.settings().map_err(anyhow::Error::from),
        |_| "valid".to_owned(),
    )?
    else {
        return Ok(());
    };
    let name = &settings.group;
    let group = cloud.fleet.group(name).await;
    let template = match &group {
        Ok(Some(Group {
            launches: GroupLaunches::Template { id, saved, .. },
            ..
        })) => Some((id.clone(), saved.to_string())),
        _ => None,
    };
    let fleet = roll::preflight::Fleet {
        verbs: &[Verb::Roll],
        needs: &[Need::Version],
        template: template
            .as_ref()
            .map(|(id, version)| (id.as_str(), version.as_str())),
    };
    let found = roll::preflight::findings(
        cloud,
        &config.image.name,
        &settings.group,
        &settings.alarms,
        fleet,
    )
    .await;
    preflight(report, "roll", found)?;
    let finding = match group {
        Ok(Some(group)) => Finding::Fine(format!("{name} has {} members", group.members.len())),
        Ok(None) => Finding::wrong(
            format!("there is no Auto Scaling group {name} in {}", cloud.region),
            "correct `group` in [fleet], or the region".to_owned(),
        ),
        Err(error) => Finding::wrong(
            error.to_string(),
            "allow autoscaling:Describe* to the caller above".to_owned(),
        ),
    };
    let found = matches!(finding, Finding::Fine(_));
    report.add("group", finding)?;
    if !found {
        return Ok(());
    }
    hook_checks(report, cloud, name).await
}

/// The group's lifecycle hooks.
async fn hook_checks(
    report: &mut Report<'_>,
    cloud: &Cloud,
    name: &GroupName,
) -> anyhow::Result<()> {
    let hooks = match cloud.fleet.hooks(name).await {
        Ok(hooks) => hooks,
        Err(error) => {
            let fix = "allow autoscaling:DescribeLifecycleHooks to the caller above".to_owned();
            return report.add("hooks", Finding::wrong(error.to_string(), fix));
        }
    };
    report.add("launch hook", launch_hook(name, &hooks))?;
    report.add("termination hook", termination_hook(name, &hooks))
}

/// Whether new instances wait for their agent's verdict.
fn launch_hook(name: &GroupName, hooks: &[Hook]) -> Finding {
    match hooks.iter().find(|hook| hook.moment == HookMoment::Launching) {
        Some(hook) if hook.default_result == "ABANDON" => {
            Finding::Fine(format!("{} holds new instances until their agent reports fit", hook.name))
        }
        Some(hook) => Finding::wrong(
            format!("{} lets an instance serve that never reports (default result {})", hook.name, hook.default_result),
            "put the hook with --default-result ABANDON".to_owned(),
        ),
        None => Finding::wrong(
            format!("{name} has no launch hook, so nothing waits for the agent's verdict"),
            "aws autoscaling put-lifecycle-hook --lifecycle-transition autoscaling:EC2_INSTANCE_LAUNCHING \
             --default-result ABANDON …"
                .to_owned(),
        ),
    }
}

/// Whether terminating instances can finish their work.
fn termination_hook(name: &GroupName, hooks: &[Hook]) -> Finding {
    match hooks
        .iter()
        .find(|hook| hook.moment == HookMoment::Terminating)
    {
        Some(hook) => Finding::Fine(format!(
            "{} lets terminating instances finish their work",
            hook.name
        )),
        None => Finding::Odd(
            format!("{name} has none"),
            "an instance may be terminated while it drains".to_owned(),
        ),
    }
}

/// Everything an image is made of, with the template rendered once: missing variables and files are found here.
fn rendered(config: &Config, root: &std::path::Path) -> anyhow::Result<Staging> {
    let staging = Staging::gather(config, root, config.bake.region.as_deref())?;
    let source = ImageId::parse("ami-00000000000000000")?;
    staging.packer(config, &facts(&staging, config, source))?;
    Ok(staging)
}

/// Placeholder facts, without a bake.
fn facts(staging: &Staging, config: &Config, source: ImageId) -> Facts {
    Facts {
        region: config.bake.region.clone().unwrap_or_default(),
        ami_name: format!("{}-doctor", config.image.name),
        scripts: staging.scripts(),
        key_name: "doctor".to_owned(),
        ..Facts::of_no_bake(source)
    }
}

/// Has Packer validate what a bake would give it, in a temporary folder.
async fn packer_check(
    packer: &Packer,
    staging: &Staging,
    config: &Config,
    cloud: &Cloud,
    source: &Image,
) -> anyhow::Result<()> {
    let folder = Scratch::new()?;
    let facts = Facts {
        region: cloud.region.clone(),
        endpoint: cloud.ec2_endpoint.clone(),
        plugins: packer.version.has_plugins(),
        disks: source.disks.clone(),
        root_device: source.root_device.clone(),
        ..facts(staging, config, source.id.clone())
    };
    staging.write(
        &folder.0,
        &staging.packer(config, &facts)?,
        &serde_json::json!({}),
    )?;
    crate::bake::key::write(&folder.0)?;
    packer.init(&folder.0, TEMPLATE).await?;
    packer.validate(&folder.0, TEMPLATE).await
}

/// A folder that is removed when it is dropped.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("imagebuilder-doctor-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A folder that cannot be removed is left to the system's cleanup of temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use run::testing::printed;

    #[test]
    fn checks_are_described_by_their_schema() {
        for finding in [
            Finding::Fine("found".into()),
            Finding::Odd("has none".into(), "add one".into()),
            Finding::wrong("not found", "install it"),
            Finding::Wrong("not found".into(), None),
        ] {
            printed(&finding.check("packer"));
        }
    }
}
