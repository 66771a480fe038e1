//! Launch-template versions that rolls made and that nothing uses any more.
//!
//! Rule: a roll deletes only versions that a run recorded here as made by its own call, after its fleet is verified, and only those
//! that nothing in the account is known to use: neither the group's saved version, the version before, a member, another
//! instance or group, nor `$Default` and `$Latest`; the newest ones stay in any case. EC2 allows 10,000 versions a template
//! ([quotas](https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/launch-template-restrictions.html)).
//!
//! It is housekeeping: its failures are shown, and change no outcome.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::RollContext;
use super::refresh_run::RefreshRun;
use cloud::{Answer, GroupLaunches, Owned, SavedVersion, TemplateRef};
use run::ledger::{Found, Ledger};

/// The tag that EC2 puts on an instance that was launched from a template.
const TEMPLATE_TAG: &str = "aws:ec2launchtemplate:id";
/// The tag with the number of the version.
const VERSION_TAG: &str = "aws:ec2launchtemplate:version";

/// Which of `made`, versions of one template that our runs made, may be deleted: all but the `keep` newest, and those
/// that are `in_use`. Oldest first.
fn unused(
    made: &BTreeSet<Owned<TemplateRef>>,
    in_use: &BTreeSet<u64>,
    keep: usize,
) -> Vec<Owned<TemplateRef>> {
    let mut newest_first: Vec<_> = made.iter().collect();
    newest_first.sort_by_key(|made| std::cmp::Reverse(made.id().version));
    newest_first
        .into_iter()
        .skip(keep)
        .filter(|made| !in_use.contains(&made.id().version))
        .rev()
        .cloned()
        .collect()
}

/// Whether something needs versions of the template.
enum InUse {
    /// These numbers.
    Numbers(BTreeSet<u64>),
    /// Unknown, and why.
    Unknown(String),
}

/// What is known to need versions of the template that the fleet of `run` launches from.
async fn in_use(context: &RollContext<'_>, run: &RefreshRun) -> Answer<InUse> {
    let cloud = context.cloud;
    let id = &run.target.template_id;
    let group = &context.settings.group;
    let unknown = |why: String| Ok(InUse::Unknown(why));
    let others = cloud.fleet.groups_from(id).await?;
    if let Some(other) = others.iter().find(|other| *other != group) {
        return unknown(format!("group {other} launches from the same template"));
    }
    let Some(group) = cloud.fleet.group(group).await? else {
        return unknown(format!("group {group} was deleted"));
    };
    let Some(template) = cloud.templates.template(id).await? else {
        return unknown(format!("launch template {id} was deleted"));
    };
    let mut numbers: BTreeSet<u64> = [template.latest, template.default, run.target.version]
        .into_iter()
        .chain(run.previous.as_ref().map(|previous| previous.version))
        .collect();
    if let GroupLaunches::Template {
        saved: SavedVersion::Number(saved),
        ..
    } = group.launches
    {
        numbers.insert(saved);
    }
    let members = group.members.iter();
    numbers.extend(members.filter_map(|member| Some(member.template.as_ref()?.version)));
    // Refreshes that go to a version or may go back to it.
    let refreshes = cloud.fleet.refreshes(&group.name).await?;
    let active = refreshes.iter().filter(|refresh| !refresh.status.is_over());
    numbers.extend(active.filter_map(|refresh| Some(refresh.desired.as_ref()?.version)));
    for instance in cloud
        .instances
        .instances_tagged(TEMPLATE_TAG, Some(id))
        .await?
    {
        let number = instance.tags.get(VERSION_TAG);
        match number.and_then(|number| number.parse().ok()) {
            Some(number) => {
                numbers.insert(number);
            }
            None => return unknown(format!("{} has no {VERSION_TAG}", instance.id)),
        }
    }
    Ok(InUse::Numbers(numbers))
}

/// Deletes versions of the fleet's template that runs recorded below `runs`, and the one in `own`, made, and that nothing needs.
pub(crate) async fn clean(context: &RollContext<'_>, run: &RefreshRun, own: &mut Ledger) {
    let Some(keep) = context.settings.keep_versions else {
        return;
    };
    match delete_unused(context, run, keep, own).await {
        Ok(()) => {}
        Err(error) => context.output.info(format!(
            "unused template versions are not deleted: {error:#}"
        )),
    }
}

