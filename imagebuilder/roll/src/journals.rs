//! What the journals in the folder of runs record of refreshes, for the verbs that resume or roll back.

use std::path::Path;

use anyhow::Result;

use super::RollContext;
use super::view::Refresh;
use run::ledger::{Found, Ledger, RollRecord};

/// The journal of the run that started a refresh, unless its process is running or it ran elsewhere. A
/// run killed before it received the refresh's id is found by the version that was its target.
pub(crate) fn journal_of(
    context: &RollContext<'_>,
    runs: &Path,
    refresh: &Refresh,
) -> Result<Option<Ledger>> {
    let started = |roll: &RollRecord| match &roll.refresh {
        Some(id) => *id == refresh.id,
        None => {
            let target = roll.target.as_ref().map(super::plan::Target::reference);
            roll.intended.is_some() && target == refresh.desired
        }
    };
    let found = ended(context, runs)?.find(|ledger| {
        let roll = ledger.journal().roll.as_ref();
        roll.is_some_and(started)
    });
    let Some(mut ledger) = found else {
        return Ok(None);
    };
    ledger.update_roll(|roll| roll.refresh = Some(refresh.id.clone()))?;
    Ok(Some(ledger))
}

/// The records of ended runs in this folder about refreshes of this group, newest first.
pub(crate) fn all_recorded(context: &RollContext<'_>, runs: &Path) -> Result<Vec<RollRecord>> {
    Ok(ended(context, runs)?
        .filter_map(|ledger| ledger.journal().roll.clone())
        .collect())
}

/// The ended runs in this folder that rolled this group, newest first.
fn ended(context: &RollContext<'_>, runs: &Path) -> Result<impl Iterator<Item = Ledger>> {
    let group = &context.settings.group;
    Ok(Ledger::all(runs)?
        .into_iter()
        .rev()
        .filter_map(|found| match found {
            Found::Alive(_) | Found::Unreadable(_) => None,
            Found::Dead(ledger) => Some(*ledger),
        })
        .filter(move |ledger| {
            let roll = ledger.journal().roll.as_ref();
            roll.is_some_and(|roll| roll.group == *group)
        }))
}
