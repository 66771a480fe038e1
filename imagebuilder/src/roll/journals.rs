//! What the journals in the folder of runs record of refreshes, for the verbs that resume or roll back.

use std::path::Path;

use anyhow::Result;

use super::RollContext;
use super::before::Recorded;
use super::plan::Target;
use super::run::fact;
use super::view::Refresh;
use crate::ledger::{Found, Journal, Ledger};

/// The journal of the run that started a refresh, unless its process is running or it ran elsewhere. A
/// run killed before it received the refresh's id is found by the version that was its target.
pub(crate) fn journal_of(
    context: &RollContext<'_>,
    runs: &Path,
    refresh: &Refresh,
) -> Result<Option<Ledger>> {
    let ours = Ledger::all(runs)?
        .into_iter()
        .rev()
        .find_map(|found| match found {
            Found::Alive(_) | Found::Unreadable(_) => None,
            Found::Dead(ledger) => {
                let facts = &ledger.journal().facts;
                let group = facts
                    .get(fact::GROUP)
                    .is_some_and(|group| *group == context.settings.group.as_str());
                let id = match facts.get(fact::REFRESH) {
                    Some(id) => *id == refresh.id,
                    None => {
                        let target = recorded(ledger.journal(), fact::TARGET);
                        facts.contains_key(fact::INTENDED)
                            && target.map(|target| target.reference()) == refresh.desired
                    }
                };
                (group && id).then_some(ledger)
            }
        });
    let Some(mut ledger) = ours else {
        return Ok(None);
    };
    ledger.fact(fact::REFRESH, refresh.id.as_str())?;
    Ok(Some(*ledger))
}

/// The records of ended runs in this folder about refreshes of this group, newest first.
pub(crate) fn all_recorded(context: &RollContext<'_>, runs: &Path) -> Result<Vec<Recorded>> {
    Ok(Ledger::all(runs)?
        .into_iter()
        .rev()
        .filter_map(|found| match found {
            Found::Alive(_) | Found::Unreadable(_) => None,
            Found::Dead(ledger) => Some(ledger),
        })
        .filter(|ledger| {
            let group = ledger.journal().facts.get(fact::GROUP);
            group.is_some_and(|group| *group == context.settings.group.as_str())
        })
        .filter_map(|ledger| recorded_of(ledger.journal()))
        .collect())
}

/// A journal's record of a refresh; `None` when it has no target.
pub(crate) fn recorded_of(journal: &Journal) -> Option<Recorded> {
    Some(Recorded {
        refresh: journal.facts.get(fact::REFRESH).cloned(),
        target: recorded(journal, fact::TARGET)?,
        previous: recorded(journal, fact::PREVIOUS),
        back: journal.facts.contains_key(fact::BACK),
    })
}

/// A target in a journal.
fn recorded(journal: &Journal, name: &str) -> Option<Target> {
    journal
        .facts
        .get(name)
        .and_then(|text| Target::from_record(text))
}