async fn delete_unused(
    context: &RollContext<'_>,
    run: &RefreshRun,
    keep: usize,
    own: &mut Ledger,
) -> Result<()> {
    let id = &run.target.template_id;
    let runs = own.folder().parent().map(Path::to_owned);
    // Runs that are alive keep what they made: it is not known what they do with it.
    let mut ledgers: Vec<Box<Ledger>> = match runs {
        None => Vec::new(),
        Some(runs) => Ledger::all(&runs)?
            .into_iter()
            .filter_map(|found| match found {
                Found::Dead(ledger) => Some(ledger),
                Found::Alive(_) | Found::Unreadable(_) => None,
            })
            .collect(),
    };
    let made = |ledger: &Ledger| {
        let versions = ledger.journal().template_versions.iter();
        let here = versions.filter(|made| made.id().id == *id);
        here.cloned().collect::<Vec<_>>()
    };
    let all = ledgers
        .iter()
        .flat_map(|ledger| made(ledger))
        .chain(made(own))
        .collect::<BTreeSet<_>>();
    if all.len() <= keep {
        return Ok(());
    }
    let in_use = match in_use(context, run).await? {
        InUse::Numbers(numbers) => numbers,
        InUse::Unknown(why) => {
            context.output.info(format!(
                "the {} versions of launch template {id} that rolls made are not deleted: {why}",
                all.len()
            ));
            return Ok(());
        }
    };
    let unused = unused(&all, &in_use, keep);
    if unused.is_empty() {
        return Ok(());
    }
    let numbers: Vec<String> = unused
        .iter()
        .map(|version| version.id().version.to_string())
        .collect();
    let step = context.output.step(
        "versions",
        format!("delete unused versions of launch template {id}"),
    );
    for version in &unused {
        if let Err(error) = context.cloud.templates.delete_version(version).await {
            step.failed("not all deleted");
            return Err(error).context("delete a launch-template version");
        }
        for ledger in ledgers.iter_mut().map(AsMut::as_mut).chain([&mut *own]) {
            if ledger.journal().template_versions.contains(version) {
                ledger.version_deleted(version)?;
            }
        }
    }
    step.done(numbers.join(", "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn made(numbers: impl IntoIterator<Item = u64>) -> BTreeSet<Owned<TemplateRef>> {
        let version = |version| TemplateRef {
            id: "lt-1".into(),
            version,
        };
        numbers
            .into_iter()
            .map(|number| Owned::for_test(version(number)))
            .collect()
    }

    #[test]
    fn the_newest_and_those_in_use_stay() {
        for (ours, in_use, keep, deleted) in [
            (&[][..], &[][..], 5, &[][..]),
            (&[1, 2, 3], &[], 5, &[]),
            (&[1, 2, 3], &[], 3, &[]),
            (&[1, 2, 3, 9, 10], &[10], 2, &[1, 2, 3]),
            (&[1, 2, 3, 9, 10], &[2, 10], 2, &[1, 3]),
            // Versions made by others are never deleted, whatever their number.
            (&[4, 6, 8], &[8], 1, &[4, 6]),
        ] {
            let in_use = in_use.iter().copied().collect();
            let found = unused(&made(ours.iter().copied()), &in_use, keep);
            let found: Vec<u64> = found.iter().map(|made| made.id().version).collect();
            assert_eq!(found, deleted, "{ours:?} {in_use:?} {keep}");
        }
    }

    proptest! {
        #[test]
        fn everything_unused_but_the_newest_is_deleted(
            ours in proptest::collection::btree_set(1_u64..40, 0..20),
            in_use in proptest::collection::btree_set(1_u64..40, 0..10),
            keep in 0_usize..8,
        ) {
            let deleted: BTreeSet<u64> = unused(&made(ours.clone()), &in_use, keep)
                .iter()
                .map(|made| made.id().version)
                .collect();
            prop_assert!(deleted.is_subset(&ours));
            prop_assert!(deleted.is_disjoint(&in_use));
            let newest: BTreeSet<u64> = ours.iter().rev().take(keep).copied().collect();
            prop_assert!(deleted.is_disjoint(&newest));
            for stays in ours.difference(&deleted) {
                prop_assert!(in_use.contains(stays) || newest.contains(stays));
            }
        }
    }
}
