//! Cases by cells: the table that the terminal's and the Markdown summary share.

use crate::events::Outcome;
use crate::name::{DEFAULT_QEMU, TrialName};
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
    /// The guests of a NIC are side by side, and so are the QEMUs of a guest.
    pub columns: Vec<Column<'a>>,
    /// Whether there are trials on more than one QEMU, or on another than the default one.
    pub names_qemus: bool,
    /// A case with its variant and fault, and its trial in each column, where there is one.
    pub rows: Vec<(String, Vec<Option<&'a Trial>>)>,
}

/// What a column of a table is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Column<'a> {
    pub nic: &'a str,
    pub guest: &'a str,
    pub qemu: &'a str,
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
            ((name.row(), column(name)), *t)
        })
        .collect();
    let mut columns = distinct(trials.iter().map(|t| column(t.parts())));
    // A stable sort: NICs, guests and QEMUs are each in the order of first appearance.
    let nics = distinct(columns.iter().map(|c| c.nic));
    let guests = distinct(columns.iter().map(|c| c.guest));
    let qemus = distinct(columns.iter().map(|c| c.qemu));
    let at = |all: &[&str], one: &str| all.iter().position(|other| *other == one);
    columns.sort_by_key(|c| (at(&nics, c.nic), at(&guests, c.guest), at(&qemus, c.qemu)));
    let rows = distinct(trials.iter().map(|t| t.parts().row()))
        .into_iter()
        .map(|row| {
            let cell = |column: &Column<'a>| by_place.get(&(row.clone(), *column)).copied();
            let cells = columns.iter().map(cell).collect();
            (row, cells)
        })
        .collect();
    Part::Table(Table {
        backend,
        columns,
        names_qemus: qemus != [DEFAULT_QEMU],
        rows,
    })
}

fn column(name: &TrialName) -> Column<'_> {
    Column {
        nic: &name.nic,
        guest: &name.guest,
        qemu: name.qemu(),
    }
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
