//! Cases by cells, a table a backend. Each cell carries its trial's place in the plan, by which the script filters.

use crate::events::Outcome;
use crate::grid::{Column, Part, Table, parts, why};
use crate::html::anchor;
use crate::html::run::Run;
use crate::html::shown::{Shown, bounded};
use crate::{Trial, text};
use maud::{Markup, html};
use std::collections::HashMap;

/// The style's class of a trial's verdict.
pub fn class(trial: &Trial) -> &'static str {
    match trial.is_fixed() {
        true => "fixed",
        false => trial.outcome().verdict(),
    }
}

/// All tables.
pub fn tables(run: &Run) -> Markup {
    let places: HashMap<&str, usize> = (run.results.trials.iter().enumerate())
        .map(|(n, trial)| (trial.name(), n))
        .collect();
    html! {
        @for part in parts(&run.results) {
            @match part {
                Part::Table(table) => (render(&table, run.results.faults, &places)),
                Part::Skipped { backend, trials, reason } => p {
                    strong { (Shown(backend)) } ": " (text::counted(trials, "trial")) " skipped" (Shown(&bounded(&why(reason), 2000)))
                },
            }
        }
    }
}

fn render(table: &Table, faults: bool, places: &HashMap<&str, usize>) -> Markup {
    let columns = &table.columns;
    html! {
        div.scroll tabindex="0" role="region" aria-label={ "Grid of the backend " (table.backend) } {
            table.grid {
                thead {
                    tr {
                        th.corner rowspan=(2 + usize::from(table.names_qemus)) { (Shown(table.backend)) }
                        @for (first, n) in spans(columns, |c| c.nic) {
                            th.group colspan=(n) { (Shown(columns[first].nic)) }
                        }
                    }
                    tr {
                        @for (first, n) in spans(columns, |c| (c.nic, c.guest)) {
                            th.group colspan=(n) { (Shown(columns[first].guest)) }
                        }
                    }
                    @if table.names_qemus {
                        tr { @for column in columns { th.group colspan="1" { (Shown(column.qemu)) } } }
                    }
                }
                tbody {
                    @for (case, trials) in &table.rows {
                        tr {
                            th scope="row" { (Shown(case)) }
                            @for trial in trials {
                                @match trial {
                                    None => td {},
                                    Some(trial) => (cell(trial, faults, places)),
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn cell(trial: &Trial, faults: bool, places: &HashMap<&str, usize>) -> Markup {
    let word = trial.word(faults);
    html! {
        td class=(class(trial)) data-t=[places.get(trial.name())] {
            @if has_section(trial) { a href=(anchor::link(trial.name())) { (word) } }
            @else { (word) }
        }
    }
}

/// Whether the trial has a section of its own.
pub fn has_section(trial: &Trial) -> bool {
    match trial.outcome() {
        Outcome::Failed { .. } | Outcome::Broken { .. } | Outcome::Flaky { .. } => true,
        Outcome::Interrupted => trial.end.attempts > 0,
        Outcome::Passed | Outcome::Known { .. } | Outcome::Skipped { .. } => false,
    }
}

/// Where columns of the same `key` begin, and how many they are.
fn spans<'a, K: PartialEq>(
    columns: &'a [Column<'a>],
    key: impl Fn(&Column<'a>) -> K,
) -> Vec<(usize, usize)> {
    let mut first = 0;
    let chunks = columns.chunk_by(|a, b| key(a) == key(b));
    let spans = chunks.map(|chunk| {
        first += chunk.len();
        (first - chunk.len(), chunk.len())
    });
    spans.collect()
}
