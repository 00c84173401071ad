//! Every trial in a row, in the plan's order, and the data by which the script filters.

use crate::html::anchor;
use crate::html::earlier::{Earlier, LEGEND};
use crate::html::grid::{class, has_section};
use crate::html::run::Run;
use crate::html::shown::{Shown, bounded, plain};
use crate::name::TrialName;
use crate::{Results, Trial, text};
use maud::{Markup, PreEscaped, html};
use serde::Serialize;

/// The table.
pub fn table(run: &Run, earlier: &Earlier) -> Markup {
    let faults = run.results.faults;
    let has_past = !earlier.past.is_empty();
    html! {
        @if has_past { p.quiet { (LEGEND) } }
        div.scroll tabindex="0" role="region" aria-label="Every trial" {
            table #trials-table {
                thead { tr {
                    th { "verdict" } th { "trial" } th { "time" } th { "started from" }
                    @if has_past { th { "earlier nights" } }
                    th { "what there is to say" }
                } }
                tbody {
                    @for trial in &run.results.trials {
                        // The section of a trial that has one is its place.
                        tr id=[(!has_section(trial)).then(|| anchor::id(trial.name()))] {
                            td class=(class(trial)) { (trial.word(faults)) }
                            td.name {
                                @if has_section(trial) { a href=(anchor::link(trial.name())) { (Shown(trial.name())) } }
                                @else { (Shown(trial.name())) }
                            }
                            td.number { @if trial.end.seconds > 0.0 { (text::duration(trial.end.seconds)) } }
                            td { (Shown(trial.end.start.as_deref().unwrap_or_default())) }
                            @if has_past {
                                td.strip { (earlier.past.get(trial.name()).map(super::Past::letters).unwrap_or_default()) }
                            }
                            td { (Shown(&bounded(&said(trial), 400))) }
                        }
                    }
                }
            }
        }
    }
}

/// The cause and the notes.
fn said(trial: &Trial) -> String {
    let cause = Some(trial.cause()).filter(|cause| !cause.is_empty());
    let notes = trial.end.notes.iter().map(|note| text::one_line(note));
    cause
        .into_iter()
        .chain(notes)
        .collect::<Vec<_>>()
        .join("; ")
}

/// What the script knows of the trials.
#[derive(Serialize)]
struct Data<'r> {
    axes: Vec<Axis<'r>>,
    /// For each trial, in the plan's order, the index of its value on each axis.
    trials: Vec<Vec<usize>>,
}

#[derive(Serialize)]
struct Axis<'r> {
    /// As in the address.
    key: &'static str,
    title: &'static str,
    values: Vec<&'r str>,
}

/// The data as JSON inside of a script element that is not run.
pub fn data(results: &Results) -> Markup {
    type Value = fn(&TrialName) -> &str;
    let axes: [(&str, &str, Value); 4] = [
        ("qemu", "QEMU", TrialName::qemu),
        ("nic", "NIC", |name| &name.nic),
        ("guest", "Guest", |name| &name.guest),
        ("backend", "Backend", |name| &name.backend),
    ];
    let mut data = Data {
        axes: Vec::new(),
        trials: vec![Vec::new(); results.trials.len()],
    };
    let words = results
        .trials
        .iter()
        .map(|trial| trial.word(results.faults));
    data.add("verdict", "Verdict", words);
    data.sort_verdicts();
    for (key, title, value) in axes {
        data.add(
            key,
            title,
            results.trials.iter().map(|trial| value(trial.parts())),
        );
    }
    let json = serde_json::to_string(&data).expect("strings and numbers have a JSON form");
    // Inside of the element nothing but `<` has a meaning.
    let json = plain(&json).replace('<', "\\u003c");
    html! { script type="application/json" #data { (PreEscaped(json)) } }
}

/// The order of the verdicts' buttons: what wants looking at first.
const VERDICTS: [&str; 10] = [
    "FAIL", "BLIND", "BROKEN", "flaky", "cut", "fixed", "known", "ok", "red", "skip",
];

impl<'r> Data<'r> {
    /// Puts the values of the first axis in the order of [`VERDICTS`].
    fn sort_verdicts(&mut self) {
        let axis = &mut self.axes[0];
        let old = axis.values.clone();
        let place = |value: &str| VERDICTS.iter().position(|verdict| *verdict == value);
        axis.values.sort_by_key(|value| place(value));
        let moved: Vec<Option<usize>> = (old.iter())
            .map(|value| axis.values.iter().position(|new| new == value))
            .collect();
        for trial in &mut self.trials {
            trial[0] = moved[trial[0]].unwrap_or(trial[0]);
        }
    }

    fn add(
        &mut self,
        key: &'static str,
        title: &'static str,
        of_trials: impl Iterator<Item = &'r str>,
    ) {
        let mut values: Vec<&str> = Vec::new();
        for (trial, value) in self.trials.iter_mut().zip(of_trials) {
            let at = values.iter().position(|other| *other == value);
            trial.push(at.unwrap_or(values.len()));
            if at.is_none() {
                values.push(value);
            }
        }
        self.axes.push(Axis { key, title, values });
    }
}
