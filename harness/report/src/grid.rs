//! Cases by cells: the table that the terminal's and the Markdown summary share.

use crate::events::Outcome;
use crate::{Results, Trial, text};
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
    /// A case with its variant and fault, and its trial in each column, where there is one.
    pub rows: Vec<(String, Vec<Option<&'a Trial>>)>,
}

/// One part for each backend, in the plan's order.
pub fn parts(results: &Results) -> Vec<Part<'_>> {
    let backends = distinct(results.trials.iter().map(|t| t.parts().backend.as_str()));
    backends.into_iter().map(|b| part(results, b)).collect()
}

fn part<'a>(results: &'a Results, backend: &'a str) -> Part<'a> {
    let trials: Vec<&Trial> = results
        .trials
        .iter()
        .filter(|t| t.parts().backend == backend)
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
        .map(|t| {
            let name = t.parts();
            ((name.row(), name.nic.as_str(), name.guest.as_str()), *t)
        })
        .collect();
    let nics = distinct(trials.iter().map(|t| t.parts().nic.as_str()));
    let columns: Vec<_> = nics
        .into_iter()
        .flat_map(|nic| {
            let guests = trials.iter().filter(|t| t.parts().nic == nic);
            distinct(guests.map(|t| t.parts().guest.as_str()))
                .into_iter()
                .map(move |guest| (nic, guest))
        })
        .collect();
    let rows = distinct(trials.iter().map(|t| t.parts().row()))
        .into_iter()
        .map(|row| {
            let cell = |&(nic, guest): &(_, _)| by_place.get(&(row.clone(), nic, guest)).copied();
            let cells = columns.iter().map(cell).collect();
            (row, cells)
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

/// Skipped trials by reason, without those of backends whose part already gives the reason.
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
        .filter(|t| !said.contains(&t.parts().backend.as_str()))
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
fn distinct<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for item in items {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}
