//! Cases by cells: the table that the terminal's and the Markdown summary share.

use super::{Results, Trial, text};
use crate::events::Outcome;
use std::collections::HashMap;

/// What there is to show of one backend.
pub enum Part<'a> {
    /// Something of it ran.
    Table(Table<'a>),
    /// Nothing of it ran.
    Skipped {
        backend: &'a str,
        trials: usize,
        /// The reason, if all have the same.
        reason: Option<&'a str>,
    },
}

pub struct Table<'a> {
    pub backend: &'a str,
    /// NIC model and guest; the guests of a NIC are side by side.
    pub columns: Vec<(&'a str, &'a str)>,
    /// A case, and its trial in each column, where there is one.
    pub rows: Vec<(&'a str, Vec<Option<&'a Trial>>)>,
}

/// One part for each backend, in the plan's order.
pub fn parts(results: &Results) -> Vec<Part<'_>> {
    let backends = distinct(results.trials.iter().map(|t| t.backend.as_str()));
    backends.into_iter().map(|b| part(results, b)).collect()
}

fn part<'a>(results: &'a Results, backend: &'a str) -> Part<'a> {
    let trials: Vec<&Trial> = results
        .trials
        .iter()
        .filter(|t| t.backend == backend)
        .collect();
    let reasons: Vec<_> = trials.iter().filter_map(|t| skip_reason(t)).collect();
    if reasons.len() == trials.len() {
        return Part::Skipped {
            backend,
            trials: trials.len(),
            reason: match distinct(reasons.into_iter())[..] {
                [reason] => Some(reason),
                _ => None,
            },
        };
    }
    let by_place: HashMap<_, _> = trials
        .iter()
        .map(|t| ((t.case.as_str(), t.nic.as_str(), t.guest.as_str()), *t))
        .collect();
    let nics = distinct(trials.iter().map(|t| t.nic.as_str()));
    let columns: Vec<_> = nics
        .into_iter()
        .flat_map(|nic| {
            let guests = trials.iter().filter(|t| t.nic == nic);
            distinct(guests.map(|t| t.guest.as_str()))
                .into_iter()
                .map(move |guest| (nic, guest))
        })
        .collect();
    let rows = distinct(trials.iter().map(|t| t.case.as_str()))
        .into_iter()
        .map(|case| {
            let cell = |&(nic, guest): &(_, _)| by_place.get(&(case, nic, guest)).copied();
            (case, columns.iter().map(cell).collect())
        })
        .collect();
    Part::Table(Table {
        backend,
        columns,
        rows,
    })
}

/// What follows "skipped" where nothing of a backend ran.
pub fn why(reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!(": {}", text::one_line(reason)),
        None => ", for the reasons above".into(),
    }
}

/// Skipped trials by reason, but for the backends whose part says it already.
pub fn skips(results: &Results) -> Vec<(&str, Vec<&Trial>)> {
    let said: Vec<&str> = parts(results)
        .iter()
        .filter_map(|part| match part {
            Part::Skipped {
                backend,
                reason: Some(_),
                ..
            } => Some(*backend),
            _ => None,
        })
        .collect();
    let skipped: Vec<_> = results
        .trials
        .iter()
        .filter(|t| !said.contains(&t.backend.as_str()))
        .filter_map(|t| Some((skip_reason(t)?, t)))
        .collect();
    distinct(skipped.iter().map(|(reason, _)| *reason))
        .into_iter()
        .map(|reason| {
            let of_it = skipped.iter().filter(|(r, _)| *r == reason);
            (reason, of_it.map(|(_, t)| *t).collect())
        })
        .collect()
}

fn skip_reason(trial: &Trial) -> Option<&str> {
    match trial.outcome() {
        Outcome::Skipped { reason } => Some(reason),
        _ => None,
    }
}

/// In the order of first appearance.
fn distinct<'a>(items: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for item in items {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}
